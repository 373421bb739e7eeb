"""Image file -> PIL image and, where the file states it, the pixel spacing in millimetres.

Pipeline, command line, readers of data sets, audit and demo all open images here. PNG, JPEG, TIFF and BMP are read by
PIL and turned as their EXIF orientation says, DICOM by pydicom (extra `data`). Resolutions in dots per inch are not
read: in ultrasound they describe the paper, not the patient.
"""

import logging
import struct
import sys
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from .dicom_pixels import pydicom_for, render_frame
from .pixel_spacing import PixelSpacing, simplified, spacing_of_dicom

PIL_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
ACCEPTED_FILES = "PNG, JPEG, TIFF, BMP or DICOM"
MAX_PIXELS = 100_000_000  # above it a small file may be made to fill the memory

FEW_LEVELS = 16  # grey levels of 256: an image with no more of them was read or exported wrongly, or is empty
TURNED_BY = {  # EXIF orientation -> what brings the stored picture upright; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TIFF_PHOTOMETRIC, TIFF_BITS, TIFF_WIDTH, TIFF_HEIGHT = 262, 258, 256, 257
WHITE_IS_ZERO = 0  # of TIFF's PhotometricInterpretation
CONTAINERS = (8, 10, 12, 16)  # bits that ultrasound images use of 16

logger = logging.getLogger(__name__)


@lru_cache(maxsize=10_000)
def warn_once(message: str) -> None:
    """Log a warning, at its first time alone: a file may be read in every epoch."""
    logger.warning("%s", message)


def read_image(
    path: str | Path, frame: int | None = None
) -> tuple[Image.Image, tuple[float, float] | PixelSpacing | None]:
    """Read one image from a file.

    Args:
        path: PNG, JPEG, TIFF, BMP (told by content, not by name) or DICOM file.
        frame: which frame of a DICOM loop or page of a TIFF file, from 0. Left out, the first; a warning names the
            file where there are more.

    Returns:
        The image, 8-bit grey ("L"), 16-bit grey ("I;16") or colour ("RGB", or another mode of PIL that the file has),
        turned as an EXIF orientation says. Values are stretched from the bits that the file uses to 8 or 16 bits, and
        inverted where the file says that zero is white, so that bright is echogenic. A warning names the file where
        the image has nearly no grey levels, or where only its values tell how many bits it uses.

        The spacing (between rows, between columns) in millimetres of a DICOM file that states one, None where a file
        states none. Where it holds in a part of the image alone, or is stated in a way that cannot be used,
        [`PixelSpacing`], which the pipeline and `measure_mask` take as their spacing.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a DICOM file and no pydicom.
        ValueError: not a readable image of an accepted kind, too large, or no such frame.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a {ACCEPTED_FILES} file")
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected one {ACCEPTED_FILES} file")
    if is_dicom(path):
        image, spacing = read_dicom(path, frame)
    else:
        image, spacing = stretched(path, frame, read_with_pil(path, frame)), None
    check_contrast(image, str(path))
    return image, spacing


def count_frames(path: str | Path) -> int:
    """How many frames or pages a file has that [`read_image`] reads."""
    path = Path(path)
    if is_dicom(path):
        header = pydicom_for(path).dcmread(path, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
        return int(header.get("NumberOfFrames") or 1)
    with open_with_pil(path) as file:
        return getattr(file, "n_frames", 1)


def is_dicom(path: Path) -> bool:
    """Whether a file carries DICOM's mark behind its preamble, or the name of one."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")


@dataclass(frozen=True)
class ImageHeader:
    """What the header of a file of PIL's tells.

    Attributes:
        stored_size: (height, width) of the picture as it is stored.
        orientation: of EXIF, 1 to 8; 1 where there is none.
    """

    stored_size: tuple[int, int]
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright picture."""
        return self.stored_size[::-1] if self.orientation >= 5 else self.stored_size


def read_header(path: Path) -> ImageHeader:
    """Sizes and orientation of a PNG, JPEG, TIFF or BMP file, without its pixels; ValueError where it is none."""
    with open_with_pil(path) as image:
        size = image.height, image.width
        try:
            if image.format == "TIFF":  # newer releases of PIL give the upright size here, older ones the stored
                size = int(image.tag_v2[TIFF_HEIGHT]), int(image.tag_v2[TIFF_WIDTH])
            return ImageHeader(size, orientation_of(image))
        except (OSError, SyntaxError, ValueError, KeyError, struct.error) as error:
            raise damaged(path, image, error) from error


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation of an opened image, 1 to 8."""
    if image.format == "PNG" and "exif" not in image.info and not has_exif_behind_pixels(image):
        exif = Image.Image.getexif(image)  # PngImageFile.getexif would decode the pixels to look behind them
    else:
        exif = image.getexif()
    orientation = exif.get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in TURNED_BY else 1


def has_exif_behind_pixels(image: Image.Image) -> bool:
    """Whether a PNG file has an eXIf chunk behind its pixels, not yet read; leaves the file where it was."""
    file = image.fp
    if file is None:  # everything is read
        return False
    place = file.tell()
    try:
        file.seek(8)
        while len(start := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", start)
            if kind in (b"eXIf", b"IEND"):
                return kind == b"eXIf"
            file.seek(length + 4, 1)
        return False
    finally:
        file.seek(place)


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says, which it then no longer has; else the image itself."""
    if orientation_of(image) == 1:
        return image
    load(image)
    return ImageOps.exif_transpose(image)


def load(image: Image.Image) -> None:
    """Decode an opened image.

    PIL 12.3 maps an uncompressed TIFF file into memory by the sides of the upright picture, which scrambles one that
    is stored on its side. Without a file name it reads the file instead.
    """
    name = getattr(image, "filename", "")
    if image.format == "TIFF":
        image.filename = ""
    image.load()
    if image.format == "TIFF":
        image.filename = name


def open_with_pil(path: Path) -> Image.Image:
    """An opened, not yet decoded PNG, JPEG, TIFF or BMP file; ValueError where it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS decides
            return Image.open(path, formats=PIL_FORMATS)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist; expected a {ACCEPTED_FILES} file") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} is not an image that can be read ({path.stat().st_size} bytes); expected a {ACCEPTED_FILES} "
            "file: convert it first"
        ) from error


def damaged(path: Path, image: Image.Image, error: Exception) -> ValueError:
    """The error to raise where the inside of a file is no whole image."""
    return ValueError(f"{path} is a damaged {image.format} file ({error}); expected a complete file")


def stem_of(path: Path) -> str:
    """A file's name without its extension; a number behind the last dot is a part of the name, as in DICOM's UIDs."""
    return path.name if path.suffix[1:].isdecimal() else path.stem


def read_with_pil(path: Path, frame: int | None) -> Image.Image:
    """One page of a PNG, JPEG, TIFF or BMP file, upright, with the values that are stored; errors as `read_image`."""
    with open_with_pil(path) as image:
        frame = chosen_frame(path, frame, getattr(image, "n_frames", 1))
        check_size(path, image.width, image.height)
        try:
            image.seek(frame)
            load(image)
            return upright(image)
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
            raise damaged(path, image, error) from error


def stretched(path: Path, frame: int | None, image: Image.Image) -> Image.Image:
    """An image of PIL's with values over the whole of 8 or 16 bits, and bright where it should be bright."""
    if image.mode == "F":
        raise ValueError(f"{path} holds floating-point values; expected 8 or 16 bits a channel: convert it first")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"{path} holds values {values.min()} to {values.max()}; expected 0 to 65535: convert it")
        bits, white_is_zero = tiff_bits(path, frame or 0)
        unit = np.clip(values / (2 ** (bits or used_bits(path, int(values.max()))) - 1), 0, 1)
        return Image.fromarray(np.rint((1 - unit if white_is_zero else unit) * 65535).astype(np.uint16))
    if image.mode in ("RGB", "RGBA", "LA") and max(high for _, high in image.convert("RGB").getextrema()) < 16:
        deep = deep_colour(path, frame or 0)
        if deep is not None:
            unit = np.clip(deep / (2 ** used_bits(path, int(deep.max())) - 1), 0, 1)
            return Image.fromarray(np.rint(unit * 255).astype(np.uint8))
    return image


