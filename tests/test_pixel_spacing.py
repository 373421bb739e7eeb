"""A file's spacing holds within its region; where it does not, there are no millimetres and a reason."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="reading DICOM needs the extra `data`")

from ccsam_hf import CCSamImageProcessor, CCSamPipeline, CCSamProcessor  # noqa: E402
from ccsam_hf.data.readers import read_cases  # noqa: E402
from ccsam_hf.image_files import read_image  # noqa: E402
from ccsam_hf.measurements import measure_mask  # noqa: E402
from ccsam_hf.pixel_spacing import PixelSpacing, plain_spacing, spacing_of_dicom  # noqa: E402
from test_image_files import write_dicom  # noqa: E402

SIZE = (100, 120)
LEFT, RIGHT = (0, 20, 59, 99), (60, 20, 119, 99)
SPECTRUM = {"units": 4, "spatial_format": 3}
FULL = (0, 0, 119, 99)


def region(box, delta=0.02, delta_x=None, units=3, spatial_format=1, flags=0) -> pydicom.Dataset:
    """One ultrasound region; x0, y0, x1, y1 with the last pixel, deltas in centimetres where units is 3."""
    item = pydicom.Dataset()
    names = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")
    for name, value in zip(names, box or (), strict=False):
        setattr(item, name, value)
    item.RegionSpatialFormat, item.RegionFlags = spatial_format, flags
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = units
    item.PhysicalDeltaY, item.PhysicalDeltaX = delta, delta if delta_x is None else delta_x
    return item


def spacing_of(*regions, **attributes) -> PixelSpacing:
    header = pydicom.Dataset()
    header.Rows, header.Columns = SIZE
    header.SequenceOfUltrasoundRegions = list(regions)
    for name, value in attributes.items():
        setattr(header, name, value)
    return spacing_of_dicom(header)


def mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    drawn = np.zeros(SIZE, dtype=bool)
    drawn[y0:y1, x0:x1] = True
    return drawn


IN_LEFT, IN_RIGHT, ACROSS, ABOVE = mask(10, 30, 30, 50), mask(70, 30, 90, 50), mask(50, 30, 70, 50), mask(10, 2, 30, 9)


def measured(spacing: PixelSpacing, drawn: np.ndarray) -> tuple[float | None, str | None]:
    found = measure_mask(drawn, spacing)
    assert (found.area_mm2 is None) == (found.longest_diameter_mm is None) == (found.no_mm_reason is not None)
    return found.area_mm2, found.no_mm_reason


def test_millimetres_are_those_of_the_region_around_the_mask():
    dual = spacing_of(region(LEFT, 0.02), region(RIGHT, 0.04, 0.01))
    assert measured(dual, IN_LEFT) == (pytest.approx(400 * 0.2 * 0.2), None)
    assert measured(dual, IN_RIGHT) == (pytest.approx(400 * 0.4 * 0.1), None)
    assert "leaves the region" in measured(dual, ACROSS)[1]
    assert plain_spacing(dual) is None


def test_a_mask_outside_of_the_region_has_none():
    inset = spacing_of(region((5, 5, 30, 30), 0.2))
    assert "outside of the regions" in measured(inset, IN_RIGHT)[1]
    assert "leaves the region (" not in measured(inset, IN_RIGHT)[1]
    assert measured(inset, mask(5, 5, 31, 31)) == (pytest.approx(26 * 26 * 4.0), None)  # the last pixel belongs to it
    assert "x 5 to 31, y 5 to 31" in measured(inset, mask(5, 5, 32, 31))[1]


def test_an_uncalibrated_half_has_none():
    half = spacing_of(region(LEFT), region(RIGHT, units=0))
    assert measured(half, IN_LEFT)[0] is not None
    assert measured(half, IN_RIGHT)[0] is None and measured(half, ACROSS)[0] is None


@pytest.mark.parametrize("noise", [0.0, 3e-10])
def test_equal_regions_have_one_spacing(noise):
    dual = spacing_of(region(LEFT, 0.02 + noise), region(RIGHT, 0.02))
    assert plain_spacing(dual) == pytest.approx((0.2, 0.2))
    assert measured(dual, IN_LEFT)[0] == pytest.approx(16) and measured(dual, IN_RIGHT)[0] == pytest.approx(16)
    assert "leaves the region" in measured(dual, ACROSS)[1]  # of one view into another
    twice = spacing_of(region(LEFT, 0.02 + noise), region(LEFT, 0.02))
    assert measured(twice, IN_LEFT)[0] == pytest.approx(16)


def test_overlapping_regions_of_different_calibration_have_none_unless_one_has_priority():
    inset = (10, 30, 40, 60)
    alike = spacing_of(region(FULL, 0.02), region(inset, 0.1))
    assert "overlap" in measured(alike, IN_LEFT)[1]
    assert measured(alike, IN_RIGHT)[0] == pytest.approx(16)
    first = spacing_of(region(FULL, 0.02), region(inset, 0.1, flags=1))
    assert measured(first, IN_LEFT)[0] == pytest.approx(400)
    assert "overlap" in measured(first, mask(5, 30, 30, 50))[1]
    assert "overlap" in measured(spacing_of(region(FULL), region(inset, **SPECTRUM)), IN_LEFT)[1]


@pytest.mark.parametrize("box", [(0, 20, 130, 99), (0, 20, 119, 140), (200, 200, 300, 300)])
def test_regions_that_end_outside_the_image_hold_nowhere(box):
    spacing = spacing_of(region(LEFT), region(box, **SPECTRUM), PixelSpacing=[0.3, 0.3])
    assert "cropped or rescaled" in measured(spacing, IN_LEFT)[1]


def test_a_last_pixel_that_is_counted_from_one_is_not_outside():
    assert measured(spacing_of(region((0, 0, 120, 100))), IN_LEFT)[0] == pytest.approx(16)


def test_a_spectrum_beside_the_picture_is_none():
    duplex = spacing_of(region((0, 0, 119, 49)), region((0, 50, 119, 99), 0.5, **SPECTRUM))
    assert measured(duplex, mask(10, 10, 30, 30))[0] == pytest.approx(16)
    assert "outside" in measured(duplex, mask(10, 60, 30, 80))[1]


@pytest.mark.parametrize("delta", [float("nan"), float("inf"), 0.0])
def test_deltas_that_are_no_length_give_none(delta):
    assert "has the deltas" in measured(spacing_of(region(LEFT, delta, 0.02)), IN_LEFT)[1]


def test_a_calibrated_region_without_a_place_holds_nowhere():
    assert "does not say where" in measured(spacing_of(region(None)), IN_LEFT)[1]
    assert "no area" in measured(spacing_of(region((50, 50, 10, 10))), IN_LEFT)[1]


@pytest.mark.parametrize(
    "given", [[0.3], 0.3, [0.3, float("nan")], [-0.3, 0.3], [0.3, 0.3, 0.3], [0, 0], [float("inf"), 1]]
)
def test_a_pixel_spacing_that_is_not_two_lengths_gives_none(given):
    assert "Pixel Spacing is" in measured(spacing_of(PixelSpacing=given), IN_LEFT)[1]


def test_pixel_spacing_holds_where_no_region_is_calibrated():
    plain = spacing_of(PixelSpacing=[0.3, 0.15])
    assert plain.holds_throughout(SIZE) and measured(plain, mask(*FULL))[0] == pytest.approx(119 * 99 * 0.045)
    beside = spacing_of(region(LEFT, units=0), region(RIGHT, **SPECTRUM), PixelSpacing=[0.3, 0.15])
    assert measured(beside, IN_LEFT)[0] == pytest.approx(400 * 0.045)
    assert "overlap" in measured(beside, IN_RIGHT)[1]
    both = spacing_of(region(LEFT), PixelSpacing=[0.3, 0.15])
    assert measured(both, IN_LEFT)[0] == pytest.approx(16) and measured(both, IN_RIGHT)[0] is None


def test_a_header_without_a_word_says_so():
    assert measured(spacing_of(), IN_LEFT) == (None, "the file states no pixel spacing")
    assert measure_mask(IN_LEFT, None).no_mm_reason is None
    assert "no_mm_reason" not in measure_mask(IN_LEFT, (1, 1)).to_dict()


def test_the_pipeline_says_why_there_are_no_millimetres(tmp_path, tiny_model, rng):
    values = rng.integers(0, 256, SIZE, dtype=np.uint8)
    path = write_dicom(tmp_path / "a.dcm", values, SequenceOfUltrasoundRegions=[region((5, 5, 9, 9))])
    pipe = CCSamPipeline(tiny_model, CCSamProcessor(CCSamImageProcessor()))
    (result,) = pipe(path, boxes=[[60, 30, 110, 80]])
    fields = result.measurements.to_dict()
    assert "region" in fields["no_mm_reason"] or not result.mask.any()
    assert pipe(path, boxes=[[60, 30, 110, 80]], spacing_mm=(1, 1))[0].measurements.area_mm2 is not None


@pytest.mark.parametrize(
    "attributes, expected",
    [
        ({"SequenceOfUltrasoundRegions": [region(LEFT)]}, {"in": (0.2, 0.2), "out": None}),
        ({"SequenceOfUltrasoundRegions": [region(LEFT, float("nan"))]}, {"in": None, "out": None}),
        ({"PixelSpacing": [0.3]}, {"in": None, "out": None}),
        ({"PixelSpacing": [0.3, 0.15]}, {"in": (0.3, 0.15), "out": (0.3, 0.15)}),
    ],
)
def test_a_case_has_the_spacing_that_holds_at_its_mask(tmp_path, rng, caplog, attributes, expected):
    for name, drawn in (("in", IN_LEFT), ("out", ACROSS)):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        write_dicom(tmp_path / "images" / f"{name}.dcm", rng.integers(0, 256, SIZE, dtype=np.uint8), **attributes)
        Image.fromarray(drawn).save(tmp_path / "masks" / f"{name}.png")
    cases = read_cases(Path(tmp_path), "dicom")
    assert {case.name: case.spacing_mm for case in cases} == expected
    assert ("no mm" in caplog.text) == (None in expected.values())
    assert plain_spacing(read_image(tmp_path / "images" / "in.dcm")[1]) == expected["in"]
