"""Layout "nerve": the brachial plexus, Kaggle's Ultrasound Nerve Segmentation of 2016.

    train/<subject>_<n>.tif, <subject>_<n>_mask.tif         empty where the image shows no nerve

The directory is the one with train/ or the one with the images. The test set has no masks and is not read; the release
knows no splits. train_masks.csv, which holds the same masks as run lengths, is not read.

Source: the competition's file names in public loaders; the release itself was not at hand, but 300 of its images.
"""

import re
from pathlib import Path

from ..cases import Case, ImageFile, check_pairs, image_files
from .pairs import binary_mask

IMAGE_NAME = re.compile(r"(?P<image>(?P<subject>\d+)_\d+)(?P<mask>_mask)?")


def read(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of the layout: see `ccsam_hf.data.readers`."""
    folder = directory / "train" if (directory / "train").is_dir() else directory
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    unknown = []
    for path in image_files(folder):
        match = IMAGE_NAME.fullmatch(path.stem)
        if not match:
            unknown.append(path.name)
            continue
        (masks if match["mask"] else images)[match["image"]] = path
    if not masks:
        raise FileNotFoundError(f"{folder} has no <subject>_<n>_mask.tif; layout 'nerve' needs it here or in train/")
    if unknown:
        notes.append(
            f"{directory}: {len(unknown)} file(s) are not named <subject>_<n> or <subject>_<n>_mask, for instance "
            f"{unknown[0]}: they are left out"
        )
    check_pairs(folder, images, masks, mask_pattern="<subject>_<n>_mask.tif")
    names = sorted(images, key=lambda name: [int(part) for part in name.split("_")])
    return [
        Case(
            name=name,
            target="brachial plexus",
            image_source=ImageFile(images[name]),
            mask_source=binary_mask(masks[name]),
            dataset="NERVE",
            release="NERVE",
            patient_id=name.split("_")[0],
        )
        for name in names
    ]
