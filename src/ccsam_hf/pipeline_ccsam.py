"""Image + text, boxes or points -> masks, scores and measurements at the image's own size: the whole path in one call.

Source: CC-SAM paper, Figure 2 and Section 3.3 for the way from a text to a box to a mask.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Pipeline

from .configuration_ccsam import HUB_ARGUMENTS
from .decoded import DEFAULT_THRESHOLD, Decoded, check_threshold, make_results
from .descriptions import split_targets
from .encoded import EncodedImage
from .geometry import rescale_boxes
from .grounding import TextGrounder
from .image_files import read_image, upright
from .loading import GROUNDER_FOLDER, LOAD_LOCK, ModelSource
from .measurements import check_spacing
from .model_places import check_place
from .modeling_ccsam import CCSamModel
from .objects import Keep, check_keep
from .pixel_spacing import PixelSpacing
from .processing_ccsam import CCSamProcessor, prepare_prompts
from .prompts import Prompts, make_prompts, share_out
from .results import SegmentationResult

TASK = "ultrasound-segmentation"
PREPROCESS_ARGUMENTS = {"boxes", "points", "labels", "text", "spacing_mm", "previous", "frame"}
GROUNDING_ARGUMENTS = {"form", "box_threshold", "nms_threshold", "every_instance", "fallback"}
FORWARD_ARGUMENTS = {"num_samples", *GROUNDING_ARGUMENTS}
POSTPROCESS_ARGUMENTS = {"threshold", "keep"}
PROMPTS = ("boxes", "points", "labels", "text", "previous")

# What is given as an image, and how boxes and points are given: numbers in nested lists, arrays or tensors.
OneImage = str | Path | Image.Image | np.ndarray | Tensor | EncodedImage
Coordinates = Sequence[float] | Sequence[Sequence] | np.ndarray | Tensor
Spacing = tuple[float, float] | PixelSpacing


class CCSamPipeline(Pipeline):
    """Segment prompted objects in an ultrasound image.

    ```python
    pipe = CCSamPipeline.from_pretrained(ccsam_hf.DEFAULT)
    nodule, gland = pipe("case.png", text=["thyroid nodule", "thyroid gland"])
    nodule, cyst = pipe("case.png", boxes=[[80, 60, 190, 150], [210, 90, 260, 140]])
    pipe.to("cuda")
    first, second = pipe(["a.png", "b.png"], boxes=[[[80, 60, 190, 150]], [[20, 30, 90, 80]]], batch_size=2)
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
            kwargs: `device` as in `to`; all others are for `CCSamModel.from_pretrained`, such as `dtype`, `device_map`
                or `revision`.

        Raises:
            FileNotFoundError: no such folder, and no repository of the Hub by that name or none within reach.
            OSError: nothing to load there.
            ValueError: weights that leave parts of the model without values, or a device that is not there.
        """
        device = kwargs.pop("device", None)
        kwargs |= check_place(pretrained_model_name_or_path, **kwargs)
        model, report = CCSamModel.from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        missing = sorted(report["missing_keys"])
        if missing:
            raise ValueError(
                f"{pretrained_model_name_or_path} lacks {len(missing)} of the model's tensors ({missing[0]} ...); "
                "expected a complete CC-SAM checkpoint: convert or train one first"
            )
        where = {name: value for name, value in kwargs.items() if name in HUB_ARGUMENTS}
        processor = CCSamProcessor.from_pretrained(pretrained_model_name_or_path, **where)
        pipe = cls(model, processor, grounder, task=TASK)
        return pipe if device is None else pipe.to(device)

    def to(
        self, device: str | int | torch.device | None = None, dtype: torch.dtype | str | None = None
    ) -> "CCSamPipeline":
        """Move the model and its grounder to another device, or cast the model to another precision.

        Args:
            device: such as "cuda", "cuda:1" or "cpu".
            dtype: such as `torch.bfloat16` or "bfloat16"; the grounder stays as it is.

        Returns:
            The pipeline itself.

        Raises:
            ValueError: the device is not there, or there is no such precision.
        """
        if device is not None:
            self.device = check_device(device)
            if isinstance(self._grounder, TextGrounder):
                self._grounder.model.to(self.device)
        self.model.to(self.device)
        if dtype is not None:
            cast(self.model, check_dtype(dtype))
        return self

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
        image: OneImage | Sequence[OneImage],
        spacing_mm: Spacing | None = None,
        frame: int | None = None,
    ) -> EncodedImage | list[EncodedImage]:
        """Encode an image for several calls, each of which then only decodes its prompts.

        ```python
        encoded = pipe.encode("case.png")
        (first,) = pipe(encoded, points=[120, 90])
        (better,) = pipe(encoded, points=[200, 90], labels=0, previous=first)
        ```

        Args:
            image: one image, as `__call__` takes it, or a list of them, which is encoded as one batch.
            spacing_mm: as `__call__` takes it; it then holds for every call.
            frame: of a file, as `__call__` takes it.

        Returns:
            One encoded image, on the pipeline's device, or a list of them.

        Raises:
            FileNotFoundError, ImportError, TypeError, ValueError: as in `__call__`.
        """
        if isinstance(image, (list, tuple)):
            return self._encode_batch(list(image), spacing_mm, frame)
        return self._encode_batch([image], spacing_mm, frame)[0]

    def _encode_batch(
        self, images: list[OneImage], spacing_mm: Spacing | None, frame: int | None = None
    ) -> list[EncodedImage]:
        read = [image if isinstance(image, EncodedImage) else open_input(image, spacing_mm, frame) for image in images]
        waiting = [place for place, each in enumerate(read) if not isinstance(each, EncodedImage)]
        prepared = [self._prepare(read[place][0]) for place in waiting]
        if not prepared:
            return read
        pixel_values = torch.cat([values for values, _ in prepared])
        with torch.inference_mode(), self.device_placement():
            encoded = self.model.encode(pixel_values.to(self.device, self.model.dtype))
        for row, place in enumerate(waiting):
            image, spacing = read[place]
            of_model = encoded.item(row)  # its class is another one where model and pipeline are copies from the Hub
            features = of_model.fused, of_model.vit_map, of_model.model_fingerprint
            read[place] = EncodedImage(*features, image=image, size=prepared[row][1], spacing_mm=spacing)
        return read

    def __call__(
        self,
        image: OneImage | Sequence[OneImage] | Iterable[OneImage] | Dataset,
        boxes: Coordinates | None = None,
        points: Coordinates | None = None,
        labels: int | Sequence | np.ndarray | Tensor | None = None,
        text: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        num_samples: int | None = None,
        spacing_mm: Spacing | None = None,
        previous: SegmentationResult | Sequence[SegmentationResult] | None = None,
        threshold: float | None = None,
        keep: Keep | None = None,
        batch_size: int | None = None,
        frame: int | None = None,
        **kwargs,
    ) -> list[SegmentationResult] | list[list[SegmentationResult]] | Iterator[list[SegmentationResult]]:
        """Segment each prompted object; the image is encoded once for all of them.

        Args:
            image: one image as [`CCSamImageProcessor`] takes it, the path of a file for `image_files.read_image`, or
                what `encode` returned. A PIL image is turned as its EXIF orientation says, as a file is: prompts and
                masks are those of the upright picture. Or several: a list, a generator or a data set of torch.
            boxes: P boxes (x0, y0, x1, y1), or one; edges in pixels of the image, x1 and y1 exclusive. For a list of B
                images these are the boxes of every image, and (B, P, 4) those of each; likewise for the next three.
            points: for each of P objects its points (x, y), (P, N, 2), or the points of one object; pixels of the
                image.
            labels: for each point 1 (inside) or 0 (outside), nested as `points`; left out, all are inside.
            text: one target or several in place of boxes and points, see [`TextGrounder`]. Commas, semicolons and line
                breaks separate targets within a text. With several images a list of lists has the texts of each.
            num_samples: draw the fusion's posterior this often, at least twice, for the uncertainty map.
            spacing_mm: (between rows, between columns) in millimetres for the measurements; left out, that of the file
                where it states one.
            previous: results of this image to correct, one for each object: the last mask's logits go back into the
                model beside all clicks so far, the given ones and those of the result, and its box.
            threshold: probability above which a pixel belongs to the object, within (0, 1); default: 0.5.
            keep: "largest", the default, returns one connected object a prompt, without small holes; "all" every part
                that the model marks. With a box both stay within 5 % of its sides. See `objects.clean_mask`.
            batch_size: how many of several images are encoded together; 1 if left out. The masks are the same up to
                rounding.
            frame: which frame of a DICOM loop or page of a TIFF file, from 0, where paths came; left out, the first,
                and a warning names a file with more.
            kwargs: with a text, `form`, `box_threshold`, `nms_threshold`, `every_instance` and `fallback` of
                `TextGrounder.__call__`; `num_workers` of transformers' pipelines.

        Returns:
            One result for each object, in the order of the prompts; with `every_instance` each text has one for each
            box that was found. A text that was not found has one with an empty mask and the `reason`. For a list of
            images a list of such lists, for a generator or a data set an iterator over them.

        Raises:
            FileNotFoundError, ImportError: the file is absent, or its reader is.
            TypeError: something that is no image, no text or no result.
            ValueError: no prompt, a text beside other prompts or without a grounder, an option for texts without one,
                or an image, a prompt, an earlier result, a threshold or a word for `keep` that is not accepted.
        """
        unused = sorted(GROUNDING_ARGUMENTS & set(kwargs)) if text is None else []
        if unused:
            raise ValueError(f"{', '.join(unused)} came without a text, which alone uses it: leave it out")
        given = {"boxes": boxes, "points": points, "labels": labels, "text": text, "previous": previous}
        given |= {"num_samples": num_samples, "spacing_mm": spacing_mm, "threshold": threshold, "keep": keep}
        given["frame"] = frame
        arguments = {name: value for name, value in given.items() if value is not None} | kwargs
        batch_size = batch_size or self._batch_size or 1
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} was given; expected at least 1")
        if isinstance(image, (list, tuple)):
            return self._segment_list(list(image), arguments, batch_size)
        if isinstance(image, (Dataset, Iterator)) and batch_size > 1:
            return self._segment_stream(iter_items(image), arguments, batch_size)
        return super().__call__(image, batch_size=1, **arguments)

    def _segment_list(
        self, images: list[OneImage], arguments: dict[str, Any], batch_size: int
    ) -> list[list[SegmentationResult]]:
        if not images:
            raise ValueError("image is an empty list; expected one image or more")
        prompts = {name: arguments.pop(name) for name in PROMPTS if name in arguments}
        own, shared = share_out(len(images), prompts)
        results = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            if batch_size > 1:
                batch = self._encode_batch(batch, arguments.get("spacing_mm"), arguments.get("frame"))
            inputs = [{"image": image, **own[start + row]} for row, image in enumerate(batch)]
            results += super().__call__(inputs, batch_size=1, **shared, **arguments)
        return results

    def _segment_stream(
        self, images: Iterator[OneImage], arguments: dict[str, Any], batch_size: int
    ) -> Iterator[list[SegmentationResult]]:
        while batch := list(islice(images, batch_size)):
            yield from self._segment_list(batch, dict(arguments), batch_size)

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
        image: OneImage | dict[str, Any],
        boxes: Coordinates | None = None,
        points: Coordinates | None = None,
        labels: int | Sequence | np.ndarray | Tensor | None = None,
        text: str | Sequence[str] | None = None,
        spacing_mm: Spacing | None = None,
        previous: SegmentationResult | Sequence[SegmentationResult] | None = None,
        frame: int | None = None,
    ) -> dict[str, Any]:
        """Image and prompts, or a dictionary with both, -> model inputs, and what they belong to."""
        if isinstance(image, dict):
            given = {"boxes": boxes, "points": points, "labels": labels, "text": text, "previous": previous}
            return self.preprocess(**{**given, "spacing_mm": spacing_mm, "frame": frame, **image})
        if all(prompt is None for prompt in (boxes, points, text, previous)):
            raise ValueError(
                "no prompt was given; expected a text, boxes (x0, y0, x1, y1) or points (x, y), in pixels"
            )
        if text is not None and not all(prompt is None for prompt in (boxes, points, labels, previous)):
            raise ValueError(
                "a text came with boxes, points or previous=; expected one or the other: a text finds its own box"
            )
        encoded = pixel_values = None
        if isinstance(image, EncodedImage):
            encoded, size = check_encoded(image), image.size
            spacing_mm = image.spacing_mm if spacing_mm is None else spacing_mm
            image = image.image
            check_spacing(spacing_mm)
        else:
            image, spacing_mm = open_input(image, spacing_mm, frame)
            pixel_values, size = self._prepare(image)
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
            "texts": None if text is None else split_targets(text) if isinstance(text, (str, list, tuple)) else text,
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
            encoded = encoded.to(self.device, self.model.dtype)
            output = self.model(encoded=encoded, num_samples=num_samples, **inputs)
            names = ("iou_scores", "pred_masks", "mask_probability", "mask_uncertainty")
            maps = {name: output[name].float().cpu() for name in names if output.get(name) is not None}
        about = {"image": model_inputs["image"], "size": size, "spacing_mm": model_inputs["spacing_mm"]}
        return Decoded(maps, prompts, finds, with_uncertainty=num_samples is not None, **about)

    def postprocess(
        self, model_outputs: Decoded, threshold: float = DEFAULT_THRESHOLD, keep: Keep = "largest"
    ) -> list[SegmentationResult]:
        """Maps of one image -> one result for each object."""
        return make_results(model_outputs, self.processor, threshold, keep)


def open_input(
    image: OneImage, spacing_mm: Spacing | None, frame: int | None = None
) -> tuple[Image.Image | np.ndarray | Tensor, Spacing | None]:
    """The image, read where it is a path and upright, and its spacing: the given one, else the file's; checked."""
    if isinstance(image, (str, Path)):
        image, spacing_of_file = read_image(image, frame)
        spacing_mm = spacing_of_file if spacing_mm is None else spacing_mm
    elif frame is not None:
        raise ValueError(f"frame={frame} came with an image that is no path; expected the path of a file with frames")
    elif isinstance(image, Image.Image):
        image = upright(image)
    check_spacing(spacing_mm)
    return image, spacing_mm


def check_encoded(image: EncodedImage) -> EncodedImage:
    """The encoded image; ValueError where it is that of `CCSamModel.encode`, which keeps no image."""
    if image.image is None or image.size is None:
        raise ValueError("the encoded image came from the model alone; expected one of CCSamPipeline.encode")
    return image


def iter_items(images: Dataset | Iterator[OneImage]) -> Iterator[OneImage]:
    """The items of a generator, or of a data set of torch, which may know only its length."""
    if isinstance(images, Iterator) or hasattr(images, "__iter__"):
        return iter(images)
    return (images[index] for index in range(len(images)))


def check_device(device: str | int | torch.device) -> torch.device:
    """A device that torch can use here; ValueError where it is not there."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # torch raises either, and with many lines
        known = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        raise ValueError(f"device {device!r} cannot be used here; there are {', '.join(known)}") from error
    return found


def cast(model: CCSamModel, dtype: torch.dtype) -> None:
    """Cast a model, but for what transformers keeps in float32 when it loads one: the positional encoding."""
    kept = tuple(model._keep_in_fp32_modules_strict or ())
    exact = [(each, each.detach()) for name, each in model.named_parameters() if any(word in name for word in kept)]
    model.to(dtype)
    for parameter, values in exact:
        parameter.data = values.float()


def check_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A precision for models; ValueError for another word."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"dtype={dtype!r} was given; expected float32, float16 or bfloat16")
    return found


__all__ = ["TASK", "CCSamPipeline"]
