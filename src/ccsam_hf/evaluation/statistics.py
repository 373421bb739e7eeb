"""Rows of cases -> means with intervals (`summarize`, `summaries`) and paired tests of models (`comparisons`).

A row is one draw of a prompt for one case by one model, as `ccsam_hf.evaluation.harness` makes it; a case is one
object of one image. Two rules hold throughout. Draws are no new cases: the draws of a case are averaged first, and n
counts cases. Objects of one image or patient are not independent: intervals draw whole patients, whole images where
the patient is not known, and tests count each of them once. Cases that were missed or failed carry the scores of a
miss and count in every mean.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import combinations

import numpy as np
from scipy.stats import rankdata, wilcoxon

from .metrics import PERCENT, SCORES, SHAPES
from .rows import CLICK_COLUMNS, NOC_COLUMNS

# prompt -> the baseline that sees it and not the image
BASELINES = {
    "box": "ellipse",
    "jittered-box": "ellipse",
    "text": "ellipse",
    "point": "disc",
    "random-point": "disc",
    "clicks": "disc",
    "none": "mean mask",
}
COMPARED = ("dice", "hd_samus")
CASE = ("data", "dataset", "name", "target", "prompt")  # rows of a model that agree in these are draws of one case


def summarize(rows: Sequence[dict], scores: Sequence[str] = SCORES) -> dict:
    """Means over the cases of one model, one data set and one prompt, with their confidence intervals.

    Args:
        rows: at least one, all of one model, data and prompt.
        scores: columns to average; those of the baseline are named baseline_*.

    Returns:
        `{"<target>": entry, ..., "all": entry, "baseline": {"<name of BASELINES>": entry}}`. An entry is `{"dice":
        {"mean", "ci95": [low, high]}, ..., "n", "n_missed", "n_failed"}`: each score in its own unit, the number of
        cases, and of how many any draw was missed or failed. The baseline's is over all cases. Where rows have the
        columns of `ccsam_hf.evaluation.metrics.SHAPES`, an entry has them too, as {"mean", "ci95", "max", "n"} over
        the cases with a mask; and for the prompt "clicks" dice_1 to dice_10, and noc85 and the like with
        "n_not_reached".

    Raises:
        ValueError: there is no row, or rows differ in model, data or prompt.
    """
    kinds = list(_grouped(rows, ("model", "data", "prompt")))
    if len(kinds) != 1:
        raise ValueError(
            f"rows hold {len(kinds)} combinations of model, data and prompt{': ' if kinds else ''}"
            f"{'; '.join(map(str, kinds[:3]))}; expected one: use summaries for a whole study"
        )
    by_target = {target: _entry(group, scores) for target, group in _by_target(rows).items()}
    return by_target | {"baseline": {BASELINES[kinds[0][2]]: _entry(rows, scores, "baseline_")}}


def summaries(rows: Sequence[dict], scores: Sequence[str] = SCORES) -> list[dict]:
    """Means of a whole study, one flat entry for each model, data, prompt and target, and for all targets together.

    The blind baselines stand at the end as models of their own, see `blind_rows`. Since the draws of a case are
    averaged before anything else, more draws make its score more exact and leave the interval as wide as its cases.

    Args:
        rows: of any number of models, data sets and prompts.
        scores: columns to average.

    Returns:
        `{"model", "data", "prompt", "target", "n", "n_missed", "n_failed", "dice": {"mean", "ci95"}, ...}`, in the
        order in which models, data and prompts appear, targets by name, "all" last; entries as in `summarize`.
    """
    kinds = ("model", "data", "prompt")
    return [
        dict(zip(kinds, values, strict=True)) | {"target": target} | _entry(of_target, scores)
        for values, group in _grouped([*rows, *blind_rows(rows, scores)], kinds).items()
        for target, of_target in _by_target(group).items()
    ]


def comparisons(rows: Sequence[dict], scores: Sequence[str] = COMPARED, resamples: int = 1000) -> list[dict]:
    """All pairs of models on each data set and prompt, the blind baseline among them as the first model.

    The p values are adjusted by Holm's method over the family of all pairs and scores of one data set and prompt: each
    such block answers one question, which model is better there, and another data set does not change its answer.

    Args:
        rows: of any number of models, data sets and prompts.
        scores: columns to compare.
        resamples: of the interval.

    Returns:
        `{"data", "prompt", "score", "model_a", "model_b", ...what compare gives, "p_holm"}`.

    Raises:
        ValueError: two models have not the same cases and draws, see `compare`.
    """
    compared = []
    for (data, prompt), group in _grouped([*blind_rows(rows, scores), *rows], ("data", "prompt")).items():
        of_models = _grouped(group, ("model",)).items()
        family = [
            {"data": data, "prompt": prompt, "score": score, "model_a": model_a, "model_b": model_b}
            | compare(rows_a, rows_b, score, resamples)
            for ((model_a,), rows_a), ((model_b,), rows_b) in combinations(of_models, 2)
            for score in scores
        ]
        adjusted = holm([each["p"] for each in family])
        compared += [each | {"p_holm": p} for each, p in zip(family, adjusted, strict=True)]
    return compared


def compare(rows_a: Sequence[dict], rows_b: Sequence[dict], score: str, resamples: int = 1000) -> dict:
    """Compares two models on the same cases and draws.

    Args:
        rows_a, rows_b: of one model each; rows with the same data, dataset, name, target, prompt and draw are a pair
            (several objects of one image and target pair in their order).
        score: one of `ccsam_hf.evaluation.metrics.SCORES`.
        resamples: of the interval.

    Returns:
        n, number of cases; n_groups, of patients or images; difference, the mean of b - a over cases in the unit of
        the score, and ci95, its bootstrap interval over groups; p, two-sided Wilcoxon signed-rank test of the groups'
        mean differences, 1 where all are zero; share_better and share_equal, the shares of cases where b is better
        than a and as good; effect, the rank-biserial correlation that belongs to the test, in [-1, 1], 1 where b is
        better in every group that differs. Better means larger, for distances smaller.

    Raises:
        ValueError: the score is unknown, a side has no rows or those of several models, or a row has no partner.
    """
    if score not in SCORES:
        raise ValueError(f"score is {score!r}; accepted are {', '.join(SCORES)}")
    for side in (rows_a, rows_b):
        models = {row["model"] for row in side}
        if len(models) != 1:
            raise ValueError(f"one side of the comparison has rows of {len(models)} models; expected those of one")
    by_draw_a, by_draw_b = (
        {(case, row["draw"]): row for case, row in zip(_cases(side), side, strict=True)} for side in (rows_a, rows_b)
    )
    unpaired = by_draw_a.keys() ^ by_draw_b.keys()
    if unpaired:
        raise ValueError(
            f"{len(unpaired)} of {len(rows_a)} + {len(rows_b)} rows have no partner with the same "
            f"{', '.join(CASE)} and draw; expected both models on the same cases: evaluate both on all of them"
        )
    paired = [row | {"difference": by_draw_b[draw][score] - row[score]} for draw, row in by_draw_a.items()]
    draws = _draws(paired)
    differences, groups = _means(draws, "difference"), [group_of(of_case[0]) for of_case in draws]
    codes = _codes(groups)
    p, effect = signed_rank_test(np.bincount(codes, differences) / np.bincount(codes))
    sign = 1 if score in PERCENT else -1  # the other scores are distances
    return {
        "n": len(differences),
        "n_groups": int(codes.max()) + 1,
        "difference": float(differences.mean()),
        "ci95": list(bootstrap_ci95(differences, groups, resamples)),
        "p": p,
        "share_better": float((sign * differences > 0).mean()),
        "share_equal": float((differences == 0).mean()),
        "effect": sign * effect,
    }


def bootstrap_ci95(
    values: np.ndarray, groups: Sequence[Hashable] | None = None, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % confidence interval of a mean: the 2.5 and 97.5 percentiles of the means of resampled values.

    Args:
        values: (n,), at least one number.
        groups: what each value belongs to, for instance its patient; values of one group are drawn together, because
            they are not independent, and the mean is over all drawn values. None: every value is drawn alone.
        resamples: how many times n values, or as many groups as there are, are drawn with replacement.
        seed: of the draw; the same values, groups and seed give the same interval.

    Returns:
        (low, high) in the unit of the values; both the mean itself where there is one value or one group.

    Raises:
        ValueError: there is no value, or not one group a value.
    """
    values = np.asarray(values, dtype=float)
    if not len(values):
        raise ValueError("values is empty; an interval needs at least one")
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"{len(groups)} groups came with {len(values)} values; expected one for each")
    codes = np.arange(len(values)) if groups is None else _codes(groups)
    sums, counts = np.bincount(codes, values), np.bincount(codes)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [2.5, 97.5])
    return float(low), float(high)


