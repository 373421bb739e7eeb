"""Variational attention fusion: Eq. (2) to (7) against independent code, draws against their distribution."""

import math

import pytest
import torch

from ccsam_hf import CCSamConfig, CCSamModel
from ccsam_hf.configuration_ccsam import CCSamVAFConfig
from ccsam_hf.fusion import CrossBranchAttention, Gaussian, GaussianHead, VariationalAttentionFusion

VIT_CHANNELS, CNN_CHANNELS, LATENT_DIM = 6, 5, 8


def build_fusion(**kwargs) -> VariationalAttentionFusion:
    """A small fusion in evaluation mode, with torch's own random weights: nothing is silent."""
    config = CCSamVAFConfig(**{"latent_dim": LATENT_DIM, "head_hidden_size": 7, **kwargs})
    return VariationalAttentionFusion(config, VIT_CHANNELS, CNN_CHANNELS).eval()


def build_maps(batch_size: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch_size, VIT_CHANNELS, 3, 4), torch.randn(batch_size, CNN_CHANNELS, 3, 4)


def leaky(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, 0.01 * x)


def affine(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return layer.weight @ x + layer.bias


# --- draws, Eq. (4) --------------------------------------------------------------------------------------------------


def test_draws_have_the_mean_and_the_deviation_of_the_posterior():
    mean = torch.tensor([[[-3.0, 0.0, 0.5, 2.0]]])
    sigma = torch.tensor([[[0.01, 1.0, 0.14, 3.0]]])
    posterior = Gaussian(mean.expand(20000, 1, 4), (2 * sigma.log()).expand(20000, 1, 4))
    draws = posterior.draw(sample=True)
    # four standard errors of a mean, and of a standard deviation, over 20000 draws
    assert ((draws.mean(0) - mean[0]).abs() < 4 * sigma[0] / math.sqrt(20000)).all()
    assert ((draws.std(0) / sigma[0] - 1).abs() < 4 / math.sqrt(2 * 20000)).all()


def test_every_element_has_a_draw_of_its_own():
    noise = Gaussian(torch.zeros(2, 500, 4), torch.zeros(2, 500, 4)).draw(sample=True)
    correlation = torch.corrcoef(noise.permute(0, 2, 1).flatten(0, 1))  # images x dimensions, over tokens
    assert (correlation - torch.eye(8)).abs().max() < 0.25
    assert noise.unique().numel() > 0.99 * noise.numel()


def test_without_sampling_a_draw_is_the_mean():
    posterior = Gaussian(torch.randn(1, 2, 3), torch.zeros(1, 2, 3))
    assert torch.equal(posterior.draw(sample=False), posterior.mean)
    assert torch.equal(Gaussian(posterior.mean).draw(sample=True), posterior.mean)  # Eq. (5) has no variance


def test_gradients_pass_through_a_draw_to_both_parameters():
    mean = torch.zeros(1, 1, 3, requires_grad=True)
    log_var = torch.full((1, 1, 3), math.log(4.0), requires_grad=True)
    torch.manual_seed(1)
    draw = Gaussian(mean, log_var).draw(sample=True)
    draw.sum().backward()
    assert torch.equal(mean.grad, torch.ones_like(mean))
    torch.testing.assert_close(log_var.grad, 0.5 * draw.detach())  # d(eta*sigma)/d(log sigma^2), mean zero


def test_the_log_variance_is_clamped_to_the_stated_range():
    head = GaussianHead(4, 8, (-2.0, 1.0))
    torch.nn.init.normal_(head.log_var[-1].weight, std=50)
    log_var = head(torch.randn(1, 200, 4)).log_var
    assert (log_var.min().item(), log_var.max().item()) == (-2.0, 1.0)
    assert ((log_var > -2) & (log_var < 1)).any()


# --- the equations on one token --------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["variational", "deterministic"])
@pytest.mark.parametrize("residual", [False, True])
def test_the_means_follow_the_equations(attention, residual):
    fusion = build_fusion(attention=attention, residual=residual)
    vit_map, cnn_map = build_maps()
    fused = fusion(vit_map, cnn_map)
    for image, row, column in [(0, 0, 0), (1, 2, 3), (1, 1, 2)]:
        z, logits = [], []
        for name, feature_map in (("vit", vit_map), ("cnn", cnn_map)):
            encoder, head = getattr(fusion, f"{name}_encoder"), getattr(fusion, f"{name}_head")
            s = leaky(affine(encoder[0], feature_map[image, :, row, column]))  # the branch in the latent space
            z.append(affine(head.mean[2], leaky(affine(head.mean[0], s))))  # mean of Eq. (2), Eq. (3)
            if attention == "deterministic":
                logits.append(affine(fusion.attention_head, z[-1]))  # Eq. (5), W_m and b_m shared
            else:
                mlp = fusion.attention_head.mean
                logits.append(affine(mlp[2], leaky(affine(mlp[0], z[-1]))))  # mean of Eq. (6)
        share = [each.exp() / (logits[0].exp() + logits[1].exp()) for each in logits]
        expected = affine(fusion.output, share[0] * z[0] + share[1] * z[1])  # Eq. (7)
        if residual:
            expected = expected + vit_map[image, :, row, column]
        torch.testing.assert_close(fused.feature_map[image, :, row, column], expected)
        torch.testing.assert_close(fused.weights[image, :, row, column], torch.stack([each.mean() for each in share]))
        token = 4 * row + column
        torch.testing.assert_close(fused.vit.mean[image, token], z[0])
        torch.testing.assert_close(fused.cnn.mean[image, token], z[1])


def test_a_draw_follows_the_equations_with_its_noise(monkeypatch):
    fusion = build_fusion(residual=False)
    vit_map, cnn_map = build_maps(1)
    vit, cnn = fusion.posterior(vit_map, cnn_map)
    noises = [torch.randn(1, 12, LATENT_DIM) for _ in range(4)]
    remaining = iter(noises)
    monkeypatch.setattr(torch, "randn_like", lambda like: next(remaining))
    fused = fusion.combine(vit, cnn, vit_map, sample=True)
    z = [each.mean + noise * each.log_var.exp().sqrt() for each, noise in zip((vit, cnn), noises[:2], strict=True)]
    logits = [fusion.attention_head(each) for each in z]
    a = [each.mean + noise * each.log_var.exp().sqrt() for each, noise in zip(logits, noises[2:], strict=True)]
    share = torch.sigmoid(a[0] - a[1])  # softmax over two
    expected = fusion.output(share * z[0] + (1 - share) * z[1]).transpose(1, 2).view(1, VIT_CHANNELS, 3, 4)
    torch.testing.assert_close(fused.feature_map, expected)


# --- shapes and switches ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["token", "image"])
@pytest.mark.parametrize("attention", ["variational", "deterministic"])
def test_documented_shapes_and_weights_that_sum_to_one(granularity, attention):
    fusion = build_fusion(granularity=granularity, attention=attention)
    vit_map, cnn_map = build_maps()
    num_tokens = 12 if granularity == "token" else 1
    for mode in (True, False):
        fused = fusion.train(mode)(vit_map, cnn_map)
        assert fused.feature_map.shape == (2, VIT_CHANNELS, 3, 4)
        assert fused.weights.shape == (2, 2, 3, 4)
        torch.testing.assert_close(fused.weights.sum(dim=1), torch.ones(2, 3, 4))
        assert (fused.weights > 0).all()
        for gaussian in (fused.vit, fused.cnn, fused.vit_logits, fused.cnn_logits):
            assert gaussian.mean.shape == (2, num_tokens, LATENT_DIM)
            if gaussian.log_var is not None:
                assert gaussian.log_var.shape == gaussian.mean.shape
        assert (fused.vit_logits.log_var is None) == (attention == "deterministic")


def test_image_granularity_adds_one_vector_to_the_whole_map():
    fusion = build_fusion(granularity="image", residual=True)
    vit_map, cnn_map = build_maps()
    fused = fusion(vit_map, cnn_map)
    added = fused.feature_map - vit_map
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(added))
    assert added.abs().max() > 0.01
    torch.testing.assert_close(fused.weights, fused.weights[:, :, :1, :1].expand_as(fused.weights))


