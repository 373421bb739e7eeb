"""Layout "busi": breast lesions, as released by Al-Dhabyani et al., Data in Brief 28, 2020.

    <benign|malignant|normal>/<name>.png
    <benign|malignant|normal>/<name>_mask.png, <name>_mask_1.png ...    united; empty in normal cases

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
    folders = [directory / name for name in CATEGORIES if (directory / name).is_dir()]
    if not folders:
        raise FileNotFoundError(f"{directory} has none of the folders {', '.join(CATEGORIES)} of layout 'busi'")
    cases = []
    for folder in folders:
        image_paths: dict[str, Path] = {}
        mask_paths: dict[str, tuple[Path, ...]] = {}
        for path in image_files(folder):
            mask_of_image = re.fullmatch(r"(.+)_mask(_\d+)?", path.stem)
            if mask_of_image:
                mask_paths[mask_of_image[1]] = (*mask_paths.get(mask_of_image[1], ()), path)
            else:
                image_paths[path.stem] = path
        if image_paths or mask_paths:
            check_pairs(folder, image_paths, mask_paths, mask_pattern="<name>_mask.png")
        cases += [
            Case(
                name=name,
                target="breast lesion",
                image_source=ImageFile(path),
                mask_source=mask_source(path, mask_paths[name], notes),
                dataset="BUSI",
                release="BUSI",
                category=folder.name,
            )
            for name, path in image_paths.items()
        ]
    if not cases:
        raise ValueError(f"{directory} holds no case: no <name>.png in {', '.join(folder.name for folder in folders)}")
    return cases


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
