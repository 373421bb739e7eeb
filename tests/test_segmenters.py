"""evaluation/segmenters.py: each model of a comparison says through the interface what it says on its own."""

import numpy as np
import pytest
import torch
from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig

from ccsam_hf import TINY, CCSamConfig, CCSamModel, CCSamPipeline
from ccsam_hf.data.prompts import Prompt
from ccsam_hf.evaluation import segmenters
from ccsam_hf.evaluation.segmenters import (
    LOADERS,
    CCSamSegmenter,
    SamSegmenter,
    UNetSegmenter,
    about_module,
    load_segmenter,
    register_segmenter,
)
from ccsam_hf.evaluation.unet import build_unet, predict, save_unet
from ccsam_hf.geometry import resize_maps, resize_smoothly
from ccsam_hf.image_processing_ccsam import CCSamImageProcessor
from ccsam_hf.objects import limit_of
from ccsam_hf.processing_ccsam import CCSamProcessor

BOX = Prompt(box=np.array([60, 40, 180, 120], dtype=np.float32))
POINT = Prompt(points=np.array([[90, 70]], dtype=np.float32), labels=np.ones(1, dtype=np.int64))


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (256, 256), dtype=np.uint8)


def processor():
    return CCSamProcessor(CCSamImageProcessor())


@pytest.mark.parametrize("prompt", [BOX, POINT], ids=["box", "point"])
def test_ccsam_says_what_the_pipeline_says(image, prompt):
    segmenter = load_segmenter(TINY, num_samples=3)
    torch.manual_seed(5)
    found = segmenter.segment(segmenter.encode(image), prompt, "anything")
    given = {"boxes": [prompt.box.tolist()]} if prompt.box is not None else {"points": [prompt.points.tolist()]}
    torch.manual_seed(5)
    (expected,) = CCSamPipeline.from_pretrained(TINY)(image, num_samples=3, **given)
    assert np.array_equal(found.mask, expected.mask)
    assert found.score == pytest.approx(expected.score, abs=1e-6)
    limit = limit_of((256, 256), prompt.box)  # one pixel less than the protocol's, whose boxes hold their last pixels
    for ours, theirs in ((found.probability, expected.probability), (found.uncertainty, expected.uncertainty)):
        np.testing.assert_allclose(ours[limit].ravel(), theirs[limit].ravel(), atol=1e-5)
    assert found.uncertainty.max() > 0


def test_ccsam_without_a_prompt_gets_the_point_that_sam_takes_for_none(tiny_model, image):
    segmenter = CCSamSegmenter(tiny_model, processor())
    found = segmenter.segment(segmenter.encode(image), Prompt(), "anything")
    pixel_values = processor()(images=[image], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        output = tiny_model(
            pixel_values=pixel_values,
            input_points=torch.rand(1, 1, 1, 2),  # wherever it lies
            input_labels=torch.full((1, 1, 1), -1),
        )
    logits = resize_smoothly(output.pred_masks[:, 0], (256, 256))[0, 0]
    np.testing.assert_array_equal(found.raw, (logits > 0).numpy())
    kept = found.raw == found.mask  # elsewhere the probability follows the mask
    np.testing.assert_allclose(found.probability[kept], logits.sigmoid().numpy()[kept], atol=1e-6)
    assert found.uncertainty is None


def test_samus_is_a_configuration_without_draws(image):
    config = CCSamConfig.tiny()
    config.cnn_branch, config.fusion, config.cnn_config.samus_channels = "samus", "cross_branch", 16
    model = CCSamModel(config)
    segmenter = CCSamSegmenter(model, processor())
    assert segmenter.segment(segmenter.encode(image), BOX, "anything").mask.shape == (256, 256)
    assert not model.training
    with pytest.raises(ValueError, match="num_samples=4 with fusion='cross_branch'"):
        CCSamSegmenter(model, processor(), num_samples=4)
    with pytest.raises(ValueError, match="num_samples=1 with fusion='vaf'"):
        CCSamSegmenter(CCSamModel(CCSamConfig.tiny()), processor(), num_samples=1)


def test_another_size_is_refused(tiny_model):
    half = CCSamProcessor(CCSamImageProcessor(size={"height": 128, "width": 128}))
    with pytest.raises(ValueError, match=r"\(128, 128\), \(256, 256\).*needs \(256, 256\)"):
        CCSamSegmenter(tiny_model, half)


@pytest.fixture
def sam():
    vision = SamVisionConfig(
        hidden_size=32, output_channels=16, num_hidden_layers=2, num_attention_heads=2, image_size=128, patch_size=16,
        window_size=2, global_attn_indexes=[1], num_pos_feats=8, mlp_dim=64,
    )  # fmt: skip
    prompt = SamPromptEncoderConfig(hidden_size=16, image_size=128, image_embedding_size=8, mask_input_channels=4)
    decoder = SamMaskDecoderConfig(hidden_size=16, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16)
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder))
    image_processor = SamImageProcessor(
        size={"longest_edge": 128}, pad_size={"height": 128, "width": 128}, mask_size={"longest_edge": 32}
    )
    return model.eval(), SamProcessor(image_processor)


def test_sam_takes_the_logits_of_a_click_back_with_the_next(sam, image):
    segmenter = SamSegmenter(*sam)
    encoded = segmenter.encode(image)
    first = segmenter.segment(encoded, POINT, "anything", previous=None)
    clicks = Prompt(points=np.array([[90, 70], [30, 40]], dtype=np.float32), labels=np.array([1, 0]))
    alone, again = (segmenter.segment(encoded, clicks, "anything", previous=previous) for previous in (None, first))
    assert not np.array_equal(alone.probability, again.probability) and again.logits.shape == first.logits.shape


