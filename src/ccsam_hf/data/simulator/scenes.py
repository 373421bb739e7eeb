"""The simulator: target name + seed -> B-mode image with the exact masks of its structures.

The data of the tests, of training without any data set, and of the bundled checkpoint. `phantoms` draws the tissue,
`beamforming` turns it into an image, this file adds what machines burn into it and offers the public calls.
"""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont

from ...files import check_new_folder, replace_folder
from .beamforming import display, echo_levels, random_scanner
from .phantoms import build_phantom

TARGETS: tuple[str, ...] = (
    "breast lesion",
    "thyroid nodule",
    "thyroid gland",
    "left ventricle",
    "myocardium",
    "left atrium",
)
MIN_SIDE = 64
WORDS = {
    "breast": ("LEFT BREAST", "RIGHT BREAST", "BREAST", "RT 12 C", "LT 3 H", "AXILLA", "RAD", "ANTI-RAD", "L", "R"),
    "thyroid": ("THYROID", "RT LOBE", "LT LOBE", "ISTHMUS", "TRANS", "LONG", "SAG", "LT", "RT", "+ 1", "NECK"),
    "heart": ("A4C", "A2C", "FR 52", "HR 71", "V", "75 mm/s", "LV", "2.1/4.3"),
}


@dataclass(frozen=True)
class SimulatedCase:
    """One simulated image with its truth.

    Attributes:
        image: (H, W) uint8.
        masks: name of the target -> (H, W) bool, for every annotated structure of the scene; they are exact.
        target: the structure that was asked for: a key of `masks`, never empty.
        seed: the seed that gives this case again.
        spacing_mm: millimetres per row and per column.
    """

    image: np.ndarray
    masks: dict[str, np.ndarray]
    target: str
    seed: int
    spacing_mm: tuple[float, float]

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool mask of `target`."""
        return self.masks[self.target]


def simulate(target: str, seed: int, size: tuple[int, int] = (256, 256)) -> SimulatedCase:
    """Simulate one B-mode image; the same arguments give bit-equal arrays, whatever the global random state.

    Args:
        target: one of `TARGETS`.
        seed: a non-negative integer. Targets do not share scenes: a seed means another scene for each target.
        size: (height, width) in pixels, each at least 64.

    Raises:
        TypeError: `seed` or `size` are not integers.
        ValueError: `target` is unknown, `seed` is negative or `size` too small.
    """
    check_request(target, seed, size)
    size = (int(size[0]), int(size[1]))
    rng = np.random.default_rng([TARGETS.index(target), int(seed)])
    phantom = build_phantom(target, rng, size)
    scanner = random_scanner(rng, size[0])
    image = display(echo_levels(phantom, scanner, rng), phantom.visible, scanner)
    image = burn_in(image, phantom.masks[target], WORDS.get(target.split()[0], WORDS["heart"]), rng)
    if scanner.jpeg_quality is not None:
        image = through_jpeg(image, scanner.jpeg_quality)
    spacing = (phantom.depth_mm / size[0], phantom.width_mm / size[1])
    return SimulatedCase(image, phantom.masks, target, int(seed), spacing)


def check_request(target: str, seed: int, size: tuple[int, int]) -> None:
    """Refuse what `simulate` cannot do, with what it accepts."""
    if target not in TARGETS:
        raise ValueError(f"target={target!r} is unknown; choose one of {', '.join(TARGETS)}")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed is {type(seed).__name__}; expected an integer")
    if seed < 0:
        raise ValueError(f"seed={seed} is negative; expected 0 or more")
    if len(size) != 2 or not all(isinstance(side, (int, np.integer)) for side in size):
        raise TypeError(f"size={size!r}; expected two integers (height, width)")
    if min(size) < MIN_SIDE:
        raise ValueError(f"size={tuple(size)} is too small; height and width must be at least {MIN_SIDE} pixels")


# --- what machines burn into the picture -----------------------------------------------------------------------------


def burn_in(image: np.ndarray, mask: np.ndarray, words: Sequence[str], rng: Generator) -> np.ndarray:
    """Text, calipers, depth ticks, an orientation mark and black margins, each in a share of the images."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    unit = min(image.shape) / 256
    if rng.random() < 0.3:
        for _ in range(int(rng.integers(1, 3))):
            text(draw, str(rng.choice(words)), picture.size, unit, rng)
    if rng.random() < 0.08:
        calipers(draw, mask, unit, rng)
    if rng.random() < 0.12:
        ticks(draw, picture.size, unit, rng)
    if rng.random() < 0.25:
        side, corner = 3 * unit, rng.uniform(0, 6 * unit, 2)
        draw.rectangle((*corner, *(corner + side)), outline=int(rng.integers(120, 256)))
    return np.asarray(picture)


