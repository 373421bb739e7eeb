"""Put a trained checkpoint into the package: weights, configs, tokenizer and the record of its run.

    python training/bundle.py runs/tiny/best
    python training/bundle.py runs/grounder/best --grounder

The copies of the package's own code that a checkpoint carries for the Hub stay out, and so do the paths of the run.
"""

import argparse
import json
import shutil
from pathlib import Path

import ccsam_hf

AUTO_MAP = "auto_map"  # names the code files beside a checkpoint; in the package there are none
RECORD = "training.json"
PATHS_OF_THE_RUN = ("config", "output_dir")


def without_auto_map(value):
    """The same JSON value with every `auto_map` left out."""
    if isinstance(value, dict):
        return {name: without_auto_map(each) for name, each in value.items() if name != AUTO_MAP}
    return value


def main() -> None:
    """Copy the files of one checkpoint folder; the card beside them is written by hand and stays."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="best/ or last/ of a run")
    parser.add_argument("--grounder", action="store_true", help="it is the text grounder")
    arguments = parser.parse_args()
    bundled = Path(ccsam_hf.TINY_GROUNDER if arguments.grounder else ccsam_hf.TINY)
    bundled.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(arguments.checkpoint / "model.safetensors", bundled / "model.safetensors")
    for path in arguments.checkpoint.glob("*.json"):
        values = without_auto_map(json.loads(path.read_text()))
        if path.name == RECORD:
            values["run"] = {name: value for name, value in values["run"].items() if name not in PATHS_OF_THE_RUN}
        (bundled / path.name).write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
