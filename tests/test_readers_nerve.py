"""Kaggle's nerve images: TIFF files with their masks beside them, by subject."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccsam_hf.data.readers import nerve

SIZE = (42, 58)


def write_nerve(folder: Path) -> None:
    folder.mkdir(parents=True)
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[10:20, 15:40] = 255
    for name, values in (("10_1", mask), ("2_10", mask), ("2_9", np.zeros_like(mask))):
        Image.fromarray(np.full(SIZE, 77, dtype=np.uint8)).save(folder / f"{name}.tif")
        Image.fromarray(values).save(folder / f"{name}_mask.tif")


def test_images_without_a_nerve_are_kept_and_subjects_known(tmp_path):
    write_nerve(tmp_path / "train")
    cases = nerve.read(tmp_path, notes := [])
    assert cases == nerve.read(tmp_path / "train", notes) and notes == []
    assert [(case.name, case.patient_id, case.mask.sum()) for case in cases] == [
        ("2_9", "2", 0),
        ("2_10", "2", 250),
        ("10_1", "10", 250),
    ]
    assert {(case.target, case.dataset, case.release) for case in cases} == {("brachial plexus", "NERVE", "NERVE")}
    for case in cases:
        case.check()
        assert (case.image == 77).all()


def test_other_files_are_named_and_missing_ones_refused(tmp_path):
    write_nerve(tmp_path / "train")
    Image.new("L", (5, 5)).save(tmp_path / "train" / "thumbnail.tif")
    nerve.read(tmp_path, notes := [])
    assert "1 file(s) are not named <subject>_<n>" in notes[0] and "thumbnail.tif" in notes[0]
    (tmp_path / "train" / "2_9_mask.tif").unlink()
    with pytest.raises(ValueError, match="1 case.s. have no mask, for instance '2_9'"):
        nerve.read(tmp_path, [])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="has no <subject>_<n>_mask.tif"):
        nerve.read(tmp_path / "empty", [])
