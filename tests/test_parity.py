"""The model computes what the originals compute, stage by stage, from the same weights.

The originals run live where they are packages (transformers' SamModel, segment_anything, torchvision's ResNet-50). For
SAMUS, which is none, slices of its outputs are stored in `data/samus_reference.json`. Weights come from their names
(`named_weights`), so positional embeddings and relative positions, which start at zero, matter too. Every comparison
prints its table of largest absolute differences (`pytest -rP`).
"""

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet50
from transformers import ResNetConfig, ResNetForImageClassification, SamConfig, SamModel

from ccsam_hf import CCSamConfig, CCSamModel
from ccsam_hf.cnn_branch import ResNetBranch
from ccsam_hf.conversion.weights import convert_resnet50, convert_sam, convert_samus
from ccsam_hf.vit_branch import WindowAttention
from named_weights import fill, fill_like, formula_image
from small_originals import DECODER_EPS, SMALL_DECODER, SMALL_VISION, small_segment_anything, small_transformers

SAMUS_REFERENCE = json.loads((Path(__file__).parent / "data" / "samus_reference.json").read_text(encoding="utf-8"))


class Stages(dict):
    """Name of a stage to its output, filled by hooks during one forward."""

    def watch(self, name: str, module: nn.Module, take: Callable = lambda inputs, output: output) -> None:
        module.register_forward_hook(lambda _, inputs, output: self.update({name: take(inputs, output).detach()}))


def assert_stages_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    """Print the largest absolute difference of every stage, then hold all of them to `tolerance`."""
    assert ours.keys() == theirs.keys()
    differences = {name: (ours[name] - theirs[name]).abs().max().item() for name in theirs}
    scales = {name: theirs[name].abs().max().item() for name in theirs}
    table = "\n".join(f"{name:36s} {differences[name]:.1e} of {scales[name]:.3g}" for name in theirs)
    print(table)
    assert max(differences.values()) <= tolerance, f"above {tolerance}:\n{table}"


# SAM: transformers and segment_anything


def sam_prompts(image_size: int, grid: int) -> dict[str, dict[str, Tensor]]:
    """Two objects of one image in every way SAM can be prompted; coordinates are pixels of the input."""
    points = torch.tensor([[[[0.3, 0.4], [0.9, 0.1]], [[0.55, 0.7], [0.6, 0.62]]]]) * image_size
    labels = torch.tensor([[[1, 0], [1, -1]]])
    boxes = torch.tensor([[[0.1, 0.2, 0.5, 0.6], [0.4, 0.5, 0.85, 0.95]]]) * image_size
    masks = 10 * formula_image(4 * grid)[:, :2] - 5
    return {
        "points": {"input_points": points, "input_labels": labels},
        "boxes": {"input_boxes": boxes},
        "boxes and points": {"input_points": points, "input_labels": labels, "input_boxes": boxes},
        "masks": {"input_masks": masks},
        "masks and boxes": {"input_masks": masks, "input_boxes": boxes},
    }


def encode_ours(model: CCSamModel, pixel_values: Tensor) -> Stages:
    stages, branch = Stages(), model.vit_branch
    stages.watch("patch embedding", branch.patch_embed)
    for index, layer in enumerate(branch.layers):
        stages.watch(f"block {index}", layer, lambda inputs, output: output[0])
    with torch.no_grad():
        stages["image embedding"] = model.get_image_embeddings(pixel_values)
    return stages


def decode_ours(model: CCSamModel, image_embeddings: Tensor, prompts: dict[str, dict[str, Tensor]]) -> Stages:
    stages, prompt_stages = Stages(), Stages()
    prompt_stages.watch(
        "sparse", model.prompt_encoder, lambda _, output: torch.zeros(1) if output[0] is None else output[0]
    )
    prompt_stages.watch("dense", model.prompt_encoder, lambda _, output: output[1])
    for name, prompt in prompts.items():
        for multimask_output in (False, True):
            with torch.no_grad():
                output = model(image_embeddings=image_embeddings, **prompt, multimask_output=multimask_output)
            title = f"{name}, {output.pred_masks.shape[2]} masks"
            stages[f"{title}: mask logits"], stages[f"{title}: IoU"] = output.pred_masks[0], output.iou_scores[0]
        if set(prompt) != {"input_masks"}:
            stages[f"{name}: sparse prompt"] = prompt_stages["sparse"][0]
        stages[f"{name}: dense prompt"] = prompt_stages["dense"]
    return stages


