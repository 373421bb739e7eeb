"""Adapters: Eq. (1) by hand, the silent start, and the way of the position adapter."""

import math

import torch
from torch.nn import functional as F

from ccsam_hf import CCSamConfig, CCSamModel
from ccsam_hf.adapters import ConvNormGelu, FeatureAdapter, PositionAdapter


def test_a_feature_adapter_is_eq_1_with_biases():
    adapter = FeatureAdapter(hidden_size=3, adapter_size=2)
    torch.nn.init.normal_(adapter.up.weight)
    torch.nn.init.normal_(adapter.up.bias)
    adapter.requires_grad_(False)
    x = torch.randn(3)
    down, up = adapter.down, adapter.up
    hidden = [sum(down.weight[i, j] * x[j] for j in range(3)) + down.bias[i] for i in range(2)]
    hidden = [value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in hidden]  # GELU by the error function
    expected = torch.stack([sum(up.weight[i, j] * hidden[j] for j in range(2)) + up.bias[i] for i in range(3)])
    torch.testing.assert_close(adapter(x), expected)


def test_the_middle_of_a_feature_adapter_is_a_quarter_of_the_width():
    adapter = FeatureAdapter(768, CCSamConfig().vision_config.adapter_size)
    assert adapter.down.weight.shape == (768 // 4, 768)
    assert adapter.up.weight.shape == (768, 768 // 4)


def test_feature_adapters_start_silent_and_the_first_projection_does_not(tiny_model):
    adapters = [module for module in tiny_model.modules() if isinstance(module, FeatureAdapter)]
    assert len(adapters) == 1 + len(tiny_model.config.vision_config.global_attn_indexes)
    hidden_states = torch.randn(2, 4, 4, tiny_model.config.vision_config.hidden_size)
    for adapter in adapters:
        assert torch.equal(adapter(hidden_states), torch.zeros_like(hidden_states))
        assert adapter.down.weight.abs().max() > 0


def test_a_model_with_silent_adapters_computes_what_one_without_them_computes(tiny_model):
    config = CCSamConfig.tiny()
    config.vision_config.feature_adapters = False
    plain = CCSamModel(config).eval()
    report = plain.load_state_dict(tiny_model.state_dict(), strict=False)
    assert not report.missing_keys
    assert all("adapter" in key for key in report.unexpected_keys)
    pixel_values = torch.rand(1, 3, 256, 256)
    assert torch.equal(plain.get_image_embeddings(pixel_values), tiny_model.get_image_embeddings(pixel_values))


def test_the_block_adapter_is_scaled_and_the_one_behind_the_patches_is_not(tiny_model):
    branch = tiny_model.vit_branch
    block = next(layer for layer in branch.layers if layer.is_global)
    hidden_states = torch.randn(1, 32, 32, tiny_model.config.vision_config.hidden_size)
    silent, _ = block(hidden_states, None)
    torch.nn.init.ones_(block.adapter.up.bias)  # the weight stays zero: the adapter now adds exactly one
    torch.testing.assert_close(block(hidden_states, None)[0], silent + tiny_model.config.vision_config.adapter_scale)

    inputs = []
    branch.layers[0].register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    pixel_values = torch.rand(1, 3, 256, 256)
    branch(pixel_values)
    torch.nn.init.ones_(branch.input_adapter.up.bias)
    branch(pixel_values)
    torch.testing.assert_close(inputs[1], inputs[0] + 1)


def test_conv_norm_gelu_is_convolution_channel_norm_and_gelu():
    layer = ConvNormGelu(4, 6)
    torch.nn.init.normal_(layer.layer_norm.weight)
    torch.nn.init.normal_(layer.layer_norm.bias)
    feature_map = torch.randn(2, 4, 5, 7)
    convolved = F.conv2d(feature_map, layer.conv.weight, padding=1)
    centred = convolved - convolved.mean(dim=1, keepdim=True)
    normed = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
    normed = normed * layer.layer_norm.weight[:, None, None] + layer.layer_norm.bias[:, None, None]
    torch.testing.assert_close(layer(feature_map), F.gelu(normed))
    assert layer.conv.bias is None


def test_the_position_adapter_pools_first_and_convolves_then():
    adapter = PositionAdapter(8, num_downsamplings=2)
    pos_embed = torch.randn(1, 16, 16, 8)
    feature_map = pos_embed.permute(0, 3, 1, 2)
    for layer in adapter.layers:
        height, width = feature_map.shape[-2:]
        pooled = feature_map.reshape(1, 8, height // 2, 2, width // 2, 2).amax(dim=(3, 5))
        feature_map = layer(pooled)
    assert adapter(pos_embed).shape == (1, 4, 4, 8)
    torch.testing.assert_close(adapter(pos_embed), feature_map.permute(0, 2, 3, 1))


def test_without_halving_the_position_adapter_is_the_identity():
    pos_embed = torch.randn(1, 4, 4, 8)
    adapter = PositionAdapter(8, num_downsamplings=0)
    assert torch.equal(adapter(pos_embed), pos_embed)
    assert not list(adapter.parameters())
