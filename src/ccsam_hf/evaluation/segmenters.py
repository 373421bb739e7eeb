"""One interface for every model that is compared: image and prompt to a mask (`Segmenter`), and how each is loaded.

CC-SAM and SAMUS, which is a configuration of it, transformers' `SamModel`, a U-Net and the baselines are here; another
system joins by `register_segmenter` and needs nothing else of this package.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ..data.prompts import Prompt, to_edges
from ..geometry import rescale_boxes, resize_maps, resize_smoothly
from ..identity import hash_weights
from ..loading import LOAD_LOCK
from ..modeling_ccsam import CCSamModel
from ..objects import clean_mask, follow_mask, limit_of
from ..pipeline_ccsam import CCSamPipeline
from ..processing_ccsam import CCSamProcessor
from .baselines import filled_box, inscribed_ellipse, median_disc, median_disc_radius

SIZE = (256, 256)  # (height, width) of protocol "samus"


@dataclass(frozen=True)
class Prediction:
    """What a model says of one object, at 256x256.

    Attributes:
        mask: (256, 256) bool, as a user gets it.
        probability: (256, 256) float32 in [0, 1] that a pixel belongs to the object.
        score: the model's own estimate of its IoU, where it has one.
        uncertainty: (256, 256) float32 in [0, 0.5], the standard deviation of the probability, where it is known.
        raw: (256, 256) bool, the mask before specks were removed from it, where that is done.
        logits: what the model takes back with the next click, where it reads "clicks".
    """

    mask: np.ndarray
    probability: np.ndarray
    score: float | None = None
    uncertainty: np.ndarray | None = None
    raw: np.ndarray | None = None
    logits: Any = None


class Segmenter(Protocol):
    """A model under comparison.

    Attributes:
        reads: which of "box", "point", "clicks" and "none" it takes as a prompt. With "clicks" its `segment` takes
            `previous` too: the prediction of the clicks before, None at the first click.
        about: "checkpoint", "sha256" of the weights and "parameters", their number; None where it has none.
    """

    reads: tuple[str, ...]
    about: dict[str, Any]

    def encode(self, image: np.ndarray) -> Any:
        """(H0, W0) uint8 to whatever `segment` needs; called once for all prompts of an image."""

    def segment(self, encoded: Any, prompt: Prompt, target: str) -> Prediction:
        """Segment one object.

        Args:
            encoded: of `encode`.
            prompt: in pixels of 256x256, a box as SAMUS counts it (`data.prompts.to_indices`); without box and points,
                what the model makes of the image alone.
            target: name of the object, for models that know names.
        """


def about_module(module: nn.Module, checkpoint: str | Path | None) -> dict[str, Any]:
    """What a study says of a torch model; the hash is that of names and values of its state."""
    return {
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "sha256": hash_weights(module),
        "parameters": sum(each.numel() for each in module.parameters()),
    }


class CCSamSegmenter:
    """CC-SAM, or SAMUS as a configuration of it.

    Args:
        model: put in evaluation mode, used on the device where it is.
        processor: of images of 256x256.
        num_samples: draws of the fusion's posterior for the uncertainty; at least 2, or None for none. The mask is
            that of the means either way, the probability is the mean over the draws.

    Raises:
        ValueError: the processor or the model is not of 256x256, or draws are asked of a model without a posterior.
    """

    reads = ("box", "point", "clicks", "none")

    def __init__(self, model: CCSamModel, processor: CCSamProcessor, num_samples: int | None = None):
        sizes = {processor.image_processor.input_size, (model.config.vision_config.image_size,) * 2}
        if sizes != {SIZE}:
            raise ValueError(f"model and processor are of {sorted(sizes)}; protocol 'samus' needs {SIZE}")
        if num_samples is not None and (num_samples < 2 or model.fusion is None):
            raise ValueError(
                f"num_samples={num_samples} with fusion={model.config.fusion!r}; expected at least 2 draws of 'vaf'"
            )
        self.model, self.processor, self.num_samples = model.eval(), processor, num_samples
        self.about = about_module(model, model.name_or_path or None)

    @classmethod
    def load(cls, checkpoint: str | Path, num_samples: int | None = None) -> "CCSamSegmenter":
        """From a folder or Hub id, onto the GPU where there is one; OSError and ValueError as in `CCSamPipeline`."""
        pipe = CCSamPipeline.from_pretrained(checkpoint)
        model = pipe.model.to("cuda") if torch.cuda.is_available() else pipe.model
        return cls(model, pipe.processor, num_samples)

    @torch.inference_mode()
    def encode(self, image: np.ndarray) -> Any:
        """See `Segmenter`."""
        pixel_values = self.processor(images=[image], return_tensors="pt")["pixel_values"]
        return self.model.encode(pixel_values.to(self.model.device, self.model.dtype))

    @torch.inference_mode()
    def segment(self, encoded: Any, prompt: Prompt, target: str, previous: Prediction | None = None) -> Prediction:
        """See `Segmenter`. As in the pipeline: a smooth outline, one object, within the box."""
        fused, vit_map = encoded.fused, encoded.vit_map
        inputs = as_tensors(prompt, self.model.device)
        if self.model.config.prompt_prior == "shape" and "input_boxes" in inputs:  # its ellipse is that of the edges
            inputs["input_boxes"] = inputs["input_boxes"] + torch.tensor([0, 0, 1, 1], device=self.model.device)
        if previous is not None:
            inputs["input_masks"] = previous.logits[:, :, 0].to(self.model.device)
        mask_logits, iou_scores = self.model.decode(fused.feature_map, **inputs)
        logits, uncertainty = logits_to_protocol(mask_logits[0, 0]), None
        raw, probability = (logits > 0).numpy(), logits.sigmoid().numpy()
        prompt_of_mask = as_prompt_of_mask(prompt)
        mask, limit = clean_mask(raw, **prompt_of_mask), limit_of(SIZE, **prompt_of_mask)
        if self.num_samples is not None:
            mean, deviation = self.model.sample_masks(fused, vit_map, self.num_samples, inputs)
            probability = logits_to_protocol(mean[0, 0].logit(eps=1e-6)).sigmoid().numpy()
            uncertainty = to_protocol(deviation[0, 0]).numpy()
        probability = follow_mask(probability, raw, mask, 0.5)
        if limit is not None:
            probability = np.where(limit, probability, np.float32(0))
            uncertainty = None if uncertainty is None else np.where(limit, uncertainty, np.float32(0))
        return Prediction(mask, probability, float(iou_scores[0, 0, 0]), uncertainty, raw, mask_logits)


class SamSegmenter:
    """transformers' `SamModel`, at the size of its own processor; of its three masks the one it scores best.

    Args:
        model: put in evaluation mode.
        processor: `SamProcessor`.
    """

    reads = ("box", "point", "clicks")

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor = model.eval(), processor
        self.about = about_module(model, model.name_or_path or None)

    @classmethod
    def load(cls, checkpoint: str | Path, num_samples: int | None = None) -> "SamSegmenter":
        """From a folder or Hub id; ValueError for draws, which it has not."""
        from transformers import SamModel, SamProcessor

        refuse_draws("a SamModel", num_samples)
        with LOAD_LOCK:
            model = SamModel.from_pretrained(checkpoint)
        return cls(model.to("cuda") if torch.cuda.is_available() else model, SamProcessor.from_pretrained(checkpoint))

    @torch.inference_mode()
    def encode(self, image: np.ndarray) -> Any:
        """See `Segmenter`."""
        colours = np.repeat(image[..., None], 3, axis=-1)
        inputs = self.processor(images=colours, return_tensors="pt").to(self.model.device)
        return colours, self.model.get_image_embeddings(inputs["pixel_values"])

    @torch.inference_mode()
    def segment(self, encoded: Any, prompt: Prompt, target: str, previous: Prediction | None = None) -> Prediction:
        """See `Segmenter`; of a single click the best of SAM's three masks counts, by the model's own score."""
        image, embeddings = encoded
        size = image.shape[:2]
        if prompt.box is not None:
            box = rescale_boxes(torch.from_numpy(prompt.box), SIZE, size)
            given = {"input_boxes": [[box.tolist()]]}
        else:
            points = prompt.points * [size[1] / SIZE[1], size[0] / SIZE[0]]
            given = {"input_points": [[points.tolist()]], "input_labels": [[prompt.labels.tolist()]]}
        inputs = self.processor(images=image, return_tensors="pt", **given).to(self.model.device)
        sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
        inputs.pop("pixel_values")
        if previous is not None:
            inputs["input_masks"] = previous.logits
        is_single_click = prompt.box is None and len(prompt.points) == 1
        output = self.model(image_embeddings=embeddings, multimask_output=is_single_click, **inputs)
        best = int(output.iou_scores[0, 0].argmax())
        small = output.pred_masks[:, :, best : best + 1]
        masks = self.processor.image_processor.post_process_masks(
            small.cpu(), *(each.cpu() for each in sizes), binarize=False
        )
        logits = to_protocol(masks[0][0])
        score = float(output.iou_scores[0, 0, best])
        return Prediction((logits > 0).numpy(), logits.sigmoid().numpy(), score, logits=small[:, 0])


class UNetSegmenter:
    """A U-Net with an output for each target it was trained on; it reads no prompt.

    A target that it does not know gets the largest of all its probabilities: something, whatever it is.

    Args:
        model: of `ccsam_hf.evaluation.unet`.
        targets: names of its outputs.
        checkpoint: where it came from.
    """

    reads = ("box", "point", "none")

    def __init__(self, model: nn.Module, targets: Sequence[str], checkpoint: str | Path | None = None):
        self.model, self.targets = model.eval(), list(targets)
        self.about = about_module(model, checkpoint)

    @classmethod
    def load(cls, checkpoint: str | Path, num_samples: int | None = None) -> "UNetSegmenter":
        """From a folder of `training/train_unet.py`; ValueError for draws, which it has not."""
        from .unet import load_unet

        refuse_draws("a U-Net", num_samples)
        return cls(*load_unet(checkpoint), checkpoint)

    def encode(self, image: np.ndarray) -> np.ndarray:
        """See `Segmenter`: (targets, 256, 256) probabilities."""
        from .unet import predict

        return np.stack([predict(self.model, image, channel) for channel in range(len(self.targets))])

    def segment(self, encoded: np.ndarray, prompt: Prompt, target: str) -> Prediction:
        """See `Segmenter`."""
        known = target in self.targets
        probability = encoded[self.targets.index(target)] if known else encoded.max(axis=0)
        return Prediction(probability > 0.5, probability)


class BlindSegmenter:
    """A baseline: a mask drawn from the prompt alone.

    Args:
        reads: what its drawing needs, see `Segmenter`.
        draw: prompt and target to (256, 256) bool.
    """

    about = {"checkpoint": None, "sha256": None, "parameters": None}

    def __init__(self, reads: tuple[str, ...], draw: Callable[[Prompt, str], np.ndarray]):
        self.reads, self.draw = reads, draw

    def encode(self, image: np.ndarray) -> None:
        """Nothing: it does not look."""

    def segment(self, encoded: None, prompt: Prompt, target: str) -> Prediction:
        """See `Segmenter`; all it says is certain."""
        mask = self.draw(prompt, target)
        return Prediction(mask, mask.astype(np.float32))


def ellipse() -> BlindSegmenter:
    """The ellipse inscribed in the box."""
    return BlindSegmenter(("box",), lambda prompt, target: inscribed_ellipse(to_edges(prompt.box), SIZE))


def box_itself() -> BlindSegmenter:
    """The filled box."""
    return BlindSegmenter(("box",), lambda prompt, target: filled_box(to_edges(prompt.box), SIZE))


def disc(truths: Sequence[np.ndarray]) -> BlindSegmenter:
    """The disc around the click whose area is the median of the given masks'."""
    radius = median_disc_radius([np.count_nonzero(truth) for truth in truths])
    return BlindSegmenter(("point",), lambda prompt, target: median_disc(prompt.points[0], radius, SIZE))


