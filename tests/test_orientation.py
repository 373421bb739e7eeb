"""A picture that EXIF turns is upright wherever it is opened, and so is its mask."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from ccsam_hf import CCSamImageProcessor, CCSamProcessor
from ccsam_hf.data.audit.looks import look_at
from ccsam_hf.data.readers import read_cases
from ccsam_hf.image_files import TURNED_BY, read_header, read_image, upright
from ccsam_hf.pipeline_ccsam import CCSamPipeline
from ccsam_hf.visualization import overlay

ORIENTATION = 0x0112
BACK = {5: 5, 6: 8, 7: 7, 8: 6}  # what undoes a turn; the others undo themselves


def picture(height: int = 40, width: int = 60) -> Image.Image:
    """An upright picture that no turn leaves as it is."""
    rows, columns = np.mgrid[:height, :width]
    values = rows * 3 + columns * 2
    values[:8, :12] = 250
    return Image.fromarray(values.astype(np.uint8))


def lesion(height: int = 40, width: int = 60) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[5:15, 30:50] = True
    return mask


def stored(image: Image.Image, orientation: int) -> Image.Image:
    """The picture as a camera that was turned stores it."""
    return image if orientation == 1 else image.transpose(TURNED_BY[BACK.get(orientation, orientation)])


def save(image: Image.Image, path: Path, orientation: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 100} if path.suffix == ".jpg" else {}
    stored(image, orientation).save(path, exif=exif, **options)
    return path


def close(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.abs(one.astype(int) - other.astype(int)).max() < 8  # JPEG


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_are_read_upright(tmp_path, suffix, orientation):
    path = save(picture(), tmp_path / f"a.{suffix}", orientation)
    image, _ = read_image(path)
    assert close(np.asarray(image), np.asarray(picture()))
    assert close(np.asarray(upright(Image.open(path))), np.asarray(picture()))
    header = read_header(path)
    assert header.size == (40, 60)
    assert header.stored_size == ((60, 40) if orientation >= 5 else (40, 60))


def test_an_image_is_turned_once(tmp_path):
    image, _ = read_image(save(picture(), tmp_path / "a.jpg", 6))
    assert upright(image).size == upright(upright(image)).size == (60, 40)


def test_exif_behind_the_pixels_of_a_png_counts(tmp_path):
    path = save(picture(), tmp_path / "a.png", 6)
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4])
    last = content.index(b"IEND") - 4
    path.write_bytes(content[:start] + content[end:last] + content[start:end] + content[last:])
    assert read_header(path).size == (40, 60)
    assert np.array_equal(read_image(path)[0], picture())


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_layout_reads_pictures_upright_with_the_masks_of_upright_pictures(tmp_path, suffix, orientation):
    save(picture(), tmp_path / "images" / f"a.{suffix}", orientation)
    save(Image.fromarray(lesion()), tmp_path / "masks" / "a.png", 1)
    (case,) = read_cases(tmp_path, "folder")
    assert case.size == (40, 60)
    assert close(case.image, np.asarray(picture()))
    assert np.array_equal(case.mask, lesion())


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_of_the_stored_picture_is_turned_along(tmp_path, orientation):
    save(picture(), tmp_path / "images" / "a.jpg", orientation)
    (tmp_path / "masks").mkdir()
    stored(Image.fromarray(lesion()), orientation).save(tmp_path / "masks" / "a.png")
    (case,) = read_cases(tmp_path, "folder")
    assert np.array_equal(case.mask, lesion())
    assert "mask of another size" not in {finding.kind for finding in look_at([case], set()).findings}


def test_a_mask_that_carries_the_orientation_too_is_turned_by_it(tmp_path):
    save(picture(), tmp_path / "images" / "a.jpg", 3)
    save(Image.fromarray(lesion().astype(np.uint8) * 255), tmp_path / "masks" / "a.png", 3)
    (case,) = read_cases(tmp_path, "folder")
    assert np.array_equal(case.mask, lesion())


def test_a_mask_of_neither_size_is_refused(tmp_path):
    save(picture(), tmp_path / "images" / "a.jpg", 6)
    save(Image.fromarray(lesion(40, 50)), tmp_path / "masks" / "a.png", 1)
    with pytest.raises(ValueError, match="expected one size"):
        read_cases(tmp_path, "folder")


def test_where_no_size_tells_a_note_says_how_masks_are_taken(tmp_path, caplog):
    save(picture(), tmp_path / "images" / "a.png", 3)
    save(Image.fromarray(lesion()), tmp_path / "masks" / "a.png", 1)
    (case,) = read_cases(tmp_path, "folder")
    assert np.array_equal(case.mask, lesion())
    assert "1 image(s) are turned by EXIF" in caplog.text and "a.png" in caplog.text


def test_an_overlay_of_an_opened_picture_is_upright(tmp_path):
    image = Image.open(save(picture(), tmp_path / "a.jpg", 6))
    assert overlay(image, [lesion()]).size == ImageOps.exif_transpose(image).size == (60, 40)


def test_the_pipeline_turns_an_opened_picture_as_it_turns_a_file(tmp_path, tiny_model):
    path = save(picture(), tmp_path / "a.png", 6)
    pipe = CCSamPipeline(tiny_model, CCSamProcessor(CCSamImageProcessor()))
    box = [[30, 5, 50, 15]]
    (of_file,), (of_image,), (of_array,) = (
        pipe(image, boxes=box) for image in (path, Image.open(path), np.asarray(picture()))
    )
    assert of_file.mask.shape == (40, 60)
    assert np.array_equal(of_file.probability, of_image.probability)
    assert np.array_equal(of_file.probability, of_array.probability)
