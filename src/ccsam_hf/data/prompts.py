"""Derives prompts, clicks and boxes, from the true mask of an object, for training and for evaluation.

Points are (x, y) and boxes x0 y0 x1 y1, both in pixels of the frame the mask is in. Boxes are edges: x1 and y1 lie
behind the last column and row. Protocol "samus" alone counts otherwise, see `to_indices`.

The functions draw one kind of prompt each; `PromptSampler` draws among the kinds, as training needs it.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ..descriptions import FORMS, describe
from ..geometry import boxes_from_masks


def fixed_click(mask: np.ndarray) -> np.ndarray:
    """The one click of protocol "samus": the middle pixel of the mask, its pixels counted row by row.

    It lies on the object also where the centroid of a ring or of two parts does not.

    Source: SAMUS, `utils/data_us.py`, `fixed_click`. Departure: a mask without pixels is refused; SAMUS clicks on the
    background there.

    Args:
        mask: (H, W) bool, at least one pixel set.

    Returns:
        (2,) float32, (x, y) of a pixel of the mask.

    Raises:
        TypeError: the mask is not a bool array.
        ValueError: the mask is not two-dimensional or is empty.
    """
    check_mask(mask)
    pixels = np.flatnonzero(mask)
    return to_xy(pixels[len(pixels) // 2], mask.shape)


def random_clicks(mask: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Clicks drawn uniformly and independently from the pixels of the mask.

    Args:
        mask: (H, W) bool, at least one pixel set.
        count: number of clicks, at least 1; one pixel may be drawn twice.
        rng: source of the draw.

    Returns:
        (count, 2) float32, (x, y) of pixels of the mask.

    Raises:
        TypeError: the mask is not a bool array.
        ValueError: the mask is not two-dimensional or is empty, or count is below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}; expected at least 1")
    check_mask(mask)
    pixels = np.flatnonzero(mask)
    return to_xy(pixels[rng.integers(len(pixels), size=count)], mask.shape)


def click_set(
    mask: np.ndarray, num_positive: int, num_negative: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Clicks on the object and clicks beside it, drawn uniformly and independently from the pixels of either.

    Source: SAMUS, `utils/data_us.py`, `pos_neg_clicks`.

    Args:
        mask: (H, W) bool, at least one pixel set, and one not set where there are negative clicks.
        num_positive: clicks on the object, at least 1; one pixel may be drawn twice.
        num_negative: clicks on the rest of the frame, at least 0.
        rng: source of the draw.

    Returns:
        (n, 2) float32 (x, y), positive clicks first, and (n,) int64 labels, 1 on the object and 0 beside it.

    Raises:
        TypeError: the mask is not a bool array.
        ValueError: the mask is not two-dimensional or is empty, it fills the frame and negative clicks are wanted,
            num_positive is below 1, or num_negative is below 0.
    """
    if num_negative < 0:
        raise ValueError(f"num_negative is {num_negative}; expected at least 0")
    points = random_clicks(mask, num_positive, rng)
    if num_negative:
        if mask.all():
            raise ValueError(
                f"mask of size {mask.shape} fills the frame; expected a pixel beside the object for "
                f"{num_negative} negative click(s): ask for none"
            )
        points = np.concatenate([points, random_clicks(~mask, num_negative, rng)])
    return points, np.repeat([1, 0], [num_positive, num_negative])


def tight_box(mask: np.ndarray) -> np.ndarray:
    """The smallest box around the mask: x0 y0 x1 y1, with x1 and y1 behind the last column and row.

    It is `ccsam_hf.geometry.boxes_from_masks` of one mask.

    Args:
        mask: (H, W) bool, at least one pixel set.

    Returns:
        (4,) float32 xyxy, whole numbers.

    Raises:
        TypeError: the mask is not a bool array.
        ValueError: the mask is not two-dimensional or is empty.
    """
    check_mask(mask)
    return boxes_from_masks(torch.from_numpy(mask)).numpy()


def to_indices(box: np.ndarray) -> np.ndarray:
    """A box of edges as SAMUS counts it: first and last column and row, so that one column has x0 == x1.

    Source: SAMUS, `utils/data_us.py`, `fixed_bbox`. Used inside protocol "samus" alone.
    """
    return box - np.array([0, 0, 1, 1], dtype=np.float32)


