"""The harness on cases whose masks are known, with models whose answers are known."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

from ccsam_hf.data.cases import Case
from ccsam_hf.data.prompts import Prompt
from ccsam_hf.data.readers import read_cases
from ccsam_hf.evaluation.baselines import filled_box, inscribed_ellipse, median_disc, median_disc_radius
from ccsam_hf.evaluation.collecting import UNFINISHED
from ccsam_hf.evaluation.data_sets import DataSet
from ccsam_hf.evaluation.harness import evaluate_cases, evaluate_directory, evaluate_study
from ccsam_hf.evaluation.metrics import SCORES, dice, hausdorff_manhattan
from ccsam_hf.evaluation.protocol import PROMPTS, mask_of
from ccsam_hf.evaluation.segmenters import LOADERS, CCSamSegmenter, Prediction, box_itself
from ccsam_hf.evaluation.statistics import summarize
from ccsam_hf.image_processing_ccsam import CCSamImageProcessor
from ccsam_hf.processing_ccsam import CCSamProcessor

REPOSITORY = Path(__file__).resolve().parents[1]


class SegmenterThatSeesBrightness:
    """Answers with the bright part of the image, moved right by some pixels of 256x256; keeps what it was asked."""

    reads = ("box", "point", "none")
    about = {"checkpoint": "nowhere", "sha256": "0" * 64, "parameters": 0}

    def __init__(self, moved_right: int = 0):
        self.moved_right = moved_right
        self.images, self.asked = [], []

    def encode(self, image: np.ndarray) -> np.ndarray:
        self.images.append(image)
        return np.asarray(Image.fromarray(image).resize((256, 256), Image.Resampling.NEAREST)) / np.float32(255)

    def segment(self, encoded: np.ndarray, prompt: Prompt, target: str) -> Prediction:
        self.asked.append((prompt, target))
        probability = np.roll(encoded, self.moved_right, axis=1)
        return Prediction(probability > 0.5, probability, score=0.75)


class SegmenterThatFails(SegmenterThatSeesBrightness):
    """Raises for images of a brightness sum; the others it segments."""

    def __init__(self, fails_on: set[int], error: type[BaseException] = ZeroDivisionError):
        super().__init__()
        self.fails_on, self.error = fails_on, error

    def encode(self, image: np.ndarray) -> np.ndarray:
        if np.count_nonzero(image) in self.fails_on:
            raise self.error("something broke")
        return super().encode(image)


def block(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((256, 256), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


@pytest.fixture
def write_cases(tmp_path):
    """Writes bright blocks as cases of the folder layout and returns the folder."""

    def write(masks: dict[str, np.ndarray], targets: dict[str, str] | None = None):
        for folder in ("images", "masks"):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
        for name, mask in masks.items():
            for folder in ("images", "masks"):
                Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "data" / folder / f"{name}.png")
        if targets:
            rows = "".join(f"{name},{target}\n" for name, target in targets.items())
            (tmp_path / "data" / "cases.csv").write_text("name,target\n" + rows)
        return tmp_path / "data"

    return write


@pytest.fixture
def tiny_blocks(write_cases) -> list[Case]:
    return read_cases(write_cases({"a": block(40, 60, 20, 40), "b": block(100, 20, 60, 30)}), "folder")


def test_inscribed_ellipse_touches_the_four_sides_and_has_its_area():
    box = np.array([10, 20, 110, 60])
    ellipse = inscribed_ellipse(box, (80, 120))
    assert not (ellipse & ~filled_box(box, (80, 120))).any()
    rows, columns = np.nonzero(ellipse)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (10, 20, 109, 59)
    assert ellipse.sum() == pytest.approx(np.pi * 50 * 20, rel=0.01)
    assert np.argwhere(inscribed_ellipse(np.array([3, 4, 4, 5]), (9, 9))).tolist() == [[4, 3]]


def test_filled_box_ends_at_its_edges():
    mask = filled_box(np.array([1, 2, 4, 3]), (5, 6))
    assert np.argwhere(mask).tolist() == [[2, 1], [2, 2], [2, 3]]


def test_median_disc_has_the_median_area_and_is_cut_at_the_frame():
    radius = median_disc_radius([100, 5000, 900])
    assert np.pi * radius**2 == pytest.approx(900)
    assert median_disc(np.array([64, 50]), radius, (128, 128)).sum() == pytest.approx(900, rel=0.02)
    assert median_disc(np.array([0, 0]), radius, (128, 128)).sum() == pytest.approx(225, rel=0.1)
    with pytest.raises(ValueError, match="areas is empty"):
        median_disc_radius([])


@pytest.mark.parametrize("prompt", ["box", "point"])
def test_a_perfect_model_scores_100_and_the_baseline_its_own(tiny_blocks, prompt):
    rows = evaluate_cases(SegmenterThatSeesBrightness(), tiny_blocks, [prompt])
    assert [row["name"] for row in rows] == ["a", "b"]
    for row, case in zip(rows, tiny_blocks, strict=True):
        assert (row["dice"], row["iou"], row["hd_samus"], row["iou_score"]) == (100, 100, 0, 0.75)
        assert (row["target"], row["prompt"], row["status"], row["draw"]) == ("object", prompt, "ok", 0)
        if prompt == "box":
            top, left = np.argwhere(case.mask).min(axis=0)
            bottom, right = np.argwhere(case.mask).max(axis=0)
            expected = inscribed_ellipse(np.array([left, top, right + 1, bottom + 1]), (256, 256))
        else:
            pixels = np.argwhere(case.mask)[:, ::-1]  # areas are 800 and 1800, their median 1300
            expected = median_disc(pixels[len(pixels) // 2], np.sqrt(1300 / np.pi), (256, 256))
        assert row["baseline_dice"] == pytest.approx(100 * dice(expected, case.mask))
        assert row["baseline_hd_samus"] == hausdorff_manhattan(expected, case.mask)


def test_a_mask_moved_by_ten_pixels_scores_what_counting_gives(tiny_blocks):
    first, second = evaluate_cases(SegmenterThatSeesBrightness(moved_right=10), tiny_blocks, ["box"])
    assert (first["dice"], second["dice"]) == pytest.approx((75.0, 100 * 20 / 30))
    assert (first["iou"], second["iou"]) == pytest.approx((60.0, 50.0))
    assert (first["hd_samus"], second["hd_samus"]) == (10, 10)
    assert first["sensitivity"] == 75 and first["specificity"] == pytest.approx(100 * (1 - 200 / (65536 - 800)))


def test_a_row_keeps_the_mask_the_prompt_and_the_counts_of_calibration(tiny_blocks):
    row, _ = evaluate_cases(SegmenterThatSeesBrightness(moved_right=10), tiny_blocks, ["box"])
    assert np.array_equal(mask_of(row["mask"]), np.roll(tiny_blocks[0].mask, 10, axis=1))
    assert row["coordinates"] == [60, 40, 100, 60]
    assert row["calibration_count"] == [65536 - 800, *[0] * 13, 800]
    assert row["calibration_positive"] == [200, *[0] * 13, 600]
    assert row["uncertainty"] is None and row["uncertainty_count"] is None


def test_prompts_reach_the_model_in_pixels_of_the_resized_mask(write_cases):
    large = np.zeros((512, 1024), dtype=bool)  # 2x and 4x the protocol's size
    large[80:120, 240:400] = True
    cases = read_cases(write_cases({"a": large}), "folder")
    model = SegmenterThatSeesBrightness()
    evaluate_cases(model, cases, ["box", "point", "none"])
    (box, target), (point, _), (nothing, _) = model.asked
    assert box.box.tolist() == [60, 40, 99, 59] and box.points is None and target == "object"
    assert point.points.tolist() == [[60, 50]] and point.labels.tolist() == [1]  # pixel 400 of 800, 40 in a row
    assert nothing == Prompt()
    assert len(model.images) == 1  # encoded once for all prompts
    assert np.array_equal(model.images[0], cases[0].image)


def test_draws_depend_on_case_and_number_alone(tiny_blocks):
    def coordinates(cases):
        rows = evaluate_cases(SegmenterThatSeesBrightness(), cases, ["random-point", "jittered-box"], draws=3)
        return {(row["name"], row["prompt"], row["draw"]): tuple(row["coordinates"]) for row in rows}

    found = coordinates(tiny_blocks)
    assert found == coordinates(tiny_blocks[::-1]) == coordinates(tiny_blocks[1:]) | found
    assert len(found) == 12 and len(set(found.values())) == 12  # three different draws of each kind and case
    for (name, prompt, _), values in found.items():
        top, left, height, width = (40, 60, 20, 40) if name == "a" else (100, 20, 60, 30)
        if prompt == "random-point":
            assert left <= values[0] < left + width and top <= values[1] < top + height
        else:
            tight = np.array([left, top, left + width, top + height])
            assert (np.abs(np.array(values) - tight) <= 0.05 * np.array([width, height] * 2) + 1e-4).all()


def test_the_baseline_without_a_prompt_is_the_mean_mask_of_the_target(write_cases):
    masks = {"a": block(40, 60, 20, 40), "b": block(40, 80, 20, 40), "c": block(40, 60, 20, 60)}
    cases = read_cases(write_cases(masks), "folder")
    rows = evaluate_cases(SegmenterThatSeesBrightness(), cases, ["none"])
    at_least_half = block(40, 60, 20, 60)  # columns 60 to 79 are in a and c, 80 to 99 in all, 100 to 119 in b and c
    assert [row["baseline_dice"] for row in rows] == [100 * dice(at_least_half, case.mask) for case in cases]


def test_an_object_lost_by_the_resize_is_a_missed_row(write_cases):
    lost = np.zeros((1024, 1024), dtype=bool)
    lost[512, 512] = True  # nearest neighbor takes every fourth pixel, and not this one
    cases = read_cases(write_cases({"a": block(40, 60, 20, 40), "lost": lost}), "folder")
    first, second = evaluate_cases(SegmenterThatSeesBrightness(), cases, ["box"])
    assert first["dice"] == 100 and list(first) == list(second)  # one table
    assert (second["dice"], second["iou"], second["hd_samus"], second["iou_score"]) == (0, 0, 510, None)
    assert (second["baseline_dice"], second["baseline_iou"], second["baseline_hd_samus"]) == (0, 0, 510)
    assert (second["status"], second["reason"]) == ("missed", "no pixel of the object is left at 256x256")
    assert summarize([first, second])["all"]["dice"]["mean"] == 50


def test_a_case_that_fails_is_a_row_with_the_reason_and_counts_as_a_miss(tiny_blocks, caplog):
    rows = evaluate_cases(SegmenterThatFails({1800}), tiny_blocks, ["box", "point"])
    assert [(row["name"], row["prompt"], row["status"], row["dice"]) for row in rows] == [
        ("a", "box", "ok", 100),
        ("a", "point", "ok", 100),
        ("b", "box", "failed", 0),
        ("b", "point", "failed", 0),
    ]
    assert rows[2]["reason"] == "ZeroDivisionError: something broke" and "case b, prompt box failed" in caplog.text
    assert (rows[2]["hd_samus"], rows[2]["hd_rows"], rows[2]["mask"]) == (510, 256, None)
    with pytest.raises(ValueError, match="all 4 rows failed; the first says ZeroDivisionError: something broke"):
        evaluate_cases(SegmenterThatFails({800, 1800}), tiny_blocks, ["box", "point"])


def test_evaluate_directory_writes_summary_and_table(write_cases, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(LOADERS, "bright", lambda checkpoint, num_samples: SegmenterThatSeesBrightness(10))
    data = write_cases({"a": block(40, 60, 20, 40), "b": block(100, 20, 60, 30), "none": block(0, 0, 0, 0)})
    summary = evaluate_directory("bright:", data, "folder", "point", "samus", tmp_path / "new" / "out")
    assert json.loads((tmp_path / "new" / "out" / "summary.json").read_text()) == summary
    assert summary["n_without_object"] == 1 and "1 of 3 cases have no object" in caplog.text
    assert (summary["prompt"], summary["protocol"], summary["model"]) == ("point", "samus", "bright:")
    assert summary["versions"]["torch"] == version("torch")
    assert summary["object"]["n"] == 2 and set(summary["baseline"]) == {"disc"}
    with (tmp_path / "new" / "out" / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], float(row["dice"]), float(row["hd_samus"])) for row in rows] == [
        ("a", 75, 10),
        ("b", pytest.approx(200 / 3), 10),
    ]
    assert set(SCORES) < set(rows[0]) and "mask" not in rows[0] and "calibration_count" not in rows[0]
    assert [path.name for path in sorted((tmp_path / "new" / "out").iterdir())] == ["cases.csv", "summary.json"]


@pytest.mark.parametrize("prompt", ["box", "point", "none"])
def test_the_real_tiny_model_runs_from_files_to_files(prompt, tiny_model, write_cases, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    CCSamProcessor(CCSamImageProcessor()).save_pretrained(tmp_path / "model")
    data = write_cases({"a": block(40, 60, 20, 40), "b": block(100, 20, 60, 30)})
    summary = evaluate_directory(tmp_path / "model", data, "folder", prompt, "samus", tmp_path / "out")
    segmenter = CCSamSegmenter(tiny_model, CCSamProcessor(CCSamImageProcessor()))
    rows = evaluate_cases(segmenter, read_cases(data, "folder"), [prompt])
    assert summary["all"]["dice"]["mean"] == pytest.approx(np.mean([row["dice"] for row in rows]), abs=1e-6)
    assert all(0 <= row["dice"] <= 100 and np.isfinite(row["iou_score"]) for row in rows)


def test_rows_and_summary_tell_parts_and_reach_beside_those_of_the_baseline(tiny_blocks):
    first, second = evaluate_cases(SegmenterThatSeesBrightness(moved_right=10), tiny_blocks, ["box"])
    assert (first["parts"], first["largest_part_share"], first["reach_outside_box"]) == (1, 1, 10 / 40)
    assert (second["parts"], second["reach_outside_box"]) == (1, pytest.approx(10 / 30))
    assert (first["baseline_parts"], first["baseline_reach_outside_box"]) == (1, 0)
    summary = summarize([first, second])
    assert summary["all"]["reach_outside_box"]["max"] == pytest.approx(1 / 3) and summary["all"]["parts"]["mean"] == 1
    assert summary["baseline"]["ellipse"]["reach_outside_box"]["mean"] == 0
    (point, _) = evaluate_cases(SegmenterThatSeesBrightness(), tiny_blocks, ["point"])
    assert point["reach_outside_box"] is None and "reach_outside_box" not in summarize([point])["all"]


def test_a_limit_takes_the_same_cases_spread_over_targets(write_cases, tmp_path, monkeypatch):
    monkeypatch.setitem(LOADERS, "bright", lambda checkpoint, num_samples: SegmenterThatSeesBrightness())
    names = [f"case{number}" for number in range(12)]
    masks = {name: block(10 * number, 20, 9, 30) for number, name in enumerate(names)}
    data = write_cases(masks, {name: "left atrium" if name > "case5" else "kidney" for name in names})
    summary = evaluate_directory("bright:", data, "folder", "box", "samus", tmp_path / "out", limit=4)
    assert summary["limit"] == 4 and (summary["kidney"]["n"], summary["left atrium"]["n"]) == (2, 2)
    again = evaluate_directory("bright:", data, "folder", "box", "samus", tmp_path / "again", limit=4)
    assert again == summary
    with pytest.raises(ValueError, match="limit is 0; expected at least 1 case"):
        evaluate_directory("bright:", data, "folder", "box", "samus", tmp_path / "none", limit=0)


def test_a_stopped_evaluation_goes_on_with_nothing_else(write_cases, tmp_path, monkeypatch):
    """Other data, changed masks, more draws, other targets and other weights are named and refused."""
    loaded = SegmenterThatFails({1800}, KeyboardInterrupt)
    monkeypatch.setitem(LOADERS, "bright", lambda checkpoint, num_samples: loaded)
    data = write_cases({"a": block(40, 60, 20, 40), "b": block(100, 20, 60, 30)})

    def run(**changes):
        arguments = {"prompt": "jittered-box", "protocol": "samus", "layout": "folder", "output_dir": tmp_path / "out"}
        return evaluate_directory("bright:", **arguments | {"data_dir": data} | changes)

    with pytest.raises(KeyboardInterrupt):
        run()
    other = tmp_path / "other" / "data"  # a folder of the same name, files of the same names
    shutil.copytree(data, other)
    Image.fromarray(block(41, 60, 20, 40).astype(np.uint8) * 255).save(other / "masks" / "a.png")
    for changes, named in (
        ({"draws": 3}, "draws: 1 before, 3 now"),
        ({"data_dir": other}, "data/0/sha256: "),
        ({"target": "kidney"}, "data/0/sha256: "),
        ({"limit": 1}, "data/0/cases: 2 before, 1 now"),
        ({"prompt": "box"}, "prompts/0: 'jittered-box' before, 'box' now"),
    ):
        with pytest.raises(ValueError, match=f"is a stopped evaluation of something else .*{named}"):
            run(**changes)
    loaded = SegmenterThatSeesBrightness()
    loaded.about = loaded.about | {"sha256": "1" * 64}
    with pytest.raises(ValueError, match="models/0/sha256: 000000000000 before, 111111111111 now"):
        run()
    loaded = SegmenterThatSeesBrightness()
    shutil.move(data, tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", data)
    assert run()["all"]["n"] == 2 and len(loaded.images) == 1  # the same files again: it goes on with the second case


def test_the_summary_tells_how_far_the_score_orders_cases(write_cases, tmp_path, monkeypatch):
    class SegmenterThatKnows(SegmenterThatSeesBrightness):
        """Its score falls with its error, which grows with the object's place."""

        def segment(self, encoded, prompt, target):
            moved = int(prompt.box[1]) // 20
            probability = np.roll(encoded, moved, axis=1)
            return Prediction(probability > 0.5, probability, score=1 - moved / 20)

    monkeypatch.setitem(LOADERS, "knows", lambda checkpoint, num_samples: SegmenterThatKnows())
    data = write_cases({f"case{number}": block(25 * number, 60, 20, 40) for number in range(8)})
    found = evaluate_directory("knows:", data, "folder", "box", "samus", tmp_path / "out")["reliability"]
    assert found["n"] == 8 and found["spearman"]["value"] == pytest.approx(1)
    assert found["spearman"]["ci95"] == pytest.approx([1, 1])
    moved = np.arange(8) * 25 // 20
    iou = (40 - moved) / (40 + moved)
    bins = np.minimum(((1 - moved / 20) * 10).astype(int), 9)
    expected = sum(abs((1 - moved / 20 - iou)[bins == each].sum()) for each in set(bins)) / 8
    assert found["score_error"] == pytest.approx(expected) and found["ece"] > 0


