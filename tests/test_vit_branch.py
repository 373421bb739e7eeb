"""ViT branch: shapes, overlapped patches, where the adapters stand, padded windows, what learns."""

import copy

import pytest
import torch
from torch.nn import functional as F

from ccsam_hf import CCSamConfig, CCSamModel
from ccsam_hf.configuration_ccsam import CCSamVisionConfig
from ccsam_hf.vit_branch import PatchEmbedding, ViTBranch, WindowAttention, relative_position_terms

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "window_size": 5,
    "global_attn_indexes": (1,),
    "output_channels": 8,
    "adapter_size": 4,
}


def build_branch(cross_branch: bool = False, **kwargs) -> ViTBranch:
    """A small branch whose bare parameters are random too."""
    branch = ViTBranch(CCSamVisionConfig(**{**SMALL, **kwargs}), cross_branch=cross_branch).eval()
    for parameter in (branch.pos_embed, *(p for name, p in branch.named_parameters() if "rel_pos" in name)):
        torch.nn.init.normal_(parameter, std=0.2)
    return branch


@pytest.mark.parametrize(("image_size", "patch_stride", "grid"), [(256, 8, 32), (256, 16, 16), (128, 8, 16)])
def test_the_map_has_a_token_for_every_stride(image_size, patch_stride, grid):
    branch = build_branch(image_size=image_size, patch_stride=patch_stride)
    assert branch(torch.rand(2, 3, image_size, image_size)).shape == (2, 8, grid, grid)


def test_patches_overlap_on_the_input_resized_to_264():
    embedding = PatchEmbedding(CCSamVisionConfig(**SMALL))
    assert embedding.input_size == 264
    pixel_values = torch.rand(1, 3, 256, 256)
    larger = F.interpolate(pixel_values, (264, 264), mode="bilinear", align_corners=False)
    tokens = embedding(pixel_values)
    assert tokens.shape == (1, 32, 32, 16)
    for row, column in [(0, 0), (5, 31), (31, 7)]:
        patch = larger[0, :, 8 * row : 8 * row + 16, 8 * column : 8 * column + 16]
        expected = (embedding.projection.weight * patch).sum(dim=(1, 2, 3)) + embedding.projection.bias
        torch.testing.assert_close(tokens[0, row, column], expected, rtol=1e-4, atol=1e-5)


def test_with_a_stride_of_one_patch_the_input_is_not_resized():
    embedding = PatchEmbedding(CCSamVisionConfig(**SMALL, patch_stride=16))
    pixel_values = torch.rand(1, 3, 256, 256)
    expected = embedding.projection(pixel_values).permute(0, 2, 3, 1)
    assert torch.equal(embedding(pixel_values), expected)


@pytest.mark.parametrize(
    ("kwargs", "layers"),
    [({}, 1), ({"patch_stride": 16}, 2), ({"image_size": 128}, 2), ({"image_size": 512}, 0)],
)
def test_the_position_adapter_has_a_layer_for_every_halving(kwargs, layers):
    assert len(build_branch(**kwargs).position_adapter.layers) == layers


def test_the_adapted_position_is_the_same_for_every_image_and_is_added_to_the_tokens():
    branch = build_branch(feature_adapters=False)
    seen = []
    branch.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    pixel_values = torch.rand(2, 3, 256, 256)
    branch(pixel_values)
    expected = branch.patch_embed(pixel_values) + branch.position_adapter(branch.pos_embed)
    torch.testing.assert_close(seen[0], expected)


def test_adapters_stand_behind_the_patches_and_in_the_global_blocks():
    branch = build_branch(num_hidden_layers=4, global_attn_indexes=(1, 3))
    assert branch.input_adapter is not None
    assert [layer.adapter is not None for layer in branch.layers] == [False, True, False, True]
    assert [layer.is_global for layer in branch.layers] == [False, True, False, True]
    plain = build_branch(feature_adapters=False)
    assert plain.input_adapter is None
    assert all(layer.adapter is None for layer in plain.layers)


def test_the_default_has_five_feature_adapters_and_the_global_tables_of_63_rows():
    with torch.device("meta"):
        branch = ViTBranch(CCSamConfig().vision_config)
    adapters = [branch.input_adapter] + [layer.adapter for layer in branch.layers]
    assert sum(adapter is not None for adapter in adapters) == 5
    rows = [len(layer.attn.rel_pos_h) for layer in branch.layers]
    assert rows == [63 if index in (2, 5, 8, 11) else 27 for index in range(12)]
    assert branch.pos_embed.shape == (1, 64, 64, 768)


