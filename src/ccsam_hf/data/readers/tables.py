"""A table that a user wrote beside images -> its rows (`read_rows`).

It is read in the encoding and with the separator in which a spreadsheet saved it, cells without the blanks around
them; what is not understood is refused with the file's name and the line.
"""

import codecs
import csv
import io
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...checks import suggest

SEPARATORS = (",", ";", "\t")
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        place: the file and the line, for errors.
        cells: column -> what stands there without blanks around it, "" where nothing does.
    """

    place: str
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")


def read_rows(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> list[Row]:
    """The rows of a table, without empty ones.

    Args:
        path: comma, semicolon or tab between cells; UTF-8, UTF-16, or else Windows-1252, which is logged.
        needed: columns that have to be there.
        optional: columns that may be.

    Raises:
        ValueError: the text cannot be read, a column is missing, unknown or stands twice, or a row has more cells than
            there are columns.
    """
    lines = numbered_lines(path, needed)
    header = next(lines, (1, []))[1]
    while header and not header[-1]:
        header.pop()
    check_columns(path, header, needed, optional)
    rows = []
    for number, cells in lines:
        beyond = [cell for cell in cells[len(header) :] if cell]
        if beyond:
            raise ValueError(
                f"{path}, line {number}, has {len(cells)} cells, among them {beyond[0]!r}, for {len(header)} columns; "
                "expected one a column: quote cells that hold a separator"
            )
        if any(cells):
            rows.append(Row(f"{path}, line {number}", dict(zip(header, cells, strict=False))))
    return rows


def numbered_lines(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Number of the line and its cells, separated as the columns of the first line are."""
    text = read_text(path)
    first = text.partition("\n")[0]
    columns = {separator: [cell.strip('" \r') for cell in first.split(separator)] for separator in SEPARATORS}
    separator = max(SEPARATORS, key=lambda each: len(set(needed) & set(columns[each])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for cells in reader:
            yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}, cannot be read as a table ({error})") from error


def read_text(path: Path) -> str:
    """The text of a file; ValueError with its name where it is none."""
    content = path.read_bytes()
    encoding = next((encoding for mark, encoding in MARKS.items() if content.startswith(mark)), None)
    if encoding is None and b"\0" in content[:64]:  # UTF-16 without a mark: every other byte of a Latin text is zero
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    for each in (encoding,) if encoding else ("utf-8", "cp1252"):
        try:
            text = content.decode(each)
        except UnicodeDecodeError:
            continue
        if each == "cp1252":
            logger.warning("%s is not in UTF-8 and is read as Windows-1252: check the names in it", path)
        return text
    raise ValueError(f"{path} is not a text that can be read; expected a table in UTF-8: save it as CSV in UTF-8")


def check_columns(path: Path, header: Sequence[str], needed: Sequence[str], optional: Sequence[str]) -> None:
    """Raise ValueError for a column that is missing, unknown or stands twice."""
    if not set(needed) <= set(header):
        raise ValueError(f"{path} has the columns {list(header)}; expected {' and '.join(needed)}")
    known = [*needed, *optional]
    unknown = [column for column in header if column not in known]
    if unknown:
        near = suggest(unknown[0].lower().replace(" ", "_"), known)
        raise ValueError(
            f"{path} has the column {unknown[0]!r}, which is not known; expected {', '.join(known)}{near}: rename or "
            "remove it"
        )
    if len(set(header)) < len(header):
        raise ValueError(f"{path} has a column twice: {', '.join(header)}; expected each once")


def read_millimetres(row: Row, columns: tuple[str, str]) -> tuple[float, float] | None:
    """Two lengths, None where both cells are empty; ValueError for one alone and for what is no length above zero.

    A comma may stand for the decimal point, as spreadsheets write it in many languages.
    """
    given = tuple(row[column] for column in columns)
    if not any(given):
        return None
    try:
        lengths = tuple(float(cell.replace(",", ".") if cell.count(",") == 1 else cell) for cell in given)
    except ValueError:
        lengths = ()
    if len(lengths) != 2 or not all(math.isfinite(length) and length > 0 for length in lengths):
        raise ValueError(
            f"{row.place}, has {columns[0]} {given[0]!r} and {columns[1]} {given[1]!r}; expected two numbers above 0 "
            "in mm, or neither"
        )
    return lengths


__all__ = ["Row", "read_millimetres", "read_rows"]
