"""A case as a row of a Parquet file, and back: the columns of a built data set.

| column | |
|---|---|
| image | PNG, grey, the image's own size |
| mask | PNG, 0 and 255, the same size |
| name | of the image within its data set |
| target, class_id | what the object is, and its value in the data set's labels |
| dataset, split | |
| release | the published data set where the reader knows it, else null |
| patient_id, category | null where the release does not tell |
| height, width | pixels |
| mm_per_row, mm_per_column | null where unknown |
| mask_area | pixels of the object; 0 where there is none |
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..checks import import_extra
from .cases import Case

BUILD_FILE = "build.json"
KEPT_GROUPS = 4  # of rows, in memory, of those read last
PLAIN_COLUMNS = ("name", "target", "class_id", "dataset", "split", "patient_id", "category")
SIZE_COLUMNS = ("height", "width", "mm_per_row", "mm_per_column")


@dataclass(frozen=True)
class Cell:
    """The image or the mask in a row of a Parquet file.

    Attributes:
        path: the file.
        row: from 0.
        column: "image" or "mask".
        size: (height, width).
    """

    path: Path
    row: int
    column: str
    size: tuple[int, int]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def read(self) -> np.ndarray:
        """(H0, W0) uint8 of an image, bool of a mask; the rows around it are read along and kept for a while."""
        first_rows, group = group_of(self.path, self.row)
        content = read_group(self.path, group)[self.column][self.row - first_rows]["bytes"].as_py()
        try:
            values = np.array(Image.open(io.BytesIO(content)))
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{self.column} in row {self.row} of {self.path} cannot be read ({error})") from error
        return values > 0 if self.column == "mask" else values


def group_of(path: Path, row: int) -> tuple[int, int]:
    """First row and index of the row group that holds a row."""
    starts = group_starts(path)
    group = int(np.searchsorted(starts, row, side="right")) - 1
    return int(starts[group]), group


@lru_cache(maxsize=256)
def group_starts(path: Path) -> np.ndarray:
    """First row of each row group of a file."""
    from pyarrow import parquet

    metadata = parquet.read_metadata(path)
    return np.cumsum([0] + [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])[:-1]


@lru_cache(maxsize=KEPT_GROUPS)
def read_group(path: Path, group: int):
    """Images and masks of a row group, not decoded."""
    from pyarrow import parquet

    return parquet.ParquetFile(path).read_row_group(group, columns=["image", "mask"])


def cases_of(path: Path) -> list[Case]:
    """The rows of a Parquet file as cases, in their order."""
    from pyarrow import parquet

    columns = [*PLAIN_COLUMNS, *SIZE_COLUMNS]
    has_release = "release" in parquet.read_schema(path).names  # older data sets have none
    table = parquet.read_table(path, columns=columns + ["release"] * has_release, partitioning=None)
    cases = []
    for row, values in enumerate(table.to_pylist()):
        height, width, *spacing = (values[column] for column in SIZE_COLUMNS)
        cases.append(
            Case(
                image_source=Cell(path, row, "image", (height, width)),
                mask_source=Cell(path, row, "mask", (height, width)),
                spacing_mm=None if None in spacing else tuple(spacing),
                release=values.get("release"),
                **{column: values[column] for column in PLAIN_COLUMNS},
            )
        )
    return cases


def rows_of(cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
    """Cases as rows of `features`; an image that several follow each other with is read once."""
    last, image, content = None, None, b""
    for case in cases:
        if case.image_source != last:
            last, image = case.image_source, case.image
            content = png(image)
        mask = case.mask
        if mask.shape != image.shape:
            raise ValueError(f"{case.dataset}/{case.name}: mask of shape {mask.shape} and image of {image.shape}")
        yield {
            "image": {"bytes": content, "path": None},
            "mask": {"bytes": png(mask.astype(np.uint8) * 255), "path": None},
            "name": case.name,
            "target": case.target,
            "class_id": case.class_id,
            "dataset": case.dataset,
            "release": case.release,
            "split": case.split,
            "patient_id": case.patient_id,
            "category": case.category,
            "height": image.shape[0],
            "width": image.shape[1],
            "mm_per_row": None if case.spacing_mm is None else case.spacing_mm[0],
            "mm_per_column": None if case.spacing_mm is None else case.spacing_mm[1],
            "mask_area": int(mask.sum()),
        }


def png(array: np.ndarray) -> bytes:
    """A grey uint8 image as the content of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def features():
    """Columns of a row, as `datasets.Features`."""
    datasets = import_datasets()
    text, whole = datasets.Value("string"), datasets.Value("int32")
    return datasets.Features(
        {
            "image": datasets.Image(),
            "mask": datasets.Image(),
            "name": text,
            "target": text,
            "class_id": whole,
            "dataset": text,
            "release": text,
            "split": text,
            "patient_id": text,
            "category": text,
            "height": whole,
            "width": whole,
            "mm_per_row": datasets.Value("float32"),
            "mm_per_column": datasets.Value("float32"),
            "mask_area": datasets.Value("int64"),
        }
    )


def import_datasets():
    """The `datasets` library; ImportError that says how to get it."""
    return import_extra("datasets", "data", "reading and building data sets")


def check_complete(directory: Path) -> dict[str, Any]:
    """The content of build.json; ValueError where it is missing."""
    path = directory / BUILD_FILE
    if not path.is_file():
        raise ValueError(
            f"{directory} has no {BUILD_FILE}; expected the output of ccsam-hf data build: build it first"
        )
    return json.loads(path.read_text(encoding="utf-8"))
