"""Measurements against shapes whose size is known, in pixels and in millimetres."""

import math

import numpy as np
import pytest

from ccsam_hf.measurements import measure_mask


def rectangle(height: int, width: int) -> np.ndarray:
    mask = np.zeros((60, 80), bool)
    mask[10 : 10 + height, 20 : 20 + width] = True
    return mask


def test_one_pixel_is_one_long():
    measured = measure_mask(rectangle(1, 1))
    assert (measured.area_px, measured.longest_diameter_px, measured.short_axis_px) == (1, 1.0, 1.0)
    assert measured.centroid_px == (20.0, 10.0)


@pytest.mark.parametrize("length", [2, 7, 40])
def test_a_row_of_n_pixels_is_n_long(length):
    for mask in (rectangle(1, length), rectangle(length, 1)):
        measured = measure_mask(mask)
        assert measured.longest_diameter_px == pytest.approx(length)
        assert measured.short_axis_px == pytest.approx(1)


def test_a_rectangle_is_measured_along_its_diagonal():
    measured = measure_mask(rectangle(30, 40))
    assert measured.area_px == 1200
    assert measured.longest_diameter_px == pytest.approx(math.hypot(29, 40))  # between the middles of pixels' sides
    assert measured.centroid_px == (39.5, 24.5)


@pytest.mark.parametrize("radius", [5, 20, 60])
def test_a_disc_is_two_radii_and_the_middle_pixel_wide(radius):
    rows, columns = np.mgrid[:150, :150]
    measured = measure_mask(np.hypot(rows - 70, columns - 75) <= radius)
    assert measured.longest_diameter_px == pytest.approx(2 * radius + 1, abs=0.5)
    assert measured.short_axis_px == pytest.approx(2 * radius + 1, abs=0.5)
    assert measured.area_px == pytest.approx(math.pi * radius**2, rel=0.05)
    assert measured.centroid_px == pytest.approx((75, 70))


def test_a_turned_ellipse_has_its_own_axes():
    rows, columns = np.mgrid[:200, :200] - 100
    angle = math.radians(30)
    along, across = (
        columns * math.cos(angle) + rows * math.sin(angle),
        rows * math.cos(angle) - columns * math.sin(angle),
    )
    measured = measure_mask((along / 80) ** 2 + (across / 30) ** 2 <= 1)
    assert measured.longest_diameter_px == pytest.approx(160, abs=1.5)
    assert measured.short_axis_px == pytest.approx(60, abs=1.5)


def test_parts_that_are_not_connected_are_measured_together():
    mask = np.zeros((10, 50), bool)
    mask[5, 2] = mask[5, 41] = True
    measured = measure_mask(mask)
    assert (measured.area_px, measured.longest_diameter_px, measured.centroid_px) == (2, 40.0, (21.5, 5.0))


def test_millimetres_use_the_spacing_of_each_axis():
    measured = measure_mask(rectangle(30, 40), spacing_mm=(0.5, 0.1))
    assert measured.area_mm2 == pytest.approx(1200 * 0.05)
    assert measured.longest_diameter_mm == pytest.approx(math.hypot(15, 3.9))  # now along the rows' direction
    row = measure_mask(rectangle(1, 40), spacing_mm=(0.5, 0.1))
    assert (row.longest_diameter_mm, row.short_axis_mm) == pytest.approx((4.0, 0.5))
    assert row.longest_diameter_px == pytest.approx(40)


def test_an_empty_mask_measures_nothing():
    measured = measure_mask(np.zeros((5, 5), bool), spacing_mm=(1, 1))
    assert (measured.area_px, measured.longest_diameter_px, measured.short_axis_px) == (0, 0.0, 0.0)
    assert (measured.area_mm2, measured.longest_diameter_mm, measured.short_axis_mm) == (0.0, 0.0, 0.0)
    assert measured.centroid_px is None and measured.to_dict()["centroid_px"] is None


def test_the_dictionary_has_millimetres_only_with_a_spacing():
    assert list(measure_mask(rectangle(2, 2)).to_dict()) == [
        "area_px",
        "longest_diameter_px",
        "short_axis_px",
        "centroid_px",
    ]
    assert "area_mm2" in measure_mask(rectangle(2, 2), (1, 1)).to_dict()


def test_wrong_masks_and_spacings_are_refused():
    with pytest.raises(TypeError, match="float64; expected bool"):
        measure_mask(np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"\(2, 4, 4\); expected \(height, width\)"):
        measure_mask(np.zeros((2, 4, 4), bool))
    for spacing in ((0, 1), (1, -1), (float("nan"), 1), (1, 1, 1), (1,)):
        with pytest.raises(ValueError, match="two numbers above zero"):
            measure_mask(np.zeros((4, 4), bool), spacing)
