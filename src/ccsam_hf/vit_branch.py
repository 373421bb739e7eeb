"""The ViT branch: pixel_values -> vit_map, SAM's image encoder with adapters; padding tokens are not projected.

Source: CC-SAM paper, Section 3.1; SAM's ViTDet encoder (arXiv 2304.02643, Appendix A) for blocks and relative
positions; SAMUS (arXiv 2309.06824) for where the adapters stand.

Letters: B images, h w token grid, L tokens in one attention window, C channels, d channels of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.sam.modeling_sam import SamMLPBlock, SamVisionNeck

from .adapters import FeatureAdapter, PositionAdapter
from .fusion import CrossBranchAttention


def relative_position_terms(query: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Decomposed relative-position terms of attention logits in a square window.

    Source: Li et al., "MViTv2" (arXiv 2112.01526), as SAM uses it: the *unscaled* query meets one table for the row
    offset and one for the column offset.

    Args:
        query: (N, heads, L, d) with L = size*size.
        rel_pos_h, rel_pos_w: (2*size - 1, d).
        size: rows and columns of the window.

    Returns:
        Two tensors (N, heads, L, size): for each query the term of every key row, and of every key column.
    """
    positions = torch.arange(size, device=query.device)
    offsets = positions[:, None] - positions[None, :] + size - 1  # (q, k)
    grid_query = query.unflatten(2, (size, size))  # (N, heads, q_h, q_w, d)
    # an embedding rather than an index: the gradient of `table[offsets]` adds up in an order that threads decide
    rows = torch.einsum("nyhwd,hkd->nyhwk", grid_query, F.embedding(offsets, rel_pos_h).to(query.dtype))
    columns = torch.einsum("nyhwd,wkd->nyhwk", grid_query, F.embedding(offsets, rel_pos_w).to(query.dtype))
    return rows.flatten(2, 3), columns.flatten(2, 3)


