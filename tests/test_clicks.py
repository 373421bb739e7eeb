"""The interactive protocol: where it clicks, what it hands on, how it counts."""

import numpy as np
import pytest

from ccsam_hf.data.cases import Case
from ccsam_hf.evaluation.clicks import click, find_deepest_point, find_next_click
from ccsam_hf.evaluation.harness import evaluate_cases
from ccsam_hf.evaluation.record import pick_clicks, pick_shapes
from ccsam_hf.evaluation.rows import ClickScores, csv_columns
from ccsam_hf.evaluation.segmenters import CCSamSegmenter, Prediction
from ccsam_hf.evaluation.statistics import summaries, summarize
from ccsam_hf.evaluation.tables import clicks_table
from ccsam_hf.image_processing_ccsam import CCSamImageProcessor
from ccsam_hf.processing_ccsam import CCSamProcessor


def block(top: int, left: int, height: int, width: int, size: int = 256) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


class SegmenterThatLearns:
    """Fills the object from the left, ten columns a click; keeps prompts and what came back with them."""

    reads = ("point", "clicks")
    about = {"checkpoint": None, "sha256": None, "parameters": None}

    def __init__(self, truth: np.ndarray):
        self.truth, self.asked = truth, []

    def encode(self, image):
        return None

    def segment(self, encoded, prompt, target, previous=None):
        self.asked.append((prompt, previous))
        left = np.flatnonzero(self.truth.any(axis=0))[0]
        mask = self.truth.copy()
        mask[:, left + 10 * len(prompt.points) :] = False
        return Prediction(mask, mask.astype(np.float32), 0.5, logits=len(self.asked))


class Pixels:
    def __init__(self, values):
        self.values = values

    def read(self):
        return self.values


def case_of(truth: np.ndarray) -> Case:
    return Case("a", "lesion", Pixels(np.zeros(truth.shape, np.uint8)), Pixels(truth))


def test_the_first_click_is_the_point_furthest_from_the_border():
    ring_with_a_thick_side = block(10, 10, 40, 60) & ~block(15, 15, 30, 25)
    x, y = find_deepest_point(ring_with_a_thick_side)
    assert 54 <= x <= 55 and 24 <= y <= 35  # the thick part is 30 columns wide, 40 to 69
    assert find_deepest_point(np.ones((5, 5), dtype=bool)) == (2, 2)  # the frame is border


def test_the_next_click_is_the_middle_of_the_largest_connected_error():
    truth, nowhere = block(100, 100, 40, 40), np.zeros((256, 256), dtype=bool)
    missing = truth & ~block(100, 100, 9, 9)
    assert find_next_click(missing, truth, nowhere) == ((104, 104), 1)
    with_too_much = missing | block(10, 10, 11, 11)
    assert find_next_click(with_too_much, truth, nowhere) == ((15, 15), 0)
    diffuse = with_too_much | block(200, 0, 2, 256)  # larger, though nowhere deep
    assert find_next_click(diffuse, truth, nowhere)[1] == 0 and 200 <= find_next_click(diffuse, truth, nowhere)[0][1]
    assert find_next_click(truth, truth, nowhere) is None


def test_no_pixel_is_clicked_twice():
    truth = block(100, 100, 1, 1)
    assert find_next_click(~block(0, 0, 256, 256), truth, truth) is None
    three, taken = block(100, 100, 1, 3), block(100, 101, 1, 1)
    (x, y), label = find_next_click(np.zeros((256, 256), dtype=bool), three, taken)
    assert (x, y) in ((100, 100), (102, 100)) and label == 1


def test_all_clicks_and_the_logits_before_go_back_in():
    truth = block(20, 20, 30, 60)
    model = SegmenterThatLearns(truth)
    steps = list(click(model, None, truth, "lesion"))
    assert len(steps) == 6 and np.array_equal(steps[-1][1].mask, truth)  # and no click where nothing is wrong
    for number, (prompt, previous) in enumerate(model.asked, 1):
        assert len(prompt.points) == number and prompt.labels.tolist() == [1] * number
        assert (previous and previous.logits) == (number - 1 or None)
        assert np.array_equal(prompt.points, model.asked[-1][0].points[:number])


