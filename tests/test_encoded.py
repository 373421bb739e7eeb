"""An encoded image moves as a whole, is taken apart by images, and knows the model that made it."""

import copy

import pytest
import torch

from ccsam_hf.encoded import fingerprint


@pytest.fixture
def encoded(tiny_model):
    with torch.no_grad():
        return tiny_model.encode(torch.rand(2, 3, 256, 256))


def test_it_moves_and_is_cast_as_a_whole(encoded):
    moved = encoded.to("meta", torch.bfloat16)
    for tensor in (moved.vit_map, moved.fused.feature_map, moved.fused.vit.mean, moved.fused.cnn_logits.log_var):
        assert tensor.device.type == "meta" and tensor.dtype == torch.bfloat16
    assert moved.model_fingerprint == encoded.model_fingerprint and encoded.vit_map.device.type == "cpu"


def test_an_image_of_a_batch_is_a_batch_of_one(encoded, tiny_model):
    boxes = torch.tensor([[[20.0, 30, 120, 140]]])
    with torch.no_grad():
        both = tiny_model(encoded=encoded, input_boxes=boxes.expand(2, 1, 4)).pred_masks
        second = tiny_model(encoded=encoded.item(1), input_boxes=boxes, num_samples=2)
    torch.testing.assert_close(second.pred_masks, both[1:], atol=1e-5, rtol=1e-4)
    assert second.mask_uncertainty.shape == second.pred_masks.shape


def test_a_fingerprint_follows_the_weights_and_not_device_or_precision(tiny_model):
    before = fingerprint(tiny_model)
    assert fingerprint(copy.deepcopy(tiny_model)) == before
    assert fingerprint(copy.deepcopy(tiny_model).to(torch.bfloat16)) == before
    for part in (tiny_model.mask_decoder, tiny_model.vit_branch):
        other = copy.deepcopy(tiny_model)
        changed = getattr(other, "mask_decoder" if part is tiny_model.mask_decoder else "vit_branch")
        with torch.no_grad():
            for parameter in changed.parameters():
                parameter.add_(0.1)
        assert fingerprint(other) != before


def test_the_model_refuses_what_it_did_not_encode(encoded, tiny_model):
    box = torch.tensor([[[20.0, 30, 120, 140]]]).expand(2, 1, 4)
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.add_(0.1)
    with pytest.raises(ValueError, match="by another model, or by this one before its weights changed"):
        tiny_model(encoded=encoded, input_boxes=box)
