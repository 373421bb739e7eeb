"""Image -> what was burnt into it: thin bright strokes of calipers, dotted lines and text, and coloured pixels.

Ultrasound blurs sideways: next to nothing in tissue is bright and narrow from left to right, and taller than it is
wide, while crosses, dots in a column and letters are. Bone, fascia and the edge of a sector may be narrow too; but a
stroke that is drawn has its contrast within a pixel or two on both sides, while an echo rises and falls over several.
The rule is a heuristic; `training/benchmark_audit.py` measures it. Marks at the very edge of an image, such as a
manufacturer's sign, do not count.
"""

import numpy as np
from scipy.ndimage import find_objects, grey_opening, label, maximum_filter1d

STROKE_WIDTH = 7  # pixels from left to right within which a stroke begins and ends
STROKE_CONTRAST = 60  # grey values above what lies beside it
SPECKLE_FACTOR = 4  # times what the twentieth part of the image exceeds
STROKE_LEVEL = 120
STROKE_STEP = 0.55  # share of its contrast that a stroke gains from one pixel to the next, and loses again
STEP_REACH = 5  # pixels from left to right within which both steps lie
STROKE_HEIGHT = 3
MIN_STROKE_PIXELS = 10
COLOR_SPREAD = 40  # between the channels of a coloured pixel
MIN_COLORED_PIXELS = 30
EDGE = 0.04  # share of the shorter side


def stroke_pixels(image: np.ndarray) -> np.ndarray:
    """The pixels of thin bright strokes in a grey image, (H0, W0) uint8 -> (H0, W0) bool; none where there are few."""
    values = image.astype(np.int16)
    narrow = values - grey_opening(values, (1, STROKE_WIDTH))
    shown = values > 8
    if not shown.any():
        return np.zeros(image.shape, dtype=bool)
    contrast = max(STROKE_CONTRAST, SPECKLE_FACTOR * np.quantile(narrow[shown], 0.95))
    strokes = without_edge((narrow > contrast) & (values > STROKE_LEVEL))
    parts, count = label(strokes, np.ones((3, 3)))
    sharpness = np.where(strokes, sharpness_of(values) / np.maximum(narrow, 1), 0)
    drawn = [
        number
        for number, part in enumerate(find_objects(parts), start=1)
        if part[0].stop - part[0].start >= STROKE_HEIGHT
        and np.median(np.where(parts[part] == number, sharpness[part], 0).max(axis=1)) > STROKE_STEP
    ]
    strokes = np.isin(parts, drawn)
    return strokes if strokes.sum() >= MIN_STROKE_PIXELS else np.zeros_like(strokes)


def sharpness_of(values: np.ndarray) -> np.ndarray:
    """Grey values (H, W) -> (H, W): the smaller of the steepest rise and fall around a pixel, from left to right."""
    rise = np.diff(values, axis=1, prepend=values[:, :1])
    fall = -np.diff(values, axis=1, append=values[:, -1:])
    return np.minimum(maximum_filter1d(rise, STEP_REACH, axis=1), maximum_filter1d(fall, STEP_REACH, axis=1))


def colored_pixels(picture: np.ndarray) -> np.ndarray:
    """The coloured pixels of an otherwise grey picture, (H0, W0, 3) uint8 -> (H0, W0) bool; none where there are few.

    A picture of which more than half is coloured is tinted as a whole: it has none either.
    """
    channels = picture.astype(np.int16)
    colored = without_edge(channels.max(axis=2) - channels.min(axis=2) > COLOR_SPREAD)
    return colored if MIN_COLORED_PIXELS <= colored.sum() <= colored.size / 2 else np.zeros_like(colored)


def without_edge(pixels: np.ndarray) -> np.ndarray:
    """The pixels (H, W) bool, with those at the edge of the image set to False."""
    edge = max(3, round(EDGE * min(pixels.shape)))
    inner = np.zeros_like(pixels)
    inner[edge:-edge, edge:-edge] = pixels[edge:-edge, edge:-edge]
    return inner
