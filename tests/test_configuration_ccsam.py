"""Configuration: the paper's numbers, round trips, and every refusal with its message."""

import json
import logging

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassError
from transformers import AutoConfig

from ccsam_hf import CCSamConfig, CCSamModel
from ccsam_hf.configuration_ccsam import (
    CCSamCNNConfig,
    CCSamMaskDecoderConfig,
    CCSamPromptEncoderConfig,
    CCSamVAFConfig,
    CCSamVisionConfig,
)

PRESETS = ["vit_b", "samus", "sam", "tiny"]


def preset(name: str, **kwargs) -> CCSamConfig:
    return getattr(CCSamConfig, name)(**kwargs)


# --- presets ---------------------------------------------------------------------------------------------------------


def test_the_default_has_the_numbers_of_the_paper():
    config = CCSamConfig()
    vision, cnn, vaf = config.vision_config, config.cnn_config, config.vaf_config
    assert (config.cnn_branch, config.fusion) == ("resnet50", "vaf")
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (768, 12, 12)
    assert (vision.image_size, vision.patch_size, vision.patch_stride, vision.grid_size) == (256, 16, 8, 32)
    assert vision.global_attn_indexes == (2, 5, 8, 11)
    assert vision.adapter_size == vision.hidden_size // 4 == 192
    assert vision.adapter_scale == 0.5
    assert (vision.mlp_dim, vision.window_size, vision.pretrained_grid_size) == (3072, 14, 64)
    assert vision.num_position_downsamplings == 1
    assert (cnn.depths, cnn.hidden_sizes) == ((3, 4, 6, 3), (256, 512, 1024, 2048))  # ResNet-50
    assert (cnn.layer_type, cnn.feature_stages) == ("bottleneck", ("stage4",))
    assert (vaf.latent_dim, vaf.granularity, vaf.attention) == (1024, "token", "variational")
    assert cnn.dropout == vaf.dropout == 0.5
    assert vision.output_channels == config.prompt_encoder_config.hidden_size == 256
    assert config.prompt_encoder_config.image_embedding_size == 32


def test_vit_b_is_the_default():
    assert CCSamConfig.vit_b().to_dict() == CCSamConfig().to_dict()


def test_samus_differs_from_the_default_in_three_switches_only():
    samus, default = CCSamConfig.samus().to_dict(), CCSamConfig().to_dict()
    changed = {key: samus[key] for key in samus if samus[key] != default[key]}
    assert changed == {"cnn_branch": "samus", "fusion": "cross_branch", "train_mask_decoder": False}


def test_sam_is_plain_sam_at_1024():
    config = CCSamConfig.sam()
    vision = config.vision_config
    assert (vision.image_size, vision.patch_stride, vision.grid_size) == (1024, 16, 64)
    assert vision.num_position_downsamplings == 0
    assert not vision.feature_adapters
    assert (config.cnn_branch, config.fusion) == ("none", "none")
    assert config.prompt_encoder_config.image_embedding_size == 64


def test_tiny_has_every_block_of_the_default_at_reduced_size():
    tiny, default = CCSamConfig.tiny(), CCSamConfig()
    assert (tiny.cnn_branch, tiny.fusion) == (default.cnn_branch, default.fusion)
    assert tiny.vision_config.feature_adapters
    assert tiny.vision_config.global_attn_indexes  # a global block with its adapter, and windowed ones
    assert len(tiny.vision_config.global_attn_indexes) < tiny.vision_config.num_hidden_layers
    assert tiny.vision_config.hidden_size < default.vision_config.hidden_size
    assert tiny.vision_config.grid_size == default.vision_config.grid_size


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_takes_other_fields(name):
    assert preset(name, lambda_v=0.25).lambda_v == 0.25


@pytest.mark.parametrize(
    ("image_size", "patch_stride", "expected"), [(256, 8, 1), (256, 16, 2), (128, 8, 2), (512, 8, 0)]
)
def test_the_position_adapter_halves_sams_grid_until_it_is_the_token_grid(image_size, patch_stride, expected):
    vision = CCSamVisionConfig(image_size=image_size, patch_stride=patch_stride)
    assert vision.num_position_downsamplings == expected
    assert vision.grid_size * 2**expected == 64


# --- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_saving_and_loading_keeps_every_field_and_warns_of_nothing(name, tmp_path, caplog):
    config = preset(name, lambda_c=0.125)
    with caplog.at_level(logging.WARNING):
        config.save_pretrained(tmp_path)
        loaded = CCSamConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert CCSamConfig(**config.to_dict()).to_dict() == config.to_dict()
    assert CCSamConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    assert "has no field" not in caplog.text


