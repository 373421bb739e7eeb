r"""Calibrate a text grounder's scores and choose its threshold on the validation part of data sets.

    python training/calibrate_grounder.py runs/grounder/best --root DIRECTORY \
        --set BUSI=busi CAMUS=camus HC18=folder CCA=folder

The score of a target becomes the share of boxes that are right. The threshold is the lowest from which each target is
found in at most `--false-alarms` of the images without it. Both are written into the folder's `config.json`.
"""

import argparse
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ccsam_hf import TextGrounder
from ccsam_hf.data.readers import read_cases
from ccsam_hf.data.splits import Splits
from ccsam_hf.evaluation.grounding import fit_calibration, quiet_threshold, scene_rows, scenes_of
from ccsam_hf.grounding_boxes import calibrate
from ccsam_hf.training.grounding_scenes import VALIDATION_SEEDS, SimulatedScenes

SPLITS = Path(__file__).parent / "splits" / "real.json"


def main() -> None:
    """Ask for every known target in every validation image, then fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grounder", type=Path, help="folder, which is changed")
    parser.add_argument("--root", type=Path, required=True, help="folder above those of --set")
    parser.add_argument("--set", nargs="+", required=True, metavar="NAME=LAYOUT", help="data sets")
    parser.add_argument("--splits", type=Path, default=SPLITS, help="lists of their images")
    parser.add_argument("--simulated", type=int, default=100, help="simulated scenes beside them")
    parser.add_argument("--false-alarms", type=float, default=0.01, help="share of absent targets that may be found")
    arguments = parser.parse_args()

    grounder = TextGrounder.from_pretrained(arguments.grounder)
    grounder.settings.calibration = {}
    splits, known = Splits.load(arguments.splits), grounder.settings.known_targets
    if known is None:
        raise ValueError(
            f"{arguments.grounder} names no known_targets; expected a grounder of training/train_grounder.py"
        )
    cases = [
        case for each in arguments.set for case in read_cases(arguments.root / each.split("=")[0], each.split("=")[1])
    ]
    scenes = list(scenes_of([case for case in splits.apply(cases) if case.split == "validation"], known))
    simulated = SimulatedScenes(
        arguments.simulated, VALIDATION_SEEDS, dict.fromkeys(("thyroid nodule", "left ventricle"), 1.0)
    )
    scenes += [simulated[index][0] for index in range(arguments.simulated)]
    rows = [row for scene in tqdm(scenes, disable=None) for row in scene_rows(grounder, scene)]

    calibration = grounder.settings.calibration = fit_calibration(rows)
    for row in rows:
        row["score"] = float(calibrate(torch.tensor([row["score"]]), calibration.get(row["target"])))
    grounder.settings.box_threshold = quiet_threshold(rows, arguments.false_alarms)
    grounder.save_pretrained(arguments.grounder)
    print(f"calibration {grounder.settings.calibration}, threshold {grounder.settings.box_threshold}")


if __name__ == "__main__":
    main()