def to_edges(box: np.ndarray) -> np.ndarray:
    """The inverse of `to_indices`."""
    return box + np.array([0, 0, 1, 1], dtype=np.float32)


def jittered_box(mask: np.ndarray, rng: np.random.Generator, fraction: float = 0.05) -> np.ndarray:
    """The tight box with each side moved, as a user's hand would: uniformly, up to a fraction of the box's size.

    Args:
        mask: (H, W) bool, at least one pixel set.
        rng: source of the draw.
        fraction: largest move of a side as a share of the box's width or height in pixels, in [0, 0.5).

    Returns:
        (4,) float32 xyxy inside [0, W] x [0, H]. A side that would come out shorter than a pixel becomes one pixel
        long about its middle, so the box always has an area.

    Raises:
        TypeError: the mask is not a bool array.
        ValueError: the mask is not two-dimensional or is empty, or the fraction is outside [0, 0.5).
    """
    if not 0 <= fraction < 0.5:
        raise ValueError(f"fraction is {fraction}; expected [0, 0.5): a share of the box's width and height")
    first, last = tight_box(mask).astype(float).reshape(2, 2)
    reach = fraction * (last - first)
    frame = np.array(mask.shape[::-1], dtype=float)
    first = np.clip(first + rng.uniform(-reach, reach), 0, frame)
    last = np.clip(last + rng.uniform(-reach, reach), 0, frame)
    middle = np.clip((first + last) / 2, 0.5, frame - 0.5)
    short = last - first < 1
    box = np.concatenate([np.where(short, middle - 0.5, first), np.where(short, middle + 0.5, last)])
    return box.astype(np.float32)


@dataclass(frozen=True)
class Prompt:
    """What a user might give to ask for one object; parts that were not drawn are None.

    Attributes:
        points: (n, 2) float32 (x, y), pixels of the mask's frame.
        labels: (n,) int64, 1 on the object and 0 beside it; None where `points` is.
        box: (4,) float32 xyxy, pixels of the mask's frame.
        text: names the object.
    """

    points: np.ndarray | None = None
    labels: np.ndarray | None = None
    box: np.ndarray | None = None
    text: str | None = None


