"""MMOTU: annotations by kind of lesion, the authors' test part, and the ovary where it is normal."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccsam_hf.data.readers import mmotu
from ccsam_hf.data.splits import divide

SIZE = (40, 50)
OBJECT = np.zeros(SIZE, dtype=bool)
OBJECT[10:20, 15:40] = True


def write_mmotu(root: Path, kinds: str = "025") -> None:
    """An image of each kind; the first annotation is a map, the second is both, the third a coloured map."""
    for folder in ("images", "annotations"):
        (root / folder).mkdir(parents=True)
    for number, kind in enumerate(kinds, start=1):
        Image.new("RGB", (SIZE[1], SIZE[0]), (50, 50, 50)).save(root / "images" / f"{number}.JPG")
        path = root / "annotations" / f"{number}.PNG"
        if number == 2:
            Image.fromarray((OBJECT * 255).astype(np.uint8)).save(path.with_stem("2_binary"))
            Image.fromarray(np.ones(SIZE, dtype=np.uint8)).save(path)
        elif number == 3:
            colored = np.zeros((*SIZE, 3), dtype=np.uint8)
            colored[OBJECT] = (0, 64, 128)
            Image.fromarray(colored).save(path)
        else:
            Image.fromarray((OBJECT * (int(kind) + 1)).astype(np.uint8)).save(path)
    (root / "train.txt").write_text("1\n2\n")
    (root / "val.txt").write_text("3\n")
    (root / "train_cls.txt").write_text(f"1.JPG  {kinds[0]}\n2.JPG  {kinds[1]}\n")
    (root / "val_cls.txt").write_text(f"3.JPG  {kinds[2]}\n")


def test_kinds_masks_and_the_test_part(tmp_path):
    write_mmotu(tmp_path / "OTU_2d")
    cases = mmotu.read(tmp_path, notes := [])
    assert cases == mmotu.read(tmp_path / "OTU_2d", notes) and notes == []
    assert [(case.name, case.target, case.category, case.split) for case in cases] == [
        ("1", "ovarian lesion", "chocolate cyst", None),
        ("2", "ovarian lesion", "teratoma", None),
        ("3", "ovary", "normal ovary", "test"),
    ]
    for case in cases:
        case.check()
        assert np.array_equal(case.mask, OBJECT), case.name
    assert divide(cases).lists["MMOTU"]["test"] == ["3"]


def test_without_its_lists_images_are_lesions_without_a_split(tmp_path):
    write_mmotu(tmp_path)
    for path in tmp_path.glob("*.txt"):
        path.unlink()
    cases = mmotu.read(tmp_path, notes := [])
    assert {(case.target, case.category, case.split) for case in cases} == {("ovarian lesion", None, None)}
    assert "the kind of lesion is not known" in notes[0] and "the images have no split" in notes[1]


def test_lists_and_annotations_that_do_not_fit_are_refused(tmp_path):
    write_mmotu(tmp_path)
    (tmp_path / "train_cls.txt").write_text("1.JPG  8\n")
    with pytest.raises(ValueError, match=r"train_cls.txt has the line '1.JPG  8'; expected .* 0 to 7"):
        mmotu.read(tmp_path, [])
    (tmp_path / "train_cls.txt").unlink()
    (tmp_path / "val.txt").write_text("3\n99\n")
    with pytest.raises(ValueError, match="val.txt names 1 image.s. that are missing, for instance 99"):
        mmotu.read(tmp_path, [])
    Image.open(tmp_path / "annotations" / "1.PNG").save(tmp_path / "annotations" / "1.jpg")
    (tmp_path / "annotations" / "1.PNG").unlink()
    with pytest.raises(ValueError, match="is an annotation in a JPEG file"):
        mmotu.read(tmp_path, [])