# --- several models --------------------------------------------------------------------------------------------------


@pytest.fixture
def data_sets(tiny_blocks, tmp_path) -> list[DataSet]:
    """Two data sets, of two cases and of one."""
    for folder in ("images", "masks"):
        (tmp_path / "more" / folder).mkdir(parents=True)
        Image.fromarray(block(10, 10, 50, 50).astype(np.uint8) * 255).save(tmp_path / "more" / folder / "c.png")
    return [DataSet("some", tiny_blocks, "folder", True), DataSet("more", read_cases(tmp_path / "more", "folder"))]


def models() -> dict:
    return {"bright": SegmenterThatSeesBrightness(10), "filled box": box_itself()}


def test_a_study_has_a_row_of_each_model_data_case_and_prompt_that_the_model_reads(data_sets, tmp_path):
    rows = evaluate_study(models(), data_sets, ["box", "point"], tmp_path / "out", command="evaluate this")
    found = [(row["model"], row["data"], row["name"], row["prompt"]) for row in rows]
    assert found == [
        *[("bright", "some", name, prompt) for name in "ab" for prompt in ("box", "point")],
        *[("bright", "more", "c", prompt) for prompt in ("box", "point")],
        *[("filled box", data, name, "box") for data, name in (("some", "a"), ("some", "b"), ("more", "c"))],
    ]
    assert [row["dice"] for row in rows if row["model"] == "filled box"] == [100, 100, 100]
    study = json.loads((tmp_path / "out" / "study.json").read_text())
    assert study["models"][0] == {"name": "bright", **SegmenterThatSeesBrightness.about}
    assert [(each["name"], each["cases"], each["seen"]) for each in study["data"]] == [
        ("some", 2, True),
        ("more", 1, None),
    ]
    assert study["data"][0]["sha256"] != study["data"][1]["sha256"] and study["command"] == "evaluate this"
    table = pandas.read_parquet(tmp_path / "out" / "cases.parquet")
    assert table["dice"].tolist() == [row["dice"] for row in rows]
    assert np.array_equal(mask_of(table["mask"][0]), mask_of(rows[0]["mask"]))
    plain = pandas.read_csv(tmp_path / "out" / "cases.csv")
    entries = json.loads((tmp_path / "out" / "reliability.json").read_text())
    assert [(each["model"], each["prompt"], each["data"]) for each in entries][:3] == [
        ("bright", "box", "some"),
        ("bright", "box", "more"),
        ("bright", "box", None),  # pooled
    ]
    assert plain["dice"].tolist() == pytest.approx(table["dice"].tolist()) and "mask" not in plain
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    (entry,) = [each for each in summary if (each["model"], each["data"]) == ("filled box", "more")][:1]
    assert (entry["prompt"], entry["n"], entry["dice"]["mean"]) == ("box", 1, 100)
    compared = json.loads((tmp_path / "out" / "comparisons.json").read_text())
    (pair,) = [
        each
        for each in compared
        if (each["data"], each["prompt"], each["score"]) == ("some", "box", "dice")
        and (each["model_a"], each["model_b"]) == ("bright", "filled box")
    ]
    assert pair["difference"] == pytest.approx((25 + 100 / 3) / 2) and pair["n"] == 2
    assert not list((tmp_path / "out").glob("*unfinished*"))


