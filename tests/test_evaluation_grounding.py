"""evaluation/grounding.py and the text prompt of evaluation/harness.py, with grounders whose answers are known."""

import csv
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ccsam_hf.data.cases import Case
from ccsam_hf.data.prompts import Prompt, to_edges
from ccsam_hf.data.readers import read_cases
from ccsam_hf.evaluation.baselines import filled_box
from ccsam_hf.evaluation.grounding import (
    Scene,
    average_precision,
    best_threshold,
    evaluate_grounder,
    fit_calibration,
    largest_difference,
    mean_boxes,
    quiet_threshold,
    scene_rows,
    scenes_of,
    summarize_grounding,
    summarize_pairs,
)
from ccsam_hf.evaluation.harness import evaluate_cases, evaluate_directory
from ccsam_hf.evaluation.metrics import miss_scores
from ccsam_hf.evaluation.segmenters import LOADERS, Prediction
from ccsam_hf.evaluation.statistics import summarize
from ccsam_hf.grounding import GrounderSettings, GroundingResult, TextGrounder
from ccsam_hf.grounding_boxes import calibrate


class GrounderThatAnswers:
    """Answers each text with a box and a score of its own, found from 0.3 on; keeps what it was asked.

    With `shared` a score falls by so much for every other text of a call.
    """

    settings = GrounderSettings(text_encoder="a medical BERT", tuned_on="some cases")
    model = torch.nn.Linear(1, 1)

    def __init__(self, answers: dict[str, tuple[list[float], float]], shared: float = 0.0):
        self.answers, self.shared = answers, shared
        self.asked = []

    def __call__(self, image, text, form=None):
        texts = [text] if isinstance(text, str) else text
        self.asked += [(image, each, form) for each in texts]
        return [self.answer(each, len(texts)) for each in texts]

    def answer(self, text: str, count: int) -> GroundingResult:
        coordinates, score = self.answers[text]
        score -= self.shared * (count - 1)
        box = torch.tensor(coordinates, dtype=torch.float32)
        found = score >= 0.3
        return GroundingResult(
            text=text,
            phrase=text,
            description=text,
            boxes=box[None] if found else torch.zeros(0, 4),
            scores=torch.tensor([score]) if found else torch.zeros(0),
            best_box=box,
            best_score=score,
            reason=None if found else "its score is low",
            text_encoder=self.settings.text_encoder,
            tuned_on=self.settings.tuned_on,
        )


VENTRICLE, ATRIUM, MYOCARDIUM = [20, 10, 60, 50], [100, 90, 140, 130], [20, 10, 60, 70]  # IoU 2/3 of first and last
LESION = [5, 5, 45, 15]


def scene(name="a", absent=(), **boxes) -> Scene:
    named = {target.replace("_", " "): np.array(box, dtype=np.float32) for target, box in boxes.items()}
    return Scene(name, np.zeros((160, 200), dtype=np.uint8), named, absent)


def heart(absent=()) -> Scene:
    return scene(absent=absent, left_ventricle=VENTRICLE, left_atrium=ATRIUM)


# --- recall, swap, chance --------------------------------------------------------------------------------------------


def test_a_grounder_that_is_right_has_the_best_of_every_measure():
    grounder = GrounderThatAnswers({"left ventricle": (VENTRICLE, 0.9), "left atrium": (ATRIUM, 0.6)})
    rows = scene_rows(grounder, heart())
    entry = summarize_grounding(rows)["all"]
    assert (entry["n"], entry["n_absent"]) == (2, 0)
    assert (entry["recall"], entry["recall_found"], entry["swap"], entry["mean_iou"]) == (1, 1, 1, 1)
    assert entry["chance"] == 0.5
    assert average_precision(rows) == pytest.approx(1)


def test_each_target_is_asked_for_alone_in_the_form_that_was_asked():
    grounder = GrounderThatAnswers(
        {"left ventricle": (VENTRICLE, 0.9), "left atrium": (ATRIUM, 0.6), "breast lesion": (LESION, 0.1)}
    )
    asked = heart(absent=("breast lesion",))
    evaluate_grounder(grounder, [asked], form="description")
    scene_rows(grounder, asked)
    assert [(text, form) for _, text, form in grounder.asked] == [
        (text, form) for form in ("description", None) for text in ("left ventricle", "left atrium", "breast lesion")
    ]
    assert all(image is asked.image for image, _, _ in grounder.asked)


