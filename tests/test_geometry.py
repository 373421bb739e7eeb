"""Coordinates keep their place between frames, and those that cannot be pixels of the image are refused."""

import pytest
import torch

from ccsam_hf.geometry import (
    boxes_from_masks,
    check_boxes,
    check_points,
    rescale_boxes,
    rescale_points,
    resize_maps,
    resize_masks,
    resize_smoothly,
)

IMAGE, INPUT = (300, 500), (256, 256)


def test_points_and_boxes_move_by_the_ratio_of_the_sizes():
    points = rescale_points(torch.tensor([[250.0, 75.0]]), IMAGE, INPUT)
    torch.testing.assert_close(points, torch.tensor([[128.0, 64.0]]))
    boxes = rescale_boxes(torch.tensor([[0, 0, 500, 300], [250, 150, 375, 225]]), IMAGE, INPUT)
    torch.testing.assert_close(boxes, torch.tensor([[0.0, 0, 256, 256], [128, 128, 192, 192]]))


def test_image_to_input_and_back_is_the_identity():
    points = torch.rand(2, 3, 4, 2) * 300
    there = rescale_points(points, IMAGE, INPUT)
    torch.testing.assert_close(rescale_points(there, INPUT, IMAGE), points)
    boxes = torch.rand(2, 3, 4) * 300
    torch.testing.assert_close(rescale_boxes(rescale_boxes(boxes, IMAGE, INPUT), INPUT, IMAGE), boxes)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([float("nan"), 0, 10, 10], "NaN or infinity"),
        ([0, 0, float("inf"), 10], "NaN or infinity"),
        ([0.1, 0.2, 0.8, 0.9], "must be pixels of the image.*width 500, height 300"),
        ([0, 0, 1, 1], "must be pixels"),
        ([100, 20, 40, 80], "wrong order; expected x0 y0 x1 y1 with x0 < x1"),
        ([40, 80, 100, 20], "wrong order"),
        ([40, 80, 40, 90], "has no area"),
        ([40, 80, 50, 80], "has no area"),
        ([-1, 0, 10, 10], "outside the image"),
        ([0, 0, 501, 300], r"outside the image \(width 500, height 300\)"),
        ([0, 0, 500, 301], "outside the image"),
    ],
)
def test_a_box_that_is_no_box_of_the_image_is_refused(box, message):
    with pytest.raises(ValueError, match=message):
        check_boxes(torch.tensor([[10.0, 10.0, 20.0, 20.0], box]), IMAGE)


def test_a_box_may_be_the_whole_image():
    check_boxes(torch.tensor([[0, 0, 500, 300]]), IMAGE)
    check_boxes(torch.tensor([[0, 0, 1, 1]]), (2, 2))  # in an image this small the values are pixels


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[float("nan"), 3.0]], "NaN or infinity"),
        ([[0.5, 0.25]], "fractions of the image"),
        ([[500.0, 10.0]], "0 <= x < 500"),
        ([[10.0, 10.0], [10.0, 300.0]], r"point \(10, 300\) lies outside"),
        ([[-0.5, 10.0]], "lies outside"),
    ],
)
def test_a_point_that_is_no_pixel_of_the_image_is_refused(points, message):
    with pytest.raises(ValueError, match=message):
        check_points(torch.tensor(points), IMAGE)


def test_corner_pixels_are_points_of_the_image():
    check_points(torch.tensor([[0.0, 0.0], [499.0, 299.0], [1.0, 1.0]]), IMAGE)
    check_points(torch.tensor([[1.0, 0.0]]), IMAGE)  # whole numbers, so no fraction of the image


@pytest.mark.parametrize(
    ("function", "shape"), [(rescale_points, (4, 3)), (rescale_boxes, (4, 2)), (rescale_boxes, ())]
)
def test_wrong_shapes_are_refused(function, shape):
    with pytest.raises(ValueError, match="have shape"):
        function(torch.zeros(shape), IMAGE, INPUT)


def test_a_tight_box_runs_from_the_first_pixel_to_behind_the_last():
    masks = torch.zeros(2, 20, 30, dtype=torch.bool)
    masks[0, 4:9, 10:21] = True
    masks[1, 7, 3] = True
    assert boxes_from_masks(masks).tolist() == [[10, 4, 21, 9], [3, 7, 4, 8]]
    assert boxes_from_masks(masks[0].numpy()).tolist() == [10, 4, 21, 9]


def test_an_empty_mask_has_no_box():
    with pytest.raises(ValueError, match="a mask is empty"):
        boxes_from_masks(torch.stack([torch.ones(4, 4), torch.zeros(4, 4)]))
    with pytest.raises(ValueError, match=r"expected \(..., height, width\)"):
        boxes_from_masks(torch.ones(4))


def test_resized_maps_and_masks_keep_their_place():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 4:8] = 1
    for size in ((16, 32), (24, 8), (4, 4)):
        resized = resize_masks(mask, size)
        rows, columns = size[0] // 4, size[1] // 2
        expected = torch.zeros(1, 1, *size)
        expected[..., rows : size[0] - rows, columns:] = 1
        assert torch.equal(resized, expected)
        band = mask.amax(-1, keepdim=True).expand(-1, -1, -1, 8)  # a corner of the object would be rounded off
        assert torch.equal(resize_maps(band, size) > 0.5, (expected > 0).any(-1, keepdim=True).expand(1, 1, *size))


def test_smooth_resizing_keeps_half_planes_and_draws_discs_without_corners():
    logits = torch.where(torch.arange(32) < 16, 8.0, -8.0).expand(1, 2, 32, 32)
    resized = resize_smoothly(logits, (96, 128))
    assert resized.shape == (1, 2, 96, 128) and torch.equal(resized[0, 0], resized[0, 1])
    assert torch.equal(resized[0, 0] > 0, torch.arange(128).expand(96, 128) < 64)

    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    disc = torch.where((x - 15.5) ** 2 + (y - 15.5) ** 2 < 100, 8.0, -8.0)[None, None]
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    truth = (x - 127.5) ** 2 + (y - 127.5) ** 2 < 80**2
    wrong = [int(((resize(disc, (256, 256))[0, 0] > 0) != truth).sum()) for resize in (resize_smoothly, resize_maps)]
    assert wrong[0] < 0.75 * wrong[1]


def test_smooth_resizing_takes_values_without_bound():
    logits = torch.full((1, 1, 16, 16), -torch.inf)
    logits[0, 0, 4:12, 4:12] = 1e4
    resized = resize_smoothly(logits, (64, 64))
    assert bool(resized.isfinite().all()) and int((resized > 0).sum()) == pytest.approx(32 * 32, abs=40)
