"""training/grounding_loop.py: two steps of a run, what it leaves, what stops it, and what goes on."""

import json
import re
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel

from ccsam_hf import TextGrounder
from ccsam_hf.data.readers import read_cases
from ccsam_hf.data.simulator import write_folder
from ccsam_hf.data.splits import divide
from ccsam_hf.training import grounding_loop, grounding_model
from ccsam_hf.training.grounding_loop import train_grounder
from ccsam_hf.training.grounding_model import build_grounder
from ccsam_hf.training.grounding_run import PARTS, GrounderRun
from ccsam_hf.training.grounding_scenes import build_scenes
from ccsam_hf.training.run_config import read_config
from small_grounder import SMALL_DETECTOR, SMALL_TEXT, WORDS, save_bert

ARCHITECTURE = {**SMALL_DETECTOR, "text_config": SMALL_TEXT}
TINY = Path(__file__).resolve().parents[1] / "training" / "configs" / "tiny_grounder.yaml"
STAGES = ("", "_0", "_enc")  # of two decoder layers and the proposals
TERMS = {f"{name}{stage}" for name in ("loss_ce", "loss_bbox", "loss_giou") for stage in STAGES}
UNUSED = r"swin\.layernorm\."  # the norm of a pooled output, which no detector reads


@pytest.fixture
def settings(tmp_path):
    """Fields of a short run from scratch."""
    return {
        "architecture": ARCHITECTURE,
        "image_size": 64,
        "output_dir": str(tmp_path / "run"),
        "max_steps": 2,
        "batch_size": 2,
        "warmup_steps": 0,
        "learning_rate": 0.001,
        "ema_decay": 0.0,  # the average is the last step
        "eval_scenes": 1,
        "log_every": 1,
    }


@pytest.fixture
def train(tmp_path):
    """Writes the fields into a YAML file, runs the script with it and returns the folder of the run."""

    def run(**fields) -> Path:
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(fields))
        train_grounder(read_config(GrounderRun, ["--config", str(config)]))
        return Path(fields["output_dir"])

    return run


@pytest.fixture
def start(tmp_path):
    """Folder of an untrained grounder."""
    torch.manual_seed(7)
    grounder = build_grounder(GrounderRun(architecture=ARCHITECTURE, image_size=64))
    grounder.save_pretrained(tmp_path / "start")
    return tmp_path / "start"


@pytest.fixture
def fine_tuning(settings, start):
    """Fields of a short run that fine-tunes the untrained grounder."""
    del settings["architecture"], settings["image_size"]
    return settings | {"grounder": str(start), "max_steps": 1}


@pytest.fixture
def validated(monkeypatch):
    """The grounders that were validated, in their order."""
    grounders, validate = [], grounding_loop.validate

    def keep(grounder, *others):
        grounders.append(grounder)
        return validate(grounder, *others)

    monkeypatch.setattr(grounding_loop, "validate", keep)
    return grounders


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return TextGrounder.from_pretrained(folder).model.state_dict()


def tensors_of(model) -> dict[str, torch.Tensor]:
    """Parameters and buffers, those outside the state too; each once."""
    return dict([*model.named_parameters(), *model.named_buffers()])


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> set[str]:
    assert set(first) == set(second)
    return {name for name, tensor in first.items() if not torch.equal(tensor, second[name])}


def test_two_steps_leave_a_log_and_checkpoints_that_answer(train, settings):
    run = train(**settings, eval_every=1, matches_per_object=2)
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [entry for entry in entries if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2]
    assert all(set(entry) == {"step", "seconds", "lr", "loss"} | TERMS for entry in steps)
    validations = [entry for entry in entries if "loss" not in entry]
    assert [entry["step"] for entry in validations] == [1, 2]
    for name in ("best", "last"):
        record = json.loads((run / name / "training.json").read_text())
        assert record["run"]["max_steps"] == 2 and record["run"]["architecture"]["d_model"] == 32
        assert set(record["versions"]) == {"torch", "transformers", "peft"}
        assert {"step": record["step"], **record["validation"]} in validations
        assert 0 <= record["validation"]["all"]["mean_iou"] <= 1
        grounder = TextGrounder.from_pretrained(run / name)
        (result,) = grounder(torch.rand(80, 100), "thyroid nodule")
        assert result.best_box.shape == (4,) and 0 <= result.best_score <= 1
        assert result.tuned_on == "ccsam_hf.data.simulator, full: backbone, text_encoder, projections, detector"
    assert record["step"] == 2
    assert not list(run.glob(".*"))


