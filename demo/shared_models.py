"""The models that all users share: loaded once, asked one call at a time, on the CPU or on a GPU that ZeroGPU lends.

An image is encoded once (`encode`), and each prompt on it is then decoded only (`decode`, `uncertainties`).
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from ccsam_hf import DEFAULT, CCSamPipeline, EncodedImage, SegmentationResult

try:
    import spaces
except ImportError:  # everywhere but on a Space with ZeroGPU
    spaces = None

MODELS_VARIABLE = "CCSAM_MODELS"  # ids or folders of further models, separated by commas
BUNDLED = "ccsam-small"
SEED = 0  # of the draws, so that the same prompt shows the same uncertainty
# One thread for all work with models: the draws take their numbers from torch's one generator, and every thread that
# has run a model keeps memory of its own, while gradio answers with up to 40 of them.
WORKER = ThreadPoolExecutor(1, thread_name_prefix="model")

on_gpu = spaces.GPU if spaces else lambda function: function


def model_names() -> list[str]:
    """The bundled model, and those that CCSAM_MODELS names."""
    named = os.environ.get(MODELS_VARIABLE, "").split(",")
    return list(dict.fromkeys([BUNDLED, *(name.strip() for name in named if name.strip())]))


@cache
def load(name: str) -> CCSamPipeline:
    """The pipeline of a model, on the GPU where there is one, its grounder too.

    Raises:
        ValueError: the name is not among `model_names`, or nothing can be loaded there.
    """
    if name not in model_names():
        raise ValueError(f"model {name!r} is not offered here; choose one of {', '.join(model_names())}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        pipe = CCSamPipeline.from_pretrained(DEFAULT if name == BUNDLED else name, device_map=device)
        if pipe.has_grounder:
            _ = pipe.grounder  # loaded now, and not with the first text
    except (OSError, ValueError) as error:
        raise ValueError(f"model {name!r} cannot be loaded ({error}); choose another one") from error
    return pipe


def encode(name: str, image: Image.Image) -> EncodedImage:
    """Encode an image with a model. What comes back lies on the CPU, so that it can be kept for each user.

    Raises:
        ValueError: of `load`, and of the pipeline for an image that it does not accept.
    """
    return _run(_encode, name, image)


def decode(
    name: str, encoded: EncodedImage, prompts: dict[str, Any], spacing_mm: tuple[float, float] | None
) -> list[SegmentationResult]:
    """Segment what the prompts name, on an image that the same model has encoded.

    Args:
        name: one of `model_names`.
        encoded: of `encode`.
        prompts: `text`, `boxes`, `points` and `labels` of `CCSamPipeline.__call__`.
        spacing_mm: of the image, for the measurements.

    Raises:
        ValueError: of `load`, and of the pipeline for a prompt that it does not accept.
    """
    return _run(_decode, name, encoded, prompts, spacing_mm)


def uncertainties(name: str, encoded: EncodedImage, prompts: dict[str, Any], num_samples: int) -> list[np.ndarray]:
    """For each object of the prompts, which hold no text, the (H0, W0) standard deviation over seeded draws."""
    return _run(_uncertainties, name, encoded, prompts, num_samples)


def _run(work: Callable, name: str, *arguments: Any) -> Any:
    """Do the work with the model of that name, alone, and raise here what it refuses."""
    context = copy_context()  # ZeroGPU reads there who asks
    value, error = WORKER.submit(context.run, _load_and_work, work, name, *arguments).result()
    if error is not None:
        raise error
    return value


def _load_and_work(work: Callable, name: str, *arguments: Any) -> tuple[Any, ValueError | None]:
    load(name)  # here and not on the lent GPU, whose process is given back with all that it loaded
    return _on_gpu(work, name, *arguments)


@on_gpu
def _on_gpu(work: Callable, name: str, *arguments: Any) -> tuple[Any, ValueError | None]:
    """The part that ZeroGPU runs in another process; errors return as values because it replaces those raised."""
    try:
        return work(load(name), *arguments), None
    except ValueError as error:
        return None, error


def _encode(pipe: CCSamPipeline, image: Image.Image) -> EncodedImage:
    return pipe.encode(image).to("cpu")


def _decode(
    pipe: CCSamPipeline, encoded: EncodedImage, prompts: dict[str, Any], spacing_mm: tuple[float, float] | None
) -> list[SegmentationResult]:
    return pipe(encoded, spacing_mm=spacing_mm, **prompts)


def _uncertainties(
    pipe: CCSamPipeline, encoded: EncodedImage, prompts: dict[str, Any], num_samples: int
) -> list[np.ndarray]:
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        results = pipe(encoded, num_samples=num_samples, **prompts)
    return [result.uncertainty for result in results]
