"""All prompts of a session -> their results side by side, and how far each pair of them agrees."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

import shared_models
from ccsam_hf import SegmentationResult
from ccsam_hf.evaluation.metrics import dice
from picture import drawn
from session import KINDS, Session, at_threshold, names_of, opened_source, prompts_of


@dataclass(frozen=True)
class Comparison:
    """Results of several prompts on one image.

    Args:
        names: P names of prompts.
        results: one for each, at the session's threshold.
        pictures: one for each.
        dice: (P, P) Dice in [0, 1] of each pair; two empty masks agree.
    """

    names: list[str]
    results: list[SegmentationResult]
    pictures: list[Image.Image]
    dice: np.ndarray


def compare(session: Session) -> Comparison:
    """Decode every text, the points and every box that the session holds, on the image as it was encoded.

    Raises:
        ValueError: there is no image, or fewer than two prompts.
    """
    opened_source(session)
    names, results, pictures = [], [], []
    for kind in KINDS:
        prompts = prompts_of(session, kind)
        if not prompts:
            continue
        decoded = shared_models.decode(session.model, session.encoded, prompts, session.spacing_mm)
        for name, result in zip(names_of(session, kind), decoded, strict=True):
            names.append(f"text: {name}" if kind == "text" else name)
            results.append(at_threshold(result, session.threshold, session.spacing_mm, kind != "points"))
            points = (session.points, session.labels) if kind == "points" else ()
            pictures.append(drawn(session.image, results[-1:], *points))
    if len(results) < 2:
        raise ValueError(
            f"{len(results)} prompts were given; a comparison takes two or more: add a text, a point or a box"
        )
    agreement = np.array([[dice(first.mask, second.mask) for second in results] for first in results])
    return Comparison(names, results, pictures, agreement)