def test_a_run_is_reproducible_by_its_seed(train, settings, tmp_path):
    states = []
    for name, seed in (("first", 3), ("second", 3), ("other", 4)):
        run = train(**settings | {"output_dir": str(tmp_path / name), "seed": seed})
        states.append(weights_of(run / "last"))
    assert differing(states[0], states[1]) == set()
    assert differing(states[0], states[2])


def test_the_best_checkpoint_is_that_of_the_largest_mean_iou(train, settings, monkeypatch):
    scores = iter([{"all": {"mean_iou": 0.4}}, {"all": {"mean_iou": 0.3}}])
    monkeypatch.setattr(grounding_loop, "validate", lambda *_: next(scores))
    run = train(**settings, eval_every=1)
    steps = {name: json.loads((run / name / "training.json").read_text())["step"] for name in ("best", "last")}
    assert steps == {"best": 1, "last": 2}


def test_the_averaged_model_keeps_its_indices(train, settings, validated):
    train(**settings | {"ema_decay": 0.9})
    buffers = dict(validated[-1].model.named_buffers())
    indices = {name for name, buffer in buffers.items() if not buffer.is_floating_point()}
    assert any("relative_position_index" in name for name in indices) and any("position_ids" in n for n in indices)
    fresh = dict(TextGrounder.from_pretrained(settings["output_dir"] + "/last").model.named_buffers())
    assert differing(buffers, fresh) == set()


@pytest.mark.parametrize("part", ["backbone", "text_encoder", "projections", "detector"])
def test_exactly_the_chosen_part_learns(train, fine_tuning, start, validated, part):
    train(
        **fine_tuning | {"max_steps": 2}, parts=[part]
    )  # at the first step heads that start at zero pass no gradient
    before = tensors_of(TextGrounder.from_pretrained(start).model)
    moved = differing(before, tensors_of(validated[-1].model))
    names = {name for name, _ in validated[-1].model.named_parameters()}
    assert moved == {name for name in names if re.match(PARTS[part], name) and not re.search(UNUSED, name)}


def test_lora_moves_adapters_only_and_saves_the_merged_model(train, fine_tuning, start, monkeypatch):
    kept = []

    def keep(model, config):
        kept.append(get_peft_model(model, config))
        return kept[-1]

    get_peft_model = grounding_model.get_peft_model
    monkeypatch.setattr(grounding_model, "get_peft_model", keep)
    how = {"max_steps": 2, "method": "lora", "lora_rank": 2, "parts": ["text_encoder", "detector"]}
    run = train(**fine_tuning | how)

    before, after, trained = weights_of(start), weights_of(run / "last"), kept[0].state_dict()
    assert isinstance(kept[0], PeftModel)
    adapters = {name: tensor for name, tensor in trained.items() if "lora_" in name}
    plain = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor
        for name, tensor in trained.items()
        if name not in adapters
    }
    assert differing(before, plain) == set()  # nothing but the adapters moved

    expected, adapted = dict(before), set()
    for name, down in adapters.items():
        if name.endswith("lora_A.default.weight"):
            up = adapters[name.replace("lora_A", "lora_B")]
            weight = name.removeprefix("base_model.model.").replace("lora_A.default.weight", "weight")
            expected[weight] = before[weight] + 2 * up @ down  # lora_alpha is twice the rank
            adapted.add(weight)
    assert set(after) == set(before)  # no peft keys
    assert adapted and differing(before, after) <= adapted
    for name in after:
        torch.testing.assert_close(after[name], expected[name], rtol=1e-6, atol=1e-7)
    assert any(name.startswith("model.text_backbone.") for name in adapted)
    assert not any(re.match(r"model\.backbone|model\.text_projection|.*bbox_embed", name) for name in adapted)
    assert not list((run / "last").glob("adapter*"))
    assert TextGrounder.from_pretrained(run / "last").settings.tuned_on.endswith("lora: text_encoder, detector")


