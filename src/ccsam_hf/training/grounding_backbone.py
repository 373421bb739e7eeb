"""The image backbone of a grounder learns to segment (`MaskHead`, `teach_backbone`).

A detector gives it a match an object to learn from, a mask every pixel, and without text and boxes an image costs
about a quarter.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from transformers import get_cosine_schedule_with_warmup

from ..evaluation.grounding import Scene
from ..grounding import TextGrounder
from ..image_processing_ccsam import to_three_channels, to_unit_image
from ..losses import binary_cross_entropy, dice_loss
from .files import log
from .grounding_questions import coarse_masks
from .grounding_run import GrounderRun
from .grounding_scenes import BACKBONE_SEEDS, MixedScenes, SimulatedScenes
from .learning import build_optimizer


class MaskHead(nn.Module):
    """Reads the masks of all targets off a backbone's maps, for its own training alone.

    Args:
        channels: of each map.
        num_targets: masks to read.
        width: channels of the head.
    """

    def __init__(self, channels: list[int], num_targets: int, width: int = 64):
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(size, width, 1) for size in channels)
        self.head = nn.Sequential(
            nn.GELU(), nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, num_targets, 1)
        )

    def forward(self, maps: list[Tensor], masks: Tensor) -> Tensor:
        """BCE of all masks and Dice of those that are not empty.

        Args:
            maps: (B, C, h, w) each, of the backbone's stages.
            masks: (B, num_targets, h, w) in [0, 1], of the size of the finest map.
        """
        size = masks.shape[-2:]
        projected = [projection(each) for projection, each in zip(self.projections, maps, strict=True)]
        logits = self.head(sum(F.interpolate(each, size, mode="bilinear") for each in projected))
        present = masks.flatten(2).any(-1)  # (B, num_targets)
        return binary_cross_entropy(logits, masks) + dice_loss(logits[present][None], masks[present][None])


class Segmenter(nn.Module):
    """A backbone with a `MaskHead`.

    Args:
        backbone: the convolutional encoder of Grounding DINO.
        head: for its maps.
    """

    def __init__(self, backbone: nn.Module, head: MaskHead):
        super().__init__()
        self.backbone, self.head = backbone.model, head

    def forward(self, pixel_values: Tensor, masks: Tensor) -> Tensor:
        """The loss of pixel_values (B, 3, H, W) and masks: see `MaskHead`."""
        return self.head(self.backbone(pixel_values).feature_maps, masks)


def build_mask_head(grounder: TextGrounder, targets: list[str]) -> MaskHead:
    """A new head for a grounder's backbone."""
    return MaskHead(grounder.model.model.backbone.conv_encoder.intermediate_channel_sizes, len(targets))


def teach_backbone(
    grounder: TextGrounder,
    head: MaskHead,
    scenes: Dataset,
    targets: list[str],
    run: GrounderRun,
    accelerator: Accelerator,
) -> None:
    """Let the backbone learn to segment before the grounder learns to detect.

    Args:
        grounder: its backbone learns.
        head: learns with it.
        scenes: those of the run; of a mixture `backbone_scenes` are drawn anew each epoch, of the simulator as many
            are made, kept in memory and shown again and again, half of the times mirrored.
        targets: of the head.
        run: its `backbone_*` fields.
        accelerator: the processes.
    """
    lessons = build_lessons(grounder, scenes, targets, run, accelerator)
    network = Segmenter(grounder.model.model.backbone.conv_encoder, head).train()
    optimizer = build_optimizer(network, run.backbone_learning_rate, run.weight_decay)
    steps = run.backbone_epochs * len(lessons(0))
    scheduler = get_cosine_schedule_with_warmup(optimizer, run.warmup_steps, steps)
    network, optimizer = accelerator.prepare(network, optimizer)
    started = time.time()
    for epoch in range(run.backbone_epochs):
        losses = []
        for pixel_values, masks in lessons(epoch):
            pixel_values = pixel_values.float().expand(-1, 3, -1, -1).to(accelerator.device)
            loss = network(pixel_values, masks.float().to(accelerator.device))
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(network.parameters(), run.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        entry = {"backbone_epoch": epoch + 1, "seconds": round(time.time() - started, 1)}
        log(accelerator, Path(run.output_dir), entry | {"backbone_loss": round(float(np.mean(losses)), 4)})
    accelerator.free_memory()  # which would save this network with every state of the run


def build_lessons(
    grounder: TextGrounder, scenes: Dataset, targets: list[str], run: GrounderRun, accelerator: Accelerator
) -> Callable[[int], DataLoader]:
    """Epoch -> a loader of pixel_values (B, 1, H, W) and masks (B, N, h, w), this process's share of them."""
    share = range(accelerator.process_index, run.backbone_scenes, accelerator.num_processes)
    size = run.batch_size

    def lesson(scene: Scene) -> tuple[Tensor, Tensor]:
        image = to_three_channels(to_unit_image(scene.image), do_convert_grayscale=True)
        pixel_values = grounder.prepare_image(image)["pixel_values"][0, :1].cpu()
        return pixel_values.half(), coarse_masks([scene], tuple(targets), pixel_values.shape)[0].half()

    def collate(batch: list[tuple[Scene, int]]) -> tuple[Tensor, Tensor]:
        pixel_values, masks = zip(*(lesson(scene) for scene, _ in batch), strict=True)
        return torch.stack(pixel_values), torch.stack(masks)

    if isinstance(scenes, MixedScenes):
        lessons = MixedScenes(scenes.sources, scenes.weights_by_source, 2**40, scenes.size, scenes.seed + 1)

        def drawn(epoch: int) -> DataLoader:
            own = [epoch * run.backbone_scenes + place for place in share]
            return DataLoader(Subset(lessons, own), size, collate_fn=collate)

        return drawn

    made = SimulatedScenes(run.backbone_scenes, BACKBONE_SEEDS, run.scene_weights)
    kept = TensorDataset(*collate([made[index] for index in share]))

    def mirrored(batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        pixel_values, masks = (torch.stack(each) for each in zip(*batch, strict=True))
        return (pixel_values.flip(-1), masks.flip(-1)) if torch.rand(()) < 0.5 else (pixel_values, masks)

    return lambda epoch: DataLoader(kept, size, shuffle=True, collate_fn=mirrored)


__all__ = ["MaskHead", "build_mask_head", "teach_backbone"]
