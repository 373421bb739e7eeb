"""Warns where a prompt seems to mean something else than it says: x, y, width, height; two objects in one prompt."""

from collections.abc import Sequence
from math import floor

import numpy as np
from transformers.utils import logging

logger = logging.get_logger(__name__)

CORNER = 0.15  # share of the box's width and height that counts as its corner
FILLED, NEARLY_EMPTY = 0.9, 0.02  # shares of an area that the mask covers
FEW_PIXELS = 3  # a side of a box that is shorter is hardly meant


def warn_about_prompt(
    mask_binary: np.ndarray,
    box: Sequence[float] | None,
    points: Sequence[Sequence[float]],
    labels: Sequence[float],
) -> None:
    """Log a warning of one line where the mask of a prompt suggests that the prompt was meant otherwise.

    Args:
        mask_binary: (H, W) bool, the mask that the user gets.
        box: x0 y0 x1 y1 that prompted, or None.
        points: (N, 2), (x, y) in pixels of the image.
        labels: (N,).
    """
    doubt = doubt_about_box(mask_binary, box) if box is not None else None
    doubt = doubt or doubt_about_points(mask_binary, points, labels)
    if doubt is not None:
        logger.warning(doubt)


def doubt_about_box(mask_binary: np.ndarray, box: Sequence[float]) -> str | None:
    """Why a box may be no x0 y0 x1 y1, or None.

    An object that a box holds leaves the box's corners empty. Read as corners, x y width height is a box that cuts the
    upper left out of the object, so that the object fills the lower right corner. It can only be meant where it fits
    into the image.
    """
    height, width = mask_binary.shape
    x0, y0, x1, y1 = box
    given = "(" + ", ".join(f"{side:.6g}" for side in box) + ")"
    if min(x1 - x0, y1 - y0) < FEW_PIXELS and min(height, width) > 20 * FEW_PIXELS:
        return (
            f"box {given} is {x1 - x0:.3g} x {y1 - y0:.3g} pixels in an image of {width} x {height}; expected pixels "
            "of the image as x0 y0 x1 y1"
        )
    left, top, right, bottom = floor(x0), floor(y0), max(floor(x1), floor(x0) + 1), max(floor(y1), floor(y0) + 1)
    inside = mask_binary[top:bottom, left:right]
    if inside.mean() < NEARLY_EMPTY:
        return (
            f"the mask covers less than {NEARLY_EMPTY:.0%} of box {given}; expected x0 y0 x1 y1, not x y width height "
            "or y0 x0 y1 x1, around an object"
        )
    across, down = max(1, round(CORNER * inside.shape[1])), max(1, round(CORNER * inside.shape[0]))
    near, far = inside[:down, :across].mean(), inside[-down:, -across:].mean()
    fits = x0 + x1 <= width and y0 + y1 <= height
    if fits and far > FILLED and near < 1 - FILLED:
        return (
            f"box {given} may be x, y, width, height: the mask fills its lower right corner; expected "
            f"x0 y0 x1 y1, which would be ({x0:.6g}, {y0:.6g}, {x0 + x1:.6g}, {y0 + y1:.6g})"
        )
    return None


def doubt_about_points(
    mask_binary: np.ndarray, points: Sequence[Sequence[float]], labels: Sequence[float]
) -> str | None:
    """Why several positive points may mean several objects, or None: the mask of one object does not hold them all."""
    positive = [tuple(point) for point, label in zip(points, labels, strict=True) if label == 1]
    outside = [(x, y) for x, y in positive if not mask_binary[floor(y), floor(x)]]
    if len(positive) < 2 or not outside or len(outside) == len(positive):
        return None
    x, y = outside[0]
    return (
        f"the mask does not hold the point ({x:.6g}, {y:.6g}): {len(positive)} points were read as clicks on one "
        "object; for an object each write points=[[[x, y]], [[x, y]]]"
    )


__all__ = ["warn_about_prompt"]
