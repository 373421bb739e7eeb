"""The command line `ccsam-hf`: thin over the library. Exit status 0, or 2 with one line on standard error.

argparse rather than typer: an option of several numbers that may be repeated (`--box X0 Y0 X1 Y1 --box ...`) is beyond
typer's annotations.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import logging

from .. import TINY
from ..data.cases import SPLITS
from ..data.readers import LAYOUTS
from ..evaluation.protocol import PROMPTS, PROTOCOLS
from ..hub.push import push_checkpoint, repository_files, repository_url
from .data import add_data
from .segment import add_grounder, add_segment

CHECKPOINT_KINDS = ("sam", "samus", "medsam", "radimagenet")
GROUNDING_DINO = "grounding-dino"
INPUT_ERRORS = (ValueError, OSError, ImportError, FloatingPointError, SafetensorError, StrictDataclassError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments behind the program's name; left out, those of the process.

    Returns:
        Exit status: 0, or 2 for wrong usage or input, of which one line on standard error tells.
    """
    logging.disable_progress_bar()
    try:
        arguments = build_parser().parse_args(argv)
        arguments.run(arguments)
    except INPUT_ERRORS as error:
        print("ccsam-hf: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are exceptions, so that `main` reports them as it reports all others."""

    def error(self, message: str) -> None:
        """Raise ValueError with the message and the command that explains the usage."""
        raise ValueError(f"{message}; see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The commands and their options; `arguments.run` is the function of the chosen command."""
    parser = OneLineParser(prog="ccsam-hf", description="CC-SAM: promptable ultrasound segmentation.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=OneLineParser)
    add_segment(commands)
    add_train(commands)
    add_evaluate(commands)
    add_convert(commands)
    add_data(commands)
    add_push(commands)
    return parser


def add_train(commands: Any) -> None:
    """Declare `train`."""
    text = (
        "Fine-tune a checkpoint on your own cases: what learns, how fast and how long follow from their number. "
        "Measures before and after on images held out, and writes a card. Run it again to go on where it stopped."
    )
    command = commands.add_parser("train", help="fine-tune on your own images", description=text)
    command.add_argument("--data", type=Path, required=True, metavar="DIR")
    command.add_argument("--layout", choices=LAYOUTS, default="folder")
    command.add_argument("--model", default=TINY, help="folder or Hub id; the bundled ccsam-tiny if left out")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of splits and training; 0 if left out")
    command.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", help="fields of the run, such as max_steps=200"
    )
    command.add_argument("--output", type=Path, required=True, metavar="DIR")
    command.set_defaults(run=train)


def add_evaluate(commands: Any) -> None:
    """Declare `evaluate`."""
    text = "Prompt every object of a data set from its true mask, and write summary.json and cases.csv."
    command = commands.add_parser("evaluate", help="Dice and Hausdorff distance on a data set", description=text)
    command.add_argument(
        "--model", default=TINY, help="folder or Hub id, or KIND:FOLDER of another system; ccsam-tiny if left out"
    )
    command.add_argument("--data", type=Path, required=True, metavar="DIR")
    command.add_argument("--layout", choices=LAYOUTS, default="folder")
    command.add_argument("--split", choices=SPLITS, help="of a layout that knows splits; all cases if left out")
    command.add_argument("--limit", type=int, metavar="N", help="at most N objects, spread over targets and patients")
    command.add_argument("--prompt", choices=PROMPTS, required=True)
    command.add_argument("--draws", type=int, default=1, metavar="N", help="of random-point and jittered-box; 1")
    command.add_argument("--num-samples", type=int, metavar="K", help="draws for the uncertainty, at least 2")
    add_grounder(command)
    command.add_argument("--protocol", choices=PROTOCOLS, default="samus")
    command.add_argument("--output", type=Path, required=True, metavar="DIR")
    command.set_defaults(run=evaluate)


def add_convert(commands: Any) -> None:
    """Declare `convert`."""
    command = commands.add_parser(
        "convert", help="published weights to a folder that CCSamModel or TextGrounder loads"
    )
    command.add_argument("kind", choices=(*CHECKPOINT_KINDS, GROUNDING_DINO))
    command.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    command.add_argument("output", type=Path, metavar="OUTPUT_DIR")
    command.add_argument(
        "--base", type=Path, metavar="DIR", help="converted folder to add the weights to: SAM first, then radimagenet"
    )
    command.add_argument(
        "--tokenizer",
        metavar="DIR|ID",
        help="of the text encoder in a grounding-dino checkpoint; bert-base-uncased if left out",
    )
    command.set_defaults(run=convert)


def add_push(commands: Any) -> None:
    """Declare `push`."""
    text = (
        "Upload a checkpoint with its code, processor, grounder, licence, card, results and an example, in one "
        "commit. A new repository is private if not said otherwise."
    )
    command = commands.add_parser("push", help="a checkpoint to the Hub", description=text)
    command.add_argument("--model", default=TINY, metavar="DIR", help="its folder; the bundled ccsam-tiny if left out")
    command.add_argument("--repo-id", required=True, metavar="ID", help="<user or organisation>/<name>")
    command.add_argument("--public", action="store_true", help="make a new repository public, or push to a public one")
    command.add_argument("--revision", default="main", metavar="R", help="branch, made if it is new; main if left out")
    command.add_argument("--tag", metavar="T", help="name for this version, not yet taken")
    command.add_argument("--dry-run", action="store_true", help="say what would be uploaded, and stop")
    command.set_defaults(run=push)


def train(arguments: argparse.Namespace) -> None:
    """Fine-tune a checkpoint and print what it gained."""
    try:
        from ..training.finetuning import finetune, parse_fields
    except ImportError as error:
        raise ImportError(
            f"training needs more than is installed ({error}): pip install ccsam-hf[train,data]"
        ) from error

    overrides = parse_fields(arguments.set)
    results = finetune(arguments.data, arguments.layout, arguments.model, arguments.output, arguments.seed, overrides)
    for prompt in results["before"]:
        before, after = (results[when][prompt]["all"]["dice"]["mean"] for when in ("before", "after"))
        print(f"{prompt}: Dice {before:.2f} before, {after:.2f} after, {results['after'][prompt]['all']['n']} objects")
    print(f"wrote {arguments.output}")


def evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate a checkpoint on a data set and print one line for each target."""
    from ..evaluation.harness import evaluate_directory

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


def push(arguments: argparse.Namespace) -> None:
    """Upload a checkpoint, or say what would be uploaded."""
    url = repository_url(arguments.repo_id, arguments.revision)
    found = repository_files(arguments.model, arguments.repo_id)
    for path, reason in found.left_out.items():
        print(f"left out: {path} ({reason})")
    if arguments.dry_run:
        sizes, visibility = found.sizes, "public" if arguments.public else "private"
        for path, size in sizes.items():
            print(f"{size:>14,}  {path}")
        print(f"{sum(sizes.values()):>14,}  bytes in {len(sizes)} files would go to {url} ({visibility})")
        return
    commit = push_checkpoint(
        arguments.model,
        arguments.repo_id,
        private=not arguments.public,
        revision=arguments.revision,
        tag=arguments.tag,
    )
    print(f"uploaded to {commit.commit_url}")
    print(f'to load this very version: from_pretrained("{arguments.repo_id}", revision="{commit.oid}")')


if __name__ == "__main__":
    sys.exit(main())
