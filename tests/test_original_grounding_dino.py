"""groundingdino-py runs as it is behind transformers' interface, downloads nothing and leaves nothing changed."""

import argparse
import subprocess
import sys
import warnings

import pytest
import torch
from transformers import BertModel, GroundingDinoImageProcessor, GroundingDinoProcessor
from transformers.models.grounding_dino import modeling_grounding_dino

from ccsam_hf.conversion.original_grounding_dino import (
    SWIN_T_SETTINGS,
    OriginalGroundingDino,
    PhraseBert,
    upstream_warnings_ignored,
)
from ccsam_hf.grounding import phrase_delimiter_ids
from small_grounding_dino import SMALL, WORDS, detector_inputs, make_tokenizer, small_original, small_swin

pytest.importorskip("groundingdino")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def detector(tokenizer) -> OriginalGroundingDino:
    torch.manual_seed(0)
    return small_original(tokenizer)


def test_settings_are_those_of_the_package():
    from groundingdino.config import GroundingDINO_SwinT_OGC as published

    theirs = {name: value for name, value in vars(published).items() if not name.startswith("__")}
    changed = {"text_encoder_type", "use_checkpoint", "use_transformer_ckpt"}
    assert SWIN_T_SETTINGS.keys() <= theirs.keys()
    assert {name for name, value in SWIN_T_SETTINGS.items() if theirs[name] != value} == changed


# Called like transformers' model


@torch.no_grad()
def test_output_is_that_of_transformers_and_silent_beyond_the_text(detector, tokenizer):
    inputs = detector_inputs(tokenizer, ["thyroid nodule. breast cyst.", "cysts."])
    output = detector(**inputs)
    assert output.logits.shape == (2, 30, 256) and output.pred_boxes.shape == (2, 30, 4)
    assert output.pred_boxes.min() >= 0 and output.pred_boxes.max() <= 1
    is_token = torch.zeros(2, 256, dtype=torch.bool)
    is_token[:, : inputs["input_ids"].shape[1]] = inputs["attention_mask"].bool()
    assert torch.equal(output.logits.isfinite(), is_token[:, None].expand(-1, 30, -1))
    assert (output.logits[~output.logits.isfinite()] == -torch.inf).all()

    processor = GroundingDinoProcessor(GroundingDinoImageProcessor(), tokenizer)
    found = processor.post_process_grounded_object_detection(output, threshold=0.0, target_sizes=[(64, 96)] * 2)
    assert [tuple(each["boxes"].shape) for each in found] == [(30, 4), (30, 4)]


@torch.no_grad()
def test_what_is_left_out_means_no_padding(detector, tokenizer):
    inputs = detector_inputs(tokenizer, ["thyroid nodule."])
    short = {name: inputs[name] for name in ("pixel_values", "input_ids")}
    assert torch.equal(detector(**short).logits, detector(**inputs).logits)


@torch.no_grad()
def test_images_of_a_batch_with_other_texts_do_not_change_a_result(detector, tokenizer):
    inputs = detector_inputs(tokenizer, ["thyroid nodule. breast cyst.", "cysts. ventricle?", "the left ventricle."])
    together = detector(**inputs)
    for row in range(3):
        alone = detector(**{name: tensor[row : row + 1] for name, tensor in inputs.items()})
        assert torch.allclose(together.pred_boxes[row], alone.pred_boxes[0], rtol=0, atol=1e-5)
        assert torch.allclose(together.logits[row], alone.logits[0], rtol=0, atol=1e-3)


