"""The CNN branch: pixel_values -> cnn_map, a frozen CNN with an adapter (CC-SAM) or SAMUS's trainable CNN.

Source: CC-SAM paper, Section 3.1 (ResNet-50 trained on RadImageNet, arXiv 1512.03385 and Radiology AI 4(5) e210315);
SAMUS (arXiv 2309.06824) for its CNN.
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetModel

from .adapters import ConvNormGelu

try:  # a Hub copy of a model without a backbone of timm loads where timm is not installed
    import timm
except ImportError:
    timm = None


def resize(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of `(B, C, h, w)` to `(B, C, *size)`; an input of that size is returned unchanged."""
    if feature_map.shape[-2:] == size:
        return feature_map
    return F.interpolate(feature_map, size, mode="bilinear")


class CNNAdapter(nn.Module):
    """The trainable fully connected layer behind the frozen CNN, applied at every position.

    Source: CC-SAM paper, Section 3.1 ("a trainable fully-connected layer, acting as an adapter"); LeakyReLU and
    dropout from Section 4.2.
    """

    def __init__(self, in_channels: int, out_channels: int, dropout: float):
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Map `(B, C, h, w)` to `(B, C', h, w)`."""
        hidden_states = self.linear(feature_map.permute(0, 2, 3, 1))
        return self.dropout(F.leaky_relu(hidden_states)).permute(0, 3, 1, 2)


class FrozenCNNBranch(nn.Module, ABC):
    """Frozen CNN, its chosen stages behind the adapter, bilinear to the token grid.

    The input is in [0, 1] as for the ViT; it is normalised here to the statistics of the CNN's own pre-training.
    While the CNN's parameters are frozen its BatchNorm keeps evaluation mode, also in `train()`.

    Args:
        config: `CCSamCNNConfig`.
        backbone: the CNN.
        channels: of each of its stages.
        output_channels: width of the map.
        grid_size: rows and columns of the map.
    """

    def __init__(self, config, backbone: nn.Module, channels: Sequence[int], output_channels: int, grid_size: int):
        super().__init__()
        self.backbone = backbone
        self.stages = [int(stage.removeprefix("stage")) for stage in config.feature_stages]
        self.adapter = CNNAdapter(sum(channels[stage - 1] for stage in self.stages), output_channels, config.dropout)
        self.image_mean, self.image_std = tuple(config.image_mean), tuple(config.image_std)
        self.grid_size = (grid_size, grid_size)
        self.output_channels = output_channels

    @property
    def backbone_learns(self) -> bool:
        """Whether any parameter of the CNN takes a gradient."""
        return any(parameter.requires_grad for parameter in self.backbone.parameters())

    def train(self, mode: bool = True):
        """Set the mode; a frozen CNN stays in evaluation mode, so its running statistics never move."""
        super().train(mode)
        self.backbone.train(mode and self.backbone_learns)
        return self

    def learnt_parts(self) -> list[nn.Module]:
        """What learns while the CNN stays frozen."""
        return [self.adapter]

    def adapted_size(self, finest: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns at which the adapter works, given those of the finest chosen map."""
        return finest

    @abstractmethod
    def stage_maps(self, normalised: Tensor) -> Sequence[Tensor]:
        """The maps (B, C_s, h_s, w_s) of all stages of the backbone, the finest first."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map `(B, 3, H, W)` in [0, 1] to `(B, C, h, w)`."""
        mean = pixel_values.new_tensor(self.image_mean)[:, None, None]
        std = pixel_values.new_tensor(self.image_std)[:, None, None]
        normalised = ((pixel_values - mean) / std).to(self.adapter.linear.weight.dtype)
        all_maps = self.stage_maps(normalised)
        maps = [all_maps[stage - 1] for stage in self.stages]
        finest = all_maps[min(self.stages) - 1].shape[-2:]
        size = self.adapted_size(finest)
        stacked = torch.cat([resize(feature_map, size) for feature_map in maps], dim=1)
        return resize(self.adapter(stacked), self.grid_size)


