"""Prompts in the image's own pixels become padded tensors in the input's pixels; impossible ones are refused."""

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from ccsam_hf.image_processing_ccsam import CCSamImageProcessor
from ccsam_hf.processing_ccsam import CCSamProcessor

BOX, BOX_INPUT = [50, 30, 250, 150], [25.6, 25.6, 128.0, 128.0]  # of an image with 500 columns and 300 rows
POINT, POINT_INPUT = [250, 75], [128.0, 64.0]


@pytest.fixture
def processor() -> CCSamProcessor:
    return CCSamProcessor(CCSamImageProcessor())


@pytest.fixture
def image() -> np.ndarray:
    return np.zeros((300, 500), np.uint8)


@pytest.mark.parametrize(
    "boxes",
    [BOX, [BOX], [[BOX]], tuple(BOX), np.array(BOX), torch.tensor([BOX]), [np.array(BOX)], [torch.tensor(BOX)]],
)
def test_every_nesting_of_one_box(processor, image, boxes):
    out = processor(image, input_boxes=boxes)
    assert set(out) == {"pixel_values", "original_sizes", "input_boxes"}
    assert out["original_sizes"].tolist() == [[300, 500]]
    torch.testing.assert_close(out["input_boxes"], torch.tensor([[BOX_INPUT]]))


@pytest.mark.parametrize(
    ("points", "labels"),
    [
        (POINT, None),
        (POINT, 1),
        ([POINT], [1]),
        ([[POINT]], [[1]]),
        ([[[POINT]]], [[[1]]]),
        (np.array([POINT]), np.array([1])),
        (torch.tensor([[POINT]]), torch.tensor([[1]])),
        (torch.tensor(POINT, dtype=torch.bfloat16), None),
    ],
)
def test_every_nesting_of_one_point(processor, image, points, labels):
    out = processor(image, input_points=points, input_labels=labels)
    torch.testing.assert_close(out["input_points"], torch.tensor([[[POINT_INPUT]]]), rtol=0.01, atol=0)
    assert out["input_points"].dtype == torch.float32
    assert torch.equal(out["input_labels"], torch.tensor([[[1]]]))


def test_several_points_are_one_object_and_a_further_level_is_several(processor, image):
    points = [[10, 20], [30, 40], [50, 60]]
    one = processor(image, input_points=points, input_labels=[1, 0, 1])
    assert one["input_points"].shape == (1, 1, 3, 2) and one["input_labels"].tolist() == [[[1, 0, 1]]]
    three = processor(image, input_points=[[p] for p in points], input_labels=[[1], [0], [1]])
    assert three["input_points"].shape == (1, 3, 1, 2) and three["input_labels"].tolist() == [[[1], [0], [1]]]


def test_each_image_scales_by_its_own_size(processor, image):
    out = processor([image, np.zeros((100, 128), np.uint8)], input_boxes=[[BOX], [[0, 0, 128, 100]]])
    torch.testing.assert_close(out["input_boxes"], torch.tensor([[BOX_INPUT], [[0.0, 0, 256, 256]]]))


def test_ragged_objects_and_points_are_padded_with_minus_ten(processor, image):
    points = [[[[10, 20], [30, 40], [50, 60]]], [[POINT], [POINT, POINT]]]
    labels = [[[1, 0, 1]], [[1], [0, 1]]]
    boxes = [[BOX], [BOX, BOX]]
    out = processor([image, image], input_points=points, input_labels=labels, input_boxes=boxes)
    assert out["input_points"].shape == (2, 2, 3, 2) and out["input_boxes"].shape == (2, 2, 4)
    assert out["input_labels"].tolist() == [[[1, 0, 1], [-10] * 3], [[1, -10, -10], [0, 1, -10]]]
    padded = out["input_labels"] == -10
    assert (out["input_points"][padded] == -10).all() and (out["input_points"][~padded] >= 0).all()
    assert (out["input_boxes"][0, 1] == -10).all() and (out["input_boxes"][[0, 1, 1], [0, 0, 1]] >= 0).all()


def test_points_to_ignore_are_not_checked_and_become_padding(processor, image):
    out = processor(image, input_points=[POINT, [-10, -10], [0, 0]], input_labels=[1, -10, -1])
    torch.testing.assert_close(out["input_points"], torch.tensor([[[POINT_INPUT, [-10, -10], [-10, -10]]]]))
    assert out["input_labels"].tolist() == [[[1, -10, -1]]]


def test_masks_and_numpy_output(processor, image):
    out = processor(image, input_boxes=BOX, segmentation_maps=image + 1, return_tensors="np")
    assert out["labels"].shape == (1, 1, 256, 256) and (out["labels"] == 1).all()
    assert all(isinstance(value, np.ndarray) for value in out.values())


