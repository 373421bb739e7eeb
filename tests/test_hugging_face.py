"""Hugging Face behaviour: saving and loading in every way, start values, precision, attention, compilation."""

import copy
import gc
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

from ccsam_hf import CCSamConfig, CCSamImageProcessor, CCSamModel, CCSamProcessor
from ccsam_hf.vit_branch import eager_attention, fused_attention
from without_the_package import WITHOUT_THE_PACKAGE

GAUSSIAN_MATRIX = "prompt_encoder.shared_embedding.positional_embedding"
BOXES = torch.tensor([[[40.0, 50, 120, 160], [10, 20, 200, 90]]])


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.rand(1, 3, 256, 256)


@pytest.fixture
def model(tiny_model) -> CCSamModel:
    """The tiny model with every parameter off its start value and statistics in its BatchNorms."""
    with torch.no_grad():
        for name, parameter in tiny_model.named_parameters():
            if name != GAUSSIAN_MATRIX:
                parameter.add_(0.02 * torch.randn_like(parameter))
        for name, buffer in tiny_model.named_buffers():
            if "running_mean" in name:
                buffer.add_(0.05 * torch.randn_like(buffer))
    return tiny_model


@pytest.fixture
def saved(model, tmp_path):
    """Folder of the saved model."""
    folder = tmp_path / "saved"
    model.save_pretrained(folder)
    return folder


def run(model: CCSamModel, pixel_values: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values, input_boxes=BOXES).pred_masks


def assert_equal_states(first: CCSamModel, second: CCSamModel) -> None:
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name


# --- save and load ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_shard_size", ["50GB", "1MB"])
def test_a_saved_model_comes_back_bit_equal(model, tmp_path, pixel_values, max_shard_size):
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    sharded = max_shard_size == "1MB"
    assert (tmp_path / "model.safetensors.index.json").exists() == sharded
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == sharded
    loaded, report = CCSamModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert_equal_states(loaded, model)
    torch.testing.assert_close(run(loaded, pixel_values), run(model, pixel_values), rtol=0, atol=1e-6)
    assert loaded.config.to_diff_dict().keys() >= {"vision_config", "vaf_config"}
    assert not loaded.training


@pytest.mark.parametrize(
    "kwargs",
    [
        {"cnn_branch": "samus", "fusion": "cross_branch", "cnn_config": {"samus_channels": 8}},
        {"cnn_branch": "none", "fusion": "none"},
        {"vaf_config": {"attention": "deterministic", "granularity": "image", "residual": False}},
    ],
    ids=["samus", "no cnn", "other fusion"],
)
def test_other_architectures_come_back_too(kwargs, tmp_path, pixel_values):
    model = CCSamModel(CCSamConfig.tiny(**kwargs)).eval()
    model.save_pretrained(tmp_path)
    loaded, report = CCSamModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert_equal_states(loaded, model)
    torch.testing.assert_close(run(loaded, pixel_values), run(model, pixel_values), rtol=0, atol=1e-6)


