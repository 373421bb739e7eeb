"""Derives prompts, clicks and boxes, from the true mask of an object, for training and for evaluation.

Points are (x, y) and boxes xyxy, both in pixels of the frame the mask is in. The smallest and the largest index of
the mask's pixels are the sides of a tight box, so a box over one column of pixels has x0 == x1.
"""

import numpy as np
import torch

from ..geometry import boxes_from_masks


def fixed_click(mask: np.ndarray) -> np.ndarray:
    """The one click of protocol "samus": the middle pixel of the mask, its pixels counted row by row.

    It lies on the object also where the centroid of a ring or of two parts does not.

    Source: SAMUS, `utils/data_us.py`, `fixed_click`. Departure: a mask without pixels is refused; SAMUS clicks on the
    background there.

    Args:
        mask: (H, W) bool, at least one pixel set.

    Returns:
        (2,) float32, (x, y) of a pixel of the mask.

    Raises:
        TypeError: the mask is not a bool array.
        ValueError: the mask is not two-dimensional or is empty.
    """
    pixels = _pixels_xy(mask)
    return pixels[len(pixels) // 2]


def random_clicks(mask: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Clicks drawn uniformly and independently from the pixels of the mask.

    Args:
        mask: (H, W) bool, at least one pixel set.
        count: number of clicks, at least 1; one pixel may be drawn twice.
        rng: source of the draw.

    Returns:
        (count, 2) float32, (x, y) of pixels of the mask.

    Raises:
        TypeError: the mask is not a bool array.
        ValueError: the mask is not two-dimensional or is empty, or count is below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}; expected at least 1")
    pixels = _pixels_xy(mask)
    return pixels[rng.integers(len(pixels), size=count)]


def tight_box(mask: np.ndarray) -> np.ndarray:
    """The smallest box around the mask, its sides being the first and the last column and row of the mask's pixels.

    It is `ccsam_hf.geometry.boxes_from_masks` of one mask.

    Args:
        mask: (H, W) bool, at least one pixel set.

    Returns:
        (4,) float32 xyxy, whole numbers.

    Raises:
        TypeError: the mask is not a bool array.
        ValueError: the mask is not two-dimensional or is empty.
    """
    _check_mask(mask)
    return boxes_from_masks(torch.from_numpy(mask)).numpy()


def jittered_box(mask: np.ndarray, rng: np.random.Generator, fraction: float = 0.05) -> np.ndarray:
    """The tight box with each side moved, as a user's hand would: uniformly, up to a fraction of the box's size.

    Args:
        mask: (H, W) bool, at least one pixel set.
        rng: source of the draw.
        fraction: largest move of a side as a share of the box's width or height in pixels, in [0, 0.5).

    Returns:
        (4,) float32 xyxy inside [0, W] x [0, H]. A side that would come out shorter than a pixel becomes one pixel
        long about its middle, so the box always has an area.

    Raises:
        TypeError: the mask is not a bool array.
        ValueError: the mask is not two-dimensional or is empty, or the fraction is outside [0, 0.5).
    """
    if not 0 <= fraction < 0.5:
        raise ValueError(f"fraction is {fraction}; expected [0, 0.5): a share of the box's width and height")
    first, last = tight_box(mask).astype(float).reshape(2, 2)
    reach = fraction * (last - first + 1)
    frame = np.array(mask.shape[::-1], dtype=float)
    first = np.clip(first + rng.uniform(-reach, reach), 0, frame)
    last = np.clip(last + rng.uniform(-reach, reach), 0, frame)
    middle = np.clip((first + last) / 2, 0.5, frame - 0.5)
    short = last - first < 1
    box = np.concatenate([np.where(short, middle - 0.5, first), np.where(short, middle + 0.5, last)])
    return box.astype(np.float32)


def _pixels_xy(mask: np.ndarray) -> np.ndarray:
    """The pixels of the mask row by row, (n, 2) float32 (x, y)."""
    _check_mask(mask)
    return np.argwhere(mask)[:, ::-1].astype(np.float32)


def _check_mask(mask: np.ndarray) -> None:
    if not isinstance(mask, np.ndarray) or mask.dtype != bool:
        kind = f"an array of {mask.dtype}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise TypeError(f"mask is {kind}; expected a numpy bool array: threshold it first")
    if mask.ndim != 2:
        raise ValueError(f"mask has shape {mask.shape}; expected (height, width): pass one object at a time")
    if not mask.any():
        raise ValueError(f"mask of size {mask.shape} is empty; a prompt needs an object: leave such cases out")
