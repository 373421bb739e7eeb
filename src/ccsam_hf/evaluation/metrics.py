"""Scores a mask against the truth: overlaps and distances as pure functions of two (H, W) bool arrays.

Source: CC-SAM paper, Sec. 4.3, which follows the protocol of SAMUS (Dice and Hausdorff distance at 256x256). The other
scores are those that segmentation papers report beside them.
"""

import math

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_cdt, distance_transform_edt

DISTANCE_METRICS = ("manhattan", "euclidean")
PERCENT = ("dice", "iou", "sensitivity", "specificity", "boundary_iou")  # of the scores: in percent, higher is better
SCORES = (*PERCENT, "hd_samus", "hd_rows", "hd_euclidean", "hd95", "assd")  # the others: in pixels, lower is better


def all_scores(pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Every score of one mask, as the tables of an evaluation hold them.

    Args:
        pred, truth: (H, W) bool masks of one size, 256x256 in protocol "samus".

    Returns:
        The names of `SCORES`, in that order: dice, iou, sensitivity, specificity and boundary_iou in percent, then
        hd_samus (`hausdorff_samus`), hd_rows (`hausdorff_of_rows`), hd_euclidean (`hausdorff` in the Euclidean
        metric), hd95 and assd in pixels. All are finite: each score has its own rule for empty masks.

    Raises:
        TypeError: a mask is not a bool array.
        ValueError: a mask is not two-dimensional, or the sizes differ.
    """
    return {
        "dice": 100 * dice(pred, truth),
        "iou": 100 * iou(pred, truth),
        "sensitivity": 100 * sensitivity(pred, truth),
        "specificity": 100 * specificity(pred, truth),
        "boundary_iou": 100 * boundary_iou(pred, truth),
        "hd_samus": hausdorff_samus(pred, truth),
        "hd_rows": hausdorff_of_rows(pred, truth),
        "hd_euclidean": hausdorff(pred, truth, metric="euclidean"),
        "hd95": hd95(pred, truth),
        "assd": assd(pred, truth),
    }


def miss_scores(size: tuple[int, int]) -> dict[str, float]:
    """The scores that count where a model gave no mask for a truth that has an object.

    They are those of an empty mask, but for hd_rows: an empty mask gets the longest row of the truth there, a miss the
    width of the frame, which no mask exceeds.

    Args:
        size: (height, width) of the frame in which the other masks are scored.

    Returns:
        The names of `SCORES`, in that order: 0 percent, but specificity 100, as no background is marked;
        `largest_distance` of each distance's metric; hd_rows is the width.
    """
    manhattan, euclidean = largest_distance(size, "manhattan"), largest_distance(size, "euclidean")
    return {
        "dice": 0.0,
        "iou": 0.0,
        "sensitivity": 0.0,
        "specificity": 100.0,
        "boundary_iou": 0.0,
        "hd_samus": manhattan,
        "hd_rows": float(size[1]),
        "hd_euclidean": euclidean,
        "hd95": euclidean,
        "assd": euclidean,
    }


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
    return _share(2 * np.count_nonzero(pred & truth), np.count_nonzero(pred) + np.count_nonzero(truth))


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
    return _share(np.count_nonzero(pred & truth), np.count_nonzero(pred | truth))


def sensitivity(pred: np.ndarray, truth: np.ndarray) -> float:
    """Share of the object's pixels that the prediction marks (recall, true positive rate).

    Its rule for empty masks, like that of `specificity`, agrees with what the smoothing terms of SAMUS's
    `utils/metrics.py` amount to.

    Args:
        pred, truth: (H, W) bool masks of one size.

    Returns:
        A fraction in [0, 1]. Truth empty: 1, whatever `pred` is, for there is no pixel to miss; what `pred` marks
        there lowers specificity and Dice. Only `pred` empty: 0.

    Raises:
        TypeError: a mask is not a bool array.
        ValueError: a mask is not two-dimensional, or the sizes differ.
    """
    _check_masks(pred, truth)
    return _share(np.count_nonzero(pred & truth), np.count_nonzero(truth))


def specificity(pred: np.ndarray, truth: np.ndarray) -> float:
    """Share of the background's pixels that the prediction leaves out (true negative rate).

    The background is the rest of the frame: the larger the frame around an object, the nearer to 1.

    Args:
        pred, truth: (H, W) bool masks of one size.

    Returns:
        A fraction in [0, 1]. Truth full: 1, whatever `pred` is, for there is no background to mark. `pred` empty: 1,
        whatever the truth is. Only the truth empty: the share of the frame that `pred` leaves out.

    Raises:
        TypeError: a mask is not a bool array.
        ValueError: a mask is not two-dimensional, or the sizes differ.
    """
    _check_masks(pred, truth)
    return _share(np.count_nonzero(~(pred | truth)), np.count_nonzero(~truth))


def boundary_iou(pred: np.ndarray, truth: np.ndarray, dilation_ratio: float = 0.02) -> float:
    """Intersection over union of the boundary regions: the pixels of a mask that lie near its outline.

    A pixel of a mask is in its boundary region if a background pixel is at most `d` steps away, diagonal steps
    included; `d` is `dilation_ratio` times the diagonal of the frame, rounded, and at least 1: 7 pixels at 256x256.
    That is the mask minus its erosion by a square of 2 d + 1 pixels. All pixels outside the frame are background, so
    the edge of a mask that the frame cuts off is boundary too.

    Source: Cheng et al., Boundary IoU, CVPR 2021; square, rounding and frame as in the authors' code,
    bowenc0221/boundary-iou-api, `boundary_iou/utils/boundary_utils.py`, commit 8006aa9.

    Args:
        pred, truth: (H, W) bool masks of one size.
        dilation_ratio: width of the boundary region as a fraction of the frame's diagonal, in (0, 1].

    Returns:
        A fraction in [0, 1]. Both masks empty: 1. One mask empty: 0.

    Raises:
        TypeError: a mask is not a bool array.
        ValueError: a mask is not two-dimensional, the sizes differ, or the ratio is not in (0, 1].
    """
    _check_masks(pred, truth)
    if not 0 < dilation_ratio <= 1:
        raise ValueError(f"dilation_ratio is {dilation_ratio}; expected a fraction of the diagonal in (0, 1]")
    steps = max(1, round(dilation_ratio * math.hypot(*pred.shape)))
    pred, truth = _cut_to_objects(pred, truth)
    square = np.ones((3, 3), dtype=bool)
    regions = [mask & ~binary_erosion(mask, square, iterations=steps) for mask in (pred, truth)]
    return iou(*regions)


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
    return float(max(distances.max() for distances in _nearest_distances(pred, truth, metric)))


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
    # As 1 and -1, equal columns add 1 to the product of two rows and differing ones -1: exact, and fast as a matrix.
    signs = [np.where(mask, np.float32(1), np.float32(-1)) for mask in (pred, truth)]
    distances = (pred.shape[1] - signs[0] @ signs[1].T) / 2  # (H, H)
    return float(max(distances.min(axis=1).max(), distances.min(axis=0).max()))


def hd95(pred: np.ndarray, truth: np.ndarray) -> float:
    """95th percentile of the distances between the surfaces of two masks, the larger of the two directions.

    A surface pixel is a pixel of the mask with background above, below, left or right of it; all pixels outside the
    frame are background. From each surface pixel the Euclidean distance to the nearest one of the other mask counts;
    percentiles are interpolated linearly.

    Source: the convention of MONAI, `HausdorffDistanceMetric(percentile=95)`.

    Args:
        pred, truth: (H, W) bool masks of one size.

    Returns:
        Pixels of the masks' frame, always finite. Both masks empty: 0. One mask empty: the penalty
        `largest_distance((H, W), "euclidean")`.

    Raises:
        TypeError: a mask is not a bool array.
        ValueError: a mask is not two-dimensional, or the sizes differ.
    """
    _check_masks(pred, truth)
    return float(max(np.percentile(distances, 95) for distances in _surface_distances(pred, truth)))


def assd(pred: np.ndarray, truth: np.ndarray) -> float:
    """Average symmetric surface distance: the mean over the surface pixels of both masks together.

    Surfaces and distances are those of `hd95`. The mask with the longer surface counts more, as all distances form one
    mean.

    Source: the convention of MONAI, `SurfaceDistanceMetric(symmetric=True)`.

    Args:
        pred, truth: (H, W) bool masks of one size.

    Returns:
        Pixels of the masks' frame, always finite. Both masks empty: 0. One mask empty: the penalty
        `largest_distance((H, W), "euclidean")`.

    Raises:
        TypeError: a mask is not a bool array.
        ValueError: a mask is not two-dimensional, or the sizes differ.
    """
    _check_masks(pred, truth)
    return float(np.concatenate(_surface_distances(pred, truth)).mean())


def largest_distance(size: tuple[int, int], metric: str = "manhattan") -> float:
    """Distance between opposite corner pixels of a frame: the penalty of a distance when one mask is empty.

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


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else 1.0


def _surface_distances(pred: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    surfaces = [mask & ~binary_erosion(mask) for mask in (pred, truth)]
    return _nearest_distances(*surfaces, "euclidean")


def _nearest_distances(pred: np.ndarray, truth: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Distance from each pixel of one mask to the nearest of the other: (pixels of pred,), (pixels of truth,).

    An empty mask has no such pixel: the one distance each way is then the penalty, or 0 if both are empty.
    """
    penalty = largest_distance(pred.shape, metric)
    if not pred.any() or not truth.any():
        distance = np.array([penalty if pred.any() or truth.any() else 0.0])
        return distance, distance
    pred, truth = _cut_to_objects(pred, truth)
    return _distance_to(truth, metric)[pred], _distance_to(pred, metric)[truth]


def _cut_to_objects(pred: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both masks cut to the bounding box of their union, which may have no pixel."""
    union = pred | truth
    rows, columns = np.flatnonzero(union.any(axis=1)), np.flatnonzero(union.any(axis=0))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if rows.size else (slice(0), slice(0))
    return pred[window], truth[window]


def _distance_to(mask: np.ndarray, metric: str) -> np.ndarray:
    """Distance from every pixel to the nearest pixel of the mask, (H, W)."""
    if metric == "manhattan":
        return distance_transform_cdt(~mask, metric="taxicab")
    return distance_transform_edt(~mask)
