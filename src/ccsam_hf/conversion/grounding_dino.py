"""Grounding DINO as IDEA-Research publishes it -> a folder that transformers loads, every tensor accounted for.

Source: names as in groundingdino-py 0.4.0 (groundingdino/models/GroundingDINO/, and config/ for what no tensor tells)
and in transformers 5.24 (models/grounding_dino, models/swin).
"""

import copy
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    SwinConfig,
)
from transformers.utils import logging

from ..files import check_new_folder
from ..grounding_texts import phrase_delimiter_ids
from .original_grounding_dino import UNUSED_IN_CHECKPOINTS, WORD_EMBEDDINGS
from .weights import (
    ConversionReport,
    NamingStyle,
    Problems,
    load_checkpoint_file,
    recognise_style,
    rename_tensors,
    save_folder,
    unwrap,
)

logger = logging.get_logger(__name__)

KIND = "grounding-dino"
BERT_DELIMITER_IDS = [101, 102, 1012, 1029]  # of bert-base-uncased; transformers' Grounding DINO assumes them
NUM_HEADS = 8  # no tensor tells it: `nheads` of both published configurations
BERT_HEAD_SIZE = 64  # no tensor tells it: that of every published BERT

SWIN = "model.backbone.conv_encoder.model."
RULES = (
    (r"^backbone\.0\.norm0\.", f"{SWIN}hidden_states_norms.stage1."),  # stages count from 1, stage 0 is the stem
    (r"^backbone\.0\.norm1\.", f"{SWIN}hidden_states_norms.stage2."),
    (r"^backbone\.0\.norm2\.", f"{SWIN}hidden_states_norms.stage3."),
    (r"^backbone\.0\.norm3\.", f"{SWIN}hidden_states_norms.stage4."),
    (r"^backbone\.0\.patch_embed\.proj\.", f"{SWIN}swin.embeddings.patch_embeddings.projection."),
    (r"^backbone\.0\.patch_embed\.", f"{SWIN}swin.embeddings."),
    (r"^backbone\.0\.layers\.", f"{SWIN}swin.encoder.layers."),
    (r"(\.blocks\.\d+)\.norm1\.", r"\1.layernorm_before."),
    (r"(\.blocks\.\d+)\.norm2\.", r"\1.layernorm_after."),
    (r"(\.blocks\.\d+)\.attn\.proj\.", r"\1.attention.o_proj."),
    (r"(\.blocks\.\d+)\.attn\.(relative_position_bias)_table$", r"\1.attention.\2.\2_table"),
    (r"(\.blocks\.\d+)\.attn\.", r"\1.attention."),
    (r"^bert\.", "model.text_backbone."),
    (r"^feat_map\.", "model.text_projection."),
    (r"^input_proj\.", "model.input_proj_vision."),
    (r"^transformer\.tgt_embed\.", "model.query_position_embeddings."),
    (r"^transformer\.enc_out_bbox_embed\.", "model.encoder_output_bbox_embed."),
    (r"^transformer\.", "model."),
    (r"\.encoder\.layers\.(\d+)\.(self_attn|norm[12]|linear[12])\.", r".encoder.layers.\1.deformable_layer.\2."),
    (r"\.encoder\.text_layers\.(\d+)\.", r".encoder.layers.\1.text_enhancer_layer."),
    (r"\.encoder\.fusion_layers\.(\d+)\.", r".encoder.layers.\1.fusion_layer."),
    (r"(\.deformable_layer)\.norm1\.", r"\1.self_attn_layer_norm."),
    (r"(\.deformable_layer)\.norm2\.", r"\1.final_layer_norm."),
    (r"(\.text_enhancer_layer)\.norm1\.", r"\1.layer_norm_before."),
    (r"(\.text_enhancer_layer)\.norm2\.", r"\1.layer_norm_after."),
    (r"(\.fusion_layer)\.gamma_v$", r"\1.vision_param"),
    (r"(\.fusion_layer)\.gamma_l$", r"\1.text_param"),
    (r"(\.fusion_layer)\.layer_norm_v\.", r"\1.layer_norm_vision."),
    (r"(\.fusion_layer)\.layer_norm_l\.", r"\1.layer_norm_text."),
    (r"(\.fusion_layer\.attn)\.(values_|out_)?v_proj\.", r"\1.\2vision_proj."),
    (r"(\.fusion_layer\.attn)\.(values_|out_)?l_proj\.", r"\1.\2text_proj."),
    (r"\.decoder\.norm\.", ".decoder.layer_norm."),
    (r"\.decoder\.ref_point_head\.", ".decoder.reference_points_head."),
    (r"(\.decoder\.layers\.\d+)\.norm1\.", r"\1.encoder_attn_layer_norm."),
    (r"(\.decoder\.layers\.\d+)\.norm2\.", r"\1.self_attn_layer_norm."),
    (r"(\.decoder\.layers\.\d+)\.norm3\.", r"\1.final_layer_norm."),
    (r"(\.decoder\.layers\.\d+)\.cross_attn\.", r"\1.encoder_attn."),
    (r"(\.decoder\.layers\.\d+)\.ca_text\.", r"\1.encoder_attn_text."),
    (r"(\.decoder\.layers\.\d+)\.catext_norm\.", r"\1.encoder_attn_text_layer_norm."),
    (r"\.linear([12])\.", r".fc\1."),
)
STYLE = NamingStyle(
    "groundingdino-py",
    r"^transformer\.encoder\.",
    RULES,
    (
        (r"\.relative_position_index$", "made from the window size by the model itself"),
        (r"^bert\.pooler\.", "pooled output of the text encoder: Grounding DINO reads the tokens"),
        *UNUSED_IN_CHECKPOINTS,
    ),
)
# One matrix in the original, three in transformers: (pattern, names of the thirds from top to bottom).
FUSED = (
    (r"(\.attn)\.qkv\.(weight|bias)$", (r"\1.q_proj.\2", r"\1.k_proj.\2", r"\1.v_proj.\2")),
    (r"\.in_proj_(weight|bias)$", (r".query.\1", r".key.\1", r".value.\1")),
)
# transformers' Swin has a norm behind its last stage, which Grounding DINO does not read.
NEW_BESIDE_ORIGINAL = r"\.swin\.layernorm\."


