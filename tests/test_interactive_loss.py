"""Training with many objects an image: each is asked for in its own way, then corrected by clicks in what is wrong."""

import numpy as np
import pytest
import torch

from ccsam_hf import CCSamConfig, CCSamModel
from ccsam_hf.training.prompting import InteractiveLoss, PromptedLoss, add_click


@pytest.fixture
def model():
    torch.manual_seed(0)
    return CCSamModel(CCSamConfig.tiny(prompt_prior="shape", lambda_iou=0.5))


@pytest.fixture
def batch():
    """Two images of two squares: one asked for by a box, one by a click."""
    labels = torch.zeros(2, 2, 256, 256, dtype=torch.uint8)
    labels[:, 0, 40:100, 40:120] = labels[:, 1, 150:220, 60:200] = 1
    boxes = torch.full((2, 2, 4), -10.0)
    boxes[:, 0] = torch.tensor([40.0, 40, 120, 100])
    points, point_labels = torch.full((2, 2, 1, 2), -10.0), torch.full((2, 2, 1), -10)
    points[:, 1, 0], point_labels[:, 1, 0] = torch.tensor([130.0, 185.0]), 1
    return {
        "pixel_values": torch.rand(2, 3, 256, 256),
        "labels": labels,
        "input_boxes": boxes,
        "input_points": points,
        "input_labels": point_labels,
    }


def test_boxes_and_clicks_have_terms_of_their_own_and_reach_every_part(model, batch):
    model.freeze("all").train()
    loss, terms, masks = InteractiveLoss(model, ["point", "box"], correction_clicks=2)(batch)
    loss.backward()
    assert {"box/dice", "point/dice", "box/iou", "point/kl_v"} <= set(terms) and masks == {}
    assert terms["box/dice"] < terms["point/dice"]  # a box starts from its ellipse
    for part in ("vit_branch", "cnn_branch", "fusion", "mask_decoder"):
        gradients = [each.grad for each in getattr(model, part).parameters() if each.grad is not None]
        assert sum(float(each.abs().sum()) for each in gradients) > 0, part


def test_a_batch_of_boxes_alone_trains(model, batch):
    batch |= {"input_labels": torch.full((2, 2, 1), -10), "input_boxes": batch["input_boxes"][:, :1].repeat(1, 2, 1)}
    loss, terms, _ = InteractiveLoss(model.train(), ["box"], 1)(batch)
    assert torch.isfinite(loss) and "point/dice" not in terms


def test_in_evaluation_mode_it_is_the_prompted_loss(model):
    labels = torch.zeros(1, 1, 256, 256)
    labels[..., 60:120, 60:120] = 1
    one = {"pixel_values": torch.rand(1, 3, 256, 256), "labels": labels, "target": ["object"]}
    one |= {"input_boxes": torch.tensor([[[60.0, 60, 120, 120]]])}
    with torch.no_grad():
        ours = InteractiveLoss(model, ["box"], 2).eval()(one)
        theirs = PromptedLoss(model, ["box"]).eval()(one)
    assert torch.equal(ours[2]["box"], theirs[2]["box"])


def test_a_correction_is_a_click_on_what_is_wrong_with_the_logits_before_it():
    labels = torch.zeros(3, 1, 128, 128)
    labels[:, :, 20:60, 20:60] = 1
    logits = torch.full((3, 1, 128, 128), -5.0)
    logits[0, :, 20:60, 20:40] = 5.0  # the right half is missing
    logits[1, :, 20:60, 20:60] = logits[1, :, 80:110, 80:110] = 5.0  # a part too many
    logits[2] = 10 * labels[2] - 5  # nothing is wrong
    prompt = {"input_boxes": torch.tensor([[[40.0, 40, 120, 120]]] * 3)}
    corrected = add_click(prompt, logits, labels, 256)
    x, y = (corrected["input_points"][:, 0, 0] / 2).long().numpy().T
    assert 40 <= x[0] < 60 and 20 <= y[0] < 60 and 80 <= x[1] < 110 and 80 <= y[1] < 110
    assert corrected["input_labels"][:, 0, 0].tolist() == [1, 0, -10]
    assert corrected["input_masks"] is logits and corrected["input_boxes"] is prompt["input_boxes"]
    again = add_click(corrected, logits, labels, 256)
    assert again["input_points"].shape == (3, 1, 2, 2)
    assert torch.equal(again["input_points"][:, :, :1], corrected["input_points"])


def test_half_of_the_corrections_lie_in_the_middle_of_the_largest_wrong_part():
    labels, logits = torch.zeros(40, 1, 128, 128), torch.full((40, 1, 128, 128), -5.0)
    labels[:, :, 20:81, 20:81] = labels[:, :, 100:104, 100:104] = 1
    clicks = add_click({}, logits, labels, 256)["input_points"][:, 0, 0].numpy()
    in_middle = (np.abs(clicks - 101) <= 2).all(1).mean()
    assert 0.25 < in_middle < 0.75
