"""Directories of images and masks: what becomes a case, and what is refused with which words."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccsam_hf.data.readers import read_cases

SIZE = (30, 40)


def write(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path)
    return path


def block(top: int, left: int, value: int = 255, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, dtype=np.uint8)
    mask[top : top + 5, left : left + 6] = value
    return mask


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, image) -> Path:
    write(tmp_path / "images" / "b.png", image)
    write(tmp_path / "masks" / "b.png", block(3, 4))
    write(tmp_path / "images" / "a.bmp", image, mode="RGB")
    write(tmp_path / "masks" / "a.png", block(6, 7, value=1))
    return tmp_path


@pytest.fixture
def busi(tmp_path, image) -> Path:
    write(tmp_path / "benign" / "benign (1).png", image, mode="RGB")
    write(tmp_path / "benign" / "benign (1)_mask.png", block(3, 4))
    write(tmp_path / "benign" / "benign (1)_mask_1.png", block(20, 30), mode="RGBA")
    write(tmp_path / "malignant" / "malignant (1).png", image)
    write(tmp_path / "malignant" / "malignant (1)_mask.png", block(3, 4), mode="1")
    write(tmp_path / "normal" / "normal (1).png", image)
    write(tmp_path / "normal" / "normal (1)_mask.png", np.zeros(SIZE, dtype=np.uint8))
    return tmp_path


def test_folder_layout_gives_grey_images_and_bool_masks(folder, image):
    first, second = read_cases(folder, "folder")
    assert [(case.name, case.target) for case in (first, second)] == [("a", "object"), ("b", "object")]
    assert first.image.dtype == np.uint8 and np.array_equal(first.image, image)
    assert first.mask.dtype == bool and np.array_equal(first.mask, block(6, 7) > 0)  # 0/1 as well as 0/255
    assert np.array_equal(second.mask, block(3, 4) > 0)


def test_cases_csv_names_the_targets(folder):
    (folder / "cases.csv").write_text("name,target\nb,thyroid nodule\n")
    assert [case.target for case in read_cases(folder, "folder")] == ["object", "thyroid nodule"]


def test_busi_layout_unites_the_masks_of_an_image(busi):
    cases = {case.name: case for case in read_cases(busi, "busi")}
    assert list(cases) == ["benign (1)", "malignant (1)", "normal (1)"]
    assert {case.target for case in cases.values()} == {"breast lesion"}
    assert np.array_equal(cases["benign (1)"].mask, (block(3, 4) | block(20, 30)) > 0)
    assert np.array_equal(cases["malignant (1)"].mask, block(3, 4) > 0)
    assert not cases["normal (1)"].mask.any()


def test_the_one_uncropped_mask_of_busi_is_cropped_like_its_image_and_logged(tmp_path, caplog):
    whole = block(24 + 97, 69 + 235, size=(465, 555))
    write(tmp_path / "benign" / "benign (4).png", np.zeros((416, 416), dtype=np.uint8))
    write(tmp_path / "benign" / "benign (4)_mask.png", block(89, 13, size=(416, 416)))
    write(tmp_path / "benign" / "benign (4)_mask_1.png", whole)
    (case,) = read_cases(tmp_path, "busi")
    assert np.array_equal(case.mask, (block(89, 13, size=(416, 416)) | block(97, 235, size=(416, 416))) > 0)
    assert "has size (465, 555): its center" in caplog.text


def test_unknown_layout_and_missing_folders_are_refused(tmp_path, folder):
    with pytest.raises(ValueError, match="layout is 'nifti'; accepted are folder, "):
        read_cases(folder, "nifti")
    with pytest.raises(FileNotFoundError, match="is not a directory"):
        read_cases(tmp_path / "nowhere", "folder")
    with pytest.raises(FileNotFoundError, match="has none of the folders benign, malignant, normal"):
        read_cases(folder, "busi")
    (folder / "masks").rename(folder / "labels")
    with pytest.raises(FileNotFoundError, match="has no folder 'masks'"):
        read_cases(folder, "folder")


def test_directories_without_cases_are_refused(tmp_path):
    for name in ("images", "masks", "benign"):
        (tmp_path / name).mkdir()
    for layout in ("folder", "busi"):
        with pytest.raises(ValueError, match="holds no case"):
            read_cases(tmp_path, layout)


def test_an_image_without_mask_and_a_mask_without_image_are_refused(folder, busi, image):
    write(folder / "images" / "c.png", image)
    with pytest.raises(ValueError, match="1 case.s. have no mask, for instance 'c'"):
        read_cases(folder, "folder")
    (folder / "images" / "c.png").rename(folder / "masks" / "c.png")
    with pytest.raises(ValueError, match="1 case.s. have no image, for instance 'c'"):
        read_cases(folder, "folder")
    (busi / "malignant" / "malignant (1)_mask.png").unlink()
    with pytest.raises(ValueError, match="have no mask, for instance 'malignant .1.'"):
        read_cases(busi, "busi")


def test_two_images_of_one_name_are_refused(folder, image):
    write(folder / "images" / "b.tif", image)
    with pytest.raises(ValueError, match="share the name 'b'"):
        read_cases(folder, "folder")


def test_a_mask_of_another_size_is_refused_with_both_sizes(folder):
    write(folder / "masks" / "b.png", block(3, 4, size=(40, 30)))
    with pytest.raises(ValueError, match=r"has size \(40, 30\) and its image .* \(30, 40\) \(height, width\)"):
        read_cases(folder, "folder")


def test_files_that_are_no_images_are_refused(folder):
    path = folder / "images" / "b.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    damaged = read_cases(folder, "folder")[1]  # its header is whole
    with pytest.raises(ValueError, match=r"b\.png is a damaged PNG file"):
        _ = damaged.image
    path.write_text("no image")
    with pytest.raises(ValueError, match=r"b\.png is not an image that can be read"):
        read_cases(folder, "folder")
    Image.fromarray(np.full(SIZE, 0.5, dtype=np.float32)).save(path, format="TIFF")
    with pytest.raises(ValueError, match="floating-point values; expected 8 or 16 bits"):
        _ = read_cases(folder, "folder")[1].image


@pytest.mark.parametrize(
    "text, message",
    [
        ("case,kind\nb,thyroid nodule\n", r"has the columns \['case', 'kind'\]; expected name and target"),
        ("name,target\nz,thyroid nodule\n", "names 1 case.s. without an image, for instance 'z'"),
        ("name,target\nb,\n", "has no target for 'b'"),
        ("", r"has the columns \[\]; expected name and target"),
    ],
)
def test_a_wrong_cases_csv_is_refused(folder, text, message):
    (folder / "cases.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_cases(folder, "folder")
