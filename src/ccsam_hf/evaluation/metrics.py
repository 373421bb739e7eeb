"""Scores a mask against the truth: overlaps and distances as pure functions of two (H, W) bool arrays.

Source: CC-SAM paper, Sec. 4.3, which follows the protocol of SAMUS (Dice and Hausdorff distance at 256x256). The other
scores are those that segmentation papers report beside them.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import distance_transform_cdt, distance_transform_edt, label
from scipy.spatial import cKDTree

DISTANCE_METRICS = ("manhattan", "euclidean")
PERCENT = ("dice", "iou", "sensitivity", "specificity", "boundary_iou")  # of the scores: in percent, higher is better
SCORES = (*PERCENT, "hd_samus", "hd_rows", "hd_euclidean", "hd95", "assd")  # the others: in pixels, lower is better
SHAPES = (
    "parts",
    "largest_part_share",
    "reach_outside_box",
)  # what `shape_of` tells; no score, there is no truth in it
POINTS_PER_PIXEL = {"manhattan": 1 / 40, "euclidean": 1 / 12}  # a tree asks fewer points than this faster than a grid


def all_scores(pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Every score of one mask, as the tables of an evaluation hold them.

    Args:
        pred, truth: (H, W) bool masks of one size, 256x256 in protocol "samus".

    Returns:
        The names of `SCORES`, in that order: dice, iou, sensitivity, specificity and boundary_iou in percent, then
        hd_samus (`hausdorff_manhattan`), hd_rows (`hausdorff_of_rows`), hd_euclidean (`hausdorff` in the Euclidean
        metric), hd95 and assd in pixels. All are finite: each score has its own rule for empty masks.

    Raises:
        TypeError: a mask is not a bool array.
        ValueError: a mask is not two-dimensional, or the sizes differ.
    """
    _check_masks(pred, truth)
    pair = _cut_to_objects(pred, truth)  # shared by all distances
    surfaces = pair.surface_distances()
    return {
        "dice": 100 * dice(pred, truth),
        "iou": 100 * iou(pred, truth),
        "sensitivity": 100 * sensitivity(pred, truth),
        "specificity": 100 * specificity(pred, truth),
        "boundary_iou": 100 * boundary_iou(pred, truth),
        "hd_samus": pair.hausdorff("manhattan"),
        "hd_rows": hausdorff_of_rows(pred, truth),
        "hd_euclidean": pair.hausdorff("euclidean"),
        "hd95": _largest_percentile(surfaces),
        "assd": _mean(surfaces),
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


def shape_of(
    mask: np.ndarray, box: np.ndarray | None = None, raw: np.ndarray | None = None
) -> dict[str, float | None]:
    """Whether a mask is one whole object, and whether it keeps to the box that asked for it.

    Args:
        mask: (H, W) bool, the mask that a user gets.
        box: (4,) x0 y0 x1 y1 of the prompt, edges; None where the prompt had no box.
        raw: (H, W) bool, the same before specks were removed from it; left out, the mask itself.

    Returns:
        parts: number of connected parts of `raw`, where pixels that touch at a corner are connected (8 neighbors).
        largest_part_share: share of the pixels of `raw` in the largest of them, in (0, 1]; None without a pixel.
        reach_outside_box: the furthest that `mask` reaches beyond a side of the box, as a share of the box's width
            (left and right) or height (top and bottom); 0 where it stays inside, None without a box or a pixel.

    Raises:
        TypeError: a mask is not a bool array.
        ValueError: a mask is not two-dimensional, or the sizes differ.
    """
    raw = mask if raw is None else raw
    _check_masks(mask, raw)
    labels, parts = label(raw, np.ones((3, 3)))
    share = float(np.bincount(labels[raw]).max() / np.count_nonzero(raw)) if parts else None
    return {"parts": parts, "largest_part_share": share, "reach_outside_box": _reach_outside(mask, box)}


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
    pair = _cut_to_objects(pred, truth)
    regions = []
    for mask in (pair.pred, pair.truth):
        depth = distance_transform_cdt(np.pad(mask, 1), "chessboard")[1:-1, 1:-1]  # steps to the background
        regions.append(mask & (depth <= steps))
    return iou(*regions)


def hausdorff(pred: np.ndarray, truth: np.ndarray, metric: str = "manhattan") -> float:
    """Hausdorff distance between the positions of all pixels of two masks, not of their boundaries only.

    The largest distance from a pixel of one mask to the nearest pixel of the other, over both directions.

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
    return _cut_to_objects(pred, truth).hausdorff(metric)


def hausdorff_manhattan(pred: np.ndarray, truth: np.ndarray) -> float:
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
    pair = _cut_to_objects(pred, truth)
    # Outside the cut columns are equal and rows empty: one empty row stands for all of them.
    empty = (0, int(pair.pred.shape[0] < pred.shape[0]))
    # As 1 and -1, equal columns add 1 to the product of two rows and differing ones -1: exact, and fast as a matrix.
    signs = [2 * np.pad(mask, (empty, (0, 0))).astype(np.float32) - 1 for mask in (pair.pred, pair.truth)]
    distances = (pair.pred.shape[1] - signs[0] @ signs[1].T) / 2  # (h, h)
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
    return _largest_percentile(_cut_to_objects(pred, truth).surface_distances())


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
    return _mean(_cut_to_objects(pred, truth).surface_distances())


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


@dataclass(frozen=True)
class _Pair:
    """Two masks cut to the bounding box of their union, which may have no pixel.

    Attributes:
        pred, truth: (h, w) bool.
        frame: (height, width) before.
    """

    pred: np.ndarray
    truth: np.ndarray
    frame: tuple[int, int]

    @cached_property
    def surfaces(self) -> tuple[np.ndarray, np.ndarray]:
        """Surface of pred and of truth, (h, w) bool each."""
        return _surface(self.pred), _surface(self.truth)

    @cached_property
    def euclidean_maps(self) -> tuple[np.ndarray, np.ndarray]:
        """See `distance_maps`; all Euclidean scores read them."""
        return self.distance_maps("euclidean")

    def hausdorff(self, metric: str) -> float:
        """The largest distance from a pixel of one mask to the nearest pixel of the other, see `hausdorff`."""
        penalty = largest_distance(self.frame, metric)
        if not self.pred.any() or not self.truth.any():
            return penalty if self.pred.any() or self.truth.any() else 0.0
        to_truth, to_pred = self.euclidean_maps if metric == "euclidean" else self.distance_maps(metric)
        of_pred, of_truth = to_truth[self.pred & ~self.truth], to_pred[self.truth & ~self.pred]
        return float(max(of_pred.max(initial=0), of_truth.max(initial=0)))

    def surface_distances(self) -> tuple[np.ndarray, np.ndarray]:
        """From each surface pixel of one mask to the nearest one of the other, see `hd95`.

        An empty mask has no surface: the one distance each way is then the penalty, or 0 if both are empty.
        """
        if not self.pred.any() or not self.truth.any():
            has_one = self.pred.any() or self.truth.any()
            distance = np.array([largest_distance(self.frame, "euclidean") if has_one else 0.0])
            return distance, distance
        (to_truth, to_pred), (of_pred, of_truth) = self.euclidean_maps, self.surfaces
        return to_truth[of_pred], to_pred[of_truth]

    def distance_maps(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Distance to the nearest surface pixel of truth, and of pred, (h, w) each.

        They hold it for the pixels that a score reads: of the one mask those outside the other and those of its
        surface. Elsewhere they are 0. For a pixel outside a mask it is the distance to the whole mask, for from any
        pixel with four neighbors in the mask a step towards the outside leads to a nearer one.
        """
        of_pred, of_truth = self.surfaces
        to_truth = _distance_map((self.pred & ~self.truth) | (of_pred & ~of_truth), of_truth, metric)
        to_pred = _distance_map((self.truth & ~self.pred) | (of_truth & ~of_pred), of_pred, metric)
        return to_truth, to_pred


def _cut_to_objects(pred: np.ndarray, truth: np.ndarray) -> _Pair:
    union = pred | truth
    rows, columns = np.flatnonzero(union.any(axis=1)), np.flatnonzero(union.any(axis=0))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if rows.size else (slice(0), slice(0))
    return _Pair(pred[window], truth[window], pred.shape)


def _surface(mask: np.ndarray) -> np.ndarray:
    """Pixels of the mask with background above, below, left or right; outside the array all is background."""
    padded = np.pad(mask, 1)
    return mask & ~(padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])


