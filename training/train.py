"""Train CC-SAM on simulated ultrasound: config, data, model, optimizer, loop, validation, best and last checkpoint.

    accelerate launch training/train.py --config training/configs/tiny.yaml --output_dir runs/tiny

Reads top to bottom. Every field of `RunConfig` can stand in the YAML file and be overridden on the command line.
"""

import math
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from transformers import get_cosine_schedule_with_warmup

from ccsam_hf import CCSamConfig, CCSamImageProcessor, CCSamModel, CCSamProcessor
from ccsam_hf.data.prompts import fixed_click, jittered_box, random_clicks, tight_box
from ccsam_hf.data.simulator import TARGETS, simulate
from runs import build_optimizer, log, read_config, write_folder

VALIDATION_SEEDS = 1_000_000_000  # training cases count up from zero, held-out tests from 2_000_000_000


@dataclass
class RunConfig:
    """What defines a run; `CCSamConfig` defines the checkpoint, accelerate's own file the machine."""

    config: str | None = field(default=None, metadata={"help": "YAML file with any of the fields below"})
    output_dir: str = field(default="runs/ccsam", metadata={"help": "receives best/, last/, log.jsonl, run.yaml"})
    preset: str = field(default="vit_b", metadata={"help": "CCSamConfig preset: vit_b, samus or tiny"})
    model: dict[str, Any] = field(default_factory=dict, metadata={"help": "fields of CCSamConfig, over the preset"})
    checkpoint: str | None = field(default=None, metadata={"help": "folder or hub id to start from, over the preset"})
    trainable: str = field(default="declared", metadata={"help": "what learns: see CCSamModel.freeze"})
    target_weights: dict[str, float] = field(default_factory=lambda: {target: 1.0 for target in TARGETS})
    seed: int = 0
    max_steps: int = 1000
    batch_size: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    mixed_precision: str = "no"
    num_workers: int = 1
    eval_every: int = 500
    eval_cases: int = 120
    log_every: int = 25


class SimulatedCases(Dataset):
    """Cases made when they are asked for: index + seed -> the same case on every machine, worker and process.

    Args:
        count: number of cases.
        first_seed: seed of the first case.
        target_weights: how often each target is drawn, relative to the others.
        for_validation: fixed prompts (middle click, tight box) instead of random ones.
    """

    def __init__(self, count: int, first_seed: int, target_weights: dict[str, float], for_validation: bool = False):
        self.count, self.first_seed, self.for_validation = count, first_seed, for_validation
        self.targets = list(target_weights)
        self.probabilities = np.array(list(target_weights.values())) / sum(target_weights.values())

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        seed = self.first_seed + index
        rng = np.random.default_rng([seed, 1])
        case = simulate(rng.choice(self.targets, p=self.probabilities), seed)
        if self.for_validation:
            click, box = fixed_click(case.mask), tight_box(case.mask)
        else:
            click = fixed_click(case.mask) if rng.random() < 0.5 else random_clicks(case.mask, 1, rng)[0]
            box = tight_box(case.mask) if rng.random() < 0.5 else jittered_box(case.mask, rng)
        image = torch.tensor(case.image, dtype=torch.float32) / 255
        return {
            "pixel_values": image.expand(3, -1, -1).clone(),  # (3, 256, 256)
            "input_points": torch.from_numpy(click)[None, None],  # (P=1, N=1, 2)
            "input_labels": torch.ones(1, 1, dtype=torch.long),
            "input_boxes": torch.from_numpy(box)[None],  # (P=1, 4)
            "labels": torch.from_numpy(case.mask)[None].float(),  # (P=1, 256, 256)
        }


