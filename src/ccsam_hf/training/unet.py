"""A U-Net on the samples, in the order and for the steps of a CC-SAM run: what the same budget buys (`train_unet`).

The run is the same `RunConfig`, so one file defines both. Without meaning for a U-Net, and without effect, are
`preset`, `model`, `trainable`, `lora_rank`, `gradient_checkpointing`, `prompts`, `prompt_sampler`,
`correction_clicks`, `grounder` and `push_to_hub`; `checkpoint` is the folder of a U-Net to start from. Each case
trains the output of its target by binary cross-entropy and Dice, the terms of CC-SAM's loss that look at masks.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..data.samples import SampleMaker
from ..evaluation.unet import build_unet, channel_of, load_unet, save_unet
from ..losses import binary_cross_entropy, dice_loss
from .inputs import SimulatedSamples
from .loop import Learner, train_learner
from .run_config import RunConfig

LIBRARIES = ("ccsam-hf", "torch", "segmentation-models-pytorch", "accelerate")


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
    return train_learner(run, unet_learner)


def unet_learner(run: RunConfig, training_samples: SampleMaker, validation_samples: SampleMaker) -> Learner:
    """A U-Net with an output for each target of the samples."""
    model, targets = start_of(run, targets_of(training_samples) | targets_of(validation_samples))
    writer = partial(save_unet, model=model, targets=targets)
    return Learner(TargetLoss(model, targets), ["none"], lambda accelerator, prepared: writer, LIBRARIES)


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
