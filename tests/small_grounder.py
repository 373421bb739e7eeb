"""A text grounder with a few channels, a vocabulary of its own and random weights, and a BERT to exchange for its."""

from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    PreTrainedModel,
)

from ccsam_hf.grounding import TextGrounder
from small_grounding_dino import perturb

WORDS = ("thyroid", "nodule", "gland", "breast", "lesion", "left", "ventricle", "atrium")
OWN_DELIMITERS = {"[CLS]": 2, "[SEP]": 3, ".": 6, "?": 5}
STOCK_DELIMITERS = {"[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}  # as in bert-base-uncased

SMALL_TEXT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 128,  # the paper's description is 90 tokens long
    "attention_probs_dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0,
    "initializer_range": 0.5,  # the spread of a trained model's features at these widths
}
SMALL_DETECTOR = {
    "backbone_config": {
        "model_type": "swin",
        "image_size": 64,
        "patch_size": 4,
        "embed_dim": 16,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 1, 1],
        "window_size": 2,
        "mlp_ratio": 1.0,
        "out_indices": [2, 3, 4],
        "drop_path_rate": 0.0,
        "initializer_range": 0.1,
    },
    "init_std": 0.1,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 8,
    "num_feature_levels": 3,
    "dropout": 0.0,
    "fusion_droppath": 0.0,
    "disable_custom_kernels": True,
}


def small_tokenizer(words: tuple[str, ...] = WORDS, delimiters: dict[str, int] | None = None) -> BertTokenizer:
    """WordPiece of the words, [PAD] = 0, [UNK] = 1 and the delimiters' ids; ids between are not in use."""
    ids = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 4} | (delimiters or OWN_DELIMITERS)
    first = max(ids.values()) + 1
    ids |= {word: first + index for index, word in enumerate(words)}
    named = {index: token for token, index in ids.items()}
    return BertTokenizer(vocab={named.get(index, f"[unused{index}]"): index for index in range(first + len(words))})


def small_grounder(words: tuple[str, ...] = WORDS, delimiters: dict[str, int] | None = None) -> TextGrounder:
    """The same random weights at every call, each of which moves the result; images are resized to 64 x 64."""
    tokenizer = small_tokenizer(words, delimiters)
    text_config = {**SMALL_TEXT, "vocab_size": len(tokenizer), "pad_token_id": 0}
    processor = GroundingDinoProcessor(GroundingDinoImageProcessor(size={"height": 64, "width": 64}), tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = perturb(
            GroundingDinoForObjectDetection(GroundingDinoConfig(**SMALL_DETECTOR, text_config=text_config))
        )
        # Distinct boxes, some of them reaching beyond the image.
        for head in (model.model.encoder_output_bbox_embed, model.bbox_embed[0]):
            torch.nn.init.normal_(head.layers[-1].weight, std=0.3)
    return TextGrounder(model, processor)


def save_bert(
    folder: Path, words: tuple[str, ...], model_class: type[PreTrainedModel] = BertModel, **config: int
) -> BertTokenizer:
    """Write a BERT with random weights and the tokenizer of the words; returns the tokenizer."""
    tokenizer = small_tokenizer(words, {"[CLS]": 3, "[SEP]": 2, ".": 5, "?": 7})
    config = {**SMALL_TEXT, "vocab_size": len(tokenizer), "pad_token_id": 0, **config}
    perturb(model_class(BertConfig(**config))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer
