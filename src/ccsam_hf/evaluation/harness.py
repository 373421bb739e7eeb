"""Runs a model over the cases of a directory, scores every mask at 256x256 and writes the summary and the table.

Protocol "samus" (CC-SAM paper, Sec. 4.3, after SAMUS): the processor resizes the image to 256x256, the true mask is
resized to 256x256 by nearest neighbor, the prompt is derived from that mask (its tight box or its fixed click), the
mask logits are resized to 256x256 bilinearly and cut at zero, and all scores are taken there. Dice and IoU are in
percent, the Manhattan Hausdorff distance `hd_samus` in pixels of 256x256. `hd_rows` is the number that SAMUS's own
code prints under that name (`ccsam_hf.metrics.hausdorff_of_rows`): it alone may stand beside the published tables.

A text prompt is the name of the case's target: the grounder finds its box in the image, and the model segments in it.
A text that is not found counts as missed.

Beside every result stands a baseline that sees the prompt but not the image: for a box, given or found, the inscribed
ellipse, for a click the disc around it whose area is the median area of the evaluated objects.
"""

import csv
import io
import json
import logging
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from ..data.cases import SPLITS, Case
from ..data.prompts import fixed_click, tight_box
from ..data.readers import read_cases
from ..geometry import rescale_boxes, resize_maps, resize_masks
from ..grounding import TextGrounder
from ..metrics import dice, hausdorff_of_rows, hausdorff_samus, iou, largest_distance
from ..modeling_ccsam import CCSamModel
from ..pipeline_ccsam import CCSamPipeline
from ..processing_ccsam import CCSamProcessor
from .baselines import inscribed_ellipse, median_disc, median_disc_radius

logger = logging.getLogger(__name__)

SIZE = (256, 256)  # (height, width) of protocol "samus"
BASELINES = {"box": "ellipse", "point": "disc", "text": "ellipse"}  # prompt -> the baseline that stands beside it
PROTOCOLS = ("samus",)
SCORES = ("dice", "iou", "hd_samus", "hd_rows")
RESERVED_NAMES = (
    "all",
    "baseline",
    "n_without_object",
    "prompt",
    "protocol",
    "split",
    "model",
    "grounder",
    "versions",
)


