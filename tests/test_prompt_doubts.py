"""A box that is no x0 y0 x1 y1, and points that mean several objects, are told; good prompts are not."""

import numpy as np
import pytest

from ccsam_hf.prompt_doubts import doubt_about_box, doubt_about_points


def ellipse(x0: float, y0: float, x1: float, y1: float, shape: tuple[int, int] = (400, 500)) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    across = (x + 0.5 - (x0 + x1) / 2) / ((x1 - x0) / 2)
    return across**2 + ((y + 0.5 - (y0 + y1) / 2) / ((y1 - y0) / 2)) ** 2 <= 1


@pytest.mark.parametrize(("x", "y", "width", "height"), [(60, 50, 150, 120), (100, 80, 160, 150), (40, 30, 200, 180)])
def test_x_y_width_height_is_told(x, y, width, height):
    truth = ellipse(x, y, x + width, y + height)
    read_as = truth.copy()
    read_as[:, width:] = read_as[height:] = False  # the mask of the box x, y, width, height read as corners
    message = doubt_about_box(read_as, (x, y, width, height))
    assert "may be x, y, width, height" in message and f"({x}, {y}, {x + width}, {y + height})" in message


@pytest.mark.parametrize("jitter", [-0.1, -0.05, 0, 0.05, 0.2])
def test_a_box_around_its_object_is_not_doubted(jitter):
    x0, y0, x1, y1 = 60, 50, 210, 170
    across, down = jitter * (x1 - x0), jitter * (y1 - y0)
    assert doubt_about_box(ellipse(x0, y0, x1, y1), (x0 - across, y0 - down, x1 + across, y1 + down)) is None
    assert doubt_about_box(np.ones((400, 500), dtype=bool), (x0, y0, x1, y1)) is None


def test_a_box_without_an_object_or_of_a_few_pixels_is_told():
    assert "covers less than 2%" in doubt_about_box(ellipse(300, 300, 340, 340), (60, 50, 210, 170))
    assert "is 2 x 120 pixels" in doubt_about_box(ellipse(60, 50, 62, 170), (60, 50, 62, 170))
    assert doubt_about_box(np.ones((4, 4), dtype=bool), (0, 0, 2, 2)) is None


def test_points_outside_the_mask_may_mean_several_objects():
    mask = ellipse(60, 50, 210, 170)
    message = doubt_about_points(mask, [[130, 110], [350, 300]], [1, 1])
    assert "(350, 300)" in message and "points=[[[x, y]], [[x, y]]]" in message and "\n" not in message
    assert doubt_about_points(mask, [[130, 110], [350, 300]], [1, 0]) is None
    assert doubt_about_points(mask, [[130, 110], [140, 120]], [1, 1]) is None
    assert doubt_about_points(mask, [[350, 300]], [1]) is None
