"""The interactive protocol: a click in the object, then clicks in the middle of what the mask gets wrong (`click`).

Source: the protocol of interactive segmentation (Xu et al., "Deep Interactive Object Selection", CVPR 2016; Sofiiuk et
al., "Reviving Iterative Training with Mask Guidance", arXiv 2102.06583). The first click lies where the object is
deepest, each further one where the largest connected error, missing or too much, is deepest. The logits of the mask
before go back in with all clicks so far. No pixel is clicked twice.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt, label

from ..data.prompts import Prompt
from .metrics import dice, iou
from .rows import MAX_CLICKS, ClickScores
from .segmenters import Prediction, Segmenter

TOUCHING = np.ones((3, 3))


def find_deepest_point(region: np.ndarray, taken: np.ndarray | None = None) -> tuple[int, int]:
    """The pixel of a region that is furthest from its border; the edge of the frame is border too.

    Args:
        region: (H, W) bool, at least one pixel that is not taken.
        taken: (H, W) bool, pixels that are no answer.

    Returns:
        (x, y); the first one row by row where several are equally deep.
    """
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    depth = distance_transform_edt(np.pad(region[window], 1))[1:-1, 1:-1]
    if taken is not None:
        depth[taken[window]] = 0
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return int(columns[0] + column), int(rows[0] + row)


def find_next_click(mask: np.ndarray, truth: np.ndarray, taken: np.ndarray) -> tuple[tuple[int, int], int] | None:
    """The middle of the largest connected error of a mask, and its label: 1 where the object is missing, 0 where not.

    Args:
        mask, truth: (H, W) bool.
        taken: (H, W) bool, pixels that were clicked before; an error that has no other pixel is passed over.

    Returns:
        ((x, y), label), or None where there is no error left to click on.
    """
    best, largest = None, 0
    for name, wrong in ((1, truth & ~mask), (0, mask & ~truth)):
        parts, count = label(wrong, TOUCHING)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        sizes[np.bincount(parts[~taken], minlength=count + 1) == 0] = 0  # nothing left to click on
        sizes[0] = 0
        if sizes.max() > largest:
            largest, best = sizes.max(), (parts == sizes.argmax(), name)
    if best is None:
        return None
    region, name = best
    return find_deepest_point(region, taken), name


def click(segmenter: Segmenter, encoded: Any, truth: np.ndarray, target: str) -> Iterator[tuple[Prompt, Prediction]]:
    """Click up to 10 times; stops when the mask has no error left.

    Args:
        segmenter: reads "clicks".
        encoded: of its `encode`.
        truth: (256, 256) bool, at least one pixel set.
        target: name of the object.

    Yields:
        All clicks so far, and the mask that they gave.
    """
    points, labels, previous = [find_deepest_point(truth)], [1], None
    taken = np.zeros_like(truth)
    for _ in range(MAX_CLICKS):
        x, y = points[-1]
        taken[y, x] = True
        prompt = Prompt(points=np.array(points, dtype=np.float32), labels=np.array(labels, dtype=np.int64))
        previous = segmenter.segment(encoded, prompt, target, previous=previous)
        yield prompt, previous
        found = find_next_click(previous.mask, truth, taken)
        if found is None:
            return
        points.append(found[0])
        labels.append(found[1])


def score_clicks(masks: list[np.ndarray], truth: np.ndarray) -> ClickScores:
    """Scores after each click; those after the last mask stay as they are."""
    masks = masks + [masks[-1]] * (MAX_CLICKS - len(masks))
    return ClickScores.of_scores(
        [100 * dice(mask, truth) for mask in masks], [100 * iou(mask, truth) for mask in masks]
    )
