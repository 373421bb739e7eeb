"""A folder or Hub id -> the weights, tokenizer and text encoder of a detector, each complete or refused."""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertModel,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
)
from transformers.utils import logging

from .configuration_ccsam import HUB_ARGUMENTS
from .grounding_texts import phrase_delimiter_ids, separate_phrases
from .loading import LOAD_LOCK
from .model_places import check_place

logger = logging.get_logger(__name__)


def load_detector(source: str | Path, **kwargs: Any) -> tuple[GroundingDinoForObjectDetection, GroundingDinoProcessor]:
    """The detector and its processor of one folder or Hub repository.

    Args:
        source: folder or repository id.
        kwargs: for `GroundingDinoForObjectDetection.from_pretrained`.

    Raises:
        OSError: nothing to load there.
        ValueError: weights that leave parts of the model without values.
    """
    kwargs |= check_place(source, **kwargs)
    kwargs.setdefault("disable_custom_kernels", True)  # they are compiled where they are first used
    with LOAD_LOCK:
        model, report = GroundingDinoForObjectDetection.from_pretrained(source, output_loading_info=True, **kwargs)
    refuse_missing(source, report)
    where = {name: value for name, value in kwargs.items() if name in HUB_ARGUMENTS}
    return model, GroundingDinoProcessor.from_pretrained(source, **where)


def exchange_text_encoder(
    model: GroundingDinoForObjectDetection, processor: GroundingDinoProcessor, text_encoder: str | Path
) -> GroundingDinoProcessor:
    """Put another BERT into a detector; what does not fit is refused before anything changes.

    Args:
        model: is changed in place.
        processor: that of the model.
        text_encoder: folder or id of a checkpoint with model type "bert", and its tokenizer.

    Returns:
        The processor with the tokenizer of the new text encoder.

    Raises:
        ValueError: another architecture, incomplete weights, or a tokenizer that does not fit the encoder.
    """
    config = AutoConfig.from_pretrained(text_encoder)
    if config.model_type != "bert":
        raise ValueError(
            f"{text_encoder} is of type {config.model_type!r}; expected 'bert': Grounding DINO's text encoder "
            "takes the attention mask and positions of a BERT"
        )
    with LOAD_LOCK:
        encoder, report = BertModel.from_pretrained(
            text_encoder, add_pooling_layer=False, output_loading_info=True, dtype=model.dtype
        )
    refuse_missing(text_encoder, report)
    tokenizer = AutoTokenizer.from_pretrained(text_encoder)
    delimiter_ids = phrase_delimiter_ids(tokenizer, encoder.config.vocab_size)

    detector, device = model.model, model.device
    detector.text_backbone = encoder.to(device).eval()
    model.config.text_config = encoder.config
    encoder.config.name_or_path = name_of(text_encoder)
    old = detector.text_projection
    if old.in_features != encoder.config.hidden_size:
        logger.warning(
            f"text_projection is newly drawn: {text_encoder} is {encoder.config.hidden_size} wide and the encoder "
            f"before it was {old.in_features}; fine-tune the grounder before you use it"
        )
        new = nn.Linear(encoder.config.hidden_size, old.out_features)
        nn.init.xavier_uniform_(new.weight)
        nn.init.zeros_(new.bias)
        detector.text_projection = new.to(device, model.dtype)
    separate_phrases(model, delimiter_ids)
    return GroundingDinoProcessor(processor.image_processor, tokenizer)


def name_of(source: str | Path) -> str:
    """What to call a checkpoint or data set: its id, or its folder without the path, which means nothing elsewhere."""
    return Path(source).resolve().name if Path(source).exists() else str(source)


def refuse_missing(name: str | Path, report: dict) -> None:
    """Raise ValueError where loading left parts of a model without values."""
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"{name} lacks {len(missing)} of the model's tensors ({missing[0]} ...); expected a complete checkpoint"
        )


__all__ = ["exchange_text_encoder", "load_detector", "name_of"]
