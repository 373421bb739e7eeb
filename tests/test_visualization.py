"""Overlays colour exactly the object, heat maps say what their colours mean, sheets hold every picture."""

import numpy as np
import pytest
from PIL import Image

from ccsam_hf.visualization import FILL_OPACITY, OBJECT_COLORS, contact_sheet, heatmap, overlay, to_rgb


@pytest.fixture
def image() -> np.ndarray:
    return np.full((100, 120), 100, np.uint8)


def square(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((100, 120), bool)
    mask[rows, columns] = True
    return mask


def test_the_object_is_filled_and_outlined_and_the_rest_untouched(image):
    mask = square(slice(20, 60), slice(30, 90))
    drawn = np.asarray(overlay(image, [mask]))
    color = np.array(OBJECT_COLORS[0])
    assert drawn.shape == (100, 120, 3)
    assert (drawn[~mask] == 100).all()
    assert np.array_equal(drawn[40, 60], np.rint((1 - FILL_OPACITY) * 100 + FILL_OPACITY * color))
    for row, column in ((20, 50), (59, 50), (40, 30), (40, 89)):
        assert np.array_equal(drawn[row, column], color)


def test_objects_have_different_colours_and_the_image_edge_is_outlined(image):
    masks = [square(slice(0, 30), slice(0, 40)), square(slice(50, 100), slice(60, 120))]
    drawn = np.asarray(overlay(image, masks))
    assert np.array_equal(drawn[0, 10], OBJECT_COLORS[0]) and np.array_equal(drawn[99, 100], OBJECT_COLORS[1])
    assert len(set(OBJECT_COLORS)) == len(OBJECT_COLORS)


def test_boxes_and_points_are_drawn(image):
    empty = np.zeros((100, 120), bool)
    drawn = np.asarray(overlay(image, [empty], [[10, 20, 80, 90]], [[(50, 40), (70, 40)]], [[1, 0]]))
    assert np.array_equal(drawn[20, 40], OBJECT_COLORS[0]) and np.array_equal(drawn[50, 10], OBJECT_COLORS[0])
    assert (drawn[40, 50] == 255).all() and (drawn[40, 70] == 0).all()
    assert np.array_equal(overlay(image, [empty], [None]), to_rgb(image))


@pytest.mark.parametrize(
    "convert",
    [
        Image.fromarray,
        lambda a: Image.fromarray(a.astype(np.uint16) * 257),
        lambda a: a.astype(np.uint16) * 257,
        lambda a: a / 255,
        lambda a: np.stack([a] * 3, -1),
        lambda a: Image.fromarray(a).convert("RGBA"),
    ],
)
def test_every_form_of_an_image_is_shown_alike(image, convert):
    assert np.array_equal(np.asarray(to_rgb(convert(image))), np.full((100, 120, 3), 100))


def test_the_heat_map_leaves_zero_alone_and_says_its_limit(image):
    values = np.zeros((100, 120), np.float32)
    values[40:60, 40:60] = 0.25
    drawn = heatmap(image, values)
    assert drawn.height == 100 and drawn.width > 120
    pixels = np.asarray(drawn)
    assert (pixels[:40, :120] == 100).all()
    assert pixels[50, 50, 0] > 200 and pixels[50, 50, 2] < 80  # the bright end: yellow
    assert not np.array_equal(pixels[:, 120:], np.asarray(heatmap(image, values, limit=0.5))[:, 120:])
    assert (np.asarray(heatmap(image, values * 0))[:, :120] == 100).all()


def test_the_heat_map_shows_larger_values_brighter(image):
    values = np.tile(np.linspace(0.05, 0.5, 120, dtype=np.float32), (100, 1))
    brightness = np.asarray(heatmap(image * 0, values).convert("L"))[50, :120].astype(int)
    assert (np.diff(brightness[::10]) > 0).all()


def test_a_sheet_holds_every_picture_and_title():
    pictures = [
        Image.new("RGB", size, color) for size, color in (((90, 30), "red"), ((10, 40), "lime"), ((5, 5), "blue"))
    ]
    sheet = np.asarray(contact_sheet(pictures, ["a", "b", "c"], columns=2, tile_size=64))
    assert sheet.shape == (2 * (64 + 18 + 6) + 6, 2 * (64 + 6) + 6, 3)
    for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255)):
        assert (sheet == color).all(-1).any()
    assert (sheet.sum(-1) < 200).any()  # the titles' black


def test_what_does_not_fit_is_refused(image):
    with pytest.raises(ValueError, match=r"mask 0 has shape \(3, 3\); expected \(100, 120\)"):
        overlay(image, [np.ones((3, 3), bool)])
    with pytest.raises(ValueError, match="the size of the image"):
        heatmap(image, np.zeros((3, 3)))
    for bad in (np.nan, -1.0):
        with pytest.raises(ValueError, match="NaN, infinity or negative"):
            heatmap(image, np.full((100, 120), bad))
    with pytest.raises(ValueError, match="limit=0"):
        heatmap(image, np.zeros((100, 120)), limit=0)
    with pytest.raises(ValueError, match="image has shape"):
        to_rgb(np.zeros((2, 3, 4, 5)))
    for arguments in (([], []), ([Image.new("L", (3, 3))], [])):
        with pytest.raises(ValueError, match="at least one picture"):
            contact_sheet(*arguments)
