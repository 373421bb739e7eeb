"""Scores a text grounder on scenes whose structures are known: recall, overlap, and whether the text decides the box.

Boxes are compared at the image's own size, as IoU of continuous rectangles. A text for which nothing was found counts
as missed; the best box counts for the measures that do not depend on a threshold.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou

from ..grounding import TextGrounder

IOU_THRESHOLD = 0.5


@dataclass(frozen=True)
class Scene:
    """An image and the boxes of the structures in it.

    Attributes:
        name: identifies the scene.
        image: (H, W) uint8.
        boxes: target -> (4,) xyxy pixels of the image.
        absent: targets that are not in the image, to be asked for all the same.
    """

    name: str
    image: np.ndarray
    boxes: dict[str, Any]
    absent: tuple[str, ...] = ()


def scene_rows(grounder: TextGrounder, scene: Scene, form: str | None = None) -> list[dict[str, Any]]:
    """Ask for every target of a scene, present or absent, each in a text of its own.

    Returns:
        One row a target: scene, target, present; score of the best box; found, whether it reached the threshold; box;
        and for present targets truth, their own box; iou of the best box; swap_iou, its largest overlap with another
        structure of the scene, where there is one; chance, the recall of a structure chosen at random.
    """
    targets = [*scene.boxes, *scene.absent]
    truth = torch.tensor(np.array(list(scene.boxes.values())), dtype=torch.float32).reshape(-1, 4)
    among = box_iou(truth, truth)  # overlap of the structures themselves: choosing one at random may hit another
    rows = []
    for index, target in enumerate(targets):
        (result,) = grounder(scene.image, target, form=form)
        row = {
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


__all__ = ["Scene", "average_precision", "best_threshold", "evaluate_grounder", "scene_rows", "summarize_grounding"]
