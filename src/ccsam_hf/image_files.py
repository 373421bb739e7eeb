"""Image file -> PIL image and, where the file states it, the pixel spacing in millimetres.

PNG, JPEG, TIFF and BMP through PIL, DICOM through pydicom (extra `data`). Resolutions in dots per inch are not read:
in ultrasound they describe the paper, not the patient.
"""

import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

PIL_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
ACCEPTED_FILES = "PNG, JPEG, TIFF, BMP or DICOM"
MAX_PIXELS = 100_000_000  # above it a small file may be made to fill the memory
CENTIMETRES = 3  # of Physical Units X/Y Direction, DICOM PS3.3 C.8.5.5.1.15
TISSUE_IMAGE = 1  # of Region Spatial Format, "2D", DICOM PS3.3 C.8.5.5.1.1


def read_image(path: str | Path, frame: int = 0) -> tuple[Image.Image, tuple[float, float] | None]:
    """Read one image from a file.

    Args:
        path: PNG, JPEG, TIFF, BMP (told by content, not by name) or DICOM file.
        frame: which frame of a DICOM loop or page of a TIFF file, from 0.

    Returns:
        The image, 8-bit grey ("L"), 16-bit grey ("I;16") or colour ("RGB", or another mode of PIL that the file has),
        turned as an EXIF orientation says; and the spacing (between rows, between columns) in millimetres of a DICOM
        file that states one, else None. DICOM values are stretched from their stored bits to 8 or 16 bits, and
        MONOCHROME1 is inverted, so that bright is echogenic.

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
        return read_dicom(path, frame)
    return read_with_pil(path, frame), None


def count_frames(path: str | Path) -> int:
    """How many frames or pages a file has that [`read_image`] reads."""
    path = Path(path)
    if is_dicom(path):
        header = pydicom_for(path).dcmread(path, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
        return int(header.get("NumberOfFrames") or 1)
    with Image.open(path, formats=PIL_FORMATS) as file:
        return getattr(file, "n_frames", 1)


def is_dicom(path: Path) -> bool:
    """Whether a file carries DICOM's mark behind its preamble, or the name of one."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")


def read_with_pil(path: Path, frame: int) -> Image.Image:
    """One page of a PNG, JPEG, TIFF or BMP file; errors as in `read_image`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS decides
            image = Image.open(path, formats=PIL_FORMATS)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} is not an image that can be read ({path.stat().st_size} bytes); expected a "
            f"{ACCEPTED_FILES} file: convert it first"
        ) from error
    with image:
        check_frame(path, frame, getattr(image, "n_frames", 1))
        check_size(path, image.width, image.height)
        try:
            image.seek(frame)
            image.load()
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise ValueError(f"{path} is a damaged {image.format} file ({error}); expected a complete file") from error
        return ImageOps.exif_transpose(image)


def read_dicom(path: Path, frame: int) -> tuple[Image.Image, tuple[float, float] | None]:
    """One frame of a DICOM file and its pixel spacing; errors as in `read_image`."""
    pydicom = pydicom_for(path)
    try:
        dataset = pydicom.dcmread(path)
        num_frames, width, height = int(dataset.get("NumberOfFrames") or 1), int(dataset.Columns), int(dataset.Rows)
    except Exception as error:  # pydicom and its decoders raise many kinds for a damaged file
        raise unreadable_dicom(path, error) from error
    check_frame(path, frame, num_frames)
    check_size(path, width, height)
    try:
        values = pydicom.pixels.pixel_array(dataset, index=frame)  # YBR comes back as RGB
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            values = pydicom.pixels.apply_color_lut(values, dataset)
    except Exception as error:
        raise unreadable_dicom(path, error) from error
    return dicom_to_pil(path, values, dataset), dicom_spacing(dataset)


def pydicom_for(path: Path) -> ModuleType:
    """pydicom, which this file needs; ImportError where it is not installed."""
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise ImportError(f"{path} is a DICOM file, which needs pydicom: pip install ccsam-hf[data]") from error
    return pydicom


def unreadable_dicom(path: Path, error: Exception) -> ValueError:
    """The error to raise where pydicom gives up on a file."""
    return ValueError(
        f"{path} is not a DICOM image that can be read ({type(error).__name__}: {error}); expected a complete DICOM "
        "image: convert it to PNG, or install pydicom's decoders where the file is compressed"
    )


def dicom_to_pil(path: Path, values: np.ndarray, dataset: Any) -> Image.Image:
    """Pixel values of a DICOM file as a PIL image; ValueError for signed values and unknown colour models."""
    photometric = dataset.PhotometricInterpretation
    if values.dtype.kind != "u":
        raise ValueError(
            f"{path} holds signed pixel values, as in computed tomography; expected unsigned ones: convert it to PNG"
        )
    if values.ndim == 3 and values.shape[-1] == 3:
        return Image.fromarray(values if values.itemsize == 1 else (values >> 8).astype(np.uint8))
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or values.ndim != 2:
        raise ValueError(
            f"{path} has photometric interpretation {photometric} and shape {values.shape}; expected MONOCHROME1, "
            "MONOCHROME2, RGB, YBR or PALETTE COLOR: convert it to PNG"
        )
    bits = int(dataset.BitsStored)
    unit = np.clip(values / (2**bits - 1), 0, 1)
    unit = 1 - unit if photometric == "MONOCHROME1" else unit
    if bits <= 8:
        return Image.fromarray(np.rint(unit * 255).astype(np.uint8))
    return Image.fromarray(np.rint(unit * 65535).astype(np.uint16))


def dicom_spacing(dataset: Any) -> tuple[float, float] | None:
    """(between rows, between columns) in millimetres, None where the file states none above zero, or several.

    Source: DICOM PS3.3 C.8.5.5 (US Region Calibration, Physical Delta X/Y) and 10.7.1.3 (Pixel Spacing).
    """
    found = set()
    for region in dataset.get("SequenceOfUltrasoundRegions") or []:
        units = region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")
        if units == (CENTIMETRES, CENTIMETRES) and region.get("RegionSpatialFormat", TISSUE_IMAGE) == TISSUE_IMAGE:
            delta_y, delta_x = region.get("PhysicalDeltaY"), region.get("PhysicalDeltaX")
            if delta_x and delta_y:
                found.add((round(abs(float(delta_y)) * 10, 9), round(abs(float(delta_x)) * 10, 9)))
    if not found and dataset.get("PixelSpacing"):
        found.add(tuple(float(value) for value in dataset.PixelSpacing))
    return found.pop() if len(found) == 1 and min(min(found)) > 0 else None


def check_frame(path: Path, frame: int, num_frames: int) -> None:
    """Raise ValueError unless 0 <= frame < num_frames."""
    if not 0 <= frame < num_frames:
        raise ValueError(f"frame={frame} was asked of {path}, which has {num_frames}; expected 0 to {num_frames - 1}")


def check_size(path: Path, width: int, height: int) -> None:
    """Raise ValueError for an image without pixels or with too many."""
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ValueError(
            f"{path} is {width} x {height} pixels; expected at least one and at most {MAX_PIXELS:,}: crop or shrink it"
        )


__all__ = ["count_frames", "read_image"]
