"""ccsam-tiny and the bundled case: they load whole, are as small as promised, and do what the card says."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ccsam_hf
from ccsam_hf import CCSamConfig, CCSamModel, CCSamProcessor
from ccsam_hf.data.readers import read_cases
from ccsam_hf.data.simulator import simulate, write_folder
from ccsam_hf.evaluation.harness import evaluate_cases, summarize
from ccsam_hf.quickstart import main as quickstart

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
    model, processor = CCSamModel.from_pretrained(ccsam_hf.TINY).eval(), CCSamProcessor.from_pretrained(ccsam_hf.TINY)
    summary = summarize(evaluate_cases(model, processor, held_out, prompt))
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
    names = {"image", "truth", "overlay", "overlay_point", "uncertainty", "uncertainty_point", "summary"}
    assert {file.stem for file in tmp_path.glob("*.png")} == names
    scores = json.loads((tmp_path / "results.json").read_text())["scores"]
    assert scores["box"]["dice_percent"] > scores["ellipse in the box"]["dice_percent"]
    printed = capsys.readouterr().out
    assert f"{scores['box']['dice_percent']:6.2f}" in printed and "not a medical device" in printed
