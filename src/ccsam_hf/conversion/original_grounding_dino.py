"""Text + image -> boxes by groundingdino-py itself, behind the interface of transformers' Grounding DINO.

Source: IDEA-Research/GroundingDINO as packaged in groundingdino-py 0.4.0 (groundingdino/models/GroundingDINO/), which
is installed by the extra `originals` and run as it is. Three objects are handed to its constructor, whose own versions
reach for the Hub or call what transformers 5 no longer has: the text encoder, a tokenizer and their loader.

Letters: B images, L tokens of a text, Q queries, H W model input.
"""

import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchEncoding, BertConfig, BertModel
from transformers.models.grounding_dino.modeling_grounding_dino import GroundingDinoObjectDetectionOutput

from ..checks import import_extra
from ..grounding_texts import phrase_delimiter_ids
from .weights import load_checkpoint_file, unwrap

# groundingdino/config/GroundingDINO_SwinT_OGC.py, without what is read in training only. Its two `use_*_checkpoint`
# are off: they save memory in training, give the same numbers and warn at every call.
SWIN_T_SETTINGS = {
    "backbone": "swin_T_224_1k",
    "position_embedding": "sine",
    "pe_temperatureH": 20,
    "pe_temperatureW": 20,
    "return_interm_indices": [1, 2, 3],
    "backbone_freeze_keywords": None,
    "enc_layers": 6,
    "dec_layers": 6,
    "pre_norm": False,
    "dim_feedforward": 2048,
    "hidden_dim": 256,
    "dropout": 0.0,
    "nheads": 8,
    "num_queries": 900,
    "query_dim": 4,
    "num_patterns": 0,
    "num_feature_levels": 4,
    "enc_n_points": 4,
    "dec_n_points": 4,
    "two_stage_type": "standard",
    "two_stage_bbox_embed_share": False,
    "two_stage_class_embed_share": False,
    "transformer_activation": "relu",
    "dec_pred_bbox_embed_share": True,
    "dn_box_noise_scale": 1.0,
    "dn_label_noise_ratio": 0.5,
    "embed_init_tgt": True,
    "dn_labelbook_size": 2000,
    "max_text_len": 256,
    "text_encoder_type": "handed in",
    "use_text_enhancer": True,
    "use_fusion_layer": True,
    "use_checkpoint": False,
    "use_transformer_ckpt": False,
    "use_text_cross_attention": True,
    "text_dropout": 0.0,
    "fusion_dropout": 0.0,
    "fusion_droppath": 0.1,
    "sub_sentence_present": True,
}
# In the published checkpoints, and in no model that is built from them: (pattern, reason).
UNUSED_IN_CHECKPOINTS = (
    (r"^label_enc\.", "labels of denoising queries: training only"),
    (r"^bert\.embeddings\.position_ids$", "0, 1, 2, ...: made by the model itself"),
)
WORD_EMBEDDINGS = "bert.embeddings.word_embeddings.weight"

# What importing and running the package warns of; nothing of it concerns who calls it.
UPSTREAM_WARNINGS = (
    (r"Importing from timm\.models\.layers is deprecated", FutureWarning),
    (r"Failed to load custom C\+\+ ops", UserWarning),
    (r"torch\.meshgrid: in an upcoming release", UserWarning),
    (r"`?torch\.cuda\.amp\.autocast\(args\.\.\.\)`? is deprecated", FutureWarning),
)
BUILDING = threading.RLock()  # the constructor reads module attributes: one model is built at a time


