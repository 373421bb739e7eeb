"""CAMUS as image files and label maps with a table of splits."""

from pathlib import Path

import pytest
from PIL import Image

from ccsam_hf.data.readers import camus
from layouts_of_volumes import CLASSES, Truth, assert_read_back, heart


def refuse(directory: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        camus.read(directory, [])


def write_camus_images(directory: Path) -> list[Truth]:
    """Two patients as image files and label maps, with the table of their splits."""
    truths, lines = [], ["name,patient_id,split"]
    for seed, (patient, split) in enumerate((("patient0001", "train"), ("patient0027", "test"))):
        image, labels = heart(seed)
        name = f"{patient}_4CH_ED"
        for folder, values in (("images", image), ("labels", labels)):
            (directory / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(directory / folder / f"{name}.png")
        lines.append(f"{name},{patient},{split}")
        truths += [
            Truth(name, target, image, labels == value, value, split, patient, None, "4CH")
            for value, target in CLASSES.items()
        ]
    (directory / "split.csv").write_text("\n".join(lines))
    return truths


def test_camus_in_image_files(tmp_path):
    truths = write_camus_images(tmp_path)
    cases = camus.read(tmp_path, notes := [])
    assert_read_back(cases, truths, "CAMUS")
    assert notes == [] and {case.release for case in cases} == {"CAMUS"}
    (tmp_path / "split.csv").unlink()
    assert {case.split for case in camus.read(tmp_path, notes)} == {None}
    assert "2 have no split, for instance patient0001_4CH_ED" in notes[0]


@pytest.mark.parametrize(
    "row, message",
    [
        ("patient0003_4CH_ED,patient0003,train", "names 'patient0003_4CH_ED', which is no image"),
        ("patient0001_4CH_ED,patient0002,train", "gives 'patient0001_4CH_ED' to patient 'patient0002'"),
        ("patient0001_4CH_ED,patient0001,val", "has split 'val' for 'patient0001_4CH_ED'; expected train"),
        ("patient0001_2CH_ED,patient0001,test", "puts patient0001 into train and test; expected one"),
    ],
)
def test_a_table_of_splits_that_does_not_fit_is_refused(tmp_path, row, message):
    write_camus_images(tmp_path)
    for folder in ("images", "labels"):
        (tmp_path / folder / "patient0001_2CH_ED.png").write_bytes(
            (tmp_path / folder / "patient0001_4CH_ED.png").read_bytes()
        )
    table = tmp_path / "split.csv"
    table.write_text(f"{table.read_text()}\n{row}\n")
    refuse(tmp_path, message)
    table.write_text("name,split\n")
    refuse(tmp_path, "has the columns .*; expected name, patient_id, split")


def test_other_names_and_label_maps_in_jpeg_are_refused(tmp_path):
    write_camus_images(tmp_path)
    label = tmp_path / "labels" / "patient0001_4CH_ED.png"
    Image.open(label).save(label.with_suffix(".jpg"))
    label.unlink()
    refuse(tmp_path, "is a label map in a JPEG file")
    for path in (label.with_suffix(".jpg"), tmp_path / "images" / label.name):
        path.rename(path.with_stem("heart"))
    refuse(tmp_path, "1 image.s. are not named patient<n>_.*, for instance 'heart'")
