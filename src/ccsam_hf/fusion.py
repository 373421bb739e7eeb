"""Fusion of the two branches: variational attention (CC-SAM), and the cross-branch attention of SAMUS.

Source: CC-SAM paper, Section 3.2, Eq. (2)-(7); Lin et al., "SAMUS" (arXiv 2309.06824) for the cross-branch attention.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .adapters import ConvNormGelu, ZeroLinear


@dataclass
class Gaussian:
    """A diagonal Gaussian over the latent space of every token.

    Args:
        mean: (B, T, Z).
        log_var: (B, T, Z), natural log of the variance; `None` where there is no variance (Eq. 5).
    """

    mean: Tensor
    log_var: Tensor | None = None

    def draw(self, sample: bool) -> Tensor:
        """One draw by the re-parameterization of Eq. (4), or the mean where `sample` is false."""
        if not sample or self.log_var is None:
            return self.mean
        return self.mean + torch.randn_like(self.mean) * (0.5 * self.log_var).exp()


@dataclass
class FusionOutput:
    """What the fusion hands on.

    Args:
        feature_map: (B, C, h, w), the image embedding for the mask decoder.
        weights: (B, 2, h, w), share of the ViT (index 0) and of the CNN (index 1) in each token, averaged over the
            latent dimensions; the two sum to one. This and the next are `None` where nothing variational fused.
        vit, cnn: Gaussians of z^v and z^c, Eq. (2) and (3).
        vit_logits, cnn_logits: Gaussians of the attention logits, Eq. (6).
    """

    feature_map: Tensor
    weights: Tensor | None = None
    vit: Gaussian | None = None
    cnn: Gaussian | None = None
    vit_logits: Gaussian | None = None
    cnn_logits: Gaussian | None = None


class LogVarianceLinear(nn.Linear):
    """The last layer of a log-variance MLP; it starts at `START` for every input, sigma = exp(-2) = 0.14.

    At a start of zero (sigma one) the draws of an untrained fusion would be noise that drowns the features.
    """

    START = -4.0


class GaussianHead(nn.Module):
    """Two MLPs that predict mean and log-variance of a Gaussian from `(B, T, C)`.

    Source: CC-SAM paper, Section 3.2 ("forecasted through MLPs"); activation from Section 4.2. Chosen here: one hidden
    layer, and a log-variance clamped to a stated range (`CCSamVAFConfig.log_var_range`).
    """

    def __init__(self, size: int, hidden_size: int, log_var_range: tuple[float, float]):
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(size, hidden_size), nn.LeakyReLU(), nn.Linear(hidden_size, size))
        self.log_var = nn.Sequential(
            nn.Linear(size, hidden_size), nn.LeakyReLU(), LogVarianceLinear(hidden_size, size)
        )
        self.log_var_range = tuple(log_var_range)

    def forward(self, hidden_states: Tensor) -> Gaussian:
        """Predict a Gaussian as wide as its input."""
        return Gaussian(self.mean(hidden_states), self.log_var(hidden_states).clamp(*self.log_var_range))


class LinearHead(nn.Linear):
    """Attention logits as a point estimate, Eq. (5): W_m and b_m, the same for both branches."""

    def forward(self, hidden_states: Tensor) -> Gaussian:
        """Predict logits (B, T, Z) that have no variance."""
        return Gaussian(super().forward(hidden_states))


class VariationalAttentionFusion(nn.Module):
    """Fuse the two feature maps in a latent space where each branch has a mean and a variance for each token.

    Source: CC-SAM paper, Section 3.2. Open there, chosen here: one latent vector for each token (or, with
    `granularity="image"`, for the image, as the equations read); softmax over the two branches for each latent
    dimension; a^k weighs z^k and W_h maps the sum to the embedding, since in Eq. (7) a^k and W_h z^k live in different
    spaces; one MLP pair for the logits of both branches, as Eq. (6) has one theta and Eq. (5) one W_m. With `residual`
    the ViT map is added and W_h starts at zero.

    Args:
        config: `CCSamVAFConfig`.
        vit_channels, cnn_channels: widths of the two maps; the result is as wide as the ViT map.
    """

    def __init__(self, config, vit_channels: int, cnn_channels: int):
        super().__init__()
        self.granularity, self.residual = config.granularity, config.residual
        latent_dim, hidden_size, log_var_range = config.latent_dim, config.head_hidden_size, config.log_var_range
        self.vit_encoder = self._latent_encoder(vit_channels, latent_dim, config.dropout)
        self.cnn_encoder = self._latent_encoder(cnn_channels, latent_dim, config.dropout)
        self.vit_head = GaussianHead(latent_dim, hidden_size, log_var_range)
        self.cnn_head = GaussianHead(latent_dim, hidden_size, log_var_range)
        if config.attention == "variational":
            self.attention_head = GaussianHead(latent_dim, hidden_size, log_var_range)
        else:
            self.attention_head = LinearHead(latent_dim, latent_dim)
        self.output = (ZeroLinear if config.residual else nn.Linear)(latent_dim, vit_channels)

    @staticmethod
    def _latent_encoder(channels: int, latent_dim: int, dropout: float) -> nn.Sequential:
        return nn.Sequential(nn.Linear(channels, latent_dim), nn.LeakyReLU(), nn.Dropout(dropout))

    def _tokens(self, feature_map: Tensor) -> Tensor:
        tokens = feature_map.flatten(2).transpose(1, 2)  # (B, h*w, C)
        return tokens.mean(dim=1, keepdim=True) if self.granularity == "image" else tokens

    def posterior(self, vit_map: Tensor, cnn_map: Tensor) -> tuple[Gaussian, Gaussian]:
        """Gaussians of z^v and z^c, Eq. (2) and (3), from maps `(B, C_v, h, w)` and `(B, C_c, h, w)`."""
        vit = self.vit_head(self.vit_encoder(self._tokens(vit_map)))
        cnn = self.cnn_head(self.cnn_encoder(self._tokens(cnn_map)))
        return vit, cnn

    def combine(self, vit: Gaussian, cnn: Gaussian, vit_map: Tensor, sample: bool) -> FusionOutput:
        """Draw z and the logits (or take their means), weigh and project: Eq. (4) to (7)."""
        z_vit, z_cnn = vit.draw(sample), cnn.draw(sample)  # (B, T, Z)
        vit_logits, cnn_logits = self.attention_head(z_vit), self.attention_head(z_cnn)
        weights = torch.stack([vit_logits.draw(sample), cnn_logits.draw(sample)], dim=1).softmax(dim=1)
        fused = self.output(weights[:, 0] * z_vit + weights[:, 1] * z_cnn)  # (B, T, C)
        size = vit_map.shape[-2:]
        feature_map = self._map(fused, size)
        if self.residual:
            feature_map = feature_map + vit_map
        shares = self._map(weights.mean(dim=-1).transpose(1, 2), size)  # (B, 2, h, w)
        return FusionOutput(feature_map, shares, vit, cnn, vit_logits, cnn_logits)

    def _map(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        feature_map = tokens.transpose(1, 2)  # (B, C, T)
        if self.granularity == "image":
            return feature_map[..., None].expand(-1, -1, *size)
        return feature_map.unflatten(2, size)

    def forward(self, vit_map: Tensor, cnn_map: Tensor) -> FusionOutput:
        """Fuse `(B, C_v, h, w)` and `(B, C_c, h, w)`; z and logits are sampled in training only."""
        vit, cnn = self.posterior(vit_map, cnn_map)
        return self.combine(vit, cnn, vit_map, sample=self.training)


class CrossBranchAttention(nn.Module):
    """SAMUS's exchange in one global block: the ViT tokens attend to the CNN's, which a convolution then refines.

    Source: SAMUS, Section "Cross-branch attention" (the ViT asks, the CNN answers; no relative positions).

    Args:
        hidden_size: width of both token grids.
        num_heads: number of attention heads.
    """

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.projection = nn.Linear(hidden_size, hidden_size)
        self.refine = ConvNormGelu(hidden_size, hidden_size)

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, h*w, d)

    def forward(self, hidden_states: Tensor, cnn_map: Tensor) -> tuple[Tensor, Tensor]:
        """Take ViT tokens `(B, h, w, C)` and CNN map `(B, C, h, w)`; return the tokens' update and the refined map."""
        cnn_tokens = cnn_map.permute(0, 2, 3, 1)
        attended = F.scaled_dot_product_attention(
            self._heads(self.query(hidden_states)),
            self._heads(self.key(cnn_tokens)),
            self._heads(self.value(cnn_tokens)),
        )
        update = self.projection(attended.transpose(1, 2).flatten(2).view_as(hidden_states))
        return update, self.refine(cnn_map)
