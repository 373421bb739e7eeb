"""An image as a model has encoded it (`EncodedImage`): decoded again for each prompt, by that model alone."""

import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .fusion import FusionOutput
from .pixel_spacing import PixelSpacing

SAMPLED_PARAMETERS = 64  # of a model, for its fingerprint
SAMPLED_VALUES = 8  # of each of them


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """What `CCSamModel.encode` and `CCSamPipeline.encode` return; further prompts then cost a decoding only.

    Args:
        fused: what the fusion made of the image; `fused.feature_map` is the image embedding (B, C, h, w).
        vit_map: (B, C, h, w), which further draws of the fusion's posterior need.
        model_fingerprint: `fingerprint` of the model; None where it was training, which changes it.
        image: as it was given, or as it was read from a file; this and the next two are None where the model was asked
            without the pipeline.
        size: (height, width) of the image.
        spacing_mm: (between rows, between columns) in millimetres, None where unknown.
    """

    fused: FusionOutput
    vit_map: Tensor
    model_fingerprint: int | None = None
    image: Image.Image | np.ndarray | Tensor | None = None
    size: tuple[int, int] | None = None
    spacing_mm: tuple[float, float] | PixelSpacing | None = None

    def __repr__(self) -> str:
        size = "" if self.size is None else f"{self.size[1]} x {self.size[0]} pixels, "
        features = self.fused.feature_map
        return f"EncodedImage({size}features {tuple(features.shape)}, {features.dtype}, on {features.device})"

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> "EncodedImage":
        """The same on another device, or in another precision."""
        return self._with_each(lambda tensor: tensor.to(device=device, dtype=dtype))

    def item(self, index: int) -> "EncodedImage":
        """One image of a batch, as a batch of one."""
        return self._with_each(lambda tensor: tensor[index : index + 1])

    def check_model(self, model: nn.Module) -> None:
        """Raise ValueError unless it was this model that encoded the image."""
        if self.model_fingerprint is not None and self.model_fingerprint != fingerprint(model):
            raise ValueError(
                "the image was encoded by another model, or by this one before its weights changed; encode it again "
                "with the model that decodes it"
            )

    def _with_each(self, change: Callable[[Tensor], Tensor]) -> "EncodedImage":
        return replace(self, fused=change_tensors(self.fused, change), vit_map=change(self.vit_map))


def change_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A dataclass with every tensor in it changed, those of dataclasses within it too."""
    if isinstance(value, Tensor):
        return change(value)
    if is_dataclass(value):
        return replace(
            value, **{each.name: change_tensors(getattr(value, each.name), change) for each in fields(value)}
        )
    return value


@torch.no_grad()
def fingerprint(model: nn.Module) -> int:
    """A number that tells a model's weights from others': of some values of some parameters, in bfloat16.

    It is the same after a move to another device, and after a cast from float32 to bfloat16.
    """
    parameters = list(model.parameters())
    by_device = defaultdict(list)
    for parameter in parameters[:: max(1, len(parameters) // SAMPLED_PARAMETERS)]:
        values = parameter.detach().reshape(-1)
        by_device[parameter.device].append(values[:: max(1, len(values) // SAMPLED_VALUES)].bfloat16())
    sampled = torch.cat([torch.cat(values).cpu() for values in by_device.values()])
    return zlib.crc32(sampled.view(torch.int16).numpy().tobytes())


__all__ = ["EncodedImage", "fingerprint"]
