"""What several releases share: masks beside images, masks in JPEG files, splits by number, patients, checked XML."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from ..cases import MaskFiles, check_pairs, decode, header_size, image_files

JPEG_EXTENSIONS = (".jpg", ".jpeg")


@dataclass(frozen=True)
class JpegMask:
    """A mask that was compressed as a JPEG: the pixels of at least half brightness.

    JPEG spreads an edge over its neighbourhood: all 614 masks of TN3K's test part hold values between 0 and 255, and
    taking every value but zero, as is right for lossless files, would add 10 % to the area of the median mask.
    """

    path: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) from the header."""
        return header_size(self.path)

    def read(self) -> np.ndarray:
        """(H0, W0) bool."""
        return np.asarray(decode(self.path).convert("L")) >= 128


def binary_mask(path: Path) -> JpegMask | MaskFiles:
    """The mask of a file that knows object and background: any value but zero, or half brightness in a JPEG."""
    return JpegMask(path) if path.suffix.lower() in JPEG_EXTENSIONS else MaskFiles((path,))


def files_by_name(folder: Path) -> dict[str, Path]:
    """The image files of a folder by their name without extension, sorted.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: two files differ in their extension alone.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder.parent} has no folder {folder.name!r}; the layout needs it")
    files: dict[str, Path] = {}
    for path in image_files(folder):
        if path.stem in files:
            raise ValueError(f"{path} and {files[path.stem]} share the name {path.stem!r}: rename one of them")
        files[path.stem] = path
    return dict(sorted(files.items()))


def list_pairs(image_folder: Path, mask_folder: Path) -> dict[str, tuple[Path, Path]]:
    """Name -> (image file, mask file) of two folders that use the same names, sorted by name.

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: there is no image, an image has no mask, a mask no image, or two files of a folder share a name.
    """
    images, masks = files_by_name(image_folder), files_by_name(mask_folder)
    check_pairs(image_folder.parent, images, masks, mask_pattern=f"{mask_folder.name}/<name>")
    return {name: (path, masks[name]) for name, path in images.items()}


def splits_by_number(path: Path, names: Iterable[str], notes: list[str]) -> dict[str, str]:
    """Name -> split, from a json file of positions: {"train": [0, 2 ...], "val": [1 ...]}.

    Source: haifangong/TRFE-Net-for-thyroid-nodule-segmentation at commit 6e35530, dataloaders/tn3k.py and tg3k.py,
    where a position counts the images in the order of their numbers.

    Args:
        path: the json file.
        names: the images, each named by a number.
        notes: gets a sentence where the file leaves images out; these have no split.

    Raises:
        ValueError: the file is of another form, a name is no number, a position stands in both parts or beyond the
            images.
    """
    try:
        parts = json.loads(path.read_text(encoding="utf-8-sig"))
        train, validation = list(parts["train"]), list(parts["val"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} cannot be read as a split ({error!r}); expected {{"train": [...], "val": [...]}}'
        ) from error
    unnumbered = [name for name in names if not name.isdecimal()]
    if unnumbered:
        raise ValueError(
            f"{path} gives the splits by number, but {len(unnumbered)} image(s) are not named by one, for instance "
            f"{unnumbered[0]!r}: give the files their original names"
        )
    ordered = sorted(names, key=int)
    beyond = [place for place in train + validation if place not in range(len(ordered))]
    if beyond:
        raise ValueError(
            f"{path} names {len(beyond)} position(s) without an image, for instance {beyond[0]!r}, and there are "
            f"{len(ordered)} images: complete the files"
        )
    twice = sorted(set(train) & set(validation))
    if twice:
        raise ValueError(
            f"{path} puts {len(twice)} image(s) into both train and val, for instance {ordered[twice[0]]!r}"
        )
    splits = {ordered[place]: "train" for place in train} | {ordered[place]: "validation" for place in validation}
    left_out = [name for name in ordered if name not in splits]
    if left_out:
        notes.append(
            f"{path} leaves {len(left_out)} image(s) out, for instance {left_out[0]!r}: they are kept without a split"
        )
    return splits


def patient_of(name: str) -> str | None:
    """The part of an image's name before the first "_" or space, as CAMUS and HMC-QU use it: "0055_2CH_000"."""
    patient = name.replace(" ", "_").split("_")[0]
    return patient if patient != name else None


def parse_xml(content: bytes, path: Path) -> ElementTree.Element:
    """The root of an XML document that declares no entities.

    Args:
        content: the document.
        path: named in errors.

    Raises:
        ValueError: it is no XML, or has a document type: entities declared there can grow without bound.
    """

    def refuse(*_):
        raise ValueError(f"{path} declares a document type (DOCTYPE), which may hold entities: remove it")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)
        return ElementTree.fromstring(content)
    except (expat.ExpatError, ElementTree.ParseError) as error:
        raise ValueError(f"{path} cannot be read as XML ({error}); repair or remove it") from error
