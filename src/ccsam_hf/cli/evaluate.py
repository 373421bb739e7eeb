"""The command `evaluate`: a checkpoint on a data set -> summary.json, cases.csv and one line for each target."""

import argparse
from typing import Any

from ..evaluation.harness import evaluate_directory


def evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate a checkpoint on a data set and print one line for each target, and one for the blind baseline."""
    summary = evaluate_directory(
        arguments.model,
        arguments.data,
        arguments.layout,
        arguments.prompt,
        arguments.protocol,
        arguments.output,
        arguments.grounder,
        arguments.split,
        arguments.draws,
        arguments.num_samples,
        arguments.limit,
        arguments.target,
        arguments.splits,
    )
    for target, values in summary.items():
        if isinstance(values, dict) and "dice" in values:
            print(describe_entry(target, values))
    ((baseline, values),) = summary["baseline"].items()
    print(describe_entry(f"blind baseline ({baseline})", values))
    print(f"wrote {arguments.output / 'summary.json'} and {arguments.output / 'cases.csv'}")


def describe_entry(name: str, values: dict[str, Any]) -> str:
    """Dice of a summary's entry in a line; of clicks also after the first one, and the number to an IoU of 85 %."""
    low, high = values["dice"]["ci95"]
    text = f"{name}: Dice {values['dice']['mean']:.2f} [{low:.2f}, {high:.2f}], {values['n']} objects"
    if values["n_missed"]:
        text += f", {values['n_missed']} of them missed"
    if "noc85" in values:
        noc = values["noc85"]
        text += f"; {values['dice_1']['mean']:.2f} after one click, NoC@85 (IoU) {noc['mean']:.2f}"
        text += f", not reached by {noc['n_not_reached']}"
    return text