def test_image_granularity_reads_the_mean_of_each_map():
    fusion = build_fusion(granularity="image", residual=False)
    vit_map, cnn_map = build_maps()
    flat = [each.mean(dim=(2, 3), keepdim=True).expand_as(each) for each in (vit_map, cnn_map)]
    torch.testing.assert_close(fusion(*flat).feature_map, fusion(vit_map, cnn_map).feature_map)


def test_token_granularity_keeps_tokens_apart():
    fusion = build_fusion()
    vit_map, cnn_map = build_maps()
    before = fusion(vit_map, cnn_map).feature_map
    cnn_map[0, :, 1, 2] += 1
    moved = (fusion(vit_map, cnn_map).feature_map - before).abs().amax(dim=1) > 0
    assert moved.nonzero().tolist() == [[0, 1, 2]]


def maps_for(config: CCSamConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Random maps as wide as the branches of a whole model make them."""
    widths = config.vision_config.output_channels, config.cnn_config.output_channels
    return tuple(torch.randn(1, width, 32, 32) for width in widths)


def test_the_residual_fusion_of_a_new_model_is_silent(tiny_model):
    fusion = tiny_model.fusion
    vit_map, cnn_map = maps_for(tiny_model.config)
    assert torch.equal(fusion(vit_map, cnn_map).feature_map, vit_map)
    assert torch.equal(fusion.train()(vit_map, cnn_map).feature_map, vit_map)  # draws do not matter yet


def test_without_the_residual_a_new_fusion_is_not_silent(tiny_config):
    tiny_config.vaf_config.residual = False
    fusion = CCSamModel(tiny_config).eval().fusion
    vit_map, cnn_map = maps_for(tiny_config)
    feature_map = fusion(vit_map, cnn_map).feature_map
    assert feature_map.abs().max() > 0
    torch.testing.assert_close(fusion(vit_map, cnn_map).feature_map, feature_map)
    assert fusion.output.weight.std().item() == pytest.approx(tiny_config.initializer_range, rel=0.05)


def test_a_new_model_starts_with_a_small_sigma(tiny_model):
    fused, _ = tiny_model.fuse(torch.rand(1, 3, 256, 256))
    for gaussian in (fused.vit, fused.cnn, fused.vit_logits, fused.cnn_logits):
        assert torch.equal(gaussian.log_var, torch.full_like(gaussian.log_var, -4.0))


@pytest.mark.parametrize("attention", ["variational", "deterministic"])
def test_evaluation_is_deterministic_and_training_is_not(attention):
    fusion = build_fusion(attention=attention, dropout=0.0)
    maps = build_maps()
    assert torch.equal(fusion(*maps).feature_map, fusion(*maps).feature_map)
    fusion.train()
    first, second = fusion(*maps), fusion(*maps)
    assert not torch.equal(first.feature_map, second.feature_map)
    assert torch.equal(first.vit.mean, second.vit.mean)  # the posterior itself is not random


def test_dropout_acts_on_the_latent_encoders_in_training_only():
    fusion = build_fusion(dropout=0.5).train()
    tokens = torch.ones(1, 400, VIT_CHANNELS)
    dropped = (fusion.vit_encoder(tokens) == 0).float().mean().item()
    assert 0.4 < dropped < 0.6
    assert (fusion.eval().vit_encoder(tokens) == 0).sum() == 0


# --- SAMUS -----------------------------------------------------------------------------------------------------------


def test_cross_branch_attention_lets_the_vit_ask_and_the_cnn_answer():
    attention = CrossBranchAttention(hidden_size=8, num_heads=2)
    tokens, cnn_map = torch.randn(2, 3, 3, 8), torch.randn(2, 8, 3, 3)
    update, refined = attention(tokens, cnn_map)
    assert update.shape == tokens.shape
    torch.testing.assert_close(refined, attention.refine(cnn_map))

    query = attention.query(tokens).reshape(2, 9, 8)
    answers = cnn_map.flatten(2).transpose(1, 2)
    key, value = attention.key(answers), attention.value(answers)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        shares = (query[..., head] @ key[..., head].transpose(1, 2) / math.sqrt(4)).softmax(dim=-1)
        heads.append(shares @ value[..., head])
    expected = attention.projection(torch.cat(heads, dim=-1)).view(2, 3, 3, 8)
    torch.testing.assert_close(update, expected)
