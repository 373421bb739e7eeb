"""Image + text, boxes or points -> masks, scores and measurements at the image's own size: the whole path in one call.

Source: CC-SAM paper, Figure 2 and Section 3.3 for the way from a text to a box to a mask.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Pipeline

from .configuration_ccsam import HUB_ARGUMENTS
from .corrections import Prompts, make_prompts
from .fusion import FusionOutput
from .geometry import boxes_from_masks, rescale_boxes
from .grounding import GroundingResult, TextGrounder
from .image_files import read_image, upright
from .loading import GROUNDER_FOLDER, LOAD_LOCK, ModelSource
from .measurements import check_spacing, measure_mask
from .modeling_ccsam import CCSamModel
from .objects import Keep, check_keep, clean_mask, count_parts, follow_mask, limit_of
from .pixel_spacing import PixelSpacing
from .processing_ccsam import CCSamProcessor, prepare_prompts
from .results import ObjectMemory, SegmentationResult

TASK = "ultrasound-segmentation"
PREPROCESS_ARGUMENTS = {"boxes", "points", "labels", "text", "spacing_mm", "previous"}
GROUNDING_ARGUMENTS = {"form", "box_threshold", "nms_threshold", "every_instance", "fallback"}
FORWARD_ARGUMENTS = {"num_samples", *GROUNDING_ARGUMENTS}
POSTPROCESS_ARGUMENTS = {"threshold", "keep"}
DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class EncodedImage:
    """An image whose encoding is kept, so that further prompts cost a decoding only; made by `CCSamPipeline.encode`.

    Args:
        image: as it was given, or as it was read from a file.
        size: (height, width) of it.
        spacing_mm: (between rows, between columns) in millimetres, None where unknown.
        encoded: of `CCSamModel.encode`, batch size 1, on the model's device.
    """

    image: Image.Image | np.ndarray | Tensor
    size: tuple[int, int]
    spacing_mm: tuple[float, float] | PixelSpacing | None
    encoded: tuple[FusionOutput, Tensor]


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


class CCSamPipeline(Pipeline):
    """Segment prompted objects in an ultrasound image.

    ```python
    pipe = CCSamPipeline.from_pretrained(ccsam_hf.TINY)
    nodule, gland = pipe("case.png", text=["thyroid nodule", "thyroid gland"])
    nodule, cyst = pipe("case.png", boxes=[[80, 60, 190, 150], [210, 90, 260, 140]])
    ```

    It is a pipeline of transformers: `pipeline("ultrasound-segmentation", model=...)` makes the same object.

    Args:
        model: [`CCSamModel`]; it is put in evaluation mode and used on the device where it is, unless `device` says
            otherwise.
        processor: [`CCSamProcessor`] whose input size is the model's.
        grounder: [`TextGrounder`] for texts, or its folder or Hub id. Left out, that in the folder `grounder` beside
            the model's weights is loaded when the first text comes.
        kwargs: for transformers' `Pipeline`, such as `device`; or default arguments of `__call__`.

    Raises:
        ValueError: the two sizes differ.
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(
        self,
        model: CCSamModel,
        processor: CCSamProcessor,
        grounder: TextGrounder | str | Path | None = None,
        **kwargs,
    ):
        model_size = (model.config.vision_config.image_size,) * 2
        if processor.image_processor.input_size != model_size:
            raise ValueError(
                f"the processor makes inputs of {processor.image_processor.input_size} and the model takes "
                f"{model_size}; expected one size: load both from one folder"
            )
        if getattr(model, "hf_device_map", None) is None and kwargs.get("device") is None:
            kwargs["device"] = model.device
        super().__init__(model=model.eval(), processor=processor, **kwargs)
        self.image_processor = None  # the processor holds it; kept here too it would be saved twice
        self._grounder = grounder

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        grounder: TextGrounder | str | Path | None = None,
        **kwargs,
    ) -> "CCSamPipeline":
        """Load model and processor from one folder or Hub repository.

        Args:
            pretrained_model_name_or_path: folder or repository id.
            grounder: see [`CCSamPipeline`].
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
        where = {name: value for name, value in kwargs.items() if name in HUB_ARGUMENTS}
        processor = CCSamProcessor.from_pretrained(pretrained_model_name_or_path, **where)
        return cls(model, processor, grounder, task=TASK)

    def push_to_hub(self, repo_id: str, *, private: bool | None = True, **kwargs) -> str:
        """As in transformers, but a new repository is private unless `private=False`."""
        return super().push_to_hub(repo_id, private=private, **kwargs)

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> None:
        """Write model, processor, code and, where there is one, the grounder into one folder."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
        if self.has_grounder:
            self.grounder.save_pretrained(Path(save_directory) / GROUNDER_FOLDER)

    @property
    def has_grounder(self) -> bool:
        """Whether a text can be answered."""
        return self._grounder is not None or self._grounder_beside_the_model is not None

    @property
    def grounder(self) -> TextGrounder:
        """The grounder, loaded onto the pipeline's device where it is not yet; ValueError where there is none."""
        with LOAD_LOCK:  # one load, also where several threads give the first text
            if self._grounder is None or isinstance(self._grounder, (str, Path)):
                self._grounder = self._load_grounder()
        return self._grounder

    def _load_grounder(self) -> TextGrounder:
        if self._grounder is None:
            beside = self._grounder_beside_the_model
            if beside is None:
                raise ValueError(
                    f"a text was given, and {self.model.name_or_path or 'the model'} has no folder "
                    f"{GROUNDER_FOLDER!r} beside its weights: give grounder=, the folder or Hub id of a Grounding "
                    "DINO (ccsam_hf.TINY_GROUNDER is the bundled one), or boxes or points instead"
                )
            grounder = TextGrounder.from_pretrained(beside.name, **beside.arguments)
        else:
            grounder = TextGrounder.from_pretrained(self._grounder)
        grounder.model.to(self.device)
        return grounder

    @property
    def _grounder_beside_the_model(self) -> ModelSource | None:
        source = getattr(self.model, "source", None)
        if source is None and self.model.name_or_path:
            source = ModelSource(self.model.name_or_path)
        return source and source.grounder

    def encode(
        self,
        image: str | Path | Image.Image | np.ndarray | Tensor,
        spacing_mm: tuple[float, float] | PixelSpacing | None = None,
    ) -> EncodedImage:
        """Encode one image for several calls, each of which then only decodes its prompts.

        ```python
        encoded = pipe.encode("case.png")
        first = pipe(encoded, points=[[120, 90]])
        better = pipe(encoded, points=[[120, 90], [200, 90]], labels=[1, 0])
        ```

        Args:
            image: one image, as `__call__` takes it.
            spacing_mm: as `__call__` takes it; it then holds for every call.

        Raises:
            FileNotFoundError, ImportError, TypeError, ValueError: as in `__call__`.
        """
        image, spacing_mm = opened(image, spacing_mm)
        pixel_values, size = self._prepare(image)
        with torch.inference_mode(), self.device_placement():
            encoded = self.model.encode(pixel_values.to(self.device, self.model.dtype))
        return EncodedImage(image, size, spacing_mm, encoded)

    def __call__(
        self,
        image: Any,
        boxes: Any = None,
        points: Any = None,
        labels: Any = None,
        text: str | Sequence[str] | None = None,
        num_samples: int | None = None,
        spacing_mm: tuple[float, float] | PixelSpacing | None = None,
        previous: SegmentationResult | Sequence[SegmentationResult] | None = None,
        threshold: float | None = None,
        keep: Keep | None = None,
        **kwargs,
    ) -> list[SegmentationResult] | list[list[SegmentationResult]]:
        """Segment each prompted object; the image is encoded once for all of them.

        Args:
            image: one image as [`CCSamImageProcessor`] takes it, the path of a file for `image_files.read_image`, or
                what `encode` returned. A PIL image is turned as its EXIF orientation says, as a file is: prompts and
                masks are those of the upright picture. A list of images is segmented image by image, all with the
                same prompts.
            boxes: P boxes (x0, y0, x1, y1), or one; edges in pixels of the image, x1 and y1 exclusive.
            points: for each of P objects its points (x, y), or the points of one object; pixels of the image.
            labels: for each point 1 (inside) or 0 (outside), nested as `points`; left out, all are inside.
            text: one target or several in place of boxes and points, see [`TextGrounder`].
            num_samples: draw the fusion's posterior this often, at least twice, for the uncertainty map.
            spacing_mm: (between rows, between columns) in millimetres for the measurements; left out, that of the file
                where it states one.
            previous: results of this image to correct, one for each object: the last mask's logits go back into the
                model beside all clicks so far, the given ones and those of the result, and its box.
            threshold: probability above which a pixel belongs to the object, within (0, 1); 0.5 if left out.
            keep: "largest", the default, returns one connected object a prompt, without small holes; "all" every part
                that the model marks. With a box both stay within 5 % of its sides. See `objects.clean_mask`.
            kwargs: with a text, `form`, `box_threshold`, `nms_threshold`, `every_instance` and `fallback` of
                `TextGrounder.__call__`; `batch_size` and `num_workers` of transformers' pipelines.

        Returns:
            One result for each object, in the order of the prompts; with `every_instance` each text has one for each
            box that was found. A text that was not found has one with an empty mask and the `reason`. For a list of
            images a list of such lists.

        Raises:
            FileNotFoundError, ImportError: the file is absent, or its reader is.
            TypeError: something that is no image, no text or no result.
            ValueError: no prompt, a text beside other prompts or without a grounder, an option for texts without one,
                or an image, a prompt, an earlier result, a threshold or a word for `keep` that is not accepted.
        """
        if isinstance(image, (list, tuple)) and not image:
            raise ValueError("image is an empty list; expected one image or more")
        unused = sorted(GROUNDING_ARGUMENTS & set(kwargs)) if text is None else []
        if unused:
            raise ValueError(f"{', '.join(unused)} came without a text, which alone uses it: leave it out")
        given = {"boxes": boxes, "points": points, "labels": labels, "text": text}
        given |= {"num_samples": num_samples, "spacing_mm": spacing_mm, "previous": previous}
        given |= {"threshold": threshold, "keep": keep}
        return super().__call__(
            list(image) if isinstance(image, tuple) else image,
            **{name: value for name, value in given.items() if value is not None},
            **kwargs,
        )

    def _sanitize_parameters(self, **arguments) -> tuple[dict, dict, dict]:
        unknown = sorted(set(arguments) - PREPROCESS_ARGUMENTS - FORWARD_ARGUMENTS - POSTPROCESS_ARGUMENTS)
        if unknown:
            raise TypeError(f"{', '.join(unknown)} is no argument of {type(self).__name__}")
        preprocess = {name: value for name, value in arguments.items() if name in PREPROCESS_ARGUMENTS}
        forward = {name: value for name, value in arguments.items() if name in FORWARD_ARGUMENTS}
        postprocess = {name: value for name, value in arguments.items() if name in POSTPROCESS_ARGUMENTS}
        check_keep(postprocess.get("keep", "largest"))
        check_threshold(postprocess.get("threshold", DEFAULT_THRESHOLD))
        return preprocess, forward, postprocess

    def get_inference_context(self) -> Callable:
        """No gradients, and none of autograd's bookkeeping."""
        return torch.inference_mode

    def preprocess(
        self,
        image: str | Path | Image.Image | np.ndarray | Tensor | EncodedImage,
        boxes: Any = None,
        points: Any = None,
        labels: Any = None,
        text: str | Sequence[str] | None = None,
        spacing_mm: tuple[float, float] | PixelSpacing | None = None,
        previous: SegmentationResult | Sequence[SegmentationResult] | None = None,
    ) -> dict[str, Any]:
        """Image and prompts -> model inputs, and what they belong to."""
        if all(prompt is None for prompt in (boxes, points, text, previous)):
            raise ValueError(
                "no prompt was given; expected a text, boxes (x0, y0, x1, y1) or points (x, y), in pixels"
            )
        if text is not None and not all(prompt is None for prompt in (boxes, points, labels, previous)):
            raise ValueError(
                "a text came with boxes, points or previous=; expected one or the other: a text finds its own box"
            )
        if not isinstance(image, EncodedImage):
            image, spacing_mm = opened(image, spacing_mm)
            pixel_values, size = self._prepare(image)
            encoded = None
        else:
            pixel_values, encoded, size = None, image.encoded, image.size
            image, spacing_mm = image.image, image.spacing_mm if spacing_mm is None else spacing_mm
            check_spacing(spacing_mm)
        prompts = make_prompts(boxes, points, labels, previous, size)
        inputs = prepare_prompts([size], self.processor.image_processor.input_size, **prompts.for_processor())
        if prompts.input_masks is not None:
            inputs["input_masks"] = prompts.input_masks
        return {
            "inputs": inputs,
            "pixel_values": pixel_values,
            "encoded": encoded,
            "image": image,
            "size": size,
            "prompts": prompts,
            "texts": text,
            "spacing_mm": spacing_mm,
        }

    def _prepare(self, image: Image.Image | np.ndarray | Tensor) -> tuple[Tensor, tuple[int, int]]:
        """pixel_values (1, 3, H, W) of one image, and its own (height, width)."""
        batch = self.processor(image)
        return batch["pixel_values"], tuple(batch["original_sizes"][0].tolist())

    def _forward(self, model_inputs: dict[str, Any], num_samples: int | None = None, **grounding) -> Decoded:
        inputs, size, prompts = model_inputs["inputs"], model_inputs["size"], model_inputs["prompts"]
        finds = None
        if model_inputs["texts"] is not None:
            finds = self.grounder(model_inputs["image"], model_inputs["texts"], **grounding)
            found = torch.cat([find.boxes for find in finds])  # (n, 4), pixels of the image
            input_boxes = rescale_boxes(found, size, self.processor.image_processor.input_size)
            inputs = {"input_boxes": input_boxes[None].to(self.device)}
            prompts = Prompts(boxes=found.tolist())
        maps = {}
        if finds is None or prompts.boxes:
            encoded = model_inputs["encoded"]
            if encoded is None:
                encoded = self.model.encode(model_inputs["pixel_values"].to(self.model.dtype))
            output = self.model(encoded=encoded, num_samples=num_samples, **inputs)
            names = ("iou_scores", "pred_masks", "mask_probability", "mask_uncertainty")
            maps = {name: output[name].float().cpu() for name in names if output.get(name) is not None}
        about = {"image": model_inputs["image"], "size": size, "spacing_mm": model_inputs["spacing_mm"]}
        return Decoded(maps, prompts, finds, with_uncertainty=num_samples is not None, **about)

    def postprocess(
        self, model_outputs: Decoded, threshold: float = DEFAULT_THRESHOLD, keep: Keep = "largest"
    ) -> list[SegmentationResult]:
        """Maps of one image -> one result for each object."""
        decoded = model_outputs
        objects = []
        if decoded.maps:
            at_image_size = self._resize_maps(decoded)
            for index, score in enumerate(decoded.maps["iou_scores"][0, :, 0].tolist()):
                maps = {name: values[index].numpy() for name, values in at_image_size.items()}
                memory = ObjectMemory(
                    decoded.maps["pred_masks"][0, index, 0].clone(), **decoded.prompts.of_object(index)
                )
                fields = segmented_object(maps, memory, threshold, keep, decoded.spacing_mm)
                objects.append({**fields, "score": score, "memory": memory, "image": decoded.image})
        if decoded.finds is None:
            return [SegmentationResult(label=None, **each) for each in objects]
        nothing = empty_object(decoded.size, decoded.with_uncertainty, decoded.spacing_mm)
        return with_texts(objects, decoded.finds, {**nothing, "image": decoded.image})

    def _resize_maps(self, decoded: Decoded) -> dict[str, Tensor]:
        """For each object probabilities (P, H0, W0): "plain", and "mean" and "uncertainty" with draws."""

        def resize(maps: Tensor, smooth: bool) -> Tensor:
            (resized,) = self.processor.post_process_masks(maps, [decoded.size], binarize=False, smooth=smooth)
            return resized[:, 0]

        maps = {"plain": resize(decoded.maps["pred_masks"], smooth=True).sigmoid()}
        if "mask_probability" in decoded.maps:
            logits = decoded.maps["mask_probability"].logit(eps=1e-6)
            maps["mean"] = resize(logits, smooth=True).sigmoid()
            maps["uncertainty"] = resize(decoded.maps["mask_uncertainty"], smooth=False)
        return maps


