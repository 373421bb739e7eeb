"""The harness on cases whose masks are known, with models whose answers are known."""

import csv
import json
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from ccsam_hf.data.cases import Case
from ccsam_hf.data.readers import read_cases
from ccsam_hf.evaluation import harness
from ccsam_hf.evaluation.baselines import filled_box, inscribed_ellipse, median_disc, median_disc_radius
from ccsam_hf.evaluation.harness import bootstrap_ci95, evaluate_cases, evaluate_directory, summarize
from ccsam_hf.image_processing_ccsam import CCSamImageProcessor
from ccsam_hf.metrics import dice, hausdorff_samus
from ccsam_hf.processing_ccsam import CCSamProcessor


class ModelThatSeesBrightness:
    """Answers with the bright part of the image, moved right by some pixels of 256x256, and keeps its prompts."""

    device = torch.device("cpu")
    training = False

    def __init__(self, moved_right: int = 0):
        self.moved_right = moved_right
        self.prompts = []

    def __call__(self, pixel_values, **prompts):
        self.prompts.append(prompts)
        mask_logits = F.avg_pool2d(pixel_values[:, :1], 2) - 0.5
        mask_logits = mask_logits.roll(self.moved_right // 2, dims=-1)
        return SimpleNamespace(pred_masks=mask_logits[:, None], iou_scores=torch.full((len(pixel_values), 1, 1), 0.75))


def processor(images, return_tensors):
    assert return_tensors == "pt"
    resized = [np.array(Image.fromarray(image).resize((256, 256), Image.Resampling.BILINEAR)) for image in images]
    return {"pixel_values": torch.from_numpy(np.stack(resized))[:, None].expand(-1, 3, -1, -1) / 255}


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
    box = np.array([10, 20, 109, 59])
    ellipse = inscribed_ellipse(box, (80, 120))
    assert not (ellipse & ~filled_box(box, (80, 120))).any()
    rows, columns = np.nonzero(ellipse)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (10, 20, 109, 59)
    assert ellipse.sum() == pytest.approx(np.pi * 50 * 20, rel=0.01)
    assert np.argwhere(inscribed_ellipse(np.array([3, 4, 3, 4]), (9, 9))).tolist() == [[4, 3]]


def test_filled_box_holds_both_its_sides():
    mask = filled_box(np.array([1, 2, 3, 2]), (5, 6))
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
    rows = evaluate_cases(ModelThatSeesBrightness(), processor, tiny_blocks, prompt, batch_size=1)
    assert [row["name"] for row in rows] == ["a", "b"]
    for row, case in zip(rows, tiny_blocks, strict=True):
        assert (row["dice"], row["iou"], row["hd_samus"], row["iou_score"]) == (100, 100, 0, 0.75)
        assert (row["target"], row["prompt"]) == ("object", prompt)
        if prompt == "box":
            top, left = np.argwhere(case.mask).min(axis=0)
            bottom, right = np.argwhere(case.mask).max(axis=0)
            expected = inscribed_ellipse(np.array([left, top, right, bottom]), (256, 256))
        else:
            pixels = np.argwhere(case.mask)[:, ::-1]  # areas are 800 and 1800, their median 1300
            expected = median_disc(pixels[len(pixels) // 2], np.sqrt(1300 / np.pi), (256, 256))
        assert row["baseline_dice"] == pytest.approx(100 * dice(expected, case.mask))
        assert row["baseline_hd_samus"] == hausdorff_samus(expected, case.mask)


def test_a_mask_moved_by_ten_pixels_scores_what_counting_gives(tiny_blocks):
    first, second = evaluate_cases(ModelThatSeesBrightness(moved_right=10), processor, tiny_blocks, "box")
    assert (first["dice"], second["dice"]) == pytest.approx((75.0, 100 * 20 / 30))
    assert (first["iou"], second["iou"]) == pytest.approx((60.0, 50.0))
    assert (first["hd_samus"], second["hd_samus"]) == (10, 10)


def test_prompts_reach_the_model_in_pixels_of_the_resized_mask(write_cases):
    large = np.zeros((512, 1024), dtype=bool)  # 2x and 4x the protocol's size
    large[80:120, 240:400] = True
    cases = read_cases(write_cases({"a": large}), "folder")
    model = ModelThatSeesBrightness()
    evaluate_cases(model, processor, cases, "box")
    evaluate_cases(model, processor, cases, "point")
    box, point = model.prompts
    assert box["input_boxes"].tolist() == [[[60, 40, 99, 59]]]
    assert point["input_points"].tolist() == [[[[60, 50]]]]  # pixel 400 of 800, 40 in a row
    assert point["input_labels"].tolist() == [[[1]]]


def test_the_batch_size_does_not_change_the_rows(tiny_blocks):
    model = ModelThatSeesBrightness(moved_right=6)
    rows = [evaluate_cases(model, processor, tiny_blocks * 3, "point", batch_size=size) for size in (1, 4, 8)]
    assert rows[0] == rows[1] == rows[2]


def test_an_object_lost_by_the_resize_is_a_missed_row(write_cases, caplog):
    lost = np.zeros((1024, 1024), dtype=bool)
    lost[512, 512] = True  # nearest neighbor takes every fourth pixel, and not this one
    cases = read_cases(write_cases({"a": block(40, 60, 20, 40), "lost": lost}), "folder")
    first, second = evaluate_cases(ModelThatSeesBrightness(), processor, cases, "box")
    assert first["dice"] == 100
    assert (second["dice"], second["iou"], second["hd_samus"], second["iou_score"]) == (0, 0, 510, None)
    assert (second["baseline_dice"], second["baseline_iou"], second["baseline_hd_samus"]) == (0, 0, 510)
    assert "case lost: its object is lost at 256x256" in caplog.text
    assert summarize([first, second])["all"]["dice"]["mean"] == 50


def test_summary_has_means_and_intervals_by_target_and_overall(write_cases):
    masks = {name: block(40, 60, 20, width) for name, width in (("a", 40), ("b", 20), ("c", 80))}
    cases = read_cases(write_cases(masks, {"a": "cyst", "b": "nodule", "c": "nodule"}), "folder")
    summary = summarize(evaluate_cases(ModelThatSeesBrightness(moved_right=10), processor, cases, "box"))
    assert set(summary) == {"cyst", "nodule", "all", "baseline"}
    assert set(summary["baseline"]) == {"ellipse"}
    assert [summary[name]["n"] for name in ("cyst", "nodule", "all")] == [1, 2, 3]
    assert (summary["cyst"]["dice"]["mean"], summary["cyst"]["dice"]["ci95"]) == (75, [75, 75])
    assert summary["nodule"]["dice"]["mean"] == pytest.approx((50 + 87.5) / 2)
    assert summary["nodule"]["dice"]["ci95"] == pytest.approx([50, 87.5])
    assert summary["all"]["hd_samus"] == {"mean": 10, "ci95": [10, 10]}
    assert summary["baseline"]["ellipse"]["n"] == 3
    assert summary["baseline"]["ellipse"]["dice"]["mean"] == pytest.approx(88, abs=2)  # 2 pi / (4 + pi) of a rectangle


def test_bootstrap_interval_is_seeded_and_near_the_normal_one():
    values = np.random.default_rng(1).normal(80, 10, size=400)
    low, high = bootstrap_ci95(values)
    assert (low, high) == bootstrap_ci95(values)
    assert (low, high) != bootstrap_ci95(values, seed=1)
    reach = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.2)


def test_evaluate_directory_writes_summary_and_table(write_cases, tmp_path, monkeypatch, caplog):
    pipe = SimpleNamespace(model=ModelThatSeesBrightness(10), processor=processor)
    monkeypatch.setattr(harness.CCSamPipeline, "from_pretrained", lambda folder, grounder, device_map: pipe)
    data = write_cases({"a": block(40, 60, 20, 40), "b": block(100, 20, 60, 30), "none": block(0, 0, 0, 0)})
    summary = evaluate_directory("some-model", data, "folder", "point", "samus", tmp_path / "new" / "out")
    assert json.loads((tmp_path / "new" / "out" / "summary.json").read_text()) == summary
    assert summary["n_without_object"] == 1 and "1 of 3 cases have no object" in caplog.text
    assert (summary["prompt"], summary["protocol"], summary["model"]) == ("point", "samus", "some-model")
    assert summary["versions"]["torch"] == version("torch")
    assert summary["object"]["n"] == 2 and set(summary["baseline"]) == {"disc"}
    with (tmp_path / "new" / "out" / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], float(row["dice"]), float(row["hd_samus"])) for row in rows] == [
        ("a", 75, 10),
        ("b", pytest.approx(200 / 3), 10),
    ]
    assert [path.name for path in sorted((tmp_path / "new" / "out").iterdir())] == ["cases.csv", "summary.json"]


