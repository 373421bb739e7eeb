"""cases.csv as spreadsheets and people write it: understood, or refused with the file's name and the line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccsam_hf.data.readers import list_cases
from ccsam_hf.data.readers.tables import read_rows


@pytest.fixture
def folder(tmp_path, rng) -> Path:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for name in "ab":
        Image.fromarray(rng.integers(0, 256, (20, 30), dtype=np.uint8)).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(np.eye(20, 30, dtype=np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def first_case(folder: Path, content: bytes):
    (folder / "cases.csv").write_bytes(content)
    return list_cases(folder, "folder")[0][0]


WHOLE = "name,target,split,patient_id,mm_per_row,mm_per_column\na,Läsion,train,P1,0.12,0.25\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_and_separators_of_spreadsheets_are_read(folder, encoding, separator, newline, caplog):
    text = WHOLE.replace(",", separator).replace("\n", newline)
    case = first_case(folder, text.encode(encoding))
    assert (case.target, case.split, case.patient_id, case.spacing_mm) == ("Läsion", "train", "P1", (0.12, 0.25))
    assert ("cases.csv is not in UTF-8" in caplog.text) == (encoding == "cp1252")


def test_decimal_commas_are_read(folder):
    head = "name;target;mm_per_row;mm_per_column\n"
    assert first_case(folder, f"{head}a;cyst;0,12;0,25\n".encode()).spacing_mm == (0.12, 0.25)
    head = head.replace(";", ",")
    assert first_case(folder, f'{head}a,cyst,"0,12","0,25"\n'.encode()).spacing_mm == (0.12, 0.25)


def test_blanks_around_cells_and_empty_rows_do_not_count(folder):
    case = first_case(folder, b" name , target ,patient_id,,\n\n a ,  breast lesion , P1 ,,\n,,,,\n")
    assert (case.target, case.patient_id) == ("breast lesion", "P1")


@pytest.mark.parametrize(
    "column, near",
    [("patient", "patient_id"), ("Split", "split"), ("mm_per_col", "mm_per_column"), ("Patient ID", "patient_id")],
)
def test_an_unknown_column_is_refused_with_the_nearest_name(folder, column, near):
    with pytest.raises(ValueError, match=f'cases.csv has the column {column!r}.*did you mean "{near}"'):
        first_case(folder, f"name,target,{column}\na,cyst,1\n".encode())


@pytest.mark.parametrize(
    "content, message",
    [
        ("name,target\na,cyst\na,nodule\n", "cases.csv, line 3, is the second row of 'a'"),
        ("name,target\na,cyst,extra,more\n", "cases.csv, line 2, has 4 cells, among them 'extra', for 2 columns"),
        ("name,target,target\na,cyst,nodule\n", "cases.csv has a column twice"),
        ("name,target\na,   \n", "cases.csv, line 2, has no target for 'a'"),
        ("name,target,split\na,cyst,Train\n", "cases.csv, line 2, has split 'Train'"),
        ('name,target\na,"cyst\n', "cases.csv, line 2, cannot be read as a table"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(folder, content, message):
    with pytest.raises(ValueError, match=message):
        first_case(folder, content.encode())


@pytest.mark.parametrize(
    "row, column", [("nan", "nan"), ("inf", "1"), ("0.1", ""), ("", "0.1"), ("0", "1"), ("-1", "1"), ("x", "1")]
)
def test_a_spacing_that_is_not_two_lengths_is_refused(folder, row, column):
    with pytest.raises(ValueError, match=f"line 2, has mm_per_row {row!r} and mm_per_column {column!r}"):
        first_case(folder, f"name,target,mm_per_row,mm_per_column\na,cyst,{row},{column}\n".encode())


def test_bytes_that_are_no_text_are_refused_by_name(tmp_path):
    (tmp_path / "cases.csv").write_bytes(b"name,target\na,\x81\x8d\xff\n")
    with pytest.raises(ValueError, match="cases.csv is not a text that can be read"):
        read_rows(tmp_path / "cases.csv", ("name", "target"))


def test_one_patient_for_all_files_is_told(folder):
    (folder / "cases.csv").write_text("name,target,patient_id\na,cyst,ANONYMOUS\nb,cyst,ANONYMOUS\n")
    (note,) = list_cases(folder, "folder")[1]
    assert "all 2 files are of one patient, 'ANONYMOUS'" in note and "cases.csv" in note
    (folder / "cases.csv").write_text("name,target,patient_id\na,cyst,ANONYMOUS\nb,cyst,P2\n")
    assert list_cases(folder, "folder")[1] == []