@torch.no_grad()
def test_phrases_between_the_tokenizers_own_delimiters_do_not_see_each_other(detector, tokenizer):
    assert detector.delimiter_ids == detector.detector.specical_tokens == [2, 3, 6, 5]
    read = []
    handle = detector.detector.bert.register_forward_hook(lambda _, inputs, output: read.append(output[0][0, 1:3]))
    for text in ("thyroid nodule{} breast cyst.", "thyroid nodule{} left ventricle."):
        for delimiter in (".", "?", " of"):
            detector(**detector_inputs(tokenizer, [text.format(delimiter)]))
    handle.remove()
    same = [torch.allclose(read[i], read[i + 3], rtol=0, atol=1e-5) for i in range(3)]
    assert same == [True, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_mask": torch.ones(1, 64, 64)}, r"pixel_mask has shape \(1, 64, 64\); expected \(1, 64, 96\)"),
        ({"attention_mask": torch.ones(1, 3)}, r"have shapes .*; expected one shape \(1, num_tokens\)"),
        ({"input_ids": torch.tensor([[2, 7, 8, 9, 3]])}, 'a text has no end of a phrase; expected "." behind each'),
    ],
    ids=["mask of another image", "mask of another text", "no full stop"],
)
def test_inputs_that_do_not_belong_together_are_refused(detector, tokenizer, change, message):
    inputs = detector_inputs(tokenizer, ["thyroid nodule."])
    with pytest.raises(ValueError, match=message):
        detector(**{**inputs, **change})


# Built without a download, from a checkpoint


