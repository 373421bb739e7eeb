"""Texts become the boxes that the detector's raw output holds for them; other texts and other BERTs change nothing."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM, BertModel, RobertaConfig
from transformers.models.grounding_dino.modeling_grounding_dino import SPECIAL_TOKENS

from ccsam_hf.descriptions import PAPER_TEMPLATE
from ccsam_hf.grounding import GrounderSettings, TextGrounder
from ccsam_hf.grounding_texts import encode_captions, make_caption, phrase_delimiter_ids
from ccsam_hf.training.grounding_loss import grounding_loss
from small_grounder import WORDS, save_bert, small_grounder, small_tokenizer

PHRASES = ["thyroid nodule", "left ventricle"]
FIVE = [*PHRASES, "breast lesion", "left atrium", "thyroid gland"]
EVERY_BOX = {"every_instance": True, "box_threshold": 0.0, "nms_threshold": 1.0}
MEDICAL_WORDS = ("nodule", "ventricle", "left", "thyroid", "parenchyma", "breast")


@pytest.fixture
def grounder() -> TextGrounder:
    return small_grounder()


@pytest.fixture
def image(rng) -> np.ndarray:
    return rng.integers(0, 256, (48, 80), dtype=np.uint8)


def count_forwards(grounder: TextGrounder) -> list[str]:
    """A list that grows by the text of each forward."""
    texts = []

    def note(module, inputs, keywords):
        texts.append(grounder.processor.tokenizer.decode(keywords["input_ids"][0], skip_special_tokens=True))

    grounder.model.register_forward_pre_hook(note, with_kwargs=True)
    return texts


@torch.no_grad()
def raw_output(grounder: TextGrounder, image: np.ndarray, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits (Q, max_text_len) and boxes (Q, 4) of transformers' model for a grey image and a text."""
    colour = torch.from_numpy(np.stack([image] * 3)).float() / 255
    pixels = grounder.processor.image_processor(colour, do_rescale=False, return_tensors="pt")
    output = grounder.model(**pixels, **grounder.processor.tokenizer(text, return_tensors="pt"))
    return output.logits[0].double().numpy(), output.pred_boxes[0].double().numpy()