@dataclass(frozen=True)
class PromptSampler:
    """Draws prompts of random kinds for one object.

    Points, box and text are drawn independently of each other; of the kinds of one part at most one is drawn. The
    fields named like a kind are probabilities: what the kinds of a part lack to 1 is the probability that the prompt
    has no such part.

    Source: SAMUS, `utils/data_us.py`, which trains with one random click and evaluates with the fixed one, draws boxes
    moved by up to 5 % and sets of 5 clicks on the object and 5 beside it. Departure: by default every prompt has one
    click and one box, each in half of the cases as evaluation takes it.

    Attributes:
        random_click, fixed_click, click_set: of points, see the functions `random_clicks`, `fixed_click` and
            `click_set`.
        tight_box, jittered_box: of a box, see the functions of that name.
        text: of a text.
        jitter_fraction: see `jittered_box`.
        num_positive, num_negative: clicks of a set; an object that fills the frame gets no negative ones.
        text_form: "phrase" or "description", see `ccsam_hf.descriptions.describe`.

    Raises:
        ValueError: a probability outside [0, 1], kinds of one part that add up to more than 1, no kind at all, or a
            number that the functions refuse.
    """

    random_click: float = 0.5
    fixed_click: float = 0.5
    click_set: float = 0.0
    tight_box: float = 0.5
    jittered_box: float = 0.5
    text: float = 0.0
    jitter_fraction: float = 0.05
    num_positive: int = 5
    num_negative: int = 5
    text_form: str = "phrase"

    KINDS: ClassVar[dict[str, tuple[str, ...]]] = {
        "points": ("random_click", "fixed_click", "click_set"),
        "box": ("tight_box", "jittered_box"),
        "text": ("text",),
    }

    def __post_init__(self):
        for part, kinds in self.KINDS.items():
            probabilities = {kind: getattr(self, kind) for kind in kinds}
            if min(probabilities.values()) < 0 or self.probability_of(part) > 1:
                raise ValueError(
                    f"probabilities of {part} are {probabilities}; expected values from 0 to 1 that add up to at "
                    "most 1: one kind is drawn, or none"
                )
        if not any(self.probability_of(part) for part in self.KINDS):
            raise ValueError(f"no kind of prompt has a probability; expected one of {list(self.KINDS)} above 0")
        if self.num_positive < 1 or self.num_negative < 0:
            raise ValueError(
                f"num_positive is {self.num_positive} and num_negative {self.num_negative}; expected at least 1 and 0"
            )
        if not 0 <= self.jitter_fraction < 0.5:
            raise ValueError(f"jitter_fraction is {self.jitter_fraction}; expected [0, 0.5)")
        if self.text_form not in FORMS:
            raise ValueError(f"text_form is {self.text_form!r}; accepted are {', '.join(FORMS)}")

    def probability_of(self, part: str) -> float:
        """How often a prompt has "points", a "box" or a "text"."""
        return round(sum(getattr(self, kind) for kind in self.KINDS[part]), 9)  # 0.1 + 0.2 + 0.7 are 1

    @property
    def max_points(self) -> int:
        """The largest number of points that a prompt can have."""
        if self.click_set:
            return self.num_positive + self.num_negative
        return 1 if self.probability_of("points") else 0

    def sample(self, mask: np.ndarray, target: str, rng: np.random.Generator) -> Prompt:
        """Draw a prompt.

        Args:
            mask: (H, W) bool, at least one pixel set.
            target: what the object is, a name of the registry or any other.
            rng: source of the draw, and the only one.

        Raises:
            TypeError: the mask is not a bool array.
            ValueError: the mask is not two-dimensional or is empty (no prompt can ask for what is not there), or a
                text is drawn and the target cannot be described.
        """
        check_mask(mask)
        points = labels = box = None
        kinds = {part: self.draw_kind(part, rng) for part in self.KINDS}
        if kinds["points"] == "click_set":
            points, labels = click_set(mask, self.num_positive, 0 if mask.all() else self.num_negative, rng)
        elif kinds["points"]:
            is_fixed = kinds["points"] == "fixed_click"
            points = fixed_click(mask)[None] if is_fixed else random_clicks(mask, 1, rng)
            labels = np.ones(1, dtype=np.int64)
        if kinds["box"]:
            is_tight = kinds["box"] == "tight_box"
            box = tight_box(mask) if is_tight else jittered_box(mask, rng, self.jitter_fraction)
        return Prompt(points, labels, box, describe(target, self.text_form) if kinds["text"] else None)

    def draw_kind(self, part: str, rng: np.random.Generator) -> str | None:
        """A kind of points, box or text, or None for a prompt without."""
        upper_ends = np.cumsum([getattr(self, kind) for kind in self.KINDS[part]]).round(9)
        index = np.searchsorted(upper_ends, rng.random(), side="right")
        return self.KINDS[part][index] if index < len(upper_ends) else None


TRAINING_PROMPTS = PromptSampler()
FIXED_PROMPTS = PromptSampler(random_click=0, fixed_click=1, tight_box=1, jittered_box=0)  # the same at every draw


def to_xy(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(..., 2) float32 (x, y) of pixels numbered row by row."""
    rows, columns = np.unravel_index(pixels, shape)
    return np.stack([columns, rows], axis=-1).astype(np.float32)


def check_mask(mask: np.ndarray) -> None:
    """Raise TypeError or ValueError unless the mask is a two-dimensional bool array with a pixel set."""
    if not isinstance(mask, np.ndarray) or mask.dtype != bool:
        kind = f"an array of {mask.dtype}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise TypeError(f"mask is {kind}; expected a numpy bool array: threshold it first")
    if mask.ndim != 2:
        raise ValueError(f"mask has shape {mask.shape}; expected (height, width): pass one object at a time")
    if not mask.any():
        raise ValueError(f"mask of size {mask.shape} is empty; a prompt needs an object: leave such cases out")
