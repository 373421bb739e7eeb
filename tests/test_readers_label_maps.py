"""Layout "folder" with masks of several structures: the table that names them, and the masks that are refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccsam_hf.data.audit import audit_cases
from ccsam_hf.data.readers import list_cases, read_cases
from ccsam_hf.data.readers.label_maps import check_one_object

SIZE = (60, 80)


def discs(*values: int) -> np.ndarray:
    """(H, W) uint8: a disc of each value, side by side."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    labels = np.zeros(SIZE, dtype=np.uint8)
    for place, value in enumerate(values):
        labels[(rows - 30) ** 2 + (columns - 20 - 30 * place) ** 2 < 100] = value
    return labels


def write_folder(directory: Path, *masks: np.ndarray | Image.Image) -> Path:
    for number, mask in enumerate(masks):
        for folder, values in (("images", np.zeros(SIZE, dtype=np.uint8)), ("masks", mask)):
            (directory / folder).mkdir(parents=True, exist_ok=True)
            picture = values if isinstance(values, Image.Image) else Image.fromarray(values)
            picture.save(directory / folder / f"{number}.png")
    return directory


def test_labels_csv_gives_a_case_for_each_structure(tmp_path):
    write_folder(tmp_path, discs(1, 2), discs(2))
    (tmp_path / "labels.csv").write_text("value,target\n1,left ventricle\n2,myocardium\n")
    (tmp_path / "cases.csv").write_text("name,target,patient_id\n0,heart,p7\n")
    cases, notes = list_cases(tmp_path, "folder")
    known = [(case.name, case.class_id, case.target, case.patient_id) for case in cases]
    assert known == [
        ("0", 1, "left ventricle", "p7"),
        ("0", 2, "myocardium", "p7"),
        ("1", 1, "left ventricle", None),
        ("1", 2, "myocardium", None),
    ]
    assert np.array_equal(cases[1].mask, discs(1, 2) == 2) and not cases[2].mask.any()
    assert len(notes) == 1 and "labels.csv says what the targets are" in notes[0]


@pytest.mark.parametrize(
    "table, message",
    [
        ("value,name\n1,a\n", "has the columns .*; expected value and target"),
        ("value,target\n", "has no row"),
        ("value,target\n0,ground\n", "has the value '0'; expected a whole number from 1 to 255"),
        ("value,target\n1.5,a\n", "has the value '1.5'"),
        ("value,target\n1,a\n1,b\n", "has the target 'b' for 1; expected one target for each value"),
        ("value,target\n1,\n", "has the target '' for 1"),
    ],
)
def test_tables_of_labels_that_do_not_fit_are_refused(tmp_path, table, message):
    write_folder(tmp_path, discs(1))
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(ValueError, match=rf"labels\.csv {message}"):
        read_cases(tmp_path, "folder")


def test_a_label_map_without_the_table_is_refused_and_not_merged(tmp_path):
    write_folder(tmp_path, discs(1, 2))
    with pytest.raises(ValueError, match=r"0\.png holds the values 1, 2; expected one object.*labels\.csv"):
        read_cases(tmp_path, "folder")


def test_a_label_map_among_many_masks_is_refused_where_it_is_read_and_named_by_the_audit(tmp_path):
    write_folder(tmp_path, *[discs(1)] * 3, discs(1, 2), *[discs(1)] * 20)
    cases = read_cases(tmp_path, "folder")
    (odd,) = (case for case in cases if case.name == "3")
    with pytest.raises(ValueError, match="holds the values 1, 2"):
        _ = odd.mask
    findings = [finding for finding in audit_cases(cases).findings if finding.kind == "unreadable mask"]
    assert [finding.images for finding in findings] == [((tmp_path.name, "3"),)]
    assert "3.png holds the values 1, 2" in findings[0].detail


def smoothed() -> Image.Image:
    """A disc drawn four times as large and made small again, as drawing tools smooth an edge."""
    large = Image.fromarray(discs(255)).resize((SIZE[1] * 4, SIZE[0] * 4), Image.Resampling.BICUBIC)
    return large.resize((SIZE[1], SIZE[0]), Image.Resampling.LANCZOS)


def compressed(tmp_path: Path) -> Image.Image:
    """A disc that was a JPEG before."""
    Image.fromarray(discs(255)).save(tmp_path / "mask.jpg", quality=60)
    return Image.open(tmp_path / "mask.jpg").copy()


def colored(*colors: str) -> Image.Image:
    picture = Image.new("RGB", (SIZE[1], SIZE[0]))
    for place, color in enumerate(colors):
        picture.paste(color, (10 + 20 * place, 10, 25 + 20 * place, 30))
    return picture


def test_binary_smoothed_and_compressed_masks_are_of_one_object(tmp_path):
    square = np.zeros(SIZE, dtype=np.uint8)
    square[10:40, 10:40] = 255
    square[9, 10:40] = square[40, 10:40] = 128  # a smoothed edge that is straight
    for mask in (discs(1), discs(255), np.zeros(SIZE, dtype=np.uint8), square):
        check_one_object(Image.fromarray(mask), tmp_path)
    for picture in (smoothed(), compressed(tmp_path), colored("red"), colored("white"), smoothed().convert("RGBA")):
        check_one_object(picture, tmp_path)


@pytest.mark.parametrize(
    "picture, named",
    [
        (Image.fromarray(discs(128, 255)), "128, 255"),
        (Image.fromarray(discs(1, 2)).convert("P"), "1, 2"),
        (colored("red", "lime"), "#00ff00, #ff0000"),
    ],
    ids=("grey", "palette", "colour"),
)
def test_label_maps_of_all_kinds_are_known(tmp_path, picture, named):
    with pytest.raises(ValueError, match=f"holds the values {named};"):
        check_one_object(picture, tmp_path)
