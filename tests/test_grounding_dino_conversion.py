"""Grounding DINO's published weights: every tensor finds its place, and transformers computes what the original does.

Parity compares groundingdino-py, run live, with transformers' model that has its weights, random and perturbed. Every
comparison prints its largest absolute differences (`pytest -rP`).
"""

import argparse
import json
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor
from transformers import BertTokenizer, GroundingDinoForObjectDetection, GroundingDinoProcessor

from ccsam_hf.cli.main import main
from ccsam_hf.conversion import grounding_dino
from ccsam_hf.conversion.grounding_dino import (
    bert_config_of,
    convert_grounding_dino,
    convert_grounding_dino_checkpoint,
    swin_config_of,
)
from ccsam_hf.conversion.original_grounding_dino import OriginalGroundingDino
from small_grounding_dino import (
    SMALL_SWIN,
    converted_model,
    detector_inputs,
    make_tokenizer,
    perturb,
    separate_phrases,
    small_original,
)

pytest.importorskip("groundingdino")

TEXTS = ["thyroid nodule. breast cyst. the left ventricle.", "cysts. ventricle?"]
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> BertTokenizer:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def original(tokenizer) -> OriginalGroundingDino:
    torch.manual_seed(0)
    return small_original(tokenizer)


@pytest.fixture
def weights(original) -> dict[str, Tensor]:
    """A state dict that a test may change."""
    return dict(original.detector.state_dict())


# Parity


class ProposalOrder:
    """Stands for `torch.topk`, by which both models choose their queries among the proposals, best first.

    Of proposals whose scores are equal but for rounding either may come first, and every query after that is another
    one. So the converted model takes the original's choice, once its own scores are seen to give it.
    """

    topk = staticmethod(torch.topk)

    def __init__(self):
        self.chosen: list[tuple[Tensor, Tensor]] = []

    def record(self, scores: Tensor, k: int, dim: int) -> tuple[Tensor, Tensor]:
        self.chosen.append(self.topk(scores, k, dim=dim))
        return self.chosen[-1]

    def replay(self, scores: Tensor, k: int, dim: int) -> tuple[Tensor, Tensor]:
        values, indices = (torch.cat(each) for each in zip(*self.chosen, strict=True))
        best, own = self.topk(scores, k, dim=dim)
        print(f"proposals in another order: {(own != indices).sum()} of {own.numel()}")
        assert (best - values).abs().max() <= TOLERANCE
        assert (scores.gather(dim, indices) - values).abs().max() <= TOLERANCE
        return values, indices


@torch.no_grad()
def assert_parity(original: OriginalGroundingDino, ours: GroundingDinoForObjectDetection, inputs: dict) -> None:
    """Print the largest absolute differences of logits and boxes, then hold both to `TOLERANCE`."""
    order = ProposalOrder()
    with mock.patch.object(torch, "topk", order.record):
        theirs = original(**inputs)
    with mock.patch.object(torch, "topk", order.replay):
        output = ours(**inputs)
    finite = theirs.logits.isfinite()
    assert torch.equal(finite, output.logits.isfinite())
    logits = (theirs.logits - output.logits)[finite].abs().max().item()
    boxes = (theirs.pred_boxes - output.pred_boxes).abs().max().item()
    print(f"logits {logits:.1e} of {theirs.logits[finite].abs().max():.3g}, boxes {boxes:.1e} of 1")
    assert theirs.pred_boxes.std() > 0.1  # the boxes are not all the same
    assert max(logits, boxes) <= TOLERANCE, f"above {TOLERANCE}"


def test_small_models_agree_for_padded_images_and_texts(original, weights, tokenizer):
    ours = converted_model(weights, tokenizer)
    assert_parity(original, ours, detector_inputs(tokenizer, TEXTS))
    assert_parity(original, ours, detector_inputs(tokenizer, TEXTS[:1] * 2))  # one text: a single call upstream


def keep_away(x: Tensor, eps: float) -> Tensor:
    """The original's logit, which keeps numbers 1e-3 away from 0 and 1; `eps` is what transformers asks for."""
    return torch.log(x.clamp(min=1e-3) / (1 - x).clamp(min=1e-3))


def test_the_documented_distance_of_boxes_from_the_border_is_the_only_difference(tokenizer, monkeypatch):
    original = small_original(tokenizer, num_queries=150)  # all proposals: of 52 cells in a row two are left out
    inputs = detector_inputs(tokenizer, TEXTS[:1], size=(16, 416))
    ours = converted_model(original.detector.state_dict(), tokenizer)
    with pytest.raises(AssertionError, match="above 0.001"):
        assert_parity(original, ours, inputs)
    monkeypatch.setattr(torch.special, "logit", keep_away)
    assert_parity(original, ours, inputs)


