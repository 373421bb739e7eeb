"""Evaluate models beside each other on several data sets and write the report: tables, figures, one HTML page.

    accelerate launch training/evaluate.py --output results/study \
        --model "CC-SAM=ccsam:runs/tiny/best" --model "U-Net=unet:runs/unet/best" --model "filled box=filled-box:" \
        --data "simulated=folder:sim" --data "BUSI=busi:BUSI" --unseen BUSI --prompt box point

Any number of processes gives the same rows; the same command goes on with what was stopped. Another system joins by
`ccsam_hf.evaluation.segmenters.register_segmenter`.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from ccsam_hf import TextGrounder
from ccsam_hf.data.splits import Splits
from ccsam_hf.evaluation.data_sets import DataSet, read_data
from ccsam_hf.evaluation.figures import Example
from ccsam_hf.evaluation.harness import evaluate_study
from ccsam_hf.evaluation.protocol import PROMPTS, mask_of, true_mask
from ccsam_hf.evaluation.report import write_report
from ccsam_hf.evaluation.segmenters import load_segmenter
from ccsam_hf.image_processing_ccsam import CCSamImageProcessor

SHOWN = (0.1, 0.5, 0.9)  # of the cases of a data set, by the Dice of the first model: a bad, a usual, a good one


def parse_arguments() -> argparse.Namespace:
    """What is said on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", required=True, metavar="NAME=KIND:CHECKPOINT")
    parser.add_argument("--data", action="append", required=True, metavar="NAME=LAYOUT:DIR")
    parser.add_argument("--split", help="train, validation or test, of the layouts that know splits")
    parser.add_argument("--splits", type=Path, metavar="FILE", help="lists of images, as training/splits/real.json")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N objects of each data set")
    parser.add_argument("--seen", nargs="*", default=[], metavar="NAME", help="data like those the models trained on")
    parser.add_argument("--unseen", nargs="*", default=[], metavar="NAME", help="data unlike those")
    parser.add_argument("--prompt", nargs="+", choices=PROMPTS, default=["box", "point"])
    parser.add_argument(
        "--draws", type=int, default=1, help="prompts per object of random-point and jittered-box (default: 1)"
    )
    parser.add_argument("--num-samples", type=int, help="draws of the posterior, for models that have one")
    parser.add_argument("--grounder", help="folder or Hub id; finds the texts, for every model that reads boxes")
    parser.add_argument("--costs", type=Path, help="JSON of training/benchmark_cost.py")
    parser.add_argument("--ablation", type=Path, help="table1.json of training/ablation.py")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    if ("text" in arguments.prompt) != (arguments.grounder is not None):
        parser.error("--grounder and the prompt text belong together")
    return arguments


def named(texts: list[str], form: str) -> dict[str, str]:
    """`NAME=VALUE` by name; ValueError for another form or a name that comes twice."""
    found = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name or name in found:
            raise ValueError(f"{text!r} is not {form}, or its name came before")
        found[name] = value
    return found


def data_set(name: str, what: str, arguments: argparse.Namespace) -> DataSet:
    """One of `--data`."""
    layout, colon, directory = what.partition(":")
    if not colon:
        raise ValueError(f"{name}={what} is not NAME=LAYOUT:DIR")
    seen = True if name in arguments.seen else False if name in arguments.unseen else None
    splits = None if arguments.splits is None else Splits.load(arguments.splits)
    data, _ = read_data(name, directory, layout, arguments.split, seen, arguments.limit, splits=splits)
    return data


def examples(data: DataSet, rows: list[dict], prompt: str) -> list[Example]:
    """Cases of a data set by how well the first model did, with what every model made of them."""
    mine = [row for row in rows if (row["data"], row["prompt"], row["draw"]) == (data.name, prompt, 0)]
    first = sorted((row for row in mine if row["model"] == mine[0]["model"]), key=lambda row: row["dice"])
    resize = CCSamImageProcessor()
    found = []
    for row in [first[round(share * (len(first) - 1))] for share in SHOWN]:
        key = (row["dataset"], row["name"], row["target"])
        case = next(each for each in data.cases if (each.dataset, each.name, each.target) == key)
        pixels = resize(images=[case.image], return_tensors="np")["pixel_values"][0, 0]
        found.append(
            Example(
                title=f"{data.name}: {case.target}",
                image=(255 * pixels).round().astype(np.uint8),
                truth=true_mask(case),
                prompt=prompt,
                coordinates=row["coordinates"],
                predictions={
                    each["model"]: (each["mask"] and mask_of(each["mask"]), each["dice"])
                    for each in mine
                    if (each["dataset"], each["name"], each["target"]) == key
                },
            )
        )
    return found


def main() -> None:
    """Evaluate what is missing, then write the report."""
    arguments = parse_arguments()
    accelerator = Accelerator(cpu=not torch.cuda.is_available())  # else CPU processes do not know of each other
    models = {}
    for name, what in named(arguments.model, "NAME=KIND:CHECKPOINT").items():
        has_posterior = what.partition(":")[0] == "ccsam"
        models[name] = load_segmenter(what, arguments.num_samples if has_posterior else None)
    data = [data_set(*each, arguments) for each in named(arguments.data, "NAME=LAYOUT:DIR").items()]
    grounder = None if arguments.grounder is None else TextGrounder.from_pretrained(arguments.grounder)
    command = shlex.join(["training/evaluate.py", *sys.argv[1:]])
    rows = evaluate_study(
        models, data, arguments.prompt, arguments.output, arguments.draws, grounder, accelerator, command
    )
    if accelerator.is_main_process:
        costs, ablation = (path and json.loads(path.read_text()) for path in (arguments.costs, arguments.ablation))
        shown = [example for each in data for example in examples(each, rows, arguments.prompt[0])]
        print(write_report(arguments.output, shown, costs, ablation))
    accelerator.end_training()


if __name__ == "__main__":
    main()