@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_device_map(saved, model, pixel_values, device_map):
    loaded = CCSamModel.from_pretrained(saved, device_map=device_map)
    assert_equal_states(loaded.to("cpu"), model)
    torch.testing.assert_close(run(loaded, pixel_values), run(model, pixel_values), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision(saved, model, pixel_values, dtype, tolerance):
    loaded = CCSamModel.from_pretrained(saved, dtype=dtype)
    dtypes = {name: parameter.dtype for name, parameter in loaded.named_parameters()}
    assert dtypes.pop(GAUSSIAN_MATRIX) == torch.float32
    assert set(dtypes.values()) == {dtype}
    assert torch.equal(loaded.state_dict()[GAUSSIAN_MATRIX], model.state_dict()[GAUSSIAN_MATRIX])

    points = {"input_points": torch.tensor([[[[80.0, 90]]]]), "input_labels": torch.ones(1, 1, 1, dtype=torch.long)}
    masks = {"input_masks": torch.randn(1, 1, 128, 128)}
    with torch.no_grad():
        image_embeddings = loaded.get_image_embeddings(pixel_values)  # pixel_values stay float32
        assert image_embeddings.dtype == dtype
        for prompts in ({"input_boxes": BOXES}, points, masks, {}):
            expected = model(pixel_values, **prompts).pred_masks
            got = loaded(image_embeddings=image_embeddings, **prompts).pred_masks
            assert got.dtype == dtype
            error = (got.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
            assert error < tolerance  # a NaN fails too
        sampled = loaded(pixel_values, input_boxes=BOXES, num_samples=2)
    assert torch.isfinite(sampled.mask_uncertainty).all()


def test_what_learns_after_loading_is_what_is_declared(saved, model):
    loaded = CCSamModel.from_pretrained(saved)
    expected = {name: parameter.requires_grad for name, parameter in model.freeze("declared").named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in loaded.named_parameters()} == expected
    assert 0 < sum(expected.values()) < len(expected)
    loaded.train()
    assert loaded.training and not loaded.cnn_branch.backbone.training


def test_a_copy_is_equal_and_independent(model, pixel_values):
    clone = copy.deepcopy(model)
    assert_equal_states(clone, model)
    assert torch.equal(run(clone, pixel_values), run(model, pixel_values))
    with torch.no_grad():
        clone.mask_decoder.iou_token.weight.add_(1)
    assert not torch.equal(clone.mask_decoder.iou_token.weight, model.mask_decoder.iou_token.weight)


@pytest.mark.parametrize("preset", ["vit_b", "samus", "sam", "tiny"])
def test_no_buffer_hides_from_the_state_dict(preset):
    with torch.device("meta"):
        model = CCSamModel(getattr(CCSamConfig, preset)())
    assert {name for name, _ in model.named_buffers()} <= model.state_dict().keys()
    for name, module in model.named_modules():
        assert not module._non_persistent_buffers_set, name
        hidden = [key for key, value in vars(module).items() if isinstance(value, torch.Tensor)]
        assert not hidden, (name, hidden)  # a plain tensor attribute would stay on the meta device


# --- partial checkpoints ---------------------------------------------------------------------------------------------


def load_without(folder, *fragments: str) -> tuple[CCSamModel, set[str]]:
    """Load after deleting every tensor whose name contains one of `fragments`; the names that were deleted."""
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not any(part in name for part in fragments)}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    loaded, report = CCSamModel.from_pretrained(folder, output_loading_info=True)
    deleted = weights.keys() - kept.keys()
    assert set(report["missing_keys"]) == deleted
    assert not report["unexpected_keys"]
    for name, value in kept.items():
        assert torch.equal(loaded.state_dict()[name], value), name
    return loaded, deleted


def assert_normal(tensor: torch.Tensor, std: float) -> None:
    """Mean and standard deviation within five standard errors of N(0, std^2)."""
    count = tensor.numel()
    assert abs(tensor.mean().item()) < 5 * std / count**0.5
    assert abs(tensor.std().item() / std - 1) < 5 / (2 * count) ** 0.5


@pytest.mark.parametrize(
    ("fragment", "value"),
    [
        ("adapter.up.", 0.0),  # second projection of the feature adapters
        ("fusion.output.", 0.0),  # W_h of the residual fusion
        ("log_var.2.bias", -4.0),  # log-variances ...
        ("log_var.2.weight", 0.0),  # ... for every input
        ("vit_branch.pos_embed", 0.0),
        ("rel_pos_", 0.0),
        ("running_mean", 0.0),
        ("running_var", 1.0),
        ("layer_norm.weight", 1.0),
        ("layer_norm.bias", 0.0),
        ("linear.bias", 0.0),
        ("qkv.bias", 0.0),
    ],
)
def test_missing_parameters_start_at_their_documented_constant(saved, fragment, value):
    loaded, deleted = load_without(saved, fragment)
    assert deleted
    for name in deleted:
        tensor = loaded.state_dict()[name]
        assert torch.equal(tensor, torch.full_like(tensor, value)), name


def test_missing_weights_are_drawn_with_the_documented_deviation(saved):
    loaded, deleted = load_without(
        saved, "qkv.weight", "adapter.down.weight", "cnn_branch.adapter.linear.weight", "fusion.vit_encoder.0.weight",
        "fusion.cnn_head.mean", "output_hypernetworks_mlps", "patch_embed.projection.weight", "position_adapter",
    )  # fmt: skip
    std = loaded.config.initializer_range
    weights = [name for name in deleted if name.endswith("weight") and loaded.state_dict()[name].ndim > 1]
    assert len(weights) > 10
    for name in weights:
        assert_normal(loaded.state_dict()[name], std)


def test_the_missing_gaussian_matrix_is_drawn_with_unit_variance(saved):
    loaded, deleted = load_without(saved, GAUSSIAN_MATRIX)
    assert deleted == {GAUSSIAN_MATRIX}
    assert_normal(loaded.state_dict()[GAUSSIAN_MATRIX], 1.0)


def test_a_missing_resnet_starts_as_transformers_starts_it(saved):
    loaded, deleted = load_without(saved, "cnn_branch.backbone")
    convolutions = [m for m in loaded.cnn_branch.backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    for convolution in convolutions:  # Kaiming, fan-out
        fan_out = convolution.out_channels * convolution.kernel_size[0] ** 2
        assert_normal(convolution.weight, (2 / fan_out) ** 0.5)
    assert not loaded.cnn_branch.backbone.training


def test_a_new_model_has_the_start_values_of_a_model_that_loads_nothing(tmp_path, tiny_config):
    new = CCSamModel(tiny_config)
    tiny_config.architectures = ["CCSamModel"]
    tiny_config.save_pretrained(tmp_path)
    save_file({}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = CCSamModel.from_pretrained(tmp_path)
    for name, tensor in new.state_dict().items():
        other = loaded.state_dict()[name]
        if tensor.unique().numel() == 1:
            assert torch.equal(other, tensor), name
        else:  # two draws of one distribution: six standard errors
            assert abs(other.std().item() / tensor.std().item() - 1) < 6 / tensor.numel() ** 0.5, name


def test_missing_parameters_never_take_what_lies_in_memory(saved):
    """Freed memory full of a strange value, then a load: start values depend on the seed alone."""
    groups = ("fusion.", "vit_branch.pos_embed", "rel_pos_", "adapter", "mask_decoder.", "running_", GAUSSIAN_MATRIX)
    torch.manual_seed(3)
    first, deleted = load_without(saved, *groups)
    assert len(deleted) > 100
    shapes = [tensor.shape for tensor in first.state_dict().values()]
    garbage = [torch.full(shape, 1e30) for shape in shapes for _ in range(3)]
    del garbage
    gc.collect()
    torch.manual_seed(3)
    second = CCSamModel.from_pretrained(saved)
    assert_equal_states(second, first)
    assert max(tensor.abs().max() for tensor in second.state_dict().values()) < 100


# --- AutoClasses and code on the Hub ---------------------------------------------------------------------------------


def test_auto_classes_find_the_registered_classes(model, tmp_path, pixel_values):
    model.save_pretrained(tmp_path)
    CCSamProcessor(CCSamImageProcessor()).save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is CCSamConfig
    assert type(AutoProcessor.from_pretrained(tmp_path)) is CCSamProcessor
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is CCSamImageProcessor
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is CCSamModel
    assert_equal_states(loaded, model)
    assert type(AutoModel.from_config(CCSamConfig.tiny())) is CCSamModel


LOAD = (
    WITHOUT_THE_PACKAGE
    + """
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

torch.set_num_threads(1)
folder = sys.argv[1]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model, report = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
assert not report["missing_keys"] and not report["unexpected_keys"], report
assert config.model_type == model.config.model_type == "ccsam"
assert "transformers_modules" in type(model).__module__
model.set_attn_implementation("eager")
model.set_attn_implementation("sdpa")
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
given = torch.load(f"{folder}/given.pt", weights_only=True)
with torch.no_grad():
    output = model(given["pixel_values"], input_boxes=given["input_boxes"])
inputs = processor(given["image"].numpy(), input_boxes=[[[10, 20, 90, 80]]], return_tensors="pt")
torch.save({"pred_masks": output.pred_masks, "pixel_values": inputs["pixel_values"]}, f"{folder}/got.pt")
model.save_pretrained(f"{folder}/again")
"""
)


def test_a_saved_folder_runs_where_the_package_is_not_installed(model, tmp_path, pixel_values):
    folder = tmp_path / "repository"
    model.save_pretrained(folder)
    processor = CCSamProcessor(CCSamImageProcessor())
    processor.save_pretrained(folder)
    image = torch.randint(0, 256, (100, 140, 3), dtype=torch.uint8)
    torch.save({"pixel_values": pixel_values, "input_boxes": BOXES, "image": image}, folder / "given.pt")

    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    home = {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder)],
        env={**environment, **home, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    got = torch.load(folder / "got.pt", weights_only=True)
    torch.testing.assert_close(got["pred_masks"], run(model, pixel_values), rtol=0, atol=1e-6)
    expected = processor(image.numpy(), input_boxes=[[[10, 20, 90, 80]]], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(got["pixel_values"], expected, rtol=0, atol=1e-6)
    copied = {path.name for path in (folder / "again").glob("*.py")}
    assert {"modeling_ccsam.py", "configuration_ccsam.py", "fusion.py", "losses.py"} <= copied


# --- attention, checkpointing, compilation, autocast -----------------------------------------------------------------


def count_attention(model: CCSamModel, pixel_values: torch.Tensor, monkeypatch) -> dict[str, int]:
    """Which attention runs how often: in the ViT our two functions, in the mask decoder fused calls or written out."""
    counts = {"vit eager": 0, "vit fused": 0, "decoder fused": 0, "decoder eager": 0}

    def counted(name, function):
        def wrapper(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return wrapper

    import transformers.models.sam.modeling_sam as sam

    vit = sys.modules[type(model.vit_branch).__module__]
    with monkeypatch.context() as patch:
        patch.setattr(vit, "eager_attention", counted("vit eager", eager_attention))
        patch.setattr(vit, "fused_attention", counted("vit fused", fused_attention))
        patch.setattr(sam, "eager_attention_forward", counted("decoder eager", sam.eager_attention_forward))
        fused_function = sam.ALL_ATTENTION_FUNCTIONS["sdpa"]
        patch.setitem(sam.ALL_ATTENTION_FUNCTIONS, "sdpa", counted("decoder fused", fused_function))
        run(model, pixel_values)
    return counts


def test_attention_implementation_switches_the_vit_and_the_mask_decoder(saved, pixel_values, monkeypatch):
    def parts(model):
        layers = model.config.vision_config.num_hidden_layers
        decoder_layers = model.config.mask_decoder_config.num_hidden_layers
        return layers, 3 * decoder_layers + 1  # self, token to image, image to token; and the last one

    eager = CCSamModel.from_pretrained(saved, attn_implementation="eager")
    fused = CCSamModel.from_pretrained(saved, attn_implementation="sdpa")
    vit, decoder = parts(eager)
    all_eager = {"vit eager": vit, "vit fused": 0, "decoder fused": 0, "decoder eager": decoder}
    all_fused = {"vit eager": 0, "vit fused": vit, "decoder fused": decoder, "decoder eager": 0}
    assert count_attention(eager, pixel_values, monkeypatch) == all_eager
    assert count_attention(fused, pixel_values, monkeypatch) == all_fused
    assert count_attention(CCSamModel.from_pretrained(saved), pixel_values, monkeypatch) == all_fused  # the default
    expected = run(fused, pixel_values)
    torch.testing.assert_close(run(eager, pixel_values), expected, rtol=1e-4, atol=1e-5)

    fused.set_attn_implementation("eager")
    assert count_attention(fused, pixel_values, monkeypatch) == all_eager
    fused.set_attn_implementation("sdpa")
    assert count_attention(fused, pixel_values, monkeypatch) == all_fused
    assert torch.equal(run(fused, pixel_values), expected)


def test_attention_implementation_of_one_part(saved, pixel_values, monkeypatch):
    choice = {"": "sdpa", "vision_config": "eager", "mask_decoder_config": "sdpa"}
    model = CCSamModel.from_pretrained(saved, attn_implementation=choice)
    counts = count_attention(model, pixel_values, monkeypatch)
    assert counts["vit fused"] == counts["decoder eager"] == 0
    assert counts["vit eager"] > 0 and counts["decoder fused"] > 0


def test_an_attention_that_is_not_supported_is_refused(saved):
    with pytest.raises(ValueError, match="does not support Flash Attention 2"):
        CCSamModel.from_pretrained(saved, attn_implementation="flash_attention_2")


def gradients(model: CCSamModel, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)  # the same dropout and the same draws
    labels = torch.zeros(1, 2, 128, 128)
    labels[..., 30:80, 20:70] = 1
    model.zero_grad()
    model(pixel_values, input_boxes=BOXES, labels=labels).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("fusion", ["vaf", "cross_branch"])
def test_checkpointed_activations_give_the_same_gradients(tiny_config, pixel_values, fusion):
    tiny_config.fusion = fusion
    model = CCSamModel(tiny_config).train()
    expected = gradients(model, pixel_values)
    calls = []
    model.vit_branch.layers[0].attn.register_forward_hook(lambda *_: calls.append(1))
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    else:  # transformers before its new name
        model.gradient_checkpointing_enable()
    got = gradients(model, pixel_values)
    assert len(calls) == 2  # once forward, once again on the way back
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6)


def test_compilation_without_graph_breaks(model, pixel_values):
    expected = run(model, pixel_values)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(run(compiled, pixel_values), expected, rtol=1e-4, atol=1e-5)


def test_autocast_to_bfloat16_stays_close(model, pixel_values):
    labels = torch.zeros(1, 2, 128, 128)
    labels[..., 30:80, 20:70] = 1
    with torch.no_grad():
        expected = model(pixel_values, input_boxes=BOXES, labels=labels, num_samples=2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = model(pixel_values, input_boxes=BOXES, labels=labels, num_samples=2)
    scale = expected.pred_masks.square().mean().sqrt()
    assert (got.pred_masks.float() - expected.pred_masks).square().mean().sqrt() < 0.1 * scale
    assert got.loss.dtype == torch.float32
    torch.testing.assert_close(got.loss, expected.loss, rtol=0.02, atol=0)
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(pixel_values, input_boxes=BOXES, labels=labels).loss
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
