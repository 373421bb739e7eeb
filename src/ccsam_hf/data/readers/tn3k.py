"""Layout "tn3k": thyroid nodules, as released by Gong et al., Computers in Biology and Medicine 155, 2023.

    trainval-image/0000.jpg, trainval-mask/0000.jpg
    test-image/0000.jpg, test-mask/0000.jpg
    tn3k-trainval-fold0.json         {"train": [1, 2 ...], "val": [0, 5 ...]}: positions in trainval-image

Fold 0 gives train and validation, as the authors' loader has it by default and the US30K archive as well; the other
four folds are not read. Without the file the trainval images have no split. Both parts number from 0000, so the part
stands before the number, as in US30K: "trainval0000", "test0000". Masks are JPEG files: see `pairs.JpegMask`.

Source: haifangong/TRFE-Net-for-thyroid-nodule-segmentation at commit 6e35530, dataloaders/tn3k.py and picture/.
"""

from pathlib import Path

from ..cases import Case, ImageFile
from .pairs import binary_mask, list_pairs, splits_by_number

SPLIT_FILE = "tn3k-trainval-fold0.json"


def read(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of the layout: see `ccsam_hf.data.readers`."""
    pairs = {
        part: list_pairs(directory / f"{part}-image", directory / f"{part}-mask") for part in ("test", "trainval")
    }
    split_file = directory / SPLIT_FILE
    splits = {"test": dict.fromkeys(pairs["test"], "test"), "trainval": {}}
    if split_file.is_file():
        splits["trainval"] = splits_by_number(split_file, pairs["trainval"], notes)
    else:
        notes.append(
            f"{directory} has no {SPLIT_FILE}: the {len(pairs['trainval'])} images of trainval-image have no split"
        )
    return [
        Case(
            name=f"{part}{name}",
            target="thyroid nodule",
            image_source=ImageFile(image),
            mask_source=binary_mask(mask),
            dataset="TN3K",
            release="TN3K",
            split=splits[part].get(name),
        )
        for part, files in pairs.items()
        for name, (image, mask) in files.items()
    ]
