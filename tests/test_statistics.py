"""evaluation/statistics.py against intervals, tests and counts that are computed another way."""

import json
from itertools import product

import numpy as np
import pytest
from scipy.stats import bootstrap, wilcoxon

from ccsam_hf.evaluation.metrics import SCORES
from ccsam_hf.evaluation.statistics import (
    BASELINES,
    blind_rows,
    bootstrap_ci95,
    compare,
    comparisons,
    group_of,
    holm,
    signed_rank_test,
    summaries,
    summarize,
)


def row(name: str, dice: float = 80.0, hd_samus: float = 10.0, **columns) -> dict:
    """A row of a study with the columns that statistics read; every score but two is 1, of the baseline 2."""
    scores = dict.fromkeys(SCORES, 1.0) | {f"baseline_{score}": 2.0 for score in SCORES}
    case = {"model": "A", "data": "seen", "dataset": "BUSI", "name": name, "target": "lesion", "patient_id": None}
    state = {"prompt": "box", "draw": 0, "status": "ok", "dice": dice, "hd_samus": hd_samus}
    return case | scores | state | columns


def rows_of(values, **columns) -> list[dict]:
    return [row(str(number), dice=value, **columns) for number, value in enumerate(values)]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_an_interval_without_groups_is_that_of_resampled_means(rng):
    values = rng.gamma(2, 10, size=60)
    drawn = np.random.default_rng(3).integers(60, size=(500, 60))
    expected = np.percentile([values[each].mean() for each in drawn], [2.5, 97.5])
    assert bootstrap_ci95(values, resamples=500, seed=3) == pytest.approx(tuple(expected), rel=1e-12)
    other = bootstrap((values,), np.mean, n_resamples=20000, method="percentile", random_state=rng).confidence_interval
    assert bootstrap_ci95(values, resamples=20000) == pytest.approx(tuple(other), abs=0.1)
    assert bootstrap_ci95([7.0]) == (7.0, 7.0)


def test_groups_are_drawn_whole_and_the_mean_is_over_their_values():
    values, groups = np.array([1.0, 2.0, 30.0, 4.0, 5.0, 6.0]), ["b", "b", "a", "c", "c", "c"]
    whole = [np.array([1.0, 2.0]), np.array([30.0]), np.array([4.0, 5.0, 6.0])]  # as they first appear
    drawn = np.random.default_rng(0).integers(3, size=(1000, 3))
    means = [np.concatenate([whole[index] for index in each]).mean() for each in drawn]
    assert bootstrap_ci95(values, groups) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), rel=1e-12)
    assert bootstrap_ci95(values, ["same"] * 6) == (8.0, 8.0)


def test_groups_of_one_change_nothing_and_copies_within_a_group_narrow_nothing(rng):
    values = rng.normal(80, 10, size=40)
    alone = bootstrap_ci95(values)
    assert bootstrap_ci95(values, [("BUSI", str(number)) for number in range(40)]) == alone
    copies = np.repeat(values, 9)
    assert bootstrap_ci95(copies, np.repeat(np.arange(40), 9).tolist()) == pytest.approx(alone, rel=1e-12)
    low, high = bootstrap_ci95(copies)
    assert high - low < (alone[1] - alone[0]) / 2  # what forgetting the groups would claim


def test_values_that_give_no_interval_are_refused():
    with pytest.raises(ValueError, match="values is empty"):
        bootstrap_ci95([])
    with pytest.raises(ValueError, match="2 groups came with 3 values; expected one for each"):
        bootstrap_ci95([1, 2, 3], ["a", "b"])


def test_a_group_is_the_patient_and_where_there_is_none_the_image():
    assert group_of(row("left eye", patient_id="7")) == group_of(row("right eye", patient_id="7")) == ("BUSI", "7")
    assert group_of(row("a")) == group_of(row("a", target="cyst", patient_id=float("nan"))) == ("BUSI", "a")
    assert group_of(row("a", dataset="DDTI")) != group_of(row("a"))


