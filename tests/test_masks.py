"""Mask files hold their object in a value, a colour, a palette or an alpha channel, with sharp or smooth edges."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from ccsam_hf.data.audit.looks import look_at
from ccsam_hf.data.cases import Case
from ccsam_hf.data.readers import read_cases

SIZE = (60, 80)
OBJECT = np.zeros(SIZE, dtype=bool)
OBJECT[20:40, 30:60] = True


def on_ground(ground: tuple[int, ...], drawn: tuple[int, ...]) -> Image.Image:
    values = np.empty((*SIZE, len(ground)), dtype=np.uint8)
    values[:] = ground
    values[OBJECT] = drawn
    return Image.fromarray(values)


def paletted(colours: list[tuple[int, int, int]], indices: np.ndarray, **info) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8), mode="P")
    image.putpalette([channel for colour in colours for channel in colour])
    image.info.update(info)
    return image


@pytest.fixture
def folder(tmp_path, rng) -> Path:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.fromarray(rng.integers(0, 256, SIZE, dtype=np.uint8)).save(tmp_path / "images" / "a.png")
    return tmp_path


def case_with(folder: Path, mask: Image.Image) -> Case:
    mask.save(folder / "masks" / "a.png", **({"transparency": 0} if "transparency" in mask.info else {}))
    (case,) = read_cases(folder, "folder")
    return case


WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)
MASKS = {
    "transparent white ground": lambda: on_ground((*WHITE, 0), (*RED, 255)),
    "transparent white ground, white object": lambda: on_ground((*WHITE, 0), (*WHITE, 255)),
    "transparent black ground, black object": lambda: on_ground((*BLACK, 0), (*BLACK, 255)),
    "half transparent object": lambda: on_ground((*WHITE, 0), (*RED, 160)),
    "opaque black ground with alpha": lambda: on_ground((*BLACK, 255), (*WHITE, 255)),
    "grey with alpha": lambda: on_ground((255, 0), (255, 255)),
    "palette with white ground": lambda: paletted([WHITE, RED], OBJECT),
    "palette with black ground last": lambda: paletted([WHITE, BLACK], ~OBJECT),
    "palette with transparent ground": lambda: paletted([WHITE, RED], OBJECT, transparency=0),
    "palette that is all black": lambda: paletted([BLACK, BLACK], OBJECT),
    "colour on black": lambda: on_ground(BLACK, RED),
    "small values": lambda: Image.fromarray(OBJECT.astype(np.uint8)),
}


@pytest.mark.parametrize("name", MASKS)
def test_the_object_is_what_is_drawn(folder, name):
    case = case_with(folder, MASKS[name]())
    assert np.array_equal(case.mask, OBJECT)
    assert not {"full mask", "empty mask"} & {finding.kind for finding in look_at([case], set()).findings}


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_smoothed_edge_is_cut_at_half_brightness(folder, mode):
    smooth = Image.fromarray(OBJECT.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(2))
    expected = np.asarray(smooth) >= 128
    mask = smooth.convert(mode)
    if mode == "RGBA":  # the edge lies in the alpha channel
        mask = Image.new("RGBA", mask.size, (*RED, 0))
        mask.putalpha(smooth)
    case = case_with(folder, mask)
    assert np.array_equal(case.mask, expected)
    assert abs(int(case.mask.sum()) - int(OBJECT.sum())) < 0.03 * OBJECT.sum()  # every value but zero adds 41 %


def test_an_empty_mask_stays_empty(folder):
    assert not case_with(folder, on_ground((*BLACK, 255), (*BLACK, 255))).mask.any()
    assert not case_with(folder, on_ground((*WHITE, 0), (*WHITE, 0))).mask.any()


@pytest.mark.parametrize("mask", [on_ground((*BLACK, 255), (*RED, 255)), paletted([BLACK, RED, WHITE], OBJECT)])
def test_several_labels_are_refused_in_colour_and_palette_too(folder, mask):
    second = np.array(mask)
    second[2:12, 2:12] = (0, 255, 0, 255) if second.ndim == 3 else 2
    both = Image.fromarray(second) if second.ndim == 3 else paletted([BLACK, RED, WHITE], second)
    with pytest.raises(ValueError, match="a.png holds the values .*expected one object"):
        _ = case_with(folder, both).mask


def test_two_colours_without_a_ground_are_refused(folder):
    with pytest.raises(ValueError, match="a.png holds the values #ff0000, #ffffff; expected one object"):
        _ = case_with(folder, on_ground(WHITE, RED)).mask
