"""Run config -> the model, what learns in it, the optimizer and the schedule of its rate."""

import copy
import logging
from collections import Counter
from collections.abc import Iterable

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

from ..configuration_ccsam import CCSamConfig
from ..conversion.efficientnet import load_cnn_weights
from ..modeling_ccsam import CCSamModel
from .run_config import RunConfig

logger = logging.getLogger(__name__)

DECAYED_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention)  # their matrices are decayed
LORA_LAYERS = r".*(vit_branch.*attn\.(qkv|proj)|mask_decoder\.transformer.*attn.*\.(q|k|v|out)_proj)$"


def build_model(run: RunConfig) -> CCSamModel:
    """The checkpoint or the preset, with the run's fields over its config.

    What the fields add to a checkpoint, or give another size, starts anew, and weights of what they remove are left
    behind; the log says of which parts. Without fields every tensor has its place.

    Raises:
        ValueError: the checkpoint lacks weights, or has others, and no field explains it.
    """
    if run.checkpoint is None:
        model = CCSamModel(getattr(CCSamConfig, run.preset)(**run.model))
        if run.cnn_checkpoint is not None:
            load_cnn_weights(model, run.cnn_checkpoint)
        return model
    config = CCSamConfig.from_pretrained(run.checkpoint).to_dict()
    for name, value in run.model.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    model, loaded = CCSamModel.from_pretrained(
        run.checkpoint,
        config=CCSamConfig.from_dict(config),
        output_loading_info=True,
        ignore_mismatched_sizes=bool(run.model),
    )
    anew = parts_of([*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])])
    left_behind = parts_of(loaded["unexpected_keys"])
    told = f"{run.checkpoint}: start anew {anew or 'nothing'}; left behind {left_behind or 'nothing'}"
    if (anew or left_behind) and not run.model:
        raise ValueError(f"{told}; expected a checkpoint whose weights and config fit: convert or save it again")
    logger.info(told)
    return model


def parts_of(names: Iterable[str]) -> str:
    """Names of tensors as a count for each part of the model."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{part} ({count})" for part, count in sorted(counts.items()))


def choose_what_learns(model: CCSamModel, run: RunConfig) -> PeftModel | None:
    """Freeze all but what the run trains.

    "declared" and "all" are `CCSamModel.freeze`. "all-but-cnn" leaves the pre-trained CNN frozen, as the paper does,
    and trains the rest, where the ViT has no published weights. "adapters" leaves the mask decoder out of the declared
    parts. "lora" trains low-rank adapters of the attention of ViT and mask decoder alone: after the run they are added
    to the weights, so that the checkpoint has the shape of the one it started from.

    Returns:
        The peft model around the model, which it changed in place, for "lora"; else None.
    """
    if run.trainable == "lora":
        model.freeze("none")
        adapted = get_peft_model(
            model, LoraConfig(r=run.lora_rank, lora_alpha=2 * run.lora_rank, target_modules=LORA_LAYERS)
        )
    else:
        model.freeze("all" if run.trainable in ("all", "all-but-cnn") else "declared")
        adapted = None
        if run.trainable == "all-but-cnn":
            model.cnn_branch.backbone.requires_grad_(False)
            model.cnn_branch.train(model.training)
        if run.trainable == "adapters":
            model.mask_decoder.requires_grad_(False)
    if run.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return adapted


def finished(adapted: PeftModel) -> CCSamModel:
    """A copy of the model with its low-rank adapters added to the weights."""
    return copy.deepcopy(adapted).merge_and_unload()


def build_optimizer(
    network: nn.Module,
    learning_rate: float,
    weight_decay: float,
    kind: str = "adamw",
    epsilon: float = 1e-8,
) -> torch.optim.Optimizer:
    """Adam or AdamW on what learns; biases, norms, tokens and embeddings, of positions too, are not decayed."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    layers = [module for module in network.modules() if isinstance(module, DECAYED_LAYERS)]
    decayed = {each for layer in layers for each in layer.parameters(recurse=False) if each.ndim > 1}
    groups = [
        {"params": [each for each in learning if each in decayed], "weight_decay": weight_decay},
        {"params": [each for each in learning if each not in decayed], "weight_decay": 0.0},
    ]
    optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    return optimizer([group for group in groups if group["params"]], lr=learning_rate, eps=epsilon)


def build_schedule(
    optimizer: torch.optim.Optimizer, run: RunConfig, total_steps: int, steps_of_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Warm-up, then a constant rate, a cosine to zero, or a drop every so many epochs (CC-SAM paper, Section 4.2)."""
    if run.schedule == "cosine":
        return get_cosine_schedule_with_warmup(optimizer, run.warmup_steps, total_steps)
    if run.schedule == "constant":
        return get_constant_schedule_with_warmup(optimizer, run.warmup_steps)

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / max(run.warmup_steps, 1))
        return warm * run.decay_factor ** (step // (run.decay_every * steps_of_epoch))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