@pytest.mark.slow
def test_full_size_models_agree(tmp_path):
    filler = [f"[unused{number}]" for number in range(30522)]
    for position, token in {
        0: "[PAD]",
        100: "[UNK]",
        101: "[CLS]",
        102: "[SEP]",
        103: "[MASK]",
        1012: ".",
        1029: "?",
    }.items():
        filler[position] = token
    words = ("thyroid", "nodule", "breast", "cyst", "left", "ventricle", "the", "##s")
    filler[2000 : 2000 + len(words)] = words
    (tmp_path / "vocab.txt").write_text("\n".join(filler) + "\n", encoding="utf-8")
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))  # bert-base-uncased's size and delimiters

    original = perturb(OriginalGroundingDino.from_config(tokenizer)).eval()
    converted, config, report = convert_grounding_dino({"model": original.detector.state_dict()})
    assert (config.num_queries, config.encoder_layers, config.decoder_layers) == (900, 6, 6)
    assert sum(tensor.numel() for tensor in set(original.detector.parameters())) > 172e6
    ours = GroundingDinoForObjectDetection(config).eval()
    ours.load_state_dict({**ours.state_dict(), **converted}, strict=True)
    assert_parity(original, ours, detector_inputs(tokenizer, TEXTS[:1], size=(192, 256)))  # 1020 proposals


# Names


def test_every_tensor_of_both_models_stands_in_the_report(weights):
    converted, config, report = convert_grounding_dino(weights)
    names = GroundingDinoForObjectDetection(config).state_dict().keys()
    assert sorted(report.loaded + report.newly_initialised) == sorted(names)
    assert report.loaded == [name for name in names if name in converted]
    swin = "model.backbone.conv_encoder.model.swin"
    assert report.newly_initialised == [f"{swin}.layernorm.weight", f"{swin}.layernorm.bias"]
    assert not (report.interpolated or report.from_base)
    fused = [name for name in weights if "qkv" in name or "in_proj" in name]
    assert len(weights) == len(converted) - 2 * len(fused) + len(report.unused)
    assert {name.rpartition(".")[2] for name in report.unused} == {"relative_position_index", "weight", "bias"}
    assert {name for name in report.unused if "index" not in name} == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
    }
    assert report.summary().startswith("grounding-dino checkpoint, names of groundingdino-py\n  loaded: ")


def test_wrapped_checkpoints_and_their_training_state_are_reported(weights):
    wrapped = {f"module.{name}": tensor for name, tensor in weights.items()}
    wrapped["module.label_enc.weight"] = torch.zeros(2001, 256)
    wrapped["module.bert.embeddings.position_ids"] = torch.arange(512)[None]
    converted, _, report = convert_grounding_dino({"model": wrapped, "epoch": 3})
    plain, _, plain_report = convert_grounding_dino(weights)
    assert converted.keys() == plain.keys() and all(torch.equal(converted[name], plain[name]) for name in plain)
    assert report.unused.keys() - plain_report.unused.keys() == {
        "epoch",
        "label_enc.weight",
        "bert.embeddings.position_ids",
    }


LAYER = "transformer.decoder.layers.1."


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (f"{LAYER}norm3.bias", None, r"1 missing for the model: model\.decoder\.layers\.1\.final_layer_norm\.bias"),
        (f"{LAYER}ca_text.in_proj_bias", None, r"3 missing for the model: .*encoder_attn_text\.query\.bias"),
        (f"{LAYER}norm4.bias", torch.zeros(256), r"1 unknown in the checkpoint: transformer\.decoder\..*norm4\.bias"),
        (
            f"{LAYER}linear2.bias",
            torch.zeros(255),
            r"1 of another shape: model\.decoder\.layers\.1\.fc2\.bias \(255,\) instead of \(256,\)",
        ),
        (
            f"{LAYER}self_attn.in_proj_bias",
            torch.zeros(766),
            r"3 of another shape: .*query\.bias \(256,\)|2 of another",
        ),
        (
            "transformer.decoder.bbox_embed.1.layers.0.bias",
            torch.ones(256),
            r"1 two copies that differ: model\.decoder\.bbox_embed\.1\.layers\.0\.bias and bbox_embed\.",
        ),
        (
            "backbone.0.layers.0.blocks.0.attn.q_proj.weight",
            torch.ones(24, 24),
            r"1 two copies that differ: backbone\.0\.layers\.0\.blocks\.0\.attn\.q_proj\.weight",
        ),
        ("transformer.tgt_embed.weight", None, r"1 missing for the model: transformer\.tgt_embed\.weight"),
        ("feat_map.weight", torch.zeros(3), r"1 of another shape: feat_map\.weight \(3,\); expected 2 dimensions"),
    ],
    ids=[
        "missing",
        "missing, fused",
        "extra",
        "shape",
        "shape, fused",
        "copies",
        "fused and not",
        "missing size",
        "shape of a size",
    ],
)
def test_what_is_missing_extra_or_misshapen_is_refused_by_name(weights, name, tensor, message):
    changed = {
        **{key: value for key, value in weights.items() if key != name},
        **({} if tensor is None else {name: tensor}),
    }
    with pytest.raises(ValueError, match=message):
        convert_grounding_dino(changed)