def signed_rank_test(differences: np.ndarray) -> tuple[float, float]:
    """Wilcoxon signed-rank test of paired differences; those that are zero are left out.

    Source of the effect: Kerby, "The simple difference formula", Comprehensive Psychology 3, 2014.

    Args:
        differences: (n,).

    Returns:
        The two-sided p value and the matched-pairs rank-biserial correlation in [-1, 1], the sum of the ranks of
        positive differences less that of negative ones over the sum of all. (1, 0) where all differences are zero.
    """
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0, 0.0
    ranks = rankdata(np.abs(differences))
    return float(wilcoxon(differences).pvalue), float((np.sign(differences) * ranks).sum() / ranks.sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts the p values of a family of tests so that all its errors together stay below the level.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6, 1979.

    Args:
        p_values: of the family, in any order.

    Returns:
        The adjusted p values in the same order, at most 1.
    """
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    return np.minimum(adjusted, 1).tolist()


def blind_rows(rows: Sequence[dict], scores: Sequence[str] = SCORES) -> list[dict]:
    """The baselines that stand beside the rows as rows of models of their own, one for each case, prompt and draw.

    Each is taken from the first model that did not fail there: a failure is the model's, a missed prompt is not.

    Args:
        rows: of any number of models.
        scores: columns to take.

    Returns:
        Rows of the model "<name of BASELINES> (blind)"; none where a model of that name is among the rows.
    """
    first: dict[tuple, dict] = {}
    for case, row in zip(_cases(rows), rows, strict=True):
        draw = (case, row["draw"])
        if draw not in first or first[draw]["status"] == "failed":
            first[draw] = row
    blind = [
        {column: row[column] for column in (*CASE, "draw", "patient_id", "status")}
        | {"model": f"{BASELINES[row['prompt']]} (blind)"}
        | {score: row[f"baseline_{score}"] for score in scores}
        | {shape: row.get(f"baseline_{shape}") for shape in SHAPES}
        for row in first.values()
    ]
    models = {row["model"] for row in rows}
    return [row for row in blind if row["model"] not in models]


def group_of(row: dict) -> tuple[str, str]:
    """What a row's case is not independent within: its patient, or its image where the patient is not known."""
    known = isinstance(row["patient_id"], str)  # a table that was read back may hold NaN instead of None
    return row["dataset"], row["patient_id"] if known else row["name"]


def _entry(rows: Sequence[dict], scores: Sequence[str], prefix: str = "") -> dict:
    draws = _draws(rows)
    groups = [group_of(of_case[0]) for of_case in draws]
    entry: dict = {}
    for score in scores:
        values = _means(draws, prefix + score)
        entry[score] = {"mean": float(values.mean()), "ci95": list(bootstrap_ci95(values, groups))}
    for shape in SHAPES:
        known = [row for row in rows if row.get(prefix + shape) is not None]
        if known:
            entry[shape] = _shape_entry(known, prefix + shape)
    if not prefix and rows[0].get(CLICK_COLUMNS[0]) is not None:
        entry |= _click_entries(draws, groups)
    counts = {
        f"n_{status}": sum(any(row["status"] == status for row in of_case) for of_case in draws)
        for status in ("missed", "failed")
    }
    return entry | {"n": len(draws)} | counts


def _shape_entry(rows: Sequence[dict], column: str) -> dict:
    """Mean with its interval, largest value and number of the cases that have the column."""
    draws = _draws(rows)
    values, groups = _means(draws, column), [group_of(of_case[0]) for of_case in draws]
    interval = list(bootstrap_ci95(values, groups))
    return {
        "mean": float(values.mean()),
        "ci95": interval,
        "max": float(max(row[column] for row in rows)),
        "n": len(draws),
    }


def _click_entries(draws: Sequence[Sequence[dict]], groups: Sequence[Hashable]) -> dict:
    """Dice by number of clicks, and the number of clicks to a level with the count of cases that do not reach it."""
    entries: dict[str, dict] = {}
    for column in (*CLICK_COLUMNS, *NOC_COLUMNS):
        values = _means(draws, column)
        entries[column] = {"mean": float(values.mean()), "ci95": list(bootstrap_ci95(values, groups))}
    for column, reached in NOC_COLUMNS.items():
        entries[column]["n_not_reached"] = sum(not of_case[0][reached] for of_case in draws)
    return entries


def _cases(rows: Sequence[dict]) -> list[tuple]:
    """The case of each row: `CASE` and a number, for objects of one image and target share everything but their order.

    Such objects repeat each other's model and draw, which draws of one case do not.
    """
    seen: Counter[tuple] = Counter()
    cases = []
    for row in rows:
        draw = _values(row, ("model", *CASE, "draw"))
        cases.append((*_values(row, CASE), seen[draw]))
        seen[draw] += 1
    return cases


def _draws(rows: Sequence[dict]) -> list[list[dict]]:
    """The rows of each case of one model."""
    draws: dict[tuple, list[dict]] = {}
    for case, row in zip(_cases(rows), rows, strict=True):
        draws.setdefault(case, []).append(row)
    return list(draws.values())


def _means(draws: Sequence[Sequence[dict]], column: str) -> np.ndarray:
    """The mean of a column over the draws of each case, (n,)."""
    return np.array([np.mean([row[column] for row in of_case]) for of_case in draws])


def _codes(groups: Sequence[Hashable]) -> np.ndarray:
    """Groups as numbers from 0 in the order of their first appearance, (n,)."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups])


def _values(row: dict, columns: Sequence[str]) -> tuple:
    return tuple(row[column] for column in columns)


def _grouped(rows: Sequence[dict], columns: Sequence[str]) -> dict[tuple, list[dict]]:
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(_values(row, columns), []).append(row)
    return groups


def _by_target(rows: Sequence[dict]) -> dict[str, Sequence[dict]]:
    """The rows of each target by name, and of all."""
    return {target: group for (target,), group in sorted(_grouped(rows, ("target",)).items())} | {"all": rows}
