"""training/train.py: two steps on the simulator, the checkpoints they leave, and what stops a run."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from ccsam_hf import CCSamModel, CCSamPipeline

TRAINING = Path(__file__).resolve().parents[1] / "training"
SHORT = ["--max_steps", "2", "--batch_size", "2", "--eval_cases", "2", "--log_every", "1", "--mixed_precision", "no"]


@pytest.fixture
def train(monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINING))
    import train

    yield train
    sys.modules.pop("train", None)


@pytest.fixture
def arguments(tmp_path):
    return ["--config", str(TRAINING / "configs" / "tiny.yaml"), "--output_dir", str(tmp_path / "run"), *SHORT]


def test_two_steps_leave_a_log_the_resolved_config_and_checkpoints_that_segment(train, arguments, tmp_path):
    train.main([*arguments, "--eval_every", "1"])
    run = tmp_path / "run"
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "lr" in entry] == [1, 2]
    terms = {"bce", "dice", "kl_c", "kl_v", "kl_a", "iou", "loss"}
    assert {f"{kind}/{term}" for kind in ("box", "point") for term in terms} <= set(entries[0])
    assert yaml.safe_load((run / "run.yaml").read_text())["max_steps"] == 2
    record = json.loads((run / "last" / "training.json").read_text())
    assert record["step"] == 2 and set(record["validation"]) == {"dice_box", "dice_point"}
    for name in ("best", "last"):
        pipe = CCSamPipeline.from_pretrained(run / name)
        (result,) = pipe(torch.rand(80, 100), boxes=[[10, 10, 60, 50]])
        assert result.mask.shape == (80, 100)
    assert not list(run.glob("*.partial"))


def test_the_best_checkpoint_is_that_of_the_best_validation_dice(train, arguments, tmp_path, monkeypatch):
    scores = iter([{"dice_box": 70.0, "dice_point": 60.0}, {"dice_box": 50.0, "dice_point": 40.0}])
    monkeypatch.setattr(train, "validate", lambda *_: next(scores))
    train.main([*arguments, "--eval_every", "1"])
    steps = {
        name: json.loads((tmp_path / "run" / name / "training.json").read_text())["step"] for name in ("best", "last")
    }
    assert steps == {"best": 1, "last": 2}


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_cases(train, arguments, monkeypatch):
    compute_loss = CCSamModel.compute_loss

    def broken(self, *args):
        loss, terms = compute_loss(self, *args)
        return loss * float("nan"), terms

    monkeypatch.setattr(CCSamModel, "compute_loss", broken)
    with pytest.raises(FloatingPointError, match="loss is nan at step 1: cases 0 to 2"):
        train.main(arguments)


def test_a_run_is_reproducible_by_its_seed(train, arguments, tmp_path):
    states = []
    for name in ("first", "second"):
        train.main([*arguments, "--output_dir", str(tmp_path / name), "--eval_every", "2"])
        states.append(CCSamModel.from_pretrained(tmp_path / name / "last").state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_declared_training_moves_the_declared_parts_only(train, arguments, tmp_path):
    train.main([*arguments, "--trainable", "declared", "--ema_decay", "0", "--warmup_steps", "0", "--eval_every", "2"])
    trained = CCSamModel.from_pretrained(tmp_path / "run" / "last")
    train.set_seed(0)
    start = CCSamModel(trained.config).state_dict()
    declared = {name for name, parameter in trained.named_parameters() if parameter.requires_grad}
    moved = {name for name, tensor in trained.state_dict().items() if not torch.equal(tensor, start[name])}
    assert moved and moved <= declared


def test_the_command_line_beats_the_file_and_an_unknown_key_is_refused(train, arguments, tmp_path):
    assert train.read_config(train.RunConfig, arguments).max_steps == 2
    assert train.read_config(train.RunConfig, arguments[:2]).preset == "tiny"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("learning_rat: 1.0\n")
    with pytest.raises(ValueError, match="learning_rat"):
        train.read_config(train.RunConfig, ["--config", str(wrong)])


def test_training_and_validation_cases_are_apart_and_the_same_every_time(train):
    run = train.read_config(train.RunConfig, ["--config", str(TRAINING / "configs" / "tiny.yaml")])
    cases = [train.SimulatedCases(4, 0, run.target_weights) for _ in range(2)]
    assert all(torch.equal(cases[0][2][name], cases[1][2][name]) for name in cases[0][2])
    assert run.max_steps * run.batch_size < train.VALIDATION_SEEDS
    example = cases[0][0]
    x, y = example["input_points"][0, 0].long()
    assert example["labels"][0, y, x] == 1
    assert 0 <= example["pixel_values"].min() and example["pixel_values"].max() <= 1
