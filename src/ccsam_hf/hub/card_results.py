"""The figures of an evaluation as the Hub's model index (`mask_results`, `box_results`)."""

import re
from typing import Any

from huggingface_hub import EvalResult

from .card_facts import SIMULATED

PROMPT_NAMES = {
    "box": "tight box",
    "point": "middle click",
    "text": "text",
    "jittered-box": "jittered box",
    "random-point": "random click",
    "clicks": "ten clicks",
    "none": "no prompt",
}


def mask_results(evaluation: dict[str, Any]) -> list[EvalResult]:
    """Dice and Hausdorff distance of each data set and prompt, all targets together."""
    return [
        EvalResult(
            task_type="mask-generation",
            task_name="Promptable segmentation",
            dataset_type=slug(entry["data"]),
            dataset_name=entry["data"],
            dataset_args={"cases": entry["n"]},
            metric_type=metric,
            metric_name=f"{label}, prompt: {PROMPT_NAMES[entry['prompt']]}",
            metric_value=round(entry[score]["mean"], 2),
            metric_args={"ci95": "{:.2f} to {:.2f}".format(*entry[score]["ci95"])},
        )
        for entry in evaluation["results"]
        if entry["target"] == "all"
        for score, metric, label in (
            ("dice", "dice", "Dice (%)"),
            ("hd_samus", "hausdorff-distance", "Hausdorff distance, Manhattan (px of 256x256)"),
        )
    ]


def box_results(evaluation: dict[str, Any]) -> list[EvalResult]:
    """Recall, overlap and average precision by form of the text, all targets together."""
    measured = []
    for entry in evaluation["results"]:
        if entry["target"] == "all":
            form, precision = entry["form"], evaluation["average_precision"][entry["form"]]
            measured += [
                ("recall", f"Recall at IoU 0.5 (%), text: {form}", 100 * entry["recall"]),
                ("mean_iou", f"Mean IoU (%), text: {form}", 100 * entry["mean_iou"]),
                ("mean_average_precision", f"Average precision at IoU 0.5 to 0.95 (%), text: {form}", 100 * precision),
            ]
    return [
        EvalResult(
            task_type="zero-shot-object-detection",
            task_name="Box of a structure that a text names",
            dataset_type=SIMULATED,
            dataset_name="simulated scenes with several structures",
            dataset_args={"scenes": evaluation["scenes"], "seed": evaluation["seed"]},
            metric_type=metric,
            metric_name=name,
            metric_value=round(value, 2),
        )
        for metric, name, value in measured
    ]


def slug(name: str) -> str:
    """A name in small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
