"""The scores of masks against hand-counted pixels, brute force and the libraries that others score with."""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter
from scipy.spatial.distance import cdist, directed_hausdorff

from ccsam_hf.evaluation.metrics import (
    PERCENT,
    SCORES,
    all_scores,
    assd,
    boundary_iou,
    dice,
    hausdorff,
    hausdorff_manhattan,
    hausdorff_of_rows,
    hd95,
    iou,
    largest_distance,
    miss_scores,
    sensitivity,
    shape_of,
    specificity,
)


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
    row, column = np.zeros((23, 31), dtype=bool), np.zeros((23, 31), dtype=bool)
    row[9, 3:28] = column[2:22, 30] = True
    holed = full.copy()
    holed[5:18, 6:20] = False
    pairs += [(corner, opposite), (corner, corner), (border, inside), (inside, full), (corner, border)]
    return [*pairs, (full, full), (row, column), (row, row), (inside, row), (holed, full), (holed, inside)]


def pairs_with_an_empty_mask() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    empty, full = np.zeros((23, 31), dtype=bool), np.ones((23, 31), dtype=bool)
    lesion = mask_of((23, 31), (4, 4), (4, 5), (5, 4))
    return {
        "both": (empty, empty),
        "pred": (empty, lesion),
        "truth": (lesion, empty),
        "pred, truth full": (empty, full),
        "truth, pred full": (full, empty),
    }


def surface_of(mask: np.ndarray) -> np.ndarray:
    """Pixels with background above, below, left or right of them, where all outside the frame is background."""
    padded = np.pad(mask, 1)
    return mask & ~(padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])


def slow_boundary_iou(pred: np.ndarray, truth: np.ndarray, steps: int) -> float:
    """From the definition, pixel by pixel: the region is where the square around a pixel leaves the mask."""
    regions = []
    for mask in (pred, truth):
        squares = np.pad(mask, steps)
        side = 2 * steps + 1
        region = [(y, x) for y, x in np.argwhere(mask) if not squares[y : y + side, x : x + side].all()]
        regions.append(set(map(tuple, region)))
    union = regions[0] | regions[1]
    return len(regions[0] & regions[1]) / len(union) if union else 1.0


