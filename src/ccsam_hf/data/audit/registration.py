"""Two maps of local contrast -> the moves under which they fit, and how alike they are then.

A move (scale, shift as a share of the side) acts along one axis, so an image is registered by a move of its rows and
one of its columns: enough for crops, other sizes and other proportions. All moves of the coarse maps are tried; the
fine maps start from the best.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

COARSE_SIDE, FINE_SIDE = 32, 96
SCALES = (0.9, 0.95, 1, 1 / 0.95, 1 / 0.9)
SHIFTS = np.arange(-4, 5) / 64
MIN_COARSE_CORRELATION = 0.45
# Steps of scale and of shift around the coarse registration, then around what they give.
FINE_STEPS = (
    (np.arange(-4, 5) * 0.008, np.arange(-4, 5) * 0.003),
    (np.arange(-2, 3) * 0.003, np.arange(-2, 3) * 0.001),
)
WORST_PIXELS = 0.1  # share


def positions(moves: np.ndarray, side: int) -> np.ndarray:
    """Where each of `side` pixels lies before moves (K, 2) about the center: (K, side), in pixels."""
    center = (side - 1) / 2
    return center + (np.arange(side) - center) * moves[:, :1] + moves[:, 1:] * side


def resampling(moves: np.ndarray, side: int) -> np.ndarray:
    """Moves (K, 2) as (K, side, side) float32: each interpolates a vector linearly, with zeros outside of it."""
    return np.maximum(0, 1 - np.abs(positions(moves, side)[..., None] - np.arange(side))).astype(np.float32)


def all_moves(scales: Sequence[float], shifts: Sequence[float]) -> np.ndarray:
    """Every scale with every shift, (K, 2)."""
    return np.array([(scale, shift) for scale in scales for shift in shifts])


@lru_cache
def coarse_moves() -> tuple[np.ndarray, np.ndarray]:
    """The moves of the coarse registration (K, 2), and their resampling."""
    moves = all_moves(SCALES, SHIFTS)
    return moves, resampling(moves, COARSE_SIDE)


def register_coarse(one: tuple, other: tuple) -> tuple[np.ndarray, np.ndarray] | None:
    """The moves of rows and columns under which coarse maps (contrast, content) fit best; None if they never do."""
    moves, matrices = coarse_moves()
    flat = matrices.reshape(len(moves), -1)

    def products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Sums of a, moved, times b: (moves of rows, moves of columns)."""
        return (b.T @ (matrices @ a)).reshape(len(moves), -1) @ flat.T

    (contrast, content), (other_contrast, other_content) = one, other
    energy = products(contrast**2, other_content) * products(content, other_contrast**2)
    correlation = products(contrast, other_contrast) / np.sqrt(energy + 1e-6)
    correlation[products(content, other_content) < min(content.sum(), other_content.sum()) / 2] = -1
    best = correlation.argmax()
    if correlation.flat[best] < MIN_COARSE_CORRELATION:
        return None
    row, column = np.unravel_index(best, correlation.shape)
    return moves[row], moves[column]


def register_fine(
    one: np.ndarray, other: np.ndarray, row_move: np.ndarray, column_move: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Better moves of rows and columns for fine maps, found in turns."""
    for steps in (all_moves(*each) for each in FINE_STEPS):
        for _ in range(2):
            columns = resampling(column_move[None], FINE_SIDE)[0]
            row_move = best_move(other @ columns @ one.T, row_move + steps)
            rows = resampling(row_move[None], FINE_SIDE)[0]
            column_move = best_move(other.T @ rows @ one, column_move + steps)
    return row_move, column_move


def best_move(products: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """The move of lines that suits best, given the product of every line of the other map with every line of this."""
    side = len(products)
    place = np.clip(positions(moves, side), -1, side)
    before = np.floor(place).astype(int)
    share = place - before
    padded = np.pad(products, ((0, 0), (1, 2)))  # products with lines outside are zero
    line = np.arange(side)
    sums = ((1 - share) * padded[line, before + 1] + share * padded[line, before + 2]).sum(axis=1)
    return moves[sums.argmax()]


def trimmed_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two vectors without the share of their values that differs most."""
    if one.std() == 0 or other.std() == 0:
        return 0.0
    difference = np.abs(one / one.std() - other / other.std())
    kept = difference <= np.quantile(difference, 1 - WORST_PIXELS)
    one, other = one[kept] - one[kept].mean(), other[kept] - other[kept].mean()
    return float(one @ other / (np.sqrt((one @ one) * (other @ other)) + 1e-9))