def mean_mask(truths: Sequence[np.ndarray], targets: Sequence[str]) -> BlindSegmenter:
    """The pixels that belong to at least half of the given masks of a target."""
    masks = {
        name: np.mean([truth for truth, target in zip(truths, targets, strict=True) if target == name], axis=0) >= 0.5
        for name in set(targets)
    }
    return BlindSegmenter(("none",), lambda prompt, target: masks[target])


Loader = Callable[[str, int | None], Segmenter]
LOADERS: dict[str, Loader] = {
    "ccsam": CCSamSegmenter.load,
    "sam": SamSegmenter.load,
    "unet": UNetSegmenter.load,
    "ellipse": lambda checkpoint, num_samples: ellipse(),
    "filled-box": lambda checkpoint, num_samples: box_itself(),
}


def register_segmenter(kind: str, load: Loader) -> None:
    """Let `load_segmenter("<kind>:<checkpoint>")` find another system.

    Args:
        kind: word before the colon.
        load: checkpoint and number of posterior draws, or None, to a `Segmenter`.

    Raises:
        ValueError: the word is taken.
    """
    if kind in LOADERS:
        raise ValueError(f"kind {kind!r} is taken; taken are {', '.join(LOADERS)}: choose another word")
    LOADERS[kind] = load


def load_segmenter(what: str, num_samples: int | None = None) -> Segmenter:
    """Load a model by `<kind>:<checkpoint>`; without a kind it is CC-SAM.

    Args:
        what: for instance "ccsam:models/mine", "unet:runs/unet", "ellipse:", "some/hub-id".
        num_samples: draws for the uncertainty, where the kind has them.

    Raises:
        ValueError: the kind is unknown, or has no draws.
    """
    kind, colon, checkpoint = what.partition(":")
    if not colon or Path(what).exists():
        return LOADERS["ccsam"](what, num_samples)
    if kind not in LOADERS:
        raise ValueError(f"{what!r} names the kind {kind!r}; known are {', '.join(LOADERS)}, as in 'ccsam:FOLDER'")
    return LOADERS[kind](checkpoint, num_samples)


