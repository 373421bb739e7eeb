"""Layout "hc18": the fetal head, as released by van den Heuvel et al., PLOS ONE 13(8), 2018 (Zenodo 1327317).

    training_set/<n>_HC.png, <n>_HC_Annotation.png          the outline of an ellipse
    training_set_pixel_size_and_HC.csv                      filename, pixel size(mm), head circumference (mm)

The directory is the one with these folders and files or the one with the images; the table lies in either, and without
it no millimetres are known. Outlines are filled. Where the ellipse leaves the image its outline is open: the ellipse
is fitted to it. Images of one number ("010_HC", "010_2HC") are of one examination, which stands for the patient. The
test set has no annotations and is not read; the release knows no splits.

Source: the file names in public loaders; the release itself was not at hand, but 898 of its masks, filled.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_erosion, binary_fill_holes

from ..cases import Case, ImageFile, check_pairs, decode, header_size, image_files, mask_of

FOLDER = "training_set"
TABLE = "training_set_pixel_size_and_HC.csv"
MASK_SUFFIX = "_Annotation"
WIDEST_LINE = 9  # pixels; what is wider anywhere is no outline
MIN_FILLED = 3  # times the area of the outline
WORST_MISFIT = 0.15  # of the equation below; a line 3 pixels wide around an ellipse of 70 pixels has 0.06


@dataclass(frozen=True)
class EllipseOutline:
    """A mask that is drawn as the outline of an ellipse."""

    path: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) from the header."""
        return header_size(self.path)

    def read(self) -> np.ndarray:
        """(H0, W0) bool: the outline and what it encloses."""
        return fill_ellipse(mask_of(decode(self.path), None))


def read(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of the layout: see `ccsam_hf.data.readers`."""
    folder = directory / FOLDER if (directory / FOLDER).is_dir() else directory
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for path in image_files(folder):
        files = masks if path.stem.endswith(MASK_SUFFIX) else images
        files[path.stem.removesuffix(MASK_SUFFIX)] = path
    if not masks:
        raise FileNotFoundError(
            f"{folder} has no <n>_HC{MASK_SUFFIX}.png; layout 'hc18' needs it here or in {FOLDER}/"
        )
    check_pairs(folder, images, masks, mask_pattern=f"<n>_HC{MASK_SUFFIX}.png")
    tables = [path for path in (folder / TABLE, folder.parent / TABLE) if path.is_file()]
    pixel_sizes = read_pixel_sizes(tables[0]) if tables else {}
    without = [path.name for path in images.values() if path.name not in pixel_sizes]
    if without:
        notes.append(
            f"{directory}: {TABLE} {'does not name' if tables else 'is missing:'} {len(without)} image(s), for "
            f"instance {without[0]}: their millimetres are not known"
        )
    return [
        Case(
            name=name,
            target="fetal head",
            image_source=ImageFile(path),
            mask_source=EllipseOutline(masks[name]),
            dataset="HC18",
            release="HC18",
            patient_id=name.split("_")[0],
            spacing_mm=(pixel_sizes[path.name],) * 2 if path.name in pixel_sizes else None,
        )
        for name, path in images.items()
    ]


def read_pixel_sizes(path: Path) -> dict[str, float]:
    """File name -> millimetres of a pixel's side.

    Raises:
        ValueError: there is no column of file names or pixel sizes, or a size is no number above 0.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [{(key or "").strip().lower(): value for key, value in row.items()} for row in csv.DictReader(file)]
    sizes: dict[str, float] = {}
    for row in rows:
        column = next((key for key in row if re.match(r"pixel size", key)), None)
        if column is None or "filename" not in row:
            raise ValueError(f"{path} has the columns {list(row)}; expected filename and pixel size(mm)")
        try:
            sizes[row["filename"]] = float(row[column])
        except (TypeError, ValueError):
            sizes[row["filename"]] = 0.0
        if not 0 < sizes[row["filename"]] < np.inf:
            raise ValueError(f"{path} has the pixel size {row[column]!r} for {row['filename']!r}; expected mm above 0")
    return sizes


def fill_ellipse(outline: np.ndarray) -> np.ndarray:
    """The outline of an ellipse with what it encloses, (H, W) bool -> (H, W) bool; a mask that is filled stays.

    Raises:
        ValueError: the outline is open, and no ellipse fits it.
    """
    filled = binary_fill_holes(outline)
    if filled.sum() >= MIN_FILLED * outline.sum() or binary_erosion(outline, iterations=WIDEST_LINE // 2 + 1).any():
        return filled
    if not outline.any():
        return filled
    return outline | inside_fitted_ellipse(outline)


def inside_fitted_ellipse(outline: np.ndarray) -> np.ndarray:
    """The pixels inside the conic a x^2 + b xy + c y^2 + d x + e y = 1 of least squares through an outline.

    Coordinates are taken from the middle of the outline, where the left side is 0, and in units of its extent.
    """
    rows, columns = np.nonzero(outline)
    center = np.array([np.ptp(rows) / 2 + rows.min(), np.ptp(columns) / 2 + columns.min()])
    unit = max(np.ptp(rows), np.ptp(columns), 1)
    terms = conic_terms((columns - center[1]) / unit, (rows - center[0]) / unit)
    conic, *_ = np.linalg.lstsq(terms, np.ones(len(rows)), rcond=None)
    a, b, c = conic[:3]
    misfit = np.sqrt(np.mean((terms @ conic - 1) ** 2))
    if not (a > 0 and b**2 < 4 * a * c and misfit < WORST_MISFIT):
        raise ValueError("an outline is open and no ellipse fits it; expected the outline of an ellipse")
    y, x = np.mgrid[: outline.shape[0], : outline.shape[1]]
    return conic_terms((x - center[1]) / unit, (y - center[0]) / unit) @ conic <= 1


def conic_terms(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(..., 5): x^2, xy, y^2, x, y."""
    return np.stack([x * x, x * y, y * y, x, y], axis=-1)
