"""Put a trained tiny checkpoint into the package: weights, config, processor and the record of its run.

    python training/bundle.py runs/tiny/best

The copies of the package's own code that a checkpoint carries for the Hub stay out, and so do the paths of the run.
"""

import argparse
import json
import shutil
from pathlib import Path

import ccsam_hf

AUTO_MAP = "auto_map"  # names the code files beside a checkpoint; in the package there are none


def without_auto_map(value):
    """The same JSON value with every `auto_map` left out."""
    if isinstance(value, dict):
        return {name: without_auto_map(each) for name, each in value.items() if name != AUTO_MAP}
    return value


def main() -> None:
    """Copy the files of one checkpoint folder; the card beside them is written by hand and stays."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="best/ or last/ of a run")
    checkpoint, bundled = parser.parse_args().checkpoint, Path(ccsam_hf.TINY)
    bundled.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(checkpoint / "model.safetensors", bundled / "model.safetensors")
    for name in ("config.json", "processor_config.json", "training.json"):
        values = without_auto_map(json.loads((checkpoint / name).read_text()))
        if name == "training.json":
            for path_of_the_run in ("config", "output_dir"):
                del values["run"][path_of_the_run]
        (bundled / name).write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
