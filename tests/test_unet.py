"""The U-Net of comparisons: an output for each target, what it learns from, and that a folder gives it back."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ccsam_hf.training.loop as loop
import ccsam_hf.training.unet as training
from ccsam_hf import CCSamProcessor
from ccsam_hf.data.simulator import simulate, write_folder
from ccsam_hf.evaluation.segmenters import load_segmenter
from ccsam_hf.evaluation.unet import build_unet, channel_of, load_unet, predict, save_unet
from ccsam_hf.image_processing_ccsam import CCSamImageProcessor
from ccsam_hf.losses import binary_cross_entropy, dice_loss
from ccsam_hf.training.prompting import PromptedLoss
from ccsam_hf.training.run_config import RunConfig
from ccsam_hf.training.unet import TargetLoss, train_unet

TARGETS = ["breast lesion", "thyroid nodule"]


@pytest.fixture(scope="module")
def unet():
    """Two outputs, random weights, in evaluation mode."""
    torch.manual_seed(0)
    return build_unet(TARGETS).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two breast lesions and two nodules, of which one validates and the others train."""
    directory = tmp_path_factory.mktemp("data") / "lesions"
    write_folder(directory, count=4, seed=0, targets=tuple(TARGETS), size=(64, 64))
    table = directory / "cases.csv"
    lines = table.read_text().splitlines()
    splits = ["split", "train", "train", "train", "validation"]
    table.write_text("".join(f"{line},{split}\n" for line, split in zip(lines, splits, strict=True)))
    return directory


@pytest.fixture
def run(folder, tmp_path) -> RunConfig:
    """A short run."""
    return RunConfig(
        output_dir=str(tmp_path / "run"),
        data=str(folder),
        layout="folder",
        preset="tiny",
        max_steps=2,
        batch_size=2,
        warmup_steps=0,
        ema_decay=0.0,
        log_every=1,
        eval_every=2,
        num_workers=0,
        tracker="none",
    )


@pytest.fixture
def batch(rng) -> dict:
    """A lesion and a nodule."""
    return {
        "pixel_values": torch.rand(2, 3, 64, 64),
        "labels": torch.from_numpy(rng.random((2, 1, 64, 64)) > 0.5).float(),
        "target": ["thyroid nodule", "breast lesion"],
    }


def logged(run: RunConfig) -> list[dict]:
    return [json.loads(line) for line in (Path(run.output_dir) / "log.jsonl").read_text().splitlines()]


# --- the model and its folder ----------------------------------------------------------------------------------------


def test_it_has_as_many_parameters_as_the_bundled_checkpoint(tiny_model):
    own = sum(each.numel() for each in build_unet(["breast lesion"]).parameters())
    assert own == 1_463_585
    assert own / sum(each.numel() for each in tiny_model.parameters()) == pytest.approx(1, abs=0.05)


def test_a_folder_gives_back_the_same_probabilities(unet, tmp_path, capsys):
    image = simulate("breast lesion", 0, (90, 120)).image
    save_unet(tmp_path, unet, TARGETS)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "ccsam_hf_unet.json"}
    assert json.loads((tmp_path / "ccsam_hf_unet.json").read_text()) == {"targets": TARGETS, "image_size": 256}
    loaded, targets = load_unet(tmp_path)
    assert targets == TARGETS and not loaded.training
    assert capsys.readouterr().out == ""  # where the command line writes results
    for channel in range(2):
        np.testing.assert_array_equal(predict(loaded, image, channel), predict(unet, image, channel))
    np.testing.assert_array_equal(load_segmenter(f"unet:{tmp_path}").encode(image)[1], predict(unet, image, 1))


def test_it_reads_the_grey_image_that_the_processor_of_ccsam_makes(unet):
    image = simulate("breast lesion", 0, (90, 120)).image
    pixel_values = CCSamProcessor(CCSamImageProcessor())(images=[image], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = unet(pixel_values[:, :1]).sigmoid()[0]
    for channel in range(2):
        probabilities = predict(unet, image, channel)
        assert probabilities.shape == (256, 256) and probabilities.dtype == np.float32
        np.testing.assert_array_equal(probabilities, expected[channel].numpy())


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="training mode: call model.eval"):
        predict(build_unet(["breast lesion"]), np.zeros((8, 8), dtype=np.uint8), 0)


@pytest.mark.parametrize("targets", [[], ["breast lesion", "breast lesion"]])
def test_outputs_have_different_names(targets):
    with pytest.raises(ValueError, match=re.escape(f"targets={targets}; expected at least one name, and none twice")):
        build_unet(targets)


def test_another_folder_and_an_unknown_target_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no ccsam_hf_unet\.json; expected a folder of training/train_un"):
        load_unet(tmp_path)
    assert channel_of(TARGETS, "thyroid nodule") == 1
    with pytest.raises(ValueError, match="no output for 'myocardium'; it has breast lesion, thyroid nodule: train it"):
        channel_of(TARGETS, "myocardium")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ImportError, match=r'pip install "ccsam-hf\[evaluation\]"'):
        build_unet(["breast lesion"])


