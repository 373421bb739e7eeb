"""Scores a text grounder on scenes whose structures are known: recall, overlap, and whether the text decides the box.

Boxes are compared at the image's own size, as IoU of continuous rectangles. A text for which nothing was found counts
as missed; the best box counts for the measures that do not depend on a threshold.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import logit
from scipy.stats import binomtest
from torchvision.ops import box_iou

from ..data.cases import Case
from ..data.prompts import tight_box
from ..descriptions import find_target
from ..grounding import TextGrounder
from ..grounding_boxes import LOGIT_EPS

IOU_THRESHOLD = 0.5


@dataclass(frozen=True)
class Scene:
    """An image and the boxes of the structures in it.

    Attributes:
        name: identifies the scene.
        image: (H, W) uint8.
        boxes: target -> (4,) xyxy pixels of the image.
        absent: targets that are not in the image, to be asked for all the same.
        masks: target -> (H, W) bool, where they are known; of absent targets that were looked for an empty one.
        data: name of the data set.
    """

    name: str
    image: np.ndarray
    boxes: dict[str, Any]
    absent: tuple[str, ...] = ()
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    data: str = ""


def scenes_of(cases: Sequence[Case], targets: Sequence[str]) -> Iterator[Scene]:
    """The images of cases as scenes, each once with all of its objects, read when they are asked for.

    Args:
        cases: of any number of data sets.
        targets: what may be asked for. Those in another organ than all that was outlined in an image are absent there,
            and so is what has an empty mask; of further targets nothing is known.
    """
    images: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in cases:
        images[case.dataset, case.name].append(case)
    for (data, name), own in images.items():
        masks = {case.target: case.mask for case in own if case.target in targets}
        boxes = {target: tight_box(mask) for target, mask in masks.items() if mask.any()}
        absent = [target for target in targets if all(are_of_two_organs(target, case.target) for case in own)]
        absent += [target for target in masks if target not in boxes]
        yield Scene(name, own[0].image, boxes, tuple(absent), masks, data)


def are_of_two_organs(first: str, second: str) -> bool:
    """Whether two targets lie in different organs for all that the registry knows."""
    found = find_target(first), find_target(second)
    return None not in found and found[0].organ != found[1].organ


def mean_boxes(cases: Iterable[Case]) -> dict[str, np.ndarray]:
    """For each target the mean box, (4,) xyxy in [0, 1] of the image: the guess of one who does not see the image."""
    boxes: dict[str, list[np.ndarray]] = defaultdict(list)
    for case in cases:
        mask = case.mask
        if mask.any():
            height, width = mask.shape
            boxes[case.target].append(tight_box(mask) / [width, height, width, height])
    return {target: np.mean(each, axis=0) for target, each in boxes.items()}


def scene_rows(
    grounder: TextGrounder, scene: Scene, form: str | None = None, blind: dict[str, np.ndarray] | None = None
) -> list[dict[str, Any]]:
    """Ask for every target of a scene, present or absent, each in a text of its own.

    Args:
        grounder: is asked in one call.
        scene: with one target at least.
        form: see `TextGrounder.__call__`.
        blind: of `mean_boxes`, from other scenes.

    Returns:
        One row a target: data, scene, target, present; score of the best box; found, whether it reached the threshold;
        box; and for present targets truth, their own box; iou of the best box; swap_iou, its largest overlap with
        another structure of the scene, where there is one; chance, the recall of a structure chosen at random; and
        blind_iou, the overlap of the blind box, where there is one.
    """
    targets = [*scene.boxes, *scene.absent]
    truth = torch.tensor(np.array(list(scene.boxes.values())), dtype=torch.float32).reshape(-1, 4)
    among = box_iou(truth, truth)  # overlap of the structures themselves: choosing one at random may hit another
    rows = []
    for index, (target, result) in enumerate(zip(targets, grounder(scene.image, targets, form=form), strict=True)):
        row = {
            "data": scene.data,
            "scene": scene.name,
            "target": target,
            "present": index < len(truth),
            "score": result.best_score,
            "found": len(result.boxes) > 0,
            "box": result.best_box.tolist(),
        }
        if row["present"]:
            overlap = box_iou(result.best_box[None], truth)[0]
            others = torch.cat([overlap[:index], overlap[index + 1 :]])
            row |= {
                "truth": truth[index].tolist(),
                "iou": float(overlap[index]),
                "swap_iou": float(others.max()) if len(others) else None,
                "chance": float((among[index] >= IOU_THRESHOLD).float().mean()),
            }
            if blind is not None and target in blind:
                height, width = scene.image.shape
                guess = torch.tensor(blind[target] * [width, height, width, height], dtype=torch.float32)
                row["blind_iou"] = float(box_iou(guess[None], truth[index : index + 1]))
        rows.append(row)
    return rows


def evaluate_grounder(grounder: TextGrounder, scenes: Iterable[Scene], form: str | None = None) -> dict[str, Any]:
    """Ask a grounder for every target of every scene and summarize: see `scene_rows` and `summarize_grounding`."""
    return summarize_grounding([row for scene in scenes for row in scene_rows(grounder, scene, form)])


def summarize_grounding(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Measures by target and over all.

    Args:
        rows: those of `scene_rows`.

    Returns:
        `{"<target>": entry, ..., "all": entry}`. An entry holds, of the present targets, n; recall, share of best
        boxes with an IoU of at least 0.5; recall_found, the same with boxes below the threshold counted as missed;
        mean_iou of the best box; chance, the recall of a structure of the scene chosen at random; swap, among scenes
        with another structure the share of boxes that overlap the asked one by at least 0.5 and more than any other;
        and of the absent targets n_absent and false_alarms, the share for which a box was found. What has no case is
        None.
    """
    targets = sorted({row["target"] for row in rows})
    groups = {target: [row for row in rows if row["target"] == target] for target in targets} | {"all": list(rows)}
    return {name: _entry(group) for name, group in groups.items()}


