"""The pipeline is processor, model and post-processing in one call; its results fit the image."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from ccsam_hf import (
    CCSamConfig,
    CCSamImageProcessor,
    CCSamModel,
    CCSamProcessor,
    GroundingResult,
    TextGrounder,
)
from ccsam_hf.formats.annotations import AnnotatedImage, to_coco
from ccsam_hf.measurements import measure_mask
from ccsam_hf.objects import clean_mask, count_parts, limit_of
from ccsam_hf.pipeline_ccsam import CCSamPipeline
from small_grounder import small_grounder

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
    (logits,) = processor.post_process_masks(output.pred_masks, inputs["original_sizes"], binarize=False, smooth=True)
    results = centred(image, boxes=BOXES)
    assert len(results) == 2
    for i, result in enumerate(results):
        assert result.mask.shape == (120, 200) and result.mask.dtype == bool and result.mask.any()
        marked, prompt = logits[i, 0].numpy() > 0, {"box": BOXES[i]}
        assert np.array_equal(result.mask, clean_mask(marked, **prompt))
        same = (result.mask == marked) & limit_of(marked.shape, **prompt)
        np.testing.assert_allclose(result.probability[same], logits[i, 0].sigmoid().numpy()[same], atol=1e-6)
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


def test_an_encoded_image_is_decoded_again_and_again_with_the_same_results(centred, image, tmp_path, monkeypatch):
    def decoded(image, **spacing):
        torch.manual_seed(0)
        return [
            centred(image, boxes=BOXES, **spacing)[1],
            centred(image, points=[50, 40], num_samples=3, **spacing)[0],
        ]

    Image.fromarray(image).save(tmp_path / "case.png")
    encoded = centred.encode(tmp_path / "case.png", spacing_mm=(0.2, 0.1))
    with monkeypatch.context() as patch:
        patch.setattr(centred.model, "encode", None)  # a call would fail
        results = decoded(encoded)
    expected = decoded(image, spacing_mm=(0.2, 0.1))
    for got, wanted in zip(results, expected, strict=True):
        assert np.array_equal(got.mask, wanted.mask) and got.measurements == wanted.measurements
        np.testing.assert_allclose(got.probability, wanted.probability, atol=1e-6)
    np.testing.assert_allclose(results[1].uncertainty, expected[1].uncertainty, atol=1e-6)


def test_files_pil_images_and_arrays_give_the_same_masks(centred, image, tmp_path):
    Image.fromarray(image).save(tmp_path / "case.png")
    expected = centred(image, boxes=BOXES)[0].mask
    for same in (tmp_path / "case.png", str(tmp_path / "case.png"), Image.fromarray(image), torch.from_numpy(image)):
        assert np.array_equal(centred(same, boxes=BOXES)[0].mask, expected)


def test_a_list_of_images_gives_a_list_of_results(centred, image):
    first, second = centred([image, image[::-1].copy()], boxes=BOXES)
    assert np.array_equal(first[1].mask, centred(image, boxes=BOXES)[1].mask)
    assert np.array_equal(second[1].mask, centred(image[::-1].copy(), boxes=BOXES)[1].mask)


def test_points_mark_objects_and_the_box_is_that_of_the_mask(centred, image):
    (one,) = centred(image, points=[[50, 40], [10, 10]], labels=[1, 0])
    rows, columns = np.nonzero(one.mask)
    assert one.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    two = centred(image, points=[[[50, 40]], [[80, 60], [90, 70]]])
    assert len(two) == 2
    both = centred(image, boxes=BOXES[0], points=[[[50, 40], [60, 50]]], labels=[[1, 0]])
    assert [result.box for result in both] == [tuple(BOXES[0])]


def test_an_empty_mask_prompted_by_points_has_no_box(pipe, image, monkeypatch):
    original = pipe.model.decode
    monkeypatch.setattr(pipe.model, "decode", lambda *a, **k: (original(*a, **k)[0] * 0 - 1, original(*a, **k)[1]))
    (result,) = pipe(image, points=[50, 40])
    assert result.box is None and result.measurements.area_px == 0


@pytest.mark.parametrize("pixels", [np.s_[60:61, 70:71], np.s_[30:90, 100:101], np.s_[119:120, 199:200]])
def test_the_box_of_a_mask_goes_back_in_as_it_came_out(pipe, image, monkeypatch, pixels):
    marked = np.zeros((120, 200), dtype=bool)
    marked[pixels] = True
    y, x = np.argwhere(marked)[0]
    marked_maps = {"plain": torch.from_numpy(marked)[None].float()}
    monkeypatch.setattr("ccsam_hf.decoded.resize_maps_of", lambda decoded, processor: marked_maps)
    (clicked,) = pipe(image, points=[int(x), int(y)])
    rows, columns = np.nonzero(marked)
    assert clicked.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    (boxed,) = pipe(image, boxes=clicked.box)
    assert boxed.box == clicked.box and np.array_equal(boxed.mask, marked)
    coco = to_coco([AnnotatedImage("a.png", 120, 200, [("object", clicked.mask, 1.0)])])
    left, top, width, height = coco["annotations"][0]["bbox"]
    assert clicked.box == (left, top, left + width, top + height)


def noisy(pipe: CCSamPipeline, monkeypatch) -> np.ndarray:
    """Let the decoder mark an object, one small and one large part beside it and a hole; (128, 128) bool."""
    marked = torch.zeros(128, 128)
    marked[30:70, 30:70] = 1
    marked[48:51, 48:51] = 0
    marked[20:24, 40:60] = 1
    marked[90:126, 2:126] = 1
    maps = (marked * 16 - 8)[None, None, None]
    monkeypatch.setattr(
        pipe.model, "decode", lambda *a, input_boxes=None, input_points=None, **k: (maps, torch.full((1, 1, 1), 0.9))
    )
    return marked.bool().numpy()


def test_one_connected_object_comes_back_and_its_measurements_are_its_own(pipe, monkeypatch):
    image = np.zeros((256, 256), dtype=np.uint8)
    noisy(pipe, monkeypatch)
    inside = [60, 60, 140, 140]
    (by_box,), (by_click,) = pipe(image, boxes=inside), pipe(image, points=[70, 70])
    (beside,) = pipe(image, points=[200, 200])
    (every,) = pipe(image, points=[70, 70], keep="all")
    for result in (by_box, by_click, beside):
        assert count_parts(result.mask) == 1 and result.parts == 3
        assert result.measurements == measure_mask(result.mask)
        assert np.array_equal(result.mask, result.probability > 0.5)
    assert np.array_equal(by_box.mask, by_click.mask)
    assert by_box.mask[100, 100], "a small hole is filled"
    assert abs(int(by_box.mask.sum()) - 80 * 80) < 100
    assert beside.mask.sum() > 15000 and beside.mask[200, 200]
    assert count_parts(every.mask) == every.parts == 3 and not every.mask[100, 100]
    assert "one of 3 parts" in repr(by_box) and "in 3 parts" in repr(every)


def test_the_mask_of_a_box_stays_in_the_box_enlarged_by_a_tenth(pipe, monkeypatch):
    original = pipe.model.decode
    monkeypatch.setattr(pipe.model, "decode", lambda *a, **k: (original(*a, **k)[0] * 0 + 5, original(*a, **k)[1]))
    image = np.zeros((300, 500), dtype=np.uint8)
    for keep in ("largest", "all"):
        for x0, y0, x1, y1 in ([100, 50, 200, 250], [10.4, 20.2, 10.6, 20.9], [0, 0, 500, 300]):
            (result,) = pipe(image, boxes=[x0, y0, x1, y1], keep=keep, num_samples=2)
            rows, columns = np.nonzero(result.mask)
            wide, high = max(0.05 * (x1 - x0), 1), max(0.05 * (y1 - y0), 1)
            assert columns.min() >= x0 - wide and columns.max() + 1 <= x1 + wide
            assert rows.min() >= y0 - high and rows.max() + 1 <= y1 + high
            assert not result.probability[~result.mask].any() and not result.uncertainty[~result.mask].any()
    (result,) = pipe(image, boxes=[100, 50, 200, 250], points=[[[300, 100]]])
    assert result.mask[100, 300], "a click outside the box widens it"


def test_the_threshold_is_a_probability(centred, image):
    areas = [centred(image, points=[50, 40], threshold=value, keep="all")[0].mask.sum() for value in (0.45, 0.5, 0.55)]
    assert areas[0] > areas[1] > areas[2]
    assert areas[1] == centred(image, points=[50, 40], keep="all")[0].mask.sum()
    (result,) = centred(image, points=[50, 40], threshold=0.45)
    assert np.array_equal(result.mask, result.probability > np.float32(0.45))


def recorded(pipe: CCSamPipeline, monkeypatch) -> list[dict]:
    """What every further call of the decoder gets."""
    calls, original = [], pipe.model.decode
    monkeypatch.setattr(pipe.model, "decode", lambda *a, **k: calls.append(k) or original(*a, **k))
    return calls


def test_a_correction_gives_the_last_logits_back_beside_all_clicks(centred, image, monkeypatch):
    encoded = centred.encode(image)
    (first,) = centred(encoded, points=[50, 40])
    calls = recorded(centred, monkeypatch)
    (second,) = centred(encoded, points=[10, 10], labels=0, previous=first)
    (third,) = centred(encoded, points=[[50, 40], [10, 10], [90, 80]], labels=[1, 0, 1], previous=second)
    (same,) = centred(encoded, points=[90, 80], previous=[second])
    assert torch.equal(calls[0]["input_masks"][0, 0], first.memory.mask_logits)
    assert torch.equal(calls[1]["input_masks"][0, 0], second.memory.mask_logits)
    scale = torch.tensor([256 / 200, 256 / 120])
    assert torch.allclose(calls[0]["input_points"][0, 0], torch.tensor([[50.0, 40], [10, 10]]) * scale)
    assert calls[0]["input_labels"].tolist() == [[[1, 0]]]
    assert torch.equal(calls[1]["input_points"], calls[2]["input_points"])
    assert np.array_equal(third.probability, same.probability)
    assert not np.array_equal(first.probability, second.probability)


def test_several_objects_are_corrected_together_and_boxes_are_kept(centred, image, monkeypatch):
    encoded = centred.encode(image)
    firsts = centred(encoded, boxes=BOXES)
    calls = recorded(centred, monkeypatch)
    results = centred(encoded, points=[[[50, 40]], [[80, 60], [90, 70]]], labels=[[1], [1, 0]], previous=firsts)
    assert [result.box for result in results] == [tuple(box) for box in BOXES]
    assert calls[0]["input_boxes"].shape == (1, 2, 4) and calls[0]["input_masks"].shape == (1, 2, 128, 128)
    assert calls[0]["input_labels"].tolist() == [[[1, -10], [1, 0]]]
    (moved,) = centred(encoded, boxes=[40, 30, 100, 80], previous=results[1])
    assert moved.box == (40, 30, 100, 80) and len(moved.memory.points) == 2
    alone = centred(encoded, previous=firsts)
    assert len(alone) == 2 and calls[-1]["input_points"] is None


def test_corrections_that_cannot_be_are_refused_in_one_line(by_text, image):
    boxed = by_text(image, boxes=BOXES)
    (clicked,) = by_text(image, points=[50, 40])
    (missing,) = by_text(image, text="spleen")
    wrong = [
        ({"points": [50, 40], "previous": boxed}, ValueError, "points came for 1 objects and previous= holds 2"),
        ({"points": [50, 40], "previous": missing}, ValueError, "without a mask to correct"),
        ({"points": [50, 40], "previous": "mask"}, TypeError, "previous= holds str"),
        ({"points": [50, 40], "previous": []}, ValueError, "empty list"),
        ({"text": "gland", "previous": clicked}, ValueError, "expected one or the other"),
        ({"previous": [boxed[0], clicked]}, ValueError, "correct them one by one"),
    ]
    for arguments, error, message in wrong:
        with pytest.raises(error, match=message) as caught:
            by_text(image, **arguments)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="of the same image"):
        by_text(image[:100], points=[50, 40], previous=clicked)


def test_a_result_prints_in_two_lines_and_shows_its_overlay_in_a_notebook(by_text, image):
    found, missing = by_text(image, text=["gland", "spleen"], spacing_mm=(0.2, 0.1))
    text = str(found)
    for part in ("gland", "score", "box (30, 20, 120, 90)", "px", "mm2", "200 x 120"):
        assert part in text
    assert len(text.splitlines()) == 1 and "array" not in text
    assert str(missing).splitlines()[1].strip() == "too low" and "empty mask" in str(missing)
    (clicked,) = by_text(image, points=[[50, 40], [10, 10]], labels=[1, 0])
    for result in (found, missing, clicked):
        picture = Image.open(io.BytesIO(result._repr_png_()))
        assert picture.size == (200, 120)


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
    read = (Image.fromarray(image), (0.5, 0.5))
    monkeypatch.setattr("ccsam_hf.pipeline_ccsam.read_image", lambda path, frame=None: read)
    (from_file,) = centred("case.dcm", boxes=BOXES[0])
    assert from_file.measurements.area_mm2 == pytest.approx(from_file.measurements.area_px * 0.25)
    (given,) = centred("case.dcm", boxes=BOXES[0], spacing_mm=(1, 1))
    assert given.measurements.area_mm2 == pytest.approx(given.measurements.area_px)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "no prompt was given; expected a text, boxes"),
        ({"text": "thyroid nodule"}, ValueError, "no folder 'grounder' beside its weights: give grounder="),
        ({"text": "thyroid nodule", "boxes": BOXES}, ValueError, "expected one or the other"),
        ({"boxes": BOXES, "fallback": "best_box"}, ValueError, "fallback came without a text"),
        ({"boxes": BOXES, "colour": "red"}, TypeError, "colour is no argument of CCSamPipeline"),
        ({"boxes": BOXES, "keep": "biggest"}, ValueError, "keep='biggest' was given; expected 'largest'"),
        ({"boxes": BOXES, "threshold": 50}, ValueError, "threshold=50 was given; expected a probability"),
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
    with pytest.raises(ValueError, match="image is an empty list"):
        pipe([], boxes=BOXES)
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


# --- several images, other machines ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_each_image_of_a_list_has_prompts_of_its_own(centred, image, batch_size):
    images = [image, image[::-1].copy(), image[:100, :150].copy()]
    boxes = [[BOXES[0]], BOXES, [[10, 10, 90, 80]]]
    got = centred(images, boxes=boxes, batch_size=batch_size)
    assert [len(results) for results in got] == [1, 2, 1]
    for picture, own, results in zip(images, boxes, got, strict=True):
        for result, alone in zip(results, centred(picture, boxes=own), strict=True):
            assert result.box == alone.box and result.mask.shape == picture.shape
            np.testing.assert_allclose(result.probability, alone.probability, atol=1e-5)
    points, labels = [[[[50, 40], [60, 50]]], [[[80, 60]]], [[[20, 30]]]], [[[1, 0]], [[1]], [[1]]]
    clicked = centred(images, points=points, labels=labels, batch_size=batch_size)
    assert [results[0].memory.labels for results in clicked] == [[1, 0], [1], [1]]
    corrected = centred(images, points=[[[[10, 10]]]] * 3, previous=clicked, batch_size=batch_size)
    assert [len(results[0].memory.points) for results in corrected] == [3, 2, 2]


def test_prompts_that_are_not_nested_deeper_are_those_of_every_image(by_text, image):
    images = [image, image[::-1].copy()]
    assert [len(results) for results in by_text(images, boxes=BOXES)] == [2, 2]
    assert [[each.text for each in results] for results in by_text(images, text=["gland", "spleen"])] == [
        ["gland", "spleen"]
    ] * 2
    by_image = by_text(images, text=[["gland"], ["spleen", "gland"]])
    assert [[each.text for each in results] for results in by_image] == [["gland"], ["spleen", "gland"]]
    with pytest.raises(ValueError, match="boxes holds prompts for 1 images and 2 came"):
        by_text(images, boxes=[BOXES])
    with pytest.raises(ValueError, match="nested differently"):
        by_text(images, points=[[[[50, 40]]], [[[50, 40]]]], labels=[1])


def test_a_stream_of_images_is_segmented_in_batches_as_it_comes(centred, image):
    seen = []
    stream = (seen.append(number) or image for number in range(4))
    results = centred(stream, boxes=BOXES, batch_size=2)
    assert seen == []
    assert len(next(results)) == 2 and seen == [0, 1]
    assert len(list(results)) == 3
    with pytest.raises(ValueError, match="batch_size=-1 was given"):
        centred([image], boxes=BOXES, batch_size=-1)


def test_commas_separate_targets_in_one_text(by_text, image):
    assert [result.text for result in by_text(image, text="gland, spleen; Nodule")] == [
        "gland",
        "spleen",
        "Nodule",
        "Nodule",
    ]


def test_a_pipeline_moves_with_its_grounder_and_changes_its_precision(tiny_model, processor, image):
    pipe = CCSamPipeline(tiny_model, processor, small_grounder())
    encoded = pipe.encode(image)
    plain = pipe(encoded, boxes=BOXES)[0]
    assert pipe.to(dtype="bfloat16") is pipe and pipe.model.dtype == torch.bfloat16
    result = pipe(encoded, boxes=BOXES)[0]  # what was encoded before follows
    np.testing.assert_allclose(result.probability, plain.probability, atol=0.05)
    assert pipe.model.prompt_encoder.shared_embedding.positional_embedding.dtype == torch.float32
    assert pipe.to("meta").device.type == "meta" and pipe.grounder.model.device.type == "meta"
    for arguments, message in (
        ({"device": "cuda:99"}, "cannot be used here; there are cpu"),
        ({"dtype": "int8"}, "dtype='int8' was given; expected float32"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe.to(**arguments)


def test_an_image_that_another_model_encoded_is_refused(pipe, processor, tiny_config, image):
    encoded = pipe.encode(image)
    torch.manual_seed(1)  # other weights than those of the fixture
    other = CCSamPipeline(CCSamModel(tiny_config), processor)
    with pytest.raises(ValueError, match="encoded by another model"):
        other(encoded, boxes=BOXES)
    alone = pipe.model.encode(processor(image)["pixel_values"])
    with pytest.raises(ValueError, match="expected one of CCSamPipeline.encode"):
        pipe(alone, boxes=BOXES)


def test_several_images_are_encoded_together(pipe, image):
    first, second = pipe.encode([image, image[:100]])
    assert (first.size, second.size) == ((120, 200), (100, 200)) and first.vit_map.shape[0] == 1
    single = pipe.encode(image[:100])
    torch.testing.assert_close(second.fused.feature_map, single.fused.feature_map, atol=1e-5, rtol=1e-4)
    assert "200 x 120 pixels" in repr(first)


# --- texts -----------------------------------------------------------------------------------------------------------


class StandInGrounder:
    """Finds what it is told to: text -> boxes with scores, best first."""

    settings = None

    def __init__(self, found: dict[str, list[tuple[list[float], float]]]):
        self.found, self.calls = found, []

    def __call__(self, image, text, **options):
        self.calls.append(options)
        texts = [text] if isinstance(text, str) else text
        return [self.result(each) for each in texts]

    def result(self, text: str) -> GroundingResult:
        found = self.found.get(text, [])
        return GroundingResult(
            text=text,
            phrase=text.lower(),
            description=f"a {text}",
            boxes=torch.tensor([box for box, _ in found], dtype=torch.float32).reshape(-1, 4),
            scores=torch.tensor([score for _, score in found]),
            best_box=torch.tensor([1.0, 2.0, 3.0, 4.0]),
            best_score=found[0][1] if found else 0.125,
            reason=None if found else "too low",
            text_encoder="words",
            tuned_on="cases",
        )


@pytest.fixture
def by_text(centred, tiny_model, processor, monkeypatch) -> CCSamPipeline:
    """`centred` with a grounder that finds the two boxes of `BOXES` for "Nodule" and the first for "gland"."""
    found = {"Nodule": [(BOXES[0], 0.75), (BOXES[1], 0.5)], "gland": [(BOXES[0], 0.875)]}
    centred._grounder = StandInGrounder(found)
    return centred


def test_a_text_is_its_box_and_says_how_it_was_found(by_text, image):
    results = by_text(image, text=["gland", "Nodule"])
    expected = by_text(image, boxes=[BOXES[0], BOXES[0], BOXES[1]])
    assert [result.label for result in results] == ["gland", "nodule", "nodule"]
    for result, same in zip(results, expected, strict=True):
        assert np.array_equal(result.mask, same.mask) and result.box == same.box and result.score == same.score
        assert result.reason is None and (result.text_encoder, result.tuned_on) == ("words", "cases")
    assert [result.box_score for result in results] == [0.875, 0.75, 0.5]
    assert (results[1].text, results[1].description) == ("Nodule", "a Nodule")
    assert expected[0].text is None and expected[0].box_score is None


def test_the_image_is_encoded_once_however_many_targets(by_text, image, monkeypatch):
    calls = []
    encode = by_text.model.encode
    monkeypatch.setattr(by_text.model, "encode", lambda pixel_values: calls.append(1) or encode(pixel_values))
    by_text(image, text=["gland", "Nodule", "gland"])
    by_text(image, text=["gland", "Nodule", "gland"], num_samples=2)
    by_text(image, text="spleen")  # not found: nothing to encode
    assert len(calls) == 2


def test_a_text_that_is_not_found_is_an_empty_mask_with_the_reason(by_text, image):
    first, missing, last = by_text(image, text=["gland", "spleen", "gland"], num_samples=3, spacing_mm=(0.2, 0.1))
    assert first.mask.any() and np.array_equal(first.mask, last.mask)
    assert missing.mask.shape == (120, 200) and not missing.mask.any() and not missing.probability.any()
    assert missing.uncertainty.shape == (120, 200) and not missing.uncertainty.any()
    assert (missing.box, missing.score, missing.box_score, missing.reason) == (None, 0.0, 0.125, "too low")
    assert missing.measurements.area_mm2 == 0
    (alone,) = by_text(image, text="spleen")
    assert not alone.mask.any() and alone.uncertainty is None


def test_options_for_texts_reach_the_grounder(by_text, image):
    options = {"form": "description", "box_threshold": 0.2, "nms_threshold": 0.4, "every_instance": True}
    by_text(image, text="gland", **options, fallback="best_box")
    assert by_text.grounder.calls == [{**options, "fallback": "best_box"}]


def test_a_pipeline_saves_its_grounder_and_transformers_makes_it_again(tiny_model, processor, image, tmp_path):
    pipe = CCSamPipeline(tiny_model, processor, small_grounder())
    expected = pipe(image, text=["thyroid nodule", "breast lesion"], fallback="best_box")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for part in (tiny_model, processor):
        part.save_pretrained(parts)
    pipe.grounder.save_pretrained(parts / "grounder")
    made_by_transformers = pipeline("ultrasound-segmentation", model=str(parts))
    assert type(made_by_transformers) is CCSamPipeline
    pipe.save_pretrained(whole)
    assert (whole / "grounder" / "config.json").is_file() and not (whole / "preprocessor_config.json").exists()
    for again in (made_by_transformers, CCSamPipeline.from_pretrained(whole)):
        results = again(image, text=["thyroid nodule", "breast lesion"], fallback="best_box")
        for result, same in zip(results, expected, strict=True):
            assert result.box == same.box and result.box_score == same.box_score
            np.testing.assert_allclose(result.probability, same.probability, atol=1e-6)


def test_a_grounder_of_its_own_folder_is_loaded_when_the_first_text_comes(tiny_model, processor, image, tmp_path):
    small_grounder().save_pretrained(tmp_path / "elsewhere")
    pipe = CCSamPipeline(tiny_model, processor, tmp_path / "elsewhere")
    assert pipe.has_grounder and pipe._grounder == tmp_path / "elsewhere"
    pipe(image, boxes=BOXES)
    assert pipe._grounder == tmp_path / "elsewhere"
    assert len(pipe(image, text="breast lesion", fallback="whole_image")) == 1
    assert isinstance(pipe._grounder, TextGrounder)


WITHOUT_THE_PACKAGE = """
import sys
from importlib.abc import MetaPathFinder

