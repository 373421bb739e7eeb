"""Put a trained checkpoint into the package: weights, configs, tokenizer and the record of its run.

    python training/bundle.py runs/small/last --name ccsam-small --hours 1.6 --hardware "one core of ..."
    python training/bundle.py runs/tiny_second/best --name ccsam-tiny --average-with runs/tiny/best
    python training/bundle.py runs/grounder/best --name ccsam-tiny/grounder

The average of the weights before and after a second lesson keeps what the first one was better at (Wortsman et al.,
"Robust fine-tuning of zero-shot models", CVPR 2022, with both weighted alike).

The copies of the package's own code that a checkpoint carries for the Hub stay out, and so do the paths of the run.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import ccsam_hf

AUTO_MAP = "auto_map"  # names the code files beside a checkpoint; in the package there are none
RECORD = "training.json"
WEIGHTS = "model.safetensors"
PATHS_OF_THE_RUN = ("config", "output_dir", "checkpoint", "root")


def without_auto_map(value):
    """The same JSON value with every `auto_map` left out."""
    if isinstance(value, dict):
        return {name: without_auto_map(each) for name, each in value.items() if name != AUTO_MAP}
    return value


def without_paths(record: dict) -> dict:
    """The record of a run without the paths that it wrote to and read from."""
    return record | {"run": {name: value for name, value in record["run"].items() if name not in PATHS_OF_THE_RUN}}


def main() -> None:
    """Copy the files of one checkpoint folder; write_cards.py makes its card anew from new measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="best/ or last/ of a run")
    parser.add_argument("--name", required=True, help="folder below assets/, for instance ccsam-small")
    parser.add_argument("--hours", type=float, help="of the training, for the card")
    parser.add_argument("--hardware", help="of the training, for the card")
    parser.add_argument("--note", help="what the configuration does not say of the run, for the card")
    parser.add_argument("--average-with", type=Path, help="checkpoint folder of the same model, to average with")
    arguments = parser.parse_args()
    bundled = Path(ccsam_hf.TINY).parent / arguments.name
    bundled.mkdir(parents=True, exist_ok=True)
    if arguments.average_with is None:
        shutil.copyfile(arguments.checkpoint / WEIGHTS, bundled / WEIGHTS)
    else:
        one, other = (load_file(folder / WEIGHTS) for folder in (arguments.checkpoint, arguments.average_with))
        if one.keys() != other.keys():
            raise ValueError(
                f"{arguments.average_with} is another model: {len(one.keys() ^ other.keys())} names differ"
            )
        middle = {name: torch.lerp(one[name].double(), other[name].double(), 0.5) for name in one}
        save_file({name: middle[name].to(one[name].dtype) for name in one}, bundled / WEIGHTS, {"format": "pt"})
    for path in arguments.checkpoint.glob("*.json"):
        values = without_auto_map(json.loads(path.read_text()))
        if path.name == RECORD:
            values = without_paths(values)
            about = {name: getattr(arguments, name) for name in ("hours", "hardware", "note")}
            values |= {name: value for name, value in about.items() if value is not None}
            if arguments.average_with is not None:
                values["averaged_with"] = without_paths(json.loads((arguments.average_with / RECORD).read_text()))
        (bundled / path.name).write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