# --- the loss --------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_output_of_each_target(unet, batch):
    loss, terms, masks = TargetLoss(unet, TARGETS)(batch)
    mask_logits = unet(batch["pixel_values"][:, :1])
    own = torch.stack([mask_logits[0, 1], mask_logits[1, 0]])[:, None]
    expected = {"bce": binary_cross_entropy(own, batch["labels"]), "dice": dice_loss(own, batch["labels"])}
    torch.testing.assert_close(terms, expected)
    torch.testing.assert_close(loss, expected["bce"] + expected["dice"])
    torch.testing.assert_close(masks, {"none": own[:, 0]})


def test_outputs_of_other_targets_get_no_gradient(unet, batch):
    unet.zero_grad()
    TargetLoss(unet, TARGETS)(batch | {"target": ["thyroid nodule"] * 2})[0].backward()
    of_outputs = unet.segmentation_head[0].weight.grad.flatten(1).abs().sum(1)
    assert of_outputs[0] == 0 < of_outputs[1]


def test_a_target_without_output_has_no_loss(unet, batch):
    with pytest.raises(ValueError, match="no output for 'left atrium'"):
        TargetLoss(unet, TARGETS)(batch | {"target": ["thyroid nodule", "left atrium"]})


# --- a run -----------------------------------------------------------------------------------------------------------


def test_the_loss_falls_and_the_run_leaves_a_unet(run, folder):
    run = replace(run, max_steps=12, eval_every=12, learning_rate=3e-3, augmentation="none", schedule="constant")
    scores = train_unet(run)
    losses = [entry["loss"] for entry in logged(run) if "loss" in entry]
    assert len(losses) == 12 and np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    model, targets = load_unet(Path(run.output_dir) / "best")
    assert targets == TARGETS and set(scores) == {"dice_none", "hd_none"}
    record = json.loads((Path(run.output_dir) / "best" / "training.json").read_text())
    assert record["validation"] == scores and record["run"]["data"] == folder.name and record["step"] == 12


def test_its_samples_are_those_of_a_run_of_ccsam_with_the_same_configuration(run, tmp_path, monkeypatch):
    seen = {"unet": [], "ccsam": []}

    def recording(kind, name):
        forward = kind.forward

        def record(self, batch):
            seen[name].append(batch)
            return forward(self, batch)

        monkeypatch.setattr(kind, "forward", record)

    recording(TargetLoss, "unet")
    recording(PromptedLoss, "ccsam")
    train_unet(run)
    loop.train(replace(run, output_dir=str(tmp_path / "ccsam")))
    assert len(seen["unet"]) == len(seen["ccsam"]) == 3  # two steps and one validation
    for ours, theirs in zip(seen["unet"], seen["ccsam"], strict=True):
        assert ours["name"] == theirs["name"] and ours["target"] == theirs["target"]
        torch.testing.assert_close(ours["pixel_values"], theirs["pixel_values"], rtol=0, atol=0)
        torch.testing.assert_close(ours["labels"], theirs["labels"], rtol=0, atol=0)


def test_a_run_that_was_stopped_ends_as_it_would_have(run, tmp_path, monkeypatch):
    run = replace(run, max_steps=3, eval_every=3, save_every=2, ema_decay=0.5)
    train_unet(run)
    stopped = replace(run, output_dir=str(tmp_path / "stopped"))
    log = loop.log
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def stop_at_third_step(accelerator, output_dir, entry):
            if entry["step"] == 3:
                raise KeyboardInterrupt
            log(accelerator, output_dir, entry)

        patch.setattr(loop, "log", stop_at_third_step)
        train_unet(stopped)
    assert not (tmp_path / "stopped" / "best").exists()
    train_unet(stopped)
    weights = [load_file(Path(each.output_dir) / "best" / "model.safetensors") for each in (run, stopped)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_it_starts_from_a_unet_with_an_output_for_each_target(run, unet, tmp_path):
    save_unet(tmp_path / "start", unet, ["thyroid nodule", "breast lesion"])
    still = replace(run, checkpoint=str(tmp_path / "start"), learning_rate=0.0, eval_every=1)
    train_unet(still)
    model, targets = load_unet(Path(still.output_dir) / "best")
    assert targets == ["thyroid nodule", "breast lesion"]
    start = dict(unet.named_parameters())
    assert all(torch.equal(each, start[name]) for name, each in model.named_parameters())

    save_unet(tmp_path / "other", unet, ["thyroid nodule", "left atrium"])
    with pytest.raises(ValueError, match="no output for 'breast lesion'; it has thyroid nodule, left atrium"):
        train_unet(replace(run, checkpoint=str(tmp_path / "other"), output_dir=str(tmp_path / "refused")))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_samples(run, monkeypatch):
    monkeypatch.setattr(training, "dice_loss", lambda mask_logits, labels: mask_logits.sum() * torch.nan)
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 1; samples: lesions/.*\("):
        train_unet(run)
