"""Layout "mmotu": ovarian lesions, the two-dimensional part of MMOTU, Zhao et al., arXiv 2207.06799, 2022.

    OTU_2d/images/<n>.JPG
    OTU_2d/annotations/<n>.PNG, <n>_binary.PNG              one of both is enough
    OTU_2d/train.txt, val.txt                               optional: a name a line
    OTU_2d/train_cls.txt, val_cls.txt                       optional: <n>.JPG and its class, 0 to 7

The directory is the one with OTU_2d/ or with the images. An image shows a lesion of one kind, and the value or colour
of its annotation is that kind: every value but zero is the lesion, the binary file is preferred, and the kind is the
category. In images of the kind "normal ovary" the ovary is outlined: it is their target. val.txt names the authors'
test part. OTU_CEUS/, with contrast agent, is not read.

Source: public loaders, which agree on names and classes; the release itself was not at hand.
"""

import re
from pathlib import Path

from ..cases import Case, ImageFile, MaskFiles, check_pairs
from .pairs import JPEG_EXTENSIONS, files_by_name

FOLDER = "OTU_2d"
KINDS = (
    "chocolate cyst",
    "serous cystadenoma",
    "teratoma",
    "theca cell tumor",
    "simple cyst",
    "normal ovary",
    "mucinous cystadenoma",
    "high-grade serous carcinoma",
)
TARGET_OF_KIND = {"normal ovary": "ovary"}
BINARY = "_binary"


def read(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of the layout: see `ccsam_hf.data.readers`."""
    root = directory / FOLDER if (directory / FOLDER).is_dir() else directory
    images = files_by_name(root / "images")
    masks = masks_by_name(files_by_name(root / "annotations"))
    check_pairs(root, images, masks, mask_pattern="annotations/<n>.PNG")
    kinds = read_kinds(root, images)
    if not kinds:
        notes.append(f"{directory} has no train_cls.txt and no val_cls.txt: the kind of lesion is not known")
    splits = read_splits(root, images, notes)
    return [
        Case(
            name=name,
            target=TARGET_OF_KIND.get(kinds.get(name), "ovarian lesion"),
            image_source=ImageFile(images[name]),
            mask_source=MaskFiles((masks[name],)),
            dataset="MMOTU",
            release="MMOTU",
            split=splits.get(name),
            category=kinds.get(name),
        )
        for name in sorted(images, key=lambda name: (not name.isdecimal(), name.zfill(9)))
    ]


def masks_by_name(files: dict[str, Path]) -> dict[str, Path]:
    """Name of the image -> its mask, the binary one where there are both; ValueError for a JPEG."""
    masks: dict[str, Path] = {}
    for name, path in files.items():
        if path.suffix.lower() in JPEG_EXTENSIONS:
            raise ValueError(f"{path} is an annotation in a JPEG file, which blurs its values: expected PNG")
        image = re.sub(f"({BINARY})+$", "", name)
        if image == name:
            masks.setdefault(image, path)
        elif name == image + BINARY:
            masks[image] = path
    return masks


def read_kinds(root: Path, images: dict[str, Path]) -> dict[str, str]:
    """Name of an image -> kind of lesion, from the lists of classes.

    Raises:
        ValueError: a line names no image or no class.
    """
    kinds: dict[str, str] = {}
    for part in ("train", "val"):
        path = root / f"{part}_cls.txt"
        for line in path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else ():
            name, *kind = line.split() or [""]
            if not name:
                continue
            if Path(name).stem not in images or len(kind) != 1 or kind[0] not in map(str, range(len(KINDS))):
                raise ValueError(
                    f"{path} has the line {line!r}; expected the name of an image and 0 to {len(KINDS) - 1}"
                )
            kinds[Path(name).stem] = KINDS[int(kind[0])]
    return kinds


def read_splits(root: Path, images: dict[str, Path], notes: list[str]) -> dict[str, str]:
    """Name of an image -> "test" for those of val.txt; the others are left open.

    Raises:
        ValueError: a list names no image.
    """
    if not (root / "val.txt").is_file():
        notes.append(f"{root} has no val.txt, which names the authors' test part: the images have no split")
        return {}
    names = [Path(line).stem for line in (root / "val.txt").read_text(encoding="utf-8-sig").split()]
    unknown = [name for name in names if name not in images]
    if unknown:
        raise ValueError(
            f"{root / 'val.txt'} names {len(unknown)} image(s) that are missing, for instance {unknown[0]}"
        )
    return dict.fromkeys(names, "test")
