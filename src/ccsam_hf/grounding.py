"""Text + image -> boxes: Grounding DINO that reads with its own BERT or with a medical one (TextGrounder).

Source: CC-SAM paper, Section 3.3; Liu et al., "Grounding DINO" (arXiv 2303.05499), in transformers' implementation.

Letters: B captions, Q queries, T tokens of a caption, P phrases of a caption, n boxes.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

from .descriptions import FORMS, nearest_targets, split_targets, to_phrase
from .geometry import boxes_from_unit
from .grounding_boxes import FALLBACKS, calibrate, detect, select_boxes, settle, share_image
from .grounding_loading import exchange_text_encoder, load_detector, name_of
from .grounding_texts import encode_captions, make_caption, phrase_delimiter_ids, separate_phrases
from .image_processing_ccsam import as_list, to_three_channels, to_unit_image

SETTINGS_KEY = "grounder"  # of the model's config.json


@dataclass
class GrounderSettings:
    """What a grounder's folder says about itself, kept in `config.json` under "grounder".

    Args:
        text_encoder: id of the text encoder's checkpoint, or the last part of its folder: the settings are published.
        tuned_on: what the weights were fine-tuned on; None for a detector as published ("zero-shot").
        form: default of `TextGrounder.__call__`, one of `descriptions.FORMS`.
        box_threshold: default of `TextGrounder.__call__`.
        nms_threshold: default of `TextGrounder.__call__`.
        known_targets: names of the targets that the weights learnt; any other text is answered with a reason that
            names them. None for a detector that takes any text.
        calibration: target -> (scale, shift) of its logits, which make its score the share of boxes that are right:
            see `evaluation.grounding.fit_calibration`. Other texts keep the detector's score.
    """

    text_encoder: str = "bert-base-uncased"
    tuned_on: str | None = None
    form: str = "phrase"
    box_threshold: float = 0.3
    nms_threshold: float = 0.7
    known_targets: list[str] | None = None
    calibration: dict[str, list[float]] = field(default_factory=dict)


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
        model, processor = load_detector(pretrained_model_name_or_path, **kwargs)
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
        together, so the result wants fine-tuning: `tuned_on`, `known_targets` and `calibration` are forgotten. The
        projection into the detector stays where the widths agree, and is newly drawn where they differ.

        Args:
            text_encoder: folder or id of a checkpoint with model type "bert", and its tokenizer.

        Raises:
            TypeError: the engine is the original code.
            ValueError: another architecture, incomplete weights, or a tokenizer that does not fit the encoder.
        """
        self._refuse_original("given another text encoder")
        self.processor = exchange_text_encoder(self.model, self.processor, text_encoder)
        self.settings.text_encoder, self.settings.tuned_on = name_of(text_encoder), None
        self.settings.known_targets, self.settings.calibration = None, {}

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

        The image is encoded once. Each text is then asked by itself, so that its boxes and scores are the same alone
        and among others.

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
            One [`GroundingResult`] a text, in their order. A text that names none of the grounder's known targets is
            not found, whatever it scores.

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
        captions = [make_caption(phrase, form, self.describer) for phrase in phrases]
        encoded = [encode_captions(self.processor.tokenizer, [caption], self.max_tokens) for caption in captions]
        unit_image = to_three_channels(to_unit_image(as_one_image(image)), do_convert_grayscale=True)
        image_size = tuple(unit_image.shape[-2:])
        inputs = self.prepare_image(unit_image)
        model = self.model
        if isinstance(model, GroundingDinoForObjectDetection):
            model = share_image(model, inputs)

        results = []
        for text, phrase, caption, (tokens, phrase_maps) in zip(texts, phrases, captions, encoded, strict=True):
            boxes_cxcywh_unit, scores = detect(model, inputs, tokens, phrase_maps[0])
            scores = calibrate(scores, self.settings.calibration.get(phrase))
            boxes = boxes_from_unit(boxes_cxcywh_unit, image_size)
            found = select_boxes(boxes, scores, box_threshold, nms_threshold, every_instance)
            reason = self.reason_against(text, phrase, found, box_threshold)
            results.append(
                GroundingResult(
                    text=text,
                    phrase=phrase,
                    description=caption.text if form == "description" else phrase,
                    text_encoder=self.settings.text_encoder,
                    tuned_on=self.settings.tuned_on,
                    **settle(found, reason, fallback, image_size),
                )
            )
        return results

    def reason_against(self, text: str, phrase: str, found: dict[str, Any], box_threshold: float) -> str | None:
        """Why a text counts as not found; None where it is found. `found` is that of `select_boxes`."""
        known = self.settings.known_targets
        if known is not None and phrase not in known:
            nearest = nearest_targets(text, known)
            hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
            return f"{text!r} is not a target that this grounder learnt{hint}; it knows {', '.join(known)}"
        if len(found["boxes"]):
            return None
        return f"no box for {text!r} scored {box_threshold:.2f} or more; the best scored {found['best_score']:.2f}"

    def prepare_image(self, unit_image: Tensor) -> dict[str, Tensor]:
        """`(3, H0, W0)` in [0, 1] as the detector's pixel_values (1, 3, H, W) and pixel_mask, on its device."""
        inputs = self.processor.image_processor(unit_image, do_rescale=False, return_tensors="pt")
        return {
            "pixel_values": inputs["pixel_values"].to(self.model.device, self.model.dtype),
            "pixel_mask": inputs["pixel_mask"].to(self.model.device),
        }


def as_texts(text: str | Sequence[str]) -> list[str]:
    """One text or several as a list; TypeError for what is no text, ValueError for an empty list."""
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, (list, tuple)) or not all(isinstance(each, str) for each in texts):
        raise TypeError(f"text is {text!r}; expected a string, or a list of strings")
    if not texts:
        raise ValueError("text is an empty list; expected at least one target")
    return split_targets(texts)


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


__all__ = ["GrounderSettings", "GroundingResult", "TextGrounder"]
