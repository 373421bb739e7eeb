"""A U-Net on the samples, in the order and for the steps of a CC-SAM run: what the same budget buys (`train_unet`).

The run is the same `RunConfig`, so one file defines both. Without meaning for a U-Net, and without effect, are
`preset`, `model`, `trainable`, `lora_rank`, `gradient_checkpointing`, `prompts`, `prompt_sampler`,
`correction_clicks`, `grounder` and `push_to_hub`; `checkpoint` is the folder of a U-Net to start from. Each case
trains the output of its target by binary cross-entropy and Dice, the terms of CC-SAM's loss that look at masks.
"""

import json
import math
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.samples import SampleMaker
from ..evaluation.unet import build_unet, channel_of, load_unet, save_unet
from ..losses import binary_cross_entropy, dice_loss
from .average import TrainableAverage
from .files import log, write_folder
from .inputs import EpochOrder, SimulatedSamples, build_samples
from .learning import build_optimizer, build_schedule
from .loop import (
    Progress,
    Window,
    build_accelerator,
    build_loaders,
    is_stalled,
    names_of,
    seed_everything,
    start_or_resume,
    validate,
)
from .run_config import RunConfig, published
from .states import save_state

VERSIONS = ("ccsam-hf", "torch", "segmentation-models-pytorch", "accelerate")


class TargetLoss(nn.Module):
    """Model and loss in one forward, as `PromptedLoss`, without a prompt.

    Args:
        model: of `ccsam_hf.evaluation.unet`.
        targets: names of its outputs.
    """

    def __init__(self, model: nn.Module, targets: list[str]):
        super().__init__()
        self.model, self.targets = model, targets

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Loss, its terms "bce" and "dice", and mask logits (B, 256, 256) of each case's target as "none".

        Raises:
            ValueError: a target without an output.
        """
        channels = torch.tensor([channel_of(self.targets, target) for target in batch["target"]])
        mask_logits = self.model(batch["pixel_values"][:, :1])  # (B, targets, 256, 256)
        own = mask_logits[torch.arange(len(channels)), channels][:, None]  # (B, 1, 256, 256)
        bce, overlap = binary_cross_entropy(own, batch["labels"]), dice_loss(own, batch["labels"])
        return bce + overlap, {"bce": bce.detach(), "dice": overlap.detach()}, {"none": own[:, 0].detach()}


def train_unet(run: RunConfig) -> dict[str, float]:
    """Train, or go on with a training that was stopped.

    Leaves what `ccsam_hf.training.loop.train` leaves; best/ and last/ are folders for `load_unet`.

    Returns:
        The scores of the best checkpoint: "dice_none" in percent and "hd_none" in pixels of 256x256.

    Raises:
        FileExistsError: the output directory holds a run of another configuration.
        FileNotFoundError: the checkpoint is no U-Net.
        FloatingPointError: a loss is not finite; the message names the samples.
        ValueError: settings that do not fit together, or a target without an output.
    """
    output_dir = Path(run.output_dir)
    accelerator = build_accelerator(run, output_dir)
    seed_everything(run.seed, 0)
    training_samples, validation_samples = build_samples(run)
    order = EpochOrder(len(training_samples), run.seed)
    train_loader, eval_loader = build_loaders(run, accelerator, training_samples, validation_samples, order)

    model, targets = start_of(run, targets_of(training_samples) | targets_of(validation_samples))
    network = TargetLoss(model, targets)
    optimizer = build_optimizer(network, run.learning_rate, run.weight_decay, run.optimizer, run.adam_epsilon)
    network, optimizer, train_loader, eval_loader = accelerator.prepare(network, optimizer, train_loader, eval_loader)
    steps_of_epoch = math.ceil(len(train_loader) / run.gradient_accumulation_steps)
    total_steps = run.max_steps or run.epochs * steps_of_epoch
    schedule = build_schedule(optimizer, run, total_steps, steps_of_epoch)
    average = TrainableAverage(network, run.ema_decay)
    progress = Progress()
    accelerator.register_for_checkpointing(schedule, average, progress)
    start_or_resume(run, output_dir, accelerator, progress)

    eval_every = run.eval_every or steps_of_epoch
    record = {"run": published(run), "versions": {name: version(name) for name in VERSIONS}}
    started, window = time.time(), Window()
    while progress.step < total_steps and not is_stalled(run, progress):
        for source in (train_loader, order, training_samples):
            source.set_epoch(progress.epoch)
        batches = accelerator.skip_first_batches(train_loader, progress.batch) if progress.batch else train_loader
        for batch in batches:
            network.train()
            with accelerator.accumulate(network):
                with accelerator.autocast():
                    loss, terms, _ = network(batch)
                if not torch.isfinite(loss):
                    raise FloatingPointError(
                        f"loss is {loss.item()} at step {progress.step + 1}; samples: {names_of(batch)}"
                    )
                accelerator.backward(loss)
                if accelerator.sync_gradients and run.max_grad_norm:
                    accelerator.clip_grad_norm_(network.parameters(), run.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            window.add({"loss": loss.detach(), **terms})
            progress.batch += 1
            if not accelerator.sync_gradients:
                continue
            schedule.step()
            average.update()
            progress.step += 1
            is_last = progress.step == total_steps
            if progress.step % run.log_every == 0 or progress.step == 1 or is_last:
                entry = {"step": progress.step, "seconds": round(time.time() - started, 1)}
                log(accelerator, output_dir, entry | {"lr": schedule.get_last_lr()[0]} | window.means(accelerator))
            if progress.step % eval_every == 0 or is_last:
                scores = validate(network, average, eval_loader, accelerator)
                log(accelerator, output_dir, {"step": progress.step, **scores})
                is_best = scores["dice_none"] > progress.best
                progress.best = max(scores["dice_none"], progress.best)
                progress.since_best = 0 if is_best else progress.since_best + 1
                if accelerator.is_main_process:
                    about = record | {"step": progress.step, "validation": scores}
                    with average.in_place():
                        for name in ["last"] + ["best"] * is_best:
                            write_folder(output_dir / name, partial(save_unet, model=model, targets=targets), about)
            if progress.step % (run.save_every or eval_every) == 0 or is_last:
                save_state(accelerator, output_dir, progress.step, run.keep_states)
            if is_last or is_stalled(run, progress):
                break
        else:
            progress.epoch, progress.batch = progress.epoch + 1, 0
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return json.loads((output_dir / "best" / "training.json").read_text())["validation"]


def start_of(run: RunConfig, needed: set[str]) -> tuple[nn.Module, list[str]]:
    """The U-Net of the run's checkpoint, or a new one with an output for each target of the run's samples.

    Raises:
        ValueError: the checkpoint has no output for a target.
    """
    if run.checkpoint is None:
        return build_unet(sorted(needed)), sorted(needed)
    model, targets = load_unet(run.checkpoint)
    for target in sorted(needed):
        channel_of(targets, target)
    return model, targets


def targets_of(samples: SampleMaker) -> set[str]:
    """The targets of simulated samples, of cases or of a built data set."""
    if isinstance(samples, SimulatedSamples):
        return set(samples.targets)
    built = hasattr(samples.source, "column_names")
    return set(samples.source.unique("target") if built else (case.target for case in samples.source))
