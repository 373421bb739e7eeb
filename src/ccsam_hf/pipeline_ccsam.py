"""Image + boxes or points -> masks, scores and measurements at the image's own size: the whole path in one call."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .geometry import boxes_from_masks
from .image_files import read_image
from .measurements import MaskMeasurements, check_spacing, measure_mask
from .modeling_ccsam import CCSamModel
from .processing_ccsam import CCSamProcessor, refuse_text, to_lists


@dataclass(frozen=True)
class SegmentationResult:
    """One segmented object, at the image's own size (H0, W0).

    Args:
        mask: (H0, W0) bool; the same with and without `num_samples`.
        probability: (H0, W0) float32 in [0, 1]; with `num_samples` its mean over the draws.
        score: the model's own estimate of the mask's IoU; usually in [0, 1], but not bounded.
        box: x0, y0, x1, y1 pixels of the image: the box that prompted, else the tight box of the mask (first and last
            column and row); None for an empty mask prompted by points.
        label: name of the object where a text prompted, else None.
        uncertainty: (H0, W0) float32 in [0, 0.5], standard deviation of the probability over the draws; None without
            `num_samples`.
        measurements: area, diameters and centroid in pixels, with a spacing also in millimetres.
    """

    mask: np.ndarray
    probability: np.ndarray
    score: float
    box: tuple[float, float, float, float] | None
    label: str | None
    uncertainty: np.ndarray | None
    measurements: MaskMeasurements


class CCSamPipeline:
    """Segment prompted objects in one ultrasound image.

    ```python
    pipe = CCSamPipeline.from_pretrained(ccsam_hf.TINY)
    nodule, cyst = pipe("case.png", boxes=[[80, 60, 190, 150], [210, 90, 260, 140]])
    ```

    Args:
        model: [`CCSamModel`]; it is put in evaluation mode and used on the device where it is.
        processor: [`CCSamProcessor`] whose input size is the model's.

    Raises:
        ValueError: the two sizes differ.
    """

    def __init__(self, model: CCSamModel, processor: CCSamProcessor):
        model_size = (model.config.vision_config.image_size,) * 2
        if processor.image_processor.input_size != model_size:
            raise ValueError(
                f"the processor makes inputs of {processor.image_processor.input_size} and the model takes "
                f"{model_size}; expected one size: load both from one folder"
            )
        self.model = model.eval()
        self.processor = processor

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs) -> "CCSamPipeline":
        """Load model and processor from one folder or Hub repository.

        Args:
            pretrained_model_name_or_path: folder or repository id.
            kwargs: for `CCSamModel.from_pretrained`, such as `device_map` or `dtype`.

        Raises:
            OSError: nothing to load there.
            ValueError: weights that leave parts of the model without values.
        """
        model, report = CCSamModel.from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        missing = sorted(report["missing_keys"])
        if missing:
            raise ValueError(
                f"{pretrained_model_name_or_path} lacks {len(missing)} of the model's tensors ({missing[0]} ...); "
                "expected a complete CC-SAM checkpoint: convert or train one first"
            )
        return cls(model, CCSamProcessor.from_pretrained(pretrained_model_name_or_path))

    @torch.inference_mode()
    def __call__(
        self,
        image: str | Path | Image.Image | np.ndarray | Tensor,
        boxes: Any = None,
        points: Any = None,
        labels: Any = None,
        text: str | None = None,
        num_samples: int | None = None,
        spacing_mm: tuple[float, float] | None = None,
    ) -> list[SegmentationResult]:
        """Segment each prompted object; the image is encoded once for all of them.

        Args:
            image: one image as [`CCSamImageProcessor`] takes it, or the path of a file for `image_files.read_image`.
            boxes: P boxes (x0, y0, x1, y1), or one; pixels of the image.
            points: for each of P objects its points (x, y), or the points of one object; pixels of the image.
            labels: for each point 1 (inside) or 0 (outside), nested as `points`; left out, all are inside.
            text: not supported by this version.
            num_samples: draw the fusion's posterior this often, at least twice, for the uncertainty map.
            spacing_mm: (between rows, between columns) in millimetres for the measurements; left out, that of the file
                where it states one.

        Returns:
            One result for each object, in the order of the prompts.

        Raises:
            FileNotFoundError, ImportError: the file is absent, or its reader is.
            TypeError: something that is no image.
            ValueError: no prompt, a text, or an image or a prompt that is not accepted.
        """
        refuse_text(text)
        if boxes is None and points is None:
            raise ValueError("no prompt was given; expected boxes (x0, y0, x1, y1) or points (x, y), in pixels")
        if isinstance(image, (list, tuple)):
            raise TypeError("a list was given as image; expected one image: call the pipeline for each of them")
        if isinstance(image, (str, Path)):
            image, spacing_of_file = read_image(image)
            spacing_mm = spacing_of_file if spacing_mm is None else spacing_mm
        check_spacing(spacing_mm)
        inputs = self.processor(image, input_boxes=boxes, input_points=points, input_labels=labels)
        original_sizes = inputs.pop("original_sizes")
        maps = self._predict(inputs.to(self.model.device), num_samples)
        scores = maps.pop("iou_scores")[0, :, 0].tolist()
        resized = {
            name: self.processor.post_process_masks(values, original_sizes, binarize=False)[0][:, 0]  # (P, H0, W0)
            for name, values in maps.items()
        }
        given_boxes = None if boxes is None else np.reshape(to_lists(boxes, "boxes"), (-1, 4)).tolist()
        return [
            self._result(
                {name: values[i].cpu() for name, values in resized.items()}, score, given_boxes, i, spacing_mm
            )
            for i, score in enumerate(scores)
        ]

    def _predict(self, inputs: dict[str, Tensor], num_samples: int | None) -> dict[str, Tensor]:
        """Scores and maps of one image: iou_scores, pred_masks and, with draws, mean probability and uncertainty."""
        pixel_values = inputs.pop("pixel_values").to(self.model.dtype)
        if num_samples is None:
            output = self.model(image_embeddings=self.model.get_image_embeddings(pixel_values), **inputs)
        else:
            output = self.model(pixel_values=pixel_values, num_samples=num_samples, **inputs)
        names = ("iou_scores", "pred_masks", "mask_probability", "mask_uncertainty")
        return {name: output[name] for name in names if output.get(name) is not None}

    @staticmethod
    def _result(
        maps: dict[str, Tensor],
        score: float,
        given_boxes: Sequence[Sequence[float]] | None,
        index: int,
        spacing_mm: tuple[float, float] | None,
    ) -> SegmentationResult:
        mask_logits = maps["pred_masks"]  # (H0, W0)
        mask_binary = mask_logits > 0
        box = None
        if given_boxes is not None:
            box = tuple(given_boxes[index])
        elif mask_binary.any():
            box = tuple(boxes_from_masks(mask_binary).tolist())
        return SegmentationResult(
            mask=mask_binary.numpy(),
            probability=maps.get("mask_probability", mask_logits.sigmoid()).numpy(),
            score=score,
            box=box,
            label=None,
            uncertainty=maps["mask_uncertainty"].numpy() if "mask_uncertainty" in maps else None,
            measurements=measure_mask(mask_binary.numpy(), spacing_mm),
        )


__all__ = ["CCSamPipeline", "SegmentationResult"]
