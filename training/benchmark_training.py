"""Time and memory of a training step at full size (ViT-B, 256x256, random weights), beside the official SAMUS code.

    git clone https://github.com/xianlin7/SAMUS /elsewhere/SAMUS
    python training/benchmark_training.py --samus /elsewhere/SAMUS --output training_step.json

A step is forward, loss, backward and Adam on what learns, from one click an image; each has its own loss. All models
live in one process and take their steps in turn, so that whatever else the machine does slows all of them; ratios are
taken within a round, and medians over the rounds are printed: to SAMUS at the same precision, and to SAMUS as it is
released, which trains in fp32. Peak memory is that of a process (on a GPU, of its tensors) that does two steps of one
of them and nothing else. SAMUS is imported from its clone; what it imports and its model never calls is left out.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from unittest.mock import MagicMock

import torch
from torch import Tensor

from ccsam_hf import CCSamConfig, CCSamModel
from ccsam_hf.training.learning import build_optimizer
from ccsam_hf.training.prompting import PromptedLoss

SIDE = 256
LOW_SIDE = 128  # of the masks that SAMUS's loss compares
NEVER_CALLED = ("einops", "tkinter", "turtle")  # by SAMUS's model, which imports them
MODELS = OFFICIAL, OURS, CHECKPOINTED = "official SAMUS", "CC-SAM", "CC-SAM, gradient checkpointing"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def batch_of(size: int) -> dict[str, Tensor]:
    """Noise with a disc to find, and a click on it; values do not change what a step costs."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    disc = ((x - 100) ** 2 + (y - 140) ** 2 < 40**2).float()
    batch = {
        "pixel_values": torch.rand(size, 3, SIDE, SIDE),
        "labels": disc.expand(size, 1, SIDE, SIDE),
        "input_points": torch.tensor([100.0, 140.0]).expand(size, 1, 1, 2),
        "input_labels": torch.ones(size, 1, 1, dtype=torch.long),
    }
    return {name: tensor.contiguous().to(DEVICE) for name, tensor in batch.items()}


def official_loss(directory: Path) -> tuple[torch.nn.Module, Callable[[dict[str, Tensor]], Tensor]]:
    """SAMUS's model with random weights, and its loss of a batch as its train.py computes it."""
    stubs = {name: MagicMock() for name in NEVER_CALLED if name not in sys.modules}
    sys.modules.update(stubs)
    sys.path.insert(0, str(directory))
    from models.segment_anything_samus.build_sam_us import samus_model_registry
    from utils.loss_functions.sam_loss import Mask_DC_and_BCE_loss

    for name in stubs:
        del sys.modules[name]
    model = samus_model_registry["vit_b"](Namespace(encoder_input_size=SIDE)).to(DEVICE).train()
    criterion = Mask_DC_and_BCE_loss(pos_weight=torch.full((1,), 2.0, device=DEVICE))

    def loss(batch: dict[str, Tensor]) -> Tensor:
        low_labels = torch.nn.functional.interpolate(batch["labels"], (LOW_SIDE, LOW_SIDE))
        points = batch["input_points"][:, 0], batch["input_labels"][:, 0]
        return criterion(model(batch["pixel_values"], points), low_labels)

    return model, loss


def our_loss(checkpointing: bool) -> tuple[torch.nn.Module, Callable[[dict[str, Tensor]], Tensor]]:
    """CC-SAM with random weights, and the loss of a batch as `ccsam_hf.training` computes it."""
    model = CCSamModel(CCSamConfig()).to(DEVICE).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    network = PromptedLoss(model, ["point"])
    return model, lambda batch: network(batch)[0]


def stepper(name: str, directory: Path) -> Callable[[dict[str, Tensor], str], None]:
    """A function that takes one step on a batch at a precision."""
    torch.manual_seed(0)
    model, loss_of = official_loss(directory) if name == OFFICIAL else our_loss(name == CHECKPOINTED)
    optimizer = build_optimizer(model, learning_rate=1e-4, weight_decay=0.0, kind="adam")

    def step(batch: dict[str, Tensor], precision: str) -> None:
        with torch.autocast(DEVICE.type, DTYPES[precision], enabled=precision != "fp32"):
            loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if not torch.isfinite(loss):  # also waits for a GPU
            raise FloatingPointError(f"the loss of {name} is {loss.item()}")

    return step


