"""Thresholded mask -> the one object that a prompt asked for: connected parts, small holes, the limit of a box.

Parts touch each other at sides or corners of pixels (8-connected), so a hole is bounded by sides (4-connected).
"""

from collections.abc import Sequence
from math import ceil, floor
from typing import Literal

import numpy as np
from scipy import ndimage

Keep = Literal["largest", "all"]
KEEP: tuple[Keep, ...] = ("largest", "all")
BOX_MARGIN = 0.05  # on each side, so that the box grows by a tenth
SMALL_HOLE = 0.05  # share of the object's area up to which a hole is filled
TOUCHING = np.ones((3, 3), dtype=bool)


def count_parts(mask_binary: np.ndarray) -> int:
    """Number of connected parts of a mask (H, W) bool."""
    return int(ndimage.label(mask_binary, TOUCHING)[1])


def clean_mask(
    mask_binary: np.ndarray,
    box: Sequence[float] | None = None,
    points: Sequence[Sequence[float]] = (),
    labels: Sequence[float] = (),
    keep: Keep = "largest",
) -> np.ndarray:
    """The object that the prompt means, out of everything that a model marked.

    1. With a box, what lies further outside it than `BOX_MARGIN` of its width or height is left out. A box that does
       not hold all positive clicks is widened to hold them first.
    2. `keep="largest"`: of the connected parts one stays: that under the first positive click; without one, that with
       most pixels in the box; else the largest.
    3. `keep="largest"`: holes of up to `SMALL_HOLE` of the object's area are filled, unless a negative click lies in
       them. Larger ones stay: the myocardium around its ventricle.

    Args:
        mask_binary: (H, W) bool.
        box: x0 y0 x1 y1 (edges) in pixels of the mask.
        points: (N, 2), (x, y) in pixels of the mask.
        labels: (N,), 1 for a click on the object, 0 for one beside it; other values are ignored.
        keep: "largest" or "all".

    Returns:
        (H, W) bool; with "largest" at most one connected part.

    Raises:
        ValueError: `keep` is another word.
    """
    check_keep(keep)
    positive = [point for point, label in zip(points, labels, strict=True) if label == 1]
    negative = [point for point, label in zip(points, labels, strict=True) if label == 0]
    limit = limit_of(mask_binary.shape, box, points, labels)
    if limit is not None:
        mask_binary = mask_binary & limit
    if keep == "all" or not mask_binary.any():
        return mask_binary
    return fill_small_holes(select_part(mask_binary, box, positive), negative)


def check_keep(keep: str) -> None:
    """Raise ValueError unless `keep` is one of `KEEP`."""
    if keep not in KEEP:
        raise ValueError(f"keep={keep!r} was given; expected 'largest' (one connected object) or 'all' (every part)")


def follow_mask(probability: np.ndarray, marked: np.ndarray, mask_binary: np.ndarray, threshold: float) -> np.ndarray:
    """The probability, changed where a mask was cleaned so that it agrees with it at the threshold.

    Args:
        probability: (H, W) float32.
        marked: (H, W) bool, the mask before `clean_mask`.
        mask_binary: (H, W) bool, the mask after it.
        threshold: at which `marked` was cut.

    Returns:
        (H, W) float32: at most the threshold where a part was left out, just above it where a hole was filled.
    """
    cut = np.float32(threshold)
    lowered = np.where(marked & ~mask_binary, np.minimum(probability, cut), probability)
    return np.where(mask_binary & ~marked, np.maximum(lowered, np.nextafter(cut, np.float32(1))), lowered)


def limit_of(
    shape: tuple[int, int],
    box: Sequence[float] | None = None,
    points: Sequence[Sequence[float]] = (),
    labels: Sequence[float] = (),
) -> np.ndarray | None:
    """(H, W) bool, where the mask of a box may lie: see `clean_mask`; None without a box."""
    if box is None:
        return None
    return box_limit(hull(box, [point for point, label in zip(points, labels, strict=True) if label == 1]), shape)


def hull(box: Sequence[float], points: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """The smallest box around a box and the pixels at some points."""
    x0, y0, x1, y1 = box
    for x, y in points:
        x0, y0, x1, y1 = min(x0, floor(x)), min(y0, floor(y)), max(x1, floor(x) + 1), max(y1, floor(y) + 1)
    return x0, y0, x1, y1


def box_limit(box: Sequence[float], shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: pixels that lie wholly in the box with its margin, or that the box itself touches."""
    inside = np.zeros(shape, dtype=bool)
    x0, y0, x1, y1 = box
    across, down = BOX_MARGIN * (x1 - x0), BOX_MARGIN * (y1 - y0)
    left, top = (max(0, min(ceil(low - reach), floor(low))) for low, reach in ((x0, across), (y0, down)))
    right, bottom = (max(floor(high + reach), ceil(high)) for high, reach in ((x1, across), (y1, down)))
    inside[top:bottom, left:right] = True
    return inside


def select_part(
    mask_binary: np.ndarray, box: Sequence[float] | None, positive: Sequence[Sequence[float]]
) -> np.ndarray:
    """One connected part of a mask with at least one pixel; see `clean_mask`."""
    parts, count = ndimage.label(mask_binary, TOUCHING)
    if count == 1:
        return mask_binary
    for x, y in positive[:1]:
        part = parts[floor(y), floor(x)]
        if part:
            return parts == part
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    if box is not None:
        left, top, right, bottom = floor(box[0]), floor(box[1]), ceil(box[2]), ceil(box[3])
        inside = np.bincount(parts[top:bottom, left:right].ravel(), minlength=count + 1)[1:]
        sizes = inside if inside.any() else sizes
    return parts == 1 + int(sizes.argmax())


def fill_small_holes(mask_binary: np.ndarray, negative: Sequence[Sequence[float]] = ()) -> np.ndarray:
    """The mask with its holes of up to `SMALL_HOLE` of its area filled, but for those under a negative click."""
    filled = ndimage.binary_fill_holes(mask_binary)
    holes, count = ndimage.label(filled & ~mask_binary)
    if count == 0:
        return mask_binary
    sizes = np.bincount(holes.ravel(), minlength=count + 1)
    fill = sizes <= SMALL_HOLE * filled.sum()
    fill[[holes[floor(y), floor(x)] for x, y in negative]] = False
    fill[0] = False
    return mask_binary | fill[holes]


__all__ = ["KEEP", "Keep", "check_keep", "clean_mask", "count_parts", "follow_mask", "limit_of"]
