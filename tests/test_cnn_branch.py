"""CNN branch: shapes, its own normalisation, chosen stages, and a BatchNorm that stays frozen."""

import copy

import pytest
import torch
from torch.nn import functional as F

from ccsam_hf import CCSamConfig, CCSamModel
from ccsam_hf.cnn_branch import ResNetBranch, SamusCNNBranch, build_cnn_branch
from ccsam_hf.configuration_ccsam import CCSamCNNConfig

SMALL = {"embedding_size": 8, "hidden_sizes": (8, 12, 16, 20), "depths": (1, 1, 1, 1), "layer_type": "basic"}


def build_branch(**kwargs) -> ResNetBranch:
    config = CCSamCNNConfig(**{**SMALL, "dropout": 0.0, **kwargs})
    branch = ResNetBranch(config, output_channels=10, grid_size=32)
    branch.backbone.requires_grad_(False)
    return branch.eval()


def stage_maps(branch: ResNetBranch, normalised: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs of the stages, gathered while the ResNet runs."""
    maps = {}
    hooks = [
        stage.register_forward_hook(lambda module, args, output, name=f"stage{number}": maps.update({name: output}))
        for number, stage in enumerate(branch.backbone.encoder.stages, start=1)
    ]
    branch.backbone(normalised)
    for hook in hooks:
        hook.remove()
    return maps


@pytest.mark.parametrize(
    "stages", [("stage4",), ("stage2",), ("stage2", "stage3", "stage4"), ("stage4", "stage3"), ("stage1", "stage4")]
)
def test_chosen_stages_are_concatenated_adapted_and_brought_to_the_grid(stages):
    branch = build_branch(feature_stages=stages)
    pixel_values = torch.rand(2, 3, 256, 256)
    maps = stage_maps(branch, (pixel_values - 0.5) / 0.5)
    sides = {"stage1": 64, "stage2": 32, "stage3": 16, "stage4": 8}
    assert {name: feature_map.shape[-1] for name, feature_map in maps.items()} == sides
    finest = max(sides[stage] for stage in stages)
    resized = [F.interpolate(maps[stage], (finest, finest), mode="bilinear") for stage in stages]
    stacked = torch.cat(resized, dim=1).permute(0, 2, 3, 1)
    linear = branch.adapter.linear
    expected = F.leaky_relu(stacked @ linear.weight.T + linear.bias, 0.01).permute(0, 3, 1, 2)
    expected = F.interpolate(expected, (32, 32), mode="bilinear")
    cnn_map = branch(pixel_values)
    assert cnn_map.shape == (2, 10, 32, 32)
    torch.testing.assert_close(cnn_map, expected, rtol=1e-4, atol=1e-5)


def test_the_default_is_the_last_stage_of_resnet_50():
    with torch.device("meta"):
        branch = build_cnn_branch(CCSamConfig())
    assert branch.adapter.linear.weight.shape == (256, 2048)
    convolutions = [module for module in branch.backbone.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convolutions) == 53  # 49 on the way and 4 shortcuts; the classifier is the fiftieth layer


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
)
def test_the_image_is_normalised_inside_to_the_statistics_of_the_cnn(mean, std):
    branch = build_branch(image_mean=mean, image_std=std)
    seen = []
    branch.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    pixel_values = torch.rand(1, 3, 64, 64)
    branch(pixel_values)
    for channel in range(3):
        expected = (pixel_values[:, channel] - mean[channel]) / std[channel]
        torch.testing.assert_close(seen[0][:, channel], expected)


def test_the_adapter_drops_out_in_training_only():
    branch = build_branch(dropout=0.5)
    feature_map = torch.randn(1, 20, 32, 32)
    assert (branch.adapter(feature_map) == 0).sum() == 0
    assert 0.4 < (branch.adapter.train()(feature_map) == 0).float().mean() < 0.6


# --- frozen BatchNorm ------------------------------------------------------------------------------------------------


def training_steps(model: CCSamModel, steps: int = 2) -> None:
    """A few steps of Adam on one random image."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    pixel_values = torch.rand(2, 3, 256, 256)
    labels = (torch.rand(2, 1, 128, 128) > 0.5).float()
    boxes = torch.tensor([[[60.0, 60, 180, 180]]]).expand(2, 1, 4)
    for _ in range(steps):
        model(pixel_values, input_boxes=boxes, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_frozen_resnet_keeps_evaluation_mode_and_its_buffers(tiny_model):
    branch = tiny_model.cnn_branch
    before = {name: buffer.clone() for name, buffer in branch.named_buffers()}
    assert any("running_var" in name for name in before)
    training_steps(tiny_model.train())
    assert branch.training and branch.adapter.training
    assert not any(module.training for module in branch.backbone.modules())
    for name, buffer in branch.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_a_released_resnet_follows_the_model_and_its_statistics_move(tiny_model):
    tiny_model.freeze("all").train()
    backbone = tiny_model.cnn_branch.backbone
    assert all(module.training for module in backbone.modules())
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    training_steps(tiny_model, steps=1)
    for name, buffer in backbone.named_buffers():
        assert not torch.equal(buffer, before[name]), name
    assert not any(module.training for module in tiny_model.eval().cnn_branch.backbone.modules())


def test_freezing_again_sends_the_resnet_back_to_evaluation_mode(tiny_model):
    backbone = tiny_model.train().freeze("all").cnn_branch.backbone
    assert backbone.training
    tiny_model.freeze("declared")
    assert tiny_model.training and not backbone.training
    tiny_model.freeze("none")
    assert tiny_model.training and not backbone.training


def test_a_copy_keeps_the_rule(tiny_model):
    clone = copy.deepcopy(tiny_model).train()
    assert clone.training and not clone.cnn_branch.backbone.training


# --- SAMUS -----------------------------------------------------------------------------------------------------------


def test_samus_cnn_doubles_its_width_at_each_pooling_and_ends_at_the_width_of_the_tokens():
    branch = SamusCNNBranch(CCSamCNNConfig(samus_channels=4), output_channels=24, num_channels=3, num_downsamplings=3)
    pixel_values = torch.rand(2, 3, 64, 64)
    assert [layer.conv.out_channels for layer in (branch.stem, *branch.layers)] == [4, 8, 16, 24]
    feature_map = branch.stem(pixel_values)
    for layer in branch.layers:
        rows, columns = feature_map.shape[-2:]
        feature_map = layer(feature_map.reshape(2, -1, rows // 2, 2, columns // 2, 2).amax(dim=(3, 5)))
    assert feature_map.shape == (2, 24, 8, 8)
    torch.testing.assert_close(branch(pixel_values), feature_map)


def test_all_of_samus_cnn_learns(tiny_config):
    tiny_config.cnn_branch, tiny_config.fusion = "samus", "cross_branch"
    branch = CCSamModel(tiny_config).cnn_branch
    assert isinstance(branch, SamusCNNBranch)
    assert all(parameter.requires_grad for parameter in branch.parameters())


@pytest.mark.parametrize(
    ("cnn_branch", "fusion", "channels"),
    [("resnet50", "vaf", 24), ("resnet50", "cross_branch", 40), ("samus", "vaf", 40), ("samus", "cross_branch", 40)],
)
def test_the_map_is_as_wide_as_the_fusion_needs(cnn_branch, fusion, channels):
    vision = {"hidden_size": 40, "num_attention_heads": 2, "adapter_size": 10}
    config = CCSamConfig(
        cnn_branch=cnn_branch, fusion=fusion, vision_config=vision, cnn_config={**SMALL, "output_channels": 24}
    )
    branch = build_cnn_branch(config)
    assert branch.output_channels == channels
    assert branch.eval()(torch.rand(1, 3, 256, 256)).shape == (1, channels, 32, 32)


def test_no_branch_where_the_config_says_none():
    assert build_cnn_branch(CCSamConfig(cnn_branch="none", fusion="none")) is None
