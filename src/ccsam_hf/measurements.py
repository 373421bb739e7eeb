"""Binary mask -> area, longest diameter, short axis and centroid, in pixels and, with a spacing, in millimetres."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform

from .pixel_spacing import PixelSpacing, spacing_at


@dataclass(frozen=True)
class MaskMeasurements:
    """Size and place of one object; all set pixels count as one object, also where they are not connected.

    In the pipeline that is the mask it returns: by default one connected object.

    Lengths run between the sides of pixels, not between their centres: a row of n pixels is n long, one pixel 1.

    Args:
        area_px: number of set pixels.
        longest_diameter_px: largest distance between two points of the outline (largest Feret diameter).
        short_axis_px: extent of the object perpendicular to the longest diameter.
        centroid_px: mean (x, y) of the set pixels' indices; None for an empty mask.
        area_mm2, longest_diameter_mm, short_axis_mm: the same in millimetres, None without a spacing. The longest
            diameter in millimetres may run in another direction where the spacing differs between rows and columns.
        no_mm_reason: why there are no millimetres although the image's file speaks of its pixels' size.
    """

    area_px: int
    longest_diameter_px: float
    short_axis_px: float
    centroid_px: tuple[float, float] | None
    area_mm2: float | None = None
    longest_diameter_mm: float | None = None
    short_axis_mm: float | None = None
    no_mm_reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The measurements that exist, ready for JSON: millimetres, or the reason for none, where there are any."""
        values = asdict(self)
        return {name: value for name, value in values.items() if value is not None or name == "centroid_px"}


def measure_mask(
    mask_binary: np.ndarray, spacing_mm: tuple[float, float] | PixelSpacing | None = None
) -> MaskMeasurements:
    """Measure one object.

    Args:
        mask_binary: (H, W) bool.
        spacing_mm: (between rows, between columns): height and width of a pixel in millimetres, both above zero. Or
            what `image_files.read_image` gave: a mask that leaves the region in which a file's spacing holds has no
            millimetres, and a reason.

    Returns:
        [`MaskMeasurements`]; an empty mask has area and lengths 0 and no centroid.

    Raises:
        TypeError: the mask is not a bool array.
        ValueError: the mask is not two-dimensional, or the spacing is not two finite numbers above zero.
    """
    mask_binary = np.asarray(mask_binary)
    if mask_binary.dtype != bool:
        raise TypeError(f"mask_binary has type {mask_binary.dtype}; expected bool: threshold it first")
    if mask_binary.ndim != 2:
        raise ValueError(f"mask_binary has shape {mask_binary.shape}; expected (height, width): one object at a time")
    check_spacing(spacing_mm)
    area = int(mask_binary.sum())
    outline_yx = outline_points(mask_binary)
    longest, short = diameters(outline_yx)
    centroid = tuple(float(value) for value in np.argwhere(mask_binary).mean(0)[::-1]) if area else None
    spacing_mm, reason = spacing_at(mask_binary, spacing_mm)
    if spacing_mm is None:
        return MaskMeasurements(area, longest, short, centroid, no_mm_reason=reason)
    longest_mm, short_mm = diameters(outline_yx * np.asarray(spacing_mm, dtype=float))
    area_mm2 = float(area * spacing_mm[0] * spacing_mm[1])
    return MaskMeasurements(area, longest, short, centroid, area_mm2, longest_mm, short_mm)


def check_spacing(spacing_mm: tuple[float, float] | PixelSpacing | None) -> None:
    """Raise ValueError unless the spacing is a file's, None or two finite numbers above zero."""
    if spacing_mm is None or isinstance(spacing_mm, PixelSpacing):
        return
    values = np.asarray(spacing_mm, dtype=float)
    if values.shape != (2,) or not np.isfinite(values).all() or (values <= 0).any():
        raise ValueError(
            f"spacing_mm={spacing_mm} was given; expected two numbers above zero: millimetres between rows and "
            "millimetres between columns"
        )


def outline_points(mask_binary: np.ndarray) -> np.ndarray:
    """Middles of the outer sides of the first and last pixel in every row and column, (n, 2) (y, x).

    Their convex hull is that of all sides' middles, so they are enough for diameters.
    """
    points = []
    for transposed, mask in ((False, mask_binary), (True, mask_binary.T)):
        lines = np.flatnonzero(mask.any(axis=1))
        first = mask[lines].argmax(axis=1) - 0.5
        last = mask.shape[1] - 0.5 - mask[lines][:, ::-1].argmax(axis=1)
        for ends in (first, last):
            points.append(np.stack([ends, lines] if transposed else [lines, ends], axis=1))
    return np.concatenate(points)


def diameters(points: np.ndarray) -> tuple[float, float]:
    """Largest distance between two of the points `(n, 2)`, and the extent perpendicular to it; 0 without points."""
    if len(points) == 0:
        return 0.0, 0.0
    hull = points[ConvexHull(points).vertices]
    distances = squareform(pdist(hull))
    start, end = np.unravel_index(distances.argmax(), distances.shape)
    longest = float(distances[start, end])
    along = (hull[end] - hull[start]) / longest
    across = hull @ np.array([-along[1], along[0]])
    return longest, float(across.max() - across.min())


__all__ = ["MaskMeasurements", "check_spacing", "measure_mask", "outline_points"]
