"""The command `evaluate`: a checkpoint on a data set -> summary.json, cases.csv and one line for each target."""

import argparse

from ..evaluation.harness import evaluate_directory


def evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate a checkpoint on a data set and print one line for each target."""
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
    )
    for target, values in summary.items():
        if isinstance(values, dict) and "dice" in values:
            print(f"{target}: Dice {values['dice']['mean']:.2f}, {values['n']} objects")
    print(f"wrote {arguments.output / 'summary.json'} and {arguments.output / 'cases.csv'}")
