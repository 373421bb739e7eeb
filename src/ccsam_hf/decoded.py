"""What a model decoded for one image (`Decoded`) -> a result for each object, at the image's own size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from .geometry import boxes_from_masks
from .grounding import GroundingResult
from .measurements import measure_mask
from .objects import Keep, clean_mask, count_parts, follow_mask, limit_of
from .pixel_spacing import PixelSpacing
from .processing_ccsam import CCSamProcessor
from .prompt_doubts import warn_about_prompt
from .prompts import Prompts
from .results import ObjectMemory, SegmentationResult

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Decoded:
    """One image on its way from the model to results: maps of its objects, and what was asked.

    Args:
        maps: iou_scores (1, P, M), pred_masks (1, P, M, 4h, 4w) and, with draws, mask_probability and mask_uncertainty
            of that shape, on the CPU; empty where no text was found.
        prompts: of the objects, the boxes that texts found included.
        finds: what the grounder says of each text, None without a text.
        image: that was segmented.
        size: (height, width) of the image.
        spacing_mm: (between rows, between columns) in millimetres.
        with_uncertainty: whether draws were asked for.
    """

    maps: dict[str, Tensor]
    prompts: Prompts
    finds: list[GroundingResult] | None
    image: Image.Image | np.ndarray | Tensor
    size: tuple[int, int]
    spacing_mm: tuple[float, float] | PixelSpacing | None
    with_uncertainty: bool


def check_threshold(threshold: float) -> None:
    """Raise ValueError unless the threshold is a probability within (0, 1)."""
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold} was given; expected a probability between 0 and 1, such as 0.5")


def make_results(
    decoded: Decoded, processor: CCSamProcessor, threshold: float = DEFAULT_THRESHOLD, keep: Keep = "largest"
) -> list[SegmentationResult]:
    """One result for each object, in the order of the prompts; of a text that was not found an empty one."""
    objects = []
    if decoded.maps:
        at_image_size = resize_maps_of(decoded, processor)
        for index, score in enumerate(decoded.maps["iou_scores"][0, :, 0].tolist()):
            maps = {name: values[index].numpy() for name, values in at_image_size.items()}
            mask_logits = decoded.maps["pred_masks"][0, index, 0].clone()
            memory = ObjectMemory(mask_logits, **decoded.prompts.of_object(index))
            fields = segmented_object(maps, memory, threshold, keep, decoded.spacing_mm)
            if decoded.finds is None and not decoded.prompts.is_correction:
                warn_about_prompt(fields["mask"], memory.box, memory.points, memory.labels)
            objects.append({**fields, "score": score, "memory": memory, "image": decoded.image})
    if decoded.finds is None:
        return [SegmentationResult(label=None, **each) for each in objects]
    nothing = {**empty_object(decoded), "image": decoded.image}
    return with_texts(objects, decoded.finds, nothing)


def resize_maps_of(decoded: Decoded, processor: CCSamProcessor) -> dict[str, Tensor]:
    """For each object probabilities (P, H0, W0): "plain", and "mean" and "uncertainty" with draws."""

    def resize(maps: Tensor, smooth: bool) -> Tensor:
        (resized,) = processor.post_process_masks(maps, [decoded.size], binarize=False, smooth=smooth)
        return resized[:, 0]

    maps = {"plain": resize(decoded.maps["pred_masks"], smooth=True).sigmoid()}
    if "mask_probability" in decoded.maps:
        logits = decoded.maps["mask_probability"].logit(eps=1e-6)
        maps["mean"] = resize(logits, smooth=True).sigmoid()
        maps["uncertainty"] = resize(decoded.maps["mask_uncertainty"], smooth=False)
    return maps


def segmented_object(
    maps: dict[str, np.ndarray],
    memory: ObjectMemory,
    threshold: float,
    keep: Keep,
    spacing_mm: tuple[float, float] | PixelSpacing | None,
) -> dict[str, Any]:
    """Fields of the result of one object from its maps (H0, W0) and its prompt; without a box, that of the mask."""
    prompt = {"box": memory.box, "points": memory.points, "labels": memory.labels}
    marked = maps["plain"] > threshold
    mask = clean_mask(marked, **prompt, keep=keep)
    probability = follow_mask(maps.get("mean", maps["plain"]), marked, mask, threshold)
    uncertainty = maps.get("uncertainty")
    limit = limit_of(marked.shape, **prompt)
    if limit is not None:
        probability = np.where(limit, probability, np.float32(0))
        uncertainty = None if uncertainty is None else np.where(limit, uncertainty, np.float32(0))
    box = memory.box
    if box is None and mask.any():
        box = tuple(boxes_from_masks(mask).tolist())
    return {
        "mask": mask,
        "probability": probability,
        "box": box,
        "uncertainty": uncertainty,
        "measurements": measure_mask(mask, spacing_mm),
        "parts": count_parts(marked),
    }


def empty_object(decoded: Decoded) -> dict[str, Any]:
    """Fields of the result of a text that was not found."""
    nothing, zero = np.zeros(decoded.size, dtype=bool), np.zeros(decoded.size, dtype=np.float32)
    return {
        "mask": nothing,
        "probability": zero,
        "score": 0.0,
        "box": None,
        "uncertainty": zero if decoded.with_uncertainty else None,
        "measurements": measure_mask(nothing, decoded.spacing_mm),
        "parts": 0,
    }


def with_texts(
    objects: list[dict[str, Any]], finds: Sequence[GroundingResult], nothing: dict[str, Any]
) -> list[SegmentationResult]:
    """Results of texts: the objects of each find in turn, or `nothing` where it has no box."""
    results, remaining = [], iter(objects)
    for find in finds:
        about = {
            "label": find.phrase,
            "text": find.text,
            "description": find.description,
            "reason": find.reason,
            "text_encoder": find.text_encoder,
            "tuned_on": find.tuned_on,
        }
        scored = [(next(remaining), box_score) for box_score in find.scores.tolist()]
        for fields, box_score in scored or [(nothing, find.best_score)]:
            results.append(SegmentationResult(**fields, **about, box_score=box_score))
    return results


__all__ = ["DEFAULT_THRESHOLD", "Decoded", "check_threshold", "make_results"]