@torch.no_grad()
def test_a_published_checkpoint_gives_the_same_model(detector, tokenizer, tmp_path):
    weights = {f"module.{name}": tensor for name, tensor in detector.detector.state_dict().items()}
    weights["module.label_enc.weight"] = torch.zeros(2001, 256)
    weights["module.bert.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save({"model": weights}, tmp_path / "published.pth")
    with small_swin():
        loaded = OriginalGroundingDino.from_checkpoint(tmp_path / "published.pth", tokenizer, SMALL)
    assert not loaded.training and (loaded.device, loaded.dtype) == (torch.device("cpu"), torch.float32)
    inputs = detector_inputs(tokenizer, ["thyroid nodule. cyst."])
    assert torch.equal(loaded(**inputs).logits, detector(**inputs).logits)

    with small_swin(), pytest.raises(ValueError, match=r"(?s)does not fit .*swin_T.*tgt_embed.*For Swin-B"):
        OriginalGroundingDino.from_checkpoint(tmp_path / "published.pth", tokenizer, {**SMALL, "num_queries": 31})


def test_files_that_are_no_checkpoint_are_refused(tokenizer, tmp_path):
    torch.save({"model": {"a": torch.ones(1)}, "args": argparse.Namespace(lr=0.1)}, tmp_path / "pickle.pth")
    torch.save({"model": {"a": 1}}, tmp_path / "numbers.pth")
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("hello world")
    messages = {
        "pickle.pth": "holds more than tensors.*save its state dict alone",
        "numbers.pth": "holds no plain tensors by name",
        "other.pth": "has no bert.embeddings.word_embeddings.weight; expected a checkpoint of Grounding DINO",
        "text.pth": "damaged or no checkpoint",
        "none.pth": "does not exist",
    }
    for name, message in messages.items():
        with pytest.raises(ValueError, match=message):
            OriginalGroundingDino.from_checkpoint(tmp_path / name, tokenizer)


def test_settings_that_the_package_does_not_have_are_named(tokenizer):
    with pytest.raises(ValueError, match="config has num_layers; expected text_config or settings of groundingdino"):
        OriginalGroundingDino.from_config(tokenizer, {"num_layers": 2})


@pytest.mark.parametrize("num_embeddings", [len(WORDS) + 6, len(WORDS) + 7 + 128])
def test_a_tokenizer_of_another_vocabulary_is_refused(tokenizer, num_embeddings):
    with pytest.raises(ValueError, match=f"has 16 tokens and the text encoder {num_embeddings} word embeddings"):
        phrase_delimiter_ids(tokenizer, num_embeddings)
    assert phrase_delimiter_ids(tokenizer, len(WORDS) + 7 + 127) == [2, 3, 6, 5]  # padded to a round number


def test_a_tokenizer_without_a_delimiter_is_refused(tmp_path):
    tokenizer = make_tokenizer(tmp_path)
    without = (tmp_path / "vocab.txt").read_text(encoding="utf-8").replace("\n?\n", "\nwhat\n")
    (tmp_path / "vocab.txt").write_text(without, encoding="utf-8")
    tokenizer = type(tokenizer)(str(tmp_path / "vocab.txt"))
    with pytest.raises(ValueError, match=r"the tokenizer has no \?; expected all of"):
        phrase_delimiter_ids(tokenizer, len(tokenizer))


# Nothing is left behind


def global_state() -> dict:
    """What an adapter that patches more than it has to would change."""
    from groundingdino.models.GroundingDINO import groundingdino as upstream

    return {
        "groundingdino": dict(vars(upstream)),
        "BertModel": dict(vars(BertModel)),
        "delimiters": list(modeling_grounding_dino.SPECIAL_TOKENS),
        "warning filters": list(warnings.filters),
    }


@torch.no_grad()
def test_building_and_running_leave_package_and_transformers_as_they_were(tokenizer, monkeypatch):
    before = global_state()
    detector = small_original(tokenizer)
    detector(**detector_inputs(tokenizer, ["thyroid nodule."]))
    assert global_state() == before

    with pytest.raises(AssertionError):  # upstream's own check fails while our objects stand in its module
        OriginalGroundingDino.from_config(tokenizer, {**SMALL, "return_interm_indices": [2]})
    assert global_state() == before


@torch.no_grad()
def test_known_warnings_are_kept_away_and_others_pass(detector, tokenizer):
    inputs = detector_inputs(tokenizer, ["thyroid nodule."])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        detector(**inputs)
        assert not seen
        with upstream_warnings_ignored():
            warnings.warn("Failed to load custom C++ ops. Running on CPU mode Only!", stacklevel=1)
            warnings.warn("torch.meshgrid is fine", stacklevel=1)
    assert [str(each.message) for each in seen] == ["torch.meshgrid is fine"]


@pytest.mark.slow
def test_a_fresh_process_prints_nothing(tmp_path):
    make_tokenizer(tmp_path)
    code = (
        "import torch; from transformers import BertTokenizer\n"
        "from ccsam_hf.conversion.original_grounding_dino import OriginalGroundingDino\n"
        f"tokenizer = BertTokenizer({str(tmp_path / 'vocab.txt')!r})\n"
        f"detector = OriginalGroundingDino.from_config(tokenizer, {SMALL!r}).eval()\n"
        "detector(pixel_values=torch.zeros(1, 3, 64, 96), input_ids=torch.tensor([[2, 7, 6, 3]]))\n"
    )
    ended = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_without_the_package_the_error_says_what_to_install(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "groundingdino.models.GroundingDINO.groundingdino", None)
    with pytest.raises(ImportError, match=r'pip install "ccsam-hf\[originals\]"'):
        OriginalGroundingDino.from_config(tokenizer, SMALL)


def test_the_mask_between_phrases_reaches_bert_in_every_implementation_of_attention(tokenizer):
    config = small_original(tokenizer).config.text_config
    mask = torch.eye(4, dtype=torch.bool)[None]
    mask[0, 1:3, 1:3] = True
    outputs = []
    for implementation in ("sdpa", "eager"):
        torch.manual_seed(0)
        bert = PhraseBert._from_config(config, attn_implementation=implementation).eval()
        ids = torch.tensor([[2, 7, 8, 3]])
        outputs.append(bert(input_ids=ids, attention_mask=mask)[0])
        changed = bert(input_ids=torch.tensor([[2, 7, 8, 9]]), attention_mask=mask)[0]
        assert torch.allclose(outputs[-1][0, :3], changed[0, :3], rtol=0, atol=1e-5)
        assert not torch.allclose(outputs[-1][0, 3], changed[0, 3], rtol=0, atol=1e-2)
    assert torch.allclose(*outputs, rtol=0, atol=1e-5)