def test_a_summary_has_means_intervals_and_counts_by_target_and_overall():
    rows = [
        row("a", 90, target="cyst"),
        row("b", 60, target="nodule", hd_samus=20),
        row("c", 0, target="nodule", hd_samus=510, status="missed"),
        row("d", 0, target="nodule", hd_samus=510, status="failed"),
    ]
    summary = summarize(rows)
    assert set(summary) == {"cyst", "nodule", "all", "baseline"}
    assert summary["cyst"]["dice"] == {"mean": 90, "ci95": [90, 90]}
    assert [summary["nodule"][name] for name in ("n", "n_missed", "n_failed")] == [3, 1, 1]
    assert summary["nodule"]["hd_samus"]["mean"] == pytest.approx(1040 / 3)
    assert summary["all"]["dice"]["mean"] == 37.5
    assert summary["all"]["dice"]["ci95"] == list(bootstrap_ci95([90, 60, 0, 0]))
    assert summary["baseline"]["ellipse"]["dice"] == {"mean": 2, "ci95": [2, 2]}
    assert summary["baseline"]["ellipse"]["n"] == 4
    assert set(SCORES) < set(summary["all"])
    assert set(summarize(rows, ["dice"])["all"]) == {"dice", "n", "n_missed", "n_failed"}
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize("prompt", BASELINES)
def test_each_prompt_has_its_baseline(prompt):
    assert list(summarize([row("a", prompt=prompt)])["baseline"]) == [BASELINES[prompt]]


def test_objects_of_one_patient_are_resampled_together():
    rows = [row(f"{patient}-{view}", patient, patient_id=str(patient)) for patient in range(10) for view in range(4)]
    of_patients = bootstrap_ci95(np.arange(10.0))
    assert summarize(rows)["all"]["dice"]["ci95"] == pytest.approx(of_patients, rel=1e-12)


def test_rows_of_several_kinds_are_no_single_summary():
    with pytest.raises(
        ValueError, match=r"rows hold 2 combinations .*'box'.*'point'.*use summaries for a whole study"
    ):
        summarize([row("a"), row("a", prompt="point")])
    with pytest.raises(ValueError, match="rows hold 0 combinations of model, data and prompt; expected one"):
        summarize([])


def test_draws_are_averaged_and_do_not_narrow_the_interval(rng):
    of_cases = rng.normal(80, 10, size=30)
    once = rows_of(of_cases, prompt="random-point")
    often = [
        each | {"draw": draw, "dice": each["dice"] + shift} for each in once for draw, shift in enumerate((-5, 5))
    ]
    single, several = (summaries(rows)[0] for rows in (once, often))
    assert (single["n"], several["n"]) == (30, 30)
    assert several["dice"]["mean"] == pytest.approx(single["dice"]["mean"])
    assert several["dice"]["ci95"] == pytest.approx(single["dice"]["ci95"])
    uneven = [*rows_of([100]), *rows_of([100], draw=1), *rows_of([100], draw=2), row("other", 0)]
    assert summarize(uneven)["all"]["dice"]["mean"] == 50  # of two cases, not 75 of four rows
    lost = [row("a", draw=0), row("a", draw=1, status="failed"), row("a", draw=2, status="failed")]
    assert [summarize(lost)["all"][name] for name in ("n", "n_missed", "n_failed")] == [1, 0, 1]


