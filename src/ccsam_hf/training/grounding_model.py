"""A run -> the grounder that learns: a published one, or a small one from scratch, and which of its parts learn."""

import copy
import math
import re

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
)

from ..descriptions import PAPER_TEMPLATE, TARGETS
from ..grounding import GrounderSettings, TextGrounder
from ..grounding_boxes import share_image
from .grounding_backbone import MaskHead
from .grounding_loss import grounding_loss
from .grounding_run import PARTS, GrounderRun

GREY_MEAN, GREY_STD = 0.25, 0.2  # of ultrasound images, for a backbone without statistics of its own
EXCHANGE = 0.1  # scale of what text and image tell each other at the start; 0.0001 as published
START_LOGIT = -4.0  # probability 0.018
BOX_HEADS = r"bbox_embed"  # start at no change; one module under several names, so that adapters would count twice


def registry_tokenizer() -> BertTokenizer:
    """A WordPiece tokenizer for the registry's targets and the paper's description; other words go by letters."""
    texts = [PAPER_TEMPLATE, *(text for target in TARGETS.values() for text in (target.name, *target.synonyms))]
    words = sorted({word for text in texts for word in re.findall(r"[a-z]{2,}", text.lower())})
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".?,;:'-/()%[]", *letters]
    tokens += [f"##{letter}" for letter in letters] + words
    return BertTokenizer(vocab={token: index for index, token in enumerate(tokens)})


def build_grounder(run: GrounderRun) -> TextGrounder:
    """The grounder to fine-tune, or a new one of the run's architecture."""
    if (run.grounder is None) == (not run.architecture):
        raise ValueError("give either grounder, a checkpoint to fine-tune, or architecture, to train from scratch")
    if run.grounder is not None:
        return TextGrounder.from_pretrained(run.grounder, text_encoder=run.text_encoder)
    if run.text_encoder is not None:
        raise ValueError(f"text_encoder={run.text_encoder!r} came with architecture: it replaces that of a grounder")
    tokenizer = registry_tokenizer()
    text_config = {**run.architecture["text_config"], "vocab_size": len(tokenizer), "pad_token_id": 0}
    config = GroundingDinoConfig(
        **{**run.architecture, "text_config": text_config, "disable_custom_kernels": True},
    )
    size = {"height": run.image_size, "width": run.image_size}
    statistics = {"image_mean": [GREY_MEAN] * 3, "image_std": [GREY_STD] * 3}
    processor = GroundingDinoProcessor(GroundingDinoImageProcessor(size=size, **statistics), tokenizer)
    model = GroundingDinoForObjectDetection(config)
    start_from_scratch(model)
    return TextGrounder(model, processor, GrounderSettings(text_encoder="the registry's words, trained with the rest"))


@torch.no_grad()
def start_from_scratch(model: GroundingDinoForObjectDetection) -> None:
    """Start values for a model in which nothing is pre-trained.

    transformers' start values suit the widths of published models, and parts that are to change a pre-trained whole
    gently. Here every linear layer keeps the variance of its input, text and image exchange from the first step, and
    every box starts with a low probability for every token: logits are scalar products without a bias, so the norms of
    boxes start small, and a shared direction of texts and boxes takes the part of the bias that focal losses need.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and bool(module.weight.any()) and not re.search(BOX_HEADS, name):
            module.weight.normal_(std=module.in_features**-0.5)
    embeddings = model.model.text_backbone.embeddings
    embeddings.word_embeddings.weight.normal_()  # words differ more than their places
    for layer in model.model.encoder.layers:
        layer.fusion_layer.vision_param.fill_(EXCHANGE)
        layer.fusion_layer.text_param.fill_(EXCHANGE)
    text = model.model.encoder.layers[-1].text_enhancer_layer.layer_norm_after
    shared = math.sqrt(-START_LOGIT / len(text.bias))
    text.bias.fill_(shared)
    for norm in (model.model.decoder.layer_norm, model.model.enc_output_norm):
        norm.weight.fill_(0.1)
        norm.bias.fill_(-shared)


def choose_what_learns(model: nn.Module, run: GrounderRun) -> nn.Module:
    """Freeze all but the run's parts, or put LoRA adapters into their linear layers; returns what is trained."""
    unknown = sorted(set(run.parts) - set(PARTS))
    if unknown or not run.parts or run.method not in ("full", "lora"):
        raise ValueError(f"parts={run.parts} and method={run.method!r}; expected {list(PARTS)} and 'full' or 'lora'")
    in_parts = re.compile("|".join(PARTS[part] for part in run.parts))
    if run.method == "lora":
        names = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and in_parts.match(f"{name}.") and not re.search(BOX_HEADS, name)
        ]
        # peft asks for them, and transformers 5.24 does not know where a Grounding DINO has its.
        model.get_input_embeddings = model.model.text_backbone.get_input_embeddings
        lora = LoraConfig(r=run.lora_rank, lora_alpha=2 * run.lora_rank, target_modules=names)
        return get_peft_model(model, lora)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(bool(in_parts.match(name)))
    return model


class QuestionsLoss(nn.Module):
    """The detector and its loss in one forward, as distributed training wants it.

    The texts of an image share what the backbone says about it.

    Args:
        model: `GroundingDinoForObjectDetection`, or the peft model around it.
        matches_per_object: see `grounding_loss`.
        mask_head: reads masks off the backbone's maps; None for none.
        mask_weight: of their loss.
    """

    def __init__(
        self,
        model: nn.Module,
        matches_per_object: int = 1,
        mask_head: MaskHead | None = None,
        mask_weight: float = 0.0,
    ):
        super().__init__()
        self.model, self.matches_per_object = model, matches_per_object
        self.mask_head, self.mask_weight = mask_head, mask_weight

    def forward(self, inputs: dict[str, Tensor], labels: list[dict[str, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its terms: see `grounding_loss`; "loss_mask" with a mask head.

        Args:
            inputs, labels: of `grounding_questions.Questions`.
        """
        model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        pixel_values, pixel_mask = inputs["pixel_values"], inputs["pixel_mask"]
        times = len(inputs["input_ids"]) // len(pixel_values)
        shared = share_image(model, {"pixel_values": pixel_values, "pixel_mask": pixel_mask}, times)
        output = shared(
            pixel_values=pixel_values.repeat_interleave(times, 0),
            pixel_mask=pixel_mask.repeat_interleave(times, 0),
            **{name: inputs[name] for name in ("input_ids", "token_type_ids", "attention_mask")},
        )
        loss, terms = grounding_loss(model, output, inputs["attention_mask"], labels, self.matches_per_object)
        if self.mask_head is not None:
            maps = [each[::times] for each, _ in shared.model.backbone.features]
            terms["loss_mask"] = self.mask_head(maps, inputs["masks"])
            loss = loss + self.mask_weight * terms["loss_mask"]
        return loss, terms

    def plain(self) -> GroundingDinoForObjectDetection:
        """The detector without adapters: a copy into which they are merged, or the detector itself."""
        return copy.deepcopy(self.model).merge_and_unload() if isinstance(self.model, PeftModel) else self.model


__all__ = ["QuestionsLoss", "build_grounder", "choose_what_learns", "registry_tokenizer"]
