"""Augmentation: what each step does to image, mask and boxes, and that nothing but the generator decides."""

import random

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tvF

from ccsam_hf.data.augmentation import NO_AUGMENTATION, SAMUS_AUGMENTATION, Augmentation, rotate_and_crop
from ccsam_hf.data.simulator import simulate

OFF = {"gamma": 0, "flip": 0, "rotation": 0, "scale": 0, "noise": 0, "contrast": 0}


def only(step: str, **settings) -> Augmentation:
    return Augmentation(**{**OFF, step: 1, **settings})


def disc(height: int, width: int, x: float, y: float, radius: float) -> tv_tensors.Mask:
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return tv_tensors.Mask((((columns - x) ** 2 + (rows - y) ** 2) < radius**2)[None])


def outer_box(mask: torch.Tensor) -> torch.Tensor:
    """Outer edges of the pixels of a mask (H, W)."""
    rows, columns = torch.nonzero(mask, as_tuple=True)
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


def boxes_of(*masks: torch.Tensor) -> tv_tensors.BoundingBoxes:
    boxes = torch.stack([outer_box(mask) for mask in masks])
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=masks[0].shape[-2:])


@pytest.fixture(scope="module")
def case() -> tuple[tv_tensors.Image, tv_tensors.Mask, tv_tensors.BoundingBoxes]:
    simulated = simulate("breast lesion", 0, (96, 128))
    mask = tv_tensors.Mask(torch.tensor(simulated.mask)[None])
    return tv_tensors.Image(torch.tensor(simulated.image)[None]), mask, boxes_of(mask[0])


def overlap(first: torch.Tensor, second: torch.Tensor) -> float:
    first, second = first.bool(), second.bool()
    return ((first & second).sum() / (first | second).sum()).item()


def test_the_defaults_are_what_samus_trains_with():
    assert SAMUS_AUGMENTATION == Augmentation()
    probabilities = {name: getattr(SAMUS_AUGMENTATION, name) for name in OFF}
    assert probabilities == {"gamma": 0.5, "flip": 0, "rotation": 0.5, "scale": 0.5, "noise": 0, "contrast": 0.5}
    assert SAMUS_AUGMENTATION.gamma_range == (1, 2.4) and SAMUS_AUGMENTATION.contrast_range == (0.8, 2)
    assert SAMUS_AUGMENTATION.max_degrees == 30 and SAMUS_AUGMENTATION.scale_range == (1, 1.3)


def test_without_augmentation_everything_stays(case, rng):
    image, mask, boxes = NO_AUGMENTATION(*case, rng=rng)
    assert image.dtype == torch.float32 and torch.equal(image, tvF.to_dtype(case[0], torch.float32, scale=True))
    assert torch.equal(mask, case[1]) and torch.equal(boxes, case[2])
    assert NO_AUGMENTATION(*case[:2], rng=rng)[2] is None


def test_types_and_frame_are_kept_and_values_stay_grey_values(case):
    augment = Augmentation(gamma=1, flip=1, rotation=1, scale=1, noise=1, contrast=1)
    for seed in range(20):
        image, mask, boxes = augment(*case, rng=np.random.default_rng(seed))
        assert type(image) is tv_tensors.Image and image.dtype == torch.float32 and image.shape == (1, 96, 128)
        assert 0 <= image.min() and image.max() <= 1
        assert type(mask) is tv_tensors.Mask and mask.dtype == torch.bool and mask.shape == (1, 96, 128)
        assert type(boxes) is tv_tensors.BoundingBoxes and tuple(boxes.canvas_size) == (96, 128)


