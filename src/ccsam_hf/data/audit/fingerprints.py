"""Image -> fingerprint, fingerprints -> pairs that show the same picture (`fingerprint`, `find_matches`).

A copy may be mirrored, cropped, resized, compressed, brighter or written upon, while ultrasound images of different
patients share their layout: bright above, dark below, a sector before black. So a fingerprint keeps local contrast
alone: grey values less their local mean, over their local deviation, with empty background left out. Pairs are found
in three steps, each slower and surer than the one before:

1. coarse maps, mirrored and moved a little, are correlated with all others, a block of images at a time;
2. the pairs that remain are registered: the scale and place of rows and of columns that suit the coarse maps best;
3. the fine maps are registered from there and correlated where both show something, without the tenth of the pixels
   that fits worst: that is what text and calipers add.

Images of one standard plane share more than their layout: two fetal heads, registered to each other, correlate by up
to 0.73, and as well when one is mirrored. Such a correlation is evidence of one picture only where nothing had to be
moved for it. So matches are graded (`Match.is_copy`): what is moved or mirrored has to be more alike, and unmirrored
matches below that are given as what looks alike.

Nothing is random, and nothing but the fingerprints is kept: 10 KiB an image.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, minimum_filter
from tqdm.auto import tqdm

from .registration import COARSE_SIDE, FINE_SIDE, register_coarse, register_fine, resampling, trimmed_correlation

COARSE_SIGMA, FINE_SIGMA = 2.5, 2.25  # pixels of the maps
CLIP = 2.0  # local deviations beyond which contrast no longer counts
NO_CONTENT = -128
MIN_CONTENT = 0.05  # share of an image that must show something

FLIPS = ("", "left-right", "up-down", "both")

CANDIDATE_SIDE = 16
CANDIDATE_CORRELATION = 0.55
CANDIDATE_MOVES = ((1, 0), (1, -0.04), (1, 0.04), (0.93, 0), (1 / 0.93, 0))  # see `registration`
BLOCK = 512  # images that are compared with all others at a time

# The less two images have to compare, the more alike they must be: chance and shared anatomy weigh more. Measured on
# 2,400 simulated images, of which the hearts differ least: of 2.9 million unlike pairs, none reaches it.
MIN_SCORE = 0.62
SCORE_WITHOUT_OVERLAP, SCORE_PER_OVERLAP = 0.97, -0.5

# Measured on 898 fetal heads of HC18: of 246 matches of different examinations, none in place reaches MIN_SCORE, none
# that is moved or mirrored 0.73. Copies that were planted reach 0.9.
SCORE_OF_MOVED, SCORE_OF_MIRRORED = 0.74, 0.8
IN_PLACE_ZOOM, IN_PLACE_SHIFT = 0.0165, 0.0125  # two and four of the first fine steps of the registration


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of an image.

    Attributes:
        digest: equal for images of equal size and grey values, and for no others.
        coarse: (32, 32) int8, local contrast times 127 / 2; -128 where the image shows nothing.
        fine: (96, 96) int8, likewise, of finer detail.
    """

    digest: bytes
    coarse: np.ndarray
    fine: np.ndarray

    @property
    def comparable(self) -> bool:
        """Whether it shows enough to be compared with others."""
        return bool((self.fine != NO_CONTENT).mean() >= MIN_CONTENT)


@dataclass(frozen=True)
class Match:
    """Two images that show the same picture, or look alike (`is_copy`).

    Attributes:
        first, second: their indices, the smaller one first.
        score: correlation of their local contrast, at most 1.
        flip: how the first one is mirrored to fit: one of `FLIPS`.
        zoom: (rows, columns), size of the first one's picture over that of the second's, 1 where neither is cropped.
        shift: (rows, columns), how far the first one's picture lies from the center of the second's, as a share.
    """

    first: int
    second: int
    score: float
    flip: str
    zoom: tuple[float, float]
    shift: tuple[float, float]

    @property
    def moved(self) -> bool:
        """Whether one of the two is cropped, or they lie otherwise apart."""
        return max(abs(zoom - 1) for zoom in self.zoom) > 0.015 or max(abs(shift) for shift in self.shift) > 0.01

    @property
    def is_copy(self) -> bool:
        """Whether they show the same picture; False where they may as well show one plane of two patients."""
        if self.flip:
            return self.score >= SCORE_OF_MIRRORED
        in_place = (
            max(abs(zoom - 1) for zoom in self.zoom) <= IN_PLACE_ZOOM
            and max(abs(shift) for shift in self.shift) <= IN_PLACE_SHIFT
        )
        return in_place or self.score >= SCORE_OF_MOVED


