"""Protocol "samus": a case at 256x256, the prompts that its true mask gives, and the row that a prediction earns.

Source: CC-SAM paper, Sec. 4.3, after SAMUS. The model resizes the image to 256x256, the true mask is resized to
256x256 by nearest neighbor, prompts are derived from that mask, predictions are brought to 256x256, and all scores are
taken there: shares in percent, distances in pixels of 256x256. `hd_rows` is the number that SAMUS's own code prints as
Hausdorff distance (`ccsam_hf.evaluation.metrics.hausdorff_of_rows`): it alone may stand beside the published tables.
"""

import io
import zlib

import numpy as np
import torch
from PIL import Image

from ..data.cases import Case
from ..data.prompts import Prompt, fixed_click, jittered_box, random_clicks, tight_box
from ..geometry import resize_masks
from .metrics import SHAPES, all_scores, miss_scores, shape_of
from .reliability import calibration_bins, uncertainty_bins
from .segmenters import SIZE, Prediction

PROTOCOLS = ("samus",)
PROMPTS = ("box", "point", "random-point", "jittered-box", "text", "none")
DRAWN = ("random-point", "jittered-box")  # by chance: a case may have several draws
NEEDS = {"box": "box", "jittered-box": "box", "text": "box", "point": "point", "random-point": "point", "none": "none"}
CALIBRATION = ("calibration_count", "calibration_confidence", "calibration_positive")
UNCERTAINTY = ("uncertainty_count", "uncertainty_wrong")


def true_mask(case: Case) -> np.ndarray:
    """The case's mask at 256x256, (256, 256) bool; it may be empty where the object is smaller than a pixel there."""
    return resize_masks(torch.from_numpy(case.mask)[None, None], SIZE)[0, 0].bool().numpy()


def seed_of(case: Case, draw: int) -> int:
    """A seed that depends on the case and the draw alone, in [0, 2**32): the same in any order, on any process."""
    return zlib.crc32(f"{case.dataset}/{case.name}/{case.target}/{draw}".encode())


def prompt_from(truth: np.ndarray, kind: str, seed: int) -> Prompt:
    """The prompt of a kind other than "text" for one object.

    Args:
        truth: (256, 256) bool, at least one pixel set.
        kind: "box" the tight box; "point" SAMUS's fixed click; "jittered-box" each side moved by up to 5 %;
            "random-point" any pixel of the object; "none" nothing.
        seed: of the two that are drawn.

    Returns:
        Coordinates in pixels of 256x256.
    """
    rng = np.random.default_rng(seed)
    if kind in ("box", "jittered-box"):
        return Prompt(box=tight_box(truth) if kind == "box" else jittered_box(truth, rng))
    if kind in ("point", "random-point"):
        points = fixed_click(truth)[None] if kind == "point" else random_clicks(truth, 1, rng)
        return Prompt(points=points, labels=np.ones(1, dtype=np.int64))
    return Prompt()


def scored(prediction: Prediction, blind: np.ndarray, truth: np.ndarray, prompt: Prompt) -> dict:
    """The columns of a case that was segmented.

    Args:
        prediction: of the model.
        blind: (256, 256) bool, the mask of the baseline that sees the prompt alone.
        truth: (256, 256) bool.
        prompt: what both were given.

    Returns:
        status "ok"; the scores of `ccsam_hf.evaluation.metrics.all_scores`, what `shape_of` tells there, and the same
        of the baseline as baseline_*; iou_score; uncertainty, the mean over the predicted mask (over the image where
        it is empty); coordinates; the mask as the bytes of a PNG; and what `ccsam_hf.evaluation.reliability` sums up.
    """
    mask, uncertainty = prediction.mask, prediction.uncertainty
    row = {"status": "ok", "reason": None, **all_scores(mask, truth), **shape_of(mask, prompt.box, prediction.raw)}
    of_blind = all_scores(blind, truth) | shape_of(blind, prompt.box)
    row |= {f"baseline_{name}": value for name, value in of_blind.items()}
    row |= {"iou_score": prediction.score, "uncertainty": None, "coordinates": None, "mask": png_of(mask)}
    coordinates = prompt.box if prompt.box is not None else prompt.points
    if coordinates is not None:
        row["coordinates"] = [float(value) for value in coordinates.ravel()]
    bins = calibration_bins(prediction.probability, truth)
    row |= dict(zip(CALIBRATION, bins, strict=True)) | dict.fromkeys(UNCERTAINTY)
    if uncertainty is not None:
        row["uncertainty"] = float(uncertainty[mask].mean() if mask.any() else uncertainty.mean())
        row |= dict(zip(UNCERTAINTY, uncertainty_bins(uncertainty, mask != truth), strict=True))
    return row


def unscored(status: str, reason: str) -> dict:
    """The columns of a case without a mask, "missed" or "failed": model and baseline get the scores of a miss."""
    missed = miss_scores(SIZE) | dict.fromkeys(SHAPES)
    row = {"status": status, "reason": reason, **missed} | {f"baseline_{name}": missed[name] for name in missed}
    nothing = ("iou_score", "uncertainty", "coordinates", "mask", *CALIBRATION, *UNCERTAINTY)
    return row | dict.fromkeys(nothing)


def png_of(mask: np.ndarray) -> bytes:
    """A mask as the bytes of a PNG of one bit a pixel."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return buffer.getvalue()


def mask_of(png: bytes) -> np.ndarray:
    """The mask of `png_of`, (256, 256) bool."""
    return np.asarray(Image.open(io.BytesIO(png))).astype(bool)
