"""What a caller asks -> the prompts of each image in one form (`Prompts`), those of earlier results included.

Source of corrections: Kirillov et al., "Segment Anything" (arXiv 2304.02643), Section 3 and Appendix A: the logits of
the last mask go back in, without a threshold, beside every prompt so far.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .processing_ccsam import PAD_VALUE, depth, nest, nest_labels, to_lists
from .results import ObjectMemory, SegmentationResult


@dataclass(frozen=True)
class Prompts:
    """What is asked about one image, one item an object; coordinates are pixels of the image.

    Args:
        boxes: P boxes x0 y0 x1 y1, or None.
        points: for each object its points (x, y), or None; an object without one has an empty list.
        labels: nested as the points.
        input_masks: (1, P, 4h, 4w) logits to continue from, or None.
    """

    boxes: list[list[float]] | None = None
    points: list[list[list[float]]] | None = None
    labels: list[list[float]] = field(default_factory=list)
    input_masks: Tensor | None = None

    @property
    def is_correction(self) -> bool:
        """Whether an earlier result is continued."""
        return self.input_masks is not None

    def for_processor(self) -> dict[str, list | None]:
        """As arguments of `CCSamProcessor`; an object without a click gets a point that has no effect."""
        if self.points is None:
            return {"input_boxes": self.boxes, "input_points": None, "input_labels": None}
        points = [object_points or [[0.0, 0.0]] for object_points in self.points]
        labels = [object_labels or [float(PAD_VALUE)] for object_labels in self.labels]
        return {"input_boxes": self.boxes, "input_points": points, "input_labels": labels}

    def of_object(self, index: int) -> dict[str, Any]:
        """Points, labels and box of one object, as `ObjectMemory` and `clean_mask` take them."""
        return {
            "points": self.points[index] if self.points else [],
            "labels": self.labels[index] if self.points else [],
            "box": tuple(self.boxes[index]) if self.boxes else None,
        }


def make_prompts(
    boxes: Any = None,
    points: Any = None,
    labels: Any = None,
    previous: SegmentationResult | Sequence[SegmentationResult] | None = None,
    image_size: tuple[int, int] | None = None,
) -> Prompts:
    """Prompts of one image in one form, those of earlier results included.

    Clicks and box of an earlier result are remembered: give the new clicks, or all of them again; a click that comes
    twice counts once, with its last label. A box replaces the box before it.

    Args:
        boxes, points, labels: as `CCSamPipeline.__call__` takes them for one image.
        previous: results of the same image, one for each object.
        image_size: (height, width), which the results must have.

    Raises:
        TypeError: no number, or `previous` holds something else than results.
        ValueError: nestings, or counts of objects, that do not fit; or a result that cannot be continued.
    """
    if labels is not None and points is None:
        raise ValueError("input_labels came without input_points; a label belongs to a point: give both")
    given_boxes = None if boxes is None else nest(boxes, 3, "input_boxes", "(x0, y0, x1, y1)", 1)[0]
    given_points = given_labels = None
    if points is not None:
        nested = nest(points, 4, "input_points", "(x, y)", 1)
        given_labels = nest_labels(labels, nested, depth(to_lists(points, "input_points")), 1)[0]
        given_points = nested[0]
    if previous is None:
        return Prompts(given_boxes, given_points, given_labels or [])
    memories = memories_of(previous, image_size)
    for name, given in (("boxes", given_boxes), ("points", given_points)):
        if given is not None and len(given) != len(memories):
            raise ValueError(
                f"{name} came for {len(given)} objects and previous= holds {len(memories)} results; expected one for "
                "each: correct one object with its own result, previous=results[1]"
            )
    with_box = [memory.box is not None for memory in memories]
    if given_boxes is None and any(with_box) and not all(with_box):
        raise ValueError(
            "previous= holds results of boxes beside results of points; expected one kind: correct them one by one"
        )
    merged = [
        merge_clicks(memory, *((given_points[i], given_labels[i]) if given_points else ((), ())))
        for i, memory in enumerate(memories)
    ]
    clicked = any(object_points for object_points, _ in merged)
    return Prompts(
        boxes=given_boxes or ([list(memory.box) for memory in memories] if all(with_box) else None),
        points=[object_points for object_points, _ in merged] if clicked else None,
        labels=[object_labels for _, object_labels in merged] if clicked else [],
        input_masks=torch.stack([memory.mask_logits for memory in memories])[None],
    )


def memories_of(
    previous: SegmentationResult | Sequence[SegmentationResult], image_size: tuple[int, int] | None
) -> list[ObjectMemory]:
    """What each earlier result remembers; errors as in `make_prompts`."""
    results = [previous] if isinstance(previous, SegmentationResult) else list(previous)
    if not results:
        raise ValueError("previous= is an empty list; expected a result, or one for each object")
    for result in results:
        if not isinstance(result, SegmentationResult):
            raise TypeError(
                f"previous= holds {type(result).__name__}; expected SegmentationResult, as the pipeline returns it"
            )
        if result.memory is None:
            raise ValueError(
                f"previous= holds a result without a mask to correct ({result.reason or 'it was made elsewhere'}); "
                "expected one that a prompt found: give a box or a click without previous="
            )
        if image_size is not None and result.mask.shape != tuple(image_size):
            raise ValueError(
                f"previous= is of an image of {result.mask.shape} and this one is {tuple(image_size)}, height and "
                "width; expected a result of the same image"
            )
    return [result.memory for result in results]


def merge_clicks(
    memory: ObjectMemory, points: Sequence[Sequence[float]], labels: Sequence[float]
) -> tuple[list[list[float]], list[float]]:
    """All clicks so far in their order; a click that comes again counts once, with its last label."""
    clicks = {tuple(point): label for point, label in zip(memory.points, memory.labels, strict=True)}
    clicks |= {tuple(point): label for point, label in zip(points, labels, strict=True)}
    return [list(point) for point in clicks], list(clicks.values())


def share_out(count: int, given: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Prompts of several images -> those of each image, and those that all images share.

    Those of each image are nested one level deeper: boxes (B, P, 4), points (B, P, N, 2) and labels (B, P, N), a list
    of texts an image, a list of results an image.

    Args:
        count: number of images.
        given: any of boxes, points, labels, text and previous, as `CCSamPipeline.__call__` takes them.

    Raises:
        ValueError: prompts for another number of images, or labels nested otherwise than points.
    """
    single, shared = [{} for _ in range(count)], {}
    full = {"boxes": 3, "points": 4, "labels": 3, "text": 2, "previous": 2}
    per_image = {name for name, value in given.items() if nesting(value) >= full[name]}
    if "labels" in given and "points" in given and ("points" in per_image) != ("labels" in per_image):
        raise ValueError("points and labels are nested differently; expected one label for each point")
    for name, value in given.items():
        if name not in per_image:
            shared[name] = value
            continue
        if len(value) != count:
            raise ValueError(
                f"{name} holds prompts for {len(value)} images and {count} came; expected one list an image, or one "
                "for all of them with a level of nesting less"
            )
        for own, prompts in zip(single, value, strict=True):
            own[name] = prompts
    return single, shared


def nesting(value: Any) -> int:
    """Levels of lists, tuples or axes down to the first number, text or result."""
    if isinstance(value, (np.ndarray, Tensor)):
        return value.ndim
    if isinstance(value, (list, tuple)) and value:
        return 1 + nesting(value[0])
    return 0


__all__ = ["Prompts", "make_prompts", "share_out"]
