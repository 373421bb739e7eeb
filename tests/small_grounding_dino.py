"""Grounding DINO with a small vocabulary of its own, from groundingdino-py and as transformers' model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from transformers import BertTokenizer, GroundingDinoForObjectDetection

from ccsam_hf.conversion.grounding_dino import convert_grounding_dino
from ccsam_hf.conversion.original_grounding_dino import OriginalGroundingDino, upstream_warnings_ignored

WORDS = ("thyroid", "nodule", "breast", "cyst", "left", "ventricle", "of", "the", "##s")
SMALL_TEXT = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
SMALL = {"enc_layers": 2, "dec_layers": 2, "num_queries": 30, "dim_feedforward": 64, "text_config": SMALL_TEXT}
# The package knows Swins of published sizes only.
SMALL_SWIN = {"embed_dim": 24, "depths": [2, 2, 3, 1], "num_heads": [1, 2, 3, 4]}


def make_tokenizer(folder: Path, words: tuple[str, ...] = WORDS) -> BertTokenizer:
    """WordPiece whose phrase delimiters [CLS] [SEP] . ? have the ids 2, 3, 6, 5."""
    vocabulary = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "?", ".", *words)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return BertTokenizer(str(folder / "vocab.txt"))


@contextmanager
def small_swin() -> Iterator[None]:
    """Let groundingdino-py build a Swin of few channels."""
    with upstream_warnings_ignored():
        from groundingdino.models.GroundingDINO.backbone import backbone
        from groundingdino.models.GroundingDINO.backbone.swin_transformer import SwinTransformer

    small = lambda name, **settings: SwinTransformer(**settings, **SMALL_SWIN)  # noqa: E731
    with mock.patch.object(backbone, "build_swin_transformer", small):
        yield


def small_original(tokenizer: BertTokenizer, **settings) -> OriginalGroundingDino:
    """The package's model with random weights, every tensor of which moves the result."""
    with small_swin():
        model = OriginalGroundingDino.from_config(tokenizer, {**SMALL, **settings})
    return perturb(model).eval()


def perturb(model: nn.Module) -> nn.Module:
    """Add noise to all parameters: a tenth of their spread, or 0.02 where they start as one number."""
    with torch.no_grad():
        for parameter in model.parameters():
            spread = parameter.std() if parameter.numel() > 1 else torch.zeros(())
            parameter.add_(torch.randn_like(parameter) * (0.1 * spread if spread > 0 else 0.02))
    return model


def converted_model(weights: Mapping[str, Tensor], tokenizer: BertTokenizer) -> GroundingDinoForObjectDetection:
    """transformers' model with the original's weights, told where this tokenizer ends phrases."""
    converted, config, report = convert_grounding_dino(weights)
    model = GroundingDinoForObjectDetection(config).eval()
    missing, unexpected = model.load_state_dict(converted, strict=False)
    assert not unexpected and missing == report.newly_initialised
    separate_phrases(model, tokenizer)
    return model


def separate_phrases(model: GroundingDinoForObjectDetection, tokenizer: BertTokenizer) -> None:
    model.model.special_tokens = torch.tensor(tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"]))


def detector_inputs(tokenizer: BertTokenizer, texts: list[str], size: tuple[int, int] = (64, 96)) -> dict[str, Tensor]:
    """Noise images with padding below and to the right of all but the first, and padded texts."""
    height, width = size
    pixel_values, pixel_mask = torch.randn(len(texts), 3, height, width), torch.ones(len(texts), height, width).long()
    for row in range(1, len(texts)):
        pixel_mask[row, height - 8 * row :] = 0
        pixel_mask[row, :, width - 16 * row :] = 0
    pixel_values = pixel_values * pixel_mask[:, None]
    return {
        **tokenizer(texts, padding=True, return_tensors="pt"),
        "pixel_values": pixel_values,
        "pixel_mask": pixel_mask,
    }