def convert_grounding_dino(
    state_dict: Mapping, config: GroundingDinoConfig | None = None
) -> tuple[dict[str, Tensor], GroundingDinoConfig, ConversionReport]:
    """Weights of groundingdino-py or IDEA-Research to those of transformers' `GroundingDinoForObjectDetection`.

    The two compute the same, with one difference: where a box is refined, transformers keeps its coordinates 1e-5 away
    from 0 and 1, the original 1e-3 (groundingdino/util/misc.py, `inverse_sigmoid`). Outputs differ where a query
    passes beyond that on its way through the decoder: a box that fills the image, or a proposal that both leave out,
    as those within 1 % of the border, when it is among the best all the same. And of two proposals whose scores are
    equal but for rounding either may come first, which gives them each other's query.

    Args:
        state_dict: names to tensors, or a training checkpoint that holds them under "model".
        config: the model to fill; by default read from the tensors, see `config_of`.

    Returns:
        Names of transformers to tensors, without the newly initialised ones; the config; the report, where a third of
        a fused projection counts as loaded.

    Raises:
        ValueError: unknown or missing names, or shapes that do not fit; the message lists them.
    """
    tensors, unused = unwrap(state_dict)
    recognise_style(tensors, KIND, (STYLE,))
    config = config_of(tensors) if config is None else copy.deepcopy(config)
    shapes = detector_shapes(config)
    report, problems = ConversionReport(KIND, STYLE.title, unused=unused), Problems()
    parts: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        thirds = split_fused(name, tensor)
        problems.contradicting += [part for part in thirds if part in parts]
        parts |= thirds
    converted = rename_tensors(parts, STYLE, shapes, report, problems)
    for name, shape in shapes.items():
        twin = shared_name(name, config)
        if name not in converted:
            new = re.search(NEW_BESIDE_ORIGINAL, name)
            (report.newly_initialised if new else problems.missing).append(name)
        elif converted[name].shape != shape:
            problems.add_misshapen(name, converted[name].shape, shape)
        elif twin in converted and not torch.equal(converted[name], converted[twin]):
            problems.contradicting.append(f"{name} and {twin}")
        else:
            report.loaded.append(name)
    problems.raise_if_any(KIND, STYLE)
    return converted, config, report


def split_fused(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A fused projection as its three parts, in the original's style of names; anything else as it is."""
    for pattern, parts in FUSED:
        if re.search(pattern, name) and tensor.ndim:
            thirds = tensor.tensor_split(3)
            return {re.sub(pattern, part, name): third for part, third in zip(parts, thirds, strict=True)}
    return {name: tensor}


def shared_name(name: str, config: GroundingDinoConfig) -> str:
    """The name whose tensor this one shares: box heads stand in the model twice, and mostly for all layers."""
    name = re.sub(r"^model\.decoder\.bbox_embed\.", "bbox_embed.", name)
    return re.sub(r"^bbox_embed\.\d+", "bbox_embed.0", name) if config.decoder_bbox_embed_share else name


def detector_shapes(config: GroundingDinoConfig) -> dict[str, torch.Size]:
    """Name and shape of every tensor of the model; no memory is taken for them."""
    with torch.device("meta"):
        model = GroundingDinoForObjectDetection(copy.deepcopy(config))
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def config_of(tensors: Mapping[str, Tensor]) -> GroundingDinoConfig:
    """The configuration that a checkpoint's own shapes tell: Swin-T, Swin-B or any other size.

    No tensor tells the numbers of heads: 8 in the detector and one for 64 channels in BERT, as published. What remains
    is that of groundingdino-py: no dropout but in BERT, LayerNorms with 1e-5 and in BERT 1e-12, temperature 20.
    `disable_custom_kernels` is set: it decides, in releases that read it, whether a GPU compiles a kernel for
    deformable attention at first use; without, the same arithmetic runs on every machine.

    Args:
        tensors: names of groundingdino-py to tensors.

    Raises:
        ValueError: a tensor that is read here is missing, or its shape cannot be that of the model.
    """
    shape_of = ShapeReader(tensors)
    d_model = shape_of("feat_map.weight")[0]
    num_feature_levels = count_of(tensors, r"^input_proj\.(\d+)\.")
    samples_of_a_head = NUM_HEADS * max(1, num_feature_levels)
    layer = "transformer.{}.layers.0.{}.weight"
    return GroundingDinoConfig(
        backbone_config=swin_config_of(tensors),
        text_config=bert_config_of(tensors),
        d_model=d_model,
        num_queries=shape_of("transformer.tgt_embed.weight")[0],
        num_feature_levels=num_feature_levels,
        encoder_layers=count_of(tensors, r"^transformer\.encoder\.layers\.(\d+)\."),
        decoder_layers=count_of(tensors, r"^transformer\.decoder\.layers\.(\d+)\."),
        encoder_attention_heads=NUM_HEADS,
        decoder_attention_heads=NUM_HEADS,
        encoder_ffn_dim=shape_of(layer.format("encoder", "linear1"))[0],
        decoder_ffn_dim=shape_of(layer.format("decoder", "linear1"))[0],
        encoder_n_points=shape_of(layer.format("encoder", "self_attn.attention_weights"))[0] // samples_of_a_head,
        decoder_n_points=shape_of(layer.format("decoder", "cross_attn.attention_weights"))[0] // samples_of_a_head,
        decoder_bbox_embed_share=heads_are_equal(tensors),
        dropout=0.0,
        fusion_droppath=0.1,
        positional_embedding_temperature=20,
        layer_norm_eps=1e-5,
        max_text_len=256,
        disable_custom_kernels=True,
    )


def swin_config_of(tensors: Mapping[str, Tensor]) -> SwinConfig:
    """The image backbone; its `image_size`, which changes nothing, is the one that goes with the window."""
    shape_of, stage = ShapeReader(tensors), "backbone.0.layers.{}.blocks.0."
    tables = [
        shape_of(stage.format(number) + "attn.relative_position_bias_table")  # ((2 * window - 1)^2, heads)
        for number in range(count_of(tensors, r"^backbone\.0\.layers\.(\d+)\."))
    ]
    embed_dim, _, _, patch_size = shape_of("backbone.0.patch_embed.proj.weight", ndim=4)
    window_size = (math.isqrt(tables[0][0]) + 1) // 2 if tables else 7
    return SwinConfig(
        embed_dim=embed_dim,
        patch_size=patch_size,
        depths=[
            count_of(tensors, rf"^backbone\.0\.layers\.{number}\.blocks\.(\d+)\.") for number in range(len(tables))
        ],
        num_heads=[heads for _, heads in tables],
        window_size=window_size,
        image_size=32 * window_size,
        mlp_ratio=shape_of(stage.format(0) + "mlp.fc1.weight")[0] / embed_dim,
        qkv_bias=stage.format(0) + "attn.qkv.bias" in tensors,
        drop_path_rate=0.2,
        layer_norm_eps=1e-5,
        out_indices=sorted(
            int(match[1]) + 1 for name in tensors if (match := re.match(r"backbone\.0\.norm(\d)\.weight$", name))
        ),
    )


def bert_config_of(tensors: Mapping[str, Tensor]) -> BertConfig:
    """The text encoder."""
    shape_of = ShapeReader(tensors)
    vocab_size, hidden_size = shape_of(WORD_EMBEDDINGS)
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=count_of(tensors, r"^bert\.encoder\.layer\.(\d+)\."),
        num_attention_heads=max(1, hidden_size // BERT_HEAD_SIZE),
        intermediate_size=shape_of("bert.encoder.layer.0.intermediate.dense.weight")[0],
        max_position_embeddings=shape_of("bert.embeddings.position_embeddings.weight")[0],
        type_vocab_size=shape_of("bert.embeddings.token_type_embeddings.weight")[0],
        layer_norm_eps=1e-12,
    )


class ShapeReader:
    """Shapes of a checkpoint by name, with an error that names what is missing.

    Args:
        tensors: names to tensors.
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = tensors

    def __call__(self, name: str, ndim: int = 2) -> torch.Size:
        """The shape of a tensor; ValueError where there is none, or one with other than `ndim` dimensions."""
        if name not in self.tensors:
            raise ValueError(f"this is no {KIND} checkpoint: 1 missing for the model: {name}")
        shape = self.tensors[name].shape
        if len(shape) != ndim:
            raise ValueError(
                f"this is no {KIND} checkpoint: 1 of another shape: {name} {tuple(shape)}; expected {ndim} dimensions"
            )
        return shape


def count_of(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers stand where `pattern` has its group."""
    return len({match[1] for name in tensors if (match := re.match(pattern, name))})


def heads_are_equal(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the box heads of all decoder layers are one."""
    heads = {name: tensor for name, tensor in tensors.items() if name.startswith("bbox_embed.")}
    first = {name: heads.get(re.sub(r"^bbox_embed\.\d+", "bbox_embed.0", name)) for name in heads}
    return all(first[name] is not None and torch.equal(heads[name], first[name]) for name in heads)


def convert_grounding_dino_checkpoint(
    checkpoint: str | Path, output_dir: str | Path, tokenizer: str | Path = "bert-base-uncased"
) -> ConversionReport:
    """Make a folder that `GroundingDinoForObjectDetection` and `GroundingDinoProcessor` load.

    A tokenizer whose phrase delimiters have other ids than those of bert-base-uncased is named in a warning: no file
    of transformers holds them, so who loads the folder has to set them, as `TextGrounder` does.

    Args:
        checkpoint: see `load_checkpoint_file`.
        output_dir: a new or empty folder; it is there only once it is complete.
        tokenizer: folder or Hub id of the text encoder's tokenizer.

    Returns:
        The report, which also lies in `output_dir` as `conversion_report.json`.

    Raises:
        FileExistsError: a folder that is not empty.
        ValueError: a checkpoint that does not fit, or a tokenizer that cannot be had or is
            another one.
    """
    output_dir = Path(output_dir)
    check_new_folder(output_dir)
    text_processor = load_tokenizer(tokenizer)
    converted, config, report = convert_grounding_dino(load_checkpoint_file(checkpoint))
    delimiter_ids = phrase_delimiter_ids(text_processor, config.text_config.vocab_size)
    if delimiter_ids != BERT_DELIMITER_IDS:
        logger.warning(
            f"[CLS], [SEP], . and ? have the ids {delimiter_ids} in {tokenizer}, and transformers' Grounding DINO "
            f"separates phrases at {BERT_DELIMITER_IDS}: load the folder with TextGrounder, which tells it the ids"
        )
    with torch.random.fork_rng(devices=[]):  # the start values are drawn, and replaced
        model = GroundingDinoForObjectDetection(config)
    model.load_state_dict({**model.state_dict(), **converted}, strict=True)
    processor = GroundingDinoProcessor(GroundingDinoImageProcessor(), text_processor)
    save_folder(output_dir, model, processor, report)
    return report


def load_tokenizer(tokenizer: str | Path) -> Any:
    """The tokenizer of a folder or Hub id; ValueError that says what to pass where it cannot be had."""
    try:
        return AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"tokenizer={str(tokenizer)!r} can be loaded neither from disk nor from the Hub ({reason}): pass a folder "
            "(--tokenizer DIR) that holds the tokenizer.json of the checkpoint's text encoder, bert-base-uncased for "
            "the published ones"
        ) from error


__all__ = ["convert_grounding_dino", "convert_grounding_dino_checkpoint"]
