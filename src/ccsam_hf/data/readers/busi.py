"""Layout "busi": breast lesions, as released by Al-Dhabyani et al., Data in Brief 28, 2020.

    <benign|malignant|normal>/<name>.png
    <benign|malignant|normal>/<name>_mask.png, <name>_mask_1.png ...    united; empty in normal cases

Copies with images and masks in folders of their own are read as well; a mask may there have the name of its image:

    <category>/images/, <category>/masks/       or images/<category>/, masks/<category>/
    images/, masks/                             the category is the first word of names, "benign (1)"

The release knows no patients and no splits.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..cases import Case, ImageFile, MaskFiles, check_pairs, decode, header_size, image_files, mask_of

CATEGORIES = ("benign", "malignant", "normal")

# One mask as published is drawn on the whole frame while its image is the center of that frame: cropped like the
# image, it lies on the second nodule. Sizes are (height, width); any other difference of sizes is an error.
UNCROPPED_MASKS = {"benign (4)_mask_1": ((465, 555), (416, 416))}


@dataclass(frozen=True)
class UncroppedMask:
    """The center of a mask file, of the size of its image."""

    path: Path
    size: tuple[int, int]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def read(self) -> np.ndarray:
        """(H0, W0) bool."""
        mask = mask_of(decode(self.path), None)
        top, left = (mask.shape[0] - self.size[0]) // 2, (mask.shape[1] - self.size[1]) // 2
        return mask[top : top + self.size[0], left : left + self.size[1]]


@dataclass(frozen=True)
class MaskUnion:
    """The union of masks of different kinds."""

    parts: tuple[MaskFiles | UncroppedMask, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of all parts."""
        return tuple(path for part in self.parts for path in part.paths)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the first part."""
        return self.parts[0].size

    def read(self) -> np.ndarray:
        """(H0, W0) bool."""
        return np.any([part.read() for part in self.parts], axis=0)


def read(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of the layout: see `ccsam_hf.data.readers`."""
    folders = list_folders(directory)
    if not folders:
        raise FileNotFoundError(
            f"{directory} has none of the folders {', '.join(CATEGORIES)} of layout 'busi', and no images/ and masks/"
        )
    cases = []
    for category, places in folders:
        image_paths, mask_paths = files_of(places)
        if image_paths or mask_paths:
            check_pairs(places[0], image_paths, mask_paths, mask_pattern="<name>_mask.png")
        cases += [
            Case(
                name=name,
                target="breast lesion",
                image_source=ImageFile(path),
                mask_source=mask_source(path, mask_paths[name], notes),
                dataset="BUSI",
                release="BUSI",
                category=category or category_of(name),
            )
            for name, path in image_paths.items()
        ]
    if not cases:
        names = dict.fromkeys(place.name for _, places in folders for place in places)
        raise ValueError(f"{directory} holds no case: no <name>.png in {', '.join(names)}")
    return cases


def list_folders(directory: Path) -> list[tuple[str | None, list[Path]]]:
    """(category, folders of its images and masks): one folder for both, or one for each; None: names tell."""
    found: list[tuple[str | None, list[Path]]] = []
    for category in CATEGORIES:
        pairs = [
            (directory / category / "images", directory / category / "masks"),
            (directory / "images" / category, directory / "masks" / category),
        ]
        divided = [list(pair) for pair in pairs if all(folder.is_dir() for folder in pair)]
        if divided:
            found.append((category, divided[0]))
        elif (directory / category).is_dir():
            found.append((category, [directory / category]))
    flat = [directory / "images", directory / "masks"]
    if not found and all(folder.is_dir() for folder in flat):
        if any(category_of(path.stem) for path in image_files(flat[0])):
            found.append((None, flat))
    return found


def files_of(places: list[Path]) -> tuple[dict[str, Path], dict[str, tuple[Path, ...]]]:
    """Name of an image -> its file, and -> its masks; the second of two folders holds masks, whatever their names."""
    image_paths: dict[str, Path] = {}
    mask_paths: dict[str, tuple[Path, ...]] = {}
    for place in places:
        for path in image_files(place):
            match = re.fullmatch(r"(.+)_mask(_\d+)?", path.stem)
            name = match[1] if match else path.stem
            if match or place != places[0]:
                mask_paths[name] = (*mask_paths.get(name, ()), path)
            else:
                image_paths[name] = path
    return image_paths, mask_paths


def category_of(name: str) -> str | None:
    """The category with which a name begins, None where it begins otherwise."""
    return next((category for category in CATEGORIES if name.lower().startswith(category)), None)


def mask_source(image_path: Path, mask_paths: tuple[Path, ...], notes: list[str]) -> MaskFiles | MaskUnion:
    """The union of an image's masks, the one uncropped mask of the release cropped."""
    uncropped = [path for path in mask_paths if is_uncropped(image_path, path)]
    if not uncropped:
        return MaskFiles(mask_paths)
    (path,) = uncropped
    mask_size, image_size = UNCROPPED_MASKS[path.stem]
    notes.append(f"{path} has size {mask_size}: its center of the image's size {image_size} is used")
    others = tuple(other for other in mask_paths if other != path)
    return MaskUnion((*((MaskFiles(others),) if others else ()), UncroppedMask(path, image_size)))


def is_uncropped(image_path: Path, mask_path: Path) -> bool:
    """Whether a mask is the one of the release that is not cropped like its image."""
    known = UNCROPPED_MASKS.get(mask_path.stem)
    return known is not None and known == (header_size(mask_path), header_size(image_path))