def test_a_stopped_study_goes_on_without_repeating_a_finished_case(data_sets, tmp_path):
    whole = evaluate_study(models(), data_sets, ["box"], tmp_path / "whole")
    stopped = {"bright": SegmenterThatFails({1800}, KeyboardInterrupt), "filled box": box_itself()}
    stopped["bright"].moved_right = 10
    with pytest.raises(KeyboardInterrupt):
        evaluate_study(stopped, data_sets, ["box"], tmp_path / "out")
    unfinished = tmp_path / "out" / UNFINISHED
    assert len(unfinished.read_text().splitlines()) == 2  # what it is of, and the first case
    with unfinished.open("a") as file:
        file.write('{"task": 1, "ro')  # killed while writing
    again = models()
    assert evaluate_study(again, data_sets, ["box"], tmp_path / "out") == whole
    assert [np.count_nonzero(image) for image in again["bright"].images] == [1800, 2500]  # not the first one again
    for name in ("cases.csv", "cases.parquet", "summary.json", "comparisons.json", "study.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_evaluation_that_goes_on_tries_failed_cases_again(data_sets, tmp_path):
    with pytest.raises(ValueError, match="all 2 rows failed"):
        evaluate_study({"bright": SegmenterThatFails({800, 1800, 2500})}, data_sets, ["box"], tmp_path / "out")
    again = SegmenterThatSeesBrightness()
    rows = evaluate_study({"bright": again}, data_sets, ["box"], tmp_path / "out")
    assert [row["dice"] for row in rows] == [100, 100, 100] and len(again.images) == 3


def test_a_stopped_study_of_something_else_is_refused(data_sets, tmp_path):
    stopped = {"bright": SegmenterThatFails({1800}, KeyboardInterrupt)}
    with pytest.raises(KeyboardInterrupt):
        evaluate_study(stopped, data_sets, ["box"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"something else \(prompts/0: 'box' before, 'point' now\): finish that one"):
        evaluate_study(stopped, data_sets, ["point"], tmp_path / "out")
    with pytest.raises(ValueError, match="expected different names"):
        evaluate_study(stopped, [data_sets[0]] * 2, ["box"], tmp_path / "out")


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one_and_the_command_writes_the_report(tiny_model, write_cases, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    CCSamProcessor(CCSamImageProcessor()).save_pretrained(tmp_path / "model")
    data = write_cases({name: block(40 + 5 * i, 60, 30, 40) for i, name in enumerate("abcde")})  # five, so one is odd
    arguments = [f"--model=tiny=ccsam:{tmp_path / 'model'}", "--model=filled box=filled-box:"]
    arguments += [f"--data=blocks=folder:{data}", "--prompt", "box", "random-point", "--draws", "2"]
    arguments += ["--num-samples", "2"]
    script = str(REPOSITORY / "training" / "evaluate.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for output, start in (("one", [sys.executable]), ("two", launch)):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [*start, script, *arguments, f"--output={tmp_path / output}"]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, result.stderr[-3000:]
    one, two = (pandas.read_parquet(tmp_path / output / "cases.parquet") for output in ("one", "two"))
    pandas.testing.assert_frame_equal(one, two)
    assert len(one) == 5 * (1 + 2) + 5 and one["uncertainty"].notna().sum() == 15

    killed = tmp_path / "killed"
    command = [sys.executable, script, *arguments, f"--output={killed}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    unfinished = killed / UNFINISHED
    while process.poll() is None and not (unfinished.is_file() and unfinished.read_bytes().count(b"\n") > 2):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL and unfinished.is_file()  # in the middle
    finished = unfinished.read_bytes().count(b"\n")
    assert 3 <= finished < 11  # a line for each model and image behind the first
    subprocess.run(command, env=environment, capture_output=True, check=True, timeout=600)
    pandas.testing.assert_frame_equal(pandas.read_parquet(killed / "cases.parquet"), one)
    assert not unfinished.exists()
    assert (tmp_path / "two" / "report.html").is_file()


# --- wrong calls -----------------------------------------------------------------------------------------------------


def test_wrong_calls_are_refused(tiny_blocks, write_cases, tmp_path):
    model, out = SegmenterThatSeesBrightness(), tmp_path / "out"
    data = write_cases({"a": block(40, 60, 20, 40)})
    with pytest.raises(ValueError, match=f"prompt='scribble' is not one of {', '.join(PROMPTS)}"):
        evaluate_directory("model", data, "folder", "scribble", "samus", out)
    with pytest.raises(ValueError, match="protocol='medsam' is not one of samus"):
        evaluate_directory("model", data, "folder", "box", "medsam", out)
    with pytest.raises(ValueError, match=r"prompts \['text'\] came without a grounder"):
        evaluate_cases(model, tiny_blocks, ["text"])
    with pytest.raises(ValueError, match="prompt 'point' is not one that the model reads: box"):
        evaluate_cases(box_itself(), tiny_blocks, ["point"])
    with pytest.raises(ValueError, match="no prompt is one that the model reads"):
        evaluate_study({"box": box_itself()}, [DataSet("some", tiny_blocks)], ["point"], out)
    with pytest.raises(ValueError, match="cases is empty"):
        evaluate_cases(model, [], ["box"])
    with pytest.raises(ValueError, match="data set 'none' has no case"):
        DataSet("none", [])
    with pytest.raises(ValueError, match="draws is 0; expected at least 1"):
        evaluate_cases(model, tiny_blocks, ["random-point"], draws=0)
    assert not out.exists()


def test_cases_without_objects_and_targets_of_reserved_names_are_refused(write_cases, tmp_path):
    data = write_cases({"a": block(0, 0, 0, 0)})
    with pytest.raises(ValueError, match="none of the 1 cases in .* has an object"):
        evaluate_directory("model", data, "folder", "box", "samus", tmp_path / "out")
    with pytest.raises(ValueError, match="case 'a' has no object"):
        evaluate_cases(SegmenterThatSeesBrightness(), read_cases(data, "folder"), ["box"])
    write_cases({"a": block(40, 60, 20, 40)}, {"a": "all"})
    with pytest.raises(ValueError, match="target 'all' is a name of the summary itself"):
        evaluate_directory("model", data, "folder", "box", "samus", tmp_path / "out")
