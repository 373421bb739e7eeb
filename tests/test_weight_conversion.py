"""Weight conversion: every tensor is loaded, interpolated, new or unused for a reason, or the file is refused."""

import argparse
import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.models import resnet50
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

from ccsam_hf import CCSamConfig, CCSamModel
from ccsam_hf.conversion import weights as weights_module
from ccsam_hf.conversion.weights import (
    ConversionReport,
    convert_checkpoint,
    convert_resnet50,
    convert_sam,
    convert_samus,
    load_checkpoint_file,
)
from ccsam_hf.processing_ccsam import CCSamProcessor
from named_weights import fill_like
from small_originals import SMALL_DECODER, SMALL_VISION, small_segment_anything, small_transformers

SAMUS_PARAMETERS = json.loads((Path(__file__).parent / "data" / "samus_reference.json").read_text(encoding="utf-8"))[
    "parameters"
]
NEW_TO_SAMUS = re.compile("cnn_embed|post_pos_embed|Adapter")
SOURCE_SIZES = {"image_size": 256, "patch_size": 16, "window_size": 3}  # a grid of 16
BACKBONE = "cnn_branch.backbone."


def without_storage(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Tensors with a shape and no values, for tests of names at full size."""
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def samus_checkpoint() -> dict[str, Tensor]:
    return without_storage(SAMUS_PARAMETERS)


def sam_checkpoint() -> dict[str, Tensor]:
    """SAM ViT-B: what SAMUS has without its own parts, and the relative positions of a 64x64 grid."""
    shapes = {name: shape for name, shape in SAMUS_PARAMETERS.items() if not NEW_TO_SAMUS.search(name)}
    return without_storage({name: [127, 64] if shape == [63, 64] else shape for name, shape in shapes.items()})


def resnet_checkpoint() -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(resnet50().state_dict())


def small_config() -> CCSamConfig:
    """CC-SAM for the small SAM of `SOURCE_SIZES`: 64 pixels, a grid of 8, SAM's positional embedding at 16."""
    tiny = CCSamConfig.tiny()
    vision = {**SMALL_VISION, "image_size": 64, "pretrained_grid_size": 16, "window_size": 3, "adapter_size": 12}
    return CCSamConfig(
        vision_config=vision,
        cnn_config={**tiny.cnn_config.to_dict(), "output_channels": 64},
        vaf_config=tiny.vaf_config.to_dict(),
        prompt_encoder_config={"image_size": 64, "patch_size": 8, "hidden_size": 64},
        mask_decoder_config=SMALL_DECODER,
    )


@pytest.fixture(scope="module")
def small_sam() -> dict[str, Tensor]:
    return small_segment_anything(**SOURCE_SIZES).state_dict()


def assert_accounted_for(report: ConversionReport, config: CCSamConfig) -> None:
    """Every tensor of the model stands in exactly one list of the report."""
    with torch.device("meta"):
        names = list(CCSamModel(config).state_dict())
    listed = report.loaded + [name for name, _, _ in report.interpolated] + report.newly_initialised
    assert sorted(listed + report.from_base) == sorted(names)


# SAM and MedSAM


def test_sam_vit_b_fills_all_but_the_new_parts_and_interpolates_eight_tables():
    config = CCSamConfig()
    _, report = convert_sam(sam_checkpoint(), config)
    assert_accounted_for(report, config)
    assert report.interpolated == [
        (f"vit_branch.layers.{layer}.attn.rel_pos_{axis}", [127, 64], [63, 64])
        for layer in (2, 5, 8, 11)
        for axis in "hw"
    ]
    new = re.compile(
        r"cnn_branch\..*|fusion\..*|vit_branch\.(position_adapter|input_adapter)\..*|vit_branch\.layers\.\d+\.adapter\..*"
    )
    with torch.device("meta"):
        names = CCSamModel(config).state_dict()
    assert report.newly_initialised == [name for name in names if new.fullmatch(name)]
    assert len(report.loaded) + len(report.interpolated) == len(sam_checkpoint()) and not report.unused


def test_sam_at_its_own_size_needs_no_interpolation_and_nothing_new():
    _, report = convert_sam(sam_checkpoint(), CCSamConfig.sam())
    assert len(report.loaded) == len(sam_checkpoint())
    assert not report.interpolated and not report.newly_initialised


def test_tables_of_global_blocks_are_interpolated_linearly_and_all_else_is_copied(small_sam):
    converted, report = convert_sam(small_sam, small_config())
    assert [name for name, _, _ in report.interpolated] == [
        f"vit_branch.layers.1.attn.rel_pos_{axis}" for axis in "hw"
    ]
    table = small_sam["image_encoder.blocks.1.attn.rel_pos_h"].numpy()  # (31, 12)
    rows = (np.arange(15) + 0.5) * 31 / 15 - 0.5
    expected = np.stack([np.interp(rows, np.arange(31), column) for column in table.T], axis=1)
    np.testing.assert_allclose(converted["vit_branch.layers.1.attn.rel_pos_h"].numpy(), expected, atol=1e-6)
    same = {
        "vit_branch.layers.0.attn.rel_pos_h": "image_encoder.blocks.0.attn.rel_pos_h",
        "vit_branch.pos_embed": "image_encoder.pos_embed",
        "vit_branch.layers.2.layer_norm2.bias": "image_encoder.blocks.2.norm2.bias",
        "vit_branch.neck.layer_norm2.weight": "image_encoder.neck.3.weight",
        "prompt_encoder.point_embed.3.weight": "prompt_encoder.point_embeddings.3.weight",
        "mask_decoder.iou_prediction_head.layers.0.weight": "mask_decoder.iou_prediction_head.layers.1.weight",
        "mask_decoder.transformer.layers.1.layer_norm4.weight": "mask_decoder.transformer.layers.1.norm4.weight",
    }
    assert all(torch.equal(converted[ours], small_sam[theirs]) for ours, theirs in same.items())


def test_transformers_names_fill_the_same_tensors(small_sam):
    sam = small_transformers(**SOURCE_SIZES).state_dict()
    config = small_config()
    converted, report = convert_sam(sam, config)
    assert_accounted_for(report, config)
    assert converted.keys() == convert_sam(small_sam, config)[0].keys()
    assert report.unused == {
        "prompt_encoder.shared_embedding.positional_embedding": "second copy of "
        "prompt_encoder.shared_embedding.positional_embedding"
    }
    sam["shared_image_embedding.positional_embedding"] = sam["shared_image_embedding.positional_embedding"] + 1
    with pytest.raises(ValueError, match="1 two copies that differ: prompt_encoder.shared_embedding"):
        convert_sam(sam, config)


def test_nesting_prefix_and_pixel_statistics_are_undone_and_reported(small_sam):
    state_dict = {f"module.{name}": tensor for name, tensor in small_sam.items()}
    state_dict["module.pixel_mean"] = torch.zeros(3, 1, 1)
    nested = {"model": state_dict, "optimizer": {}, "epoch": 3}
    converted, report = convert_sam(nested, small_config(), kind="medsam")
    plain = convert_sam(small_sam, small_config())[0]
    assert converted.keys() == plain.keys() and all(torch.equal(converted[name], plain[name]) for name in plain)
    assert report.unused == {
        "optimizer": "training state beside the weights",
        "epoch": "training state beside the weights",
        "pixel_mean": "normalization of the image: the processor's, not the model's",
    }
    assert report.kind == "medsam"


def test_summary_counts_by_part_and_gives_every_reason():
    report = ConversionReport(
        kind="sam",
        naming="segment_anything",
        loaded=["vit_branch.pos_embed", "vit_branch.layers.0.x", "vit_branch.layers.1.x", "mask_decoder.a.x"],
        interpolated=[("vit_branch.layers.2.attn.rel_pos_h", [127, 64], [63, 64])],
        newly_initialised=["cnn_branch.adapter.x", "fusion.a.x", "fusion.b.x"],
        unused={"pixel_mean": "not of the model"},
    )
    assert report.summary().splitlines() == [
        "sam checkpoint, names of segment_anything",
        "  loaded: 4 tensors (1 vit_branch.pos_embed, 2 vit_branch.layers, 1 mask_decoder)",
        "  interpolated: 1 tensors (1 vit_branch.layers)",
        "    [127, 64] -> [63, 64]: 1 tensors",
        "  newly initialised: 3 tensors (1 cnn_branch.adapter, 2 fusion)",
        "  unused: 1",
        "    pixel_mean: not of the model",
    ]


def changed(state_dict: dict[str, Tensor], name: str, tensor: Tensor | None) -> dict[str, Tensor]:
    """A copy with one tensor put in, or taken out."""
    state_dict = dict(state_dict)
    del state_dict[name]
    return state_dict if tensor is None else {**state_dict, name: tensor}


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("image_encoder.neck.0.weight", None, r"1 missing for the model: vit_branch\.neck\.conv1\.weight"),
        (
            "image_encoder.blocks.0.attn.rel_pos_h",
            torch.zeros(27, 64 // 2),
            r"rel_pos_h \(27, 32\) instead of \(27, 64\)",
        ),
        (
            "image_encoder.blocks.0.attn.rel_pos_h",
            torch.zeros(25, 64),
            r"1 of another shape: vit_branch\.layers\.0\.attn\.rel_pos_h \(25, 64\) instead of \(27, 64\)",
        ),
    ],
    ids=["missing", "width of a table", "a window's table is never interpolated"],
)
def test_what_is_missing_or_misshapen_is_refused_by_name(name, tensor, message):
    with pytest.raises(ValueError, match=message):
        convert_sam(changed(sam_checkpoint(), name, tensor), CCSamConfig())


