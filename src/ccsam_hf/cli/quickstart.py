"""The first experience: segment bundled cases by box, click and text, offline, and show how good it is.

python -m ccsam_hf.cli.quickstart --output outputs/quickstart
"""

import argparse
import json
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

from .. import DEFAULT
from ..data.prompts import fixed_click, tight_box
from ..data.simulator.scenes import simulate
from ..evaluation.baselines import inscribed_ellipse
from ..evaluation.metrics import dice, hausdorff_manhattan
from ..pipeline_ccsam import CCSamPipeline
from ..visualization import contact_sheet, heatmap, overlay

NUM_SAMPLES = 16
LESION = "breast lesion"
HEART_SEED = 2_000_000_004  # held out: no training has seen it
CHAMBERS = ("left ventricle", "left atrium", "myocardium")


def main(argv: list[str] | None = None) -> None:
    """Segment by box, click and text, write the pictures and `results.json`, print Dice against the truth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"))
    output = parser.parse_args(argv).output
    output.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()

    case = files("ccsam_hf") / "assets" / "example"
    image = Image.open(str(case / "image.png"))
    truth = np.asarray(Image.open(str(case / "mask.png"))) > 0
    spacing_mm = tuple(json.loads((case / "case.json").read_text())["spacing_mm"])

    pipe = CCSamPipeline.from_pretrained(DEFAULT)
    box, click = tight_box(truth).tolist(), fixed_click(truth).tolist()
    torch.manual_seed(0)  # the draws of the uncertainty map
    shared = {"num_samples": NUM_SAMPLES, "spacing_mm": spacing_mm}
    (by_box,) = pipe(image, boxes=[box], **shared)
    (by_click,) = pipe(image, points=[[click]], **shared)

    heart = simulate(CHAMBERS[0], HEART_SEED)
    chambers = pipe(heart.image, text=CHAMBERS)

    pictures = {
        "image": image,
        "truth": overlay(image, [truth]),
        "box": overlay(image, [by_box.mask], boxes=[box]),
        "click": overlay(image, [by_click.mask], points=[[click]]),
        "uncertainty": heatmap(image, by_box.uncertainty),
        "heart": Image.fromarray(heart.image),
        "heart_truth": overlay(heart.image, [heart.masks[name] for name in CHAMBERS]),
        "heart_text": overlay(heart.image, [each.mask for each in chambers], boxes=[each.box for each in chambers]),
    }
    for name, picture in pictures.items():
        picture.save(output / f"{name}.png")
    contact_sheet(list(pictures.values()), list(pictures), columns=3).save(output / "summary.png")

    lesion = {"tight box": by_box.mask, "middle click": by_click.mask}
    lesion["ellipse in the tight box"] = inscribed_ellipse(box, truth.shape)
    scores = {LESION: scores_of(lesion, truth)}
    for result in chambers:
        scores[result.label] = scores_of({f"text, {result.label!r}": result.mask}, heart.masks[result.label])
    measured = by_box.measurements.to_dict()
    results = {"scores": scores, "box_scores": [each.box_score for each in chambers], "measurements": measured}
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n")

    print("ccsam-small and its grounder, against the exact masks of simulated cases:")
    for target, by_prompt in scores.items():
        print(target)
        for prompt, score in by_prompt.items():
            print(f"  {prompt:<26} Dice {score['dice_percent']:6.2f} %   Hausdorff {score['hausdorff_px']:5.1f} px")
    print(f"longest diameter of the lesion: {measured['longest_diameter_mm']:.1f} mm")
    print(f"Pictures: {output / 'summary.png'} and beside it. Research use only; not a medical device.")


def scores_of(masks: dict[str, np.ndarray], truth: np.ndarray) -> dict[str, dict[str, float]]:
    """Dice in percent and Manhattan Hausdorff distance in pixels of masks `(H, W)` by name, against the true one."""
    return {
        name: {"dice_percent": round(100 * dice(mask, truth), 2), "hausdorff_px": hausdorff_manhattan(mask, truth)}
        for name, mask in masks.items()
    }


if __name__ == "__main__":
    sys.exit(main())