def as_tensors(prompt: Prompt, device: torch.device) -> dict[str, torch.Tensor | None]:
    """A prompt as arguments of `CCSamModel.decode`, of one image with one object."""
    if prompt.box is not None:
        return {"input_boxes": torch.from_numpy(prompt.box).to(device)[None, None]}
    if prompt.points is not None:
        points, labels = torch.from_numpy(prompt.points), torch.from_numpy(prompt.labels)
    else:  # SAM's own way of saying that there is no point
        points, labels = torch.zeros(1, 2), torch.full((1,), -1)
    return {"input_points": points.to(device)[None, None], "input_labels": labels.to(device)[None, None]}


def as_prompt_of_mask(prompt: Prompt) -> dict[str, Any]:
    """A prompt as arguments of `clean_mask`, whose boxes are edges: the last column and row of a box lie inside."""
    box = None if prompt.box is None else to_edges(prompt.box)
    if prompt.points is None:
        return {"box": box}
    return {"box": box, "points": prompt.points.tolist(), "labels": prompt.labels.tolist()}


def to_protocol(maps: torch.Tensor) -> torch.Tensor:
    """(1, h, w) on any device to (256, 256) float32 on the CPU, bilinearly."""
    return resize_maps(maps.float().cpu()[None], SIZE)[0, 0]


def logits_to_protocol(mask_logits: torch.Tensor) -> torch.Tensor:
    """Logits (1, h, w) on any device to (256, 256) float32 on the CPU, smoothly, as the pipeline resizes them."""
    return resize_smoothly(mask_logits.float().cpu()[None], SIZE)[0, 0]


def refuse_draws(kind: str, num_samples: int | None) -> None:
    """Raise ValueError where draws are asked of a model that has no posterior."""
    if num_samples is not None:
        raise ValueError(f"num_samples={num_samples}, but {kind} has no posterior to draw from: leave it out")