def encode_segment_anything(sam: nn.Module, pixel_values: Tensor) -> Stages:
    stages, encoder = Stages(), sam.image_encoder
    stages.watch("patch embedding", encoder.patch_embed)
    for index, block in enumerate(encoder.blocks):
        stages.watch(f"block {index}", block)
    with torch.no_grad():
        stages["image embedding"] = encoder(pixel_values)
    return stages


def decode_segment_anything(sam: nn.Module, image_embeddings: Tensor, prompts: dict[str, dict[str, Tensor]]) -> Stages:
    stages = Stages()
    for name, prompt in prompts.items():
        points = (prompt["input_points"][0], prompt["input_labels"][0]) if "input_points" in prompt else None
        boxes = prompt["input_boxes"][0] if "input_boxes" in prompt else None
        masks = prompt["input_masks"][0, :, None] if "input_masks" in prompt else None
        with torch.no_grad():
            sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=masks)
            for multimask_output in (False, True):
                pred_masks, iou_scores = sam.mask_decoder(
                    image_embeddings=image_embeddings,
                    image_pe=sam.prompt_encoder.get_dense_pe(),
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=multimask_output,
                )
                title = f"{name}, {pred_masks.shape[1]} masks"
                stages[f"{title}: mask logits"], stages[f"{title}: IoU"] = pred_masks, iou_scores
        if set(prompt) != {"input_masks"}:
            stages[f"{name}: sparse prompt"] = sparse
        stages[f"{name}: dense prompt"] = dense
    return stages


def encode_transformers(sam: SamModel, pixel_values: Tensor) -> Stages:
    stages, encoder = Stages(), sam.vision_encoder
    stages.watch("patch embedding", encoder.patch_embed)
    for index, layer in enumerate(encoder.layers):
        stages.watch(
            f"block {index}", layer, lambda inputs, output: output[0] if isinstance(output, tuple) else output
        )
    stages["image embedding"] = sam.get_image_embeddings(pixel_values)
    return stages


def decode_transformers(sam: SamModel, image_embeddings: Tensor, prompts: dict[str, dict[str, Tensor]]) -> Stages:
    stages = Stages()
    for name, prompt in prompts.items():
        for multimask_output in (False, True):
            with torch.no_grad():
                output = sam(image_embeddings=image_embeddings, **prompt, multimask_output=multimask_output)
            title = f"{name}, {output.pred_masks.shape[2]} masks"
            stages[f"{title}: mask logits"], stages[f"{title}: IoU"] = output.pred_masks[0], output.iou_scores[0]
    return stages