def test_a_row_has_dice_by_click_and_the_number_of_clicks_to_a_level():
    truth = block(20, 20, 30, 60)
    (row,) = evaluate_cases(SegmenterThatLearns(truth), [case_of(truth)], ["clicks"])
    dice = [100 * 2 * share / (1 + share) for share in np.minimum(np.arange(1, 11) / 6, 1)]
    assert [row[f"dice_{number}"] for number in range(1, 11)] == pytest.approx(dice)
    assert (row["noc85"], row["noc90"], row["noc85_dice"], row["noc90_dice"]) == (6, 6, 5, 5)  # IoU 5/6, Dice 90.9
    assert (row["dice"], row["prompt"], len(row["coordinates"])) == (100, "clicks", 12)
    assert 0 < row["baseline_dice"] < 100 and {"dice_1", "noc90_dice"} < set(csv_columns(["clicks"]))
    assert "noc85" not in csv_columns(["box"])


def test_what_is_not_reached_counts_ten_and_is_counted():
    never = ClickScores.of_scores([80.0] * 10, [70.0] * 10)
    assert (never.noc85, never.noc90_dice, never.reached85) == (10, 10, False)
    at_the_end = ClickScores.of_scores([80.0] * 9 + [95.0], [70.0] * 9 + [86.0])
    assert (at_the_end.noc85, at_the_end.reached85, at_the_end.noc90, at_the_end.reached90) == (10, True, 10, False)
    truth, lost = block(20, 20, 30, 60), np.zeros((2560, 2560), dtype=bool)
    lost[1, 1] = True
    rows = evaluate_cases(SegmenterThatLearns(truth), [case_of(truth), case_of(lost)], ["clicks"])
    assert (rows[1]["status"], rows[1]["dice_10"], rows[1]["noc85"]) == ("missed", 0, 10)
    entry = summarize(rows)["all"]
    assert (entry["noc85"]["mean"], entry["noc85"]["n_not_reached"], entry["dice_10"]["mean"]) == (8, 1, 50)
    assert set(summarize(rows)["baseline"]) == {"disc"}


def test_tables_and_records_hold_dice_by_click_and_the_number_of_clicks():
    truth = block(20, 20, 30, 60)
    (entry, *_) = summaries(evaluate_cases(SegmenterThatLearns(truth), [case_of(truth)], ["clicks"]))
    table = clicks_table([entry], "data")
    ((target, model, n, *cells),) = table.rows
    assert (target, model, n, cells[0], cells[9]) == ("lesion", "model", "1", "28.6", "100.0")
    assert cells[10:] == ["6.0 [6.0, 6.0], 0", "6.0 [6.0, 6.0], 0", "5.0 [5.0, 5.0], 0", "5.0 [5.0, 5.0], 0"]
    assert table.headings[13] == "clicks to an IoU of: 85 % [95 %], not reached"
    found = pick_clicks(entry)["clicks"]
    assert found["dice"][0] == pytest.approx(28.5714) and found["noc85"] == {
        "mean": 6,
        "ci95": [6, 6],
        "n_not_reached": 0,
    }
    assert pick_shapes(entry)["parts"] == {"mean": 1, "max": 1} and "reach_outside_box" not in pick_shapes(entry)
    assert pick_clicks({"dice": {}}) == {}


def test_a_real_model_takes_its_logits_back(tiny_model):
    truth = block(60, 60, 80, 100)
    image = (np.where(truth, 40, 160) + np.arange(256) % 7).astype(np.uint8)
    segmenter = CCSamSegmenter(tiny_model, CCSamProcessor(CCSamImageProcessor()))
    encoded = segmenter.encode(image)
    steps = list(click(segmenter, encoded, truth, "lesion"))
    assert len(steps) == 10
    prompt, _ = steps[1]
    alone, again = (
        segmenter.segment(encoded, prompt, "lesion", previous=previous) for previous in (None, steps[0][1])
    )
    assert np.array_equal(again.probability, steps[1][1].probability)
    assert not np.array_equal(again.probability, alone.probability)