def fingerprint(image: np.ndarray) -> Fingerprint:
    """Take the fingerprint of a grey image.

    Args:
        image: (H0, W0) uint8.

    Raises:
        ValueError: another shape or type.
    """
    if image.ndim != 2 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"image is {image.dtype} of shape {image.shape}; expected uint8 of shape (height, width)")
    content = np.ascontiguousarray(image).tobytes()
    digest = hashlib.blake2b(f"{image.shape}".encode() + content, digest_size=16).digest()
    return Fingerprint(
        digest, local_contrast(image, COARSE_SIDE, COARSE_SIGMA), local_contrast(image, FINE_SIDE, FINE_SIGMA)
    )


def local_contrast(image: np.ndarray, side: int, sigma: float) -> np.ndarray:
    """A grey image as a (side, side) int8 map of local contrast, see `Fingerprint`; sigma is in pixels of the map."""
    small = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR), dtype=np.float32)
    dark, bright = np.quantile(small, (0.01, 0.99))
    values = (small - dark) / max(bright - dark, 8)
    content = minimum_filter(values, 3, mode="nearest") > 0.04
    weight = gaussian_filter(content.astype(np.float32), sigma, mode="constant") + 1e-6
    contrast = content * (values - gaussian_filter(content * values, sigma, mode="constant") / weight)
    deviation = np.sqrt(gaussian_filter(contrast**2, sigma, mode="constant") / weight)
    units = np.clip(contrast / (deviation + 0.02), -CLIP, CLIP) * 127 / CLIP
    return np.where(content, np.rint(units), NO_CONTENT).astype(np.int8)