def test_a_saved_model_and_its_config_load_without_a_warning(tiny_model, tmp_path, caplog):
    tiny_model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        CCSamModel.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager", device_map="cpu")
        AutoConfig.from_pretrained(tmp_path, num_labels=1)
    assert "has no field" not in caplog.text


def test_auto_config_finds_the_class(tmp_path):
    CCSamConfig.tiny().save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is CCSamConfig
    assert type(AutoConfig.for_model("ccsam")) is CCSamConfig
    assert loaded.vision_config.to_dict() == CCSamConfig.tiny().vision_config.to_dict()


def test_a_part_is_read_from_the_whole(tmp_path):
    vision, cnn, vaf = {"adapter_size": 24}, {"layer_type": "basic"}, {"latent_dim": 64}
    CCSamConfig(vision_config=vision, cnn_config=cnn, vaf_config=vaf).save_pretrained(tmp_path)
    assert CCSamVisionConfig.from_pretrained(tmp_path).adapter_size == 24
    assert CCSamCNNConfig.from_pretrained(tmp_path).layer_type == "basic"
    assert CCSamVAFConfig.from_pretrained(tmp_path).latent_dim == 64


def test_sub_configs_are_objects_or_dictionaries_with_missing_fields_at_their_defaults():
    given = CCSamVAFConfig(latent_dim=64)
    config = CCSamConfig(vaf_config=given, cnn_config={"dropout": 0.25})
    assert config.vaf_config.latent_dim == 64
    assert config.cnn_config.dropout == 0.25
    assert config.cnn_config.depths == (3, 4, 6, 3)


def test_loading_merges_into_the_saved_parts(tmp_path):
    CCSamConfig(vaf_config={"latent_dim": 64}).save_pretrained(tmp_path)
    loaded = CCSamConfig.from_pretrained(tmp_path, vaf_config={"dropout": 0.0})
    assert loaded.vaf_config.dropout == 0.0
    assert loaded.vaf_config.latent_dim == 64


def test_the_prompt_grid_follows_the_sizes_and_not_a_saved_number(tmp_path):
    CCSamConfig.tiny().save_pretrained(tmp_path)
    changed = {"vision_config": {"image_size": 128}, "prompt_encoder_config": {"image_size": 128}}
    assert CCSamConfig.from_pretrained(tmp_path, **changed).prompt_encoder_config.image_embedding_size == 16


# --- unknown keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"lambda_cc": 1.0}, "CCSamConfig has no field `lambda_cc`: it changes nothing; did you mean `lambda_c`?"),
        ({"fusoin": "vaf"}, "CCSamConfig has no field `fusoin`: it changes nothing; did you mean `fusion`?"),
        ({"zzz": 1}, "CCSamConfig has no field `zzz`: it changes nothing"),
        (
            {"vision_config": {"adapter_sise": 3}},
            "CCSamVisionConfig has no field `adapter_sise`: it changes nothing; did you mean `adapter_size`?",
        ),
        (
            {"cnn_config": {"drop_out": 0.1}},
            "CCSamCNNConfig has no field `drop_out`: it changes nothing; did you mean `dropout`?",
        ),
        (
            {"vaf_config": {"latent_dims": 8}},
            "CCSamVAFConfig has no field `latent_dims`: it changes nothing; did you mean `latent_dim`?",
        ),
        (
            {"prompt_encoder_config": {"hiden_size": 8}},
            "CCSamPromptEncoderConfig has no field `hiden_size`: it changes nothing; did you mean `hidden_size`?",
        ),
        (
            {"mask_decoder_config": {"mlp_dims": 8}},
            "CCSamMaskDecoderConfig has no field `mlp_dims`: it changes nothing; did you mean `mlp_dim`?",
        ),
    ],
)
def test_a_misspelt_key_is_named_with_a_suggestion(kwargs, message, caplog):
    with caplog.at_level(logging.WARNING):
        CCSamConfig(**kwargs)
    assert [record.getMessage() for record in caplog.records] == [message]


# --- refusals --------------------------------------------------------------------------------------------------------