class Hidden(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "ccsam_hf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
import numpy as np
from transformers import pipeline
pipe = pipeline("ultrasound-segmentation", model=sys.argv[1], trust_remote_code=True)
(result,) = pipe(np.load(sys.argv[2]), text="thyroid nodule", fallback="best_box")
np.savez(sys.argv[3], probability=result.probability, box=result.box, box_score=result.box_score)
"""


def test_a_saved_pipeline_answers_texts_where_the_package_is_not_installed(tiny_model, processor, image, tmp_path):
    pipe = CCSamPipeline(tiny_model, processor, small_grounder())
    pipe.save_pretrained(tmp_path / "repository")
    np.save(tmp_path / "image.npy", image)
    arguments = [str(tmp_path / name) for name in ("repository", "image.npy", "got.npz")]
    home = {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, *arguments],
        env={**os.environ, **home, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (expected,) = pipe(image, text="thyroid nodule", fallback="best_box")
    got = np.load(tmp_path / "got.npz")
    np.testing.assert_allclose(got["probability"], expected.probability, atol=1e-5)
    np.testing.assert_allclose(got["box"], expected.box, atol=1e-3)
    assert got["box_score"] == pytest.approx(expected.box_score, abs=1e-5)


def test_a_frame_of_a_file_is_chosen_by_number(pipe, image, tmp_path):
    pages = [Image.fromarray(image), Image.fromarray(255 - image)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    path = tmp_path / "a.tif"
    (expected,) = pipe(255 - image, boxes=BOXES[:1])
    (chosen,) = pipe(path, boxes=BOXES[:1], frame=1)
    (encoded,) = pipe(pipe.encode(path, frame=1), boxes=BOXES[:1])
    ((listed,), _) = pipe([path, path], boxes=BOXES[:1], frame=1, batch_size=2)
    for result in (chosen, encoded, listed):
        np.testing.assert_allclose(result.probability, expected.probability, atol=1e-5)
    with pytest.raises(ValueError, match="frame=1 came with an image that is no path"):
        pipe(image, boxes=BOXES[:1], frame=1)
