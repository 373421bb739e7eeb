"""The U-Net that CC-SAM is compared with: an output for each target, no prompt (`build_unet`, `load_unet`, `predict`).

Source: Ronneberger et al., "U-Net" (arXiv 1505.04597), as segmentation-models-pytorch builds it. Encoder and decoder
are chosen so that it has as many parameters as ccsam-tiny: 1.46 million beside 1.52 million. It starts from random
weights and reads the grey image as CC-SAM does, resized to 256x256, in [0, 1].
"""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

from ..image_processing_ccsam import CCSamImageProcessor

ENCODER = "tu-tf_mobilenetv3_small_minimal_100"
DECODER_CHANNELS = (128, 64, 32, 16, 8)
ABOUT_FILE = "ccsam_hf_unet.json"


def build_unet(targets: Sequence[str]) -> nn.Module:
    """A U-Net with random weights: (B, 1, 256, 256) in [0, 1] to mask logits (B, number of targets, 256, 256).

    Args:
        targets: name of each output.

    Raises:
        ImportError: no segmentation-models-pytorch.
        ValueError: no target, or one twice.
    """
    if not targets or len(set(targets)) < len(targets):
        raise ValueError(f"targets={list(targets)}; expected at least one name, and none twice")
    return import_smp().Unet(
        ENCODER, encoder_weights=None, in_channels=1, classes=len(targets), decoder_channels=DECODER_CHANNELS
    )


def save_unet(folder: Path, model: nn.Module, targets: Sequence[str]) -> None:
    """Write weights (safetensors), config and the names of the outputs into a folder."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink()  # it states a licence, which is the library's and not that of the weights
    image_size = CCSamImageProcessor.size["height"]
    about = {"targets": list(targets), "image_size": image_size}
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def load_unet(folder: str | Path) -> tuple[nn.Module, list[str]]:
    """What `save_unet` wrote: the model in evaluation mode on the CPU, and the names of its outputs.

    Raises:
        FileNotFoundError: the folder is none of these.
        ImportError: no segmentation-models-pytorch.
        RuntimeError: weights and config do not fit.
    """
    path = Path(folder) / ABOUT_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {ABOUT_FILE}; expected a folder of training/train_unet.py")
    with contextlib.redirect_stdout(sys.stderr):  # the library prints that it loads
        model = import_smp().from_pretrained(str(folder))
    return model.eval(), json.loads(path.read_text(encoding="utf-8"))["targets"]


@torch.inference_mode()
def predict(model: nn.Module, image: np.ndarray, channel: int) -> np.ndarray:
    """Probability of one target at every pixel.

    Args:
        model: of `load_unet`, on any device.
        image: (H0, W0) uint8.
        channel: of the target, see `channel_of`.

    Returns:
        (256, 256) float32 in [0, 1].

    Raises:
        ValueError: the model is in training mode, where a mask depends on the other images of its batch.
    """
    if model.training:
        raise ValueError("the U-Net is in training mode: call model.eval() first")
    pixel_values = CCSamImageProcessor()(image, return_tensors="pt")["pixel_values"][:, :1]  # (1, 1, 256, 256)
    mask_logits = model(pixel_values.to(next(model.parameters()).device))
    return mask_logits[0, channel].float().sigmoid().cpu().numpy()


def channel_of(targets: Sequence[str], target: str) -> int:
    """The output of a target; ValueError where it has none."""
    if target not in targets:
        raise ValueError(
            f"the U-Net has no output for {target!r}; it has {', '.join(targets)}: train it with that target"
        )
    return list(targets).index(target)


def import_smp() -> ModuleType:
    """segmentation-models-pytorch; ImportError that says how to install it."""
    try:
        import segmentation_models_pytorch
    except ImportError as error:
        raise ImportError('a U-Net needs segmentation-models-pytorch: pip install "ccsam-hf[evaluation]"') from error
    return segmentation_models_pytorch
