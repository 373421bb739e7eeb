"""What the pipeline returns for one object, how it prints, and what a correction of it continues from."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from torch import Tensor

from .measurements import MaskMeasurements
from .objects import count_parts
from .visualization import overlay


@dataclass(frozen=True)
class ObjectMemory:
    """What a correction of an object continues from; coordinates are pixels of the image.

    Args:
        mask_logits: (4h, 4w) float32 on the CPU, the model's output before any resizing or cleaning.
        points: (N, 2), all clicks so far.
        labels: (N,), 1 on the object and 0 beside it.
        box: x0 y0 x1 y1 where a box prompted, given or found by a text.
    """

    mask_logits: Tensor
    points: Sequence[Sequence[float]] = ()
    labels: Sequence[float] = ()
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, repr=False)
class SegmentationResult:
    """One segmented object, at the image's own size (H0, W0).

    `print(result)` shows it in a line or two, and a notebook shows its overlay.

    Args:
        mask: (H0, W0) bool; the same with and without `num_samples`. By default one connected object, see
            `objects.clean_mask`. Empty where a text was not found.
        probability: (H0, W0) float32 in [0, 1]; with `num_samples` its mean over the draws. Where the mask leaves out
            a part, the probability is lowered to the threshold; where it fills a hole, raised just above it; beyond
            the limit of a box it is 0. So without draws `mask` is `probability > threshold`.
        score: the model's own estimate of the mask's IoU; usually in [0, 1], but not bounded. 0 where a text was not
            found.
        box: x0, y0, x1, y1 pixels of the image: the box that prompted, given or found by a text, else the tight box of
            the mask. Its sides are edges, x1 and y1 exclusive, so it prompts again as it is. None for an empty mask.
        label: name of the object where a text prompted, else None.
        uncertainty: (H0, W0) float32 in [0, 0.5], standard deviation of the probability over the draws; None without
            `num_samples`.
        measurements: of `mask`: area, diameters and centroid in pixels, with a spacing also in millimetres.
        text: what was asked; this and all that follow up to `tuned_on` are None without a text.
        description: what the text encoder read.
        box_score: score of the box in [0, 1]; of the best one where the text was not found.
        reason: why the text was not found, or what its box is instead of a find; None for a find.
        text_encoder: which text encoder read the description.
        tuned_on: what the grounder was fine-tuned on; None also for zero-shot.
        parts: number of connected parts that the model marked, before all but one of them were left out.
        memory: for `previous=` of the pipeline; None where nothing was decoded.
        image: that was segmented, for the overlay.
    """

    mask: np.ndarray
    probability: np.ndarray
    score: float
    box: tuple[float, float, float, float] | None
    label: str | None
    uncertainty: np.ndarray | None
    measurements: MaskMeasurements
    text: str | None = None
    description: str | None = None
    box_score: float | None = None
    reason: str | None = None
    text_encoder: str | None = None
    tuned_on: str | None = None
    parts: int = 1
    memory: ObjectMemory | None = field(default=None, compare=False)
    image: Image.Image | np.ndarray | Tensor | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        lines = [", ".join(part for part in self._described() if part)]
        if self.reason is not None:
            lines.append(f"  {self.reason}")
        if self.measurements.no_mm_reason is not None and self.mask.any():
            lines.append(f"  no mm: {self.measurements.no_mm_reason}")
        return "\n".join(lines)

    def _described(self) -> list[str]:
        height, width = self.mask.shape
        found = self.measurements
        name = self.label or "object"
        box = "" if self.box is None else "box (" + ", ".join(f"{side:.4g}" for side in self.box) + ")"
        if not self.mask.any():
            return [f"{name}: empty mask", box, f"score {self.score:.2f}", f"image {width} x {height}"]
        sizes = f"{found.longest_diameter_px:.0f} x {found.short_axis_px:.0f} px"
        area = f"area {found.area_px} px"
        if found.area_mm2 is not None:
            area += f" ({found.area_mm2:.1f} mm2)"
            sizes += f" ({found.longest_diameter_mm:.1f} x {found.short_axis_mm:.1f} mm)"
        parts = "" if self.parts <= 1 else f"one of {self.parts} parts"
        if self.parts > 1 and count_parts(self.mask) > 1:
            parts = f"in {count_parts(self.mask)} parts"
        return [f"{name}: score {self.score:.2f}", box, area, sizes, parts, f"image {width} x {height}"]

    def _repr_png_(self) -> bytes | None:
        """The overlay as a PNG, which notebooks show; None where the image is not at hand."""
        if self.image is None:
            return None
        memory = self.memory
        points = None if memory is None or not len(memory.points) else ([memory.points], [memory.labels])
        buffer = io.BytesIO()
        drawn = overlay(self.image, [self.mask], [self.box], *(points or ()))
        drawn.save(buffer, format="PNG")
        return buffer.getvalue()


__all__ = ["ObjectMemory", "SegmentationResult"]