def opened(
    image: Any, spacing_mm: tuple[float, float] | PixelSpacing | None
) -> tuple[Any, tuple[float, float] | PixelSpacing | None]:
    """The image, read where it is a path and upright, and its spacing: the given one, else the file's; checked."""
    if isinstance(image, (str, Path)):
        image, spacing_of_file = read_image(image)
        spacing_mm = spacing_of_file if spacing_mm is None else spacing_mm
    elif isinstance(image, Image.Image):
        image = upright(image)
    check_spacing(spacing_mm)
    return image, spacing_mm


def check_threshold(threshold: float) -> None:
    """Raise ValueError unless the threshold is a probability within (0, 1)."""
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold} was given; expected a probability between 0 and 1, such as 0.5")


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


def empty_object(
    size: tuple[int, int], with_uncertainty: bool, spacing_mm: tuple[float, float] | PixelSpacing | None
) -> dict[str, Any]:
    """Fields of the result of a text that was not found in an image of a size (H0, W0)."""
    nothing, zero = np.zeros(size, dtype=bool), np.zeros(size, dtype=np.float32)
    return {
        "mask": nothing,
        "probability": zero,
        "score": 0.0,
        "box": None,
        "uncertainty": zero if with_uncertainty else None,
        "measurements": measure_mask(nothing, spacing_mm),
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


__all__ = ["TASK", "CCSamPipeline", "EncodedImage", "SegmentationResult"]