def test_a_grounder_that_swaps_two_structures_has_swap_0():
    grounder = GrounderThatAnswers({"left ventricle": (ATRIUM, 0.9), "left atrium": (VENTRICLE, 0.9)})
    rows = scene_rows(grounder, heart())
    entry = summarize_grounding(rows)["all"]
    assert (entry["recall"], entry["swap"], entry["mean_iou"]) == (0, 0, 0)
    assert [row["swap_iou"] for row in rows] == [1, 1]
    assert average_precision(rows) == pytest.approx(0)


def test_a_box_that_overlaps_another_structure_more_counts_as_recalled_but_swapped():
    grounder = GrounderThatAnswers({"left ventricle": (MYOCARDIUM, 0.9), "myocardium": (MYOCARDIUM, 0.9)})
    rows = scene_rows(grounder, scene(left_ventricle=VENTRICLE, myocardium=MYOCARDIUM))
    summary = summarize_grounding(rows)
    assert rows[0]["iou"] == pytest.approx(2 / 3) and rows[0]["swap_iou"] == 1
    assert (summary["left ventricle"]["recall"], summary["left ventricle"]["swap"]) == (1, 0)
    assert (summary["all"]["recall"], summary["all"]["swap"]) == (1, 0.5)
    assert summary["all"]["mean_iou"] == pytest.approx((2 / 3 + 1) / 2)


def test_a_row_tells_what_was_asked_and_what_came():
    grounder = GrounderThatAnswers({"left ventricle": ([20, 10, 60, 30], 0.25), "breast lesion": (LESION, 0.75)})
    present, absent = scene_rows(grounder, scene("b", ("breast lesion",), left_ventricle=VENTRICLE))
    assert present == {
        "data": "",
        "scene": "b",
        "target": "left ventricle",
        "present": True,
        "score": 0.25,
        "found": False,
        "box": [20, 10, 60, 30],
        "truth": VENTRICLE,
        "iou": 0.5,
        "swap_iou": None,  # no other structure
        "chance": 1.0,
    }
    assert absent == {
        "data": "",
        "scene": "b",
        "target": "breast lesion",
        "present": False,
        "score": 0.75,
        "found": True,
        "box": LESION,
    }
    json.dumps([present, absent])


def test_chance_is_the_recall_of_a_structure_chosen_at_random():
    structures = {"left_ventricle": VENTRICLE, "myocardium": MYOCARDIUM, "left_atrium": ATRIUM}
    names = [name.replace("_", " ") for name in structures]
    three = scene(**structures)
    rows = scene_rows(GrounderThatAnswers({name: (VENTRICLE, 0.9) for name in names}), three)
    assert [row["chance"] for row in rows] == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    chosen_at_random = []
    for box in structures.values():  # every choice once
        rows = scene_rows(GrounderThatAnswers({name: (box, 0.9) for name in names}), three)
        chosen_at_random.append(summarize_grounding(rows)["all"])
    assert np.mean([entry["recall"] for entry in chosen_at_random]) == pytest.approx(5 / 9)
    assert {round(entry["chance"], 6) for entry in chosen_at_random} == {round(5 / 9, 6)}


def test_a_hit_has_an_iou_of_at_least_one_half():
    half = GrounderThatAnswers({"breast lesion": ([5, 5, 25, 15], 0.9)})
    less = GrounderThatAnswers({"breast lesion": ([5, 5, 24, 15], 0.9)})
    asked = scene(breast_lesion=LESION)
    assert [evaluate_grounder(each, [asked])["all"]["recall"] for each in (half, less)] == [1, 0]


def test_finds_below_the_threshold_count_as_missed_in_recall_found_alone():
    grounder = GrounderThatAnswers({"left ventricle": (VENTRICLE, 0.9), "left atrium": (ATRIUM, 0.2)})
    summary = evaluate_grounder(grounder, [heart()])
    assert (summary["all"]["recall"], summary["all"]["recall_found"]) == (1, 0.5)
    assert (summary["left atrium"]["recall"], summary["left atrium"]["recall_found"]) == (1, 0)
    assert (summary["all"]["swap"], summary["all"]["mean_iou"]) == (1, 1)