def without_masks(prompts: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """The prompts that transformers' SamModel takes for several objects: it knows one mask for an image."""
    return {name: prompt for name, prompt in prompts.items() if "input_masks" not in prompt}


def prompted_masks(stages: Stages) -> Stages:
    """What a user gets, without the inner stages of the prompt encoder."""
    return Stages({name: value for name, value in stages.items() if "prompt" not in name})


def with_feature_adapters(config: CCSamConfig) -> CCSamConfig:
    config = copy.deepcopy(config)
    config.vision_config.feature_adapters = True
    return config


def ours_with(config: CCSamConfig, weights: dict[str, Tensor]) -> CCSamModel:
    """Our model with SAM's weights; what SAM has not stays at its start value."""
    converted, report = convert_sam(weights, config)
    model = CCSamModel(config).eval()
    missing, unexpected = model.load_state_dict(converted, strict=False)
    assert not unexpected and missing == report.newly_initialised
    return model


SMALL_GRIDS = pytest.mark.parametrize(
    ("image_size", "patch_size", "window_size"),
    [(128, 16, 3), (256, 8, 14)],
    ids=["grid 8, windows of 3, padded to 9", "grid 32, windows of 14, padded to 42"],
)


def small_config(image_size: int, patch_size: int, window_size: int) -> CCSamConfig:
    vision = {
        **SMALL_VISION,
        "image_size": image_size,
        "patch_size": patch_size,
        "patch_stride": patch_size,
        "pretrained_grid_size": image_size // patch_size,
        "window_size": window_size,
        "adapter_size": 12,
        "feature_adapters": False,
    }
    return CCSamConfig.sam(
        vision_config=vision,
        prompt_encoder_config={"image_size": image_size, "patch_size": patch_size, "hidden_size": 64},
        mask_decoder_config=SMALL_DECODER,
    )


@SMALL_GRIDS
def test_small_sam_equals_transformers(image_size, patch_size, window_size):
    theirs = small_transformers(image_size, patch_size, window_size)
    config = small_config(image_size, patch_size, window_size)
    pixel_values = formula_image(image_size)
    prompts = without_masks(sam_prompts(image_size, image_size // patch_size))
    expected = encode_transformers(theirs, pixel_values)
    expected_masks = decode_transformers(theirs, expected["image embedding"], prompts)
    ours = ours_with(config, theirs.state_dict())
    stages = encode_ours(ours, pixel_values)
    assert_stages_equal(stages, expected, tolerance=2e-5)
    masks = decode_ours(ours, stages["image embedding"], prompts)
    assert_stages_equal(prompted_masks(masks), expected_masks, tolerance=2e-5)

    silent = encode_ours(ours_with(with_feature_adapters(config), theirs.state_dict()), pixel_values)
    assert all(torch.equal(silent[name], stages[name]) for name in stages)


@SMALL_GRIDS
def test_small_sam_equals_segment_anything(image_size, patch_size, window_size):
    theirs = small_segment_anything(image_size, patch_size, window_size)
    ours = ours_with(small_config(image_size, patch_size, window_size), theirs.state_dict())
    pixel_values = formula_image(image_size)
    prompts = sam_prompts(image_size, image_size // patch_size)
    expected, stages = encode_segment_anything(theirs, pixel_values), encode_ours(ours, pixel_values)
    assert_stages_equal(stages, expected, tolerance=2e-5)
    assert_stages_equal(
        decode_ours(ours, stages["image embedding"], prompts),
        decode_segment_anything(theirs, expected["image embedding"], prompts),
        tolerance=2e-5,
    )


def vit_b_prompts() -> dict[str, dict[str, Tensor]]:
    """Points, boxes and masks in as few decodings as possible; the small models go through all combinations."""
    prompts = sam_prompts(1024, 64)
    return {name: prompts[name] for name in ("boxes and points", "masks and boxes")}


@pytest.fixture(scope="module")
def vit_b_image():
    return formula_image(1024)


@pytest.fixture(scope="module")
def vit_b_weights():
    """Named weights of SAM ViT-B in the original names, and the same in those of transformers."""
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        shapes = sam_model_registry["vit_b"]().state_dict()
    original = fill_like(shapes)
    ours, _ = convert_sam(original, CCSamConfig.sam())
    transformers_names = {name.replace("vit_branch.", "vision_encoder."): tensor for name, tensor in ours.items()}
    shared = transformers_names["prompt_encoder.shared_embedding.positional_embedding"]
    return original, {**transformers_names, "shared_image_embedding.positional_embedding": shared}


@pytest.fixture(scope="module")
def vit_b_ours(vit_b_weights, vit_b_image):
    model = ours_with(CCSamConfig.sam(), vit_b_weights[0])
    stages = encode_ours(model, vit_b_image)
    return stages, decode_ours(model, stages["image embedding"], vit_b_prompts())


@pytest.mark.slow
def test_vit_b_equals_segment_anything(vit_b_weights, vit_b_image, vit_b_ours):
    from segment_anything import sam_model_registry

    theirs = sam_model_registry["vit_b"]().eval()
    theirs.load_state_dict(vit_b_weights[0])
    expected = encode_segment_anything(theirs, vit_b_image)
    stages, masks = vit_b_ours
    assert_stages_equal(stages, expected, tolerance=1e-4)
    expected_masks = decode_segment_anything(theirs, expected["image embedding"], vit_b_prompts())
    assert_stages_equal(masks, expected_masks, tolerance=1e-4)


@pytest.mark.slow
def test_vit_b_equals_transformers(vit_b_weights, vit_b_image, vit_b_ours):
    theirs = SamModel(SamConfig(mask_decoder_config={"layer_norm_eps": DECODER_EPS})).eval()
    theirs.load_state_dict(vit_b_weights[1])
    expected = encode_transformers(theirs, vit_b_image)
    stages, masks = vit_b_ours
    assert_stages_equal(stages, expected, tolerance=1e-4)
    prompts = without_masks(vit_b_prompts())
    expected_masks = decode_transformers(theirs, expected["image embedding"], prompts)
    ours_masks = {name: value for name, value in prompted_masks(masks).items() if name in expected_masks}
    assert_stages_equal(ours_masks, expected_masks, tolerance=1e-4)


@pytest.mark.slow
def test_silent_feature_adapters_change_nothing_at_vit_b_size(vit_b_weights, vit_b_image, vit_b_ours):
    model = ours_with(with_feature_adapters(CCSamConfig.sam()), vit_b_weights[1])
    stages = encode_ours(model, vit_b_image)
    assert all(torch.equal(stages[name], expected) for name, expected in vit_b_ours[0].items())


# SAMUS


@pytest.mark.slow
def test_samus_equals_the_stored_outputs_of_the_official_code():
    config = CCSamConfig.samus()
    weights = {name: fill(name, tuple(shape)) for name, shape in SAMUS_REFERENCE["parameters"].items()}
    converted, report = convert_samus(weights, config)
    assert len(report.loaded) == len(weights) and not report.newly_initialised and not report.unused
    model = CCSamModel(config).eval()
    model.load_state_dict(converted, strict=True)

    stages, branch = Stages(), model.vit_branch
    stages.watch("cnn map", model.cnn_branch, lambda inputs, output: output.permute(0, 2, 3, 1))
    stages.watch("patch embedding", branch.patch_embed)
    stages.watch("input adapter", branch.input_adapter, lambda inputs, output: inputs[0] + output)
    stages.watch("position adapter", branch.position_adapter)
    for index, layer in enumerate(branch.layers):
        stages.watch(f"block {index}", layer, lambda inputs, output: output[0])
        if layer.is_global:
            take = lambda inputs, output: output[1].permute(0, 2, 3, 1)  # noqa: E731
            stages.watch(f"cnn map after block {index}", layer, take)
    stages.watch("image embedding", branch)
    with torch.no_grad():
        output = model(
            pixel_values=formula_image(256),
            input_points=torch.tensor(SAMUS_REFERENCE["points_xy_input"]),
            input_labels=torch.tensor(SAMUS_REFERENCE["labels"]),
        )
    stages["mask logits"] = output.pred_masks[:, :, 0]

    slices, expected = {}, {}
    for name, reference in SAMUS_REFERENCE["stages"].items():
        assert list(stages[name].shape) == reference["shape"]
        flat, count = stages[name].flatten(), len(reference["slice"])
        slices[name] = flat[torch.arange(count) * (flat.numel() - 1) // (count - 1)]
        expected[name] = torch.tensor(reference["slice"])
        slices[f"{name}: mean, std"] = torch.stack([flat.double().mean(), flat.double().std()])
        expected[f"{name}: mean, std"] = torch.tensor([reference["mean"], reference["std"]], dtype=torch.float64)
    assert_stages_equal(slices, expected, tolerance=1e-4)


def test_parameter_counts():
    def counts(config: CCSamConfig) -> tuple[int, int]:
        with torch.device("meta"):
            parameters = list(CCSamModel(config).parameters())
        return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)

    gaussian_matrix = 2 * 128  # a buffer in the official SAMUS, a frozen parameter in transformers' prompt encoder
    assert (SAMUS_REFERENCE["num_parameters"], SAMUS_REFERENCE["num_trainable"]) == (133_323_568, 39_653_120)
    assert counts(CCSamConfig.samus()) == (133_323_568 + gaussian_matrix, 39_653_120)
    assert counts(CCSamConfig()) == (128_466_992, 15_346_596)


# ResNet-50


@pytest.fixture(scope="module")
def torchvision_resnet():
    """torchvision's ResNet-50 with named weights, BatchNorm statistics included."""
    with torch.device("meta"):
        weights = fill_like(resnet50().state_dict())
    network = resnet50().eval()
    network.load_state_dict(weights)
    return network


def radimagenet_names(network: nn.Module) -> dict[str, Tensor]:
    holder = nn.Module()
    holder.backbone = nn.Sequential(*list(network.children())[:9])
    return holder.state_dict()


def transformers_names(network: nn.Module) -> dict[str, Tensor]:
    """torchvision's weights in the names of transformers, paired by order: both list their layers as data flows."""
    with torch.device("meta"):
        names = list(ResNetForImageClassification(ResNetConfig(num_labels=1000)).state_dict())
    shortcut_first = {name: "downsample" not in name for name in network.state_dict()}
    source = sorted(network.state_dict(), key=lambda name: (block_of(name), shortcut_first[name]))
    return dict(zip(names, (network.state_dict()[name] for name in source), strict=True))


def block_of(name: str) -> tuple[int, int]:
    """Position of a torchvision name in the network: stem, stage and block, classifier."""
    if not name.startswith("layer"):
        return (9, 0) if name.startswith("fc") else (0, 0)
    return int(name[5]), int(name.split(".")[1])


@pytest.mark.parametrize(
    "state_dict_of",
    [radimagenet_names, nn.Module.state_dict, transformers_names],
    ids=["radimagenet", "torchvision", "transformers"],
)
def test_resnet50_equals_torchvision_in_every_style_of_names(torchvision_resnet, state_dict_of):
    config = CCSamConfig()
    converted, report = convert_resnet50(state_dict_of(torchvision_resnet), config)
    branch = ResNetBranch(config.cnn_config, output_channels=256, grid_size=32).eval()
    prefix = "cnn_branch.backbone."
    branch.backbone.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in converted.items()})

    expected, stages = Stages(), Stages()
    for number in range(1, 5):
        expected.watch(f"stage {number}", getattr(torchvision_resnet, f"layer{number}"))
        stages.watch(f"stage {number}", branch.backbone.encoder.stages[number - 1])
    normalised = []
    branch.backbone.register_forward_pre_hook(lambda _, inputs: normalised.append(inputs[0]))
    image = formula_image(128)
    with torch.no_grad():
        cnn_map = branch(image)
        torchvision_resnet(normalised[0])
    assert torch.allclose(normalised[0], (image * 255 - 127.5) * 2 / 255, rtol=0, atol=1e-6)  # as RadImageNet trains
    assert_stages_equal(stages, expected, tolerance=1e-5)

    tokens = F.leaky_relu(branch.adapter.linear(expected["stage 4"].permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    resized = F.interpolate(tokens, (32, 32), mode="bilinear", align_corners=False)
    assert_stages_equal({"cnn map": cnn_map}, {"cnn map": resized.detach()}, tolerance=1e-5)


# Windowed attention


def plain_window_attention(attention: WindowAttention, tokens: Tensor) -> Tensor:
    """Pad first, project every token, add relative positions pair by pair: no shortcut of `WindowAttention`."""
    size, heads = attention.window_size, attention.num_heads
    batch, height, width, channels = tokens.shape
    padded = F.pad(tokens, (0, 0, 0, -width % size, 0, -height % size))
    output = torch.zeros_like(padded)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    y, x = y.flatten(), x.flatten()
    relative = attention.rel_pos_h[y[:, None] - y + size - 1] + attention.rel_pos_w[x[:, None] - x + size - 1]
    for top in range(0, padded.shape[1], size):
        for left in range(0, padded.shape[2], size):
            window = padded[:, top : top + size, left : left + size].flatten(1, 2)
            query, key, value = attention.qkv(window).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            logits = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
            logits = logits + torch.einsum("bnqd,qkd->bnqk", query, relative)
            mixed = (logits.softmax(-1) @ value).transpose(1, 2).reshape(batch, size, size, channels)
            output[:, top : top + size, left : left + size] = mixed
    return attention.proj(output)[:, :height, :width]


def window_attention(implementation: str, hidden_size: int, num_heads: int, window_size: int) -> WindowAttention:
    config = SimpleNamespace(
        hidden_size=hidden_size, num_attention_heads=num_heads, _attn_implementation=implementation
    )
    attention = WindowAttention(config, window_size)
    attention.load_state_dict(fill_like(attention.state_dict()))
    return attention


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("grid", "hidden_size", "num_heads", "window_size"),
    [((5, 7), 24, 3, 3), ((8, 8), 24, 3, 4), ((6, 6), 24, 2, 6), ((32, 32), 768, 12, 14)],
    ids=["padded, not square", "whole windows", "global", "ViT-B, 32 padded to 42"],
)
def test_window_attention_equals_the_plain_computation(implementation, grid, hidden_size, num_heads, window_size):
    attention = window_attention(implementation, hidden_size, num_heads, window_size).double()
    tokens, direction = torch.randn(2, 1, *grid, hidden_size, dtype=torch.float64)
    results = []
    for compute in (attention, partial(plain_window_attention, attention)):
        attention.zero_grad()
        inputs = tokens.clone().requires_grad_()
        output = compute(inputs)
        (output * direction).sum().backward()
        gradients = {f"gradient of {name}": p.grad.clone() for name, p in attention.named_parameters()}
        results.append({"output": output.detach(), "gradient of tokens": inputs.grad, **gradients})
    assert_stages_equal(*results, tolerance=1e-10)