def eager_attention(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attention written out: logits (N, heads, L, L) plus the relative-position terms, softmax, weighted values."""
    bias = (rows[..., :, None] + columns[..., None, :]).flatten(-2)  # (N, heads, L, L)
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1) + bias
    return logits.softmax(dim=-1) @ value


def fused_attention(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The same numbers by one fused kernel that never stores the (L, L) logits, also in training.

    The term of a key depends on the key's row and column alone, so it is a scalar product too: the query carries its
    terms for all rows and columns as further channels, the key a one in the channels of its own row and column.
    """
    size, head_dim = rows.shape[-1], query.shape[-1]
    one = torch.eye(size, dtype=key.dtype, device=key.device)
    own_row = one.repeat_interleave(size, dim=0)  # (L, size)
    own_column = one.repeat(size, 1)
    position = torch.cat([own_row, own_column], dim=-1).expand(*key.shape[:2], -1, -1)
    attended = F.scaled_dot_product_attention(
        torch.cat([query * head_dim**-0.5, rows, columns], dim=-1),
        torch.cat([key, position], dim=-1),
        F.pad(value, (0, 2 * size)),  # fused kernels want one width for all three
        scale=1.0,
    )
    return attended[..., :head_dim]


class WindowAttention(nn.Module):
    """Multi-head attention with decomposed relative positions, in windows or over the whole grid.

    The grid is padded to whole windows with tokens that are zero after the first LayerNorm, so the query, key and
    value of a padding token are the bias of the projection and nothing else: only real tokens are projected, before
    (q, k, v) and after (output) the attention.

    Args:
        config: `CCSamVisionConfig`.
        window_size: rows and columns of a window; equal to the grid it is global attention.
    """

    def __init__(self, config, window_size: int):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.window_size = window_size
        head_dim = config.hidden_size // config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * window_size - 1, head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * window_size - 1, head_dim))

    def _project(self, hidden_states: Tensor, padding: tuple[int, int]) -> Tensor:
        if not any(padding):
            return self.qkv(hidden_states)
        real = F.linear(hidden_states, self.qkv.weight)
        return F.pad(real, (0, 0, 0, padding[1], 0, padding[0])) + self.qkv.bias.to(real.dtype)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map `(B, h, w, C)` to `(B, h, w, C)`."""
        batch_size, height, width, _ = hidden_states.shape
        size = self.window_size
        qkv = self._project(hidden_states, padding=(-height % size, -width % size))  # (B, H, W, 3C)
        windows = (qkv.shape[1] // size, qkv.shape[2] // size)  # rows and columns of windows
        qkv = qkv.view(batch_size, windows[0], size, windows[1], size, 3, self.num_heads, -1)
        qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7)  # (3, B, *windows, heads, size, size, d)
        query, key, value = qkv.reshape(3, -1, self.num_heads, size * size, qkv.shape[-1])  # (N, heads, L, d) each
        rows, columns = relative_position_terms(query, self.rel_pos_h, self.rel_pos_w, size)
        attention = eager_attention if self.config._attn_implementation == "eager" else fused_attention
        attended = attention(query, key, value, rows, columns)
        attended = attended.reshape(batch_size, *windows, self.num_heads, size, size, -1)
        attended = attended.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)  # (B, H, W, C)
        return self.proj(attended[:, :height, :width].contiguous())  # a frozen layer is slow on a view


class CCSamBlock(GradientCheckpointingLayer):
    """One ViT block; a global one carries a feature adapter beside its MLP and, for SAMUS, the cross-branch attention.

    Args:
        config: `CCSamVisionConfig`.
        is_global: attention over the whole grid instead of windows.
        cross_branch: whether the CNN's map takes part (SAMUS).
    """

    def __init__(self, config, is_global: bool, cross_branch: bool):
        super().__init__()
        self.is_global = is_global
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = WindowAttention(config, config.grid_size if is_global else config.window_size)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SamMLPBlock(config)
        self.adapter_scale = config.adapter_scale
        has_adapter = is_global and config.feature_adapters
        self.adapter = FeatureAdapter(config.hidden_size, config.adapter_size) if has_adapter else None
        has_cross_branch = is_global and cross_branch
        self.cross_branch = (
            CrossBranchAttention(config.hidden_size, config.num_attention_heads) if has_cross_branch else None
        )

    def forward(self, hidden_states: Tensor, cnn_map: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Take tokens `(B, h, w, C)` and the CNN's map `(B, C, h, w)` or None; return both, updated."""
        normed = self.layer_norm1(hidden_states)
        if self.cross_branch is not None:
            update, cnn_map = self.cross_branch(normed, cnn_map)
            normed = normed + update
        hidden_states = hidden_states + self.attn(normed)

        normed = self.layer_norm2(hidden_states)
        hidden_states = hidden_states + self.mlp(normed)
        if self.adapter is not None:
            hidden_states = hidden_states + self.adapter_scale * self.adapter(normed)
        return hidden_states, cnn_map


class PatchEmbedding(nn.Module):
    """SAM's patch convolution at a stride of its own: overlapping patches where the stride is below the patch size.

    Source: SAMUS ("overlapped patch embedding"): the input is resized so that the grid comes out as image / stride,
    for 256 pixels, patches of 16 and a stride of 8: 264 pixels and 32x32 tokens.
    """

    def __init__(self, config):
        super().__init__()
        self.projection = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_stride
        )
        self.input_size = config.image_size + config.patch_size - config.patch_stride

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map `(B, 3, H, W)` to tokens `(B, h, w, C)`."""
        pixel_values = pixel_values.to(self.projection.weight.dtype)
        if pixel_values.shape[-1] != self.input_size:
            pixel_values = F.interpolate(pixel_values, (self.input_size, self.input_size), mode="bilinear")
        # In memory as it is read from here on: a view of it would be copied by every LayerNorm.
        return self.projection(pixel_values).permute(0, 2, 3, 1).contiguous()


class ViTBranch(nn.Module):
    """SAM's ViT with position adapter and feature adapters.

    Args:
        config: `CCSamVisionConfig`.
        cross_branch: whether the global blocks exchange with the CNN's map (SAMUS).
    """

    def __init__(self, config, cross_branch: bool = False):
        super().__init__()
        grid = config.pretrained_grid_size
        self.patch_embed = PatchEmbedding(config)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, config.hidden_size))
        self.position_adapter = PositionAdapter(config.hidden_size, config.num_position_downsamplings)
        self.input_adapter = (
            FeatureAdapter(config.hidden_size, config.adapter_size) if config.feature_adapters else None
        )
        self.layers = nn.ModuleList(
            CCSamBlock(config, is_global=index in config.global_attn_indexes, cross_branch=cross_branch)
            for index in range(config.num_hidden_layers)
        )
        self.cross_branch_scale = 0.5 if cross_branch else None  # SAMUS adds half of the refined CNN map at the end
        self.neck = SamVisionNeck(config)

    def learnt_parts(self) -> list[nn.Module | nn.Parameter]:
        """What learns while SAM's weights stay frozen: adapters and the relative positions of the global blocks."""
        parts = [self.position_adapter]
        if self.input_adapter is not None:
            parts.append(self.input_adapter)
        for layer in self.layers:
            parts += [part for part in (layer.adapter, layer.cross_branch) if part is not None]
            if layer.is_global:
                parts += [layer.attn.rel_pos_h, layer.attn.rel_pos_w]
        return parts

    def forward(self, pixel_values: Tensor, cnn_map: Tensor | None = None) -> Tensor:
        """Map `(B, 3, H, W)` in [0, 1] (and SAMUS's CNN map) to `(B, C, h, w)`."""
        hidden_states = self.patch_embed(pixel_values)
        if self.input_adapter is not None:
            hidden_states = hidden_states + self.input_adapter(hidden_states)
        hidden_states = hidden_states + self.position_adapter(self.pos_embed)
        for layer in self.layers:
            hidden_states, cnn_map = layer(hidden_states, cnn_map)
        if self.cross_branch_scale is not None:
            hidden_states = hidden_states + self.cross_branch_scale * cnn_map.permute(0, 2, 3, 1)
        return self.neck(hidden_states)
