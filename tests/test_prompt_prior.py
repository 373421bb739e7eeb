"""A mask that starts from its prompt: the ellipse of a box, the previous mask, and where a box's mask may be."""

import pytest
import torch

from ccsam_hf import CCSamConfig, CCSamModel
from ccsam_hf.prompt_prior import BOUND, OUTSIDE, PromptPrior, ellipse_logits, reach_of_boxes

BOX = torch.tensor([[[40.0, 60.0, 200.0, 140.0]]])


@pytest.fixture(scope="module")
def shaped_model():
    torch.manual_seed(0)
    return CCSamModel(CCSamConfig.tiny(prompt_prior="shape")).eval()


def test_the_logits_of_a_box_are_positive_in_its_ellipse_and_nowhere_else():
    logits = ellipse_logits(BOX, 256, 256)[0, 0]
    y, x = torch.meshgrid(torch.arange(256) + 0.5, torch.arange(256) + 0.5, indexing="ij")
    expected = ((x - 120) / 80) ** 2 + ((y - 100) / 40) ** 2 < 1
    assert torch.equal(logits > 0, expected)
    assert logits.abs().max() == BOUND
    assert logits[100, 120] == BOUND and logits[0, 0] == -BOUND


def test_the_logits_are_those_of_the_input_at_any_resolution():
    fine, coarse = ellipse_logits(BOX, 256, 256), ellipse_logits(BOX, 128, 256)
    pooled = torch.nn.functional.avg_pool2d(fine, 2)
    assert (pooled - coarse).abs().max() < 0.3


def test_a_mask_stays_in_its_box_enlarged_by_a_twentieth_at_each_side():
    reach = reach_of_boxes(BOX, None, None, 256, 256)[0, 0]
    rows, columns = reach.any(1).nonzero()[:, 0], reach.any(0).nonzero()[:, 0]
    assert (columns[0], columns[-1] + 1) == (32, 208)
    assert (rows[0], rows[-1] + 1) == (56, 144)


def test_a_positive_click_beyond_the_box_extends_where_its_mask_may_be():
    points, labels = torch.tensor([[[[230.0, 100.0], [10.0, 10.0]]]]), torch.tensor([[[1, 0]]])
    reach = reach_of_boxes(BOX, points, labels, 256, 256)[0, 0]
    assert reach[100, 230] and not reach[10, 10]


def test_without_box_and_mask_nothing_is_added():
    masks = torch.randn(2, 3, 1, 8, 8)
    prior = PromptPrior(None, torch.zeros(2, 3, 1, 2), torch.ones(2, 3, 1), None, 8, 256)
    assert prior.logits is None and torch.equal(prior.add_to(masks), masks)


def test_a_box_starts_from_its_ellipse_and_ends_within_its_reach(shaped_model):
    with torch.no_grad():
        embeddings = shaped_model.get_image_embeddings(torch.rand(1, 3, 256, 256))
        masks, _ = shaped_model.decode(embeddings, input_boxes=BOX)
    start = ellipse_logits(BOX, 128, 256)
    reach = reach_of_boxes(BOX, None, None, 128, 256)
    assert (masks[:, :, 0][~reach] == OUTSIDE).all()
    drawn = (masks[:, :, 0] - start)[reach]
    assert drawn.std() > 0  # the decoder draws on top of it


def test_a_previous_mask_takes_the_place_of_the_ellipse(shaped_model):
    previous = torch.full((1, 1, 128, 128), -20.0)
    previous[..., 40:60, 40:60] = 20.0
    with torch.no_grad():
        embeddings = shaped_model.get_image_embeddings(torch.rand(1, 3, 256, 256))
        point = {"input_points": torch.tensor([[[[100.0, 100.0]]]]), "input_labels": torch.ones(1, 1, 1).long()}
        masks, _ = shaped_model.decode(embeddings, **point, input_masks=previous)
    difference = masks[0, 0, 0] - previous[0, 0].clamp(-BOUND, BOUND)
    inside, outside = difference[40:60, 40:60].mean(), difference[80:, 80:].mean()
    assert abs(inside - outside) < BOUND  # what is left of the jump of 2 * BOUND is what the decoder drew


def test_each_of_several_prompts_has_its_own_prior(shaped_model):
    boxes = torch.tensor([[[10.0, 10, 60, 60], [100, 100, 250, 250]]])
    with torch.no_grad():
        embeddings = shaped_model.get_image_embeddings(torch.rand(1, 3, 256, 256))
        both, scores = shaped_model.decode(embeddings, input_boxes=boxes)
        single, _ = shaped_model.decode(embeddings, input_boxes=boxes[:, 1:])
    assert both.shape == (1, 2, 1, 128, 128) and scores.shape == (1, 2, 1)
    torch.testing.assert_close(both[:, 1:], single, rtol=0, atol=1e-4)


def test_switched_off_the_model_is_the_one_without_it(tiny_model):
    other = CCSamModel(CCSamConfig.tiny(prompt_prior="shape")).eval()
    other.load_state_dict(tiny_model.state_dict())  # it has no parameter of its own
    other.config.prompt_prior = "none"
    pixel_values = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        ours, theirs = (model(pixel_values, input_boxes=BOX) for model in (other, tiny_model))
    assert torch.equal(ours.pred_masks, theirs.pred_masks)