@pytest.mark.parametrize("prompt", ["box", "point"])
def test_the_real_tiny_model_runs_from_files_to_files(prompt, tiny_model, write_cases, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    CCSamProcessor(CCSamImageProcessor()).save_pretrained(tmp_path / "model")
    data = write_cases({"a": block(40, 60, 20, 40), "b": block(100, 20, 60, 30)})
    summary = evaluate_directory(tmp_path / "model", data, "folder", prompt, "samus", tmp_path / "out")
    rows = evaluate_cases(tiny_model, CCSamProcessor(CCSamImageProcessor()), read_cases(data, "folder"), prompt)
    assert summary["all"]["dice"]["mean"] == pytest.approx(np.mean([row["dice"] for row in rows]), abs=1e-6)
    assert all(0 <= row["dice"] <= 100 and np.isfinite(row["iou_score"]) for row in rows)


def test_wrong_calls_are_refused(tiny_blocks, write_cases, tmp_path):
    model, out = ModelThatSeesBrightness(), tmp_path / "out"
    data = write_cases({"a": block(40, 60, 20, 40)})
    with pytest.raises(ValueError, match="prompt is 'scribble'; accepted are box, point, text"):
        evaluate_directory("model", data, "folder", "scribble", "samus", out)
    with pytest.raises(ValueError, match="prompt='text' came without a grounder"):
        evaluate_cases(model, processor, tiny_blocks, "text")
    with pytest.raises(ValueError, match="protocol is 'medsam'; accepted are samus"):
        evaluate_directory("model", data, "folder", "box", "medsam", out)
    with pytest.raises(ValueError, match="prompt is 'none'; accepted are box, point"):
        evaluate_cases(model, processor, tiny_blocks, "none")
    with pytest.raises(ValueError, match="cases is empty"):
        evaluate_cases(model, processor, [], "box")
    with pytest.raises(ValueError, match="batch_size is 0; expected at least 1"):
        evaluate_cases(model, processor, tiny_blocks, "box", batch_size=0)
    model.training = True
    with pytest.raises(ValueError, match=r"training mode.*call model.eval\(\) first"):
        evaluate_cases(model, processor, tiny_blocks, "box")
    assert not out.exists()


def test_a_processor_of_another_size_is_refused(tiny_blocks):
    def half_size(images, return_tensors):
        return {"pixel_values": F.avg_pool2d(processor(images, return_tensors)["pixel_values"], 2)}

    with pytest.raises(
        ValueError, match=r"processor makes images of \(128, 128\); protocol 'samus' needs \(256, 256\)"
    ):
        evaluate_cases(ModelThatSeesBrightness(), half_size, tiny_blocks, "box")


def test_cases_without_objects_and_targets_of_reserved_names_are_refused(write_cases, tmp_path):
    data = write_cases({"a": block(0, 0, 0, 0)})
    with pytest.raises(ValueError, match="none of the 1 cases in .* has an object"):
        evaluate_directory("model", data, "folder", "box", "samus", tmp_path / "out")
    with pytest.raises(ValueError, match="case 'a' has no object"):
        evaluate_cases(ModelThatSeesBrightness(), processor, read_cases(data, "folder"), "box")
    write_cases({"a": block(40, 60, 20, 40)}, {"a": "all"})
    with pytest.raises(ValueError, match="target 'all' is a name of the summary itself"):
        evaluate_directory("model", data, "folder", "box", "samus", tmp_path / "out")
