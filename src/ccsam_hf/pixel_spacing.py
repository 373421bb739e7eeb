"""DICOM header -> the pixel spacing in millimetres and where in the image it holds (`PixelSpacing`)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

CENTIMETRES = 3  # of Physical Units X/Y Direction, DICOM PS3.3 C.8.5.5.1.15
NO_FORMAT, TISSUE_IMAGE = 0, 1  # of Region Spatial Format: "none or not applicable" and "2D", DICOM PS3.3 C.8.5.5.1.1
HIGH_PRIORITY = 1  # bit of Region Flags, DICOM PS3.3 C.8.5.5.1.3
LOCATION = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")
SAME = 1e-4  # relative difference of two spacings that are one, written with different digits
STATES_NONE = "the file states no pixel spacing"


@dataclass(frozen=True)
class Region:
    """A rectangle of an image with one calibration.

    Attributes:
        box_xyxy: x0, y0, x1, y1, pixels of the image; edges.
        spacing_mm: (between rows, between columns) in millimetres; None where its pixels have no size in space, as in
            a spectrum or an uncalibrated view.
        priority: where two regions overlap, the pixels belong to the one with the higher number.
        spatial_format: code of DICOM's Region Spatial Format; 1 is a picture.
    """

    box_xyxy: tuple[int, int, int, int]
    spacing_mm: tuple[float, float] | None
    priority: int = 0
    spatial_format: int = TISSUE_IMAGE

    def holds_any(self, mask_binary: np.ndarray) -> bool:
        """Whether a pixel of the mask lies in it."""
        x0, y0, x1, y1 = self.box_xyxy
        return bool(mask_binary[y0:y1, x0:x1].any())

    def holds_all(self, mask_binary: np.ndarray) -> bool:
        """Whether every pixel of the mask lies in it."""
        x0, y0, x1, y1 = self.box_xyxy
        return int(mask_binary[y0:y1, x0:x1].sum()) == int(mask_binary.sum())

    def __str__(self) -> str:
        x0, y0, x1, y1 = self.box_xyxy
        return f"x {x0} to {x1}, y {y0} to {y1}"


@dataclass(frozen=True)
class PixelSpacing:
    """What a file says of the size of its pixels.

    Attributes:
        regions: where a spacing holds, and where none does; empty where the file states none that can be used.
        reason: why there is none anywhere; None where there are regions.
    """

    regions: tuple[Region, ...] = ()
    reason: str | None = None

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        """The spacing that all calibrated regions share; None where there is none, or several."""
        found = [region.spacing_mm for region in self.regions if region.spacing_mm is not None]
        return found[0] if found and all(is_same(each, found[0]) for each in found) else None

    def holds_throughout(self, size: tuple[int, int]) -> bool:
        """Whether one spacing holds in the whole of an image of a size (H0, W0)."""
        return len(self.regions) == 1 and self.regions[0].box_xyxy == (0, 0, *size[::-1]) and bool(self.spacing_mm)

    def at_mask(self, mask_binary: np.ndarray) -> tuple[tuple[float, float] | None, str | None]:
        """The spacing that holds at every pixel of a mask.

        Args:
            mask_binary: (H0, W0) bool, at the size of the image.

        Returns:
            The spacing and None, or None and the reason why there is none. Two views beside each other are two
            regions, also where their spacing is one: a distance from one to the other is none in the body.
        """
        if not self.regions:
            return None, self.reason
        if not mask_binary.any():
            return self.spacing_mm, None if self.spacing_mm else "several pixel spacings hold in parts of the image"
        touched = [region for region in self.regions if region.holds_any(mask_binary)]
        calibrated = [region for region in touched if region.spacing_mm is not None]
        around = [region for region in calibrated if region.holds_all(mask_binary)]
        if not calibrated:
            return None, "the mask lies outside of the regions for which the file states a pixel spacing"
        if not around:
            where = "; ".join(str(region) for region in calibrated)
            return None, f"the mask leaves the region for which the file states a pixel spacing ({where})"
        chosen = max(around, key=lambda region: region.priority)
        rivals = [region for region in touched if region.priority >= chosen.priority]
        if not all(is_same(region.spacing_mm, chosen.spacing_mm) for region in rivals):
            return None, "the mask lies where regions of different calibration overlap"
        return chosen.spacing_mm, None


def is_same(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    """Whether two spacings are equal up to rounding; two missing ones are."""
    if one is None or other is None:
        return one is other
    return all(math.isclose(*sides, rel_tol=SAME) for sides in zip(one, other, strict=True))


def plain_spacing(spacing: tuple[float, float] | PixelSpacing | None) -> tuple[float, float] | None:
    """The spacing as two numbers, for files that know one spacing an image; None where there are none, or several."""
    return spacing.spacing_mm if isinstance(spacing, PixelSpacing) else spacing


def simplified(spacing: PixelSpacing, size: tuple[int, int]) -> tuple[float, float] | PixelSpacing | None:
    """Two numbers where one spacing holds in all of an image of a size (H0, W0), None where the file states none."""
    if spacing.holds_throughout(size):
        return spacing.spacing_mm
    return None if spacing.reason == STATES_NONE else spacing


def spacing_at(
    mask_binary: np.ndarray, spacing: tuple[float, float] | PixelSpacing | None
) -> tuple[tuple[float, float] | None, str | None]:
    """The spacing at a mask, and why there is none where a file's own does not hold there."""
    return spacing.at_mask(mask_binary) if isinstance(spacing, PixelSpacing) else (spacing, None)


