"""Masks that hold more than one object: the table of their values, and a mask that refuses them (`ObjectMask`).

    labels.csv      value, target; for instance 1,left ventricle. Values that it does not name belong to no object

Without the table a mask is that of one object: 0 and 1, 0 and 255, or a colour on a transparent ground; at a smoothed
edge the object begins at half of its brightness. A mask with a second value over an area is a label map; read as one
object, its structures would melt into each other, so it is refused.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

from ..cases import MaskFiles, decode, drawn_values
from .tables import read_rows

COLUMNS = ("value", "target")
MAX_LABELS = 32  # values of a label map; compression and smoothing leave more
MIN_AREA = 9  # pixels of a second value whose neighbours all have it too
MIN_SHARE = 0.01  # of the pixels that are not zero
NUM_PROBED = 8  # masks that are decoded when a folder is listed


@dataclass(frozen=True)
class ObjectMask(MaskFiles):
    """The mask of one object in files of PIL's; a label map is refused when it is read."""

    def mask_in(self, picture: Image.Image, path: Path) -> np.ndarray:
        """(H, W) bool; ValueError where the file holds several labels.

        At a smoothed edge the object begins at half of its brightness, as in masks that were released as JPEGs.
        """
        check_one_object(picture, path)
        values = drawn_values(picture)
        brightness = np.max([values >> 16, (values >> 8) & 255, values & 255], axis=0)
        highest = int(brightness.max())
        return 2 * brightness >= highest if highest > MAX_LABELS else values != 0


def read_labels(path: Path) -> dict[int, str] | None:
    """Value -> target, from labels.csv; None where there is no such file.

    Raises:
        ValueError: a column or all rows are missing, a value is no whole number from 1 to 255 or stands twice, or a
            target is empty.
    """
    if not path.is_file():
        return None
    labels: dict[int, str] = {}
    for row in read_rows(path, COLUMNS):
        value, target = row["value"], row["target"]
        if not (value.isdecimal() and 1 <= int(value) <= 255):
            raise ValueError(f"{path} has the value {value!r}; expected a whole number from 1 to 255")
        if int(value) in labels or not target:
            raise ValueError(f"{path} has the target {target!r} for {value}; expected one target for each value")
        labels[int(value)] = target
    if not labels:
        raise ValueError(f"{path} has no row; expected a value and a target for each structure, or no such file")
    return labels


def check_one_object(picture: Image.Image, path: Path) -> None:
    """Raise ValueError where a mask holds several labels.

    Args:
        picture: what the file holds.
        path: named in the error.
    """
    values = drawn_values(picture)
    kinds, counts = np.unique(values, return_counts=True)
    counts = counts[kinds != 0]
    kinds = kinds[kinds != 0]
    if not 1 < len(kinds) < MAX_LABELS:
        return
    flat = minimum_filter(values, 3) == maximum_filter(values, 3)
    least = max(MIN_AREA, MIN_SHARE * counts.sum())
    labels = [int(kind) for kind in kinds if (flat & (values == kind)).sum() >= least]
    if len(labels) > 1:
        shown = ", ".join(f"#{label:06x}" if label > 255 else str(label) for label in labels)
        raise ValueError(
            f"{path} holds the values {shown}; expected one object, in one value: write beside the folder of masks a "
            "labels.csv (value,target) that names each structure, or save a mask for each of them"
        )


def probe_masks(paths: Sequence[Path]) -> None:
    """Raise ValueError where one of a few masks, spread over all of them, holds several labels.

    Files that cannot be decoded are passed over: whoever reads them says so.
    """
    for path in paths[:: max(1, len(paths) // NUM_PROBED)]:
        picture = None
        with contextlib.suppress(ValueError):
            picture = decode(path)
        if picture is not None:
            check_one_object(picture, path)