def test_a_study_has_an_entry_for_each_combination_and_its_baselines_once():
    study = [
        row("a", dice, model=model, data=data, prompt=prompt, target=target)
        for (model, dice), data, prompt, target in product(
            [("A", 70), ("B", 90)], ["seen", "unseen"], ["box", "point"], ["cyst", "lesion"]
        )
    ]
    entries = summaries(study)
    found = [(entry["model"], entry["data"], entry["prompt"], entry["target"]) for entry in entries]
    expected = list(product(["A", "B"], ["seen", "unseen"], ["box", "point"], ["cyst", "lesion", "all"]))
    expected += [
        (model, data, prompt, target)
        for data, (prompt, model), target in product(
            ["seen", "unseen"], [("box", "ellipse (blind)"), ("point", "disc (blind)")], ["cyst", "lesion", "all"]
        )
    ]
    assert sorted(found) == sorted(expected) and found[:2] == expected[:2]
    dices = {entry["model"]: (entry["n"], entry["dice"]["mean"]) for entry in entries if entry["target"] == "all"}
    assert dices == {"A": (2, 70), "B": (2, 90), "ellipse (blind)": (2, 2), "disc (blind)": (2, 2)}


def test_the_baseline_is_not_charged_with_the_failure_of_a_model():
    rows = [
        row("a", model="A", status="failed", baseline_dice=0.0),
        row("a", model="B", baseline_dice=60.0),
        row("b", model="A", status="missed", baseline_dice=0.0),
        row("b", model="B", status="missed", baseline_dice=0.0),
    ]
    blind = {each["name"]: each for each in blind_rows(rows)}
    assert {name: (each["dice"], each["status"]) for name, each in blind.items()} == {
        "a": (60, "ok"),
        "b": (0, "missed"),
    }
    assert {each["model"] for each in blind.values()} == {"ellipse (blind)"}
    assert blind_rows([*rows, row("a", model="ellipse (blind)")]) == []  # a model of the study already


def test_a_comparison_by_hand():
    before, after = rows_of([50, 60, 70, 80]), rows_of([60, 60, 65, 100], model="B")
    result = compare(before, after[::-1], "dice")  # pairs are found, whatever the order
    assert (result["n"], result["n_groups"], result["difference"]) == (4, 4, 6.25)
    assert (result["share_better"], result["share_equal"]) == (0.5, 0.25)
    assert result["effect"] == pytest.approx((2 + 3 - 1) / 6)  # ranks of 10, -5 and 20
    assert result["p"] == 0.5  # of the 8 ways to set the signs, 2 are as far to one side: 2 * 2 / 8
    assert result["ci95"] == list(bootstrap_ci95([10, 0, -5, 20]))
    json.dumps(result, allow_nan=False)


def test_pairing_takes_out_what_the_cases_share(rng):
    before = rng.normal(50, 20, size=40)
    result = compare(rows_of(before), rows_of(before + 1, model="B"), "dice")
    assert result["ci95"] == pytest.approx([1, 1])
    assert result["p"] < 1e-6 and result["effect"] == 1


def test_a_smaller_distance_is_better():
    far, near = ([row(str(number), hd_samus=value + number) for number in range(6)] for value in (30, 20))
    result = compare(far, near, "hd_samus")
    assert (result["difference"], result["share_better"], result["effect"]) == (-10, 1, 1)
    assert compare(near, far, "hd_samus")["effect"] == -1
    assert compare(near, far, "hd_samus")["share_better"] == 0


def test_equal_models_differ_in_nothing():
    result = compare(rows_of([50, 60, 70]), rows_of([50, 60, 70], model="B"), "dice")
    assert (result["p"], result["effect"], result["share_equal"], result["ci95"]) == (1, 0, 1, [0, 0])


def test_a_test_counts_each_patient_once_and_each_case_once(rng):
    gains = rng.normal(3, 5, size=12)
    columns = [{"patient_id": str(patient), "draw": draw} for patient in range(12) for draw in (0, 1)]
    pairs = [
        (row(f"{view}-{each['patient_id']}", 50, **each), gains[int(each["patient_id"])])
        for each in columns
        for view in range(5)
    ]
    before = [each for each, _ in pairs]
    after = [each | {"model": "B", "dice": 50 + gain} for each, gain in pairs]
    result = compare(before, after, "dice")
    assert (result["n"], result["n_groups"]) == (60, 12)
    assert result["p"] == pytest.approx(wilcoxon(gains).pvalue)
    assert result["ci95"] == pytest.approx(bootstrap_ci95(gains), rel=1e-9)


def test_objects_of_one_image_and_target_are_cases_of_their_own():
    before = [row("a", dice, draw=draw, prompt="random-point") for dice in (20, 80) for draw in (0, 1)]
    after = [each | {"model": "B", "dice": each["dice"] / 2} for each in before]
    entry = summarize(before)["all"]
    assert (entry["n"], entry["dice"]) == (2, {"mean": 50, "ci95": [50, 50]})  # of one image
    result = compare(before, after, "dice")
    assert (result["n"], result["n_groups"], result["difference"]) == (2, 1, -25)
    before[0]["status"] = after[0]["status"] = "failed"
    assert [each["status"] for each in blind_rows(before + after)] == ["failed", "ok", "ok", "ok"]  # in their order


def test_rows_without_a_partner_are_counted_and_refused():
    before, after = rows_of([50, 60, 70]), rows_of([50, 60], model="B")
    with pytest.raises(ValueError, match=r"1 of 3 \+ 2 rows have no partner .* evaluate both on all of them"):
        compare(before, after, "dice")
    with pytest.raises(ValueError, match=r"6 of 3 \+ 3 rows have no partner"):
        compare(before, [each | {"draw": 1} for each in before], "dice")
    with pytest.raises(ValueError, match="one side of the comparison has rows of 2 models; expected those of one"):
        compare(before + after, before, "dice")
    with pytest.raises(ValueError, match="one side of the comparison has rows of 0 models"):
        compare(before, [], "dice")
    with pytest.raises(ValueError, match="score is 'DSC'; accepted are dice, iou"):
        compare(before, before, "DSC")


def test_the_signed_rank_test_is_that_of_all_signs(rng):
    differences = np.array([3.0, -1.0, 4.0, 0.0, 5.0, -2.0, 6.0])
    ranks = np.array([3, 1, 4, 5, 2, 6])
    sums = np.array([ranks @ signs for signs in product([-1, 1], repeat=6)])
    p, effect = signed_rank_test(differences)
    assert p == pytest.approx((abs(sums) >= 15).mean())  # 18 up, 3 down
    assert effect == pytest.approx(15 / 21)


def test_holm_by_hand_and_on_true_hypotheses(rng):
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []
    families = rng.uniform(size=(4000, 6))
    wrong = np.mean([min(holm(family)) < 0.05 for family in families])
    assert wrong == pytest.approx(1 - (1 - 0.05 / 6) ** 6, abs=0.012)


def test_all_pairs_are_compared_and_each_data_and_prompt_is_a_family(rng):
    def draws(model, gain, **columns):
        return [row(str(n), 50 + gain * n, 9 - gain, model=model, baseline_dice=10.0, **columns) for n in range(9)]

    study = [
        each
        for data, prompt in (("seen", "box"), ("unseen", "box"), ("unseen", "none"))
        for model, gain in (("A", 1), ("B", 2))
        for each in draws(model, gain, data=data, prompt=prompt)
    ]
    found = comparisons(study)
    pairs = [(each["model_a"], each["model_b"], each["score"]) for each in found if each["prompt"] == "none"]
    blind = "mean mask (blind)"
    assert pairs == [
        (a, b, score) for a, b in ((blind, "A"), (blind, "B"), ("A", "B")) for score in ("dice", "hd_samus")
    ]
    assert len(found) == 18
    family = [each for each in found if (each["data"], each["prompt"]) == ("seen", "box")]
    assert [each["p_holm"] for each in family] == holm([each["p"] for each in family])
    assert family[0]["difference"] == pytest.approx(np.mean([50 + n for n in range(9)]) - 10)
    with pytest.raises(ValueError, match=r"1 of 9 \+ 8 rows have no partner"):
        comparisons(study[:17])
