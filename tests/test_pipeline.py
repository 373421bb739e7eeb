"""The pipeline is processor, model and post-processing in one call; its results fit the image."""

import numpy as np
import pytest
import torch
from PIL import Image

from ccsam_hf import CCSamConfig, CCSamImageProcessor, CCSamProcessor
from ccsam_hf.measurements import measure_mask
from ccsam_hf.pipeline_ccsam import CCSamPipeline

BOXES = [[30, 20, 120, 90], [60, 50, 150, 110]]


@pytest.fixture
def processor() -> CCSamProcessor:
    return CCSamProcessor(CCSamImageProcessor())


@pytest.fixture
def pipe(tiny_model, processor) -> CCSamPipeline:
    return CCSamPipeline(tiny_model, processor)


@pytest.fixture
def image(rng) -> np.ndarray:
    return rng.integers(0, 256, (120, 200), dtype=np.uint8)


@pytest.fixture
def centred(pipe, image, monkeypatch) -> CCSamPipeline:
    """A pipeline whose random decoder is shifted so that its masks are neither empty nor full."""
    original = pipe.model.decode

    def shifted(*args, **kwargs):
        pred_masks, iou_scores = original(*args, **kwargs)
        return pred_masks - pred_masks.median(), iou_scores

    monkeypatch.setattr(pipe.model, "decode", shifted)
    return pipe


def test_results_are_those_of_model_and_processor(centred, processor, image):
    inputs = processor(image, input_boxes=BOXES)
    with torch.inference_mode():
        output = centred.model(pixel_values=inputs["pixel_values"], input_boxes=inputs["input_boxes"])
    logits = processor.post_process_masks(output.pred_masks, inputs["original_sizes"], binarize=False)[0]
    results = centred(image, boxes=BOXES)
    assert len(results) == 2
    for i, result in enumerate(results):
        assert result.mask.shape == (120, 200) and result.mask.dtype == bool and result.mask.any()
        assert np.array_equal(result.mask, logits[i, 0].numpy() > 0)
        np.testing.assert_allclose(result.probability, logits[i, 0].sigmoid().numpy(), atol=1e-6)
        assert np.array_equal(result.mask, result.probability > 0.5)
        assert result.score == pytest.approx(output.iou_scores[0, i, 0].item(), abs=1e-6)
        assert result.box == tuple(BOXES[i])
        assert result.label is None and result.uncertainty is None
        assert result.measurements == measure_mask(result.mask)


def test_one_encoding_serves_all_prompts(pipe, image, monkeypatch):
    calls = []
    encode = pipe.model.encode
    monkeypatch.setattr(pipe.model, "encode", lambda pixel_values: calls.append(1) or encode(pixel_values))
    pipe(image, boxes=BOXES * 3)
    pipe(image, boxes=BOXES, num_samples=3)
    assert len(calls) == 2


def test_files_pil_images_and_arrays_give_the_same_masks(centred, image, tmp_path):
    Image.fromarray(image).save(tmp_path / "case.png")
    expected = centred(image, boxes=BOXES)[0].mask
    for same in (tmp_path / "case.png", str(tmp_path / "case.png"), Image.fromarray(image), torch.from_numpy(image)):
        assert np.array_equal(centred(same, boxes=BOXES)[0].mask, expected)


def test_points_mark_objects_and_the_box_is_that_of_the_mask(centred, image):
    (one,) = centred(image, points=[[50, 40], [10, 10]], labels=[1, 0])
    rows, columns = np.nonzero(one.mask)
    assert one.box == (columns.min(), rows.min(), columns.max(), rows.max())
    two = centred(image, points=[[[50, 40]], [[80, 60], [90, 70]]])
    assert len(two) == 2
    both = centred(image, boxes=BOXES[0], points=[[[50, 40], [60, 50]]], labels=[[1, 0]])
    assert [result.box for result in both] == [tuple(BOXES[0])]


def test_an_empty_mask_prompted_by_points_has_no_box(pipe, image, monkeypatch):
    original = pipe.model.decode
    monkeypatch.setattr(pipe.model, "decode", lambda *a, **k: (original(*a, **k)[0] * 0 - 1, original(*a, **k)[1]))
    (result,) = pipe(image, points=[50, 40])
    assert result.box is None and result.measurements.area_px == 0


