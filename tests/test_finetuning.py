"""`ccsam-hf train`: a folder and a checkpoint become a fine-tuned checkpoint with its card, whole or not at all."""

import contextlib
import copy
import io
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

import ccsam_hf.training.finetuning as finetuning
from ccsam_hf import CCSamConfig, CCSamImageProcessor, CCSamModel, CCSamPipeline, CCSamProcessor
from ccsam_hf.cli.main import main
from ccsam_hf.data.readers import read_cases
from ccsam_hf.data.simulator import write_folder
from ccsam_hf.data.splits import Splits
from ccsam_hf.evaluation.harness import evaluate_cases
from ccsam_hf.evaluation.segmenters import CCSamSegmenter
from ccsam_hf.evaluation.statistics import summarize
from ccsam_hf.training.finetuning import finetune, parse_fields, settings_for
from ccsam_hf.training.inputs import build_samples
from ccsam_hf.training.run_config import RunConfig, published

SHORT = ["max_steps=2", "batch_size=2", "warmup_steps=0", "eval_every=1", "ema_decay=0", "log_every=1"]
GUIDE = Path(__file__).resolve().parents[1] / "docs" / "finetuning.md"
FILES = {"README.md", "results.json", "splits.json", "training.json", "config.json", "model.safetensors", "grounder"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twenty lesions of which 14 train, 2 validate and 4 test."""
    directory = tmp_path_factory.mktemp("data") / "lesions"
    write_folder(directory, count=20, seed=0, targets=("breast lesion",), size=(64, 64))
    return directory


@pytest.fixture(scope="module")
def start(tmp_path_factory, tiny_model_original) -> Path:
    """A checkpoint whose fusion has an effect, and beside it what stands for a grounder."""
    directory = tmp_path_factory.mktemp("models") / "start"
    model = copy.deepcopy(tiny_model_original)
    torch.nn.init.normal_(model.fusion.output.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(directory)
    CCSamProcessor(CCSamImageProcessor()).save_pretrained(directory)
    (directory / "grounder").mkdir()
    (directory / "grounder" / "config.json").write_text("{}")
    return directory


@pytest.fixture(scope="module")
def tuned(folder, start, tmp_path_factory) -> SimpleNamespace:
    """The folder that the command leaves, and what it prints."""
    output = tmp_path_factory.mktemp("tuned") / "model"
    arguments = ["train", "--data", str(folder), "--model", str(start), "--output", str(output), "--set", *SHORT]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(arguments) == 0
    results = json.loads((output / "results.json").read_text())
    return SimpleNamespace(folder=output, printed=printed.getvalue().splitlines(), results=results)


@pytest.fixture
def quick(start, monkeypatch) -> list:
    """Runs leave the start as their best checkpoint and measurements are zeros; keeps what was asked for."""
    asked = []
    score = {"mean": 0.0, "ci95": [0.0, 0.0]}
    entry = {"dice": score, "hd_samus": score, "n": 4}
    summaries = {
        prompt: {"all": entry, "baseline": {baseline: entry}}
        for prompt, baseline in (("box", "ellipse"), ("point", "disc"))
    }

    def train(run):
        asked.append(run)
        shutil.copytree(
            start, Path(run.output_dir) / "best", ignore=shutil.ignore_patterns("grounder"), dirs_exist_ok=True
        )

    def measure(checkpoint, cases):
        asked.append(cases)
        return summaries

    monkeypatch.setattr(finetuning, "train", train)
    monkeypatch.setattr(finetuning, "measure", measure)
    return asked


# --- settings --------------------------------------------------------------------------------------------------------


def test_what_learns_how_fast_and_how_long_is_what_the_guide_says():
    row = r"^\| (\d+) (?:to (\d+)|and more) \| [^|]+ \| `(\w+)` \| ([\d.]+) \| (\d+) \|$"
    rows = re.findall(row, GUIDE.read_text(), flags=re.MULTILINE)
    assert [first for first, *_ in rows] == ["10", "200", "2000"]
    for first, last, trainable, rate, steps in rows:
        for images in (int(first), int(last or 50_000)):
            settings = {"trainable": trainable, "learning_rate": float(rate), "max_steps": int(steps)}
            assert settings_for(images) == settings
            assert RunConfig(**settings).batch_size == 8


def test_fields_of_a_run_are_read_as_yaml():
    texts = ["max_steps=2", "learning_rate=1e-3", "prompts=[box, text]", "grounder=a=b", "gradient_checkpointing=true"]
    assert parse_fields([*texts, "prompt_sampler={jittered_box: 0.25}", "push_to_hub=null"]) == {
        "max_steps": 2,
        "learning_rate": 0.001,
        "prompts": ["box", "text"],
        "grounder": "a=b",
        "gradient_checkpointing": True,
        "prompt_sampler": {"jittered_box": 0.25},
        "push_to_hub": None,
    }
    assert parse_fields([]) == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("steps=2", "'steps=2' is not FIELD=VALUE with a field of a run; known are adam_epsilon, attention"),
        ("max_steps", "'max_steps' is not FIELD=VALUE"),
        ("max_steps=two", "'two'"),
        ("learning_rate=fast", "'fast'"),
    ],
)
def test_other_fields_are_refused(text, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        parse_fields([text])


# --- what it leaves --------------------------------------------------------------------------------------------------


def test_the_folder_is_a_checkpoint_with_card_results_and_splits(tuned, start):
    names = {path.name for path in tuned.folder.iterdir()}
    assert names >= FILES and not any(name.startswith("adapter") and name.endswith(".json") for name in names)
    assert (tuned.folder / "grounder" / "config.json").read_text() == "{}"
    (result,) = CCSamPipeline.from_pretrained(tuned.folder)(torch.rand(80, 100), boxes=[[10, 10, 60, 50]])
    assert result.mask.shape == (80, 100)
    before, after = (CCSamModel.from_pretrained(path).state_dict() for path in (start, tuned.folder))
    assert before.keys() == after.keys()  # low-rank adapters are part of the weights
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved and all(re.search(r"attn.*(qkv|proj)\.weight", name) for name in moved)
    assert json.loads((tuned.folder / "training.json").read_text())["step"] in (1, 2)


def test_the_results_are_those_of_images_that_neither_trained_nor_chose(tuned, folder, start):
    splits = Splits.load(tuned.folder / "splits.json")
    cases = {
        split: [case for case in splits.apply(read_cases(folder, "folder")) if case.split == split]
        for split in ("train", "validation", "test")
    }
    assert tuned.results["images"] == {name: len(found) for name, found in cases.items()}
    assert tuned.results["images"] == {"train": 14, "validation": 2, "test": 4}
    run = RunConfig(**yaml.safe_load((tuned.folder.with_name("model.run") / "run.yaml").read_text()))
    for split, samples in zip(("train", "validation"), build_samples(run), strict=True):
        assert {samples[i]["name"] for i in range(len(samples))} == {case.name for case in cases[split]}
    for when, path in (("before", start), ("after", tuned.folder)):
        summary = summarize(evaluate_cases(CCSamSegmenter.load(path), cases["test"], ["box"]))
        assert tuned.results[when]["box"] == json.loads(json.dumps(summary))
    assert tuned.results["before"]["point"] != tuned.results["after"]["point"]


def test_settings_are_those_of_the_number_of_images_under_those_that_were_set(tuned, folder, start):
    run = tuned.results["run"]
    assert (run["trainable"], run["learning_rate"]) == ("lora", 1e-3)
    assert (run["max_steps"], run["batch_size"], run["ema_decay"]) == (2, 2, 0.0)
    assert (run["data"], run["checkpoint"], run["seed"]) == (folder.name, Path(start).name, 0)
    whole = yaml.safe_load((tuned.folder.with_name("model.run") / "run.yaml").read_text())
    assert (whole["data"], whole["checkpoint"]) == (str(folder), str(start))
    assert run == published(RunConfig(**whole))


def test_the_command_prints_what_was_gained(tuned):
    lines = [line for line in tuned.printed if not line.startswith("{")]
    expected = [
        f"{prompt}: Dice {tuned.results['before'][prompt]['all']['dice']['mean']:.2f} before, "
        f"{tuned.results['after'][prompt]['all']['dice']['mean']:.2f} after, 4 objects"
        for prompt in ("box", "point")
    ]
    assert lines == [*expected, f"wrote {tuned.folder}"]


def test_the_card_parses_and_has_the_numbers_of_the_results(tuned):
    card = ModelCard.load(tuned.folder / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("ccsam-hf", "image-segmentation")
    assert card.data.license == "other" and "ultrasound" in card.data.tags
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in card.text.splitlines()
        if line.startswith("|")
    ]
    found = {(row[0], row[1].split(",")[0]): row[2:] for row in rows[2:]}
    assert list(found) == [
        (prompt, name)
        for prompt, baseline in (("box", "ellipse"), ("point", "disc"))
        for name in ("before", "after", baseline)
    ]
    for (prompt, name), cells in found.items():
        summary = tuned.results[name if name in ("before", "after") else "after"][prompt]
        scores = summary["all"] if name in ("before", "after") else summary["baseline"][name]
        for cell, score in zip(cells[:2], (scores["dice"], scores["hd_samus"]), strict=True):
            assert cell == "{:.1f} [{:.1f}, {:.1f}]".format(score["mean"], *score["ci95"])
        assert cells[2] == "4"
    text = " ".join(card.text.split())
    assert "Fine-tuned from `start` with `ccsam-hf train` on 14 images. 2 other images were used to choose" in text
    assert "Trained parameters: `lora`. Learning rate 0.001, 2 steps of 2 images, seed 0" in text
    assert "{{" not in card.content and str(tuned.folder.parent) not in card.content


# --- whole or not at all ---------------------------------------------------------------------------------------------


def test_an_output_appears_whole_or_not_at_all_and_the_same_call_goes_on(folder, start, tmp_path, quick, monkeypatch):
    output = tmp_path / "model"
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(finetuning, "finetuned_card", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        finetune(folder, "folder", start, output)
    assert not output.exists() and (tmp_path / "model.run" / "best").is_dir()
    results = finetune(folder, "folder", start, output)
    assert json.loads((output / "results.json").read_text()) == results
    assert {path.name for path in output.iterdir()} >= FILES - {"training.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"model", "model.run"}


def test_an_output_that_exists_is_left_alone(folder, start, tmp_path, quick):
    with pytest.raises(FileExistsError, match="exists; choose another output, or remove it"):
        finetune(folder, "folder", start, tmp_path)
    assert list(tmp_path.iterdir()) == [] and quick == []


def test_images_without_an_object_leave_the_others_in_their_splits(folder, start, tmp_path, quick):
    shutil.copytree(folder, tmp_path / "lesions")
    for path in sorted((tmp_path / "lesions" / "masks").iterdir())[::6]:
        Image.fromarray(np.zeros((64, 64), dtype=np.uint8)).save(path)
    results = finetune(tmp_path / "lesions", "folder", start, tmp_path / "model")
    test, run, _ = quick
    seen = {samples[i]["name"] for samples in build_samples(run) for i in range(len(samples))}
    tested = {case.name for case in test}
    assert not seen & tested and len(seen) + len(tested) == sum(results["images"].values()) == 16


@pytest.mark.parametrize("field", ["data", "layout", "checkpoint", "seed", "output_dir"])
def test_what_decides_the_test_images_is_set_by_arguments_alone(folder, start, tmp_path, quick, field):
    with pytest.raises(ValueError, match=f"{field} cannot be set: they follow from data, layout, model"):
        finetune(folder, "folder", start, tmp_path / "model", overrides={field: "1"})
    assert quick == []


def test_low_rank_adapters_need_a_fusion_that_has_been_trained(folder, tmp_path, quick):
    CCSamModel(CCSamConfig.tiny()).save_pretrained(tmp_path / "new")
    with pytest.raises(ValueError, match="has never been trained, and trainable=lora does not train it"):
        finetune(folder, "folder", tmp_path / "new", tmp_path / "tuned")
    assert quick == [] and not (tmp_path / "tuned").exists()
    finetune(folder, "folder", tmp_path / "new", tmp_path / "tuned", overrides={"trainable": "declared"})
    assert quick[1].trainable == "declared"


def test_too_few_images_are_refused(start, tmp_path, quick):
    write_folder(tmp_path / "few", count=12, seed=0, targets=("breast lesion",), size=(64, 64))
    told = (
        "few gives 8 images with an object to train on, 1 to validate with and 3 to test with; expected at least 10, 1"
    )
    with pytest.raises(ValueError, match=told):
        finetune(tmp_path / "few", "folder", start, tmp_path / "model")
    assert quick == [] and {path.name for path in tmp_path.iterdir()} == {"few"}


def test_wrong_input_ends_the_command_with_one_line(folder, start, tmp_path, capsys, monkeypatch):
    arguments = ["train", "--data", str(folder), "--model", str(start), "--output", str(tmp_path / "model")]
    assert main([*arguments, "--set", "steps=2"]) == 2
    assert main([*arguments, "--layout", "busi"]) == 2
    monkeypatch.setitem(sys.modules, "ccsam_hf.training.finetuning", None)  # as where accelerate is not installed
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "'steps=2' is not FIELD=VALUE" in lines[0] and "benign" in lines[1]
    assert lines[2].endswith('pip install "ccsam-hf[train,data]"')