@pytest.mark.parametrize(
    ("boxes", "error", "message"),
    [
        ([0, 0, 501, 300], ValueError, "outside the image"),
        ([250, 30, 50, 150], ValueError, "wrong order"),
        ([0.1, 0.1, 0.5, 0.5], ValueError, "must be pixels"),
        ([50, 30, 50, 150], ValueError, "no area"),
        ([float("nan"), 30, 50, 150], ValueError, "NaN"),
        ([1, 2, 3], ValueError, "with 3 values; expected"),
        (np.zeros((2, 5)), ValueError, "with 5 values"),
        (7, ValueError, "0 levels of nesting"),
        (np.zeros((1, 1, 1, 4)), ValueError, "4 levels of nesting"),
        ([], ValueError, "an empty list"),
        ([[BOX], []], ValueError, "nested alike|side by side|empty"),
        ([BOX, [1]], ValueError, "with 1 values"),
        ([[BOX], BOX], ValueError, "side by side"),
        ([[[BOX]], [[BOX]]], ValueError, "4 levels"),
        ([[BOX], [BOX]], ValueError, "prompts of 2 images, but 1 came"),
        ("box", TypeError, "of type str; expected numbers"),
        ([1, 2, 3, None], TypeError, "NoneType"),
        ([True, 2, 3, 4], TypeError, "bool"),
    ],
)
def test_a_box_that_cannot_be_meant_is_refused(processor, image, boxes, error, message):
    with pytest.raises(error, match=message):
        processor(image, input_boxes=boxes)


@pytest.mark.parametrize(
    ("points", "labels", "error", "message"),
    [
        ([500, 10], None, ValueError, "lies outside the image"),
        ([0.3, 0.4], None, ValueError, "must be pixels"),
        ([float("inf"), 1], None, ValueError, "NaN or infinity"),
        ([1, 2, 3], None, ValueError, r"with 3 values; expected \(x, y\)"),
        (POINT, 2, ValueError, "holds 2; expected 1"),
        (POINT, 0.5, ValueError, "holds 0.5"),
        (POINT, -2, ValueError, "holds -2"),
        (POINT, [1], ValueError, "1 levels of nesting; expected 0"),
        ([POINT, POINT], [1], ValueError, r"\[\[1\]\] labels"),
        ([[POINT], [POINT]], [[1]], ValueError, "one label for each point"),
        ([[POINT], [POINT]], [[1], [1, 1]], ValueError, "one label for each point"),
        (None, [1], ValueError, "without input_points"),
    ],
)
def test_a_point_that_cannot_be_meant_is_refused(processor, image, points, labels, error, message):
    with pytest.raises(error, match=message):
        processor(image, input_points=points, input_labels=labels)


def test_a_batch_needs_the_full_nesting(processor, image):
    with pytest.raises(ValueError, match="2 levels of nesting for 2 images"):
        processor([image, image], input_boxes=[BOX, BOX])
    with pytest.raises(ValueError, match="3 levels of nesting for 2 images"):
        processor([image, image], input_points=[[POINT], [POINT]])


def test_boxes_and_points_describe_the_same_objects(processor, image):
    with pytest.raises(ValueError, match=r"\[1\] objects in input_points and \[2\] in input_boxes"):
        processor(image, input_points=POINT, input_boxes=[BOX, BOX])


@pytest.mark.parametrize("text", ["thyroid nodule", ["thyroid nodule"], ""])
def test_text_is_refused_and_the_accepted_prompts_are_named(processor, image, text):
    with pytest.raises(ValueError, match="takes boxes .* and points .*: CCSamPipeline and TextGrounder"):
        processor(image, text=text)


def test_the_processor_survives_save_and_load(tmp_path, image):
    processor = CCSamProcessor(CCSamImageProcessor(size={"height": 64, "width": 64}, do_normalize=True))
    processor.save_pretrained(tmp_path)
    expected = processor(image, input_boxes=BOX, input_points=[[POINT]])
    for loaded in (CCSamProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is CCSamProcessor
        out = loaded(image, input_boxes=BOX, input_points=[[POINT]])
        assert set(out) == set(expected)
        assert all(torch.equal(out[name], expected[name]) for name in expected)


def test_masks_return_through_the_processor(processor):
    masks = processor.post_process_masks(torch.ones(1, 2, 1, 128, 128), [(30, 50)])
    assert masks[0].shape == (2, 1, 30, 50) and masks[0].all()
    assert set(processor.model_input_names) >= {"pixel_values", "input_boxes", "original_sizes"}
