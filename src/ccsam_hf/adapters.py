"""Feature adapter and position adapter: the small learnt parts beside SAM's frozen ViT.

Source: CC-SAM paper, Section 3.1 and Eq. (1), which follow SAMUS (arXiv 2309.06824).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.sam.modeling_sam import SamLayerNorm


class ZeroLinear(nn.Linear):
    """A linear layer whose start value is zero, so that what it feeds starts silent.

    A class of its own because `_init_weights` can recognise a leaf by its type only.
    """


class FeatureAdapter(nn.Module):
    """A(x) = GELU(x M_d) M_u, with biases.

    Source: CC-SAM paper, Eq. (1). The paper prints M_u as d x d/4; only d/4 x d fits. M_u starts at zero, chosen here:
    a model that has just loaded SAM's weights then computes what SAM computes.

    Args:
        hidden_size: d.
        adapter_size: width between the two projections, d/4 in the paper.
    """

    def __init__(self, hidden_size: int, adapter_size: int):
        super().__init__()
        self.down = nn.Linear(hidden_size, adapter_size)
        self.up = ZeroLinear(adapter_size, hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map `(..., d)` to `(..., d)`; the caller adds a skip connection if it needs one."""
        return self.up(F.gelu(self.down(hidden_states)))


class ConvNormGelu(nn.Module):
    """3x3 convolution without bias, LayerNorm over channels, GELU; `(B, C, h, w)` to `(B, C', h, w)`."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.layer_norm = SamLayerNorm(out_channels, eps=1e-6, data_format="channels_first")

    def forward(self, feature_map: Tensor) -> Tensor:
        """Apply the three in turn."""
        return F.gelu(self.layer_norm(self.conv(feature_map)))


class PositionAdapter(nn.Module):
    """Bring SAM's positional embedding to the token grid: 2x2 max-pooling and a convolution for every halving.

    Source: CC-SAM paper, Section 3.1; layout of the convolution from SAMUS. With no halving it is the identity.
    """

    def __init__(self, hidden_size: int, num_downsamplings: int):
        super().__init__()
        self.layers = nn.ModuleList(ConvNormGelu(hidden_size, hidden_size) for _ in range(num_downsamplings))

    def forward(self, pos_embed: Tensor) -> Tensor:
        """Map `(1, H, W, d)` to `(1, h, w, d)`."""
        if not self.layers:
            return pos_embed
        feature_map = pos_embed.permute(0, 3, 1, 2)
        for layer in self.layers:
            feature_map = layer(F.max_pool2d(feature_map, kernel_size=2))
        return feature_map.permute(0, 2, 3, 1).contiguous(memory_format=torch.contiguous_format)