def test_a_checkpoint_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="no grounding-dino checkpoint: its names are image_encoder.x; expected"):
        convert_grounding_dino({"image_encoder.x": torch.zeros(1)})


def test_a_config_that_is_given_is_filled_as_it_is(weights):
    _, config, _ = convert_grounding_dino(weights)
    config.num_queries = 31
    with pytest.raises(ValueError, match=r"query_position_embeddings\.weight \(30, 256\) instead of \(31, 256\)"):
        convert_grounding_dino(weights, config)
    config.num_queries, config.dropout = 30, 0.2
    assert convert_grounding_dino(weights, config)[1].dropout == 0.2


# The configuration is read off from the tensors


def test_the_small_models_sizes_are_read_off(weights):
    _, config, _ = convert_grounding_dino(weights)
    swin, text = config.backbone_config, config.text_config
    assert {name: list(getattr(swin, name)) for name in ("depths", "num_heads")} == {
        name: SMALL_SWIN[name] for name in ("depths", "num_heads")
    }
    assert (swin.embed_dim, swin.window_size, swin.out_indices) == (24, 7, [2, 3, 4])
    assert (text.vocab_size, text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (16, 128, 2, 2)
    assert (text.layer_norm_eps, config.layer_norm_eps, swin.layer_norm_eps) == (1e-12, 1e-5, 1e-5)
    assert (config.d_model, config.num_feature_levels, config.encoder_ffn_dim) == (256, 4, 64)
    assert (config.encoder_n_points, config.decoder_n_points) == (4, 4)
    assert config.decoder_bbox_embed_share and config.two_stage and config.embedding_init_target
    assert config.disable_custom_kernels


@pytest.mark.parametrize(
    ("embed_dim", "window_size", "depths", "num_heads"),
    [(96, 7, [2, 2, 6, 2], [3, 6, 12, 24]), (128, 12, [2, 2, 18, 2], [4, 8, 16, 32])],
    ids=["Swin-T", "Swin-B"],
)
def test_published_backbones_are_recognised(embed_dim, window_size, depths, num_heads):
    shapes = {"patch_embed.proj.weight": (embed_dim, 3, 4, 4)}
    for stage, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}."
            shapes[f"{name}attn.relative_position_bias_table"] = ((2 * window_size - 1) ** 2, heads)
            shapes[f"{name}attn.qkv.bias"] = (3 * embed_dim * 2**stage,)
            shapes[f"{name}mlp.fc1.weight"] = (4 * embed_dim * 2**stage, embed_dim * 2**stage)
    shapes |= {f"norm{stage}.weight": (embed_dim * 2**stage,) for stage in (1, 2, 3)}
    config = swin_config_of(
        {f"backbone.0.{name}": torch.empty(shape, device="meta") for name, shape in shapes.items()}
    )
    assert (config.embed_dim, config.window_size, config.depths, config.num_heads) == (
        embed_dim,
        window_size,
        depths,
        num_heads,
    )
    assert (config.image_size, config.mlp_ratio, config.qkv_bias) == (32 * window_size, 4.0, True)
    assert config.out_features == ["stage2", "stage3", "stage4"]


def test_a_bert_of_another_size_is_read_off(weights):
    weights["bert.embeddings.word_embeddings.weight"] = torch.empty(28996, 768, device="meta")
    config = bert_config_of(weights)
    assert (config.vocab_size, config.hidden_size, config.num_attention_heads) == (28996, 768, 12)


def test_box_heads_of_their_own_for_every_layer_stay_apart(weights, tokenizer):
    for prefix in ("bbox_embed.1.", "transformer.decoder.bbox_embed.1."):
        for name in [name for name in weights if name.startswith(prefix)]:
            weights[name] = weights[name] + 0.01
    converted, config, _ = convert_grounding_dino(weights)
    assert not config.decoder_bbox_embed_share
    model = converted_model(weights, tokenizer)
    for name in ("bbox_embed.0.layers.2.bias", "bbox_embed.1.layers.2.bias"):
        assert torch.equal(model.state_dict()[name], weights[name])
        assert torch.equal(model.state_dict()[f"model.decoder.{name}"], weights[name])


