"""A training run: what it leaves, what stops it, how it goes on, and how many processes take part."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from safetensors.torch import load_file

import ccsam_hf.training.loop as loop
import ccsam_hf.training.states as states
from ccsam_hf import CCSamModel, CCSamPipeline
from ccsam_hf.data.simulator import write_folder
from ccsam_hf.hub.push import repository_files
from ccsam_hf.training.inputs import EpochOrder, build_samples
from ccsam_hf.training.loop import train
from ccsam_hf.training.run_config import RunConfig, published, read_config
from ccsam_hf.training.states import latest_state, states_of
from small_grounder import small_grounder

REPOSITORY = Path(__file__).resolve().parents[1]
SMOKE = ["--config", str(REPOSITORY / "training" / "configs" / "smoke.yaml")]
TWO_EPOCHS = ["--epochs", "2"]  # 8 steps
SMALL = {
    "vision_config": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "patch_stride": 16,
        "window_size": 8,
        "global_attn_indexes": [1],
        "output_channels": 16,
        "adapter_size": 4,
    },
    "cnn_config": {
        "embedding_size": 4,
        "hidden_sizes": [4, 8],
        "depths": [1, 1],
        "layer_type": "basic",
        "feature_stages": ["stage2"],
        "output_channels": 16,
    },
    "vaf_config": {"latent_dim": 8, "head_hidden_size": 8},
    "prompt_encoder_config": {"hidden_size": 16, "patch_size": 16},
    "mask_decoder_config": {
        "hidden_size": 16,
        "mlp_dim": 16,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 16,
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twenty lesions of which 14 train, 2 validate and 4 test."""
    directory = tmp_path_factory.mktemp("data") / "lesions"
    write_folder(directory, count=20, seed=0, targets=("breast lesion",), size=(64, 64))
    return directory


def small_run(folder: Path, output_dir: Path, **fields) -> RunConfig:
    """Three steps of a small model, validated at the end."""
    defaults = {
        "preset": "tiny",
        "model": SMALL,
        "trainable": "all",
        "data": str(folder),
        "layout": "folder",
        "max_steps": 0 if "epochs" in fields else 3,
        "batch_size": 2,
        "warmup_steps": 0,
        "learning_rate": 0.01,
        "ema_decay": 0.5,
        "log_every": 1,
        "num_workers": 0,
        "tracker": "none",
        "output_dir": str(output_dir),
    }
    return RunConfig(**defaults | fields)


@pytest.fixture
def run_of(folder, tmp_path):
    """A small run in a folder of its own."""
    return lambda name="run", **fields: small_run(folder, tmp_path / name, **fields)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory) -> RunConfig:
    """A run of three steps that came to its end."""
    run = small_run(folder, tmp_path_factory.mktemp("runs") / "finished", eval_every=2)
    train(run)
    return run


