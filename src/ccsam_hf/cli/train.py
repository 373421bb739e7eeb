"""The command `train`: fine-tune a checkpoint and print what it gained."""

import argparse


def train(arguments: argparse.Namespace) -> None:
    """Fine-tune a checkpoint and print what it gained."""
    try:
        from ..training.finetuning import finetune, parse_fields
    except ImportError as error:
        raise ImportError(
            f'training needs more than is installed ({error}): pip install "ccsam-hf[train,data]"'
        ) from error

    overrides = parse_fields(arguments.set)
    results = finetune(arguments.data, arguments.layout, arguments.model, arguments.output, arguments.seed, overrides)
    for prompt in results["before"]:
        before, after = (results[when][prompt]["all"]["dice"]["mean"] for when in ("before", "after"))
        print(f"{prompt}: Dice {before:.2f} before, {after:.2f} after, {results['after'][prompt]['all']['n']} objects")
    print(f"wrote {arguments.output}")