class OriginalGroundingDino(nn.Module):
    """Grounding DINO as its authors wrote it, called like transformers' `GroundingDinoForObjectDetection`.

    ```python
    detector = OriginalGroundingDino.from_checkpoint("groundingdino_swint_ogc.pth", tokenizer)
    output = detector(**processor(images=image, text="thyroid nodule.", return_tensors="pt"))
    processor.post_process_grounded_object_detection(output)
    ```

    Names of parameters are those of the package behind `detector.`. The arithmetic is the package's, with one
    exception: images with different texts run one after the other, because groundingdino-py repeats the mask between
    phrases over the heads in an order that mixes the texts of a batch (transformer_vanilla.py).

    Args:
        settings: overrides of `SWIN_T_SETTINGS`, in the package's words.
        text_config: sizes of the text encoder.
        delimiter_ids: token ids of [CLS], [SEP], "." and "?": phrases between them do not see each other.

    Raises:
        ImportError: groundingdino-py is not installed.
        ValueError: a setting that the package does not have.
    """

    def __init__(self, settings: Mapping[str, Any], text_config: BertConfig, delimiter_ids: Sequence[int]):
        super().__init__()
        unknown = sorted(set(settings) - set(SWIN_T_SETTINGS))
        if unknown:
            raise ValueError(
                f"config has {', '.join(unknown)}; expected text_config or settings of groundingdino-py: "
                + ", ".join(SWIN_T_SETTINGS)
            )
        self.config = SimpleNamespace(**{**SWIN_T_SETTINGS, **settings}, text_config=text_config)
        self.delimiter_ids = list(delimiter_ids)
        with upstream_warnings_ignored():
            upstream = import_upstream()
            with handed_to(upstream, PhraseBert(text_config), HandedTokens(self.delimiter_ids)):
                self.detector = upstream.build_groundingdino(self.config)

    @classmethod
    def from_config(cls, tokenizer: Any, config: Mapping[str, Any] | None = None) -> "OriginalGroundingDino":
        """A model with random weights.

        Args:
            tokenizer: of the text encoder; its ids of the phrase delimiters are used, nothing else.
            config: overrides of the Swin-T configuration in the words of groundingdino-py, such as `enc_layers`; under
                "text_config" those of a `BertConfig`, whose vocabulary is by default the tokenizer's.

        Raises:
            ImportError: groundingdino-py is not installed.
            ValueError: unknown settings, or a tokenizer that does not fit.
        """
        settings = dict(config or {})
        text_config = BertConfig(**{"vocab_size": len(tokenizer), **settings.pop("text_config", {})})
        return cls(settings, text_config, phrase_delimiter_ids(tokenizer, text_config.vocab_size))

    @classmethod
    def from_checkpoint(
        cls, checkpoint: str | Path, tokenizer: Any, config: Mapping[str, Any] | None = None
    ) -> "OriginalGroundingDino":
        """The model of a checkpoint as IDEA-Research publishes it, in evaluation mode; nothing is downloaded.

        Args:
            checkpoint: `.pth` with the weights under "model", read without running code that it may carry.
            tokenizer: of the checkpoint's text encoder, bert-base-uncased for the published ones.
            config: as in `from_config`; Swin-B is `{"backbone": "swin_B_384_22k"}`. The size of the vocabulary is
                read off from the checkpoint.

        Raises:
            ImportError: groundingdino-py is not installed.
            ValueError: no such file, no plain tensors, tensors that do not fit, or a tokenizer that does not.
        """
        weights = read_checkpoint(checkpoint)
        if WORD_EMBEDDINGS not in weights:
            raise ValueError(f"{checkpoint} has no {WORD_EMBEDDINGS}; expected a checkpoint of Grounding DINO")
        settings = dict(config or {})
        settings["text_config"] = {"vocab_size": len(weights[WORD_EMBEDDINGS]), **settings.get("text_config", {})}
        model = cls.from_config(tokenizer, settings)
        try:
            model.detector.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"{checkpoint} does not fit the configuration with backbone {model.config.backbone}: {error}\n"
                'For Swin-B pass config={"backbone": "swin_B_384_22k"}'
            ) from error
        return model.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.detector.feat_map.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are."""
        return self.detector.feat_map.weight.dtype

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_mask: Tensor | None = None,
    ) -> GroundingDinoObjectDetectionOutput:
        """Score every query against every token of the text.

        Args:
            pixel_values: (batch_size, 3, height, width), normalized as `GroundingDinoImageProcessor` does.
            input_ids: (batch_size, num_tokens); beyond 256 tokens the text is cut off.
            token_type_ids: (batch_size, num_tokens); default: all 0.
            attention_mask: (batch_size, num_tokens), 0 at padding; default: all 1.
            pixel_mask: (batch_size, height, width), 0 at padding; default: all 1.

        Returns:
            `logits` (batch_size, num_queries, 256), -inf where there is no token, and `pred_boxes` (batch_size,
            num_queries, 4), cx cy w h in [0, 1] of the image without its padding. Further fields are None.

        Raises:
            ValueError: shapes that do not belong together, or a text without a "." or "?" behind its phrases.
        """
        batch_size, _, height, width = pixel_values.shape
        token_type_ids = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        pixel_mask = pixel_values.new_ones(batch_size, height, width) if pixel_mask is None else pixel_mask
        self.check_inputs(input_ids, token_type_ids, attention_mask, pixel_mask, (batch_size, height, width))

        inputs = (pixel_values, pixel_mask.bool(), input_ids, token_type_ids, attention_mask)
        one_text = bool((input_ids == input_ids[:1]).all())
        parts = [inputs] if one_text else list(zip(*(each.split(1) for each in inputs), strict=True))
        with upstream_warnings_ignored():
            outputs = [self.detect(*part) for part in parts]
        return GroundingDinoObjectDetectionOutput(
            logits=torch.cat([output["pred_logits"] for output in outputs]),  # (B, Q, 256)
            pred_boxes=torch.cat([output["pred_boxes"] for output in outputs]),  # (B, Q, 4)
            input_ids=input_ids,
        )

    def detect(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor,
    ) -> dict[str, Tensor]:
        """One call of the package's forward: "pred_logits" and "pred_boxes"."""
        from groundingdino.util.misc import NestedTensor

        tokens = {"input_ids": input_ids, "token_type_ids": token_type_ids, "attention_mask": attention_mask}
        images = NestedTensor(pixel_values, ~pixel_mask)  # its mask is True at padding
        return self.detector(images, captions=BatchEncoding(tokens))

    def check_inputs(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor,
        pixel_mask: Tensor,
        expected: tuple[int, int, int],
    ) -> None:
        """Raise ValueError for what the package answers with an error about something else."""
        if tuple(pixel_mask.shape) != expected:
            raise ValueError(f"pixel_mask has shape {tuple(pixel_mask.shape)}; expected {expected} as pixel_values")
        shapes = [tuple(each.shape) for each in (input_ids, token_type_ids, attention_mask)]
        if len(set(shapes)) > 1 or len(shapes[0]) != 2 or shapes[0][0] != expected[0]:
            raise ValueError(
                f"input_ids, token_type_ids and attention_mask have shapes {shapes}; expected one shape "
                f"({expected[0]}, num_tokens): a text for every image"
            )
        delimiters = torch.tensor(self.delimiter_ids, device=input_ids.device)
        if not torch.isin(input_ids[:, 1:-1], delimiters).any(dim=1).all():
            raise ValueError('a text has no end of a phrase; expected "." behind each: "thyroid nodule. cyst."')