@pytest.mark.parametrize("prompt", [BOX, POINT], ids=["box", "point"])
def test_sam_says_what_transformers_says_of_the_image_at_its_own_size(sam, rng, prompt):
    image = rng.integers(0, 256, (192, 320), dtype=np.uint8)  # its aspect is kept, and padded
    segmenter = SamSegmenter(*sam)
    found = segmenter.segment(segmenter.encode(image), prompt, "anything")

    model, sam_processor = sam
    scale = np.array([320 / 256, 192 / 256])
    if prompt.box is not None:
        given = {"input_boxes": [[(prompt.box * np.tile(scale, 2)).tolist()]]}
    else:
        given = {"input_points": [[(prompt.points * scale).tolist()]], "input_labels": [[[1]]]}
    inputs = sam_processor(images=np.repeat(image[..., None], 3, -1), return_tensors="pt", **given)
    with torch.inference_mode():
        output = model(
            multimask_output=prompt.box is None,
            **{
                name: value for name, value in inputs.items() if name not in ("original_sizes", "reshaped_input_sizes")
            },
        )
    best = int(output.iou_scores.argmax())
    masks = sam_processor.post_process_masks(
        output.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"], binarize=False
    )
    logits = resize_maps(masks[0][:, best : best + 1], (256, 256))[0, 0]
    np.testing.assert_allclose(found.probability, logits.sigmoid().numpy(), atol=1e-5)
    assert found.score == pytest.approx(float(output.iou_scores.max()), abs=1e-6)


def test_a_unet_answers_by_the_target_and_with_all_it_knows_for_an_unknown_one(image, tmp_path):
    torch.manual_seed(0)
    model = build_unet(["gland", "nodule"]).eval()
    save_unet(tmp_path, model, ["gland", "nodule"])
    segmenter = load_segmenter(f"unet:{tmp_path}")
    assert isinstance(segmenter, UNetSegmenter) and segmenter.about["sha256"] == about_module(model, None)["sha256"]
    encoded = segmenter.encode(image)
    gland, nodule = (segmenter.segment(encoded, BOX, target).probability for target in ("gland", "nodule"))
    np.testing.assert_allclose(nodule, predict(model, image, 1), atol=1e-6)
    assert np.array_equal(segmenter.segment(encoded, BOX, "kidney").probability, np.maximum(gland, nodule))
    assert not np.array_equal(gland, nodule)


def test_baselines_are_drawn_from_the_prompt(image):
    box = load_segmenter("filled-box:").segment(None, BOX, "anything").mask
    assert box.sum() == 121 * 81 and box[40, 60] and box[120, 180]
    assert load_segmenter("ellipse:").segment(None, BOX, "anything").mask.sum() == pytest.approx(
        np.pi * 121 * 81 / 4, 0.01
    )


def test_the_hash_is_that_of_the_weights(tiny_model):
    before = about_module(tiny_model, "folder")
    assert before["checkpoint"] == "folder" and before["parameters"] == sum(p.numel() for p in tiny_model.parameters())
    assert about_module(tiny_model, None)["sha256"] == before["sha256"]
    with torch.no_grad():
        next(tiny_model.parameters()).view(-1)[0] += 1
    assert about_module(tiny_model, "folder")["sha256"] != before["sha256"]


def test_another_system_joins_by_its_word(monkeypatch):
    monkeypatch.setattr(segmenters, "LOADERS", dict(LOADERS))
    register_segmenter("mine", lambda checkpoint, num_samples: (checkpoint, num_samples))
    assert load_segmenter("mine:some/folder", 4) == ("some/folder", 4)
    with pytest.raises(ValueError, match="kind 'mine' is taken"):
        register_segmenter("mine", lambda checkpoint, num_samples: None)


def test_what_cannot_be_loaded_is_refused(tmp_path):
    with pytest.raises(ValueError, match="names the kind 'sammy'; known are ccsam, sam, unet, ellipse, filled-box"):
        load_segmenter("sammy:folder")
    with pytest.raises(FileNotFoundError, match="expected a folder of training/train_unet.py"):
        load_segmenter(f"unet:{tmp_path}")
    with pytest.raises(ValueError, match="num_samples=4, but a U-Net has no posterior to draw from"):
        load_segmenter(f"unet:{tmp_path}", 4)


def test_a_model_whose_mask_starts_from_the_box_gets_the_edges_of_the_box(image):
    torch.manual_seed(0)
    model = CCSamModel(CCSamConfig.tiny(prompt_prior="shape"))
    segmenter = CCSamSegmenter(model, CCSamProcessor(CCSamImageProcessor()))
    box = np.array([40, 50, 99, 149], np.float32)  # first and last column and row, as protocol "samus" counts
    encoded = segmenter.encode(image)
    prediction = segmenter.segment(encoded, Prompt(box=box), "object")
    edges = torch.tensor([[[40.0, 50.0, 100.0, 150.0]]])
    with torch.inference_mode():
        expected, _ = model.decode(encoded.fused.feature_map, input_boxes=edges)
    assert torch.equal(prediction.logits, expected)
    assert box.tolist() == [40, 50, 99, 149]  # the prompt is left as it was
