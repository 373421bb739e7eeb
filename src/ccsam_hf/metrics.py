"""Scores a mask against the truth: Dice, IoU and Hausdorff distances as pure functions of two (H, W) bool arrays.

Source: CC-SAM paper, Sec. 4.3, which follows the protocol of SAMUS (Dice and Hausdorff distance at 256x256).
"""

import numpy as np
from scipy.ndimage import distance_transform_cdt, distance_transform_edt
from scipy.spatial.distance import cdist

DISTANCE_METRICS = ("manhattan", "euclidean")


def dice(pred: np.ndarray, truth: np.ndarray) -> float:
    """Dice coefficient: twice the shared area over the sum of both areas.

    Args:
        pred, truth: (H, W) bool masks of one size.

    Returns:
        A fraction in [0, 1]. Both masks empty: 1. One mask empty: 0.

    Raises:
        TypeError: a mask is not a bool array.
        ValueError: a mask is not two-dimensional, or the sizes differ.
    """
    _check_masks(pred, truth)
    total = np.count_nonzero(pred) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(pred & truth) / total if total else 1.0


def iou(pred: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union.

    Args:
        pred, truth: (H, W) bool masks of one size.

    Returns:
        A fraction in [0, 1]. Both masks empty: 1. One mask empty: 0.

    Raises:
        TypeError: a mask is not a bool array.
        ValueError: a mask is not two-dimensional, or the sizes differ.
    """
    _check_masks(pred, truth)
    union = np.count_nonzero(pred | truth)
    return np.count_nonzero(pred & truth) / union if union else 1.0


def hausdorff(pred: np.ndarray, truth: np.ndarray, metric: str = "manhattan") -> float:
    """Hausdorff distance between the positions of all pixels of two masks, not of their boundaries only.

    The largest distance from a pixel of one mask to the nearest pixel of the other, over both directions. Two distance
    transforms on the masks' common bounding box give it in time proportional to that box.

    Args:
        pred, truth: (H, W) bool masks of one size.
        metric: "manhattan" (rows plus columns) or "euclidean".

    Returns:
        Pixels of the masks' frame, always finite. Both masks empty: 0. One mask empty: the penalty
        `largest_distance((H, W), metric)`, so that no mask scores worse than a missing one.

    Raises:
        TypeError: a mask is not a bool array.
        ValueError: a mask is not two-dimensional, the sizes differ, or the metric is unknown.
    """
    _check_masks(pred, truth)
    penalty = largest_distance(pred.shape, metric)
    if not pred.any() and not truth.any():
        return 0.0
    if not pred.any() or not truth.any():
        return penalty
    window = _bounding_window(pred | truth)
    pred, truth = pred[window], truth[window]
    return float(max(_distance_to(truth, metric)[pred].max(), _distance_to(pred, metric)[truth].max()))


def hausdorff_samus(pred: np.ndarray, truth: np.ndarray) -> float:
    """Hausdorff distance of protocol "samus": Manhattan metric over all pixels of the masks, at 256x256.

    The protocol is meant for masks of 256x256; the function takes any size and answers in pixels of that size.

    Source: SAMUS, `utils/evaluation.py`, names the Manhattan metric and the whole masks. Departure: that code passes
    the mask arrays, not the positions of their pixels, to a function of point sets, and so computes
    `hausdorff_of_rows`. Numbers of the two differ; compare published tables with `hausdorff_of_rows`.

    Args:
        pred, truth: (H, W) bool masks of one size.

    Returns:
        Pixels. Both masks empty: 0. One mask empty: (H - 1) + (W - 1), which is 510 at 256x256.

    Raises:
        TypeError: a mask is not a bool array.
        ValueError: a mask is not two-dimensional, or the sizes differ.
    """
    return hausdorff(pred, truth, metric="manhattan")


def hausdorff_of_rows(pred: np.ndarray, truth: np.ndarray) -> float:
    """Hausdorff distance between two masks read as sets of rows: what SAMUS's evaluation code computes.

    Every image row is one point with W coordinates of value 0 or 1, and the distance of two rows is the number of
    columns in which they differ, wherever in the image the rows lie. A mask moved up or down thus keeps distance 0.

    Source: SAMUS, `utils/evaluation.py`, `hausdorff_distance(pred, truth, distance="manhattan")` of the package
    `hausdorff` 0.2.6, called with the two-dimensional mask arrays.

    Args:
        pred, truth: (H, W) bool masks of one size.

    Returns:
        Number of columns in [0, W]. It has no special case: the rows of an empty mask are rows of zeros, so both
        masks empty give 0, and one empty gives the largest number of pixels in a row of the other.

    Raises:
        TypeError: a mask is not a bool array.
        ValueError: a mask is not two-dimensional, or the sizes differ.
    """
    _check_masks(pred, truth)
    distances = cdist(pred.astype(float), truth.astype(float), "cityblock")  # (H, H)
    return float(max(distances.min(axis=1).max(), distances.min(axis=0).max()))


def largest_distance(size: tuple[int, int], metric: str = "manhattan") -> float:
    """Distance between opposite corner pixels of a frame: the penalty of `hausdorff` when one mask is empty.

    Args:
        size: (height, width) of the frame.
        metric: "manhattan" or "euclidean".

    Returns:
        Pixels.

    Raises:
        ValueError: the metric is unknown.
    """
    if metric not in DISTANCE_METRICS:
        raise ValueError(f"metric is {metric!r}; accepted are {', '.join(DISTANCE_METRICS)}")
    rows, columns = size[0] - 1, size[1] - 1
    return float(rows + columns) if metric == "manhattan" else float(np.hypot(rows, columns))


def _check_masks(pred: np.ndarray, truth: np.ndarray) -> None:
    for name, mask in (("pred", pred), ("truth", truth)):
        if not isinstance(mask, np.ndarray) or mask.dtype != bool:
            kind = f"an array of {mask.dtype}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise TypeError(f"{name} is {kind}; expected a numpy bool array: threshold it first")
        if mask.ndim != 2:
            raise ValueError(f"{name} has shape {mask.shape}; expected (height, width): pass one mask at a time")
    if pred.shape != truth.shape:
        raise ValueError(f"pred has size {pred.shape} and truth {truth.shape}; expected one size: resize one of them")


def _bounding_window(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _distance_to(mask: np.ndarray, metric: str) -> np.ndarray:
    """Distance from every pixel to the nearest pixel of the mask, (H, W)."""
    if metric == "manhattan":
        return distance_transform_cdt(~mask, metric="taxicab")
    return distance_transform_edt(~mask)