def decoded(contrast: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps of `local_contrast` as float32, 0 without content, and their content as float32 of 0 and 1."""
    content = contrast != NO_CONTENT
    return np.where(content, contrast, 0).astype(np.float32), content.astype(np.float32)


def flipped(array: np.ndarray, flip: str) -> np.ndarray:
    """Maps (..., side, side), mirrored."""
    if flip in ("up-down", "both"):
        array = array[..., ::-1, :]
    if flip in ("left-right", "both"):
        array = array[..., ::-1]
    return np.ascontiguousarray(array)


# --- from all pairs to matches ---------------------------------------------------------------------------------------


def find_matches(
    fingerprints: Sequence[Fingerprint],
    skip_same: Sequence[Sequence[int]] = (),
    groups: Sequence[int] | None = None,
    progress: bool = False,
) -> list[Match]:
    """Find the pairs of images that show the same picture, whatever was done to one of them, or look alike.

    Args:
        fingerprints: of N images. Pairs of equal digest and images that show too little are left out.
        skip_same: labelings of the N images; a pair with the same label, if at least 0, in one of them is left out.
        groups: a label for each image; within a label, a pair that hangs together by surer pairs already is left out.
            Frames of one loop then cost about as many comparisons as there are frames. Left out, all pairs are
            looked at.
        progress: whether a bar is shown on standard error.

    Returns:
        At most one match a pair, sorted by the indices.

    Raises:
        ValueError: a labeling has another length.
    """
    number = {digest: i for i, digest in enumerate(dict.fromkeys(each.digest for each in fingerprints))}
    labelings = [np.array([number[each.digest] for each in fingerprints], dtype=int)]
    labelings += [np.asarray(labeling, dtype=int) for labeling in skip_same]
    groups = np.arange(len(fingerprints)) if groups is None else np.asarray(groups)
    for labeling in (*labelings, groups):
        if len(labeling) != len(fingerprints):
            raise ValueError(f"{len(labeling)} labels came for {len(fingerprints)} images; expected one for each")
    matches: dict[tuple[int, int], Match] = {}
    root = list(range(len(fingerprints)))
    pairs = candidates(fingerprints, labelings, progress)
    for first, second, flip in tqdm(pairs, desc="compare", unit="pair", disable=not progress):
        same_group = groups[first] == groups[second]
        if same_group and root_of(root, first) == root_of(root, second):
            continue
        match = compare(fingerprints[first], fingerprints[second], first, second, flip)
        if match is None or ((first, second) in matches and matches[first, second].score >= match.score):
            continue
        matches[first, second] = match
        if same_group and match.is_copy:
            root[root_of(root, first)] = root_of(root, second)
    return [matches[pair] for pair in sorted(matches)]


def root_of(root: list[int], i: int) -> int:
    """The image that stands for all those that hang together with image i."""
    while root[i] != i:
        root[i] = root[root[i]]
        i = root[i]
    return i


def candidates(
    fingerprints: Sequence[Fingerprint], labelings: Sequence[np.ndarray], progress: bool
) -> list[tuple[int, int, str]]:
    """Pairs whose coarse maps correlate, and the flip under which they do; the most alike first."""
    kept = np.array([i for i, each in enumerate(fingerprints) if each.comparable], dtype=int)
    if len(kept) < 2:
        return []
    maps = decoded(np.stack([fingerprints[i].coarse for i in kept]))[0]
    labelings = [labeling[kept] for labeling in labelings]
    mean = np.kron(np.eye(CANDIDATE_SIDE), np.full(COARSE_SIDE // CANDIDATE_SIDE, CANDIDATE_SIDE / COARSE_SIDE))
    moves = mean.astype(np.float32) @ resampling(np.array(CANDIDATE_MOVES), COARSE_SIDE)
    unmoved = unit_vectors(moves[0] @ maps @ moves[0].T)
    found = []
    for start in tqdm(range(0, len(kept), BLOCK), desc="search", unit="block", disable=not progress):
        block = slice(start, start + BLOCK)
        allowed = np.arange(start, len(kept)) > np.arange(start, min(start + BLOCK, len(kept)))[:, None]
        for labeling in labelings:
            allowed &= (labeling[start:] != labeling[block, None]) | (labeling[start:] < 0)
        for flip in FLIPS:
            best = np.full(allowed.shape, -1, dtype=np.float32)
            for rows in moves:
                half = rows @ flipped(maps[block], flip)
                for columns in moves:
                    np.maximum(best, unit_vectors(half @ columns.T) @ unmoved[start:].T, out=best)
            i, j = np.nonzero(allowed & (best > CANDIDATE_CORRELATION))
            found += zip(-best[i, j], kept[i + start], kept[j + start], [FLIPS.index(flip)] * len(i), strict=True)
    return [(int(first), int(second), FLIPS[flip]) for _, first, second, flip in sorted(found)]


def unit_vectors(maps: np.ndarray) -> np.ndarray:
    """Maps (N, side, side) as (N, side * side) of length 1."""
    vectors = maps.reshape(len(maps), -1)
    return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-6)


# --- one pair --------------------------------------------------------------------------------------------------------


def compare(one: Fingerprint, other: Fingerprint, first: int, second: int, flip: str) -> Match | None:
    """Register one image, mirrored, to another one; None where they neither show one picture nor look alike."""
    moves = register_coarse(decoded(flipped(one.coarse, flip)), decoded(other.coarse))
    if moves is None:
        return None
    contrast, content = decoded(flipped(one.fine, flip))
    other_contrast, other_content = decoded(other.fine)
    row_move, column_move = register_fine(contrast, other_contrast, *moves)
    rows, columns = (resampling(move[None], FINE_SIDE)[0] for move in (row_move, column_move))
    overlap = (rows @ content @ columns.T > 0.9) & (other_content > 0)
    if overlap.mean() < MIN_CONTENT / 2:
        return None
    score = trimmed_correlation((rows @ contrast @ columns.T)[overlap], other_contrast[overlap])
    if score < max(needed_score(overlap.mean()), SCORE_OF_MIRRORED if flip else 0):
        return None
    (row_scale, row_shift), (column_scale, column_shift) = row_move, column_move
    return Match(
        first,
        second,
        round(float(score), 4),
        flip,
        (round(float(row_scale), 3), round(float(column_scale), 3)),
        (round(float(row_shift), 3), round(float(column_shift), 3)),
    )


def needed_score(overlap: float) -> float:
    """The correlation from which two images look alike, and show one picture where neither is moved.

    Args:
        overlap: the share of the images in which both show something.
    """
    return max(MIN_SCORE, SCORE_WITHOUT_OVERLAP + SCORE_PER_OVERLAP * overlap)
