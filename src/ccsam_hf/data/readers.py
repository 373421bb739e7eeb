"""Reads a directory of images and masks into cases: one image, the mask of its object, and what the object is.

`LAYOUTS` lists the directory layouts:

- "folder": `images/<name>.<ext>` and `masks/<name>.png`; an optional `cases.csv` with the columns name and target
  says what the objects are, "object" where it does not.
- "busi": `<benign|malignant|normal>/<name>.png` with one or several `<name>_mask*.png`, united; the data set of
  Al-Dhabyani et al., Data in Brief 28, 2020. Target "breast lesion"; masks of normal cases are empty.
"""

import csv
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
BUSI_CLASSES = ("benign", "malignant", "normal")
DEFAULT_TARGET = "object"

# One mask of BUSI as published is drawn on the whole frame while its image is the center of that frame: cropped like
# the image, it lies on the second nodule. Sizes are (height, width); any other difference of sizes is an error.
BUSI_UNCROPPED_MASKS = {"benign (4)_mask_1": ((465, 555), (416, 416))}


@dataclass(frozen=True)
class Case:
    """An image with the mask of its object. The pixels are read anew at every access and never kept.

    Attributes:
        name: identifies the case within its directory.
        target: what the object is, for instance "breast lesion".
        image_path: file of the image.
        mask_paths: files of the masks; their union is the object.
    """

    name: str
    target: str
    image_path: Path
    mask_paths: tuple[Path, ...]

    @property
    def image(self) -> np.ndarray:
        """The grey image at its original size, (H0, W0) uint8; colors are weighted as in ITU-R 601.

        Raises:
            ValueError: the file cannot be decoded or does not hold 8-bit values.
        """
        return np.array(_decode(self.image_path).convert("L"))

    @property
    def mask(self) -> np.ndarray:
        """The union of the masks at the image's size, (H0, W0) bool; every value but zero belongs to the object.

        Raises:
            ValueError: a file cannot be decoded or does not hold 8-bit values.
        """
        size = _size(self.image_path)
        return np.any([_cropped_like_image(_decode_mask(path), path, size) for path in self.mask_paths], axis=0)