def used_bits(path: Path, highest: int) -> int:
    """How many bits the values of a 16-bit file use, by the highest; said where it is fewer than 16."""
    bits = next(bits for bits in CONTAINERS if highest < 2**bits)
    if 0 < highest and bits < 16:
        warn_once(
            f"{path} holds 16-bit values of at most {highest}, so it is taken for an image of {bits} bits: stretch it "
            "to 16 bits, or save it with 8, if that is wrong"
        )
    return bits


def tiff_bits(path: Path, frame: int) -> tuple[int | None, bool]:
    """Bits a value where a TIFF file states fewer than 16, else None; and whether zero is white."""
    with open_with_pil(path) as image:
        if image.format != "TIFF":
            return None, False
        image.seek(frame)
        bits = image.tag_v2.get(TIFF_BITS, (1,))[0]
        return bits if bits < 16 else None, image.tag_v2.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO


def deep_colour(path: Path, frame: int) -> np.ndarray | None:
    """(H, W, 3) uint16 of a file with 16 bits a channel, upright; None of another one.

    PIL gives the high bytes alone. Told that the bytes stand in the other order, it gives the low ones.
    """
    halves = []
    for swap in (False, True):
        with open_with_pil(path) as image:
            image.seek(frame)
            if not all(";16" in raw_mode(args) for *_, args in image.tile):
                return None
            if swap:
                image.tile = [type(tile)(*tile[:3], with_other_order(tile[3])) for tile in image.tile]
            load(image)
            halves.append(np.asarray(upright(image).convert("RGB")).astype(np.uint16))
    return (halves[0] << 8) | halves[1]