REFUSED = [
    (CCSamVisionConfig, {"hidden_size": 0}, "hidden_size=0 must be at least 1"),
    (CCSamVisionConfig, {"num_hidden_layers": 0}, "num_hidden_layers=0 must be at least 1"),
    (CCSamVisionConfig, {"num_attention_heads": 0}, "num_attention_heads=0 must be at least 1"),
    (CCSamVisionConfig, {"num_channels": 0}, "num_channels=0 must be at least 1"),
    (CCSamVisionConfig, {"image_size": 0}, "image_size=0 must be at least 1"),
    (CCSamVisionConfig, {"patch_size": 0}, "patch_size=0 must be at least 1"),
    (CCSamVisionConfig, {"patch_stride": 0}, "patch_stride=0 must be at least 1"),
    (CCSamVisionConfig, {"window_size": 0}, "window_size=0 must be at least 1"),
    (CCSamVisionConfig, {"output_channels": 0}, "output_channels=0 must be at least 1"),
    (CCSamVisionConfig, {"hidden_size": 770}, "hidden_size=770 must be a multiple of num_attention_heads=12"),
    (CCSamVisionConfig, {"adapter_size": 0}, "adapter_size=0 must lie between 0 and hidden_size=768"),
    (CCSamVisionConfig, {"adapter_size": 768}, "adapter_size=768 must lie between 0 and hidden_size=768"),
    (CCSamVisionConfig, {"global_attn_indexes": (2, 12)}, "global_attn_indexes [12] do not exist in 12 layers"),
    (CCSamVisionConfig, {"patch_stride": 7}, "patch_stride=7 must divide image_size=256"),
    (CCSamVisionConfig, {"patch_stride": 32}, "be at most patch_size=16"),
    (CCSamVisionConfig, {"pretrained_grid_size": 48}, "must be the token grid (32 = image_size / patch_stride) times"),
    (CCSamVisionConfig, {"image_size": 1024}, "pretrained_grid_size=64 must be the token grid (128"),
    (CCSamCNNConfig, {"embedding_size": 0}, "embedding_size=0 must be at least 1"),
    (CCSamCNNConfig, {"depths": (3, 0, 6, 3)}, "depths=(3, 0, 6, 3) must be at least 1"),
    (CCSamCNNConfig, {"hidden_sizes": (256, 512)}, "hidden_sizes=(256, 512) and depths=(3, 4, 6, 3) must have"),
    (CCSamCNNConfig, {"samus_channels": 0}, "samus_channels=0 must be at least 1"),
    (CCSamCNNConfig, {"output_channels": 0}, "output_channels=0 must be at least 1"),
    (CCSamCNNConfig, {"feature_stages": ("layer5",)}, "feature_stages=('layer5',) must name at least one of stage1"),
    (CCSamCNNConfig, {"feature_stages": ()}, "must name at least one of stage1, stage2, ..."),
    (
        CCSamConfig,
        {"cnn_config": {"feature_stages": ("stage5",)}},
        "feature_stages ['stage5'] do not exist in 4 stages",
    ),
    (CCSamCNNConfig, {"dropout": 1.0}, "dropout=1.0 must lie in [0, 1)"),
    (CCSamCNNConfig, {"image_std": (0.5, 0.0, 0.5)}, "image_std=(0.5, 0.0, 0.5) need three values each"),
    (CCSamCNNConfig, {"image_mean": (0.5,)}, "image_mean=(0.5,) and image_std=(0.5, 0.5, 0.5) need three values"),
    (CCSamVAFConfig, {"latent_dim": 0}, "latent_dim=0 must be at least 1"),
    (CCSamVAFConfig, {"head_hidden_size": 0}, "head_hidden_size=0 must be at least 1"),
    (CCSamVAFConfig, {"dropout": -0.1}, "dropout=-0.1 must lie in [0, 1)"),
    (CCSamVAFConfig, {"log_var_range": (5.0, -10.0)}, "log_var_range=(5.0, -10.0) must be (smallest, largest)"),
    (CCSamVAFConfig, {"log_var_range": (-10.0,)}, "log_var_range=(-10.0,) must be (smallest, largest)"),
    (CCSamConfig, {"lambda_c": -1.0}, "lambda_c=-1.0 must be at least 0"),
    (CCSamConfig, {"lambda_v": -1.0}, "lambda_v=-1.0 must be at least 0"),
    (CCSamConfig, {"lambda_a": -1.0}, "lambda_a=-1.0 must be at least 0"),
    (CCSamConfig, {"lambda_iou": -1.0}, "lambda_iou=-1.0 must be at least 0"),
    (CCSamConfig, {"cnn_branch": "none"}, "cnn_branch='none' with fusion='vaf': both or neither must be 'none'"),
    (CCSamConfig, {"fusion": "none"}, "cnn_branch='resnet50' with fusion='none'"),
    (
        CCSamConfig,
        {"prompt_encoder_config": {"image_size": 128}},
        "prompt_encoder_config has image_size=128, patch_size=8; it must repeat image_size=256 and patch_stride=8",
    ),
    (CCSamConfig, {"vision_config": {"patch_stride": 16}}, "patch_size=8; it must repeat"),
    (
        CCSamConfig,
        {"mask_decoder_config": {"hidden_size": 128}},
        "vision_config.output_channels=256, prompt_encoder_config.hidden_size=256 and "
        "mask_decoder_config.hidden_size=128 must be equal",
    ),
    (
        CCSamConfig,
        {
            "cnn_branch": "samus",
            "vision_config": {"image_size": 384, "patch_stride": 12},
            "prompt_encoder_config": {"image_size": 384, "patch_size": 12},
        },
        "patch_stride=12 must be a power of two with cnn_branch='samus'",
    ),
]