def evaluate_directory(
    model_dir: str | Path,
    data_dir: str | Path,
    layout: str,
    prompt: str,
    protocol: str,
    output_dir: str | Path,
    grounder: str | Path | None = None,
    split: str | None = None,
) -> dict:
    """Evaluates a checkpoint on a directory of cases; writes `summary.json` and `cases.csv`, each in one piece.

    Cases without an object cannot be prompted: they are counted in the log and as `n_without_object`, and have no row.

    Args:
        model_dir: folder or hub name of model and processor.
        data_dir: folder of the cases.
        layout: how it is laid out, see `ccsam_hf.data.readers`.
        prompt: "box", "point" or "text".
        protocol: "samus".
        output_dir: folder of the two files; made where it is missing.
        grounder: for texts, see `CCSamPipeline`.
        split: "train", "validation" or "test" to evaluate the cases that the release puts there, None for all.

    Returns:
        The content of `summary.json`: that of `summarize`, and `n_without_object`, `prompt`, `protocol`, `split`,
        `model`, `grounder` (its text encoder and what it was tuned on, None for zero-shot), `versions`.

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: an argument is unknown, the cases are not as their layout says, none has an object, or a target has
            a name that the summary uses itself.
    """
    _check_choice("prompt", prompt, tuple(BASELINES))
    _check_choice("protocol", protocol, PROTOCOLS)
    if split is not None:
        _check_choice("split", split, SPLITS)
    all_cases = [case for case in read_cases(data_dir, layout) if split in (None, case.split)]
    if not all_cases:
        raise ValueError(f"{data_dir} has no case in split {split!r}; its layout may know no splits: build it first")
    cases = [case for case in all_cases if case.mask.any()]
    n_without_object = len(all_cases) - len(cases)
    if not cases:
        raise ValueError(f"none of the {len(all_cases)} cases in {data_dir} has an object: there is nothing to prompt")
    if n_without_object:
        logger.warning("%d of %d cases have no object and are not evaluated", n_without_object, len(all_cases))
    _check_targets(cases)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe = CCSamPipeline.from_pretrained(model_dir, grounder, device_map=device)
    found_by = pipe.grounder if prompt == "text" else None
    rows = evaluate_cases(pipe.model, pipe.processor, cases, prompt, grounder=found_by)
    settings = found_by and found_by.settings
    summary = summarize(rows) | {
        "n_without_object": n_without_object,
        "prompt": prompt,
        "protocol": protocol,
        "split": split,
        "model": str(model_dir),
        "grounder": settings and {"text_encoder": settings.text_encoder, "tuned_on": settings.tuned_on},
        "versions": _versions(),
    }
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    _write(output_dir / "cases.csv", _as_csv(rows))
    _write(output_dir / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return summary


def evaluate_cases(
    model: CCSamModel,
    processor: CCSamProcessor,
    cases: Sequence[Case],
    prompt: str,
    batch_size: int = 8,
    grounder: TextGrounder | None = None,
) -> list[dict]:
    """Segments every case by protocol "samus" and scores the masks.

    An object that is so small that the resize to 256x256 loses it leaves no prompt, and neither does a text that is
    not found. Both count as missed, by the model and by the baseline: Dice 0, IoU 0, the largest value of each
    distance (510 and 256), and no `iou_score`.

    Args:
        model: in evaluation mode, on any device.
        processor: makes `pixel_values` (B, 3, 256, 256) of grey images.
        cases: each with an object.
        prompt: "box", "point" or "text".
        batch_size: images at a time, at least 1.
        grounder: finds the texts; needed for them alone.

    Returns:
        One row a case, in the order of the cases: name, target, prompt; dice and iou in percent, hd_samus and hd_rows
        in pixels, the same four of the baseline as baseline_*; iou_score, the model's own estimate of the IoU or None;
        with texts box_score, that of the best box, and found, whether it counts.

    Raises:
        ValueError: the prompt is unknown, there is no case, the batch size is below 1, the model is in training mode,
            a case has no object, the processor's size is not 256x256, or a grounder is there without texts or not
            there with them.
    """
    _check_choice("prompt", prompt, tuple(BASELINES))
    if not cases:
        raise ValueError("cases is empty; there is nothing to evaluate")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    if (prompt == "text") != (grounder is not None):
        raise ValueError(f"prompt={prompt!r} came {'without' if prompt == 'text' else 'with'} a grounder")
    if model.training:
        raise ValueError("the model is in training mode, where masks are random: call model.eval() first")
    radius = median_disc_radius([np.count_nonzero(_true_mask(case)) for case in cases])
    rows = []
    for start in range(0, len(cases), batch_size):
        rows += _batch_rows(model, processor, grounder, cases[start : start + batch_size], prompt, radius)
    return rows


def summarize(rows: Sequence[dict]) -> dict:
    """Means over cases with their confidence intervals.

    Args:
        rows: those of `evaluate_cases`, at least one, all of one prompt.

    Returns:
        `{"<target>": entry, ..., "all": entry, "baseline": {"ellipse" or "disc": entry}}`. An entry is `{"dice":
        {"mean", "ci95": [low, high]}, "iou": {...}, "hd_samus": {...}, "hd_rows": {...}, "n": number of cases}`; the
        baseline's is over all cases.
    """
    targets = sorted({row["target"] for row in rows})
    return {
        **{target: _entry([row for row in rows if row["target"] == target]) for target in targets},
        "all": _entry(rows),
        "baseline": {BASELINES[rows[0]["prompt"]]: _entry(rows, "baseline_")},
    }


def bootstrap_ci95(values: np.ndarray, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % confidence interval of a mean: the 2.5 and 97.5 percentiles of the means of resampled cases.

    Args:
        values: (n,), one number a case, at least one.
        resamples: how many times n cases are drawn with replacement.
        seed: of the draw; the same values and seed give the same interval.

    Returns:
        (low, high) in the unit of the values; both the value itself for n = 1.
    """
    values = np.asarray(values, dtype=float)
    drawn = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _batch_rows(
    model: CCSamModel,
    processor: CCSamProcessor,
    grounder: TextGrounder | None,
    cases: Sequence[Case],
    prompt: str,
    disc_radius: float,
) -> list[dict]:
    truths = [_true_mask(case) for case in cases]
    rows = [{"name": case.name, "target": case.target, "prompt": prompt} for case in cases]
    if prompt == "text":
        prompts, found = zip(*[_found_box(grounder, case) for case in cases], strict=True)
        rows = [row | columns for row, columns in zip(rows, found, strict=True)]
        prompts = [box if truth.any() else None for box, truth in zip(prompts, truths, strict=True)]
    else:
        prompts = [_prompt_of(truth, prompt) if truth.any() else None for truth in truths]
    images = [case.image for case, coordinates in zip(cases, prompts, strict=True) if coordinates is not None]
    given = [coordinates for coordinates in prompts if coordinates is not None]
    predictions = iter(_predict(model, processor, images, given, prompt))
    scored = []
    for row, truth, coordinates in zip(rows, truths, prompts, strict=True):
        if coordinates is None:
            if not truth.any():
                logger.warning("case %s: its object is lost at 256x256 and counts as missed", row["name"])
            scored.append(row | _scores_of_a_miss() | _scores_of_a_miss("baseline_") | {"iou_score": None})
            continue
        pred, iou_score = next(predictions)
        baseline = _baseline_mask(coordinates, prompt, disc_radius)
        scored.append(row | _scores(pred, truth) | _scores(baseline, truth, "baseline_") | {"iou_score": iou_score})
    return scored


def _found_box(grounder: TextGrounder, case: Case) -> tuple[np.ndarray | None, dict]:
    """The box (4,) of the case's target in pixels of 256x256, or None, and the columns that tell of it."""
    image = case.image
    (find,) = grounder(image, case.target)
    columns = {"box_score": find.best_score, "found": len(find.boxes) > 0}
    box = rescale_boxes(find.boxes[0], image.shape, SIZE).numpy() if columns["found"] else None
    return box, columns


@torch.inference_mode()
def _predict(
    model: CCSamModel, processor: CCSamProcessor, images: list[np.ndarray], prompts: list[np.ndarray], prompt: str
) -> list[tuple[np.ndarray, float]]:
    """One mask (256, 256) bool and its estimated IoU an image; prompts are in pixels of 256x256."""
    if not images:
        return []
    pixel_values = processor(images=images, return_tensors="pt")["pixel_values"].to(model.device)
    if tuple(pixel_values.shape[-2:]) != SIZE:
        raise ValueError(
            f"the processor makes images of {tuple(pixel_values.shape[-2:])}; protocol 'samus' needs {SIZE}"
        )
    coordinates = torch.from_numpy(np.stack(prompts)).to(model.device)[:, None]  # (B, 1, 4) or (B, 1, 2)
    if prompt in ("box", "text"):
        output = model(pixel_values=pixel_values, input_boxes=coordinates)
    else:
        input_points = coordinates[:, :, None]  # (B, 1, 1, 2)
        input_labels = torch.ones(input_points.shape[:3], dtype=torch.long, device=model.device)
        output = model(pixel_values=pixel_values, input_points=input_points, input_labels=input_labels)
    mask_logits = resize_maps(output.pred_masks[:, 0], SIZE)  # (B, 1, 256, 256)
    masks_binary = (mask_logits[:, 0] > 0).cpu().numpy()
    return list(zip(masks_binary, output.iou_scores[:, 0, 0].float().tolist(), strict=True))


def _true_mask(case: Case) -> np.ndarray:
    """The case's mask at 256x256, (256, 256) bool."""
    mask = case.mask
    if not mask.any():
        raise ValueError(f"case {case.name!r} has no object; a prompt needs one: leave such cases out")
    return resize_masks(torch.from_numpy(mask)[None, None], SIZE)[0, 0].bool().numpy()


def _prompt_of(truth: np.ndarray, prompt: str) -> np.ndarray:
    """Tight box (4,) xyxy or fixed click (2,) in pixels of 256x256."""
    return tight_box(truth) if prompt == "box" else fixed_click(truth)


def _baseline_mask(coordinates: np.ndarray, prompt: str, disc_radius: float) -> np.ndarray:
    if prompt == "point":
        return median_disc(coordinates, disc_radius, SIZE)
    return inscribed_ellipse(coordinates, SIZE)


def _scores(pred: np.ndarray, truth: np.ndarray, prefix: str = "") -> dict[str, float]:
    distances = (hausdorff_samus(pred, truth), hausdorff_of_rows(pred, truth))
    values = (100 * dice(pred, truth), 100 * iou(pred, truth), *distances)
    return {prefix + name: value for name, value in zip(SCORES, values, strict=True)}


def _scores_of_a_miss(prefix: str = "") -> dict[str, float]:
    return {
        prefix + name: value for name, value in zip(SCORES, (0.0, 0.0, largest_distance(SIZE), SIZE[1]), strict=True)
    }


def _entry(rows: Sequence[dict], prefix: str = "") -> dict:
    entry: dict = {}
    for name in SCORES:
        values = np.array([row[prefix + name] for row in rows])
        entry[name] = {"mean": float(values.mean()), "ci95": list(bootstrap_ci95(values))}
    return entry | {"n": len(rows)}


def _check_choice(name: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise ValueError(f"{name} is {value!r}; accepted are {', '.join(accepted)}")


def _check_targets(cases: Sequence[Case]) -> None:
    taken = sorted({case.target for case in cases} & set(RESERVED_NAMES))
    if taken:
        raise ValueError(f"target {taken[0]!r} is a name of the summary itself: call the target something else")


def _versions() -> dict[str, str]:
    names = ("ccsam-hf", "torch", "torchvision", "transformers", "numpy", "scipy", "pillow")
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a source tree on the path instead of an installed package
        return "not installed"


def _as_csv(rows: Sequence[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