def monai_scores(pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """What MONAI says of a pair, with its own treatment of empty masks."""
    metrics = pytest.importorskip("monai.metrics", reason="the scores of MONAI need the extra `dev`")
    pair = {"y_pred": torch.tensor(pred)[None, None].float(), "y": torch.tensor(truth)[None, None].float()}
    counts = metrics.get_confusion_matrix(**pair)
    scores = {
        "dice": metrics.compute_dice(**pair, ignore_empty=False),
        "iou": metrics.compute_iou(**pair, ignore_empty=False),
        "sensitivity": metrics.compute_confusion_matrix_metric("sensitivity", counts),
        "specificity": metrics.compute_confusion_matrix_metric("specificity", counts),
        "surface_hausdorff": metrics.compute_hausdorff_distance(**pair, include_background=True),
        "hd95": metrics.compute_hausdorff_distance(**pair, include_background=True, percentile=95),
        "assd": metrics.compute_average_surface_distance(**pair, include_background=True, symmetric=True),
    }
    return {name: score.item() for name, score in scores.items()}


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


@pytest.mark.parametrize("pred, truth", mask_pairs())
def test_scores_equal_those_of_monai(pred, truth):
    expected = monai_scores(pred, truth)
    undefined = {"specificity"} if truth.all() else set()
    assert {name for name, score in expected.items() if np.isnan(score)} == undefined
    found = {
        "dice": dice(pred, truth),
        "iou": iou(pred, truth),
        "sensitivity": sensitivity(pred, truth),
        "specificity": specificity(pred, truth),
        "surface_hausdorff": hausdorff(surface_of(pred), surface_of(truth), "euclidean"),
        "hd95": hd95(pred, truth),
        "assd": assd(pred, truth),
    }
    for name in found.keys() - undefined:
        tolerance = 1e-5 if name == "hd95" else 1e-6  # MONAI computes in float32, its percentile too
        assert found[name] == pytest.approx(expected[name], rel=tolerance, abs=1e-6), name


@pytest.mark.parametrize("pred, truth", mask_pairs())
def test_surface_distances_equal_brute_force(pred, truth):
    distances = cdist(np.argwhere(surface_of(pred)), np.argwhere(surface_of(truth)))
    from_pred, from_truth = distances.min(axis=1), distances.min(axis=0)
    percentiles = np.percentile(from_pred, 95), np.percentile(from_truth, 95)
    assert hd95(pred, truth) == pytest.approx(max(percentiles), abs=1e-9)
    assert assd(pred, truth) == pytest.approx(np.mean([*from_pred, *from_truth]), abs=1e-9)
    assert (hd95(pred, truth), assd(pred, truth)) == (hd95(truth, pred), pytest.approx(assd(truth, pred)))


@pytest.mark.filterwarnings("ignore:the (ground truth|prediction) of class:UserWarning")
@pytest.mark.parametrize(
    "empty, undefined, infinite",
    [
        ("both", {"sensitivity", "surface_hausdorff", "hd95", "assd"}, set()),
        ("pred", {"hd95"}, {"surface_hausdorff", "assd"}),
        ("truth", {"sensitivity", "hd95"}, {"surface_hausdorff", "assd"}),
        ("pred, truth full", {"specificity", "hd95"}, {"surface_hausdorff", "assd"}),
        ("truth, pred full", {"sensitivity", "hd95"}, {"surface_hausdorff", "assd"}),
    ],
)
def test_where_monai_has_no_number_for_an_empty_mask_the_stated_rule_has(empty, undefined, infinite):
    pred, truth = pairs_with_an_empty_mask()[empty]
    theirs, ours = monai_scores(pred, truth), all_scores(pred, truth)
    assert {name for name, score in theirs.items() if np.isnan(score)} == undefined
    assert {name for name, score in theirs.items() if np.isinf(score)} == infinite
    for name in {"dice", "iou", "sensitivity", "specificity"} - undefined:
        assert ours[name] == pytest.approx(100 * theirs[name], rel=1e-6)
    for name in {"sensitivity", "specificity"} & undefined:
        assert ours[name] == 100
    distance = 0 if empty == "both" else pytest.approx(np.hypot(22, 30))
    assert (ours["hd_euclidean"], ours["hd95"], ours["assd"]) == (distance, distance, distance)


def test_hausdorff_equals_the_package_that_samus_uses():
    from hausdorff import hausdorff_distance  # compiles as it is imported

    for pred, truth in mask_pairs():
        points = np.argwhere(pred).astype(float), np.argwhere(truth).astype(float)
        assert hausdorff_manhattan(pred, truth) == hausdorff_distance(*points, distance="manhattan")
    for pred, truth in [*mask_pairs(), *pairs_with_an_empty_mask().values()]:
        rows = pred.astype(float), truth.astype(float)
        assert hausdorff_of_rows(pred, truth) == hausdorff_distance(*rows, distance="manhattan")


@pytest.mark.parametrize("dilation_ratio, steps", [(0.001, 1), (0.02, 1), (0.06, 2), (0.1, 4), (1, 39)])
def test_boundary_iou_equals_its_definition(dilation_ratio, steps):
    for pred, truth in [*mask_pairs(), *pairs_with_an_empty_mask().values()]:  # the diagonal is 38.6 pixels
        expected = slow_boundary_iou(pred, truth, steps)
        assert boundary_iou(pred, truth, dilation_ratio) == pytest.approx(expected, abs=1e-12)


def test_boundary_region_is_7_pixels_wide_at_256_and_follows_the_frame():
    full, half = np.ones((256, 256), dtype=bool), np.ones((256, 256), dtype=bool)
    half[:, 128:] = False
    ring, half_ring = 256**2 - 242**2, 256 * 128 - 242 * 114
    shared = half_ring - 242 * 7  # the region along the cut is not in the ring of the full mask
    assert boundary_iou(half, full) == pytest.approx(shared / (ring + half_ring - shared))


def test_wide_boundary_region_is_the_mask_itself():
    for pred, truth in mask_pairs():
        assert boundary_iou(pred, truth, dilation_ratio=1) == iou(pred, truth)


@pytest.mark.parametrize("dilation_ratio", [0, -0.02, 2, float("nan")])
def test_dilation_ratio_outside_its_range_is_refused(dilation_ratio):
    mask = np.ones((4, 5), dtype=bool)
    with pytest.raises(ValueError, match=r"dilation_ratio is .*; expected a fraction of the diagonal in \(0, 1\]"):
        boundary_iou(mask, mask, dilation_ratio)


def test_surface_distances_of_two_squares_counted_by_hand():
    pred, truth = np.zeros((9, 12), dtype=bool), np.zeros((9, 12), dtype=bool)
    pred[2:5, 1:4] = truth[2:5, 4:7] = True  # 8 surface pixels each, 3 columns apart
    # The columns of pred hold 3, 2 and 3 surface pixels, 3, 2 and 1 away from truth; the other way round the same.
    assert assd(pred, truth) == pytest.approx((3 * 3 + 2 * 2 + 3 * 1) / 8)
    assert hd95(pred, truth) == 3
    longer = pred.copy()
    longer[3, 4:11] = True  # 7 more surface pixels, 1 to 7 columns from pred; its (3, 3) is now inside, 1 away
    assert assd(longer, pred) == pytest.approx((1 + 2 + 3 + 4 + 5 + 6 + 7 + 1) / (14 + 8))
    assert hd95(longer, pred) == pytest.approx(np.percentile([0] * 7 + [1, 2, 3, 4, 5, 6, 7], 95))


def test_all_pixels_count_and_not_only_the_boundary():
    disc_without_center = np.ones((9, 9), dtype=bool)
    disc_without_center[2:7, 2:7] = False
    assert hausdorff(np.ones((9, 9), dtype=bool), disc_without_center) == 3  # from the center, (4, 4), to row 1


def test_hausdorff_manhattan_is_manhattan_distance_of_pixel_positions():
    pred, truth = mask_of((256, 256), (0, 0)), mask_of((256, 256), (3, 4))
    assert hausdorff_manhattan(pred, truth) == 7
    assert hausdorff(pred, truth, "euclidean") == 5


def test_dice_and_iou_count_pixels():
    pred = mask_of((4, 4), (0, 0), (0, 1), (0, 2))
    truth = mask_of((4, 4), (0, 1), (0, 2), (1, 1), (1, 2))
    assert dice(pred, truth) == pytest.approx(4 / 7)
    assert iou(pred, truth) == pytest.approx(2 / 5)


def test_sensitivity_and_specificity_count_pixels():
    pred = mask_of((4, 4), (0, 0), (0, 1), (0, 2))
    truth = mask_of((4, 4), (0, 1), (0, 2), (1, 1), (1, 2))
    assert sensitivity(pred, truth) == pytest.approx(2 / 4)
    assert specificity(pred, truth) == pytest.approx(11 / 12)


def test_empty_masks_follow_the_stated_rule_and_stay_finite():
    empty, lesion = np.zeros((256, 256), dtype=bool), mask_of((256, 256), (10, 10), (10, 11), (11, 10))
    assert (dice(empty, empty), iou(empty, empty)) == (1, 1)
    assert (hausdorff(empty, empty), hausdorff_manhattan(empty, empty), hausdorff_of_rows(empty, empty)) == (0, 0, 0)
    for pair in ((empty, lesion), (lesion, empty)):
        assert (dice(*pair), iou(*pair)) == (0, 0)
        assert hausdorff_manhattan(*pair) == 510
        assert hausdorff(*pair, "euclidean") == pytest.approx(255 * 2**0.5)
        assert hausdorff_of_rows(*pair) == 2


def test_sensitivity_and_specificity_of_empty_and_full_masks():
    empty, full = np.zeros((4, 5), dtype=bool), np.ones((4, 5), dtype=bool)
    lesion = mask_of((4, 5), (1, 1), (1, 2))
    assert [sensitivity(pred, empty) for pred in (empty, lesion, full)] == [1, 1, 1]
    assert [specificity(pred, full) for pred in (empty, lesion, full)] == [1, 1, 1]
    assert (sensitivity(empty, lesion), specificity(empty, lesion)) == (0, 1)
    assert (sensitivity(full, lesion), specificity(full, lesion)) == (1, 0)
    assert specificity(lesion, empty) == pytest.approx(18 / 20)


def test_boundary_iou_and_surface_distances_of_empty_masks():
    empty, lesion = np.zeros((256, 256), dtype=bool), mask_of((256, 256), (10, 10), (10, 11), (11, 10))
    assert (boundary_iou(empty, empty), hd95(empty, empty), assd(empty, empty)) == (1, 0, 0)
    for pair in ((empty, lesion), (lesion, empty)):
        assert boundary_iou(*pair) == 0
        assert (hd95(*pair), assd(*pair)) == (largest_distance((256, 256), "euclidean"),) * 2


@pytest.mark.parametrize("pred, truth", [*mask_pairs(), *pairs_with_an_empty_mask().values()])
def test_all_scores_are_the_ten_functions_in_order(pred, truth):
    scores = all_scores(pred, truth)
    fractions = [dice(pred, truth), iou(pred, truth), sensitivity(pred, truth), specificity(pred, truth)]
    distances = [hausdorff_manhattan(pred, truth), hausdorff_of_rows(pred, truth), hausdorff(pred, truth, "euclidean")]
    assert tuple(scores) == SCORES and tuple(scores)[:5] == PERCENT
    assert list(scores.values()) == [
        *[100 * fraction for fraction in (*fractions, boundary_iou(pred, truth))],
        *distances,
        hd95(pred, truth),
        assd(pred, truth),
    ]
    assert all(type(score) is float and np.isfinite(score) for score in scores.values())


def test_a_miss_scores_as_an_empty_mask_but_for_the_rows():
    empty, full = np.zeros((23, 31), dtype=bool), np.ones((23, 31), dtype=bool)
    miss = miss_scores((23, 31))
    assert tuple(miss) == SCORES and all(type(score) is float for score in miss.values())
    assert miss == all_scores(empty, full)
    truth = mask_of((23, 31), (4, 4), (4, 5), (5, 4))
    assert all_scores(empty, truth) == miss | {"hd_rows": 2}


def test_no_mask_scores_worse_than_a_miss_but_in_specificity():
    miss = miss_scores((23, 31))
    for pred, truth in mask_pairs():
        scores = all_scores(pred, truth)
        assert all(scores[name] >= miss[name] for name in set(PERCENT) - {"specificity"})
        assert all(scores[name] <= miss[name] for name in set(SCORES) - set(PERCENT))


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
    assert hausdorff_manhattan(pred, moved) == 12


EVERY_FUNCTION = [dice, iou, sensitivity, specificity, boundary_iou, hausdorff, hausdorff_manhattan, hausdorff_of_rows]


@pytest.mark.parametrize("function", [*EVERY_FUNCTION, hd95, assd, all_scores])
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


def plain_distances(pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The Euclidean scores by distance transforms of the whole frame, each computed by itself."""
    edges = [mask & ~binary_erosion(mask) for mask in (pred, truth)]
    whole, surface = (
        [distance_transform_edt(~two)[one], distance_transform_edt(~one)[two]] for one, two in ((pred, truth), edges)
    )
    return {
        "hd_euclidean": max(each.max() for each in whole),
        "hd95": max(np.percentile(each, 95) for each in surface),
        "assd": np.concatenate(surface).mean(),
    }


@pytest.mark.parametrize("roughness", [1, 3, 12])
def test_all_scores_equal_the_plain_path_to_the_bit(roughness, rng):
    """Shattered masks take the distance grid, smooth ones the tree; both give what whole-frame transforms give."""
    for likeness in (0.1, 0.5, 0.95):
        first, other = (gaussian_filter(rng.normal(size=(256, 256)), roughness) for _ in range(2))
        mixed = likeness * first + (1 - likeness) * other
        pred, truth = first > 0.5 * first.std(), mixed > 0.7 * mixed.std()
        scores = all_scores(pred, truth)
        assert {name: scores[name] for name in ("hd_euclidean", "hd95", "assd")} == plain_distances(pred, truth)
        assert scores["hd_samus"] == hausdorff_manhattan(pred, truth)
        signs = [np.where(mask, 1, -1) for mask in (pred, truth)]
        rows = (256 - signs[0] @ signs[1].T) / 2
        assert scores["hd_rows"] == max(rows.min(axis=0).max(), rows.min(axis=1).max())
        assert scores["boundary_iou"] / 100 == pytest.approx(slow_boundary_iou(pred, truth, 7), abs=1e-12)


def test_shape_counts_parts_and_how_far_a_mask_leaves_its_box():
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:10, 10:20] = mask[10, 20] = True  # touches at a corner: one part
    box = np.array([10, 5, 20, 10])
    assert shape_of(mask, box) == {"parts": 1, "largest_part_share": 1, "reach_outside_box": pytest.approx(1 / 5)}
    raw = mask.copy()
    raw[0, :9] = True
    assert shape_of(mask, box, raw) == {
        "parts": 2,
        "largest_part_share": pytest.approx(51 / 60),
        "reach_outside_box": pytest.approx(1 / 5),
    }
    assert shape_of(raw, box)["reach_outside_box"] == 1  # ten columns of ten
    assert shape_of(mask[:10], box)["reach_outside_box"] == 0 and shape_of(mask)["reach_outside_box"] is None
    empty = {"parts": 0, "largest_part_share": None, "reach_outside_box": None}
    assert shape_of(np.zeros((4, 4), dtype=bool), np.array([0, 0, 2, 2])) == empty