def by_hand(grounder: TextGrounder, image: np.ndarray, text: str, tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in pixels and scores, best first, of the tokens at these places."""
    logits, unit = raw_output(grounder, image, text)
    scores = (1 / (1 + np.exp(-logits[:, tokens]))).max(-1)
    x, y, width, height = unit.T
    corners = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], -1)
    boxes = corners.clip(0, 1) * [image.shape[1], image.shape[0], image.shape[1], image.shape[0]]
    order = (-scores).argsort()
    return boxes[order], scores[order]


def assert_same_finds(first: list, second: list) -> None:
    """Boxes and scores agree bit for bit."""
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.boxes, other.boxes) and torch.equal(one.scores, other.scores)


# Boxes and scores


@pytest.mark.parametrize("flipped", [False, True])
def test_boxes_and_scores_are_those_of_the_raw_output(grounder, image, flipped):
    image = image[:, ::-1].copy() if flipped else image
    reaches_beyond = False
    for every, best, phrase in zip(
        grounder(image, PHRASES, **EVERY_BOX),
        grounder(image, PHRASES, box_threshold=0.0),
        PHRASES,
        strict=True,
    ):
        boxes, scores = by_hand(grounder, image, f"{phrase}.", [1, 2])  # [CLS] thyroid nodule . [SEP]
        np.testing.assert_allclose(every.boxes, boxes, rtol=0, atol=1e-3)
        np.testing.assert_allclose(every.scores, scores, rtol=1e-4)
        reaches_beyond |= (boxes == 0).any() or (boxes[:, 2] == 80).any()

        assert best.boxes.shape == (1, 4) and best.scores.shape == (1,)
        assert best.boxes.dtype == best.scores.dtype == torch.float32
        assert torch.equal(best.boxes[0], every.boxes[0]) and torch.equal(best.best_box, every.boxes[0])
        assert best.best_score == best.scores[0] == every.scores[0] and best.reason is None
    assert reaches_beyond


def test_all_mentions_in_a_description_count(grounder, image):
    (result,) = grounder(image, "thyroid nodule", form="description", **EVERY_BOX)
    text = PAPER_TEMPLATE.replace("[target]", "thyroid nodule")
    tokens = grounder.processor.tokenizer(text).tokens()
    mentioned = [place for place, token in enumerate(tokens) if token in ("thyroid", "nodule")]
    assert result.description == text and len(mentioned) == 6
    boxes, scores = by_hand(grounder, image, text, mentioned)
    np.testing.assert_allclose(result.boxes, boxes, rtol=0, atol=1e-3)
    np.testing.assert_allclose(result.scores, scores, rtol=1e-4)
    assert not np.allclose(scores, by_hand(grounder, image, text, mentioned[:2])[1], rtol=1e-2)


def test_words_that_the_tokenizer_does_not_know_give_no_score(grounder, image):
    (result,) = grounder(image, "cystic nodule", **EVERY_BOX)  # [CLS] [UNK] nodule . [SEP]
    scores = by_hand(grounder, image, "cystic nodule.", [2])[1]
    np.testing.assert_allclose(result.scores, scores, rtol=1e-4)
    assert not np.allclose(scores, by_hand(grounder, image, "cystic nodule.", [1, 2])[1], rtol=1e-2)


def test_a_threshold_is_reached_by_its_own_value(grounder, image):
    (best,) = grounder(image, "thyroid nodule", box_threshold=0.0)
    assert len(grounder(image, "thyroid nodule", box_threshold=best.best_score)[0].boxes) == 1
    assert len(grounder(image, "thyroid nodule", box_threshold=best.best_score + 1e-6)[0].boxes) == 0


@pytest.mark.parametrize("every_instance", [False, True])
def test_nothing_found_is_an_empty_result_that_keeps_the_best(grounder, image, every_instance):
    (best,) = grounder(image, "thyroid nodule", box_threshold=0.0)
    (result,) = grounder(image, "Thyroid nodules", box_threshold=1.0, every_instance=every_instance)
    assert result.boxes.shape == (0, 4) and result.scores.shape == (0,)
    assert torch.equal(result.best_box, best.boxes[0]) and 0 < result.best_score == best.best_score < 1
    assert result.reason == f"no box for 'Thyroid nodules' scored 1.00 or more; the best scored {best.best_score:.2f}"


def test_a_fallback_is_a_box_whose_reason_says_so(grounder, image):
    (nothing,) = grounder(image, "thyroid nodule", box_threshold=1.0)
    (best,) = grounder(image, "thyroid nodule", box_threshold=1.0, fallback="best_box")
    assert torch.equal(best.boxes, nothing.best_box[None]) and best.scores.tolist() == [nothing.best_score]
    assert best.reason == f"{nothing.reason}; this is the best box"
    (whole,) = grounder(image, "thyroid nodule", box_threshold=1.0, fallback="whole_image")
    assert whole.boxes.tolist() == [[0, 0, 80, 48]] and whole.scores.tolist() == [0]
    assert whole.boxes.dtype == whole.scores.dtype == torch.float32
    assert whole.reason == f"{nothing.reason}; this is the whole image"
    assert torch.equal(whole.best_box, nothing.best_box) and whole.best_score == nothing.best_score

    for fallback in ("best_box", "whole_image"):  # what is found stays
        (found,) = grounder(image, "thyroid nodule", box_threshold=0.0, fallback=fallback)
        assert found.reason is None and torch.equal(found.boxes, nothing.best_box[None])


def test_overlapping_boxes_of_a_text_are_removed_and_the_better_one_stays(grounder, image, monkeypatch):
    boxes = torch.tensor(
        [
            [0.25, 0.5, 0.50, 0.50],
            [0.25, 0.5, 0.45, 0.50],  # IoU with the first 0.9
            [0.25, 0.5, 0.25, 0.50],  # IoU with the first 0.5, with the second 0.56
            [0.80, 0.5, 0.20, 0.50],  # apart
        ]
    )
    scores = torch.tensor([[0.6, 0.9, 0.5, 0.4], [0.7, 0.1, 0.2, 0.9]])
    answers = itertools.cycle([(boxes, scores[0]), (boxes, scores[1])])
    monkeypatch.setattr("ccsam_hf.grounding.detect", lambda *_: next(answers))
    corners = [[0, 12, 40, 36], [2, 12, 38, 36], [10, 12, 30, 36], [56, 12, 72, 36]]

    def kept(**settings) -> list[list[int]]:
        results = grounder(image, PHRASES, every_instance=True, **settings)
        found = [[(each.boxes - torch.tensor(corner)).abs().amax(-1) < 1e-4 for corner in corners] for each in results]
        return [torch.stack(each).long().argmax(0).tolist() for each in found]

    assert kept() == [[1, 2, 3], [3, 0]]  # 0.3 and 0.7 by default
    assert kept(box_threshold=0.45) == [[1, 2], [3, 0]]
    assert kept(nms_threshold=0.95) == [[1, 0, 2, 3], [3, 0]]
    assert kept(nms_threshold=0.52) == [[1, 3], [3, 0]]
    assert kept(nms_threshold=0.52, box_threshold=0.2) == [[1, 3], [3, 0, 2]]
    (one, other) = grounder(image, PHRASES)
    assert one.scores.tolist() == pytest.approx([0.9]) and other.scores.tolist() == pytest.approx([0.9])
    assert one.boxes[0].tolist() == pytest.approx(corners[1]) and other.boxes[0].tolist() == pytest.approx(corners[3])


# Texts and forwards


def test_each_phrase_has_a_forward_of_its_own_and_results_keep_their_order(grounder, image):
    forwards = count_forwards(grounder)
    asked = ["Left ventricle", "the thyroid nodule", "breast lesion."]
    results = grounder(image, asked)
    assert forwards == ["left ventricle.", "thyroid nodule.", "breast lesion."]
    assert [each.text for each in results] == asked
    assert [each.phrase for each in results] == ["left ventricle", "thyroid nodule", "breast lesion"]
    assert [each.description for each in results] == [each.phrase for each in results]
    assert len({each.best_score for each in results}) == 3


@pytest.mark.parametrize("form", ["phrase", "description"])
def test_a_text_has_the_same_boxes_and_scores_alone_and_among_others(grounder, image, form):
    alone = [grounder(image, text, form, **EVERY_BOX)[0] for text in FIVE]
    assert_same_finds(grounder(image, FIVE, form, **EVERY_BOX), alone)
    assert_same_finds(grounder(image, FIVE[::-1], form, **EVERY_BOX), alone[::-1])


def test_the_image_is_encoded_once_for_all_texts_and_the_detector_stays_as_it_was(grounder, image):
    calls = []
    grounder.model.model.backbone.register_forward_hook(lambda module, *_: calls.append(module))
    before = dict(grounder.model.named_modules())
    grounder(image, FIVE)
    assert len(calls) == 1
    after = dict(grounder.model.named_modules())
    assert before.keys() == after.keys() and all(after[name] is module for name, module in before.items())


def test_each_description_has_a_forward_of_its_own(grounder, image):
    forwards = count_forwards(grounder)
    results = grounder(image, PHRASES, form="description", **EVERY_BOX)
    assert len(forwards) == 2
    assert [each.phrase for each in results] == PHRASES
    assert [each.description for each in results] == [PAPER_TEMPLATE.replace("[target]", each) for each in PHRASES]
    assert_same_finds(results, [grounder(image, each, form="description", **EVERY_BOX)[0] for each in PHRASES])


def test_a_text_asked_twice_has_two_results(grounder, image):
    first, second = grounder(image, ["thyroid nodule", "thyroid nodules"], **EVERY_BOX)
    assert first.phrase == second.phrase and len(first.boxes) == len(second.boxes) == 8


def test_synonyms_are_read_as_the_name_of_the_target(grounder, image):
    (short,), (long,) = grounder(image, "LV", **EVERY_BOX), grounder(image, "left ventricle", **EVERY_BOX)
    assert (short.text, short.phrase, short.description) == ("LV", "left ventricle", "left ventricle")
    assert_same_finds([short], [long])


# Known targets


@pytest.fixture
def knowing(grounder) -> TextGrounder:
    """A grounder that finds everything it is asked for, and learnt two targets."""
    grounder.settings = GrounderSettings(box_threshold=0.0, known_targets=["left ventricle", "thyroid nodule"])
    return grounder


def test_a_text_that_the_grounder_never_learnt_is_not_found_and_the_reason_says_why(knowing, image):
    ventricle, unknown, nodule = knowing(image, ["LV", "left atrium", "thyroid nodules"])
    assert ventricle.reason is None and nodule.reason is None and len(ventricle.boxes) == len(nodule.boxes) == 1
    assert len(unknown.boxes) == len(unknown.scores) == 0 and unknown.best_score > 0
    assert unknown.reason == (
        "'left atrium' is not a target that this grounder learnt; nearest: left ventricle; "
        "it knows left ventricle, thyroid nodule"
    )
    (far,) = knowing(image, "gland")
    assert far.reason == ("'gland' is not a target that this grounder learnt; it knows left ventricle, thyroid nodule")


def test_a_fallback_for_an_unknown_target_says_that_it_is_unknown(knowing, image):
    (best,) = knowing(image, "left atrium", fallback="best_box")
    (whole,) = knowing(image, "left atrium", fallback="whole_image")
    assert torch.equal(best.boxes, best.best_box[None]) and whole.boxes.tolist() == [[0, 0, 80, 48]]
    for result, told in ((best, "this is the best box"), (whole, "this is the whole image")):
        assert "is not a target that this grounder learnt" in result.reason and result.reason.endswith(told)


def test_a_calibration_changes_the_scores_of_its_target_alone(grounder, image, tmp_path):
    before = grounder(image, PHRASES, **EVERY_BOX)
    grounder.settings.calibration = {"thyroid nodule": [0.5, 1.0]}
    grounder.save_pretrained(tmp_path)
    nodule, ventricle = TextGrounder.from_pretrained(tmp_path)(image, PHRASES, **EVERY_BOX)
    torch.testing.assert_close(nodule.scores, torch.sigmoid(0.5 * before[0].scores.logit() + 1.0), rtol=1e-4, atol=0)
    assert torch.equal(nodule.boxes, before[0].boxes) and nodule.best_score == nodule.scores[0]
    assert_same_finds([ventricle], before[1:])


def test_known_targets_are_saved_and_forgotten_with_another_text_encoder(knowing, tmp_path):
    knowing.save_pretrained(tmp_path / "grounder")
    loaded = TextGrounder.from_pretrained(tmp_path / "grounder")
    assert loaded.settings.known_targets == ["left ventricle", "thyroid nodule"]
    save_bert(tmp_path / "bert", MEDICAL_WORDS)
    loaded.replace_text_encoder(tmp_path / "bert")
    assert loaded.settings.known_targets is None


# Images


def test_pil_images_arrays_and_tensors_agree(grounder, image):
    expected = grounder(image, PHRASES, **EVERY_BOX)
    grey, colour = Image.fromarray(image), Image.fromarray(image).convert("RGB")
    for same in (grey, colour, torch.from_numpy(image), np.stack([image] * 3, -1), image.astype(np.float32) / 255):
        for one, other in zip(grounder(same, PHRASES, **EVERY_BOX), expected, strict=True):
            torch.testing.assert_close(one.boxes, other.boxes, rtol=0, atol=1e-3)
            torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-6)


# Settings, saving and loading


def test_results_say_who_read_the_text_and_what_the_weights_learned(grounder, image):
    (result,) = grounder(image, "thyroid nodule")
    assert (result.text_encoder, result.tuned_on) == ("bert-base-uncased", None)
    grounder = TextGrounder(grounder.model, grounder.processor, GrounderSettings("MedBERT", "the simulator"))
    (result,) = grounder(image, "thyroid nodule")
    assert (result.text_encoder, result.tuned_on) == ("MedBERT", "the simulator")


def test_settings_are_the_defaults_of_a_call(grounder, image):
    grounder.settings = GrounderSettings(form="description", box_threshold=0.001, nms_threshold=0.01)
    given = {"form": "description", "box_threshold": 0.001, "nms_threshold": 0.01}
    assert_same_finds(
        grounder(image, PHRASES, every_instance=True), small_grounder()(image, PHRASES, every_instance=True, **given)
    )
    assert grounder(image, "thyroid nodule", form="phrase")[0].description == "thyroid nodule"
    assert len(grounder(image, "thyroid nodule", **EVERY_BOX)[0].boxes) == 8  # 0.0 is a value, not "left out"


@pytest.mark.parametrize("words", [WORDS, WORDS[::-1]])
def test_what_is_saved_loads_bit_for_bit(image, tmp_path, words):
    grounder = small_grounder(words)
    grounder.settings = GrounderSettings("MedBERT", "the simulator", "description", 0.2, 0.6)
    grounder.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["grounder"]
    assert written["text_encoder"] == "MedBERT" and written["tuned_on"] == "the simulator"

    loaded = TextGrounder.from_pretrained(tmp_path)
    assert loaded.settings == grounder.settings and not loaded.model.training
    ids = loaded.processor.tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"])
    assert loaded.model.model.special_tokens.tolist() == ids == [2, 3, 6, 5]
    for form in ("phrase", "description"):
        expected = grounder(image, PHRASES, form, **EVERY_BOX)
        assert_same_finds(loaded(image, PHRASES, form, **EVERY_BOX), expected)
        assert len({each.best_score for each in expected}) == 2
    before, after = grounder.model.state_dict(), loaded.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_grounder_loads_in_a_narrower_type_and_still_gives_float32(grounder, image, tmp_path):
    grounder.save_pretrained(tmp_path)
    loaded = TextGrounder.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.model.dtype == torch.bfloat16
    (result,) = loaded(image, "thyroid nodule", box_threshold=0.0)
    assert result.boxes.dtype == result.scores.dtype == result.best_box.dtype == torch.float32


def test_the_model_is_put_in_evaluation_mode_and_told_its_delimiters(grounder):
    grounder.model.train()
    grounder.model.model.special_tokens = torch.tensor(SPECIAL_TOKENS)
    TextGrounder(grounder.model, grounder.processor)
    assert not any(module.training for module in grounder.model.modules())
    assert grounder.model.model.special_tokens.tolist() == [2, 3, 6, 5]


def test_weights_that_leave_parts_without_values_are_refused(grounder, tmp_path):
    grounder.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith("model.text_projection")}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    message = r"lacks 2 of the model's tensors \(model.text_projection.bias ...\); expected a complete checkpoint"
    with pytest.raises(ValueError, match=message):
        TextGrounder.from_pretrained(tmp_path)


def test_a_folder_without_a_grounder_is_refused(tmp_path):
    with pytest.raises(OSError, match="no file named model.safetensors"):
        TextGrounder.from_pretrained(tmp_path)


# Another BERT


def train_one_step(grounder: TextGrounder, image: np.ndarray) -> None:
    """One step of plain gradient descent on a phrase whose object is in the image."""
    caption = make_caption("thyroid nodule")
    tokens, phrase_maps = encode_captions(grounder.processor.tokenizer, [caption], grounder.max_tokens)
    pixels = grounder.prepare_image(torch.from_numpy(np.stack([image] * 3)).float() / 255)
    boxes = torch.tensor([[0.3, 0.4, 0.2, 0.3]])
    labels = [{"class_labels": torch.tensor([0]), "boxes": boxes, "phrase_maps": phrase_maps}]
    loss, _ = grounding_loss(grounder.model, grounder.model(**pixels, **tokens), tokens["attention_mask"], labels)
    loss.backward()
    torch.optim.SGD(grounder.model.parameters(), lr=0.01).step()
    grounder.model.zero_grad()


@pytest.mark.parametrize(
    ("hidden_size", "model_class"), [(32, BertModel), (32, BertForMaskedLM), (16, BertModel)], ids=str
)
def test_another_bert_reads_with_its_own_vocabulary(grounder, image, tmp_path, hidden_size, model_class, caplog):
    tokenizer = save_bert(tmp_path / "bert", MEDICAL_WORDS, model_class, hidden_size=hidden_size)
    reference = BertModel.from_pretrained(tmp_path / "bert", add_pooling_layer=False)
    old = grounder.model.model.text_projection
    grounder.settings.tuned_on = "the simulator"
    grounder.replace_text_encoder(tmp_path / "bert")

    same_width = hidden_size == 32
    assert (grounder.model.model.text_projection is old) == same_width
    assert ("text_projection is newly drawn" in caplog.text) == (not same_width)
    assert grounder.model.model.text_projection.in_features == hidden_size
    encoder = grounder.model.model.text_backbone
    for name, tensor in reference.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], tensor)
    assert grounder.processor.tokenizer.get_vocab() == tokenizer.get_vocab() != small_tokenizer().get_vocab()
    assert grounder.model.model.special_tokens.tolist() == [3, 2, 5, 7]
    assert (grounder.settings.text_encoder, grounder.settings.tuned_on) == ("bert", None)

    results = grounder(image, PHRASES, **EVERY_BOX)
    assert [each.text_encoder for each in results] == ["bert"] * 2
    for result in results:
        boxes, scores = by_hand(grounder, image, f"{result.phrase}.", [1, 2])
        np.testing.assert_allclose(result.boxes, boxes, rtol=0, atol=1e-3)
        np.testing.assert_allclose(result.scores, scores, rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError, match="tokenizer of the text encoder knows"):
        grounder(image, "atrium")  # a word of the vocabulary before


def test_an_exchanged_bert_learns_and_is_saved_with_the_detector(grounder, image, tmp_path):
    save_bert(tmp_path / "bert", MEDICAL_WORDS, hidden_size=16, num_attention_heads=1)
    grounder.replace_text_encoder(tmp_path / "bert")
    before = {name: tensor.clone() for name, tensor in grounder.model.model.text_backbone.named_parameters()}
    train_one_step(grounder, image)
    after = dict(grounder.model.model.text_backbone.named_parameters())
    kept = [name for name, tensor in before.items() if torch.equal(after[name], tensor)]
    assert kept == []

    grounder.settings.tuned_on = "one image"
    grounder.save_pretrained(tmp_path / "saved")
    loaded = TextGrounder.from_pretrained(tmp_path / "saved")
    assert loaded.settings == grounder.settings and loaded.settings.tuned_on == "one image"
    assert not [path for path in (tmp_path / "saved").iterdir() if str(tmp_path).encode() in path.read_bytes()]
    assert loaded.model.model.special_tokens.tolist() == [3, 2, 5, 7]
    assert_same_finds(loaded(image, PHRASES, **EVERY_BOX), grounder(image, PHRASES, **EVERY_BOX))


def test_loading_with_another_bert_is_loading_and_exchanging(grounder, image, tmp_path):
    save_bert(tmp_path / "bert", MEDICAL_WORDS)
    grounder.save_pretrained(tmp_path / "grounder")
    loaded = TextGrounder.from_pretrained(tmp_path / "grounder", text_encoder=tmp_path / "bert")
    grounder.replace_text_encoder(tmp_path / "bert")
    assert loaded.settings == grounder.settings
    assert_same_finds(loaded(image, PHRASES, **EVERY_BOX), grounder(image, PHRASES, **EVERY_BOX))


def test_a_text_encoder_that_does_not_fit_is_refused_and_changes_nothing(grounder, image, tmp_path):
    expected = grounder(image, PHRASES, **EVERY_BOX)
    num_tokens = len(save_bert(tmp_path / "bert", MEDICAL_WORDS))
    RobertaConfig().save_pretrained(tmp_path / "roberta")
    save_bert(tmp_path / "too few rows", MEDICAL_WORDS, vocab_size=num_tokens - 1)
    save_bert(tmp_path / "too many rows", MEDICAL_WORDS, vocab_size=num_tokens + 128)
    save_bert(tmp_path / "padded", MEDICAL_WORDS, vocab_size=num_tokens + 127)
    save_bert(tmp_path / "incomplete", MEDICAL_WORDS)
    weights = load_file(tmp_path / "incomplete" / "model.safetensors")
    weights.pop("encoder.layer.0.output.dense.weight")
    save_file(weights, tmp_path / "incomplete" / "model.safetensors", metadata={"format": "pt"})
    rows = f"the tokenizer has {num_tokens} tokens and the text encoder {{}} word embeddings"
    messages = {
        "roberta": "is of type 'roberta'; expected 'bert'",
        "too few rows": rows.format(num_tokens - 1),
        "too many rows": rows.format(num_tokens + 128),
        "incomplete": r"lacks 1 of the model's tensors \(encoder.layer.0.output.dense.weight ...\)",
    }
    for folder, message in messages.items():
        with pytest.raises(ValueError, match=message):
            grounder.replace_text_encoder(tmp_path / folder)
        assert grounder.settings == GrounderSettings()
        assert_same_finds(grounder(image, PHRASES, **EVERY_BOX), expected)
    grounder.replace_text_encoder(tmp_path / "padded")


def test_a_tokenizer_that_does_not_fit_the_detector_is_refused(grounder):
    grounder.processor.tokenizer = small_tokenizer((*WORDS, "kidney"))
    with pytest.raises(
        ValueError, match="has 16 tokens and the text encoder 15 word embeddings; expected the tokenizer"
    ):
        TextGrounder(grounder.model, grounder.processor)


def test_a_tokenizer_without_character_offsets_is_refused():
    with pytest.raises(ValueError, match="gives no character offsets; expected a fast tokenizer"):
        phrase_delimiter_ids(SimpleNamespace(is_fast=False), 15)


# Errors


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ValueError, "text is ''; expected the name of a target"),
        ("  ,", ValueError, "text is '  ,'; expected the name of a target"),
        (["thyroid nodule", ""], ValueError, "text is ''; expected the name of a target"),
        ([], ValueError, "text is an empty list; expected at least one target"),
        (None, TypeError, "text is None; expected a string, or a list of strings"),
        (["thyroid nodule", 3], TypeError, r"text is \['thyroid nodule', 3\]; expected a string"),
        (
            "thyroid nodule. left ventricle",
            ValueError,
            r"separates phrases at '.' and '\?': give several targets as a",
        ),
        ("甲状腺结节", ValueError, "text '甲状腺结节' has no word that the tokenizer of the text encoder knows"),
        (["left ventricle", "щитовидная"], ValueError, "text 'щитовидная' has no word that the tokenizer"),
        (
            "left " * 130 + "ventricle",
            ValueError,
            r"'left .*\.\.\.' has 134 tokens; the text encoder takes at most 128",
        ),
    ],
)
def test_texts_that_cannot_be_read_are_refused(grounder, image, text, error, message):
    with pytest.raises(error, match=message):
        grounder(image, text)


@pytest.mark.parametrize("max_tokens", ["max_text_len", "max_position_embeddings"])
def test_a_description_that_is_longer_than_the_encoder_takes_is_refused(grounder, image, max_tokens):
    config = grounder.model.config
    setattr(config if max_tokens == "max_text_len" else config.text_config, max_tokens, 90)
    with pytest.raises(ValueError, match="has 91 tokens; the text encoder takes at most 90: shorten it, or name the"):
        grounder(image, PHRASES, form="description")
    assert len(grounder(image, PHRASES)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "sentence"}, "form='sentence' is not one of phrase, description"),
        ({"fallback": "full"}, "fallback='full' is not one of none, best_box, whole_image"),
        ({"box_threshold": 1.1}, r"box_threshold=1.1 lies outside \[0, 1\]"),
        ({"box_threshold": -0.1}, r"box_threshold=-0.1 lies outside \[0, 1\]"),
        ({"box_threshold": float("nan")}, r"box_threshold=nan lies outside \[0, 1\]"),
        ({"nms_threshold": 70}, r"nms_threshold=70 lies outside \[0, 1\]"),
    ],
)
def test_settings_outside_their_range_are_refused(grounder, image, arguments, message):
    with pytest.raises(ValueError, match=message):
        grounder(image, "thyroid nodule", **arguments)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ("case.png", TypeError, "an image is of type str; expected a PIL image, .*: open files first"),
        (None, TypeError, "an image is of type NoneType; expected a PIL image"),
        ([np.zeros((8, 8))] * 2, ValueError, "2 images were given; expected one: call the grounder for each"),
        (np.zeros((0, 5), np.uint8), ValueError, r"an image has shape \(0, 5\), so it has no pixels"),
        (np.full((8, 8), np.nan), ValueError, "an image holds NaN or infinity"),
    ],
    ids=["path", "none", "two", "no pixels", "not a number"],
)
def test_what_is_no_image_is_refused(grounder, image, error, message):
    with pytest.raises(error, match=message):
        grounder(image, "thyroid nodule")


def test_a_describer_writes_what_the_encoder_reads_in_place_of_the_paper(tmp_path):
    small_grounder().save_pretrained(tmp_path)
    grounder = TextGrounder.from_pretrained(tmp_path, describer=lambda phrase: f"left {phrase} left")
    image = torch.rand(64, 64)
    (described,) = grounder(image, "thyroid nodule", form="description")
    (by_phrase,) = grounder(image, "thyroid nodule", form="phrase")
    assert (described.description, described.phrase) == ("left thyroid nodule left", "thyroid nodule")
    assert by_phrase.description == "thyroid nodule" and by_phrase.best_score != described.best_score
    grounder.describer = lambda phrase: "nothing of the kind"
    with pytest.raises(ValueError, match="thyroid nodule"):
        grounder(image, "thyroid nodule", form="description")