# Folders


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, original) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "small.pth"
    torch.save({"model": original.detector.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("saved_tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


def test_the_folder_loads_and_computes_the_same(tmp_path, checkpoint, tokenizer_folder, weights, monkeypatch):
    warned = []
    monkeypatch.setattr("ccsam_hf.conversion.grounding_dino.logger.warning", warned.append)
    before = torch.get_rng_state()
    report = convert_grounding_dino_checkpoint(checkpoint, tmp_path / "deep" / "out", tokenizer_folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(warned) == 1 and "[CLS], [SEP], . and ? have the ids [2, 3, 6, 5]" in warned[0]

    model, info = GroundingDinoForObjectDetection.from_pretrained(tmp_path / "deep" / "out", output_loading_info=True)
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    processor = GroundingDinoProcessor.from_pretrained(tmp_path / "deep" / "out")
    separate_phrases(model, processor.tokenizer)
    inputs = detector_inputs(processor.tokenizer, TEXTS)
    with torch.no_grad():
        loaded, made = model(**inputs), converted_model(weights, processor.tokenizer)(**inputs)
    assert torch.equal(loaded.logits, made.logits) and torch.equal(loaded.pred_boxes, made.pred_boxes)
    prepared = processor(images=torch.zeros(3, 80, 100), text="a cyst.", return_tensors="pt")
    assert tuple(prepared["pixel_values"].shape) == (1, 3, 800, 1000)

    written = json.loads((tmp_path / "deep" / "out" / "conversion_report.json").read_text(encoding="utf-8"))
    assert written["kind"] == "grounding-dino" and written["loaded"] == report.loaded
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_wrong_tokenizers_are_refused_before_anything_is_written(tmp_path, checkpoint):
    other = tmp_path / "other"
    other.mkdir()
    make_tokenizer(other, words=("thyroid", "nodule")).save_pretrained(other / "saved")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    for tokenizer, message in {
        "bert-base-uncased": r"tokenizer='bert-base-uncased' can be loaded neither .*--tokenizer DIR.*tokenizer\.json",
        tmp_path / "empty": r"can be loaded neither from disk nor from the Hub",
        tmp_path / "none": r"can be loaded neither from disk nor from the Hub",
    }.items():
        with pytest.raises(ValueError, match=message):
            convert_grounding_dino_checkpoint(checkpoint, tmp_path / "out", tokenizer)
    make_tokenizer(other, words=tuple(f"word{number}" for number in range(10))).save_pretrained(other / "saved")
    with pytest.raises(ValueError, match="has 17 tokens and the text encoder 16 word embeddings"):
        convert_grounding_dino_checkpoint(checkpoint, tmp_path / "out", other / "saved")
    assert sorted(tmp_path.iterdir()) == before


def test_folders_in_use_and_pickles_with_more_than_tensors_are_refused(tmp_path, checkpoint, tokenizer_folder):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("keep me")
    torch.save({"model": {"a": torch.ones(1)}, "args": argparse.Namespace(lr=0.1)}, tmp_path / "pickle.pth")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match="full exists and is not an empty folder"):
        convert_grounding_dino_checkpoint(checkpoint, tmp_path / "full", tokenizer_folder)
    with pytest.raises(ValueError, match="holds more than tensors"):
        convert_grounding_dino_checkpoint(tmp_path / "pickle.pth", tmp_path / "out", tokenizer_folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failed_conversion_leaves_nothing_behind(tmp_path, checkpoint, tokenizer_folder, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(GroundingDinoProcessor, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        convert_grounding_dino_checkpoint(checkpoint, tmp_path / "out", tokenizer_folder)
    assert not list(tmp_path.iterdir())


# The command


def test_the_command_converts_and_prints_the_report(tmp_path, checkpoint, tokenizer_folder, capsys):
    arguments = ["convert", "grounding-dino", str(checkpoint), str(tmp_path / "out")]
    assert main([*arguments, "--tokenizer", str(tokenizer_folder)]) == 0
    assert capsys.readouterr().out.startswith("grounding-dino checkpoint, names of groundingdino-py\n")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    shutil.rmtree(tmp_path / "out")

    assert main(arguments) == 2
    assert "--tokenizer DIR" in capsys.readouterr().err
    assert main([*arguments, "--base", str(tmp_path)]) == 2
    assert "--base was given with grounding-dino, which takes none" in capsys.readouterr().err
    assert main(["convert", "sam", *arguments[2:], "--tokenizer", str(tokenizer_folder)]) == 2
    assert "--tokenizer was given with sam" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_knows_the_same_default_as_the_function(monkeypatch, tmp_path):
    calls = []

    def convert(checkpoint, output_dir, tokenizer="default"):
        calls.append(tokenizer)
        return argparse.Namespace(summary=lambda: "")

    monkeypatch.setattr(grounding_dino, "convert_grounding_dino_checkpoint", convert)
    assert main(["convert", "grounding-dino", "a.pth", str(tmp_path / "out")]) == 0 and calls == ["default"]
