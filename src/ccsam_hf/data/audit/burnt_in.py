"""Image -> what was burnt into it: thin bright strokes of calipers, dotted lines and text, and coloured pixels.

Ultrasound blurs sideways: next to nothing in tissue is bright and narrow from left to right, and taller than it is
wide, while crosses, dots in a column and letters are. The rule is a heuristic; `training/benchmark_audit.py` measures
it. Marks at the very edge of an image, such as a manufacturer's sign, do not count.
"""

import numpy as np
from scipy.ndimage import find_objects, grey_opening, label

STROKE_WIDTH = 7  # pixels from left to right within which a stroke begins and ends
STROKE_CONTRAST = 60  # grey values above what lies beside it
SPECKLE_FACTOR = 4  # times what the twentieth part of the image exceeds
STROKE_LEVEL = 120
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
    tall = [part.stop - part.start >= STROKE_HEIGHT for part, _ in find_objects(parts)]
    strokes = np.isin(parts, np.flatnonzero(tall) + 1)
    return strokes if strokes.sum() >= MIN_STROKE_PIXELS else np.zeros_like(strokes)


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