def test_boxes_for_absent_targets_are_false_alarms():
    grounder = GrounderThatAnswers(
        {
            "left ventricle": (VENTRICLE, 0.9),
            "left atrium": (ATRIUM, 0.9),
            "breast lesion": (LESION, 0.4),
            "thyroid nodule": (LESION, 0.1),
        }
    )
    summary = evaluate_grounder(grounder, [heart(absent=("breast lesion", "thyroid nodule"))])
    assert (summary["all"]["n"], summary["all"]["n_absent"], summary["all"]["false_alarms"]) == (2, 2, 0.5)
    assert (summary["breast lesion"]["false_alarms"], summary["thyroid nodule"]["false_alarms"]) == (1, 0)
    assert summary["all"]["recall"] == 1  # of the present ones


def test_what_has_no_case_is_none():
    grounder = GrounderThatAnswers({"left ventricle": (VENTRICLE, 0.9), "breast lesion": (LESION, 0.4)})
    summary = evaluate_grounder(grounder, [scene(absent=("breast lesion",), left_ventricle=VENTRICLE)])
    absent, present = summary["breast lesion"], summary["left ventricle"]
    assert absent["n"] == 0 and absent["n_absent"] == 1
    assert {absent[name] for name in ("recall", "recall_found", "mean_iou", "chance", "swap")} == {None}
    assert (present["swap"], present["false_alarms"], present["n_absent"]) == (None, None, 0)  # a structure alone
    empty = evaluate_grounder(grounder, [])
    assert set(empty) == {"all"} and set(empty["all"].values()) == {0, None}


def test_the_summary_of_two_halves_together_is_that_of_the_whole():
    first = GrounderThatAnswers({"left ventricle": (VENTRICLE, 0.9), "left atrium": (ATRIUM, 0.2)})
    second = GrounderThatAnswers({"left ventricle": (ATRIUM, 0.5), "breast lesion": (LESION, 0.4)})
    scenes = [heart(), scene("b", ("breast lesion",), left_ventricle=VENTRICLE)]
    halves = [scene_rows(grounder, each) for grounder, each in zip((first, second), scenes, strict=True)]
    parts = [summarize_grounding(rows)["all"] for rows in halves]
    whole = summarize_grounding(halves[0] + halves[1])
    assert whole == summarize_grounding(halves[1] + halves[0])
    assert whole["all"]["n"] == sum(part["n"] for part in parts) == 3
    for name in ("recall", "recall_found", "mean_iou", "chance"):
        expected = sum(part[name] * part["n"] for part in parts) / 3
        assert whole["all"][name] == pytest.approx(expected), name
    by_target = [whole[target] for target in ("left ventricle", "left atrium", "breast lesion")]
    assert [entry["n"] for entry in by_target] == [2, 1, 0]


# --- data sets -------------------------------------------------------------------------------------------------------


def case(target: str, name: str, box: list[int] | None, dataset: str = "hearts") -> Case:
    mask = np.zeros((160, 200), dtype=bool)
    if box:
        mask[box[1] : box[3], box[0] : box[2]] = True
    image = SimpleNamespace(read=lambda: np.zeros((160, 200), np.uint8))
    return Case(name, target, image, SimpleNamespace(read=lambda: mask), dataset)


def test_scenes_of_cases_have_all_objects_of_an_image_and_what_is_not_in_it():
    cases = [
        case("left ventricle", "a", VENTRICLE),
        case("left atrium", "a", None),
        case("breast lesion", "a", LESION, "breasts"),
    ]
    asked = ["left ventricle", "left atrium", "myocardium", "breast lesion", "something else"]
    heart_scene, breast = scenes_of(cases, asked)
    assert (heart_scene.data, heart_scene.name, list(heart_scene.boxes)) == ("hearts", "a", ["left ventricle"])
    assert heart_scene.absent == ("breast lesion", "left atrium")  # nothing is known of the myocardium
    assert heart_scene.masks.keys() == {"left ventricle", "left atrium"} and not heart_scene.masks["left atrium"].any()
    assert breast.absent == ("left ventricle", "left atrium", "myocardium")
    np.testing.assert_allclose(heart_scene.boxes["left ventricle"], VENTRICLE, atol=1)


def test_recall_and_false_alarms_of_each_target_in_each_set_with_their_intervals():
    right = GrounderThatAnswers({"breast lesion": (LESION, 0.9), "left ventricle": (VENTRICLE, 0.4)})
    quiet = GrounderThatAnswers({"breast lesion": (LESION, 0.2), "left ventricle": (VENTRICLE, 0.1)})
    breast = replace(scene("x", ("left ventricle",), breast_lesion=LESION), data="breasts")
    chest = replace(scene("y", ("breast lesion",), left_ventricle=VENTRICLE), data="hearts")
    rows = [row for each in (breast, chest) for grounder in (right, quiet) for row in scene_rows(grounder, each)]
    pairs = {(pair["data"], pair["target"]): pair for pair in summarize_pairs(rows)}
    assert len(pairs) == 4
    lesion, alarm = pairs["breasts", "breast lesion"], pairs["breasts", "left ventricle"]
    assert (lesion["n"], lesion["recall"], lesion["recall_found"], lesion["n_absent"]) == (2, 1, 0.5, 0)
    assert (alarm["n"], alarm["n_absent"], alarm["false_alarms"], alarm["recall"]) == (0, 2, 0.5, None)
    assert alarm["recall_ci95"] is None and lesion["false_alarms_ci95"] is None
    # Wilson: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), p = 1/2, n = 2
    z = 1.959964
    half = z * math.sqrt(1 / 8 + z**2 / 16) / (1 + z**2 / 2)
    assert alarm["false_alarms_ci95"] == pytest.approx([0.5 - half, 0.5 + half], abs=1e-6)
    json.dumps(list(pairs.values()))


def test_the_blind_guess_is_the_mean_box_of_other_scenes():
    boxes = {"a": [0, 0, 100, 80], "b": [100, 80, 200, 160], "c": None}
    blind = mean_boxes([case("breast lesion", name, box) for name, box in boxes.items()])
    np.testing.assert_allclose(blind["breast lesion"], [0.25, 0.25, 0.75, 0.75], atol=0.01)
    grounder = GrounderThatAnswers({"breast lesion": (LESION, 0.9), "left ventricle": (VENTRICLE, 0.9)})
    (row,) = scene_rows(grounder, scene(breast_lesion=[50, 40, 150, 80]), blind=blind)
    assert row["blind_iou"] == pytest.approx(0.5, abs=0.02)
    (other,) = scene_rows(grounder, scene(left_ventricle=VENTRICLE), blind=blind)
    assert "blind_iou" not in other
    assert summarize_pairs([row])[0]["blind_recall"] == 1 and summarize_pairs([other])[0]["blind_recall"] is None


def test_a_score_that_depends_on_other_texts_is_told():
    answers = {"left ventricle": (VENTRICLE, 0.9), "left atrium": (ATRIUM, 0.6)}
    assert largest_difference(GrounderThatAnswers(answers), heart()) == 0
    assert largest_difference(GrounderThatAnswers(answers, shared=0.25), heart()) == pytest.approx(0.25)


# --- calibration -----------------------------------------------------------------------------------------------------


def scored(target: str, score: float, right: bool) -> dict:
    return {"target": target, "present": right, "iou": 0.9 if right else None, "score": score}


def test_a_calibrated_score_is_the_share_of_right_boxes_and_keeps_the_order(rng):
    rows = []
    for target, scale, shift in (("lesion", 2.0, 3.0), ("head", 0.5, -1.0)):
        logits = rng.normal(0, 2, 3000)
        right = rng.random(3000) < 1 / (1 + np.exp(-(scale * logits + shift)))
        rows += [scored(target, 1 / (1 + math.exp(-each)), bool(hit)) for each, hit in zip(logits, right, strict=True)]
    fitted = fit_calibration(rows + [scored("never right", 0.4, False)])
    assert fitted.keys() == {"lesion", "head"}
    assert fitted["lesion"] == pytest.approx([2.0, 3.0], abs=0.3) and fitted["head"] == pytest.approx(
        [0.5, -1.0], abs=0.1
    )
    scores = torch.tensor([0.0, 0.2, 0.9, 1.0])
    moved = calibrate(scores, fitted["head"])
    assert moved.isfinite().all() and (moved.diff() > 0).all()
    assert moved[1].item() == pytest.approx(1 / (1 + math.exp(1.0 - 0.5 * math.log(0.25))), abs=0.03)
    assert torch.equal(calibrate(scores, None), scores)