def peak_memory_mib(name: str, directory: Path, batch_size: int, precision: str) -> float:
    """Peak memory of this process, or on a GPU of its tensors, after two steps."""
    step, batch = stepper(name, directory), batch_of(batch_size)
    for _ in range(2):
        step(batch, precision)
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_of_process(directory: Path, name: str, batch_size: int, precision: str) -> float:
    """`peak_memory_mib` in a process of its own."""
    command = [sys.executable, __file__, "--samus", str(directory), "--memory-of", name]
    command += ["--batch-sizes", str(batch_size), "--precisions", precision]
    return float(subprocess.check_output(command, text=True).split()[-1])


def seconds_of_rounds(
    steppers: dict[str, Callable], batch_size: int, precisions: list[str], rounds: int
) -> dict[tuple[str, str], list[float]]:
    """Seconds of a step of each model at each precision, in turn; a first round warms up and is left out."""
    batch = batch_of(batch_size)
    seconds: dict[tuple[str, str], list[float]] = {}
    for index in range(rounds + 1):
        for precision in precisions:
            for name, step in steppers.items():
                start = time.perf_counter()
                step(batch, precision)
                if index:
                    seconds.setdefault((name, precision), []).append(time.perf_counter() - start)
    return seconds


def measured(arguments: argparse.Namespace, batch_size: int, memory: dict[tuple[str, str], float]) -> list[dict]:
    """One row for each model and precision at a batch size; "of_released" is None where fp32 is not measured."""
    steppers = {name: stepper(name, arguments.samus) for name in MODELS}
    seconds = seconds_of_rounds(steppers, batch_size, arguments.precisions, arguments.rounds)
    rows = []
    for (name, precision), values in seconds.items():
        row = {"batch_size": batch_size, "precision": precision, "model": name, "seconds": values}
        row |= {"median_seconds": statistics.median(values), "peak_memory_mib": memory[name, precision]}
        row["images_a_second"] = batch_size / row["median_seconds"]
        for column, reference in (("of_official", (OFFICIAL, precision)), ("of_released", (OFFICIAL, "fp32"))):
            of = seconds.get(reference)
            ratios = [own / other for own, other in zip(values, of, strict=True)] if of else None
            row[f"time_{column}"] = statistics.median(ratios) if ratios else None
            row[f"memory_{column}"] = memory[name, precision] / memory[reference] if ratios else None
        rows.append(row)
    return rows


def table(rows: list[dict]) -> str:
    """Medians and ratios as text."""
    columns = (
        ("s a step", "median_seconds"),
        ("images/s", "images_a_second"),
        ("of SAMUS", "time_of_official"),
        ("of fp32", "time_of_released"),
        ("MiB", "peak_memory_mib"),
        ("of SAMUS", "memory_of_official"),
        ("of fp32", "memory_of_released"),
    )
    lines = [f"{'batch':8}{'':6}{'':33}" + "".join(f"{head:>10}" for head, _ in columns)]
    for row in rows:
        numbers = [row[name] for _, name in columns]
        cells = ["-" if number is None else f"{number:.0f}" if number > 100 else f"{number:.2f}" for number in numbers]
        first = f"{row['batch_size']:<8}{row['precision']:6}{row['model']:33}"
        lines.append(first + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    """Print a table and write it as JSON."""
    on_gpu = DEVICE.type == "cuda"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samus", type=Path, required=True, help="clone of the official code")
    parser.add_argument("--output", type=Path, default=Path("training_step.json"))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32] if on_gpu else [2, 4])
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=["bf16"] if on_gpu else list(DTYPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-of", choices=MODELS, help="only print its peak memory")
    arguments = parser.parse_args()
    if arguments.memory_of:
        size, precision = arguments.batch_sizes[0], arguments.precisions[0]
        print(peak_memory_mib(arguments.memory_of, arguments.samus, size, precision))
        return
    # memory first: a process inherits the peak of the one that starts it
    memory = {
        size: {
            (name, precision): memory_of_process(arguments.samus, name, size, precision)
            for precision in arguments.precisions
            for name in MODELS
        }
        for size in arguments.batch_sizes
    }
    rows = [row for size in arguments.batch_sizes for row in measured(arguments, size, memory[size])]
    print(table(rows))
    commit = subprocess.check_output(["git", "-C", arguments.samus, "rev-parse", "HEAD"], text=True).strip()
    report = {
        "command": f"python training/benchmark_training.py {' '.join(sys.argv[1:])}",
        "rows": rows,
        "samus_commit": commit,
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("ccsam-hf", "torch", "transformers")},
    }
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
