"""A row of an evaluation (`Row`): one draw of a prompt for one case by one model, and the columns it becomes."""

import base64
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from .metrics import all_scores, miss_scores, shape_of

MAX_CLICKS = 10
NOC_LEVELS = (85, 90)  # percent
TEXT = {"prompt": "text"}  # metadata of a column that exists where this prompt is among those asked for
CLICKS = {"prompt": "clicks"}
HIDDEN = {"in_csv": False}  # what a cell of a CSV file cannot hold

CLICK_COLUMNS = tuple(f"dice_{number}" for number in range(1, MAX_CLICKS + 1))
NOC_COLUMNS = {  # number of clicks -> whether it was reached
    f"noc{level}{ending}": f"reached{level}{ending}" for ending in ("", "_dice") for level in NOC_LEVELS
}


@dataclass(frozen=True)
class Measures:
    """A mask against the truth: `metrics.all_scores`, and what `metrics.shape_of` tells of the mask itself."""

    dice: float
    iou: float
    sensitivity: float
    specificity: float
    boundary_iou: float
    hd_samus: float
    hd_rows: float
    hd_euclidean: float
    hd95: float
    assd: float
    parts: int | None = None
    largest_part_share: float | None = None
    reach_outside_box: float | None = None

    @classmethod
    def of_mask(
        cls, mask: np.ndarray, truth: np.ndarray, box: np.ndarray | None, raw: np.ndarray | None = None
    ) -> "Measures":
        """Of masks (256, 256) bool; box and raw as `shape_of` takes them."""
        return cls(**all_scores(mask, truth), **shape_of(mask, box, raw))

    @classmethod
    def of_miss(cls, size: tuple[int, int]) -> "Measures":
        """Where there is no mask, in a frame of a size (height, width)."""
        return cls(**miss_scores(size))


@dataclass(frozen=True)
class ClickScores:
    """How a mask improved by clicks.

    Attributes:
        dice_1 ... dice_10: Dice, percent, after so many clicks.
        noc85, noc90: number of clicks to an IoU of 85 and 90 percent (NoC@85, NoC@90); 10 where it is not reached.
        noc85_dice, noc90_dice: the same for Dice.
        reached85, reached90, reached85_dice, reached90_dice: whether it was reached within 10 clicks.
    """

    dice_1: float
    dice_2: float
    dice_3: float
    dice_4: float
    dice_5: float
    dice_6: float
    dice_7: float
    dice_8: float
    dice_9: float
    dice_10: float
    noc85: int
    noc90: int
    noc85_dice: int
    noc90_dice: int
    reached85: bool
    reached90: bool
    reached85_dice: bool
    reached90_dice: bool

    @classmethod
    def of_scores(cls, dice: Sequence[float], iou: Sequence[float]) -> "ClickScores":
        """Of the scores after each of the 10 clicks, in percent."""
        found: dict[str, Any] = dict(zip(CLICK_COLUMNS, dice, strict=True))
        for values, ending in ((iou, ""), (dice, "_dice")):
            for level in NOC_LEVELS:
                reached = [number for number, value in enumerate(values, 1) if value >= level]
                found[f"noc{level}{ending}"] = reached[0] if reached else MAX_CLICKS
                found[f"reached{level}{ending}"] = bool(reached)
        return cls(**found)

    @classmethod
    def of_miss(cls) -> "ClickScores":
        """Where no click gave a mask."""
        return cls.of_scores([0.0] * MAX_CLICKS, [0.0] * MAX_CLICKS)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One draw of a prompt for one case by one model.

    Attributes:
        model, data: names within the study.
        dataset, name, target, split, patient_id, release: of the case, see `ccsam_hf.data.cases.Case`.
        prompt, draw: one of `protocol.PROMPTS`, and the number of the draw.
        box_score, found: of the text, the score of its best box and whether that reached the threshold.
        status: "ok"; "missed" (a text that was not found, an object that 256x256 loses); "failed", an exception.
        reason: of a miss or failure.
        measures, baseline: of the model's mask, and of the mask drawn from the prompt alone.
        clicks: of the prompt "clicks", whose measures are those after the last click.
        iou_score: the model's own estimate of its IoU, in [0, 1] if it is any good.
        uncertainty: its mean over the predicted mask, over the image where that is empty.
        coordinates: x0 y0 x1 y1 of a box, or x y of each click, in pixels of 256x256.
        mask: the predicted mask as the bytes of a PNG.
        calibration_*, uncertainty_*: bins that `reliability` sums up.
    """

    model: str
    data: str
    dataset: str
    name: str
    target: str
    split: str | None
    patient_id: str | None
    release: str | None = None
    prompt: str
    draw: int
    box_score: float | None = field(default=None, metadata=TEXT)
    found: bool | None = field(default=None, metadata=TEXT)
    status: str = "ok"
    reason: str | None = None
    measures: Measures
    baseline: Measures = field(metadata={"prefix": "baseline_"})
    clicks: ClickScores | None = field(default=None, metadata=CLICKS)
    iou_score: float | None = None
    uncertainty: float | None = None
    coordinates: list[float] | None = field(default=None, metadata=HIDDEN)
    mask: bytes | None = field(default=None, metadata=HIDDEN)
    calibration_count: list[int] | None = field(default=None, metadata=HIDDEN)
    calibration_confidence: list[float] | None = field(default=None, metadata=HIDDEN)
    calibration_positive: list[int] | None = field(default=None, metadata=HIDDEN)
    uncertainty_count: list[int] | None = field(default=None, metadata=HIDDEN)
    uncertainty_wrong: list[int] | None = field(default=None, metadata=HIDDEN)

    def to_record(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Column -> value, of the columns that an evaluation of these prompts has; nested measures lie flat."""
        record: dict[str, Any] = {}
        for each, nested in columns_of(prompts):
            value = getattr(self, each.name)
            if nested is None:
                record[each.name] = value
            else:
                prefix = each.metadata.get("prefix", "")
                record |= {prefix + name: getattr(value, name, None) for name in nested}
        return record


NESTED = {"measures": Measures, "baseline": Measures, "clicks": ClickScores}


def columns_of(prompts: Sequence[str]) -> Iterator[tuple[Any, list[str] | None]]:
    """The fields of `Row` that an evaluation of these prompts has, each with the names of what is nested in it."""
    for each in fields(Row):
        if each.metadata.get("prompt", prompts[0]) in prompts:
            nested = NESTED.get(each.name)
            yield each, nested and [inner.name for inner in fields(nested)]


def csv_columns(prompts: Sequence[str]) -> list[str]:
    """The columns of cases.csv, in their order."""
    return [
        each.metadata.get("prefix", "") + name
        for each, nested in columns_of(prompts)
        if each.metadata.get("in_csv", True)
        for name in nested or [each.name]
    ]


def format_csv(records: Sequence[dict], prompts: Sequence[str]) -> str:
    """The text of cases.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, csv_columns(prompts), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def to_json(record: dict[str, Any]) -> dict[str, Any]:
    """A record as JSON holds it: the mask in base64."""
    return record | {"mask": record["mask"] and base64.b64encode(record["mask"]).decode()}


def from_json(content: dict[str, Any]) -> dict[str, Any]:
    """The record of `to_json`."""
    return content | {"mask": content["mask"] and base64.b64decode(content["mask"])}
