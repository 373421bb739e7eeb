"""Layout "camus", the form with image files: the frames at end diastole and end systole as pictures and label maps.

    images/patient0001_<2CH|4CH>_<ED|ES>.png
    labels/patient0001_<2CH|4CH>_<ED|ES>.png    1 left ventricle, 2 myocardium, 3 left atrium
    split.csv                                   optional: name, patient_id, split

Copies in this form are passed on for training, usually resized, so that millimetres are not known. Names are those of
the files. Images that split.csv does not name have no split; without the file none has.
"""

import csv
import re
from pathlib import Path

from ..cases import SPLITS, Case, ImageFile, MaskFiles
from .pairs import JPEG_EXTENSIONS, list_pairs

CLASSES = {1: "left ventricle", 2: "myocardium", 3: "left atrium"}
NAME = re.compile(r"(?P<patient>patient\d+)_(?P<view>[24]CH)_(ED|ES)")
COLUMNS = ("name", "patient_id", "split")


def is_form_of(directory: Path) -> bool:
    """Whether a directory holds this form."""
    return (directory / "images").is_dir() and (directory / "labels").is_dir()


def read(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of the layout: see `ccsam_hf.data.readers`."""
    pairs = list_pairs(directory / "images", directory / "labels")
    named = {name: NAME.fullmatch(name) for name in pairs}
    unknown = [name for name, match in named.items() if match is None]
    if unknown:
        raise ValueError(
            f"{directory}: {len(unknown)} image(s) are not named patient<n>_<2CH|4CH>_<ED|ES>, for instance "
            f"{unknown[0]!r}: give the files the release's names"
        )
    lossy = [label for _, label in pairs.values() if label.suffix.lower() in JPEG_EXTENSIONS]
    if lossy:
        raise ValueError(f"{lossy[0]} is a label map in a JPEG file, which blurs class ids into each other: use PNG")
    splits = read_splits(directory / "split.csv", {name: match["patient"] for name, match in named.items()}, notes)
    return [
        Case(
            name=name,
            target=target,
            image_source=ImageFile(image),
            mask_source=MaskFiles((label,), class_id),
            dataset="CAMUS",
            release="CAMUS",
            class_id=class_id,
            split=splits.get(name),
            patient_id=named[name]["patient"],
            category=named[name]["view"],
        )
        for name, (image, label) in pairs.items()
        for class_id, target in CLASSES.items()
    ]


def read_splits(path: Path, patients: dict[str, str], notes: list[str]) -> dict[str, str]:
    """Name of an image -> split, from split.csv.

    Args:
        path: the table; none is needed.
        patients: name of an image -> its patient, for all images.
        notes: gets a sentence where images have no split.

    Raises:
        ValueError: a column is missing, a row names no image, another patient or no split, or a patient is in several
            splits.
    """
    splits: dict[str, str] = {}
    if path.is_file():
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                raise ValueError(f"{path} has the columns {reader.fieldnames}; expected {', '.join(COLUMNS)}")
            for row in reader:
                check_row(path, row, patients)
                splits[row["name"]] = row["split"]
    check_one_split(path, splits, patients)
    left_out = [name for name in patients if name not in splits]
    if left_out:
        notes.append(f"{path} names {len(splits)} image(s); {len(left_out)} have no split, for instance {left_out[0]}")
    return splits


def check_row(path: Path, row: dict[str, str], patients: dict[str, str]) -> None:
    """Raise ValueError where a row does not fit the images."""
    name, patient, split = (row[column] for column in COLUMNS)
    if name not in patients:
        raise ValueError(f"{path} names {name!r}, which is no image: remove the row or add the image")
    if patient != patients[name]:
        raise ValueError(f"{path} gives {name!r} to patient {patient!r}; expected {patients[name]!r}, as it is named")
    if split not in SPLITS:
        raise ValueError(f"{path} has split {split!r} for {name!r}; expected {', '.join(SPLITS)}")


def check_one_split(path: Path, splits: dict[str, str], patients: dict[str, str]) -> None:
    """Raise ValueError where the images of a patient are in several splits."""
    split_of: dict[str, str] = {}
    for name, split in splits.items():
        if split_of.setdefault(patients[name], split) != split:
            raise ValueError(f"{path} puts {patients[name]} into {split_of[patients[name]]} and {split}; expected one")
