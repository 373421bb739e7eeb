"""How well a model estimates its own quality: calibration, error against uncertainty, referral.

A case is boiled down to a few bins while it is evaluated (`calibration_bins`, `uncertainty_bins`); the other functions
take the rows of `ccsam_hf.evaluation.harness`, those of one model, and sum the bins up.
"""

from collections.abc import Sequence

import numpy as np
from scipy.integrate import trapezoid
from scipy.stats import rankdata, spearmanr

from .statistics import group_of

NUM_CALIBRATION_BINS = 15  # equal bins of the probability in [0, 1]
NUM_UNCERTAINTY_BINS = 10  # equal bins of the uncertainty in [0, 0.5]
LARGEST_UNCERTAINTY = 0.5  # no standard deviation of numbers in [0, 1] is larger
ROUNDING = 1e-6  # interpolation of float32 maps may leave their range by this much
NUM_SCORE_BINS = 10  # equal bins of the model's own estimate of its IoU in [0, 1]
RESAMPLES = 1000
PERCENT_REFERRED = range(0, 51, 5)
REFERRAL_SIGNS = {"uncertainty": 1, "iou_score": -1}  # column -> 1 where large values mean doubt


def calibration_bins(mask_probs: np.ndarray, truth: np.ndarray) -> tuple[list[int], list[float], list[int]]:
    """Sorts the pixels of a case into 15 equal bins of their probability; the last bin holds 1.

    Args:
        mask_probs: (H, W) in [0, 1], probability that a pixel belongs to the object.
        truth: (H, W) bool.

    Returns:
        For each bin the number of pixels, the sum of their probabilities, and the number of true object pixels.

    Raises:
        TypeError: the truth is not bool.
        ValueError: a probability is not in [0, 1], or the shapes differ.
    """
    mask_probs = _in_range("mask_probs", mask_probs, 1.0, "truth", truth)
    inner_edges = np.linspace(0, 1, NUM_CALIBRATION_BINS + 1)[1:-1]
    bins = np.searchsorted(inner_edges, mask_probs, side="right")
    count, confidence, positive = (
        np.bincount(bins, weights, NUM_CALIBRATION_BINS) for weights in (None, mask_probs, truth.ravel())
    )
    return count.tolist(), confidence.tolist(), positive.astype(int).tolist()


def uncertainty_bins(uncertainty: np.ndarray, wrong: np.ndarray) -> tuple[list[int], list[int]]:
    """Sorts the pixels of a case into 10 equal bins of their uncertainty; the last bin holds 0.5.

    Args:
        uncertainty: (H, W) in [0, 0.5], standard deviation of the probability over posterior draws.
        wrong: (H, W) bool, where the predicted mask is not the true one.

    Returns:
        For each bin the number of pixels and the number of wrong ones.

    Raises:
        TypeError: `wrong` is not bool.
        ValueError: an uncertainty is not in [0, 0.5], or the shapes differ.
    """
    uncertainty = _in_range("uncertainty", uncertainty, LARGEST_UNCERTAINTY, "wrong", wrong)
    edges = (NUM_UNCERTAINTY_BINS, (0, LARGEST_UNCERTAINTY))
    count, _ = np.histogram(uncertainty, *edges)
    num_wrong, _ = np.histogram(uncertainty[wrong.ravel()], *edges)
    return count.tolist(), num_wrong.tolist()


def summarize_reliability(rows: Sequence[dict]) -> dict:
    """Summarize how well a model estimates its own quality.

    Args:
        rows: of one model and prompt, of one data set or of several together.

    Returns:
        n, rows with a mask; spearman, {"value", "ci95", "n"}: rank correlation of iou_score with Dice over the rows
        that have one, and its bootstrap interval over patients or images; score_error, the expected calibration error
        of iou_score as an estimate of the IoU, over 10 bins; ece, ece_inner and mce of the mask's probabilities, see
        `calibration`. Errors are fractions in [0, 1]; None where there is nothing to compute it from.
    """
    segmented = [row for row in rows if row["status"] == "ok"]
    scored = [row for row in segmented if row.get("iou_score") is not None]
    with_bins = any(row.get("calibration_count") is not None for row in segmented)
    errors = calibration(segmented) if with_bins else {}
    return {
        "n": len(segmented),
        "spearman": correlate_score(scored) if scored else None,
        "score_error": score_calibration_error(scored) if scored else None,
        **{name: errors.get(name) for name in ("ece", "ece_inner", "mce")},
    }