def read_cases(directory: str | Path, layout: str) -> list[Case]:
    """Lists the cases of a directory, sorted by file name, after a look at the header of every file.

    Args:
        directory: the folder that holds the layout's own folders.
        layout: "folder" or "busi".

    Returns:
        At least one case. Cases without an object (an empty mask) are among them.

    Raises:
        FileNotFoundError: the directory or a folder of the layout is missing.
        ValueError: the layout is unknown, there is no case, an image has no mask or a mask no image, sizes differ, two
            images share a name, `cases.csv` has other columns or unknown names, or a file is not an image.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; accepted are {', '.join(LAYOUTS)}")
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a directory; expected one of layout {layout!r}")
    cases = LAYOUTS[layout](directory)
    for case in cases:
        _check_sizes(case)
    return cases


def _read_folder(directory: Path) -> list[Case]:
    for folder in ("images", "masks"):
        if not (directory / folder).is_dir():
            raise FileNotFoundError(f"{directory} has no folder {folder!r}; layout 'folder' needs images/ and masks/")
    image_paths: dict[str, Path] = {}
    for path in _image_files(directory / "images"):
        if path.stem in image_paths:
            raise ValueError(f"{path} and {image_paths[path.stem]} share the name {path.stem!r}: rename one of them")
        image_paths[path.stem] = path
    mask_paths = {path.stem: (path,) for path in _image_files(directory / "masks") if path.suffix.lower() == ".png"}
    _check_pairs(directory, image_paths, mask_paths, mask_pattern="masks/<name>.png")
    targets = _read_targets(directory / "cases.csv", image_paths)
    return [
        Case(name, targets.get(name, DEFAULT_TARGET), path, mask_paths[name]) for name, path in image_paths.items()
    ]


def _read_busi(directory: Path) -> list[Case]:
    folders = [directory / name for name in BUSI_CLASSES if (directory / name).is_dir()]
    if not folders:
        raise FileNotFoundError(f"{directory} has none of the folders {', '.join(BUSI_CLASSES)} of layout 'busi'")
    cases = []
    for folder in folders:
        image_paths: dict[str, Path] = {}
        mask_paths: dict[str, tuple[Path, ...]] = {}
        for path in _image_files(folder):
            mask_of = re.fullmatch(r"(.+)_mask(_\d+)?", path.stem)
            if mask_of:
                mask_paths[mask_of[1]] = (*mask_paths.get(mask_of[1], ()), path)
            else:
                image_paths[path.stem] = path
        if image_paths or mask_paths:
            _check_pairs(folder, image_paths, mask_paths, mask_pattern="<name>_mask.png")
        cases += [Case(name, "breast lesion", path, mask_paths[name]) for name, path in image_paths.items()]
    if not cases:
        raise ValueError(f"{directory} holds no case: no <name>.png in {', '.join(folder.name for folder in folders)}")
    return cases


LAYOUTS = {"folder": _read_folder, "busi": _read_busi}


def _image_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_EXTENSIONS)


def _check_pairs(folder: Path, image_names: Iterable[str], mask_names: Iterable[str], mask_pattern: str) -> None:
    image_names, mask_names = set(image_names), set(mask_names)
    if not image_names:
        raise ValueError(f"{folder} holds no case: no image with extension {', '.join(IMAGE_EXTENSIONS)}")
    for present, absent, other in ((image_names, mask_names, "mask"), (mask_names, image_names, "image")):
        missing = sorted(present - absent)
        if missing:
            raise ValueError(
                f"{folder}: {len(missing)} case(s) have no {other}, for instance {missing[0]!r}; "
                f"expected an image and {mask_pattern} for every case: add or remove files"
            )


def _read_targets(path: Path, image_names: Iterable[str]) -> dict[str, str]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"name", "target"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path} has the columns {reader.fieldnames}; expected name and target")
        targets = {row["name"]: row["target"] for row in reader}
    unknown = sorted(set(targets) - set(image_names))
    if unknown:
        raise ValueError(f"{path} names {len(unknown)} case(s) without an image, for instance {unknown[0]!r}")
    nameless = sorted(name for name, target in targets.items() if not target)
    if nameless:
        raise ValueError(f"{path} has no target for {nameless[0]!r}: fill it in or remove the row")
    return targets


def _check_sizes(case: Case) -> None:
    image_size = _size(case.image_path)
    for path in case.mask_paths:
        mask_size = _size(path)
        if BUSI_UNCROPPED_MASKS.get(path.stem) == (mask_size, image_size):
            logger.warning("%s has size %s: its center of the image's size %s is used", path, mask_size, image_size)
        elif mask_size != image_size:
            raise ValueError(
                f"mask {path} has size {mask_size} and its image {case.image_path} {image_size} (height, width); "
                "expected one size: export the mask at the image's size"
            )


def _size(path: Path) -> tuple[int, int]:
    """(height, width) from the file's header."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError) as error:
        raise _unreadable(path, error) from error


def _decode(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError) as error:
        raise _unreadable(path, error) from error
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{path} holds values of mode {image.mode!r}; expected 8 bits a channel: convert it first")
    return image


def _decode_mask(path: Path) -> np.ndarray:
    return np.asarray(_decode(path).convert("RGB")).any(axis=2)  # drops an alpha channel, which marks no object


def _cropped_like_image(mask: np.ndarray, path: Path, size: tuple[int, int]) -> np.ndarray:
    if BUSI_UNCROPPED_MASKS.get(path.stem) != (mask.shape, size):
        return mask
    top, left = (mask.shape[0] - size[0]) // 2, (mask.shape[1] - size[1]) // 2
    return mask[top : top + size[0], left : left + size[1]]


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read as an image ({error}); expected {', '.join(IMAGE_EXTENSIONS)}")
