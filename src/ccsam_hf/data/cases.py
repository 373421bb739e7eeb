"""A case of a data set: one image, the mask of one object, and what is known of both (`Case`).

A case holds where its pixels lie and reads them anew at every access; listing a data set opens no pixel data.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from ..image_files import TURNED_BY, ImageHeader, read_image, read_with_pil, to_grey
from ..image_files import read_header as read_image_header

SPLITS = ("train", "validation", "test")
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
DEFAULT_TARGET = "object"


class PixelSource(Protocol):
    """Where an image or a mask lies. Two sources are equal when they name the same pixels."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files it reads."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), from headers alone; ValueError where a file cannot be read."""

    def read(self) -> np.ndarray:
        """(H0, W0) uint8 of an image or bool of a mask; ValueError where a file cannot be read."""


@dataclass(frozen=True)
class Case:
    """An image with the mask of one object. The pixels are read anew at every access and never kept.

    Attributes:
        name: identifies the image within its data set; several objects of one image share it.
        target: what the object is, for instance "breast lesion".
        image_source, mask_source: where the pixels lie.
        dataset: name of the data set, for instance "BUSI".
        class_id: value of the object in the data set's labels; 1 where its masks are binary.
        split: one of `SPLITS` where the release tells, else None.
        patient_id: identifies the patient within the data set where the release tells, else None.
        spacing_mm: millimetres (between rows, between columns) where known, else None.
        category: folder or finding under which the release files the image, for instance "malignant", else None.
        release: the published data set, by its name in `sources.SOURCES`, where the reader knows the image to be from
            it; None for one's own data, whatever their folder is called.
    """

    name: str
    target: str
    image_source: PixelSource
    mask_source: PixelSource
    dataset: str = ""
    class_id: int = 1
    split: str | None = None
    patient_id: str | None = None
    spacing_mm: tuple[float, float] | None = None
    category: str | None = None
    release: str | None = None

    @property
    def image(self) -> np.ndarray:
        """The grey image at its original size, (H0, W0) uint8; colours are weighted as in ITU-R 601.

        Raises:
            ValueError: the file cannot be decoded.
        """
        return self.image_source.read()

    @property
    def mask(self) -> np.ndarray:
        """The mask of the object at the image's size, (H0, W0) bool.

        Raises:
            ValueError: a file cannot be decoded, or does not hold the mask of one object.
        """
        return self.turn_mask(self.mask_source.read())

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image, from its header."""
        return self.image_source.size

    def turn_mask(self, mask: np.ndarray) -> np.ndarray:
        """A mask as it was drawn, turned as the image is where its size shows that the stored picture was outlined."""
        source = self.image_source
        return source.turn_mask(mask) if isinstance(source, ImageFile) else mask

    def check(self) -> None:
        """Look at the headers of image and mask.

        Raises:
            ValueError: one cannot be read, or their sizes differ; see `ImageFile.turn_mask`.
        """
        image_size, mask_size = self.image_source.size, self.mask_source.size
        stored = isinstance(self.image_source, ImageFile) and self.image_source.header.stored_size == mask_size
        if image_size != mask_size and not stored:
            raise ValueError(
                f"mask {self.mask_source.paths[0]} has size {mask_size} and its image {self.image_source.paths[0]} "
                f"{image_size} (height, width); expected one size: export the mask at the image's size"
            )


@dataclass(frozen=True)
class ImageFile:
    """An image in a file of PIL's, upright."""

    path: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    @property
    def header(self) -> ImageHeader:
        """Sizes and orientation of the file."""
        return read_image_header(self.path)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright picture, from the header."""
        return self.header.size

    def read(self) -> np.ndarray:
        """(H0, W0) uint8 grey values."""
        return to_grey(read_image(self.path)[0])

    def turn_mask(self, mask: np.ndarray) -> np.ndarray:
        """A mask of this image, upright.

        A mask belongs to the upright picture, as viewers show it. One whose size is that of the stored picture alone
        was drawn there, and is turned along; this can be seen of pictures that are turned by 90 degrees.
        """
        header = self.header
        if mask.shape == header.size or mask.shape != header.stored_size:
            return mask
        return np.asarray(Image.fromarray(mask).transpose(TURNED_BY[header.orientation]))


@dataclass(frozen=True)
class MaskFiles:
    """The union of masks in files of PIL's.

    Attributes:
        paths: files of one size.
        value: the grey value of the object's pixels; None where every value but zero belongs to it.
    """

    paths: tuple[Path, ...]
    value: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of all files; ValueError where they differ."""
        sizes = {header_size(path): path for path in self.paths}
        if len(sizes) > 1:
            (first, path), (second, other) = list(sizes.items())[:2]
            raise ValueError(
                f"mask {other} has size {second} and {path} {first} (height, width); expected one size for all masks "
                "of an image: export them at the image's size"
            )
        return next(iter(sizes))

    def read(self) -> np.ndarray:
        """(H0, W0) bool."""
        return np.any([self.mask_in(decode(path), path) for path in self.paths], axis=0)

    def mask_in(self, picture: Image.Image, path: Path) -> np.ndarray:
        """(H, W) bool: the object in one decoded file; its path is named in errors."""
        return mask_of(picture, self.value)


def mask_of(image: Image.Image, value: int | None) -> np.ndarray:
    """(H, W) bool: pixels of a grey value or index of a palette, or all that are drawn, see `drawn_values`."""
    if value is not None:
        return np.asarray(image.convert("L") if image.mode != "P" else image) == value
    return drawn_values(image) != 0


def drawn_values(image: Image.Image) -> np.ndarray:
    """What is drawn in a mask, (H, W) int32: grey values, indices of a palette, or colours as one number each.

    Zero is the ground: what is black, or transparent where a part of the picture is. In a picture of which nothing but
    black can be seen beside the transparent part, black is drawn. Of a palette the first colour is the ground, unless
    another one of those in use is black.
    """
    if image.mode in ("1", "L"):
        return np.asarray(image).astype(np.int32)
    if image.mode == "P" and "transparency" not in image.info:
        indices = np.asarray(image).astype(np.int32)
        colours = numbers_of(image)
        black = np.unique(indices[colours == 0])
        return indices if len(black) == 0 or 0 in black else colours
    colours = numbers_of(image)
    if not image.has_transparency_data:
        return colours
    seen = np.asarray(image.convert("RGBA"))[..., 3] >= 128
    if not seen.all() and not colours[seen].any():
        return seen.astype(np.int32)
    return np.where(seen, colours, 0)


def numbers_of(image: Image.Image) -> np.ndarray:
    """(H, W) int32: the grey values of a picture without colour, else each colour as 65536 R + 256 G + B."""
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int32), 2, 0)
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return red
    return (red << 16) + (green << 8) + blue


def header_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright picture in an image file, from its header; ValueError where there is none."""
    return read_image_header(path).size


def decode(path: Path) -> Image.Image:
    """The upright picture of a mask file with the values that are stored; ValueError where it cannot be read."""
    image = read_with_pil(path, None)
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{path} holds values of mode {image.mode!r}; expected 8 bits a channel: convert it first")
    return image


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder by their extension, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_EXTENSIONS)


def check_pairs(folder: Path, image_names: Iterable[str], mask_names: Iterable[str], mask_pattern: str) -> None:
    """Raise ValueError unless there is an image, and every image has a mask and every mask an image.

    Args:
        folder: named in the error.
        image_names, mask_names: names of what was found.
        mask_pattern: how a mask's file is named, for the error.
    """
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
