"""ccsam-tiny and the bundled case: they load whole, are as small as promised, and do what the card says."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ccsam_hf
from ccsam_hf import CCSamConfig, CCSamModel, CCSamPipeline, TextGrounder
from ccsam_hf.cli.quickstart import main as quickstart
from ccsam_hf.data.prompts import tight_box
from ccsam_hf.data.readers import read_cases
from ccsam_hf.data.simulator import TARGETS, simulate, write_folder
from ccsam_hf.evaluation.grounding import Scene, evaluate_grounder
from ccsam_hf.evaluation.harness import evaluate_cases
from ccsam_hf.evaluation.metrics import dice
from ccsam_hf.evaluation.segmenters import CCSamSegmenter
from ccsam_hf.evaluation.statistics import summarize

ASSETS = Path(ccsam_hf.TINY).parent
HELD_OUT_SEED = 2_000_000_000


def test_it_loads_whole_and_is_the_tiny_preset_with_every_block():
    model, report = CCSamModel.from_pretrained(ccsam_hf.TINY, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = CCSamConfig.tiny(lambda_iou=model.config.lambda_iou)
    for part in ("vision_config", "cnn_config", "vaf_config", "prompt_encoder_config", "mask_decoder_config"):
        stored = getattr(model.config, part).to_dict()
        assert stored | {"dtype": None} == getattr(expected, part).to_dict() | {"dtype": None}, part
    assert model.fusion is not None and model.vit_branch.input_adapter is not None
    assert model.vit_branch.position_adapter.layers and model.vit_branch.layers[-1].adapter is not None


def test_its_weights_take_at_most_ten_megabytes():
    assert sum(file.stat().st_size for file in Path(ccsam_hf.TINY).glob("*.safetensors")) <= 10_000_000


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "cases"
    write_folder(folder, count=30, seed=HELD_OUT_SEED)
    return read_cases(folder, "folder")


@pytest.mark.parametrize("prompt", ["box", "point"])
def test_it_beats_the_blind_baseline_on_cases_it_has_not_seen(held_out, prompt):
    summary = summarize(evaluate_cases(CCSamSegmenter.load(ccsam_hf.TINY), held_out, [prompt]))
    (baseline,) = summary["baseline"].values()
    assert summary["all"]["dice"]["mean"] > baseline["dice"]["mean"]
    assert summary["all"]["hd_samus"]["mean"] < baseline["hd_samus"]["mean"]


def test_the_bundled_case_is_what_the_simulator_makes_of_its_seed():
    facts = json.loads((ASSETS / "example" / "case.json").read_text())
    assert facts["seed"] >= HELD_OUT_SEED, "a training case would flatter the checkpoint"
    case = simulate(facts["target"], facts["seed"])
    image = np.asarray(Image.open(ASSETS / "example" / "image.png")).astype(float)
    assert np.abs(image - case.image).mean() < 1  # other releases of numpy round differently
    mask = np.asarray(Image.open(ASSETS / "example" / "mask.png")) > 0
    assert (mask != case.mask).mean() < 0.001


def test_the_quickstart_writes_its_pictures_and_numbers(tmp_path, capsys):
    quickstart(["--output", str(tmp_path)])
    names = {"image", "truth", "box", "click", "uncertainty", "heart", "heart_truth", "heart_text", "summary"}
    assert {file.stem for file in tmp_path.glob("*.png")} == names
    scores = json.loads((tmp_path / "results.json").read_text())["scores"]
    lesion = scores["breast lesion"]
    assert lesion["tight box"]["dice_percent"] > lesion["ellipse in the tight box"]["dice_percent"]
    assert set(scores) == {"breast lesion", "left ventricle", "left atrium", "myocardium"}
    printed = capsys.readouterr().out
    for by_prompt in scores.values():
        assert all(f"{score['dice_percent']:6.2f}" in printed for score in by_prompt.values())
    assert "not a medical device" in printed


# --- the grounder ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grounder():
    return TextGrounder.from_pretrained(ccsam_hf.TINY_GROUNDER)


@pytest.fixture(scope="module")
def scenes():
    """Unseen scenes with two structures or three, and the targets that are not in them."""
    found = []
    for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + 20):
        case = simulate(("thyroid nodule", "left ventricle")[seed % 2], seed)
        boxes = {name: tight_box(mask) for name, mask in case.masks.items() if mask.any()}
        found.append(Scene(str(seed), case.image, boxes, tuple(set(TARGETS) - set(case.masks))))
    return found


def test_the_grounder_takes_at_most_fifteen_megabytes():
    assert sum(file.stat().st_size for file in Path(ccsam_hf.TINY_GROUNDER).rglob("*")) <= 15_000_000


def test_the_text_decides_which_box_is_found(grounder, scenes):
    summary = evaluate_grounder(grounder, scenes)["all"]
    assert summary["recall"] > 0.86 and summary["recall"] > summary["chance"] + 0.3
    assert summary["swap"] > 0.82


def test_the_grounder_says_what_it_is(grounder):
    assert "simulator" in grounder.settings.tuned_on


def test_a_text_is_segmented_with_the_bundled_pair():
    case = simulate("left ventricle", HELD_OUT_SEED + 101)
    pipe = CCSamPipeline.from_pretrained(ccsam_hf.TINY)
    for result in pipe(case.image, text=["LV", "left atrium", "myocardium"]):
        assert dice(result.mask, case.masks[result.label]) > 0.7, result.label
