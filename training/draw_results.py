"""Draw the picture of the README: real and simulated cases, each with its truth, the mask of a box and of a click.

    python training/draw_results.py --root DATA --output docs/results.png

DATA holds BUSI, HC18 and CCA. The case of a set is the one whose box gives the median Dice of its test part (of
`--limit` cases drawn from the seed), so that the picture shows what is usual and not what is best.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ccsam_hf import DEFAULT, CCSamPipeline, SegmentationResult, overlay
from ccsam_hf.data.prompts import fixed_click, tight_box
from ccsam_hf.data.readers import read_cases
from ccsam_hf.data.simulator import simulate
from ccsam_hf.data.splits import Splits
from ccsam_hf.evaluation.metrics import dice
from ccsam_hf.visualization import contact_sheet

LAYOUTS = {"BUSI": "busi", "HC18": "folder", "CCA": "folder"}
SIMULATED = (("thyroid nodule", 2_000_000_001),)
SPLITS = Path(__file__).parent / "splits" / "real.json"
SIDE = 240  # pixels of a picture


@dataclass
class Panel:
    """A case with what the model made of it."""

    title: str
    image: np.ndarray
    truth: np.ndarray
    box: list[float]
    click: list[float]
    by_box: SegmentationResult
    by_click: SegmentationResult


def segment(pipe: CCSamPipeline, title: str, image: np.ndarray, truth: np.ndarray) -> Panel:
    """The masks of the tight box and of the middle click of the truth."""
    box, click = tight_box(truth).tolist(), fixed_click(truth).tolist()
    (by_box,), (by_click,) = pipe(image, boxes=[box]), pipe(image, points=[[click]])
    return Panel(title, image, truth, box, click, by_box, by_click)


def median_panel(pipe: CCSamPipeline, root: Path, name: str, limit: int) -> Panel:
    """The case of the test part of a set whose box gives the median Dice."""
    cases = [
        case for case in Splits.load(SPLITS).apply(read_cases(root / name, LAYOUTS[name])) if case.split == "test"
    ]
    cases = [case for case in cases if case.mask.any()]
    order = np.random.default_rng(0).permutation(len(cases))[:limit]
    panels = [segment(pipe, f"{name}: {cases[i].target}", cases[i].image, cases[i].mask) for i in sorted(order)]
    scores = [dice(panel.by_box.mask, panel.truth) for panel in panels]
    return panels[int(np.argsort(scores)[len(scores) // 2])]


def draw(panel: Panel) -> dict[str, Image.Image]:
    """The four pictures of a case by their titles."""
    of_box, of_click = (100 * dice(each.mask, panel.truth) for each in (panel.by_box, panel.by_click))
    return {
        panel.title: Image.fromarray(panel.image),
        "true mask": overlay(panel.image, [panel.truth]),
        f"by box: Dice {of_box:.0f} %": overlay(panel.image, [panel.by_box.mask], boxes=[panel.box]),
        f"by click: Dice {of_click:.0f} %": overlay(panel.image, [panel.by_click.mask], points=[[panel.click]]),
    }


def main() -> None:
    """Draw one row for each set and one for a simulated case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="directory of the data sets")
    parser.add_argument("--model", default=DEFAULT, help="folder or Hub id (default: the bundled default)")
    parser.add_argument("--output", type=Path, default=Path("docs/results.png"))
    parser.add_argument("--limit", type=int, default=41, help="test cases of a set from which the median is taken")
    arguments = parser.parse_args()
    pipe = CCSamPipeline.from_pretrained(arguments.model)
    panels = [median_panel(pipe, arguments.root, name, arguments.limit) for name in LAYOUTS]
    for target, seed in SIMULATED:
        case = simulate(target, seed)
        panels.append(segment(pipe, f"simulated: {target}", case.image, case.mask))
    drawn = [each for panel in panels for each in draw(panel).items()]
    sheet = contact_sheet([picture for _, picture in drawn], [title for title, _ in drawn], tile_size=SIDE)
    sheet.quantize(128).save(arguments.output, optimize=True)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