def test_draws_give_an_uncertainty_and_leave_the_mask_alone(centred, image):
    plain = centred(image, boxes=BOXES)
    sampled = centred(image, boxes=BOXES, num_samples=4)
    for a, b in zip(plain, sampled, strict=True):
        assert np.array_equal(a.mask, b.mask) and a.score == pytest.approx(b.score, abs=1e-5)
        assert b.uncertainty.shape == (120, 200) and b.uncertainty.dtype == np.float32
        assert b.uncertainty.min() >= 0 and b.uncertainty.max() <= 0.5 + 1e-6
        assert b.probability.min() >= 0 and b.probability.max() <= 1


def test_the_pipeline_is_deterministic_and_in_evaluation_mode(tiny_model, processor, image):
    pipe = CCSamPipeline(tiny_model.train(), processor)
    assert not pipe.model.training
    assert np.array_equal(pipe(image, boxes=BOXES)[0].probability, pipe(image, boxes=BOXES)[0].probability)


def test_measurements_in_millimetres(centred, image):
    (result,) = centred(image, boxes=BOXES[0], spacing_mm=(0.2, 0.1))
    assert result.measurements.area_mm2 == pytest.approx(result.measurements.area_px * 0.02)


def test_the_spacing_of_a_dicom_file_is_used_unless_another_is_given(centred, image, monkeypatch):
    monkeypatch.setattr("ccsam_hf.pipeline_ccsam.read_image", lambda path: (Image.fromarray(image), (0.5, 0.5)))
    (from_file,) = centred("case.dcm", boxes=BOXES[0])
    assert from_file.measurements.area_mm2 == pytest.approx(from_file.measurements.area_px * 0.25)
    (given,) = centred("case.dcm", boxes=BOXES[0], spacing_mm=(1, 1))
    assert given.measurements.area_mm2 == pytest.approx(given.measurements.area_px)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "no prompt was given; expected boxes"),
        ({"text": "thyroid nodule"}, ValueError, "text grounder, which this version does not carry"),
        ({"boxes": [0.1, 0.1, 0.5, 0.5]}, ValueError, "must be pixels"),
        ({"boxes": [10, 10, 300, 50]}, ValueError, "outside the image"),
        ({"boxes": BOXES, "spacing_mm": (0, 1)}, ValueError, "two numbers above zero"),
        ({"boxes": BOXES, "num_samples": 1}, ValueError, "num_samples=1"),
        ({"boxes": BOXES, "labels": [1]}, ValueError, "without input_points"),
    ],
)
def test_wrong_calls_are_refused(pipe, image, arguments, error, message):
    with pytest.raises(error, match=message):
        pipe(image, **arguments)


def test_images_that_cannot_be_used_are_refused(pipe, image, tmp_path):
    with pytest.raises(TypeError, match="expected one image"):
        pipe([image, image], boxes=BOXES)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        pipe(tmp_path / "absent.png", boxes=BOXES)
    with pytest.raises(ValueError, match="NaN or infinity"):
        pipe(np.full((120, 200), np.nan), boxes=BOXES)


def test_processor_and_model_must_agree_on_the_size(tiny_model):
    other = CCSamProcessor(CCSamImageProcessor(size={"height": 128, "width": 128}))
    with pytest.raises(ValueError, match=r"\(128, 128\) and the model takes \(256, 256\)"):
        CCSamPipeline(tiny_model, other)


def test_a_saved_pipeline_loads_and_an_incomplete_one_does_not(tiny_model, processor, pipe, image, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = CCSamPipeline.from_pretrained(tmp_path)
    np.testing.assert_allclose(
        loaded(image, boxes=BOXES)[0].probability, pipe(image, boxes=BOXES)[0].probability, atol=1e-6
    )
    wider = CCSamConfig.tiny()
    wider.vision_config.num_hidden_layers += 1
    wider.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks .* of the model's tensors"):
        CCSamPipeline.from_pretrained(tmp_path)
