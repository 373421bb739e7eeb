"""Masks -> a NIfTI label map, written by nibabel (extra `data`). For research. Not a medical device."""

import gzip
from collections.abc import Sequence

import numpy as np

from ..checks import import_extra
from ..measurements import check_spacing
from ..pixel_spacing import PixelSpacing, plain_spacing
from .mask_files import checked_masks


def masks_nifti(masks: Sequence[np.ndarray], spacing_mm: tuple[float, float] | PixelSpacing | None = None) -> bytes:
    """Masks as a label map in a compressed NIfTI file (.nii.gz).

    The array lies as SimpleITK, ITK-SNAP and 3D Slicer read a PNG of the image, so that both overlay: axes (column,
    row), first pixel at the origin, identity direction in ITK's frame (LPS), that is affine
    diag(-mm per column, -mm per row, 1, 1) in NIfTI's (RAS). It says nothing about the patient's position.

    Args:
        masks: P masks (H, W) bool, or (F, H, W) of a loop; 1 to 255 of them.
        spacing_mm: (between rows, between columns) in millimetres. Without it voxels have the size 1, and the
            header's description says "no spacing". The frames of a loop lie 1 apart in any case.

    Returns:
        Content of the file: uint8, (W, H) or (W, H, F); 0 is background and i + 1 mask i. Where masks overlap, the
        smallest one is seen (a nodule, not the gland around it), of two equally large ones the first.

    Raises:
        ImportError: nibabel is absent.
        TypeError, ValueError: masks that are not bool or differ in shape, too many of them, or a bad spacing.
    """
    nibabel = import_extra("nibabel", "data", "NIfTI")
    masks = checked_masks(masks, num_axes=(2, 3))
    check_spacing(spacing_mm)
    spacing_mm = plain_spacing(spacing_mm)
    if len(masks) > 255:
        raise ValueError(f"{len(masks)} masks came; expected at most 255, which a label map of 8 bits can name")
    labels = np.zeros(masks.shape[1:], dtype=np.uint8)
    for i in sorted(range(len(masks)), key=lambda i: (masks[i].sum(), i), reverse=True):
        labels[masks[i]] = i + 1
    per_row, per_column = (1.0, 1.0) if spacing_mm is None else (float(value) for value in spacing_mm)
    image = nibabel.Nifti1Image(labels.T, np.diag([-per_column, -per_row, 1.0, 1.0]))
    image.set_sform(image.affine, code="scanner")
    image.set_qform(image.affine, code="scanner")
    image.header.set_xyzt_units("unknown" if spacing_mm is None else "mm")
    image.header["descrip"] = f"ccsam-hf labels, research use{', no spacing' if spacing_mm is None else ''}"
    return gzip.compress(image.to_bytes(), mtime=0)


__all__ = ["masks_nifti"]