class PhraseBert(BertModel):
    """BERT that takes groundingdino's mask between phrases: (B, L, L), True where a token sees another."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any) -> Any:
        """As `BertModel`, with a mask that every implementation of attention adds to its scores."""
        hidden = torch.zeros(attention_mask.shape, dtype=self.dtype, device=attention_mask.device)
        hidden.masked_fill_(~attention_mask.bool(), torch.finfo(self.dtype).min)
        return super().forward(input_ids=input_ids, attention_mask=hidden[:, None], **kwargs)  # (B, 1, L, L)


class HandedTokens:
    """Stands where groundingdino has its tokenizer, and returns the tokens that come in place of captions."""

    def __init__(self, delimiter_ids: Sequence[int]):
        self.delimiter_ids = list(delimiter_ids)

    def __call__(self, captions: BatchEncoding, **kwargs: Any) -> BatchEncoding:
        """The tokens as they came."""
        return captions

    def convert_tokens_to_ids(self, tokens: Sequence[str]) -> list[int]:
        """Ids of the phrase delimiters, the only tokens that groundingdino asks for."""
        return self.delimiter_ids


@contextmanager
def handed_to(upstream: ModuleType, text_encoder: PhraseBert, tokenizer: HandedTokens) -> Iterator[None]:
    """Let models that are built inside take these two; afterwards the module is as it was."""
    replacements = {
        "get_tokenlizer": SimpleNamespace(
            get_tokenlizer=lambda name: tokenizer, get_pretrained_language_model=lambda name: text_encoder
        ),
        "BertModelWarper": lambda bert_model: bert_model,
    }
    with BUILDING:
        before = {name: getattr(upstream, name) for name in replacements}
        try:
            for name, value in replacements.items():
                setattr(upstream, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(upstream, name, value)


@contextmanager
def upstream_warnings_ignored() -> Iterator[None]:
    """Keep the package's known warnings from the user; all others pass."""
    with warnings.catch_warnings():
        for message, category in UPSTREAM_WARNINGS:
            warnings.filterwarnings("ignore", message=message, category=category)
        yield


def import_upstream() -> ModuleType:
    """The package's module with the detector; ImportError that says what to install."""
    return import_extra(
        "groundingdino.models.GroundingDINO.groundingdino", "originals", "running the original Grounding DINO"
    )


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Names of the package to tensors, without what no model takes; errors as in `load_checkpoint_file`."""
    weights, _ = unwrap(load_checkpoint_file(path))
    return {
        name: tensor
        for name, tensor in weights.items()
        if not any(re.search(pattern, name) for pattern, _ in UNUSED_IN_CHECKPOINTS)
    }


__all__ = ["OriginalGroundingDino"]