def test_unknown_names_are_refused_and_long_lists_shortened():
    extra = {f"image_encoder.extra.{number}": torch.zeros(1) for number in range(20)}
    with pytest.raises(ValueError, match=r"20 unknown in the checkpoint: image_encoder\.extra\.0, .* and 12 more"):
        convert_sam({**sam_checkpoint(), **extra}, CCSamConfig())


@pytest.mark.parametrize("convert", [convert_sam, convert_resnet50])
def test_a_checkpoint_of_another_kind_is_refused(convert):
    with pytest.raises(ValueError, match=r"its names are a\.weight; expected those of .* or "):
        convert({"a.weight": torch.zeros(1)}, CCSamConfig())


@pytest.mark.parametrize(
    ("state_dict", "message"),
    [
        ({}, "it is empty"),
        ({"model": {}}, "it is empty"),
        ({"epoch": 3, "best": 0.5}, "epoch, best; expected a state"),
    ],
)
def test_what_holds_no_tensors_is_refused(state_dict, message):
    with pytest.raises(ValueError, match=message):
        convert_sam(state_dict, CCSamConfig())


# SAMUS


def test_every_tensor_of_samus_is_used_and_none_is_new():
    config = CCSamConfig.samus()
    converted, report = convert_samus({f"module.{name}": value for name, value in samus_checkpoint().items()}, config)
    assert_accounted_for(report, config)
    assert len(converted) == len(report.loaded) == len(SAMUS_PARAMETERS) == 393
    assert not (report.interpolated or report.newly_initialised or report.unused)


