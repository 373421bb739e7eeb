"""BUSI with images and masks in folders of their own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccsam_hf.data.readers import busi, read_cases

SIZE = (30, 40)


def write(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(SIZE, dtype=np.uint8)
    values[5:12, 8 : 8 + value] = 255
    Image.fromarray(values).save(path)


FORMS = {
    "as released": ("{category}/{name}.png", "{category}/{name}_mask{n}.png"),
    "within categories": ("{category}/images/{name}.png", "{category}/masks/{name}_mask{n}.png"),
    "around categories": ("images/{category}/{name}.png", "masks/{category}/{name}_mask{n}.png"),
    "flat": ("images/{name}.png", "masks/{name}_mask{n}.png"),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_give_the_same_cases(tmp_path, form):
    image, mask = FORMS[form]
    for category in ("benign", "malignant"):
        fields = {"category": category, "name": f"{category} (1)"}
        write(tmp_path / image.format(**fields), 1)
        write(tmp_path / mask.format(n="", **fields), 6)
        write(tmp_path / mask.format(n="_1", **fields), 9)
    cases = read_cases(tmp_path, "busi")
    assert [(case.name, case.category, case.mask.sum()) for case in cases] == [
        ("benign (1)", "benign", 63),
        ("malignant (1)", "malignant", 63),
    ]
    assert {(case.dataset, case.release) for case in cases} == {("BUSI", "BUSI")}


def test_masks_in_a_folder_of_their_own_may_have_the_name_of_the_image(tmp_path):
    for folder, value in (("images", 1), ("masks", 6)):
        write(tmp_path / folder / "benign (1).png", value)
        write(tmp_path / folder / "case 7.png", value)
    cases = read_cases(tmp_path, "busi")
    assert [(case.name, case.category, case.mask.sum()) for case in cases] == [
        ("benign (1)", "benign", 42),
        ("case 7", None, 42),
    ]


def test_an_image_without_mask_and_folders_without_images_are_refused(tmp_path):
    write(tmp_path / "images" / "benign (1).png", 1)
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match="1 case.s. have no mask, for instance 'benign .1.'"):
        busi.read(tmp_path, [])
    (tmp_path / "images" / "benign (1).png").rename(tmp_path / "images" / "case 7.png")
    with pytest.raises(FileNotFoundError, match="has none of the folders benign, malignant, normal"):
        busi.read(tmp_path, [])
