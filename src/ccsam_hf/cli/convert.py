"""The command `convert`: published weights -> a folder, and what became of every tensor."""

import argparse

GROUNDING_DINO = "grounding-dino"


def convert(arguments: argparse.Namespace) -> None:
    """Convert published weights and print what became of every tensor."""
    unused = "base" if arguments.kind == GROUNDING_DINO else "tokenizer"
    if getattr(arguments, unused) is not None:
        raise ValueError(f"--{unused} was given with {arguments.kind}, which takes none; leave it out")
    if arguments.kind == GROUNDING_DINO:
        from ..conversion.grounding_dino import convert_grounding_dino_checkpoint

        tokenizer = {} if arguments.tokenizer is None else {"tokenizer": arguments.tokenizer}
        report = convert_grounding_dino_checkpoint(arguments.checkpoint, arguments.output, **tokenizer)
    else:
        from ..conversion.weights import convert_checkpoint

        report = convert_checkpoint(arguments.kind, arguments.checkpoint, arguments.output, base=arguments.base)
    print(report.summary())