def test_samus_is_refused_where_a_tensor_is_missing_or_the_model_is_another():
    name = "image_encoder.blocks.2.Space_Adapter.q.weight"
    with pytest.raises(ValueError, match=r"missing for the model: vit_branch\.layers\.2\.cross_branch\.query\.weight"):
        convert_samus(changed(samus_checkpoint(), name, None), CCSamConfig.samus())
    with pytest.raises(ValueError, match="cnn_branch='resnet50' and fusion='vaf'; a SAMUS checkpoint fills"):
        convert_samus(samus_checkpoint(), CCSamConfig())
    with pytest.raises(ValueError, match=r"no samus checkpoint: its names are .*; expected those of SAMUS"):
        convert_samus(sam_checkpoint(), CCSamConfig.samus())
    with pytest.raises(ValueError, match="unknown in the checkpoint: image_encoder.cnn_embed"):
        convert_sam(samus_checkpoint(), CCSamConfig())


# RadImageNet


def test_three_styles_of_resnet_names_fill_the_whole_backbone():
    torchvision_names = resnet_checkpoint()
    children = dict(zip(("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), (0, 1, 4, 5, 6, 7), strict=True))
    published = {
        f"backbone.{children[name.partition('.')[0]]}.{name.partition('.')[2]}": tensor
        for name, tensor in torchvision_names.items()
        if not name.startswith("fc.")
    }
    with torch.device("meta"):
        headed = dict(ResNetForImageClassification(ResNetConfig()).state_dict())
        bare = dict(ResNetModel(ResNetConfig()).state_dict())
    fc, classifier = {"fc.weight", "fc.bias"}, {"classifier.1.weight", "classifier.1.bias"}
    unused = {}
    for title, state_dict in {
        "published": published,
        "torchvision": torchvision_names,
        "headed": headed,
        "bare": bare,
    }.items():
        converted, report = convert_resnet50(state_dict)
        assert_accounted_for(report, CCSamConfig())
        assert converted.keys() == {BACKBONE + name for name in bare}
        assert all(converted[BACKBONE + name].shape == tensor.shape for name, tensor in bare.items())
        assert not [name for name in report.newly_initialised if name.startswith(BACKBONE)]
        unused[title] = set(report.unused)
    assert unused == {"published": set(), "torchvision": fc, "headed": classifier, "bare": set()}


def test_batch_counters_may_be_missing_but_no_statistics():
    weights = {name: value for name, value in resnet_checkpoint().items() if "num_batches_tracked" not in name}
    assert len(convert_resnet50(weights)[0]) == 265
    with pytest.raises(ValueError, match=r"missing for the model: cnn_branch\.backbone\..*normalization\.running_var"):
        convert_resnet50(changed(weights, "layer1.0.bn1.running_var", None))


def test_keras_conversions_and_models_without_the_resnet_are_refused():
    with pytest.raises(ValueError, match="convolutions have biases: these are RadImageNet's Keras weights"):
        convert_resnet50({**resnet_checkpoint(), "layer1.0.conv1.bias": torch.zeros(64)})
    with pytest.raises(ValueError, match="cnn_branch='samus'; a ResNet checkpoint fills 'resnet50'"):
        convert_resnet50(resnet_checkpoint(), CCSamConfig.samus())


# Files


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}


def assert_same_tensors(loaded: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    assert loaded.keys() == tensors.keys() and all(torch.equal(loaded[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6, as SAMUS saves"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_pickled_state_dicts_are_read(tmp_path, tensors, suffix, zipped):
    path = tmp_path / f"weights{suffix}"
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    assert_same_tensors(load_checkpoint_file(path), tensors)


def test_safetensors_files_and_folders_are_read(tmp_path, tensors):
    save_file(tensors, tmp_path / "model.safetensors")
    assert_same_tensors(load_checkpoint_file(tmp_path / "model.safetensors"), tensors)
    assert_same_tensors(load_checkpoint_file(tmp_path), tensors)

    sharded = tmp_path / "sharded"
    sharded.mkdir()
    for number, name in enumerate(tensors):
        save_file({name: tensors[name]}, sharded / f"model-{number}.safetensors")
    weight_map = {name: f"model-{number}.safetensors" for number, name in enumerate(tensors)}
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same_tensors(load_checkpoint_file(sharded), tensors)
    (sharded / "model-1.safetensors").unlink()
    with pytest.raises(ValueError, match="model-1.safetensors is missing or damaged"):
        load_checkpoint_file(sharded)


class RunsOnLoading:
    """Unpickling it creates a folder: the harmless stand-in for an attack."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_with_code_are_refused_and_nothing_runs(tmp_path, tensors):
    torch.save({"model": tensors, "args": argparse.Namespace(lr=0.1)}, tmp_path / "namespace.pth")
    torch.save({**tensors, "x": RunsOnLoading(tmp_path / "ran")}, tmp_path / "attack.pth")
    for name in ("namespace.pth", "attack.pth"):
        with pytest.raises(ValueError, match=r"holds more than tensors.*save its state dict alone"):
            load_checkpoint_file(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pth", b"", "damaged or no checkpoint"),
        ("text.pth", b"hello world", "damaged or no checkpoint"),
        ("text.safetensors", b"hello world, this is no header", "missing or damaged"),
        ("weights.h5", b"", r"suffix '\.h5'; expected \.pth, \.pt, \.bin or \.safetensors"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_checkpoint_file(tmp_path / name)


def test_truncated_missing_and_other_contents_are_refused(tmp_path, tensors):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:1500])
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "folder").mkdir()
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "model.safetensors.index.json").write_text("{}")
    messages = {
        "cut.pth": "damaged or no checkpoint",
        "list.pth": "holds a list; expected a state dict",
        "none.pth": "does not exist",
        "folder": "holds neither model.safetensors nor model.safetensors.index.json",
        "index": "expected JSON with a weight_map",
    }
    for name, message in messages.items():
        with pytest.raises(ValueError, match=message):
            load_checkpoint_file(tmp_path / name)


# Folders


@pytest.fixture
def small_kinds(monkeypatch):
    """`convert_checkpoint` with the small model in place of ViT-B."""
    kinds = {name: dataclasses.replace(kind, config=small_config) for name, kind in weights_module.KINDS.items()}
    monkeypatch.setattr(weights_module, "KINDS", kinds)


@pytest.fixture
def sam_file(tmp_path, small_sam) -> Path:
    torch.save(small_sam, tmp_path / "sam.pth")
    return tmp_path / "sam.pth"


@pytest.fixture
def resnet_file(tmp_path) -> Path:
    """The small model's ResNet with named weights, in the names of transformers."""
    cnn = small_config().cnn_config
    network = ResNetModel(
        ResNetConfig(
            embedding_size=cnn.embedding_size,
            hidden_sizes=list(cnn.hidden_sizes),
            depths=list(cnn.depths),
            layer_type=cnn.layer_type,
        )
    )
    save_file(fill_like(network.state_dict()), tmp_path / "resnet.safetensors")
    return tmp_path / "resnet.safetensors"


def test_the_folder_loads_holds_its_report_and_comes_out_the_same_again(tmp_path, small_kinds, sam_file, small_sam):
    report = convert_checkpoint("sam", sam_file, tmp_path / "deep" / "out")
    model, info = CCSamModel.from_pretrained(tmp_path / "deep" / "out", output_loading_info=True)
    assert not (info["missing_keys"] or info["unexpected_keys"])
    converted, _ = convert_sam(small_sam, small_config())
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in converted.items())
    assert not model.vit_branch.input_adapter.up.weight.any()  # new parts have their start values
    assert isinstance(CCSamProcessor.from_pretrained(tmp_path / "deep" / "out"), CCSamProcessor)
    written = json.loads((tmp_path / "deep" / "out" / "conversion_report.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(dataclasses.asdict(report))) and written["kind"] == "sam"

    (tmp_path / "again").mkdir()  # an empty folder will do
    torch.manual_seed(1)
    convert_checkpoint("sam", sam_file, tmp_path / "again")
    weights = [
        (folder / "model.safetensors").read_bytes() for folder in (tmp_path / "deep" / "out", tmp_path / "again")
    ]
    assert weights[0] == weights[1]


def test_base_joins_the_weights_of_sam_and_radimagenet(tmp_path, small_kinds, sam_file, resnet_file):
    convert_checkpoint("sam", sam_file, tmp_path / "sam")
    report = convert_checkpoint("radimagenet", resnet_file, tmp_path / "both", base=tmp_path / "sam")
    sam, both = (load_file(tmp_path / name / "model.safetensors") for name in ("sam", "both"))
    resnet = load_file(resnet_file)
    assert sam.keys() == both.keys()
    for name, tensor in both.items():
        expected = resnet[name.removeprefix(BACKBONE)] if name.startswith(BACKBONE) else sam[name]
        assert torch.equal(tensor, expected), name
    assert_accounted_for(report, small_config())
    assert not report.newly_initialised and len(report.from_base) == len(both) - len(resnet)
    assert "from the base model" in report.summary()


def test_a_failed_conversion_leaves_nothing_behind(tmp_path, small_kinds, sam_file, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(CCSamProcessor, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        convert_checkpoint("sam", sam_file, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["sam.pth"]


def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path, sam_file):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("keep me")
    wrong = {
        "kind='sam2' is not one of sam, samus, medsam, radimagenet": ("sam2", sam_file, tmp_path / "out"),
        "exists and is not an empty folder": ("sam", sam_file, tmp_path / "full"),
        "sam.pth exists and is not an empty folder": ("sam", sam_file, sam_file),
        "none.pth does not exist": ("sam", tmp_path / "none.pth", tmp_path / "out"),
        "is no CC-SAM folder: it has no config.json": ("radimagenet", sam_file, tmp_path / "out", tmp_path / "full"),
    }
    for message, arguments in wrong.items():
        with pytest.raises((ValueError, FileExistsError), match=message):
            convert_checkpoint(*arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "sam.pth"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