def correlate_score(rows: Sequence[dict]) -> dict | None:
    """Rank correlation of iou_score with Dice, with its interval; None where one of both is constant."""
    score, dice = (np.array([row[name] for row in rows], dtype=float) for name in ("iou_score", "dice"))
    if np.ptp(score) == 0 or np.ptp(dice) == 0:
        return None
    members: dict = {}
    for index, row in enumerate(rows):
        members.setdefault(group_of(row), []).append(index)
    groups, rng, values = list(members.values()), np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([groups[place] for place in rng.integers(len(groups), size=len(groups))])
        if np.ptp(score[drawn]) > 0 and np.ptp(dice[drawn]) > 0:
            values.append(np.corrcoef(rankdata(score[drawn]), rankdata(dice[drawn]))[0, 1])
    value = float(spearmanr(score, dice).statistic)
    interval = [float(bound) for bound in np.percentile(values, [2.5, 97.5])] if values else [value, value]
    return {"value": value, "ci95": interval, "n": len(rows)}


def score_calibration_error(rows: Sequence[dict]) -> float:
    """Mean over rows of |mean iou_score - mean IoU| of their bin of iou_score, in [0, 1]."""
    score = np.array([row["iou_score"] for row in rows], dtype=float).clip(0, 1)
    iou = np.array([row["iou"] for row in rows], dtype=float) / 100
    bins = np.minimum((score * NUM_SCORE_BINS).astype(int), NUM_SCORE_BINS - 1)
    return float(np.abs(np.bincount(bins, score - iou)).sum() / len(rows))


def reliability_entries(rows: Sequence[dict]) -> list[dict]:
    """`summarize_reliability` of each model, prompt and data set, and of all data sets pooled (data None)."""
    entries = []
    for model, prompt in dict.fromkeys((row["model"], row["prompt"]) for row in rows):
        mine = [row for row in rows if (row["model"], row["prompt"]) == (model, prompt)]
        names = list(dict.fromkeys(row["data"] for row in mine))
        for data in [*names, None] if len(names) > 1 else names:
            part = [row for row in mine if data in (None, row["data"])]
            entries.append({"model": model, "prompt": prompt, "data": data, **summarize_reliability(part)})
    return entries


def calibration(rows: Sequence[dict]) -> dict:
    """Reliability curve and calibration errors of the pixels of all cases together.

    Most pixels of an ultrasound image are background that every model gives a probability near 0. They make the
    expected calibration error small whatever happens at the outline, so it is also given without the first and the
    last bin: over the pixels with a probability in [1/15, 14/15], where the outline is decided. (15 bins allow no
    closer range.)

    Source: expected and maximum calibration error of Naeini et al., AAAI 2015, with the probability of the object, not
    that of the label that won.

    Args:
        rows: with calibration_count, calibration_confidence, calibration_positive; rows without, the cases that were
            missed or failed, are left out, for they have no pixels.

    Returns:
        n, rows that count; n_left_out; count, probability and positive, for each of the 15 bins the number of pixels,
        their mean probability and the share of true object pixels (both None in an empty bin); ece, the mean of
        |probability - positive| over pixels; mce, its largest value over bins, however few pixels one holds; ece_inner
        and count_inner, the mean and the number of pixels without the first and the last bin (None without a pixel).
        Probabilities, shares and errors are fractions in [0, 1].

    Raises:
        ValueError: no row has the columns.
    """
    found = _rows_with_bins(rows, "calibration_count", "evaluate cases that the model segments")
    count, confidence, positive = (
        _summed(found, f"calibration_{name}") for name in ("count", "confidence", "positive")
    )
    gap = np.abs(confidence - positive)  # of a bin, times its number of pixels
    filled = count > 0
    inner = slice(1, -1)
    return {
        "n": len(found),
        "n_left_out": len(rows) - len(found),
        "count": count.astype(int).tolist(),
        "probability": _shares(confidence, count),
        "positive": _shares(positive, count),
        "ece": float(gap.sum() / count.sum()),
        "mce": float((gap[filled] / count[filled]).max()),
        "ece_inner": float(gap[inner].sum() / count[inner].sum()) if count[inner].any() else None,
        "count_inner": int(count[inner].sum()),
    }


def error_by_uncertainty(rows: Sequence[dict]) -> dict:
    """Share of wrong pixels by their uncertainty, over the pixels of all cases together.

    Args:
        rows: with uncertainty_count and uncertainty_wrong; rows without are left out.

    Returns:
        n, rows that count; n_left_out; edges, the 11 limits of the bins in [0, 0.5]; for each of the 10 bins count,
        the number of pixels, and wrong, the share of them in [0, 1] that is labelled wrongly (None in an empty bin).

    Raises:
        ValueError: no row has the columns.
    """
    found = _rows_with_bins(rows, "uncertainty_count", "evaluate with num_samples, for instance num_samples=16")
    count, num_wrong = (_summed(found, f"uncertainty_{name}") for name in ("count", "wrong"))
    return {
        "n": len(found),
        "n_left_out": len(rows) - len(found),
        "edges": np.linspace(0, LARGEST_UNCERTAINTY, NUM_UNCERTAINTY_BINS + 1).tolist(),
        "count": count.astype(int).tolist(),
        "wrong": _shares(num_wrong, count),
    }


