"""Image features + tokens -> boxes with scores, and the choice among them (`share_image`, `detect`, `select_boxes`).

Letters: B texts, Q queries, T tokens of a caption, n boxes.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import nms
from transformers import GroundingDinoForObjectDetection

FALLBACKS = ("none", "best_box", "whole_image")
LOGIT_EPS = 1e-6  # of a score, so that its logit is finite


class KnownFeatures(nn.Module):
    """Stands where a detector has its image backbone, and gives what the backbone said before.

    Args:
        backbone: `GroundingDinoModel.backbone`.
        pixel_values: (num_images, 3, H, W).
        pixel_mask: (num_images, H, W).
        texts_per_image: each image is given this many times, one after the other.
    """

    def __init__(self, backbone: nn.Module, pixel_values: Tensor, pixel_mask: Tensor, texts_per_image: int = 1):
        super().__init__()
        self.position_embedding = backbone.position_embedding
        features, positions = backbone(pixel_values, pixel_mask)
        self.features = [tuple(repeat(each, texts_per_image) for each in level) for level in features]
        self.positions = [repeat(each, texts_per_image) for each in positions]

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
        """Features with their masks, and positions, of each level; the detector appends to these lists."""
        return list(self.features), list(self.positions)


def repeat(tensor: Tensor, times: int) -> Tensor:
    """Each row so many times, one after the other."""
    return tensor if times == 1 else tensor.repeat_interleave(times, dim=0)


def share_image(
    model: GroundingDinoForObjectDetection, inputs: dict[str, Tensor], texts_per_image: int = 1
) -> GroundingDinoForObjectDetection:
    """The detector with its backbone's work on these images done, for any number of texts.

    Args:
        model: stays as it is.
        inputs: pixel_values (num_images, 3, H, W) and pixel_mask (num_images, H, W).
        texts_per_image: see `KnownFeatures`.

    Returns:
        A second detector of the same weights. It is to be called with the images it was made for, each repeated
        `texts_per_image` times.
    """
    known = KnownFeatures(model.model.backbone, inputs["pixel_values"], inputs["pixel_mask"], texts_per_image)
    return with_child(model, "model", with_child(model.model, "backbone", known))


def with_child(module: nn.Module, name: str, child: nn.Module) -> nn.Module:
    """A copy of a module that shares everything with it but one child."""
    twin = copy.copy(module)
    twin._modules = {**module._modules, name: child}
    return twin


def detect(
    model: nn.Module, inputs: dict[str, Tensor], tokens: dict[str, Tensor], phrase_map: Tensor
) -> tuple[Tensor, Tensor]:
    """Ask for one text in one image.

    Args:
        model: the detector, or what `share_image` made of it for this image.
        inputs: pixel_values (1, 3, H, W) and pixel_mask (1, H, W).
        tokens: input_ids, token_type_ids and attention_mask, (1, T) each.
        phrase_map: (T,) bool, the tokens of the phrase.

    Returns:
        boxes (Q, 4), cx cy w h in [0, 1]; scores (Q,) in [0, 1]: the best token of the phrase for each box, as
        Grounding DINO scores.
    """
    device = inputs["pixel_values"].device
    output = model(**inputs, **{name: ids.to(device) for name, ids in tokens.items()})
    token_probs = output.logits[0].float().sigmoid().cpu()  # (Q, max_text_len), 0 behind the end of the text
    scores = token_probs[:, : len(phrase_map)][:, phrase_map].amax(-1)
    return output.pred_boxes[0].float().cpu(), scores


def calibrate(scores: Tensor, scale_and_shift: Sequence[float] | None) -> Tensor:
    """Scores (Q,) with their logits scaled and shifted, in their order; as they are without (scale, shift)."""
    if scale_and_shift is None:
        return scores
    scale, shift = scale_and_shift
    return torch.sigmoid(scale * torch.logit(scores, eps=LOGIT_EPS) + shift)


def select_boxes(
    boxes: Tensor, scores: Tensor, box_threshold: float, nms_threshold: float, every_instance: bool
) -> dict[str, Any]:
    """The boxes of one text, best first: those from the threshold on, overlapping ones removed.

    Args:
        boxes: (Q, 4) xyxy.
        scores: (Q,).

    Returns:
        boxes (n, 4), scores (n,), best_box (4,) and best_score.
    """
    best = scores.argmax()
    kept = nms(boxes, scores, nms_threshold)  # sorted by score
    kept = kept[scores[kept] >= box_threshold]
    kept = kept if every_instance else kept[:1]
    return {
        "boxes": boxes[kept],
        "scores": scores[kept],
        "best_box": boxes[best],
        "best_score": float(scores[best]),
    }


def settle(found: dict[str, Any], reason: str | None, fallback: str, image_size: tuple[int, int]) -> dict[str, Any]:
    """The result of one text: what was found or, where there is a reason against it, nothing or the fallback.

    Args:
        found: of `select_boxes`.
        reason: why the text counts as not found; None for a find.
        fallback: one of `FALLBACKS`.
        image_size: (height, width).

    Returns:
        `found` with "reason", and with the "boxes" and "scores" that go with it.
    """
    if reason is None:
        return {**found, "reason": None}
    if fallback == "best_box":
        scores = torch.tensor([found["best_score"]])
        return {
            **found,
            "boxes": found["best_box"][None],
            "scores": scores,
            "reason": f"{reason}; this is the best box",
        }
    if fallback == "whole_image":
        height, width = image_size
        frame = torch.tensor([[0.0, 0.0, width, height]])
        return {**found, "boxes": frame, "scores": torch.zeros(1), "reason": f"{reason}; this is the whole image"}
    return {**found, "boxes": found["boxes"][:0], "scores": found["scores"][:0], "reason": reason}


__all__ = ["FALLBACKS", "calibrate", "detect", "select_boxes", "settle", "share_image"]
