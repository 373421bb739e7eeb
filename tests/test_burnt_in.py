"""What is burnt into an image: strokes and colour that are found, and tissue that is not taken for them."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from ccsam_hf.data.audit.burnt_in import colored_pixels, stroke_pixels


@pytest.fixture
def tissue() -> np.ndarray:
    """Speckle that is wider than it is tall, with a bright line of fascia."""
    speckle = gaussian_filter(np.random.default_rng(0).normal(size=(200, 240)), (2, 5))
    image = 90 + 25 * speckle / speckle.std()
    image[60:63] = 230
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def draw_on(image: np.ndarray, what: str) -> np.ndarray:
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    if what == "text":
        draw.text((40, 150), "RIGHT BREAST", fill=255, font=ImageFont.load_default(12))
    elif what == "cross":
        draw.line((95, 120, 105, 120), fill=255)
        draw.line((100, 114, 100, 126), fill=255)
    elif what == "broken line":
        for y in range(90, 170, 6):
            draw.line((120, y, 120, y + 3), fill=255)
    return np.asarray(picture)


def test_tissue_has_no_strokes(tissue):
    assert not stroke_pixels(tissue).any()
    assert not stroke_pixels(np.zeros((50, 60), np.uint8)).any()


def blurred_echo(tissue: np.ndarray, what: str) -> np.ndarray:
    """Tissue with a bright echo that is narrow, but blurred as echoes are."""
    echo = Image.new("L", tissue.shape[::-1])
    draw = ImageDraw.Draw(echo)
    if what == "skull":
        draw.ellipse((60, 90, 180, 180), outline=255, width=3)
    elif what == "reflectors":
        for x, y in ((70, 110), (120, 130), (160, 150)):
            draw.line((x, y, x + 2, y + 7), fill=255, width=2)
    blurred = gaussian_filter(np.asarray(echo, dtype=float), (1.0, 1.8))
    return np.clip(tissue * 0.4 + blurred / blurred.max() * 200, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("what", ["skull", "reflectors"])
def test_a_narrow_bright_echo_is_no_stroke(tissue, what):
    assert not stroke_pixels(blurred_echo(tissue, what)).any()


def test_the_edge_of_a_sector_beside_bright_tissue_is_no_stroke(tissue):
    rows, columns = np.mgrid[: tissue.shape[0], : tissue.shape[1]]
    near_edge = np.exp(-(((columns - 60 - rows // 2) / 4) ** 2))
    sector = np.where(columns >= 60 + rows // 2, np.clip(tissue * 0.4 + 200 * near_edge, 0, 255), 0)
    assert not stroke_pixels(sector.astype(np.uint8)).any()


@pytest.mark.parametrize("what", ["text", "cross", "broken line"])
def test_strokes_are_found_where_they_were_drawn(tissue, what):
    marked = draw_on(tissue, what)
    found = stroke_pixels(marked)
    assert found.any() and not (found & (marked == tissue)).any()


def test_marks_at_the_edge_do_not_count(tissue):
    marked = tissue.copy()
    marked[2:40:2, 3] = 255
    assert not stroke_pixels(marked).any()


def test_colour_counts_in_an_otherwise_grey_picture_alone(tissue):
    picture = np.stack([tissue] * 3, axis=2)
    assert not colored_pixels(picture).any()
    picture[100:110, 100:105] = (255, 255, 0)
    assert np.array_equal(np.argwhere(colored_pixels(picture))[[0, -1]], [[100, 100], [109, 104]])
    picture[..., 2] = 0  # tinted as a whole
    assert not colored_pixels(picture).any()
