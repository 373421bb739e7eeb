"""HC18 as released: outlines are filled, also where they leave the image; pixel sizes come from the table."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ccsam_hf.data.readers import hc18

SIZE = (120, 160)
INSIDE = (40, 20, 120, 90)  # left, top, right, bottom
BEYOND = (-30, 20, 70, 100)


def drawn(box: tuple[int, int, int, int], filled: bool = False, width: int = 1) -> np.ndarray:
    canvas = Image.new("L", (SIZE[1], SIZE[0]))
    ImageDraw.Draw(canvas).ellipse(box, outline=255, fill=255 if filled else None, width=width)
    return np.asarray(canvas)


def write_hc18(directory: Path) -> None:
    (directory / "training_set").mkdir(parents=True)
    for name, box in (("000_HC", INSIDE), ("010_HC", BEYOND), ("010_2HC", INSIDE)):
        Image.fromarray(np.full(SIZE, 90, dtype=np.uint8)).save(directory / "training_set" / f"{name}.png")
        Image.fromarray(drawn(box)).save(directory / "training_set" / f"{name}_Annotation.png")
    (directory / "training_set_pixel_size_and_HC.csv").write_text(
        "filename,pixel size(mm),head circumference (mm)\n"
        "000_HC.png,0.07,44.3\n010_HC.png,0.1,56\n010_2HC.png,0.2,50\n"
    )


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_outlines_are_filled_and_examinations_and_millimetres_known(tmp_path):
    write_hc18(tmp_path)
    cases = hc18.read(tmp_path, notes := [])
    assert notes == []
    assert {case.name: (case.patient_id, case.spacing_mm) for case in cases} == {
        "000_HC": ("000", (0.07, 0.07)),
        "010_HC": ("010", (0.1, 0.1)),
        "010_2HC": ("010", (0.2, 0.2)),
    }
    assert {(case.dataset, case.release, case.target, case.split) for case in cases} == {
        ("HC18", "HC18", "fetal head", None)
    }
    for case in cases:
        case.check()
        whole = drawn(BEYOND if case.name == "010_HC" else INSIDE, filled=True) > 0
        assert case.mask.dtype == bool and dice(case.mask, whole) > 0.99, case.name


def test_the_folder_of_the_images_is_enough_and_the_table_may_lie_there_or_be_missing(tmp_path):
    write_hc18(tmp_path / "beside")
    assert hc18.read(tmp_path / "beside" / "training_set", [])[0].spacing_mm == (0.07, 0.07)
    write_hc18(tmp_path / "within")
    table = tmp_path / "within" / "training_set_pixel_size_and_HC.csv"
    table.write_text("filename,pixel size(mm)\n000_HC.png,0.07\n")
    cases = hc18.read(tmp_path / "within", notes := [])
    assert [case.spacing_mm for case in cases if case.name != "000_HC"] == [None, None]
    assert "does not name 2 image(s)" in notes[0]
    table.unlink()
    assert {case.spacing_mm for case in hc18.read(tmp_path / "within", notes)} == {None}
    assert "is missing: 3 image(s)" in notes[1]


@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf", "wide", ""])
def test_pixel_sizes_that_are_none_are_refused(tmp_path, size):
    write_hc18(tmp_path)
    (tmp_path / hc18.TABLE).write_text(f"filename,pixel size(mm)\n000_HC.png,{size}\n")
    with pytest.raises(ValueError, match=f"has the pixel size '{size}' for '000_HC.png'; expected mm above 0"):
        hc18.read(tmp_path, [])


def test_a_table_without_its_columns_and_files_without_partners_are_refused(tmp_path):
    write_hc18(tmp_path)
    (tmp_path / hc18.TABLE).write_text("name,mm\n000_HC.png,1\n")
    with pytest.raises(ValueError, match="expected filename and pixel size"):
        hc18.read(tmp_path, [])
    (tmp_path / "training_set" / "000_HC_Annotation.png").unlink()
    with pytest.raises(ValueError, match="1 case.s. have no mask, for instance '000_HC'"):
        hc18.read(tmp_path, [])
    with pytest.raises(FileNotFoundError, match="has no <n>_HC_Annotation.png"):
        hc18.read(tmp_path.parent, [])


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("box", [INSIDE, BEYOND, (60, -40, 150, 60), (-50, -50, 60, 60)])
def test_outlines_that_leave_the_image_are_filled(box, width):
    outline = drawn(box, width=width) > 0
    assert dice(hc18.fill_ellipse(outline), drawn(box, filled=True) > 0) > 0.99


def test_filled_and_empty_masks_stay_and_an_open_line_is_refused():
    filled = drawn(INSIDE, filled=True) > 0
    assert np.array_equal(hc18.fill_ellipse(filled), filled)
    assert not hc18.fill_ellipse(np.zeros(SIZE, dtype=bool)).any()
    line = np.eye(*SIZE, dtype=bool)
    with pytest.raises(ValueError, match="an outline is open and no ellipse fits it"):
        hc18.fill_ellipse(line)