@pytest.mark.parametrize(("kind", "kwargs", "message"), REFUSED, ids=[case[2][:50] for case in REFUSED])
def test_a_value_that_cannot_work_is_refused(kind, kwargs, message):
    with pytest.raises(StrictDataclassClassValidationError) as caught:
        kind(**kwargs)
    assert message in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("field", ["image_size", "patch_size"])
def test_the_prompt_encoder_refuses_a_size_of_zero(field):
    with pytest.raises(ValueError, match=f"{field}=0 must be at least 1"):
        CCSamPromptEncoderConfig(**{field: 0})


@pytest.mark.parametrize(
    ("kind", "kwargs", "message"),
    [
        (CCSamVisionConfig, {"hidden_size": "768"}, "'hidden_size' expected int, got str"),
        (CCSamVisionConfig, {"hidden_size": 768.0}, "'hidden_size' expected int, got float"),
        (CCSamVisionConfig, {"feature_adapters": 1}, "'feature_adapters' expected bool, got int"),
        (CCSamCNNConfig, {"layer_type": "deep"}, "'layer_type' expected one of ('basic', 'bottleneck'), got deep"),
        (CCSamVAFConfig, {"granularity": "pixel"}, "'granularity' expected one of ('token', 'image'), got pixel"),
        (CCSamVAFConfig, {"attention": "softmax"}, "'attention' expected one of ('variational', 'deterministic')"),
        (CCSamMaskDecoderConfig, {"layer_norm_eps": "small"}, "'layer_norm_eps' expected float, got str"),
        (CCSamConfig, {"fusion": "mean"}, "expected one of ('vaf', 'cross_branch', 'none'), got mean"),
        (CCSamConfig, {"fusion": "sum"}, "expected one of ('vaf', 'cross_branch', 'none'), got sum"),
        (CCSamConfig, {"lambda_c": "1e-3"}, "'lambda_c'"),
        (CCSamConfig, {"vision_config": {"window_size": 1.5}}, "'window_size' expected int, got float"),
        (CCSamConfig, {"vision_config": 3}, "'vision_config'"),
    ],
)
def test_a_wrong_type_or_word_is_refused(kind, kwargs, message):
    with pytest.raises(StrictDataclassError) as caught:
        kind(**kwargs)
    assert message in str(caught.value)


def change_lambda(config):
    config.lambda_a = -1.0


def change_part(config):
    config.vision_config.num_attention_heads = 3


def change_fit(config):
    config.vision_config.image_size = 128


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_lambda, "lambda_a=-1.0 must be at least 0"),
        (change_part, "must be a multiple of num_attention_heads=3"),
        (change_fit, "it must repeat image_size=128"),
    ],
)
def test_a_config_changed_to_an_invalid_state_is_not_saved(change, message, tmp_path, tiny_config):
    change(tiny_config)
    with pytest.raises(StrictDataclassClassValidationError) as caught:
        tiny_config.save_pretrained(tmp_path)
    assert message in str(caught.value)
    assert not (tmp_path / "config.json").exists()


def test_a_field_set_to_a_wrong_type_is_refused_at_once(tiny_config):
    with pytest.raises(StrictDataclassError, match="expected bool, got str"):
        tiny_config.train_mask_decoder = "yes"


def test_a_bad_value_in_config_json_is_refused_on_loading(tmp_path, tiny_config):
    tiny_config.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["vaf_config"]["dropout"] = 2.0
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(StrictDataclassClassValidationError, match="must lie in"):
        CCSamConfig.from_pretrained(tmp_path)
