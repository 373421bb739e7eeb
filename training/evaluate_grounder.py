"""Ask a text grounder for what is in images and for what is not; write one JSON file.

    python training/evaluate_grounder.py --output results/grounder.json
    python training/evaluate_grounder.py --grounder ccsam-small --root DIRECTORY \
        --set BUSI=busi CAMUS=camus HC18=folder CCA=folder --output results/grounder.json

Always: unseen simulated scenes with two structures or more, so that the text decides which box is right, in both forms
of the text. With `--set`: the test part of data sets below `--root`, in which every target that the grounder knows is
asked for. Beside it stands the recall of a blind guess, the mean box of the target in the training part, and how much
a score changes when other texts are asked in the same call.
"""

import argparse
import json
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import ccsam_hf
from ccsam_hf import TextGrounder
from ccsam_hf.data.readers import read_cases
from ccsam_hf.data.splits import Splits
from ccsam_hf.descriptions import FORMS, TARGETS
from ccsam_hf.evaluation.grounding import (
    average_precision,
    largest_difference,
    mean_boxes,
    scene_rows,
    scenes_of,
    summarize_grounding,
    summarize_pairs,
)
from ccsam_hf.evaluation.segmenters import about_module
from ccsam_hf.training.grounding_scenes import SimulatedScenes

TEST_SEEDS = 2_000_000_000
SCENE_WEIGHTS = {"thyroid nodule": 1.0, "left ventricle": 1.0}
ENOUGH = 100_000
SPLITS = Path(__file__).parent / "splits" / "real.json"
ASKED_ALONE = 10  # scenes of each data set in which every text is asked in a call of its own too


def evaluate_simulated(grounder: TextGrounder, count: int, seed: int) -> dict[str, Any]:
    """Both forms of the text on simulated scenes with two structures or more, by form."""
    scenes = SimulatedScenes(ENOUGH, seed, SCENE_WEIGHTS)
    several = (scene for scene, _ in (scenes[index] for index in range(len(scenes))) if len(scene.boxes) > 1)
    chosen = list(islice(several, count))
    results = {}
    for form in FORMS if chosen else ():
        rows = [row for scene in chosen for row in scene_rows(grounder, scene, form)]
        results[form] = summarize_grounding(rows) | {"average_precision": average_precision(rows)}
        print(form)
        for target, entry in results[form].items():
            print(f"  {target}: {json.dumps(entry)}")
    return results


def evaluate_sets(
    grounder: TextGrounder, root: Path, layouts: dict[str, str], lists: Path, split: str
) -> dict[str, Any]:
    """Recall and false alarms on one part of data sets, by target and set.

    Args:
        grounder: is asked for all targets that it knows.
        root: the folder above those of the sets.
        layouts: name of a set's folder -> its layout.
        lists: file of the splits.
        split: the part that is measured; blind boxes come from the training parts.
    """
    splits, known = Splits.load(lists), grounder.settings.known_targets or sorted(TARGETS)
    placed = {name: splits.apply(read_cases(root / name, layout)) for name, layout in layouts.items()}
    training = [case for cases in placed.values() for case in cases if case.split == "train"]
    blind = mean_boxes(training)
    rows, difference = [], 0.0
    for name, cases in placed.items():
        scenes = scenes_of([case for case in cases if case.split == split], known)
        for place, scene in enumerate(tqdm(scenes, desc=name, disable=None)):
            rows += scene_rows(grounder, scene, blind=blind)
            if place < ASKED_ALONE:
                difference = max(difference, largest_difference(grounder, scene))
    pairs = summarize_pairs(rows)
    print("set, target: recall (found) [95 %], blind, n | false alarms [95 %], n")
    for pair in pairs:
        shown = f"{pair['recall']} ({pair['recall_found']}) {pair['recall_ci95']} {pair['blind_recall']} {pair['n']}"
        print(f"{pair['data']}, {pair['target']}: {shown} | {pair['false_alarms']} {pair['false_alarms_ci95']}")
    print(f"largest difference of a score alone and among others: {difference}")
    return {"split": split, "lists": lists.name, "pairs": pairs, "largest_difference": difference}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grounder", default=ccsam_hf.TINY_GROUNDER, help="folder or Hub id; left out, ccsam-tiny's")
    parser.add_argument("--count", type=int, default=300, help="simulated scenes; 0 for none")
    parser.add_argument("--seed", type=int, default=TEST_SEEDS, help="seed of the first scene")
    parser.add_argument("--root", type=Path, help="folder above those of --set")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=LAYOUT", help="data sets to measure")
    parser.add_argument("--splits", type=Path, default=SPLITS, help="lists of their images")
    parser.add_argument("--split", default="test", choices=("validation", "test"), help="the part that is measured")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    if bool(arguments.set) != (arguments.root is not None) or not all("=" in each for each in arguments.set):
        parser.error("--root and --set NAME=LAYOUT belong together, for instance --root sets --set BUSI=busi")

    grounder = TextGrounder.from_pretrained(arguments.grounder)
    results = evaluate_simulated(grounder, arguments.count, arguments.seed)
    if arguments.set:
        layouts = dict(each.split("=", 1) for each in arguments.set)
        results["real"] = evaluate_sets(grounder, arguments.root, layouts, arguments.splits, arguments.split)
    about = {"grounder": Path(arguments.grounder).name, "tuned_on": grounder.settings.tuned_on}
    about |= {"scenes": arguments.count, "seed": arguments.seed, "box_threshold": grounder.settings.box_threshold}
    about |= {"sha256": about_module(grounder.model, None)["sha256"]}
    about |= {"versions": {name: version(name) for name in ("torch", "transformers")}}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({**results, **about}, indent=2) + "\n")


if __name__ == "__main__":
    main()
