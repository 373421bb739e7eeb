"""Text + image -> boxes: Grounding DINO that reads with its own BERT or with a medical one (TextGrounder).

Source: CC-SAM paper, Section 3.3; Liu et al., "Grounding DINO" (arXiv 2303.05499), in transformers' implementation.

Letters: B captions, Q queries, T tokens of a caption, P phrases of a caption, n boxes.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import nms
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertModel,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
)
from transformers.utils import logging

from .configuration_ccsam import HUB_ARGUMENTS
from .descriptions import FORMS, describe, mention_spans, to_phrase
from .geometry import boxes_from_unit
from .image_processing_ccsam import as_list, to_three_channels, to_unit_image

logger = logging.get_logger(__name__)

FALLBACKS = ("none", "best_box", "whole_image")
SETTINGS_KEY = "grounder"  # of the model's config.json
PADDED_ROWS = 128  # an embedding table may be padded to a multiple of this beyond its vocabulary


@dataclass
class GrounderSettings:
    """What a grounder's folder says about itself, kept in `config.json` under "grounder".

    Args:
        text_encoder: id of the text encoder's checkpoint, or the last part of its folder: the settings are published.
        tuned_on: what the weights were fine-tuned on; None for a detector as published ("zero-shot").
        form: default of `TextGrounder.__call__`, one of `descriptions.FORMS`.
        box_threshold: default of `TextGrounder.__call__`.
        nms_threshold: default of `TextGrounder.__call__`.
    """

    text_encoder: str = "bert-base-uncased"
    tuned_on: str | None = None
    form: str = "phrase"
    box_threshold: float = 0.3
    nms_threshold: float = 0.7


@dataclass(frozen=True)
class GroundingResult:
    """Where one text was found in one image. Boxes are x0 y0 x1 y1 in pixels of the image, best first.

    Args:
        text: as it was asked.
        phrase: the noun phrase whose tokens are scored.
        description: the whole text that the encoder read for it.
        boxes: (n, 4) float32; n is 0 where nothing was found, at most 1 without `every_instance`.
        scores: (n,) float32 in [0, 1].
        best_box: (4,) float32, the best-scoring box, whether it reached the threshold or not.
        best_score: its score.
        reason: why there is no box, or why the box is not a find but a fallback; None otherwise.
        text_encoder: which text encoder read the text.
        tuned_on: what the detector was fine-tuned on; None means zero-shot.
    """

    text: str
    phrase: str
    description: str
    boxes: Tensor
    scores: Tensor
    best_box: Tensor
    best_score: float
    reason: str | None
    text_encoder: str
    tuned_on: str | None


@dataclass
class Caption:
    """One text for the encoder, and where its phrases stand in it.

    Args:
        text: what the encoder reads.
        spans: for each phrase the (start, end) characters of its mentions.
        indices: which of the asked texts each phrase is.
    """

    text: str = ""
    spans: list[list[tuple[int, int]]] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)

    def with_phrase(self, phrase: str, index: int) -> "Caption":
        """The caption with one more phrase at its end, in the form "thyroid nodule. thyroid gland."."""
        start = len(self.text) + (1 if self.text else 0)
        text = f"{self.text} {phrase}.".lstrip()
        return Caption(text, [*self.spans, [(start, start + len(phrase))]], [*self.indices, index])


class TextGrounder:
    """Find what a text names in an ultrasound image.

    ```python
    grounder = TextGrounder.from_pretrained(ccsam_hf.TINY_GROUNDER)
    left_ventricle, left_atrium = grounder(image, ["left ventricle", "left atrium"])
    ```

    Args:
        model: transformers' `GroundingDinoForObjectDetection`, or
            [`~ccsam_hf.conversion.original_grounding_dino.OriginalGroundingDino`]. It is put in evaluation mode, and
            told which tokens of the tokenizer separate phrases.
        processor: `GroundingDinoProcessor`, its tokenizer that of the model's text encoder.
        settings: left out, those in the model's config, or the defaults.
        describer: phrase -> text that mentions it, such as `descriptions.DescriptionWriter`, in place of the paper's
            description; for `form="description"`.

    Raises:
        ValueError: the tokenizer does not fit the text encoder.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: GroundingDinoProcessor,
        settings: GrounderSettings | None = None,
        describer: Callable[[str], str] | None = None,
    ):
        delimiter_ids = phrase_delimiter_ids(processor.tokenizer, model.config.text_config.vocab_size)
        self.model = model.eval()
        self.processor = processor
        self.describer = describer
        self.settings = settings or GrounderSettings(**(getattr(model.config, SETTINGS_KEY, None) or {}))
        if isinstance(model, GroundingDinoForObjectDetection):
            separate_phrases(model, delimiter_ids)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        text_encoder: str | Path | None = None,
        describer: Callable[[str], str] | None = None,
        **kwargs,
    ) -> "TextGrounder":
        """Load detector, tokenizer and settings from one folder or Hub repository.

        Args:
            pretrained_model_name_or_path: folder or repository id, such as "IDEA-Research/grounding-dino-tiny".
            text_encoder: folder or id of a BERT whose weights, tokenizer and vocabulary take the place of the saved
                ones, see `replace_text_encoder`.
            describer: see [`TextGrounder`].
            kwargs: for `GroundingDinoForObjectDetection.from_pretrained`, such as `device_map` or `dtype`.

        Raises:
            OSError: nothing to load there.
            ValueError: weights that leave parts of the model without values, or a tokenizer that does not fit.
        """
        kwargs.setdefault("disable_custom_kernels", True)  # they are compiled where they are first used
        model, report = GroundingDinoForObjectDetection.from_pretrained(
            pretrained_model_name_or_path, output_loading_info=True, **kwargs
        )
        refuse_missing(pretrained_model_name_or_path, report)
        where = {name: value for name, value in kwargs.items() if name in HUB_ARGUMENTS}
        processor = GroundingDinoProcessor.from_pretrained(pretrained_model_name_or_path, **where)
        grounder = cls(model, processor, describer=describer)
        if text_encoder is not None:
            grounder.replace_text_encoder(text_encoder)
        return grounder

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write detector, text encoder, tokenizer and settings into one folder that `from_pretrained` loads.

        Raises:
            TypeError: the engine is the original code, which has no such folder.
        """
        self._refuse_original("saved")
        setattr(self.model.config, SETTINGS_KEY, asdict(self.settings))
        self.model.save_pretrained(save_directory)
        self.processor.save_pretrained(save_directory)

    def replace_text_encoder(self, text_encoder: str | Path) -> None:
        """Let another BERT read the text: its weights, its tokenizer, its vocabulary.

        Source: CC-SAM paper, Section 3.3 (a medical BERT embeds the description). Nothing was trained on the two
        together, so the result wants fine-tuning: `tuned_on` is forgotten. The projection into the detector stays
        where the widths agree, and is newly drawn where they differ.

        Args:
            text_encoder: folder or id of a checkpoint with model type "bert", and its tokenizer.

        Raises:
            TypeError: the engine is the original code.
            ValueError: another architecture, incomplete weights, or a tokenizer that does not fit the encoder.
        """
        self._refuse_original("given another text encoder")
        config = AutoConfig.from_pretrained(text_encoder)
        if config.model_type != "bert":
            raise ValueError(
                f"{text_encoder} is of type {config.model_type!r}; expected 'bert': Grounding DINO's text encoder "
                "takes the attention mask and positions of a BERT"
            )
        encoder, report = BertModel.from_pretrained(
            text_encoder, add_pooling_layer=False, output_loading_info=True, dtype=self.model.dtype
        )
        refuse_missing(text_encoder, report)
        tokenizer = AutoTokenizer.from_pretrained(text_encoder)
        delimiter_ids = phrase_delimiter_ids(tokenizer, encoder.config.vocab_size)

        detector, device = self.model.model, self.model.device
        detector.text_backbone = encoder.to(device).eval()
        self.model.config.text_config = encoder.config
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
            detector.text_projection = new.to(device, self.model.dtype)
        self.processor = GroundingDinoProcessor(self.processor.image_processor, tokenizer)
        separate_phrases(self.model, delimiter_ids)
        self.settings.text_encoder, self.settings.tuned_on = name_of(text_encoder), None

    def _refuse_original(self, what: str) -> None:
        if not isinstance(self.model, GroundingDinoForObjectDetection):
            raise TypeError(
                f"the engine is a {type(self.model).__name__}, which cannot be {what}; expected "
                "GroundingDinoForObjectDetection: convert the checkpoint with ccsam-hf convert grounding-dino"
            )

    @property
    def max_tokens(self) -> int:
        """Longest caption in tokens, [CLS] and [SEP] counted."""
        config = self.model.config
        return min(config.max_text_len, config.text_config.max_position_embeddings)

    @torch.inference_mode()
    def __call__(
        self,
        image: Image.Image | np.ndarray | Tensor,
        text: str | Sequence[str],
        form: Literal["phrase", "description"] | None = None,
        box_threshold: float | None = None,
        nms_threshold: float | None = None,
        every_instance: bool = False,
        fallback: Literal["none", "best_box", "whole_image"] = "none",
    ) -> list[GroundingResult]:
        """Find each text in one image.

        Phrases share one forward as long as they fit into one caption; a description is a caption of its own.

        Args:
            image: one image as [`CCSamImageProcessor`] takes it.
            text: one target or several: names of `descriptions.TARGETS`, their synonyms, or any noun phrase.
            form: "phrase" reads the noun phrase, "description" the paper's text about it.
            box_threshold: a box counts as found from this score on, in [0, 1].
            nms_threshold: of two boxes of one text that overlap by more than this IoU the better one stays.
            every_instance: return all boxes that are found instead of the best one.
            fallback: what to return where no box reaches the threshold: "none" an empty result, "best_box" the best
                one all the same, "whole_image" the image's own frame with score 0. The result says so in `reason`.

        Returns:
            One [`GroundingResult`] a text, in their order.

        Raises:
            TypeError: a text that is no string, or something that is no image.
            ValueError: no text, an empty one, one of unknown words only, one that is longer than the encoder takes,
                several images, or a setting outside its range.
        """
        texts = as_texts(text)
        form = check_choice("form", form or self.settings.form, FORMS)
        check_choice("fallback", fallback, FALLBACKS)
        box_threshold = check_share("box_threshold", box_threshold, self.settings.box_threshold)
        nms_threshold = check_share("nms_threshold", nms_threshold, self.settings.nms_threshold)
        phrases = [to_phrase(each) for each in texts]
        unit_image = to_three_channels(to_unit_image(as_one_image(image)), do_convert_grayscale=True)
        image_size = tuple(unit_image.shape[-2:])
        inputs = self.prepare_image(unit_image)

        results: list[GroundingResult | None] = [None] * len(texts)
        for caption in self.make_captions(phrases, form):
            boxes_cxcywh_unit, phrase_scores = self.detect(inputs, caption)
            boxes = boxes_from_unit(boxes_cxcywh_unit, image_size)
            for index, scores in zip(caption.indices, phrase_scores, strict=True):
                found = select_boxes(boxes, scores, box_threshold, nms_threshold, every_instance)
                found |= explain(found, texts[index], box_threshold, fallback, image_size)
                results[index] = GroundingResult(
                    text=texts[index],
                    phrase=phrases[index],
                    description=caption.text if form == "description" else phrases[index],
                    text_encoder=self.settings.text_encoder,
                    tuned_on=self.settings.tuned_on,
                    **found,
                )
        return results

    def prepare_image(self, unit_image: Tensor) -> dict[str, Tensor]:
        """`(3, H0, W0)` in [0, 1] as the detector's pixel_values (1, 3, H, W) and pixel_mask, on its device."""
        inputs = self.processor.image_processor(unit_image, do_rescale=False, return_tensors="pt")
        return {
            "pixel_values": inputs["pixel_values"].to(self.model.device, self.model.dtype),
            "pixel_mask": inputs["pixel_mask"].to(self.model.device),
        }

    def make_captions(self, phrases: Sequence[str], form: str = "phrase") -> list[Caption]:
        """Captions for all phrases, as few as fit: see `__call__` for `form` and errors."""
        if form == "description":
            texts = [(self.describer or partial(describe, form=form))(phrase) for phrase in phrases]
            captions = [
                Caption(text, [mention_spans(text, phrase)], [index])
                for index, (text, phrase) in enumerate(zip(texts, phrases, strict=True))
            ]
            for caption in captions:
                self.check_length(caption)
            return captions
        captions = [Caption()]
        for index, phrase in enumerate(phrases):
            self.check_length(Caption().with_phrase(phrase, index))
            longer = captions[-1].with_phrase(phrase, index)
            if self.count_tokens(longer) > self.max_tokens:
                captions.append(Caption().with_phrase(phrase, index))
            else:
                captions[-1] = longer
        return captions

    def count_tokens(self, caption: Caption) -> int:
        """Length of a caption in tokens, [CLS] and [SEP] counted."""
        return len(self.processor.tokenizer(caption.text)["input_ids"])

    def check_length(self, caption: Caption) -> None:
        """Raise ValueError for a caption that is longer than the encoder takes."""
        length = self.count_tokens(caption)
        if length > self.max_tokens:
            raise ValueError(
                f"text {shorten(caption.text)!r} has {length} tokens; the text encoder takes at most "
                f"{self.max_tokens}: shorten it, or name the target alone"
            )

    def encode_captions(self, captions: Sequence[Caption]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Tokens of B captions and, for each, which tokens belong to which phrase.

        Returns:
            input_ids, token_type_ids and attention_mask, (B, T) int64 each; and B tensors (P, T) bool.

        Raises:
            ValueError: a phrase of words that the tokenizer does not know.
        """
        encoding = self.processor.tokenizer(
            [caption.text for caption in captions],
            padding=True,
            return_offsets_mapping=True,
            return_token_type_ids=True,
            return_tensors="pt",
        )
        offsets = encoding.pop("offset_mapping")
        known = encoding["input_ids"] != self.processor.tokenizer.unk_token_id
        phrase_maps = []
        for row, caption in enumerate(captions):
            maps = torch.stack([tokens_in_spans(offsets[row], spans) & known[row] for spans in caption.spans])
            for phrase_map, spans in zip(maps, caption.spans, strict=True):
                if not bool(phrase_map.any()):
                    phrase = caption.text[slice(*spans[0])]
                    raise ValueError(
                        f"text {phrase!r} has no word that the tokenizer of {self.settings.text_encoder} knows; "
                        "expected words of its language"
                    )
            phrase_maps.append(maps)
        return dict(encoding), phrase_maps

    def detect(self, inputs: dict[str, Tensor], caption: Caption) -> tuple[Tensor, Tensor]:
        """Run the detector on one image and one caption.

        Returns:
            boxes (Q, 4), cx cy w h in [0, 1]; scores (P, Q) in [0, 1]: the best token of a phrase for each box, as
            Grounding DINO scores.
        """
        tokens, (phrase_maps,) = self.encode_captions([caption])
        output = self.model(**inputs, **{name: ids.to(self.model.device) for name, ids in tokens.items()})
        token_probs = output.logits[0].float().sigmoid().cpu()  # (Q, max_text_len), 0 behind the end of the text
        scores = [token_probs[:, : len(tokens_of)][:, tokens_of].amax(-1) for tokens_of in phrase_maps]
        return output.pred_boxes[0].float().cpu(), torch.stack(scores)


def name_of(source: str | Path) -> str:
    """What to call a checkpoint or data set: its id, or its folder without the path, which means nothing elsewhere."""
    return Path(source).resolve().name if Path(source).exists() else str(source)


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


def refuse_missing(name: str | Path, report: dict) -> None:
    """Raise ValueError where loading left parts of a model without values."""
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"{name} lacks {len(missing)} of the model's tensors ({missing[0]} ...); expected a complete checkpoint"
        )


def as_texts(text: str | Sequence[str]) -> list[str]:
    """One text or several as a list; TypeError for what is no text, ValueError for an empty list."""
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, (list, tuple)) or not all(isinstance(each, str) for each in texts):
        raise TypeError(f"text is {text!r}; expected a string, or a list of strings")
    if not texts:
        raise ValueError("text is an empty list; expected at least one target")
    return list(texts)


def as_one_image(image: Any) -> Image.Image | np.ndarray | Tensor:
    """The image; TypeError for what is no image, ValueError for several."""
    images = as_list(image)
    if len(images) > 1:
        raise ValueError(f"{len(images)} images were given; expected one: call the grounder for each")
    return images[0]


def check_choice(name: str, value: str, accepted: Sequence[str]) -> str:
    """The value, or ValueError where it is not among the accepted."""
    if value not in accepted:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(accepted)}")
    return value


def check_share(name: str, value: float | None, default: float) -> float:
    """The value, or the default for None; ValueError outside [0, 1]."""
    value = default if value is None else value
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value} lies outside [0, 1]")
    return value


def tokens_in_spans(offsets: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    """Which tokens, given by their characters (T, 2), lie in one of the spans; (T,) bool. Special tokens are empty."""
    start, end = offsets[:, 0], offsets[:, 1]
    inside = [(start >= first) & (end <= last) & (end > start) for first, last in spans]
    return torch.stack(inside).any(0)


def select_boxes(
    boxes: Tensor, scores: Tensor, box_threshold: float, nms_threshold: float, every_instance: bool
) -> dict[str, Any]:
    """The boxes of one text, best first: those from the threshold on, overlapping ones removed.

    Args:
        boxes: (Q, 4) xyxy.
        scores: (Q,).

    Returns:
        boxes (n, 4), scores (n,), best_box (4,) and best_score.
    """
    best = scores.argmax()
    kept = nms(boxes, scores, nms_threshold)  # sorted by score
    kept = kept[scores[kept] >= box_threshold]
    kept = kept if every_instance else kept[:1]
    return {
        "boxes": boxes[kept],
        "scores": scores[kept],
        "best_box": boxes[best],
        "best_score": float(scores[best]),
    }


def explain(
    found: dict[str, Any], text: str, box_threshold: float, fallback: str, image_size: tuple[int, int]
) -> dict[str, Any]:
    """The reason where nothing was found and, where the caller asked for one, the box in its place."""
    if len(found["boxes"]):
        return {"reason": None}
    reason = f"no box for {text!r} scored {box_threshold:.2f} or more; the best scored {found['best_score']:.2f}"
    if fallback == "best_box":
        scores = torch.tensor([found["best_score"]])
        return {"boxes": found["best_box"][None], "scores": scores, "reason": f"{reason}; this is the best box"}
    if fallback == "whole_image":
        height, width = image_size
        frame = torch.tensor([[0.0, 0.0, width, height]])
        return {"boxes": frame, "scores": torch.zeros(1), "reason": f"{reason}; this is the whole image"}
    return {"reason": reason}


def shorten(text: str, length: int = 60) -> str:
    """The beginning of a text, for a message."""
    return text if len(text) <= length else text[: length - 3] + "..."


__all__ = ["GrounderSettings", "GroundingResult", "TextGrounder"]
