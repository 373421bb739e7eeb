"""evaluation/reliability.py on predictors whose calibration and order are known."""

import json
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import spearmanr

from ccsam_hf.evaluation.reliability import (
    calibration,
    calibration_bins,
    error_by_uncertainty,
    referral,
    uncertainty_bins,
)

MIDDLES = (np.arange(15) + 0.5) / 15


def calibration_row(mask_probs, truth) -> dict:
    columns = ("calibration_count", "calibration_confidence", "calibration_positive")
    return dict(zip(columns, calibration_bins(np.atleast_2d(mask_probs), np.atleast_2d(truth)), strict=True))


def uncertainty_row(uncertainty, wrong) -> dict:
    bins = uncertainty_bins(np.atleast_2d(uncertainty), np.atleast_2d(wrong))
    return dict(zip(("uncertainty_count", "uncertainty_wrong"), bins, strict=True))


def scored_rows(dice, values, column: str = "uncertainty") -> list[dict]:
    return [{"dice": one, column: value} for one, value in zip(dice, values, strict=True)]


def test_pixels_are_counted_in_15_bins_of_probability():
    mask_probs = np.array([[0.0, 0.01, 0.07], [0.5, 0.99, 1.0]], dtype=np.float32)
    truth = np.array([[False, True, False], [True, False, True]])
    count, confidence, positive = calibration_bins(mask_probs, truth)
    assert count == [2, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2]
    assert positive == [1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert [confidence[index] for index in (0, 1, 7, 14)] == pytest.approx([0.01, 0.07, 0.5, 1.99])
    assert sum(confidence) == pytest.approx(mask_probs.sum())
    json.dumps([count, confidence, positive])


def test_pixels_are_counted_in_10_bins_of_uncertainty():
    uncertainty = np.array([[0.0, 0.04, 0.06], [0.26, 0.27, 0.5]], dtype=np.float32)
    wrong = np.array([[False, False, True], [True, False, True]])
    assert uncertainty_bins(uncertainty, wrong) == (
        [2, 1, 0, 0, 0, 2, 0, 0, 0, 1],
        [0, 1, 0, 0, 0, 1, 0, 0, 0, 1],
    )


def test_rounding_beyond_the_range_is_forgiven_and_nothing_else():
    nothing = np.zeros((1, 2), dtype=bool)
    count, confidence, _ = calibration_bins(np.array([[-1e-7, 1 + 1e-7]]), nothing)
    assert (count[0], count[14], confidence[0], confidence[14]) == (1, 1, 0, 1)
    assert uncertainty_bins(np.array([[0.5 + 1e-7, 0]]), nothing)[0] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    with pytest.raises(ValueError, match=r"mask_probs lies in \[0, 3\]; expected values in \[0, 1\]"):
        calibration_bins(np.array([[0.0, 3.0]]), nothing)
    with pytest.raises(ValueError, match="mask_probs lies in"):
        calibration_bins(np.array([[0.5, np.nan]]), nothing)
    with pytest.raises(ValueError, match=r"uncertainty lies in \[0, 0.6\]; expected values in \[0, 0.5\]"):
        uncertainty_bins(np.array([[0.0, 0.6]]), nothing)
    with pytest.raises(ValueError, match=r"mask_probs has shape \(1, 3\) and truth \(1, 2\); expected one shape"):
        calibration_bins(np.zeros((1, 3)), nothing)
    with pytest.raises(TypeError, match="wrong is an array of uint8; expected bool: threshold it first"):
        uncertainty_bins(np.zeros((1, 2)), nothing.astype(np.uint8))


def test_a_calibrated_predictor_has_no_calibration_error():
    mask_probs = np.repeat(MIDDLES, 30)
    truth = np.concatenate([np.arange(30) < 2 * index + 1 for index in range(15)])  # (2k + 1) / 30 of bin k
    found = calibration([calibration_row(mask_probs, truth)])
    assert (found["ece"], found["mce"], found["ece_inner"]) == pytest.approx((0, 0, 0), abs=1e-12)
    assert found["probability"] == pytest.approx(MIDDLES) and found["positive"] == pytest.approx(MIDDLES)
    rng = np.random.default_rng(0)
    drawn = rng.beta(0.5, 0.5, size=(400, 500))
    assert calibration([calibration_row(drawn, rng.uniform(size=drawn.shape) < drawn)])["ece"] < 0.005


def test_an_overconfident_predictor_has_the_error_it_was_built_with():
    mask_probs = np.repeat([0.05, 0.95], [60, 40])
    truth = np.concatenate([np.arange(60) < 18, np.arange(40) < 20])  # 30 % and 50 % instead of 5 % and 95 %
    found = calibration([calibration_row(mask_probs, truth)])
    assert found["ece"] == pytest.approx(0.6 * 0.25 + 0.4 * 0.45)
    assert found["mce"] == pytest.approx(0.45)
    assert (found["ece_inner"], found["count_inner"]) == (None, 0)  # both lie in the first and the last bin
    assert found["positive"] == [0.3, *[None] * 13, 0.5]


def test_background_hides_the_outline_from_the_error_and_not_from_the_inner_one():
    mask_probs = np.repeat([0.001, 0.5], [65_000, 536])
    truth = np.arange(65_536) >= 65_536 - 402  # three quarters of the doubtful pixels
    found = calibration([calibration_row(mask_probs, truth)])
    assert found["ece"] < 0.004
    assert (found["ece_inner"], found["count_inner"]) == (pytest.approx(0.25), 536)


def test_cases_are_pooled_pixel_by_pixel_and_cases_without_pixels_are_left_out():
    rng = np.random.default_rng(1)
    images = [(rng.beta(1, 3, size=(20, 20 * size)), rng.uniform(size=(20, 20 * size)) < 0.4) for size in (1, 3)]
    rows = [calibration_row(*image) for image in images]
    missed = [{"calibration_count": None}, {"calibration_count": float("nan")}, {}]
    found = calibration([*rows, *missed])
    assert (found["n"], found["n_left_out"]) == (2, 3)
    probs, truth = (np.concatenate([image[part].ravel() for image in images]) for part in (0, 1))
    bins = np.minimum((probs * 15).astype(int), 14)
    parts = [bins == number for number in range(15) if (bins == number).any()]
    expected = sum(part.mean() * abs(probs[part].mean() - truth[part].mean()) for part in parts)
    assert found["ece"] == pytest.approx(expected)
    assert sum(found["count"]) == 1600
    json.dumps(found, allow_nan=False)
    with pytest.raises(ValueError, match="none of the 3 rows has calibration_count"):
        calibration(missed)


def test_errors_are_shown_by_uncertainty():
    rows = [
        uncertainty_row([0.01, 0.02, 0.03, 0.26], [False, False, False, True]),
        uncertainty_row([0.04, 0.28, 0.29], [True, False, False]),
        {"uncertainty_count": None},
    ]
    found = error_by_uncertainty(rows)
    assert found["count"] == [4, 0, 0, 0, 0, 3, 0, 0, 0, 0]
    assert found["wrong"] == [0.25, *[None] * 4, pytest.approx(1 / 3), *[None] * 4]
    assert found["edges"] == pytest.approx([0.05 * number for number in range(11)])
    assert (found["n"], found["n_left_out"]) == (2, 1)
    with pytest.raises(ValueError, match="none of the 1 rows has uncertainty_count: evaluate with num_samples"):
        error_by_uncertainty(rows[2:])


def test_referral_by_hand():
    found = referral(scored_rows([0, 100], [0.3, 0.1]))
    assert found["percent"] == list(range(0, 51, 5))
    assert found["referred"] == [0] * 10 + [1]  # half of two rows is the first whole one
    assert found["dice"] == found["oracle"] == [50] * 10 + [100]
    assert found["random"] == [50] * 11
    assert found["gain"] == found["oracle_gain"] == pytest.approx(5 * (0 + 50) / 2 / 50)
    assert (found["share_of_oracle"], found["spearman"]) == (1, pytest.approx(-1))
    json.dumps(found, allow_nan=False)


def test_a_wrong_order_loses_what_the_right_one_gains():
    dice = np.linspace(5, 100, 20)
    right, wrong = referral(scored_rows(dice, -dice)), referral(scored_rows(dice, dice))
    assert right["referred"] == list(range(11))
    assert right["dice"] == pytest.approx([dice[number:].mean() for number in range(11)])
    assert wrong["dice"] == pytest.approx([dice[: 20 - number].mean() for number in range(11)])
    assert wrong["oracle"] == right["oracle"] == right["dice"]
    assert (right["share_of_oracle"], wrong["share_of_oracle"]) == (pytest.approx(1), pytest.approx(-1))


def test_cases_of_equal_doubt_go_in_random_order():
    dice, doubt = [10.0, 40.0, 50.0, 80.0], [0.1, 0.4, 0.1, 0.1]
    found = referral(scored_rows(dice, doubt))
    rest = [np.mean(order[1:]) for order in permutations((10.0, 50.0, 80.0))]  # 40 is gone, then one of the others
    assert found["dice"][5] == pytest.approx(np.mean([10, 50, 80]))
    assert found["dice"][10] == pytest.approx(np.mean(rest))
    assert found == referral(scored_rows(dice, doubt)[::-1])
    constant = referral(scored_rows(dice, [0.2] * 4))
    assert constant["dice"] == pytest.approx(constant["random"])
    assert (constant["share_of_oracle"], constant["spearman"]) == (pytest.approx(0), None)
    assert referral(scored_rows([70, 70], [0.1, 0.2]))["share_of_oracle"] is None


def test_missed_and_failed_cases_go_first():
    rows = scored_rows([90, 0, 60, 80, 0], [0.1, None, 0.4, 0.2, float("nan")])
    found = referral(rows)
    assert (found["n"], found["n_without"]) == (5, 2)
    assert (found["referred"][4], found["dice"][4]) == (1, pytest.approx(230 / 4))
    assert (found["referred"][8], found["dice"][8]) == (2, pytest.approx(230 / 3))
    assert found["spearman"] == pytest.approx(spearmanr([0.1, 0.4, 0.2], [90, 60, 80]).statistic)


def test_the_estimated_iou_refers_its_smallest_first():
    dice = [20.0, 90.0, 70.0, 50.0]
    found = referral(scored_rows(dice, [0.3, 0.9, 0.8, 0.5], "iou_score"), by="iou_score")
    assert found["dice"] == found["oracle"]
    assert found["spearman"] == pytest.approx(1)
    assert found["dice"][5] == pytest.approx(70)


def test_rows_that_cannot_be_ordered_are_refused():
    rows = scored_rows([20.0, 90.0], [None, None])
    with pytest.raises(ValueError, match="none of the 2 rows has a value of uncertainty: evaluate with num_samples"):
        referral(rows)
    with pytest.raises(
        ValueError, match="none of the 2 rows has a value of iou_score: evaluate a model that estimates"
    ):
        referral(rows, by="iou_score")
    with pytest.raises(ValueError, match="by is 'entropy'; accepted are uncertainty, iou_score"):
        referral(rows, by="entropy")
    with pytest.raises(ValueError, match="none of the 0 rows"):
        referral([])