def entries(output_dir: str | Path, key: str = "loss") -> list[dict]:
    """Lines of the log that have the key, without the time that they took."""
    lines = [json.loads(line) for line in (Path(output_dir) / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines if key in line]


def weights_of(output_dir: str | Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load_file(Path(output_dir) / name / "model.safetensors")


def assert_bit_equal(first: str | Path, second: str | Path) -> None:
    """Both checkpoints, all that was logged, and the scores."""
    for name in ("best", "last"):
        tensors, others = weights_of(first, name), weights_of(second, name)
        assert tensors.keys() == others.keys()
        assert [key for key, tensor in tensors.items() if not torch.equal(tensor, others[key])] == []
        records = [json.loads((Path(each) / name / "training.json").read_text()) for each in (first, second)]
        assert records[0]["step"] == records[1]["step"] and records[0]["validation"] == records[1]["validation"]
    assert entries(first, "step") == entries(second, "step")


# --- what a run leaves -----------------------------------------------------------------------------------------------


def test_a_run_leaves_a_log_its_configuration_and_checkpoints_that_segment(finished):
    output_dir = Path(finished.output_dir)
    assert {path.name for path in output_dir.iterdir()} == {
        *("best", "last", "checkpoints", "log.jsonl", "run.yaml", "data.json")
    }
    assert yaml.safe_load((output_dir / "run.yaml").read_text()) == asdict(finished)
    assert [entry["step"] for entry in entries(output_dir)] == [1, 2, 3]
    terms = {f"{kind}/{term}" for kind in ("point", "box") for term in ("bce", "dice", "kl_c", "kl_v", "kl_a", "loss")}
    for entry in entries(output_dir):
        assert set(entry) == {"step", "lr", "loss"} | terms
        assert entry["loss"] == pytest.approx((entry["point/loss"] + entry["box/loss"]) / 2, rel=1e-6)
    scores = {f"{score}_{kind}" for score in ("dice", "hd") for kind in ("point", "box")}
    assert [set(entry) for entry in entries(output_dir, "dice_box")] == [{"step"} | scores] * 2
    assert [path.name for path in states_of(output_dir)] == ["step-00000002", "step-00000003"]

    record = json.loads((output_dir / "last" / "training.json").read_text())
    assert record["step"] == 3 and record["run"] == published(finished)
    assert {"step": 3, **record["validation"]} == entries(output_dir, "dice_box")[-1]
    assert set(record["versions"]) == {"ccsam-hf", "torch", "transformers", "accelerate"}
    for name in ("best", "last"):
        pipe = CCSamPipeline.from_pretrained(output_dir / name)
        (result,) = pipe(torch.rand(80, 100), boxes=[[10, 10, 60, 50]])
        assert result.mask.shape == (80, 100)


def test_a_finished_run_is_not_run_again_and_gives_its_scores(finished):
    before = (Path(finished.output_dir) / "log.jsonl").read_text()
    scores = train(finished)
    assert (Path(finished.output_dir) / "log.jsonl").read_text() == before
    assert scores == json.loads((Path(finished.output_dir) / "best" / "training.json").read_text())["validation"]


def test_the_best_checkpoint_is_that_of_the_best_mean_dice_and_holds_the_average(run_of, monkeypatch):
    scores = iter([{"dice_point": 10.0, "dice_box": 50.0}, {"dice_point": 45.0, "dice_box": 25.0}] + [{}])
    averages, validate = [], loop.validate

    def keep(network, average, *others):
        validate(network, average, *others)
        averages.append([tensor.clone() for tensor in average.averages])
        return {"dice_point": 1.0, "dice_box": 1.0} | next(scores)

    monkeypatch.setattr(loop, "validate", keep)
    run = run_of(eval_every=1)
    assert train(run) == {"dice_point": 45.0, "dice_box": 25.0}
    steps = [
        json.loads((Path(run.output_dir) / name / "training.json").read_text())["step"] for name in ("best", "last")
    ]
    assert steps == [2, 3]
    names = [name for name, parameter in CCSamModel.from_pretrained(run.output_dir + "/last").named_parameters()]
    for saved, averaged in (("best", averages[1]), ("last", averages[2])):
        tensors = weights_of(run.output_dir, saved)
        learnt = [tensors[name] for name in names if "shared_embedding" not in name]
        assert all(torch.equal(*pair) for pair in zip(learnt, averaged, strict=True))


def test_a_run_is_the_same_with_workers_and_another_with_another_seed(run_of, tmp_path):
    fields = {"augmentation": "samus", "max_steps": 2}
    runs = [
        run_of(name, **fields | differing)
        for name, differing in (("alone", {}), ("workers", {"num_workers": 2}), ("other", {"seed": 1}))
    ]
    for run in runs:
        train(run)
    assert_bit_equal(runs[0].output_dir, runs[1].output_dir)
    assert entries(runs[0].output_dir)[0]["loss"] != entries(runs[2].output_dir)[0]["loss"]


def test_a_text_is_a_prompt_of_its_own(run_of, tmp_path):
    small_grounder().save_pretrained(tmp_path / "grounder")
    run = run_of(prompts=["text", "box"], grounder=str(tmp_path / "grounder"), max_steps=1)
    assert set(train(run)) == {"dice_text", "hd_text", "dice_box", "hd_box"}
    (entry,) = entries(run.output_dir)
    assert entry["text/loss"] != entry["box/loss"]
    assert not any("grounder" in name or "find" in name for name in weights_of(run.output_dir))


def test_low_rank_adapters_leave_a_checkpoint_of_the_usual_shape(run_of, finished):
    start = str(Path(finished.output_dir) / "best")
    run = run_of(trainable="lora", lora_rank=2, checkpoint=start, model={})
    train(run)
    before, after = weights_of(finished.output_dir, "best"), weights_of(run.output_dir)
    assert before.keys() == after.keys()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved and all(re.search(r"attn.*(qkv|proj)\.weight", name) for name in moved)


def test_the_parts_of_an_accumulated_batch_give_the_step_of_the_whole(tmp_path):
    fields = ["--trainable", "declared", "--ema_decay", "0", "--warmup_steps", "0", "--eval_cases", "1"]
    length = ["--epochs", "0", "--max_steps", "2"]
    for parts in ("1", "2"):
        output = ["--output_dir", str(tmp_path / parts), "--gradient_accumulation_steps", parts]
        train(read_config(RunConfig, [*SMOKE, *fields, *length, *output]))
    whole, in_parts = (entries(tmp_path / parts) for parts in ("1", "2"))
    assert [entry["step"] for entry in in_parts] == [1, 2]
    assert [entry["loss"] for entry in in_parts] == pytest.approx([entry["loss"] for entry in whole], rel=1e-6)
    first, second = (weights_of(tmp_path / parts) for parts in ("1", "2"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=2e-6)


# --- trackers and the Hub --------------------------------------------------------------------------------------------


def test_tensorboard_shows_what_the_log_says(run_of):
    run = run_of(tracker="tensorboard", max_steps=2)
    train(run)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(Path(run.output_dir) / "ccsam"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (entry["step"], pytest.approx(entry["loss"])) for entry in entries(run.output_dir)
    ]
    (validation,) = entries(run.output_dir, "dice_box")
    (event,) = events.Scalars("dice_box")
    assert (event.step, event.value) == (2, pytest.approx(validation["dice_box"]))


def test_a_tracker_that_is_not_installed_is_named_with_its_remedy(run_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r'tracker=tensorboard needs tensorboard: pip install "ccsam-hf\[train\]"'):
        train(run_of(tracker="tensorboard"))


def test_the_best_checkpoint_is_pushed_as_a_whole_repository(finished, monkeypatch):
    calls = []
    monkeypatch.setattr(loop, "push_checkpoint", lambda *pushed, message: calls.append(pushed))
    train(replace(finished, push_to_hub="somebody/ccsam"))  # of a finished run nothing but this is left to do
    assert calls == [(Path(finished.output_dir) / "best", "somebody/ccsam")]
    assert {"README.md", "model.safetensors", "modeling_ccsam.py"} <= repository_files(calls[0][0]).contents.keys()


# --- what stops a run ------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_samples(run_of, monkeypatch):
    compute_loss, calls = CCSamModel.compute_loss, []

    def broken(self, *arguments):
        loss, terms = compute_loss(self, *arguments)
        calls.append(loss)
        return loss * float("nan" if len(calls) == 3 else 1), terms  # the first prompt of the second batch

    monkeypatch.setattr(CCSamModel, "compute_loss", broken)
    run = run_of()
    with pytest.raises(FloatingPointError) as stopped:
        train(run)
    samples = build_samples(run)[0]
    names = [samples[index]["name"] for index in list(EpochOrder(len(samples), run.seed))[2:4]]
    told = ", ".join(f"lesions/{name} (breast lesion)" for name in names)
    assert str(stopped.value) == f"loss is nan at step 2; samples: {told}"
    assert not (Path(run.output_dir) / "last").exists()


def test_validations_without_a_better_one_end_the_run_for_good(run_of, monkeypatch):
    scores = iter([50.0, 60.0, 60.0, 40.0, 90.0])
    monkeypatch.setattr(loop, "validate", lambda *_: {"dice_point": next(scores), "dice_box": 50.0})
    run = run_of(max_steps=10, eval_every=1, patience=2)
    assert train(run) == train(run) == {"dice_point": 60.0, "dice_box": 50.0}
    assert [entry["step"] for entry in entries(run.output_dir)] == [1, 2, 3, 4]
    assert latest_state(Path(run.output_dir)).name == "step-00000004"


def test_a_folder_with_a_run_of_another_configuration_is_refused(finished):
    other = replace(finished, seed=1, learning_rate=0.5)
    told = (
        f"{finished.output_dir} holds another run (seed: 0 there, 1 now; learning_rate: 0.01 there, 0.5 now); choose"
    )
    with pytest.raises(FileExistsError, match=re.escape(told)):
        train(other)
    train(replace(finished, num_workers=1, log_every=7, keep_states=5))  # what changes no weight may differ


def test_a_run_on_other_images_does_not_go_on(finished, folder, tmp_path):
    """It would draw its splits anew and validate on what it was trained on."""
    moved_data = tmp_path / folder.name
    shutil.copytree(folder, moved_data)
    shutil.copytree(finished.output_dir, tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    (tmp_path / "run" / "run.yaml").write_text(yaml.safe_dump(config | {"data": str(moved_data)}))
    moved = replace(finished, data=str(moved_data), output_dir=str(tmp_path / "run"))
    train(moved)  # the same files elsewhere are the same data
    for kind in ("images", "masks"):
        (first, *_) = sorted((moved_data / kind).iterdir())
        shutil.copy(first, first.with_stem("added"))
    with pytest.raises(FileExistsError, match="run holds a run on other images, masks or splits .training/"):
        train(moved)


def test_a_batch_that_does_not_divide_is_refused(run_of):
    with pytest.raises(ValueError, match="batch_size=3 must be a multiple of 2: 1 processes times .*steps=2"):
        train(run_of(batch_size=3, gradient_accumulation_steps=2))


# --- how it goes on --------------------------------------------------------------------------------------------------


class Stopped(Exception):
    """Stands for whatever ends a process."""


def stop_after_step(monkeypatch, step: int) -> None:
    write = loop.log

    def log(accelerator, output_dir, entry):
        write(accelerator, output_dir, entry)
        if entry["step"] == step:
            raise Stopped

    monkeypatch.setattr(loop, "log", log)


def stop_in_the_state_of_step(monkeypatch, step: int) -> None:
    write = Accelerator.save_state

    def save_state(self, folder):
        write(self, folder)
        if f"{step:08d}" in folder:
            (Path(folder) / "optimizer.bin").unlink()
            raise Stopped

    monkeypatch.setattr(Accelerator, "save_state", save_state)


def stop_before_the_state_of_step_is_renamed(monkeypatch, step: int) -> None:
    rename = os.replace

    def replace_folder(source, destination):
        if f"step-{step:08d}" in str(destination):
            raise Stopped
        rename(source, destination)

    monkeypatch.setattr(states.os, "replace", replace_folder)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(run_of, tmp_path, monkeypatch):
    """With all that is random: augmentation, prompts, correction clicks, dropout, draws of the fusion."""
    fields = {
        "epochs": 3,  # of three steps; what is left of an epoch does not fill a batch
        "batch_size": 4,
        "gradient_accumulation_steps": 2,
        "correction_clicks": 1,
        "augmentation": "samus",
        "eval_every": 4,
        "save_every": 2,
    }
    uninterrupted, run = (run_of(name, **fields) for name in ("whole", "stopped"))
    train(uninterrupted)
    stops = (
        (stop_after_step, 3, "step-00000002"),
        (stop_in_the_state_of_step, 4, "step-00000002"),
        (stop_before_the_state_of_step_is_renamed, 6, "step-00000004"),
        (stop_after_step, 7, "step-00000006"),
    )
    for stop, step, latest in stops:
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            stop(patch, step)
            train(run)
        assert latest_state(tmp_path / "stopped").name == latest
    train(run)
    assert [entry["step"] for entry in entries(run.output_dir)] == list(range(1, 10))
    assert_bit_equal(uninterrupted.output_dir, run.output_dir)
    assert [path.name for path in (tmp_path / "stopped" / "checkpoints").glob("*.writing")] == []


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    """Folder of two epochs of smoke.yaml in one process."""
    output_dir = tmp_path_factory.mktemp("smoke") / "run"
    train(read_config(RunConfig, [*SMOKE, *TWO_EPOCHS, "--output_dir", str(output_dir)]))
    return output_dir


def kill_while(process: multiprocessing.Process, happens: Callable[[], bool]) -> None:
    """SIGKILL a process while something is seen to happen; it is halted first, so that it cannot be over by then."""
    while process.is_alive():
        if happens():
            os.kill(process.pid, signal.SIGSTOP)
            if happens():
                process.kill()
                process.join()
                return
            os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.0005)
    raise AssertionError(f"the process ended with {process.exitcode} before it could be killed")


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_bit_for_bit(smoke, tmp_path, monkeypatch):
    run = read_config(RunConfig, [*SMOKE, *TWO_EPOCHS, "--output_dir", str(tmp_path / "run")])
    output_dir = Path(run.output_dir)
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # sums in the order of this process
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ccsam_hf.training.loop"])

    def checkpoint_is_written() -> bool:
        return any(output_dir.glob(".*.partial/*"))

    def state_is_written() -> bool:
        return any((output_dir / "checkpoints").glob("step-00000006.writing/*"))

    def step_is_logged() -> bool:
        return '{"step": 7,' in (output_dir / "log.jsonl").read_text()

    for happens, latest in ((checkpoint_is_written, 2), (state_is_written, 4), (step_is_logged, 6), (None, 8)):
        process = context.Process(target=train, args=(run,))
        process.start()
        if happens is None:
            process.join()
            assert process.exitcode == 0
        else:
            kill_while(process, happens)
            assert process.exitcode == -signal.SIGKILL and happens()
        assert latest_state(output_dir).name == f"step-{latest:08d}"
    assert [entry["step"] for entry in entries(output_dir)] == list(range(1, 9))
    assert_bit_equal(smoke, output_dir)
    assert not list(output_dir.glob(".*")) and not list((output_dir / "checkpoints").glob("*.writing"))


# --- several processes -----------------------------------------------------------------------------------------------


def launch_two(output_dir: Path) -> None:
    """Two epochs of smoke.yaml in two processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [str(REPOSITORY / "training" / "train.py"), *SMOKE, *TWO_EPOCHS, "--output_dir", str(output_dir)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run([*launch, *script], env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_with_the_whole_batch_and_go_on_too(smoke, tmp_path):
    output_dir = tmp_path / "run"
    launch_two(output_dir)
    alone, together = entries(smoke), entries(output_dir)
    assert [entry["step"] for entry in together] == list(range(1, 9))
    for one, other in zip(alone, together, strict=True):  # but for kl_c: BatchNorm sees the images of its process
        assert other == pytest.approx(one | {name: other[name] for name in other if "kl_c" in name}, rel=1e-4)
    assert [path.name for path in states_of(output_dir)] == ["step-00000006", "step-00000008"]
    (result,) = CCSamPipeline.from_pretrained(output_dir / "best")(torch.rand(80, 100), boxes=[[10, 10, 60, 50]])
    assert result.mask.shape == (80, 100)

    shutil.copytree(output_dir, tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "step-00000008")
    launch_two(tmp_path / "stopped")  # from the middle of the second epoch
    assert_bit_equal(output_dir, tmp_path / "stopped")
