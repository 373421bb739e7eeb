"""Ask a text grounder for every structure of unseen simulated scenes, and for absent ones; write one JSON file.

    python training/evaluate_grounder.py --output results/grounder.json

Scenes with two structures or more, so that the text decides which box is right. Both forms of the text are measured.
"""

import argparse
import json
from importlib.metadata import version
from itertools import islice
from pathlib import Path

from ccsam_hf import TINY_GROUNDER, TextGrounder
from ccsam_hf.descriptions import FORMS
from ccsam_hf.evaluation.grounding import average_precision, scene_rows, summarize_grounding
from ccsam_hf.evaluation.segmenters import about_module
from train_grounder import SimulatedScenes

TEST_SEEDS = 2_000_000_000
SCENE_WEIGHTS = {"thyroid nodule": 1.0, "left ventricle": 1.0}
ENOUGH = 100_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grounder", default=TINY_GROUNDER, help="folder or Hub id; the bundled one if left out")
    parser.add_argument("--count", type=int, default=300, help="scenes")
    parser.add_argument("--seed", type=int, default=TEST_SEEDS, help="seed of the first scene")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    grounder = TextGrounder.from_pretrained(arguments.grounder)
    scenes = SimulatedScenes(ENOUGH, arguments.seed, SCENE_WEIGHTS)
    several = (scene for scene, _ in (scenes[index] for index in range(len(scenes))) if len(scene.boxes) > 1)
    chosen = list(islice(several, arguments.count))
    results = {}
    for form in FORMS:
        rows = [row for scene in chosen for row in scene_rows(grounder, scene, form)]
        results[form] = summarize_grounding(rows) | {"average_precision": average_precision(rows)}
        print(form)
        for target, entry in results[form].items():
            print(f"  {target}: {json.dumps(entry)}")
    about = {"grounder": arguments.grounder, "tuned_on": grounder.settings.tuned_on, "scenes": len(chosen)}
    about |= {"sha256": about_module(grounder.model, None)["sha256"]}
    about |= {"seed": arguments.seed, "versions": {name: version(name) for name in ("torch", "transformers")}}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({**results, **about}, indent=2) + "\n")


if __name__ == "__main__":
    main()