@lru_cache(maxsize=64)
def font(points: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font: nothing is looked up on the machine."""
    return ImageFont.load_default(points)


def text(draw: ImageDraw.ImageDraw, word: str, size: tuple[int, int], unit: float, rng: Generator) -> None:
    """A label somewhere, more often low in the picture."""
    width, height = size
    place = (rng.uniform(-0.15, 0.85) * width, rng.choice([rng.uniform(0.6, 0.97), rng.uniform(0, 0.97)]) * height)
    draw.text(place, word, fill=int(rng.integers(110, 256)), font=font(max(6, round(unit * rng.uniform(7, 15)))))


def calipers(draw: ImageDraw.ImageDraw, mask: np.ndarray, unit: float, rng: Generator) -> None:
    """Crosses at the ends of one or two diameters of the structure, joined by a dotted line or not."""
    rows, columns = np.nonzero(mask)
    level, arm = int(rng.integers(150, 256)), unit * rng.uniform(2, 4)
    dotted = rng.random() < 0.6
    for axis in ((1, 0.1), (0.1, 1))[: int(rng.integers(1, 3))]:
        reach = rows * axis[0] + columns * axis[1]
        ends = [
            (columns[i] + rng.normal(0, 2) * unit, rows[i] + rng.normal(0, 2) * unit)
            for i in (reach.argmin(), reach.argmax())
        ]
        for x, y in ends:
            draw.line((x - arm, y, x + arm, y), fill=level)
            draw.line((x, y - arm, x, y + arm), fill=level)
        if dotted:
            draw.point(
                [tuple(p) for p in np.linspace(*ends, max(2, int(np.hypot(*np.subtract(*ends)) / (3 * unit))))],
                fill=level,
            )


def ticks(draw: ImageDraw.ImageDraw, size: tuple[int, int], unit: float, rng: Generator) -> None:
    """A ruler of depth at the left or right side."""
    width, height = size
    x, step, level = rng.choice([2 * unit, width - 4 * unit]), height / rng.uniform(4, 14), int(rng.integers(90, 256))
    for y in np.arange(step, height, step):
        draw.line((x, y, x + 2 * unit, y), fill=level)


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """The image after lossy compression."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


# --- folders ---------------------------------------------------------------------------------------------------------


def write_folder(
    directory: str | os.PathLike,
    *,
    count: int,
    seed: int,
    targets: Sequence[str] = TARGETS,
    size: tuple[int, int] = (256, 256),
) -> None:
    """Write simulated cases in the `folder` layout.

    `images/<name>.png`, `masks/<name>.png` (0 and 255) and `cases.csv` with name, target, seed and the spacing. Case i
    shows target i modulo the number of targets with the seed `seed + i`. Everything is written beside the directory
    first and renamed at the end: the directory appears complete or not at all.

    Args:
        directory: absent or empty.
        count: number of cases, at least 1.

    Raises:
        FileExistsError: the directory has content already.
        ValueError: `count` is below 1, `targets` is empty, or an argument is refused by `simulate`.
    """
    directory = Path(directory)
    if count < 1 or not targets:
        raise ValueError(f"count={count} cases of {len(targets)} targets; expected at least one of each")
    for target in targets:
        check_request(target, seed, size)
    check_new_folder(directory)
    with replace_folder(directory) as partial:
        write_cases(partial, count, seed, targets, size)


def write_cases(directory: Path, count: int, seed: int, targets: Sequence[str], size: tuple[int, int]) -> None:
    """Fill an empty directory with the cases of `write_folder`."""
    (directory / "images").mkdir()
    (directory / "masks").mkdir()
    digits = len(str(count - 1))
    with open(directory / "cases.csv", "w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(["name", "target", "seed", "mm_per_row", "mm_per_column"])
        for index in range(count):
            case = simulate(targets[index % len(targets)], seed + index, size)
            name = f"{case.target.replace(' ', '-')}_{index:0{digits}d}"
            Image.fromarray(case.image).save(directory / "images" / f"{name}.png")
            Image.fromarray(case.mask.astype(np.uint8) * 255).save(directory / "masks" / f"{name}.png")
            writer.writerow([name, case.target, case.seed, *(f"{side:.5f}" for side in case.spacing_mm)])
