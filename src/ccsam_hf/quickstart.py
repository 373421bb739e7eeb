"""The first experience: segment the bundled case with the bundled checkpoint, offline, and show how good it is.

python -m ccsam_hf.quickstart --output outputs/quickstart
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

from . import TINY
from .data.prompts import fixed_click, tight_box
from .evaluation.baselines import inscribed_ellipse
from .metrics import dice, hausdorff_samus
from .pipeline_ccsam import CCSamPipeline
from .visualization import contact_sheet, heatmap, overlay

NUM_SAMPLES = 16


def main(argv: list[str] | None = None) -> None:
    """Segment by box and by click, write the pictures and `results.json`, print Dice against the truth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"))
    output = parser.parse_args(argv).output
    output.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()

    case = files(__package__) / "assets" / "example"
    image = Image.open(str(case / "image.png"))
    truth = np.asarray(Image.open(str(case / "mask.png"))) > 0
    spacing_mm = tuple(json.loads((case / "case.json").read_text())["spacing_mm"])

    pipe = CCSamPipeline.from_pretrained(TINY)
    box, click = tight_box(truth).tolist(), fixed_click(truth).tolist()
    torch.manual_seed(0)  # the draws of the uncertainty map
    (by_box,) = pipe(image, boxes=[box], num_samples=NUM_SAMPLES, spacing_mm=spacing_mm)
    (by_click,) = pipe(image, points=[[click]], num_samples=NUM_SAMPLES, spacing_mm=spacing_mm)

    pictures = {
        "image": image,
        "truth": overlay(image, [truth]),
        "overlay": overlay(image, [by_box.mask], boxes=[box]),
        "overlay_point": overlay(image, [by_click.mask], points=[[click]]),
        "uncertainty": heatmap(image, by_box.uncertainty),
        "uncertainty_point": heatmap(image, by_click.uncertainty),
    }
    for name, picture in pictures.items():
        picture.save(output / f"{name}.png")
    contact_sheet(list(pictures.values()), list(pictures), columns=3).save(output / "summary.png")

    masks = {"box": by_box.mask, "click": by_click.mask, "ellipse in the box": inscribed_ellipse(box, truth.shape)}
    scores = {
        name: {"dice_percent": round(100 * dice(mask, truth), 2), "hausdorff_px": hausdorff_samus(mask, truth)}
        for name, mask in masks.items()
    }
    measured = by_box.measurements.to_dict()
    results = {"scores": scores, "measurements": measured}
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n")

    print("Simulated breast lesion, ccsam-tiny (trained on simulated images only), against the exact mask:")
    for name, score in scores.items():
        print(f"  {name:<20} Dice {score['dice_percent']:6.2f} %   Hausdorff {score['hausdorff_px']:5.1f} px")
    print(f"  longest diameter     {measured['longest_diameter_mm']:.1f} mm")
    print(f"Pictures: {output / 'summary.png'} and beside it. Research use only; not a medical device.")


if __name__ == "__main__":
    sys.exit(main())