def test_a_window_sees_itself_and_a_global_block_sees_everything():
    local = WindowAttention(CCSamVisionConfig(**SMALL), window_size=5).eval()
    everywhere = WindowAttention(CCSamVisionConfig(**SMALL), window_size=12).eval()
    tokens = torch.randn(1, 12, 12, 16)
    changed = tokens.clone()
    changed[0, 6, 2] += 1  # row 6, column 2: window of rows 5-9, columns 0-4
    moved = (local(changed) != local(tokens)).any(dim=-1)[0]
    window = torch.zeros(12, 12, dtype=torch.bool)
    window[5:10, 0:5] = True
    assert torch.equal(moved, window)
    assert (everywhere(changed) != everywhere(tokens)).any(dim=-1).all()


def test_images_of_a_batch_do_not_touch_each_other():
    branch = build_branch()
    pixel_values = torch.rand(3, 3, 256, 256)
    together = branch(pixel_values)
    for index in range(3):
        torch.testing.assert_close(branch(pixel_values[index : index + 1]), together[index : index + 1])


def test_cross_branch_blocks_stand_where_attention_is_global_and_change_the_map():
    branch = build_branch(cross_branch=True)
    assert [layer.cross_branch is not None for layer in branch.layers] == [False, True]
    pixel_values, cnn_map = torch.rand(1, 3, 256, 256), torch.randn(1, 16, 32, 32)
    assert not torch.allclose(branch(pixel_values, cnn_map), branch(pixel_values, torch.zeros_like(cnn_map)))


def test_half_of_the_refined_cnn_map_is_added_before_the_neck():
    branch = build_branch(cross_branch=True)
    caught = {}
    branch.layers[-1].register_forward_hook(lambda module, args, output: caught.update(block=output))
    branch.neck.register_forward_pre_hook(lambda module, args: caught.update(neck=args[0]))
    branch(torch.rand(1, 3, 256, 256), torch.randn(1, 16, 32, 32))
    tokens, refined = caught["block"]
    torch.testing.assert_close(caught["neck"], tokens + 0.5 * refined.permute(0, 2, 3, 1))


def test_adapters_and_global_tables_learn(tiny_model):
    branch = tiny_model.vit_branch
    assert tiny_model.config.vision_config.global_attn_indexes == (2,)
    learnt = {name for name, parameter in branch.named_parameters() if parameter.requires_grad}
    expected = {
        name
        for name, _ in branch.named_parameters()
        if name.startswith(("input_adapter.", "position_adapter.", "layers.2.adapter."))
        or name in ("layers.2.attn.rel_pos_h", "layers.2.attn.rel_pos_w")
    }
    assert learnt == expected
    assert len(expected) == 4 + 3 + 4 + 2


def test_relative_positions_change_the_attention_in_both_directions():
    attention = WindowAttention(CCSamVisionConfig(**SMALL), window_size=4).eval()
    tokens = torch.randn(1, 4, 4, 16)
    flat = attention(tokens)
    for table in ("rel_pos_h", "rel_pos_w"):
        tilted = copy.deepcopy(attention)
        torch.nn.init.normal_(getattr(tilted, table))
        assert not torch.allclose(tilted(tokens), flat)


def test_the_position_adapter_of_a_loaded_sam_is_absent():
    with torch.device("meta"):
        config = CCSamConfig.sam()
        branch = CCSamModel(config).vit_branch
    assert len(branch.position_adapter.layers) == 0
    assert {len(layer.attn.rel_pos_h) for layer in branch.layers} == {27, 127}


def test_gradients_of_relative_positions_are_the_same_every_time():
    """On several threads too: a run is reproducible bit by bit only while no sum depends on their order."""
    size, query = 32, torch.randn(1, 1, 1024, 64)
    gradients = []
    for _ in range(10):
        tables = [torch.zeros(2 * size - 1, 64, requires_grad=True) for _ in range(2)]
        rows, columns = relative_position_terms(query, *tables, size)
        (rows.sin() + columns.sin()).square().add(rows + columns).sum().backward()
        gradients.append(torch.stack([table.grad for table in tables]))
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
