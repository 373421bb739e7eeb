"""The loss is transformers' where that is right; each image learns its own text, and the proposals learn too."""

import re

import pytest
import torch
from torch import Tensor

from ccsam_hf.grounding import TextGrounder
from ccsam_hf.grounding_texts import tokens_in_spans
from ccsam_hf.training.grounding_loss import CLASS_WEIGHT, decoder_predictions, grounding_loss
from small_grounder import STOCK_DELIMITERS, small_grounder

TEXT = ["thyroid nodule", "left ventricle"]
TEXTS = [["thyroid nodule", "left ventricle"], ["lesion", "left atrium"], ["thyroid gland", "nodule"]]
TERMS = ["loss_ce", "loss_bbox", "loss_giou"]


@pytest.fixture(scope="module")
def stock() -> TextGrounder:
    """A grounder whose delimiters have the ids of bert-base-uncased, so that transformers' own loss can be asked."""
    return small_grounder(delimiters=STOCK_DELIMITERS)


@pytest.fixture
def grounder() -> TextGrounder:
    return small_grounder()


def make_batch(
    grounder: TextGrounder, texts: list[list[str]], objects: list[list[int]]
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Noise images with a text each, and boxes for objects given by the index of their phrase."""
    captions = [". ".join(phrases) + "." for phrases in texts]
    tokens = grounder.processor.tokenizer(captions, padding=True, return_offsets_mapping=True, return_tensors="pt")
    offsets = tokens.pop("offset_mapping")
    phrase_maps = [
        torch.stack([tokens_in_spans(offsets[row], [re.search(phrase, captions[row]).span()]) for phrase in phrases])
        for row, phrases in enumerate(texts)
    ]
    labels = [
        {
            "class_labels": torch.tensor(classes, dtype=torch.long),
            "boxes": torch.cat([0.3 + 0.4 * torch.rand(len(classes), 2), 0.1 + 0.4 * torch.rand(len(classes), 2)], -1),
            "phrase_maps": maps,
        }
        for classes, maps in zip(objects, phrase_maps, strict=True)
    ]
    return {"pixel_values": torch.randn(len(texts), 3, 64, 64), **tokens}, labels


def our_loss(grounder: TextGrounder, inputs: dict, labels: list, **settings) -> tuple[Tensor, dict[str, Tensor]]:
    return grounding_loss(grounder.model, grounder.model(**inputs), inputs["attention_mask"], labels, **settings)


def rows_of(inputs: dict[str, Tensor], labels: list, rows: list[int]) -> tuple[dict[str, Tensor], list]:
    """These images of a batch."""
    return {name: tensor[rows] for name, tensor in inputs.items()}, [labels[row] for row in rows]


def has_gradient(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


# Against transformers' own


@torch.no_grad()
def test_the_decoders_terms_are_those_of_transformers(stock):
    inputs, labels = make_batch(stock, [TEXT, TEXT], [[0, 1], [1]])
    stock.model.config.auxiliary_loss = True
    theirs = stock.model(**inputs, labels=labels).loss_dict
    stock.model.config.auxiliary_loss = False
    _, ours = our_loss(stock, inputs, labels)
    assert ours.keys() == {name + suffix for name in TERMS for suffix in ("", "_0", "_enc")}
    for name in TERMS:
        for suffix in ("", "_0"):  # the last layer and the one before it
            torch.testing.assert_close(ours[name + suffix], theirs[name + suffix], rtol=1e-5, atol=0)
        assert ours[name] != ours[f"{name}_0"]


@torch.no_grad()
@pytest.mark.parametrize("texts", [TEXTS, [TEXT[:1], TEXT, ["breast lesion", *TEXT]]])
def test_predictions_of_the_last_layer_are_the_models_output(grounder, texts):
    inputs, _ = make_batch(grounder, texts, [[], [], []])
    output = grounder.model(**inputs)
    predictions = decoder_predictions(grounder.model, output, inputs["attention_mask"])
    assert len(predictions) == 2
    assert torch.equal(predictions[-1][0], output.logits) and torch.equal(predictions[-1][1], output.pred_boxes)
    assert not torch.allclose(predictions[0][1], output.pred_boxes, atol=0.01)


@torch.no_grad()
def test_each_image_learns_its_own_text_in_any_order(stock):
    inputs, labels = make_batch(stock, TEXTS, [[0, 1], [0, 1], [1, 0]])
    orders = [[0, 1, 2], [2, 0, 1], [1, 2, 0], [0, 2, 1]]
    ours, theirs = [], []
    for order in orders:
        some_inputs, some_labels = rows_of(inputs, labels, order)
        ours.append(our_loss(stock, some_inputs, some_labels)[1])
        theirs.append(stock.model(**some_inputs, labels=some_labels).loss_dict["loss_ce"])
    for terms in ours:
        assert all(torch.isclose(terms[name], ours[0][name], rtol=1e-4, atol=0) for name in terms)
    # transformers reads the third image's tokens from the map of the second
    assert torch.stack(theirs).std() > 0.01 * torch.stack(theirs).mean()


# Gradients


def test_the_layers_that_choose_and_place_proposals_learn(stock):
    names = ("enc_output", "enc_output_norm", "encoder_output_bbox_embed")
    inputs, labels = make_batch(stock, [TEXT, TEXT], [[0, 1], [1]])
    learns = {}
    for owner in ("ours", "theirs"):
        stock.model.zero_grad()
        loss = our_loss(stock, inputs, labels)[0] if owner == "ours" else stock.model(**inputs, labels=labels).loss
        loss.backward()
        learns[owner] = [
            has_gradient(each) for name in names for each in getattr(stock.model.model, name).parameters()
        ]
    stock.model.zero_grad()
    assert len(learns["ours"]) == 2 + 2 + 6
    assert all(learns["ours"]) and not any(learns["theirs"])


def test_every_parameter_has_a_gradient_but_the_norm_behind_the_last_stage(grounder):
    # Swin's own last norm is for classification; the detector reads the stages through norms of their own.
    unused = [f"model.backbone.conv_encoder.model.swin.layernorm.{name}" for name in ("weight", "bias")]
    inputs, labels = make_batch(grounder, TEXTS, [[0, 1], [0, 1], [1, 0]])
    our_loss(grounder, inputs, labels)[0].backward()
    without = [name for name, parameter in grounder.model.named_parameters() if not has_gradient(parameter)]
    assert without == unused


# Numbers of objects and of matches


@torch.no_grad()
def test_the_loss_is_the_weighted_sum_of_its_terms(grounder):
    inputs, labels = make_batch(grounder, TEXTS, [[0, 1], [0], [1]])
    config = grounder.model.config
    config.bbox_loss_coefficient, config.giou_loss_coefficient = 3.0, 7.0
    loss, terms = our_loss(grounder, inputs, labels)
    weights = {"loss_ce": CLASS_WEIGHT, "loss_bbox": 3.0, "loss_giou": 7.0}
    expected = sum(weights["_".join(name.split("_")[:2])] * term for name, term in terms.items())
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert CLASS_WEIGHT == 2.0 and len(terms) == 9


@torch.no_grad()
@pytest.mark.parametrize("objects", [[[0, 1], [0], [1], [0, 1]], [[0], [], [0, 1, 1], [1, 0]]])
def test_terms_are_divided_by_the_number_of_objects_in_the_batch(grounder, objects):
    inputs, labels = make_batch(grounder, [*TEXTS, TEXT], objects)
    loss, _ = our_loss(grounder, inputs, labels)
    counts = [sum(map(len, half)) for half in (objects[:2], objects[2:])]
    halves = [our_loss(grounder, *rows_of(inputs, labels, rows))[0] for rows in ([0, 1], [2, 3])]
    expected = sum(count * half for count, half in zip(counts, halves, strict=True)) / sum(counts)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    if counts[0] == counts[1]:
        torch.testing.assert_close(loss, sum(halves) / 2, rtol=1e-4, atol=0)
    assert not torch.isclose(*halves, rtol=0.01)


@pytest.mark.parametrize("objects", [[[], [0, 1], [1]], [[0], [], []], [[], [], []]])
def test_images_without_objects_learn_that_nothing_is_there(grounder, objects):
    inputs, labels = make_batch(grounder, TEXTS, objects)
    loss, terms = our_loss(grounder, inputs, labels)
    assert loss.isfinite() and all(term.isfinite() for term in terms.values())
    loss.backward()
    gradients = [parameter.grad for parameter in grounder.model.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert has_gradient(grounder.model.model.text_projection.weight)
    if not any(objects):
        assert all(term == 0 for name, term in terms.items() if not name.startswith("loss_ce"))
        torch.nn.utils.clip_grad_norm_(grounder.model.parameters(), 1e-3)
        torch.optim.SGD(grounder.model.parameters(), lr=1.0).step()
        after = our_loss(grounder, inputs, labels)[1]
        assert all(after[name] < term for name, term in terms.items() if name.startswith("loss_ce"))


@torch.no_grad()
def test_more_matches_for_each_object_are_those_of_its_copies(grounder):
    inputs, labels = make_batch(grounder, TEXTS, [[0, 1], [0], [1]])
    _, once = our_loss(grounder, inputs, labels)
    _, thrice = our_loss(grounder, inputs, labels, matches_per_object=3)
    copies = [
        {**each, "class_labels": each["class_labels"].repeat(3), "boxes": each["boxes"].repeat(3, 1)}
        for each in labels
    ]
    _, copied = our_loss(grounder, inputs, copies)
    for name, term in thrice.items():
        torch.testing.assert_close(term, copied[name], rtol=1e-5, atol=0)
    assert not torch.isclose(thrice["loss_bbox_enc"], once["loss_bbox_enc"], rtol=0.01)


@torch.no_grad()
def test_a_perfect_answer_costs_little_and_the_wrong_phrase_more(grounder):
    inputs, labels = make_batch(grounder, TEXTS, [[0], [1], [0]])
    output = grounder.model(**inputs)
    for row, label in enumerate(labels):
        tokens = label["phrase_maps"][label["class_labels"][0]]
        output.enc_outputs_class[row, :, : len(tokens)] = -20.0
        output.enc_outputs_class[row, 5, : len(tokens)][tokens] = 20.0
        output.enc_outputs_coord_logits[row, 5] = label["boxes"][0].logit()

    def proposal_terms(labels: list) -> list[float]:
        _, terms = grounding_loss(grounder.model, output, inputs["attention_mask"], labels)
        return [terms[f"{name}_enc"].item() for name in TERMS]

    assert proposal_terms(labels) == pytest.approx([0, 0, 0], abs=1e-5)
    swapped = [{**each, "class_labels": 1 - each["class_labels"]} for each in labels]
    assert proposal_terms(swapped)[0] > 1