def test_a_text_encoder_of_its_own_vocabulary_is_trained_into_a_grounder(train, fine_tuning, tmp_path):
    tokenizer = save_bert(tmp_path / "bert", (*WORDS, "myocardium"), hidden_size=16)  # of another width
    run = train(**fine_tuning, text_encoder=str(tmp_path / "bert"))
    grounder = TextGrounder.from_pretrained(run / "last")
    assert grounder.processor.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert grounder.model.config.text_config.vocab_size == len(tokenizer)
    assert grounder.settings.text_encoder == "bert"
    assert grounder.settings.tuned_on.startswith("ccsam_hf.data.simulator, full")
    assert set(grounder.model.model.special_tokens.tolist()) == {3, 2, 5, 7}
    (result,) = grounder(torch.rand(80, 100), "left ventricle")
    assert result.best_box.isfinite().all()


def test_a_folder_of_cases_trains_and_validates_on_cases_apart(train, settings, tmp_path):
    targets = ("breast lesion", "thyroid gland")
    write_folder(tmp_path / "data", count=10, seed=0, targets=targets, size=(64, 72))
    settings |= {"data": str(tmp_path / "data"), "eval_scenes": 96, "max_steps": 5}
    training, validation, asked = build_scenes(GrounderRun(**settings))
    names = [
        [scene.name for scene, _ in (part[index] for index in range(len(part)))] for part in (training, validation)
    ]
    lists = divide(read_cases(tmp_path / "data", "folder"), seed=0).lists
    (lists,) = lists.values()
    assert [set(each) for each in names] == [set(lists["train"]), set(lists["validation"])]
    assert [len(lists[split]) for split in ("train", "validation", "test")] == [7, 1, 2]
    scene, _ = training[0]
    assert scene.image.shape == (64, 72) and len(scene.boxes) == 1
    assert set(scene.boxes) | set(scene.absent) == set(targets)
    orders = [[training[index + first][0].name for index in range(7)] for first in (0, 7)]
    assert set(orders[0]) == set(orders[1]) and orders[0] != orders[1]

    run = train(**settings)
    record = json.loads((run / "last" / "training.json").read_text())
    assert record["step"] == 5  # the folder was read more than once
    assert record["validation"]["all"]["n"] == 1
    assert TextGrounder.from_pretrained(run / "last").settings.tuned_on.startswith("data, ")


def test_an_unknown_key_is_refused_and_the_command_line_beats_the_file(train, settings, tmp_path):
    with pytest.raises(ValueError, match=r"unknown keys \['learning_rat'\]"):
        train(**settings, learning_rat=1.0)
    arguments = ["--config", str(TINY), "--max_steps", "7", "--parts", "projections", "detector"]
    run = read_config(GrounderRun, arguments)
    assert (run.max_steps, run.parts) == (7, ["projections", "detector"])
    assert run.architecture == yaml.safe_load(TINY.read_text())["architecture"]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(train, settings, monkeypatch):
    losses, grounding_loss = chain([1.0], repeat(float("nan"))), grounding_model.grounding_loss

    def broken(*arguments):
        loss, terms = grounding_loss(*arguments)
        return loss * next(losses), terms

    monkeypatch.setattr(grounding_model, "grounding_loss", broken)
    with pytest.raises(FloatingPointError, match="loss is nan at step 2"):
        train(**settings)
    assert not (Path(settings["output_dir"]) / "last").exists()


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(train, settings, tmp_path, monkeypatch):
    fields = settings | {
        "data": "mixture",
        "sources": {"simulator": {"weight": 1, "cases": 3}},
        "stored_size": 64,
        "max_steps": 3,
    }
    fields |= {"mask_loss": 0.5, "backbone_scenes": 2, "backbone_epochs": 1, "texts_per_image": 2, "save_every": 1}
    whole = train(**fields | {"output_dir": str(tmp_path / "whole")})

    def stop(*_):
        raise KeyboardInterrupt

    stopped = fields | {"output_dir": str(tmp_path / "stopped")}
    with monkeypatch.context() as broken:
        broken.setattr(grounding_loop, "check", stop)
        with pytest.raises(KeyboardInterrupt):
            train(**stopped, eval_every=2)
    assert not (tmp_path / "stopped" / "last").exists()
    (tmp_path / "stopped" / "run.yaml").write_text((tmp_path / "whole" / "run.yaml").read_text())
    went_on = train(**stopped)
    assert differing(weights_of(whole / "last"), weights_of(went_on / "last")) == set()
    known = TextGrounder.from_pretrained(went_on / "last").settings.known_targets
    assert known == ["breast lesion", "left atrium", "left ventricle", "myocardium", "thyroid gland", "thyroid nodule"]