def raw_mode(arguments: Any) -> str:
    """The layout of values in a tile of PIL's, such as "RGB;16L"."""
    return arguments if isinstance(arguments, str) else str(arguments[0])


def with_other_order(arguments: Any) -> Any:
    """The arguments of a tile of PIL's with the bytes of each value in the other order."""
    mode = raw_mode(arguments)
    native = "L" if sys.byteorder == "little" else "B"
    order = native if mode[-1] == "N" else mode[-1]
    swapped = mode[:-1] + ("B" if order == "L" else "L")
    return swapped if isinstance(arguments, str) else (swapped, *arguments[1:])


def check_contrast(image: Image.Image, name: str) -> None:
    """Warn where an image is black or has nearly no grey levels; `name` is told."""
    levels = np.flatnonzero(np.bincount(to_grey(image).ravel(), minlength=256))
    if len(levels) <= FEW_LEVELS:
        what = "black" if levels[-1] == 0 else f"only {len(levels)} grey level(s), {levels[0]} to {levels[-1]} of 255"
        warn_once(f"{name} is nearly empty: {what}; look at it, and export it anew where the picture is not so")


def to_grey(image: Image.Image) -> np.ndarray:
    """(H, W) uint8: colours are weighted as in ITU-R 601, of 16 bits the highest 8 are taken, rounded."""
    if image.mode.startswith("I"):
        return np.rint(np.asarray(image) / 257).astype(np.uint8)  # 65535 -> 255
    return np.array(image.convert("L"))


def read_dicom(path: Path, frame: int | None) -> tuple[Image.Image, tuple[float, float] | PixelSpacing | None]:
    """One frame of a DICOM file and its pixel spacing; errors as in `read_image`."""
    pydicom = pydicom_for(path)
    try:
        dataset = pydicom.dcmread(path)
        content = content_without_image(dataset)
        if content is None:
            num_frames, size = int(dataset.get("NumberOfFrames") or 1), (int(dataset.Rows), int(dataset.Columns))
    except Exception as error:  # pydicom and its decoders raise many kinds for a damaged file
        raise unreadable_dicom(path, error) from error
    if content is not None:
        raise ValueError(f"{path} is a DICOM file without an image ({content}); expected an image: leave it out")
    frame = chosen_frame(path, frame, num_frames)
    check_size(path, size[1], size[0])
    try:
        image = render_frame(dataset, frame, lambda message: warn_once(f"{path}: {message}"))
    except Exception as error:
        raise unreadable_dicom(path, error) from error
    return image, simplified(spacing_of_dicom(dataset), size)


def content_without_image(dataset: Any) -> str | None:
    """What a DICOM data set is that holds no image, such as a report or a presentation state; None for an image."""
    if "Rows" in dataset or "SOPClassUID" not in dataset:  # without a class it is damaged, and no report
        return None
    return f"{dataset.SOPClassUID.name}, modality {dataset.get('Modality') or 'unknown'}"


def is_dicom_without_image(path: Path) -> bool:
    """Whether a file is DICOM but holds no image, as a report or a presentation state beside the images of a study."""
    if not is_dicom(path):
        return False
    try:
        return content_without_image(pydicom_for(path).dcmread(path, stop_before_pixels=True)) is not None
    except Exception:  # a damaged file is no report: it is read, and refused there by name
        return False


def unreadable_dicom(path: Path, error: Exception) -> ValueError:
    """The error to raise where pydicom gives up on a file."""
    told = " ".join(str(error).split())  # pydicom lists decoders over several lines
    return ValueError(
        f"{path} is not a DICOM image that can be read ({type(error).__name__}: {told}); expected a complete DICOM "
        "image: convert it to PNG, or where it is compressed install pydicom's decoders (pip install python-gdcm)"
    )


def chosen_frame(path: Path, frame: int | None, num_frames: int) -> int:
    """The frame to read; ValueError unless 0 <= frame < num_frames, a warning where several are left unnamed."""
    if frame is None:
        if num_frames > 1:
            warn_once(
                f"{path} holds {num_frames} frames or pages and the first is read: choose another by frame= in Python "
                "or --frame, from 0, or save each as a file of its own"
            )
        return 0
    if not 0 <= frame < num_frames:
        raise ValueError(f"frame={frame} was asked of {path}, which has {num_frames}; expected 0 to {num_frames - 1}")
    return frame


def check_size(path: Path, width: int, height: int) -> None:
    """Raise ValueError for an image without pixels or with too many."""
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ValueError(
            f"{path} is {width} x {height} pixels; expected at least one and at most {MAX_PIXELS:,}: crop or shrink it"
        )


__all__ = ["count_frames", "read_image", "stem_of", "to_grey", "upright"]
