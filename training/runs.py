"""What every run does alike: configuration from YAML and command line, optimizer, log, folders that appear whole."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from accelerate import Accelerator
from torch import nn
from transformers import HfArgumentParser

Run = TypeVar("Run")


def read_config(kind: type[Run], arguments: list[str]) -> Run:
    """Command line over YAML file (`--config`) over defaults; a key that no field of `kind` declares is an error."""
    parser = HfArgumentParser(kind)
    path = parser.parse_known_args(arguments)[0].config
    if path is not None:
        values = yaml.safe_load(Path(path).read_text())
        unknown = sorted(set(values) - set(kind.__dataclass_fields__))
        if unknown:
            raise ValueError(f"{path} has unknown keys {unknown}; known are {sorted(kind.__dataclass_fields__)}")
        parser.set_defaults(**values)
    (run,) = parser.parse_args_into_dataclasses(arguments)
    return run


def build_optimizer(network: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW on what learns; biases, norms and embeddings are not decayed."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in learning if each.ndim > 1], "weight_decay": weight_decay},
        {"params": [each for each in learning if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate)


def write_folder(folder: Path, write: Callable[[Path], None], record: dict[str, Any]) -> None:
    """Let `write` fill a folder, add `training.json` to it; the folder appears whole or not at all."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    (partial / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def log(accelerator: Accelerator, output_dir: Path, entry: dict[str, Any]) -> None:
    """Print one line and append it to `log.jsonl`."""
    accelerator.print(json.dumps(entry))
    if accelerator.is_main_process:
        with (output_dir / "log.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