def spacing_of_dicom(dataset: Any) -> PixelSpacing:
    """What a DICOM header says of the size of its pixels.

    Source: DICOM PS3.3 C.8.5.5 (US Region Calibration, Physical Delta X/Y) and 10.7.1.3 (Pixel Spacing). A header with
    a calibrated region is followed there alone; Pixel Spacing holds for the whole image where there is none.
    """
    height, width = int(dataset.Rows), int(dataset.Columns)
    items = list(dataset.get("SequenceOfUltrasoundRegions") or [])
    for _, _, x1, y1 in filter(None, map(location_of, items)):
        # Writers disagree whether the last pixel belongs to a region: one pixel beyond the image is not outside.
        if x1 > width or y1 > height:
            return PixelSpacing(
                reason=f"a region of the header ends at x {x1}, y {y1}, outside the image of {width} x {height} "
                "pixels: the image was cropped or rescaled after its header was written"
            )
    regions, problems = [], []
    for item in items:
        try:
            region = region_of(item, (height, width))
        except ValueError as error:
            problems.append(str(error))
        else:
            regions += [region] if region else []
    if any(region.spacing_mm for region in regions):
        return PixelSpacing(tuple(regions))
    try:
        spacing_mm = pixel_spacing_of(dataset)
    except ValueError as error:
        problems.append(str(error))
        spacing_mm = None
    if spacing_mm is None:
        return PixelSpacing(reason="; ".join(problems) or STATES_NONE)
    # Of a picture whose region states no units, Pixel Spacing holds; of a spectrum or a trace it does not.
    elsewhere = [region for region in regions if region.spatial_format != TISSUE_IMAGE]
    return PixelSpacing((Region((0, 0, width, height), spacing_mm, priority=-1), *elsewhere))


def location_of(item: Any) -> tuple[int, ...] | None:
    """x0, y0, x1, y1 of a region, the last pixel included; None where the header does not say."""
    numbers = read_numbers([item.get(name) for name in LOCATION])
    return numbers and tuple(int(number) for number in numbers)


def region_of(item: Any, size: tuple[int, int]) -> Region | None:
    """One item of the Sequence of Ultrasound Regions of an image of a size (H0, W0).

    Returns:
        The region; None for one that says nothing of the size of pixels.

    Raises:
        ValueError: it says what cannot be used.
    """
    spatial_format = item.get("RegionSpatialFormat", TISSUE_IMAGE)
    units = item.get("PhysicalUnitsXDirection"), item.get("PhysicalUnitsYDirection")
    location = location_of(item)
    spacing_mm = None
    if spatial_format == TISSUE_IMAGE and units == (CENTIMETRES, CENTIMETRES):
        given = item.get("PhysicalDeltaY"), item.get("PhysicalDeltaX")
        deltas = read_numbers(given)
        if deltas is None or 0 in deltas:
            raise ValueError(f"a region of the header has the deltas {given[0]} and {given[1]} cm between pixels")
        if location is None:
            raise ValueError("a calibrated region of the header does not say where it lies")
        spacing_mm = tuple(round(abs(delta) * 10, 7) for delta in deltas)
    elif location is None or spatial_format == NO_FORMAT:
        return None
    x0, y0, x1, y1 = location
    if min(x0, y0) < 0 or x1 <= x0 or y1 <= y0:
        raise ValueError(f"a region of the header has no area (x {x0} to {x1}, y {y0} to {y1})")
    priority = int((read_numbers([item.get("RegionFlags")]) or (0,))[0]) & HIGH_PRIORITY
    return Region((x0, y0, min(x1 + 1, size[1]), min(y1 + 1, size[0])), spacing_mm, priority, spatial_format)


def pixel_spacing_of(dataset: Any) -> tuple[float, float] | None:
    """Pixel Spacing of a header; None where there is none, ValueError where it cannot be used."""
    try:
        value = dataset.get("PixelSpacing")
    except (ValueError, TypeError) as error:  # pydicom converts a value when it is asked for
        raise ValueError(f"the header's Pixel Spacing cannot be read ({error})") from error
    if value in (None, ""):
        return None
    numbers = read_numbers(value if hasattr(value, "__iter__") else [value])
    if numbers is None or len(numbers) != 2 or min(numbers) <= 0:
        raise ValueError(f"the header's Pixel Spacing is {value}; expected two numbers above zero")
    return numbers


def read_numbers(values: Any) -> tuple[float, ...] | None:
    """Values as finite floats; None where one is missing or none."""
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return numbers if numbers and all(math.isfinite(number) for number in numbers) else None


__all__ = ["PixelSpacing", "Region", "plain_spacing", "spacing_at", "spacing_of_dicom"]
