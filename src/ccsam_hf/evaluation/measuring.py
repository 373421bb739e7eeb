"""One case and one model -> its rows (`CaseMeasurer`): prompt, segment, score, with the blind baseline beside it."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..checks import check_choice
from ..data.cases import Case
from ..data.prompts import Prompt, to_edges, to_indices
from ..geometry import rescale_boxes
from ..grounding import TextGrounder
from .clicks import click, score_clicks
from .protocol import DRAWN, NEEDS, PROMPTS, png_of, prompt_from, seed_of, true_mask
from .reliability import calibration_bins, uncertainty_bins
from .rows import ClickScores, Measures, Row
from .segmenters import SIZE, Prediction, Segmenter, disc, ellipse, mean_mask

logger = logging.getLogger(__name__)


class Blind:
    """The baseline of each kind of prompt for a set of cases; those that need a usual size or place know these cases.

    Args:
        cases: each with an object.
        prompts: kinds of `PROMPTS`.
    """

    def __init__(self, cases: Sequence[Case], prompts: Sequence[str]):
        kinds = {NEEDS[prompt] for prompt in prompts}
        truths = [true_mask(case) for case in cases] if kinds - {"box"} else []
        self.by_kind = {"box": ellipse()}
        if kinds & {"point", "clicks"}:
            self.by_kind["point"] = self.by_kind["clicks"] = disc(truths)
        if "none" in kinds:
            self.by_kind["none"] = mean_mask(truths, [case.target for case in cases])

    def mask(self, prompt: Prompt, kind: str, target: str) -> np.ndarray:
        """(256, 256) bool; of several clicks the first counts."""
        return self.by_kind[NEEDS[kind]].segment(None, prompt, target).mask


class CaseMeasurer:
    """Makes the rows of single cases of one model; the encoding of an image is kept until another image comes.

    Args:
        segmenter: the model.
        blind: baselines.
        prompts: kinds of `PROMPTS`.
        draws: of each kind in `DRAWN`.
        grounder: finds the texts; needed for them alone.
        model, data: names in the rows.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        blind: Blind,
        prompts: Sequence[str],
        draws: int,
        grounder: TextGrounder | None,
        model: str,
        data: str,
    ):
        self.segmenter, self.blind, self.prompts, self.draws = segmenter, blind, prompts, draws
        self.grounder, self.model, self.data = grounder, model, data
        self.image_of, self.encoded = None, None

    def measure(self, case: Case) -> list[Row]:
        """One row for each prompt, and each draw of it."""
        rows = []
        for kind in self.prompts:
            for draw in range(self.draws if kind in DRAWN else 1):
                try:
                    rows.append(self.measure_prompt(case, kind, draw))
                except Exception as error:  # whatever a model raises, the other cases go on and this one is told of
                    logger.warning("case %s, prompt %s failed: %s", case.name, kind, error)
                    rows.append(self.miss_row(case, kind, draw, "failed", f"{type(error).__name__}: {error}"))
        return rows

    def measure_prompt(self, case: Case, kind: str, draw: int) -> Row:
        """The row of one prompt."""
        truth, seed, found, prompt = true_mask(case), seed_of(case, draw), {}, None
        if kind == "text":
            image = case.image
            (find,) = self.grounder(image, case.target)
            found = {"box_score": find.best_score, "found": len(find.boxes) > 0}
            if not found["found"]:
                return self.miss_row(case, kind, draw, "missed", find.reason or "nothing was found", found)
            prompt = Prompt(box=to_indices(rescale_boxes(find.boxes[0], image.shape, SIZE).cpu().numpy()))
        if not truth.any():
            return self.miss_row(case, kind, draw, "missed", "no pixel of the object is left at 256x256", found)
        encoded = self.encode(case)
        torch.manual_seed(seed)  # of the draws of a posterior
        if kind == "clicks":
            steps = list(click(self.segmenter, encoded, truth, case.target))
            prompt, prediction = steps[-1]
            found = {"clicks": score_clicks([each.mask for _, each in steps], truth)}
        else:
            prompt = prompt or prompt_from(truth, kind, seed)
            prediction = self.segmenter.segment(encoded, prompt, case.target)
        blind = self.blind.mask(prompt, kind, case.target)
        box = None if prompt.box is None else to_edges(prompt.box)
        return Row(
            **self.names_of(case, kind, draw),
            **found,
            measures=Measures.of_mask(prediction.mask, truth, box, prediction.raw),
            baseline=Measures.of_mask(blind, truth, box),
            coordinates=coordinates_of(prompt),
            **reliability_of(prediction, truth),
        )

    def names_of(self, case: Case, kind: str, draw: int) -> dict[str, Any]:
        """The fields that say what a row is of."""
        names = ("dataset", "name", "target", "split", "patient_id", "release")
        return {"model": self.model, "data": self.data, "prompt": kind, "draw": draw} | {
            name: getattr(case, name) for name in names
        }

    def miss_row(
        self, case: Case, kind: str, draw: int, status: str, reason: str, found: dict[str, Any] | None = None
    ) -> Row:
        """The row of a case without a mask: model and baseline get the scores of a miss."""
        miss, clicks = Measures.of_miss(SIZE), ClickScores.of_miss() if kind == "clicks" else None
        names = self.names_of(case, kind, draw)
        return Row(**names, **(found or {}), status=status, reason=reason, measures=miss, baseline=miss, clicks=clicks)

    def encode(self, case: Case) -> Any:
        """The encoded image of a case."""
        if self.image_of != case.image_source:
            self.encoded, self.image_of = self.segmenter.encode(case.image), case.image_source
        return self.encoded


def coordinates_of(prompt: Prompt) -> list[float] | None:
    """Of the box or the points, in one list; None without any."""
    coordinates = to_edges(prompt.box) if prompt.box is not None else prompt.points
    return None if coordinates is None else [float(value) for value in coordinates.ravel()]


def reliability_of(prediction: Prediction, truth: np.ndarray) -> dict[str, Any]:
    """The fields of `Row` that describe the mask and the model's own estimates of its quality."""
    mask, uncertainty = prediction.mask, prediction.uncertainty
    count, confidence, positive = calibration_bins(prediction.probability, truth)
    fields = {"iou_score": prediction.score, "mask": png_of(mask), "calibration_count": count}
    fields |= {"calibration_confidence": confidence, "calibration_positive": positive}
    if uncertainty is not None:
        fields["uncertainty"] = float(uncertainty[mask].mean() if mask.any() else uncertainty.mean())
        count, wrong = uncertainty_bins(uncertainty, mask != truth)
        fields |= {"uncertainty_count": count, "uncertainty_wrong": wrong}
    return fields


def check_prompts(segmenter: Segmenter, prompts: Sequence[str], draws: int, grounder: TextGrounder | None) -> None:
    """Raise ValueError for prompts that are none, unknown, not the model's, or that do not fit the grounder."""
    if not prompts:
        raise ValueError(f"no prompt is one that the model reads; it reads {', '.join(segmenter.reads)}")
    if draws < 1:
        raise ValueError(f"draws is {draws}; expected at least 1")
    for prompt in prompts:
        check_choice("prompt", prompt, PROMPTS)
        if NEEDS[prompt] not in segmenter.reads:
            raise ValueError(f"prompt {prompt!r} is not one that the model reads: {', '.join(segmenter.reads)}")
    if ("text" in prompts) != (grounder is not None):
        raise ValueError(f"prompts {list(prompts)} came {'without' if grounder is None else 'with'} a grounder")
