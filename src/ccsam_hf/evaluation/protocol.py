"""Protocol "samus": a case at 256x256, and the prompts that its true mask gives.

Source: CC-SAM paper, Sec. 4.3, after SAMUS. The model resizes the image to 256x256, the true mask is resized to
256x256 by nearest neighbor, prompts are derived from that mask, predictions are brought to 256x256, and all scores are
taken there: shares in percent, distances in pixels of 256x256. `hd_rows` is the number that SAMUS's own code prints as
Hausdorff distance (`ccsam_hf.evaluation.metrics.hausdorff_of_rows`): compare only it with
the published tables.
"""

import io
import zlib

import numpy as np
import torch
from PIL import Image

from ..data.cases import Case
from ..data.prompts import Prompt, fixed_click, jittered_box, random_clicks, tight_box, to_indices
from ..geometry import resize_masks
from .segmenters import SIZE

PROTOCOLS = ("samus",)
PROMPTS = ("box", "point", "random-point", "jittered-box", "clicks", "text", "none")
DRAWN = ("random-point", "jittered-box")  # by chance: a case may have several draws
NEEDS = {  # prompt -> what a model must read
    "box": "box",
    "jittered-box": "box",
    "text": "box",
    "point": "point",
    "random-point": "point",
    "clicks": "clicks",
    "none": "none",
}


def true_mask(case: Case) -> np.ndarray:
    """The case's mask at 256x256, (256, 256) bool; it may be empty where the object is smaller than a pixel there."""
    return resize_masks(torch.from_numpy(case.mask)[None, None], SIZE)[0, 0].bool().numpy()


def seed_of(case: Case, draw: int) -> int:
    """A seed that depends on the case and the draw alone, in [0, 2**32): the same in any order, on any process."""
    return zlib.crc32(f"{case.dataset}/{case.name}/{case.target}/{draw}".encode())


def prompt_from(truth: np.ndarray, kind: str, seed: int) -> Prompt:
    """The prompt of a kind other than "text" and "clicks" for one object.

    Args:
        truth: (256, 256) bool, at least one pixel set.
        kind: "box" the tight box; "point" SAMUS's fixed click; "jittered-box" each side moved by up to 5 %;
            "random-point" any pixel of the object; "none" nothing.
        seed: of the two that are drawn.

    Returns:
        Coordinates in pixels of 256x256; a box as SAMUS counts it, by the first and the last column and row.
    """
    rng = np.random.default_rng(seed)
    if kind in ("box", "jittered-box"):
        return Prompt(box=to_indices(tight_box(truth) if kind == "box" else jittered_box(truth, rng)))
    if kind in ("point", "random-point"):
        points = fixed_click(truth)[None] if kind == "point" else random_clicks(truth, 1, rng)
        return Prompt(points=points, labels=np.ones(1, dtype=np.int64))
    return Prompt()


def png_of(mask: np.ndarray) -> bytes:
    """A mask as the bytes of a PNG of one bit a pixel."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return buffer.getvalue()


def mask_of(png: bytes) -> np.ndarray:
    """The mask of `png_of`, (256, 256) bool."""
    return np.asarray(Image.open(io.BytesIO(png))).astype(bool)
