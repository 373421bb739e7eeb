"""Results of one image -> PNG and JSON, and what all formats share: their names, the check of masks."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..checks import import_extra
from ..results import SegmentationResult

FORMATS = ("png", "nifti", "dicom-seg")
LIBRARIES = {"nifti": "nibabel", "dicom-seg": "highdicom"}
UNNAMED = "object"  # label of an object that no text named


def check_formats(formats: Sequence[str]) -> None:
    """Raise ImportError where a library that writes one of `FORMATS` is absent."""
    for name in formats:
        if name in LIBRARIES:
            import_extra(LIBRARIES[name], "data", name)


def png_bytes(image: Image.Image) -> bytes:
    """An image as the content of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def mask_png(mask: np.ndarray) -> bytes:
    """A mask (H, W) bool as an 8-bit PNG of its size: 255 inside, 0 outside."""
    (mask,) = checked_masks([mask])
    return png_bytes(Image.fromarray(mask.astype(np.uint8) * 255))


def results_json(results: Sequence[SegmentationResult], names: Sequence[str]) -> dict[str, Any]:
    """What is known of the objects of one image, ready for JSON.

    Args:
        results: of `CCSamPipeline`.
        names: for each the file of its mask.

    Returns:
        {"objects": [{"label", "box", "score", "mask", "parts", ..., "area_px", ...}]}; what a text brought along
        stands there where a text prompted, and lengths in millimetres where the spacing is known.
    """
    about = ("text", "description", "box_score", "reason", "text_encoder", "tuned_on")
    objects = []
    for result, name in zip(results, names, strict=True):
        head = {"label": result.label, "box": result.box, "score": result.score, "mask": name}
        head["parts"] = result.parts
        if result.text is not None:
            head |= {field: getattr(result, field) for field in about}
        objects.append({**head, **result.measurements.to_dict()})
    return {"objects": objects}


def checked_masks(masks: Sequence[np.ndarray], num_axes: tuple[int, ...] = (2,)) -> np.ndarray:
    """Masks as one array (P, H, W); TypeError or ValueError where they are not bool, differ in shape or are none."""
    arrays = [np.asarray(mask) for mask in masks]
    if not arrays:
        raise ValueError("no mask came; expected at least one")
    for array in arrays:
        if array.dtype != bool:
            raise TypeError(f"a mask has type {array.dtype}; expected bool: threshold it first")
        if array.ndim not in num_axes or array.shape != arrays[0].shape:
            raise ValueError(
                f"masks of shapes {arrays[0].shape} and {array.shape} came; expected one shape (height, width)"
            )
    return np.stack(arrays)


__all__ = ["FORMATS", "UNNAMED", "check_formats", "mask_png", "png_bytes", "results_json"]