def test_the_generator_alone_decides_and_no_global_state_is_touched(case):
    def draw(seed):
        return Augmentation(flip=0.5, noise=0.5)(*case, rng=np.random.default_rng(seed))

    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = [draw(seed) for seed in range(10)]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1]) and random.getstate() == states[2]
    torch.manual_seed(99)
    for once, again in zip(first, [draw(seed) for seed in range(10)], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert len({image.sum().item() for image, _, _ in first}) > 5


def test_steps_come_as_often_as_their_probabilities_say(case):
    draws = [SAMUS_AUGMENTATION.draw_geometry((96, 128), 1.0, np.random.default_rng(seed)) for seed in range(1000)]
    assert not any(is_flipped for is_flipped, _ in draws)
    assert np.mean([coefficients is None for _, coefficients in draws]) == pytest.approx(0.25, abs=0.04)


def test_gamma_brightens_by_the_exponent(case, rng):
    image, mask, _ = only("gamma", gamma_range=(2, 2))(*case, rng=rng)
    torch.testing.assert_close(image.as_subclass(torch.Tensor), (case[0] / 255).as_subclass(torch.Tensor).sqrt())
    assert torch.equal(mask, case[1])


def test_contrast_scales_about_the_mean(case, rng):
    dim = tv_tensors.Image(torch.linspace(0.4, 0.6, 96 * 128).reshape(1, 96, 128))
    image, _, _ = only("contrast", contrast_range=(1.5, 1.5))(dim, case[1], rng=rng)
    expected = (dim - dim.mean()) * 1.5 + dim.mean()
    torch.testing.assert_close(image.as_subclass(torch.Tensor), expected.as_subclass(torch.Tensor))


def test_noise_has_its_standard_deviation(case, rng):
    grey = tv_tensors.Image(torch.full((1, 96, 128), 0.5))
    image, mask, _ = only("noise", noise_range=(0.04, 0.04))(grey, case[1], rng=rng)
    assert (image - grey).std().item() == pytest.approx(0.04, rel=0.05)
    assert torch.equal(mask, case[1])


def test_a_flip_exchanges_left_and_right_of_all_three(case, rng):
    image, mask, boxes = only("flip")(*case, rng=rng)
    unchanged, _, _ = NO_AUGMENTATION(*case, rng=rng)
    assert torch.equal(image, unchanged.flip(-1)) and torch.equal(mask, case[1].flip(-1))
    assert torch.equal(boxes, boxes_of(mask[0]))


def test_a_rotation_is_that_of_torchvision(case):
    coefficients = rotate_and_crop((96, 128), 20, 1, (0, 0), 1)
    image = (case[0] / 255).as_subclass(torch.Tensor)
    ours = tvF.perspective(image, None, None, coefficients=coefficients)
    theirs = tvF.rotate(image, 20, InterpolationMode.BILINEAR)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_rotation_turns_the_picture_and_not_its_resized_frame(rng):
    """A disc beside the middle of a picture four times as wide as high goes round in a circle of the picture."""
    frame = disc(400, 1600, 950, 200, 60)
    frame = tvF.resize(frame, (256, 256), InterpolationMode.NEAREST_EXACT)
    coefficients = rotate_and_crop((256, 256), 30, 1, (0, 0), pixel_aspect=4)
    turned = tvF.perspective(frame, None, None, coefficients=coefficients)
    x, y = 800 + 150 * np.cos(np.radians(30)), 200 - 150 * np.sin(np.radians(30))
    expected = tvF.resize(disc(400, 1600, x, y, 60), (256, 256), InterpolationMode.NEAREST_EXACT)
    assert overlap(turned, expected) > 0.93
    wrong = tvF.perspective(frame, None, None, coefficients=rotate_and_crop((256, 256), 30, 1, (0, 0), 1))
    assert overlap(wrong, expected) < 0.5


def test_a_scale_is_a_crop_enlarged_to_the_old_size(case):
    mask = disc(96, 128, 60, 40, 20)
    coefficients = rotate_and_crop((96, 128), 0, 1.25, (12.8, 9.6), 1)
    moved = tvF.perspective(mask, None, None, coefficients=coefficients)
    assert overlap(moved, disc(96, 128, (60 - 12.8) * 1.25, (40 - 9.6) * 1.25, 25)) > 0.97


def test_a_scale_shows_nothing_from_outside(rng):
    white = tv_tensors.Image(torch.ones(1, 96, 128))
    mask = disc(96, 128, 64, 48, 20)
    areas = []
    for seed in range(30):
        image, moved, _ = only("scale")(white, mask, rng=np.random.default_rng(seed))
        assert image.min() > 0.999
        areas.append(moved.sum().item() / mask.sum().item())
    assert 1 <= min(areas) < 1.1 and 1.5 < max(areas) <= 1.3**2 * 1.02


def test_image_masks_and_boxes_move_together(rng):
    """Two discs drawn into the image stay under their masks and inside their boxes."""
    masks = torch.cat([disc(200, 200, 70, 90, 20), disc(200, 200, 130, 110, 15)])
    image = tv_tensors.Image(masks.any(0, keepdim=True).float())
    boxes = boxes_of(*masks)
    for seed in range(10):
        augment = Augmentation(**{**OFF, "rotation": 1, "scale": 1, "flip": 0.5})
        moved, moved_masks, moved_boxes = augment(
            image, tv_tensors.Mask(masks), boxes, rng=np.random.default_rng(seed)
        )
        assert overlap(moved[0] > 0.5, moved_masks.any(0)) > 0.98
        for mask, box in zip(moved_masks, moved_boxes, strict=True):
            tight = outer_box(mask)
            assert (box[:2] <= tight[:2] + 1).all() and (box[2:] >= tight[2:] - 1).all()
            sides, tight_sides = box[2:] - box[:2], tight[2:] - tight[:2]
            assert (sides <= 1.45 * tight_sides + 1).all()  # a square turned by 30 degrees is 1.37 times as wide


def test_an_object_that_would_leave_the_frame_is_drawn_again():
    corner = torch.zeros(1, 100, 100, dtype=torch.bool)
    corner[0, :4, :4] = True
    image = tv_tensors.Image(torch.zeros(1, 100, 100))
    changed = 0
    for seed in range(40):
        _, mask, _ = only("scale")(image, tv_tensors.Mask(corner), rng=np.random.default_rng(seed))
        assert mask.any()
        changed += not torch.equal(mask, corner)
    assert changed > 10


def test_an_object_that_every_draw_loses_leaves_the_sample_unchanged():
    corners = torch.zeros(2, 100, 100, dtype=torch.bool)
    corners[0, :4, :4] = corners[1, -4:, -4:] = True  # no crop of half the size holds both
    image = tv_tensors.Image(torch.rand(1, 100, 100))
    augment = only("scale", scale_range=(2, 2), gamma=1)
    for seed in range(5):
        moved = augment(image, tv_tensors.Mask(corners), boxes_of(*corners), rng=np.random.default_rng(seed))
        for before, after in zip((image, corners, boxes_of(*corners)), moved, strict=True):
            assert torch.equal(before, after)


def test_a_mask_without_an_object_has_none_to_lose(rng):
    image, empty = tv_tensors.Image(torch.rand(1, 40, 40)), tv_tensors.Mask(torch.zeros(1, 40, 40, dtype=torch.uint8))
    moved, mask, _ = only("rotation")(image, empty, rng=rng)
    assert not mask.any() and not torch.equal(moved, image)


def test_plain_tensors_and_unequal_frames_are_refused(case, rng):
    image, mask, boxes = case
    with pytest.raises(TypeError, match="mask is of type Tensor; expected torchvision.tv_tensors.Mask"):
        SAMUS_AUGMENTATION(image, torch.zeros(1, 96, 128), rng=rng)
    with pytest.raises(TypeError, match="boxes is of type Tensor"):
        SAMUS_AUGMENTATION(image, mask, torch.zeros(1, 4), rng=rng)
    with pytest.raises(ValueError, match=r"mask \(1, 96, 127\)"):
        SAMUS_AUGMENTATION(image, tv_tensors.Mask(mask[..., 1:]), rng=rng)
    with pytest.raises(ValueError, match=r"mask \(96, 128\)"):
        SAMUS_AUGMENTATION(image, tv_tensors.Mask(mask[0]), rng=rng)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.5}, "gamma is 1.5; expected a probability"),
        ({"noise": -0.5}, "noise is -0.5"),
        ({"scale_range": (0.8, 1.2)}, r"scale_range is \(0.8, 1.2\); expected \(low, high\) with 1 <= low <= high"),
        ({"gamma_range": (0, 2)}, "gamma_range"),
        ({"contrast_range": (2, 1)}, "contrast_range"),
        ({"max_degrees": 200}, "max_degrees is 200; expected 0 to 180"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**settings)