def referral(rows: Sequence[dict], by: str = "uncertainty") -> dict:
    """Mean Dice of the cases that remain when a model sends the most doubtful ones to a person.

    Cases that were missed or failed, and any other without a value, go first: that they need a person is known. Cases
    of equal doubt go in random order, which is given by its expectation. Every row counts as a case of its own.

    Args:
        rows: with dice in percent and the column `by`.
        by: "uncertainty", the largest goes first, or "iou_score", the model's own estimate of its IoU, the smallest
            goes first; the latter needs no sampling.

    Returns:
        by; n, rows; n_without, those without a value; percent sent away, 0 to 50 in steps of 5, and referred, the
        number of rows that makes, rounded down; for each step the mean Dice of the rest in the order asked for (dice),
        in a random order (random, its expectation) and with the smallest Dice first (oracle); gain and oracle_gain,
        the areas between these two and random, as mean Dice points over the steps; share_of_oracle, their ratio, 1 for
        a perfect order, 0 for a random one, negative for a worse one (None where no order gains anything); spearman,
        the rank correlation of the column with Dice over the rows that have it (None where one of both is constant).

    Raises:
        ValueError: the column is unknown, or no row has a value in it.
    """
    if by not in REFERRAL_SIGNS:
        raise ValueError(f"by is {by!r}; accepted are {', '.join(REFERRAL_SIGNS)}")
    values = np.array([row.get(by) for row in rows], dtype=float)  # None becomes NaN
    known = ~np.isnan(values)
    if not known.any():
        remedy = {
            "uncertainty": "evaluate with num_samples, for instance num_samples=16",
            "iou_score": "evaluate a model that estimates its own IoU",
        }
        raise ValueError(f"none of the {len(rows)} rows has a value of {by}: {remedy[by]}")
    dice = np.array([row["dice"] for row in rows], dtype=float)
    doubt = np.where(known, REFERRAL_SIGNS[by] * values, np.inf)
    referred = [percent * len(rows) // 100 for percent in PERCENT_REFERRED]
    curve, oracle = (_dice_of_the_rest(order, dice, referred) for order in (doubt, -dice))
    gain, oracle_gain = (_mean_gain(each, dice.mean()) for each in (curve, oracle))
    varied = np.ptp(values[known]) > 0 and np.ptp(dice[known]) > 0
    return {
        "by": by,
        "n": len(rows),
        "n_without": int((~known).sum()),
        "percent": list(PERCENT_REFERRED),
        "referred": referred,
        "dice": curve,
        "random": [float(dice.mean())] * len(referred),
        "oracle": oracle,
        "gain": gain,
        "oracle_gain": oracle_gain,
        "share_of_oracle": gain / oracle_gain if oracle_gain > 0 else None,
        "spearman": float(spearmanr(values[known], dice[known]).statistic) if varied else None,
    }


def _dice_of_the_rest(doubt: np.ndarray, dice: np.ndarray, referred: Sequence[int]) -> list[float]:
    """Mean Dice without the most doubtful rows, for each number of them; rows of equal doubt share their mean."""
    _, tied = np.unique(doubt, return_inverse=True)
    shared = (np.bincount(tied, dice) / np.bincount(tied))[tied]
    falling = shared[np.argsort(-doubt, kind="stable")]
    return [float(falling[number:].mean()) for number in referred]


def _mean_gain(curve: Sequence[float], random: float) -> float:
    return float(trapezoid(np.array(curve) - random, PERCENT_REFERRED) / PERCENT_REFERRED[-1])


def _in_range(name: str, values: np.ndarray, largest: float, of_pixels: str, pixels: np.ndarray) -> np.ndarray:
    """The values (H*W,) within [0, largest], after a check of them and of the shape of the bool array beside them."""
    values = np.asarray(values, dtype=float)
    if pixels.dtype != bool:
        raise TypeError(f"{of_pixels} is an array of {pixels.dtype}; expected bool: threshold it first")
    if pixels.shape != values.shape:
        raise ValueError(f"{name} has shape {values.shape} and {of_pixels} {pixels.shape}; expected one shape")
    if not (values.min() >= -ROUNDING and values.max() <= largest + ROUNDING):  # NaN fails both
        raise ValueError(f"{name} lies in [{values.min():g}, {values.max():g}]; expected values in [0, {largest:g}]")
    return values.ravel().clip(0, largest)


def _rows_with_bins(rows: Sequence[dict], column: str, remedy: str) -> list[dict]:
    found = [row for row in rows if np.ndim(row.get(column)) == 1]
    if not found:
        raise ValueError(f"none of the {len(rows)} rows has {column}: {remedy}")
    return found


def _summed(rows: Sequence[dict], column: str) -> np.ndarray:
    return np.sum([row[column] for row in rows], axis=0, dtype=float)


def _shares(part: np.ndarray, count: np.ndarray) -> list[float | None]:
    return [float(a / b) if b else None for a, b in zip(part, count, strict=True)]