class ResNetBranch(FrozenCNNBranch):
    """The paper's CNN branch: a ResNet of transformers, built from the sizes in `CCSamCNNConfig`."""

    def __init__(self, config, output_channels: int, grid_size: int):
        resnet_config = ResNetConfig(
            embedding_size=config.embedding_size,
            hidden_sizes=list(config.hidden_sizes),
            depths=list(config.depths),
            layer_type=config.layer_type,
        )
        backbone = ResNetModel(resnet_config)
        backbone._supports_sdpa = True  # it has no attention; else `set_attn_implementation("sdpa")` stops at it
        super().__init__(config, backbone, config.hidden_sizes, output_channels, grid_size)

    def stage_maps(self, normalised: Tensor) -> Sequence[Tensor]:
        """Hidden states behind the stem."""
        return self.backbone(normalised, output_hidden_states=True).hidden_states[1:]


class TimmBranch(FrozenCNNBranch):
    """A backbone of timm in the place of the ResNet; its weights come with the checkpoint and are never downloaded.

    Args:
        name: of a model of timm that gives feature maps.
        config, output_channels, grid_size: see `FrozenCNNBranch`.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm has no such model, or the model has fewer stages than the config names.
    """

    def __init__(self, name: str, config, output_channels: int, grid_size: int):
        if timm is None:
            raise ImportError(f"cnn_branch={name!r} is a backbone of timm, which is not installed: pip install timm")
        if not timm.is_model(name):
            near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3)) or "none that is similar"
            raise ValueError(
                f"cnn_branch={name!r}: timm has no model of that name ({near}); expected resnet50, samus, none or a "
                "name from timm.list_models()"
            )
        backbone = timm.create_model(name, pretrained=False, features_only=True)
        channels = backbone.feature_info.channels()
        outside = [stage for stage in config.feature_stages if int(stage.removeprefix("stage")) > len(channels)]
        if outside:
            raise ValueError(f"feature_stages {outside} do not exist in the {len(channels)} stages of {name}")
        super().__init__(config, backbone, channels, output_channels, grid_size)

    def adapted_size(self, finest: tuple[int, int]) -> tuple[int, int]:
        """The token grid at most: finer, the adapter would compute what the resize to the grid averages away."""
        return min(finest, self.grid_size)

    def stage_maps(self, normalised: Tensor) -> Sequence[Tensor]:
        """What timm returns for `features_only`."""
        return self.backbone(normalised)


class SamusCNNBranch(nn.Module):
    """SAMUS's CNN: a 3x3 convolution, then three of them behind 2x2 max-pooling, all trainable.

    Args:
        config: `CCSamCNNConfig`; `samus_channels` is the width of the first layer and doubles at each pooling but the
            last, which maps to `output_channels`.
        output_channels: width of the map, that of the ViT tokens in SAMUS.
        num_channels: channels of the image.
        num_downsamplings: how often the image is halved; 3 leads from 256 pixels to the 32x32 grid.
    """

    def __init__(self, config, output_channels: int, num_channels: int, num_downsamplings: int):
        super().__init__()
        widths = [config.samus_channels * 2**level for level in range(num_downsamplings)] + [output_channels]
        self.stem = ConvNormGelu(num_channels, widths[0])
        self.layers = nn.ModuleList(ConvNormGelu(narrow, wide) for narrow, wide in pairwise(widths))
        self.output_channels = output_channels

    def learnt_parts(self) -> list[nn.Module]:
        """All of it learns."""
        return [self]

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map `(B, 3, H, W)` in [0, 1] to `(B, C, h, w)`."""
        feature_map = self.stem(pixel_values.to(self.stem.conv.weight.dtype))
        for layer in self.layers:
            feature_map = layer(F.max_pool2d(feature_map, kernel_size=2))
        return feature_map


def build_cnn_branch(config) -> FrozenCNNBranch | SamusCNNBranch | None:
    """The branch that `CCSamConfig.cnn_branch` names, as wide as the fusion needs; None for "none"."""
    vision, cnn = config.vision_config, config.cnn_config
    if config.cnn_branch == "none":
        return None
    if config.cnn_branch == "samus":
        num_downsamplings = vision.patch_stride.bit_length() - 1
        return SamusCNNBranch(cnn, vision.hidden_size, vision.num_channels, num_downsamplings)
    output_channels = vision.hidden_size if config.fusion == "cross_branch" else cnn.output_channels
    if config.cnn_branch == "resnet50":
        return ResNetBranch(cnn, output_channels, vision.grid_size)
    return TimmBranch(config.cnn_branch, cnn, output_channels, vision.grid_size)
