"""Layout "tg3k": the thyroid gland, from the release beside TN3K by Gong et al.

    thyroid-image/0000.jpg, thyroid-mask/0000.jpg
    tg3k-trainval.json               {"train": [...], "val": [...]}: positions in thyroid-image

The release has no test part. Names are those of the US30K archive, "trainval0000". Masks are JPEG files: see
`pairs.JpegMask`. The images are slices of 16 records that the release does not tell apart: no patient is known, and
the split may cut a record in two, with neighbouring slices on both sides.

Source: haifangong/TRFE-Net-for-thyroid-nodule-segmentation at commit 6e35530, dataloaders/tg3k.py. The release itself
was not at hand.
"""

from pathlib import Path

from ..cases import Case, ImageFile
from .pairs import binary_mask, list_pairs, splits_by_number

SPLIT_FILE = "tg3k-trainval.json"


def read(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of the layout: see `ccsam_hf.data.readers`."""
    pairs = list_pairs(directory / "thyroid-image", directory / "thyroid-mask")
    splits: dict[str, str] = {}
    if (directory / SPLIT_FILE).is_file():
        splits = splits_by_number(directory / SPLIT_FILE, pairs, notes)
    else:
        notes.append(f"{directory} has no {SPLIT_FILE}: the {len(pairs)} images have no split")
    return [
        Case(
            name=f"trainval{name}",
            target="thyroid gland",
            image_source=ImageFile(image),
            mask_source=binary_mask(mask),
            dataset="TG3K",
            release="TG3K",
            split=splits.get(name),
        )
        for name, (image, mask) in pairs.items()
    ]