def test_the_quiet_threshold_is_the_lowest_with_few_false_alarms_of_every_target():
    rows = [scored("lesion", each / 100, False) for each in range(0, 50)]
    rows += [scored("head", 0.7, True), scored("head", 0.1, False)]
    assert quiet_threshold(rows, 0.1) == 0.45  # 45 to 49 remain, a tenth
    assert quiet_threshold(rows, 0.0) == 0.5
    assert quiet_threshold(rows + [scored("head", 1.0, False)], 0.0) == 1.0


# --- average precision -----------------------------------------------------------------------------------------------


def lesion_rows() -> list[dict]:
    """Three texts about breast lesions, by falling score: a false alarm, an exact box, a box with an IoU of 0.625."""
    answers = [([60, 60, 90, 90], 0.95), (LESION, 0.9), ([5, 5, 30, 15], 0.8)]
    scenes = [scene("x", ("breast lesion",)), scene("y", breast_lesion=LESION), scene("z", breast_lesion=LESION)]
    return [
        row
        for answer, each in zip(answers, scenes, strict=True)
        for row in scene_rows(GrounderThatAnswers({"breast lesion": answer}), each)
    ]


def test_average_precision_of_a_small_case_by_hand():
    # Up to an IoU of 0.6 both boxes are right: precision 2/3 at every recall. From 0.65 on one is: precision 1/2 up to
    # a recall of 1/2, which are 51 of the 101 recalls from 0 to 1.
    by_hand = (3 * 2 / 3 + 7 * 51 / 101 / 2) / 10
    assert average_precision(lesion_rows()) == pytest.approx(by_hand)
    without_false_alarm = (3 + 7 * 51 / 101) / 10
    assert average_precision(lesion_rows()[1:]) == pytest.approx(without_false_alarm)


def test_average_precision_is_the_mean_over_targets_and_knows_no_threshold_of_scores():
    nodule = scene("n", thyroid_nodule=LESION)
    rows = scene_rows(GrounderThatAnswers({"thyroid nodule": (LESION, 0.01)}), nodule)  # below the threshold
    first = average_precision(lesion_rows())
    assert average_precision(lesion_rows() + rows) == pytest.approx((first + 1) / 2)


def test_average_precision_without_a_present_target_is_none():
    assert average_precision(lesion_rows()[:1]) is None
    assert average_precision([]) is None


# --- the text prompt of the harness ----------------------------------------------------------------------------------


class SegmenterThatFillsItsBox:
    """Answers with its box, filled, and keeps boxes."""

    reads = ("box",)
    about = {"checkpoint": "nowhere", "sha256": "0" * 64, "parameters": 0}

    def __init__(self):
        self.boxes = []

    def encode(self, image: np.ndarray) -> None:
        pass

    def segment(self, encoded: None, prompt: Prompt, target: str) -> Prediction:
        self.boxes.append(prompt.box.tolist())
        mask = filled_box(to_edges(prompt.box), (256, 256))
        return Prediction(mask, mask.astype(np.float32), score=0.75)


HIGH, WIDE = (512, 256), (256, 1024)  # (height, width): two and four times the protocol's size in one direction


@pytest.fixture
def data(tmp_path):
    """Two cases of other sizes than 256x256: a disc at (128, 60) and a bar, each named in cases.csv."""
    y, x = np.ogrid[: HIGH[0], : HIGH[1]]
    disc = (x - 128) ** 2 + (y - 120) ** 2 <= 50**2
    bar = np.zeros(WIDE, dtype=bool)
    bar[100:140, 400:720] = True
    bar[100:120, 400:560] = False
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for name, mask in (("bar", bar), ("disc", disc)):
            Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "data" / folder / f"{name}.png")
    (tmp_path / "data" / "cases.csv").write_text("name,target\nbar,left ventricle\ndisc,breast lesion\n")
    return tmp_path / "data"


