"""Dice, IoU and Hausdorff distances against hand-counted pixels and brute force."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist, directed_hausdorff

from ccsam_hf.metrics import dice, hausdorff, hausdorff_of_rows, hausdorff_samus, iou, largest_distance


def brute_force_hausdorff(pred: np.ndarray, truth: np.ndarray, metric: str) -> float:
    distances = cdist(np.argwhere(pred), np.argwhere(truth), {"manhattan": "cityblock"}.get(metric, metric))
    return max(distances.min(axis=1).max(), distances.min(axis=0).max())


def mask_of(size: tuple[int, int], *pixels: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    for row, column in pixels:
        mask[row, column] = True
    return mask


def mask_pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    pairs = [(rng.random((23, 31)) < share, rng.random((23, 31)) < share) for share in (0.01, 0.1, 0.5, 0.9)]
    corner, opposite = mask_of((23, 31), (0, 0)), mask_of((23, 31), (22, 30))
    border = np.zeros((23, 31), dtype=bool)
    border[:, 0] = border[-1] = True
    inside = np.zeros((23, 31), dtype=bool)
    inside[8:12, 20:25] = True
    full = np.ones((23, 31), dtype=bool)
    return [*pairs, (corner, opposite), (corner, corner), (border, inside), (inside, full), (corner, border)]


@pytest.mark.parametrize("metric", ["manhattan", "euclidean"])
@pytest.mark.parametrize("pred, truth", mask_pairs())
def test_hausdorff_equals_brute_force_over_all_pixels(pred, truth, metric):
    assert hausdorff(pred, truth, metric) == pytest.approx(brute_force_hausdorff(pred, truth, metric), abs=1e-9)
    assert hausdorff(pred, truth, metric) == hausdorff(truth, pred, metric)


@pytest.mark.parametrize("pred, truth", mask_pairs())
def test_euclidean_hausdorff_equals_scipy(pred, truth):
    points = np.argwhere(pred), np.argwhere(truth)
    expected = max(directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0])
    assert hausdorff(pred, truth, "euclidean") == pytest.approx(expected, abs=1e-9)


def test_all_pixels_count_and_not_only_the_boundary():
    disc_without_center = np.ones((9, 9), dtype=bool)
    disc_without_center[2:7, 2:7] = False
    assert hausdorff(np.ones((9, 9), dtype=bool), disc_without_center) == 3  # from the center, (4, 4), to row 1


def test_hausdorff_samus_is_manhattan_distance_of_pixel_positions():
    pred, truth = mask_of((256, 256), (0, 0)), mask_of((256, 256), (3, 4))
    assert hausdorff_samus(pred, truth) == 7
    assert hausdorff(pred, truth, "euclidean") == 5


def test_dice_and_iou_count_pixels():
    pred = mask_of((4, 4), (0, 0), (0, 1), (0, 2))
    truth = mask_of((4, 4), (0, 1), (0, 2), (1, 1), (1, 2))
    assert dice(pred, truth) == pytest.approx(4 / 7)
    assert iou(pred, truth) == pytest.approx(2 / 5)


def test_empty_masks_follow_the_stated_rule_and_stay_finite():
    empty, lesion = np.zeros((256, 256), dtype=bool), mask_of((256, 256), (10, 10), (10, 11), (11, 10))
    assert (dice(empty, empty), iou(empty, empty)) == (1, 1)
    assert (hausdorff(empty, empty), hausdorff_samus(empty, empty), hausdorff_of_rows(empty, empty)) == (0, 0, 0)
    for pair in ((empty, lesion), (lesion, empty)):
        assert (dice(*pair), iou(*pair)) == (0, 0)
        assert hausdorff_samus(*pair) == 510
        assert hausdorff(*pair, "euclidean") == pytest.approx(255 * 2**0.5)
        assert hausdorff_of_rows(*pair) == 2


def test_a_missing_mask_is_never_better_than_the_worst_mask():
    corner, opposite = mask_of((5, 9), (0, 0)), mask_of((5, 9), (4, 8))
    for metric in ("manhattan", "euclidean"):
        assert hausdorff(corner, opposite, metric) == largest_distance((5, 9), metric)


@pytest.mark.parametrize("pred, truth", mask_pairs())
def test_hausdorff_of_rows_counts_differing_columns(pred, truth):
    differing = (pred[:, None, :] != truth[None, :, :]).sum(axis=2)
    assert hausdorff_of_rows(pred, truth) == max(differing.min(axis=1).max(), differing.min(axis=0).max())


def test_hausdorff_of_rows_does_not_see_a_vertical_move():
    pred = np.zeros((32, 32), dtype=bool)
    pred[4:10, 5:15] = True
    moved = np.roll(pred, 12, axis=0)
    assert hausdorff_of_rows(pred, moved) == 0
    assert hausdorff_samus(pred, moved) == 12


@pytest.mark.parametrize("function", [dice, iou, hausdorff, hausdorff_samus, hausdorff_of_rows])
def test_wrong_masks_are_refused(function):
    mask = np.ones((4, 5), dtype=bool)
    with pytest.raises(TypeError, match="pred is an array of uint8; expected a numpy bool array"):
        function(mask.astype(np.uint8), mask)
    with pytest.raises(TypeError, match="truth is list"):
        function(mask, mask.tolist())
    with pytest.raises(ValueError, match=r"pred has shape \(1, 4, 5\); expected \(height, width\)"):
        function(mask[None], mask)
    with pytest.raises(ValueError, match=r"pred has size \(4, 5\) and truth \(5, 4\)"):
        function(mask, mask.T)


def test_unknown_metric_is_refused():
    mask = np.ones((4, 5), dtype=bool)
    with pytest.raises(ValueError, match="metric is 'chessboard'; accepted are manhattan, euclidean"):
        hausdorff(mask, mask, "chessboard")