def _entry(rows: list[dict[str, Any]]) -> dict[str, Any]:
    present = [row for row in rows if row["present"]]
    absent = [row for row in rows if not row["present"]]
    hits = [row["iou"] >= IOU_THRESHOLD for row in present]
    swaps = [
        row["iou"] >= IOU_THRESHOLD and row["iou"] > row["swap_iou"] for row in present if row["swap_iou"] is not None
    ]
    return {
        "n": len(present),
        "recall": _mean(hits),
        "recall_found": _mean([hit and row["found"] for hit, row in zip(hits, present, strict=True)]),
        "mean_iou": _mean([row["iou"] for row in present]),
        "chance": _mean([row["chance"] for row in present]),
        "swap": _mean(swaps),
        "n_absent": len(absent),
        "false_alarms": _mean([row["found"] for row in absent]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def summarize_pairs(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Recall and false alarms of each target in each data set.

    Args:
        rows: those of `scene_rows`.

    Returns:
        For each pair "data" and "target"; "n", of images that show the target, "recall", the share of best boxes with
        an IoU of at least 0.5, "recall_found", the same with boxes below the threshold counted as missed,
        "blind_recall", that of the blind box; "n_absent", of images without it, and "false_alarms", the share of them
        in which a box was found. "recall_ci95", "recall_found_ci95" and "false_alarms_ci95" are Wilson's intervals,
        which take images as independent. What has no case is None.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["data"], row["target"]].append(row)
    return [{"data": data, "target": target, **_pair_entry(group)} for (data, target), group in sorted(groups.items())]


def _pair_entry(rows: list[dict[str, Any]]) -> dict[str, Any]:
    present = [row for row in rows if row["present"]]
    counted = {
        "recall": [row["iou"] >= IOU_THRESHOLD for row in present],
        "recall_found": [row["iou"] >= IOU_THRESHOLD and row["found"] for row in present],
        "false_alarms": [row["found"] for row in rows if not row["present"]],
    }
    entry: dict[str, Any] = {"n": len(present), "n_absent": len(rows) - len(present)}
    for name, hits in counted.items():
        entry |= {name: _mean(hits), f"{name}_ci95": wilson_ci95(sum(hits), len(hits))}
    blind = [row["blind_iou"] >= IOU_THRESHOLD for row in present if "blind_iou" in row]
    return entry | {"mean_iou": _mean([row["iou"] for row in present]), "blind_recall": _mean(blind)}


def wilson_ci95(hits: int, count: int) -> list[float] | None:
    """Wilson's 95 % interval of a share; None of no case."""
    if count == 0:
        return None
    interval = binomtest(int(hits), count).proportion_ci(0.95, method="wilson")
    return [float(interval.low), float(interval.high)]


def largest_difference(grounder: TextGrounder, scene: Scene, form: str | None = None) -> float:
    """How much the best score of a text differs at most between a call of its own and one with all of a scene's."""
    targets = [*scene.boxes, *scene.absent]
    together = [result.best_score for result in grounder(scene.image, targets, form=form)]
    alone = [grounder(scene.image, target, form=form)[0].best_score for target in targets]
    return max(abs(one - other) for one, other in zip(together, alone, strict=True))


def best_threshold(rows: Sequence[dict[str, Any]]) -> float | None:
    """The score that best tells right boxes from boxes of absent targets.

    Source: Youden, "Index for rating diagnostic tests", Cancer 3, 1950: the largest difference between the share of
    present targets whose best box is right and scores at least that, and the share of absent targets that do.

    Args:
        rows: those of `scene_rows`.

    Returns:
        Middle between two neighbouring scores, in [0, 1]; None where no target is absent or none is found right.
    """
    right = np.array([row["score"] if row["iou"] >= IOU_THRESHOLD else -1.0 for row in rows if row["present"]])
    absent = np.array([row["score"] for row in rows if not row["present"]])
    if not len(absent) or not (right >= 0).any():
        return None
    scores = np.unique(np.concatenate([right[right >= 0], absent]))
    candidates = np.concatenate([[0.0], (scores[:-1] + scores[1:]) / 2])
    gain = [(right >= score).mean() - (absent >= score).mean() for score in candidates]
    return float(candidates[int(np.argmax(gain))])


def fit_calibration(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Scale and shift of each target's logits that make its score the share of boxes that are right.

    Source: Platt, "Probabilistic outputs for support vector machines", 1999, with his targets in place of 0 and 1. A
    box is right where the target is present and its best box has an IoU of at least 0.5. Chosen here: the scale stays
    between 0.1 and 10, so that the order of boxes does.

    Args:
        rows: those of `scene_rows` by a grounder without a calibration.

    Returns:
        target -> [scale, shift], for targets with right boxes and others.
    """
    fitted = {}
    for target in sorted({row["target"] for row in rows}):
        own = [row for row in rows if row["target"] == target]
        right = np.array([row["present"] and row["iou"] >= IOU_THRESHOLD for row in own])
        if right.all() or not right.any():
            continue
        logits = logit(np.clip([row["score"] for row in own], LOGIT_EPS, 1 - LOGIT_EPS))
        wanted = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))

        def loss(scale_and_shift: np.ndarray, logits: np.ndarray = logits, wanted: np.ndarray = wanted) -> float:
            moved = scale_and_shift[0] * logits + scale_and_shift[1]
            return float(np.mean(np.logaddexp(0, moved) - wanted * moved))

        found = minimize(loss, [1.0, 0.0], method="L-BFGS-B", bounds=[(0.1, 10), (None, None)])
        fitted[target] = [round(float(value), 4) for value in found.x]
    return fitted


def quiet_threshold(rows: Sequence[dict[str, Any]], share: float) -> float:
    """The lowest score, in hundredths, from which of each target at most so large a share of absent ones is found.

    Args:
        rows: those of `scene_rows`.
        share: of the images without a target, [0, 1].
    """
    absent = defaultdict(list)
    for row in rows:
        if not row["present"]:
            absent[row["target"]].append(row["score"])
    for threshold in np.arange(1, 100) / 100:
        if all(np.mean(np.array(scores) >= threshold) <= share for scores in absent.values()):
            return float(threshold)
    return 1.0


def average_precision(rows: Sequence[dict[str, Any]]) -> float | None:
    """Mean average precision over IoU thresholds 0.5 to 0.95 and over targets, of the best box of each text.

    Args:
        rows: those of `scene_rows`; absent targets count as false positives with their score.

    Returns:
        The mean over the targets that are present somewhere, in [0, 1]; None where none is.

    Raises:
        ImportError: torchmetrics with its detection extra is not installed (`pip install "ccsam-hf[train]"`).
    """
    from torchmetrics.detection import MeanAveragePrecision

    if not any(row["present"] for row in rows):
        return None
    metric = MeanAveragePrecision(box_format="xyxy")
    labels = {target: label for label, target in enumerate(sorted({row["target"] for row in rows}))}
    for row in rows:
        label = torch.tensor([labels[row["target"]]])
        predicted = {"boxes": torch.tensor([row["box"]]), "scores": torch.tensor([row["score"]]), "labels": label}
        truth = torch.tensor([row["truth"]] if row["present"] else []).reshape(-1, 4)
        metric.update([predicted], [{"boxes": truth, "labels": label[: len(truth)]}])
    return float(metric.compute()["map"])


__all__ = [
    "Scene",
    "average_precision",
    "best_threshold",
    "evaluate_grounder",
    "fit_calibration",
    "largest_difference",
    "mean_boxes",
    "quiet_threshold",
    "scene_rows",
    "scenes_of",
    "summarize_grounding",
    "summarize_pairs",
]