class BothPrompts(nn.Module):
    """Encode each image once and decode it by box and by click, so that one step trains both."""

    def __init__(self, model: CCSamModel):
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss and its terms, and mask logits (B, 256, 256), each by kind of prompt ("box", "point")."""
        fused, _ = self.model.encode(batch["pixel_values"])
        prompts = {
            "box": {"input_boxes": batch["input_boxes"]},
            "point": {"input_points": batch["input_points"], "input_labels": batch["input_labels"]},
        }
        losses, masks = {}, {}
        for kind, prompt in prompts.items():
            pred_masks, iou_scores = self.model.decode(fused.feature_map, **prompt)
            loss, terms = self.model.compute_loss(fused, pred_masks[:, :, 0], iou_scores[:, :, 0], batch["labels"])
            losses |= {f"{kind}/{name}": term for name, term in terms.items()} | {f"{kind}/loss": loss}
            masks[kind] = F.interpolate(pred_masks[:, :, 0].float(), batch["labels"].shape[-2:], mode="bilinear")[:, 0]
        return losses, masks


def binary_dice(mask_logits: Tensor, labels: Tensor) -> Tensor:
    """Dice of the thresholded prediction in percent, (B,), from (B, H, W) logits and labels."""
    predicted, truth = mask_logits.flatten(1) > 0, labels.flatten(1) > 0.5
    return 200 * (predicted & truth).sum(1) / (predicted.sum(1) + truth.sum(1)).clamp(min=1)


@torch.no_grad()
def validate(network: BothPrompts, loader: DataLoader, accelerator: Accelerator) -> dict[str, float]:
    """Mean Dice (percent) by kind of prompt over all validation cases."""
    network.eval()
    scores: dict[str, list[Tensor]] = {"box": [], "point": []}
    for batch in loader:
        with accelerator.autocast():
            _, masks = network(batch)
        for kind, mask_logits in masks.items():
            dice = binary_dice(mask_logits, batch["labels"][:, 0])
            scores[kind].append(accelerator.gather_for_metrics(dice))
    return {f"dice_{kind}": torch.cat(values).mean().item() for kind, values in scores.items()}


def write_checkpoint(model: CCSamModel, folder: Path) -> None:
    """Model and processor beside each other."""
    model.save_pretrained(folder)
    CCSamProcessor(CCSamImageProcessor()).save_pretrained(folder)


def build_model(run: RunConfig) -> CCSamModel:
    """The preset with the run's fields over it, or the checkpoint; frozen as the run says."""
    if run.checkpoint is not None:
        model = CCSamModel.from_pretrained(run.checkpoint)
    else:
        model = CCSamModel(getattr(CCSamConfig, run.preset)(**run.model))
    return model.freeze(run.trainable)


def main(arguments: list[str]) -> None:
    """The life of a run."""
    run = read_config(RunConfig, arguments)
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # the embeddings of prompts that do not occur
    accelerator = Accelerator(
        mixed_precision=run.mixed_precision, cpu=not torch.cuda.is_available(), kwargs_handlers=[unused]
    )  # without `cpu` accelerate would run several CPU processes side by side, each a training of its own
    if run.batch_size % accelerator.num_processes:
        raise ValueError(f"batch_size={run.batch_size} must be a multiple of {accelerator.num_processes} processes")
    set_seed(run.seed)
    output_dir = Path(run.output_dir)

    training_cases = SimulatedCases(run.max_steps * run.batch_size, 0, run.target_weights)
    validation_cases = SimulatedCases(run.eval_cases, VALIDATION_SEEDS, run.target_weights, for_validation=True)
    loaders = [
        DataLoader(cases, run.batch_size // accelerator.num_processes, num_workers=run.num_workers)
        for cases in (training_cases, validation_cases)
    ]

    network = BothPrompts(build_model(run))
    optimizer = build_optimizer(network, run.learning_rate, run.weight_decay)
    scheduler = get_cosine_schedule_with_warmup(optimizer, run.warmup_steps, run.max_steps)
    network, optimizer, train_loader, eval_loader = accelerator.prepare(network, optimizer, *loaders)
    averaged = AveragedModel(
        accelerator.unwrap_model(network), multi_avg_fn=get_ema_multi_avg_fn(run.ema_decay), use_buffers=True
    )

    record = {"run": asdict(run), "versions": {name: version(name) for name in ("torch", "transformers")}}
    best_dice, started = -math.inf, time.time()
    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / "run.yaml").write_text(yaml.safe_dump(asdict(run)))

    for step, batch in enumerate(train_loader, start=1):
        network.train()
        with accelerator.autocast():
            losses, _ = network(batch)
        loss = (losses["box/loss"] + losses["point/loss"]) / 2
        if not torch.isfinite(loss):
            first = (step - 1) * run.batch_size
            raise FloatingPointError(
                f"loss is {loss.item()} at step {step}: cases {first} to {first + run.batch_size}"
            )
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), run.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        averaged.update_parameters(accelerator.unwrap_model(network))

        if step % run.log_every == 0 or step == 1:
            entry = {"step": step, "seconds": round(time.time() - started, 1), "lr": scheduler.get_last_lr()[0]}
            entry |= {name: round(term.item(), 4) for name, term in losses.items()}
            log(accelerator, output_dir, entry)
        if step % run.eval_every == 0 or step == run.max_steps:
            dice = validate(averaged.module, eval_loader, accelerator)
            log(accelerator, output_dir, {"step": step, **dice})
            model, mean_dice = averaged.module.model, sum(dice.values()) / len(dice)
            if accelerator.is_main_process:
                for name in ["last"] + ["best"] * (mean_dice > best_dice):
                    write = partial(write_checkpoint, model)
                    write_folder(output_dir / name, write, record | {"step": step, "validation": dice})
            best_dice = max(best_dice, mean_dice)
    accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1:])