def _distance_map(asked: np.ndarray, surface: np.ndarray, metric: str) -> np.ndarray:
    """(h, w) float: distance from the pixels asked for to the nearest pixel of the surface, elsewhere 0."""
    distances = np.zeros(surface.shape)
    points = np.argwhere(asked)
    if len(points) <= surface.size * POINTS_PER_PIXEL[metric]:
        distances[asked], _ = cKDTree(np.argwhere(surface)).query(points, p=1 if metric == "manhattan" else 2)
    elif metric == "manhattan":
        distances[asked] = distance_transform_cdt(~surface, metric="taxicab")[asked]
    else:
        distances[asked] = distance_transform_edt(~surface)[asked]
    return distances


def _largest_percentile(distances: tuple[np.ndarray, np.ndarray]) -> float:
    return float(max(np.percentile(each, 95) for each in distances))


def _mean(distances: tuple[np.ndarray, np.ndarray]) -> float:
    return float(np.concatenate(distances).mean())


def _reach_outside(mask: np.ndarray, box: np.ndarray | None) -> float | None:
    """See `shape_of`."""
    if box is None or not mask.any():
        return None
    x0, y0, x1, y1 = np.asarray(box, dtype=float)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    across = max(x0 - columns[0], columns[-1] + 1 - x1) / (x1 - x0)
    down = max(y0 - rows[0], rows[-1] + 1 - y1) / (y1 - y0)
    return float(max(across, down, 0))
