"""A phrase -> what a detector's text encoder reads: captions, tokens, and which tokens are the phrase's.

Every phrase stands in a caption of its own. Phrases of one caption meet in the detector, although the text encoder
keeps them apart: a box then scores for a phrase by what else is asked.

Letters: B captions, T tokens of a caption.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GroundingDinoForObjectDetection

from .descriptions import describe, mention_spans

PADDED_ROWS = 128  # an embedding table may be padded to a multiple of this beyond its vocabulary


@dataclass(frozen=True)
class Caption:
    """The text for one phrase, and where it mentions the phrase.

    Args:
        text: what the encoder reads.
        spans: the (start, end) characters of the phrase's mentions, at least one.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


def make_caption(phrase: str, form: str = "phrase", describer: Callable[[str], str] | None = None) -> Caption:
    """The caption of a phrase.

    Args:
        phrase: of `descriptions.to_phrase`.
        form: one of `descriptions.FORMS`: "phrase" reads "thyroid nodule.", "description" a text that mentions it.
        describer: phrase -> that text; default: the paper's description.

    Raises:
        ValueError: the describer's text does not mention the phrase.
    """
    if form == "phrase":
        return Caption(f"{phrase}.", ((0, len(phrase)),))
    text = (describer or partial(describe, form=form))(phrase)
    return Caption(text, tuple(mention_spans(text, phrase)))


def encode_captions(tokenizer: Any, captions: Sequence[Caption], max_tokens: int) -> tuple[dict[str, Tensor], Tensor]:
    """Tokens of B captions and, for each, which of them belong to its phrase.

    Args:
        tokenizer: a fast BERT tokenizer.
        captions: of `make_caption`.
        max_tokens: longest caption that the encoder takes, [CLS] and [SEP] counted.

    Returns:
        input_ids, token_type_ids and attention_mask, (B, T) int64 each; and (B, T) bool, the tokens of the phrases
        without words that the tokenizer does not know.

    Raises:
        ValueError: a caption that is too long, or a phrase of unknown words only.
    """
    encoding = tokenizer(
        [caption.text for caption in captions],
        padding=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
        return_tensors="pt",
    )
    offsets = encoding.pop("offset_mapping")
    known = encoding["input_ids"] != tokenizer.unk_token_id
    rows = []
    for row, caption in enumerate(captions):
        length = int(encoding["attention_mask"][row].sum())
        if length > max_tokens:
            raise ValueError(
                f"text {shorten(caption.text)!r} has {length} tokens; the text encoder takes at most {max_tokens}: "
                "shorten it, or name the target alone"
            )
        rows.append(tokens_in_spans(offsets[row], caption.spans) & known[row])
        if not bool(rows[-1].any()):
            raise ValueError(
                f"text {caption.text[slice(*caption.spans[0])]!r} has no word that the tokenizer of the text encoder "
                "knows; expected words of its language"
            )
    return dict(encoding), torch.stack(rows)


def tokens_in_spans(offsets: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    """Which tokens, given by their characters (T, 2), lie in one of the spans; (T,) bool. Special tokens are empty."""
    start, end = offsets[:, 0], offsets[:, 1]
    inside = [(start >= first) & (end <= last) & (end > start) for first, last in spans]
    return torch.stack(inside).any(0)


def phrase_delimiter_ids(tokenizer: Any, num_embeddings: int) -> list[int]:
    """Ids of the tokens that end a phrase: [CLS], [SEP], "." and "?".

    Args:
        tokenizer: a BERT tokenizer.
        num_embeddings: rows of the text encoder's word embeddings.

    Raises:
        ValueError: the tokenizer gives no character offsets, lacks one of the four, or its vocabulary is not that of
            the word embeddings: larger, or smaller by more than the padding to a round number (127).
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} gives no character offsets; expected a fast tokenizer (tokenizer.json)"
        )
    if not 0 <= num_embeddings - len(tokenizer) < PADDED_ROWS:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens and the text encoder {num_embeddings} word embeddings; "
            "expected the tokenizer that the checkpoint was trained with, bert-base-uncased for the published ones"
        )
    tokens = {"[CLS]": tokenizer.cls_token, "[SEP]": tokenizer.sep_token, ".": ".", "?": "?"}
    ids = {name: token and tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}
    unknown = [name for name, token_id in ids.items() if token_id in (None, tokenizer.unk_token_id)]
    if unknown:
        raise ValueError(f"the tokenizer has no {', '.join(unknown)}; expected all of [CLS] [SEP] . ? to end phrases")
    return list(ids.values())


def separate_phrases(model: GroundingDinoForObjectDetection, delimiter_ids: list[int]) -> None:
    """Tell the detector the token ids at which a phrase ends; transformers assumes those of bert-base-uncased.

    They are not part of a checkpoint, so this is done whenever a detector meets its tokenizer.
    """
    detector = model.model
    detector.special_tokens = torch.tensor(delimiter_ids, device=detector.special_tokens.device)


def shorten(text: str, length: int = 60) -> str:
    """The beginning of a text, for a message."""
    return text if len(text) <= length else text[: length - 3] + "..."


__all__ = ["Caption", "encode_captions", "make_caption", "phrase_delimiter_ids", "separate_phrases"]