@pytest.fixture
def cases(data) -> list[Case]:
    return read_cases(data, "folder")


def true_box(case: Case) -> list[float]:
    """The tight box of the mask at 256x256, where each pixel is the middle one of several, in pixels of the image."""
    down, across = (side // 256 for side in case.mask.shape)
    rows, columns = np.nonzero(case.mask[down // 2 :: down, across // 2 :: across])
    return [columns.min() * across, rows.min() * down, (columns.max() + 1) * across, (rows.max() + 1) * down]


@pytest.fixture
def right(cases):
    return GrounderThatAnswers({case.target: (true_box(case), 0.9) for case in cases})


def test_the_true_box_found_by_a_text_gives_the_row_of_the_box_prompt(cases, right):
    given, found = SegmenterThatFillsItsBox(), SegmenterThatFillsItsBox()
    by_box = evaluate_cases(given, cases, ["box"])
    by_text = evaluate_cases(found, cases, ["text"], grounder=right)
    assert found.boxes == given.boxes and len(given.boxes) == 2
    assert found.boxes[0] == [100, 100, 179, 139]  # of columns 400 to 716 of 1024
    columns = {"prompt": "text", "box_score": 0.9, "found": True}
    assert by_text == [row | columns for row in by_box]
    assert 50 < by_text[0]["dice"] < 100 and 50 < by_text[0]["baseline_dice"] < 100  # not for want of a difference


def test_the_grounder_sees_the_image_at_its_own_size_and_the_name_of_the_target(cases, right):
    evaluate_cases(SegmenterThatFillsItsBox(), cases, ["text"], grounder=right)
    assert [(image.shape, text) for image, text, _ in right.asked] == [
        (WIDE, "left ventricle"),
        (HIGH, "breast lesion"),
    ]
    assert all(np.array_equal(image, case.image) for (image, _, _), case in zip(right.asked, cases, strict=True))


def test_a_text_that_is_not_found_is_a_missed_row_of_model_and_baseline(cases, right):
    grounder = GrounderThatAnswers(right.answers | {"left ventricle": (true_box(cases[0]), 0.2)})
    model = SegmenterThatFillsItsBox()
    missed, found = evaluate_cases(model, cases, ["text"], grounder=grounder)
    assert (missed["name"], missed["target"], missed["prompt"]) == ("bar", "left ventricle", "text")
    assert (missed["status"], missed["reason"]) == ("missed", "its score is low")
    assert (missed["box_score"], missed["found"], missed["iou_score"], missed["mask"]) == (0.2, False, None, None)
    of_a_miss = miss_scores((256, 256))
    assert {name: missed[name] for name in of_a_miss} == of_a_miss
    assert {name: missed[f"baseline_{name}"] for name in of_a_miss} == of_a_miss
    assert list(missed) == list(found)  # one table
    assert found == evaluate_cases(SegmenterThatFillsItsBox(), cases, ["text"], grounder=right)[1]
    assert len(model.boxes) == 1  # what is not found is not segmented


def test_a_text_in_the_wrong_place_is_scored_where_it_was_found(cases, right):
    grounder = GrounderThatAnswers(right.answers | {"left ventricle": ([0, 0, 80, 40], 0.9)})
    wrong, _ = evaluate_cases(SegmenterThatFillsItsBox(), cases, ["text"], grounder=grounder)
    assert (wrong["dice"], wrong["found"]) == (0, True)
    assert 0 < wrong["hd_samus"] < 510 and wrong["iou_score"] == 0.75


def test_no_text_found_at_all_is_a_table_of_misses(cases, right):
    nothing = GrounderThatAnswers({text: (box, 0.0) for text, (box, _) in right.answers.items()})
    rows = evaluate_cases(SegmenterThatFillsItsBox(), cases, ["text"], grounder=nothing)
    summary = summarize(rows)
    assert summary["all"]["dice"]["mean"] == summary["baseline"]["ellipse"]["dice"]["mean"] == 0
    assert summary["all"]["n"] == 2


def test_a_grounder_without_texts_is_refused(cases, right):
    with pytest.raises(ValueError, match=r"prompts \['box'\] came with a grounder"):
        evaluate_cases(SegmenterThatFillsItsBox(), cases, ["box"], grounder=right)


@pytest.fixture(autouse=True)
def fake_models(monkeypatch, right):
    """`load_segmenter` knows "filling:", and every grounder is the right one."""
    monkeypatch.setitem(LOADERS, "filling", lambda checkpoint, num_samples: SegmenterThatFillsItsBox())
    monkeypatch.setattr(TextGrounder, "from_pretrained", lambda folder: right)


def test_the_summary_names_the_grounder(data, right, tmp_path):
    out = tmp_path / "out"
    summary = evaluate_directory("filling:", data, "folder", "text", "samus", out, grounder="a-grounder")
    assert summary["grounder"] == {"text_encoder": "a medical BERT", "tuned_on": "some cases"}
    assert summary["prompt"] == "text" and set(summary["baseline"]) == {"ellipse"}
    assert json.loads((out / "summary.json").read_text()) == summary
    with (out / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["found"], float(row["box_score"])) for row in rows] == [
        ("bar", "True", 0.9),
        ("disc", "True", 0.9),
    ]
    assert summary["all"]["dice"]["mean"] == pytest.approx(math.fsum(float(row["dice"]) for row in rows) / 2)


def test_the_summary_names_no_grounder_where_boxes_prompt(data, right, tmp_path):
    summary = evaluate_directory("filling:", data, "folder", "box", "samus", tmp_path / "out")
    assert summary["grounder"] is None and not right.asked


def test_a_missed_text_is_named_on_the_console(data, right, tmp_path, caplog):
    right.answers["left ventricle"] = (right.answers["left ventricle"][0], 0.2)
    evaluate_directory("filling:", data, "folder", "text", "samus", tmp_path / "out", grounder="a-grounder")
    assert "1 of 2 were missed: bar (left ventricle: its score is low)" in caplog.text


def test_a_text_of_objects_without_a_name_is_refused_until_they_get_one(data, right, tmp_path):
    (data / "cases.csv").unlink()
    call = ("filling:", data, "folder", "text", "samus", tmp_path / "out", "a-grounder")
    with pytest.raises(ValueError, match="2 of 2 objects in .* have no name, so a text would ask for 'object': say"):
        evaluate_directory(*call)
    summary = evaluate_directory(*call, target="breast lesion")
    assert {text for _, text, _ in right.asked} == {"breast lesion"} and summary["breast lesion"]["n"] == 2


def test_a_target_chooses_cases_where_the_data_name_them(data, tmp_path):
    call = ("filling:", data, "folder", "box", "samus", tmp_path / "out")
    assert evaluate_directory(*call, target="left ventricle")["all"]["n"] == 1
    with pytest.raises(ValueError, match="has no case of target 'kidney'; it has breast lesion, left ventricle"):
        evaluate_directory(*call, target="kidney")


def test_a_zero_shot_grounder_has_tuned_on_none(data, right, tmp_path, monkeypatch):
    monkeypatch.setattr(right, "settings", GrounderSettings(), raising=False)
    summary = evaluate_directory("filling:", data, "folder", "text", "samus", tmp_path / "out", grounder="a-grounder")
    assert summary["grounder"] == {"text_encoder": "bert-base-uncased", "tuned_on": None}


def test_the_best_threshold_tells_right_boxes_from_boxes_of_absent_targets():
    def row(score, present=True, iou=0.9):
        return {"score": score, "present": present} | ({"iou": iou} if present else {})

    rows = [row(0.9), row(0.7), row(0.2), row(0.4, present=False), row(0.1, present=False)]
    assert best_threshold(rows) == pytest.approx(0.55)  # 2 of 3 present and none of the absent ones
    assert best_threshold([*rows, row(0.3), row(0.3)]) == pytest.approx(0.15)  # 5 of 5, and 1 of 2
    wrong_boxes = [each | {"iou": 0.1} for each in rows if each["present"]]
    assert best_threshold(wrong_boxes + rows[3:]) is None
    assert best_threshold(rows[:3]) is None
