"""A picture -> a DICOM Secondary Capture that a segmentation can refer to. For research. Not a medical device."""

from typing import Any

import numpy as np
from PIL import Image

from ..checks import import_extra
from ..measurements import check_spacing
from ..pixel_spacing import PixelSpacing, plain_spacing
from ..visualization import to_rgb
from .dicom_headers import LONG_STRING, UTF_8


def secondary_capture(
    image: Image.Image | np.ndarray, spacing_mm: tuple[float, float] | PixelSpacing | None = None, name: str = "image"
) -> Any:
    """A picture that was no DICOM file as a DICOM Secondary Capture, so that a DICOM-SEG can refer to it.

    Args:
        image: PIL image, or an array (H, W) or (H, W, 3); see `visualization.to_rgb`. Grey of 8 and 16 bits and
            8-bit colour keep their values.
        spacing_mm: (between rows, between columns) in millimetres or a PixelSpacing, None where unknown.
        name: of the picture: description of study and series. The patient stays empty, as nothing is known of one.

    Returns:
        pydicom Dataset; `dicom_bytes` makes a file of it.

    Raises:
        ImportError: highdicom is absent.
        ValueError: a bad spacing, or an image of another kind.
    """
    highdicom, pydicom = import_extra("highdicom", "data", "DICOM-SEG"), import_extra("pydicom", "data", "DICOM-SEG")
    check_spacing(spacing_mm)
    spacing_mm = plain_spacing(spacing_mm)
    pixels = np.asarray(image) if is_grey(image) else np.asarray(to_rgb(image))
    uids = [pydicom.uid.generate_uid() for _ in range(3)]
    capture = highdicom.sc.SCImage(
        pixel_array=pixels,
        photometric_interpretation="RGB" if pixels.ndim == 3 else "MONOCHROME2",
        bits_allocated=pixels.dtype.itemsize * 8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        study_instance_uid=uids[0],
        series_instance_uid=uids[1],
        series_number=1,
        sop_instance_uid=uids[2],
        instance_number=1,
        manufacturer="ccsam-hf",
        series_description=name[:LONG_STRING],
        pixel_spacing=spacing_mm,
    )
    capture.SpecificCharacterSet = UTF_8
    capture.PatientOrientation = None  # highdicom demands one; it is unknown, as the side of the body is
    capture.Laterality = None
    capture.StudyDescription = name[:LONG_STRING]
    return capture


def is_grey(image: Image.Image | np.ndarray) -> bool:
    """Whether an image is grey with 8 or 16 bits."""
    if isinstance(image, Image.Image):
        return image.mode in ("L", "I;16")
    return np.ndim(image) == 2 and np.asarray(image).dtype in (np.uint8, np.uint16)


__all__ = ["secondary_capture"]
