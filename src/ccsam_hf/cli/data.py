"""The commands `ccsam-hf data build|audit|show|push|simulate`: thin over `ccsam_hf.data`."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..data.build import Download, build, collect
from ..data.cases import SPLITS, Case
from ..data.readers import LAYOUTS
from ..data.splits import Splits, divide, divide_in_folds
from ..visualization import contact_sheet, overlay

SOURCES_HELP = f"a data set as downloaded, such as busi=downloads/BUSI; layouts: {', '.join(LAYOUTS)}"


def add_data(commands: Any) -> None:
    """Declare `data` and its commands."""
    data = commands.add_parser("data", help="build, audit, show, push and simulate data sets")
    data_commands = data.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    add_build(data_commands)
    add_audit(data_commands)
    add_show(data_commands)
    add_push(data_commands)
    add_simulate(data_commands)


def add_sources(command: Any) -> None:
    """Declare the sources and the seed of their splits."""
    command.add_argument("source", nargs="+", metavar="LAYOUT=PATH", help=SOURCES_HELP)
    command.add_argument("--splits", type=Path, metavar="FILE", help="lists to use, such as those of audit --fix")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of splits that are drawn; 0 if left out")


def add_build(commands: Any) -> None:
    """Declare `data build`."""
    text = "Read data sets or archives of them, split them as the paper does, and write Parquet that datasets loads."
    command = commands.add_parser("build", help="downloads to one split data set", description=text)
    add_sources(command)
    command.add_argument("--folds", type=int, metavar="K", help="cross-validation instead of the paper's splits")
    command.add_argument("--fold", type=int, metavar="I", help="the fold that tests, from 0")
    command.add_argument("--output", type=Path, required=True, metavar="DIR")
    command.set_defaults(run=run_build)


def add_audit(commands: Any) -> None:
    """Declare `data audit`."""
    text = "Look for duplicates, leakage between splits, wrong masks and unreadable files; changes no data."
    command = commands.add_parser("audit", help="what is wrong with data sets", description=text)
    add_sources(command)
    command.add_argument("--fix", action="store_true", help="also write splits.json without what has to go")
    command.add_argument("--output", type=Path, required=True, metavar="DIR")
    command.set_defaults(run=run_audit)


def add_show(commands: Any) -> None:
    """Declare `data show`."""
    command = commands.add_parser("show", help="a sheet of images with the outlines of their masks")
    add_sources(command)
    command.add_argument("--split", choices=SPLITS)
    command.add_argument("--count", type=int, default=24, metavar="N", help="images drawn at random; 24 if left out")
    command.add_argument("--output", type=Path, required=True, metavar="PNG")
    command.set_defaults(run=run_show)


def add_push(commands: Any) -> None:
    """Declare `data push`."""
    command = commands.add_parser("push", help="a built data set to the Hub, private if not said otherwise")
    command.add_argument("directory", type=Path, metavar="DIR", help="the output of data build")
    command.add_argument("--repo-id", required=True, metavar="ID")
    command.add_argument("--public", action="store_true", help="make a new repository public")
    command.add_argument("--licences-checked", action="store_true", help="you may pass on every source in the set")
    command.add_argument("--dry-run", action="store_true", help="say what would be uploaded, and stop")
    command.set_defaults(run=run_push)


def add_simulate(commands: Any) -> None:
    """Declare `data simulate`."""
    command = commands.add_parser("simulate", help="ultrasound phantoms with exact masks, in the folder layout")
    command.add_argument("--output", type=Path, required=True, metavar="DIR")
    command.add_argument("--count", type=int, required=True, metavar="N")
    command.add_argument("--seed", type=int, default=0, metavar="S")
    command.add_argument("--target", nargs="+", metavar="T", help="what to show; all kinds if left out")
    command.set_defaults(run=run_simulate)


def run_build(arguments: argparse.Namespace) -> None:
    """Build a data set and print its counts."""
    if (arguments.folds is None) != (arguments.fold is None):
        raise ValueError("--folds and --fold belong together: give both or none")
    if arguments.folds is not None and arguments.splits is not None:
        raise ValueError("--folds came with --splits; expected one way to split")
    if arguments.folds is not None:
        splits_of = partial(divide_in_folds, num_folds=arguments.folds, fold=arguments.fold, seed=arguments.seed)
    else:
        splits_of = splits_for(arguments)
    sources = [Download.parse(text) for text in arguments.source]
    record = build(sources, arguments.output, splits_of, progress=sys.stderr.isatty())
    for note in record["notes"]:
        print(f"note: {note}")
    for dataset, by_split in record["counts"].items():
        numbers = [f"{split} {sum(by_split[split].values())}" for split in SPLITS if split in by_split]
        print(f"{dataset}: {', '.join(numbers)} cases")
    print(f"wrote {arguments.output}")


def run_audit(arguments: argparse.Namespace) -> None:
    """Audit data sets, print the table and write the report."""
    from ..data.audit.auditing import audit_cases, images_to_remove, write_report

    splits, cases = placed_cases(arguments)
    report = audit_cases(cases, progress=sys.stderr.isatty())
    write_report(report, cases, arguments.output)
    print(report.to_table())
    print(f"wrote {arguments.output}")
    if arguments.fix:
        removed = images_to_remove(report)
        path = arguments.output / "splits.json"
        splits.without(removed).save(path)
        print(f"left out {sum(len(names) for names in removed.values())} images in {path}; use it by build --splits")


def run_show(arguments: argparse.Namespace) -> None:
    """Write a contact sheet."""
    if arguments.count < 1:
        raise ValueError(f"--count is {arguments.count}; expected at least 1")
    _, cases = placed_cases(arguments)
    objects: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        if arguments.split in (None, case.split):
            objects.setdefault((case.dataset, case.name), []).append(case)
    if not objects:
        raise ValueError(f"no image is in split {arguments.split!r}; choose another of {', '.join(SPLITS)}")
    rng = np.random.default_rng(arguments.seed)
    drawn = sorted(rng.choice(len(objects), min(arguments.count, len(objects)), replace=False))
    pictures, titles = [], []
    for dataset, name in (list(objects)[index] for index in drawn):
        own = objects[dataset, name]
        pictures.append(overlay(own[0].image, [case.mask for case in own]))
        titles.append(f"{dataset} {name}: {', '.join(case.target for case in own)}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(pictures, titles, columns=6).save(arguments.output, format="PNG")
    print(f"wrote {len(pictures)} of {len(objects)} images to {arguments.output}")


def run_push(arguments: argparse.Namespace) -> None:
    """Upload a built data set, or say what would be uploaded."""
    from ..data.card import redistribution_warning
    from ..data.push import files_of, push_built
    from ..data.rows import check_complete

    files = files_of(arguments.directory)
    warning = redistribution_warning(check_complete(arguments.directory)["counts"])
    if warning:
        print(warning)
    if arguments.dry_run:
        for path, size in files.items():
            print(f"{size:>14,}  {path}")
        visibility = "public" if arguments.public else "private"
        print(f"{sum(files.values()):>14,}  bytes would go to {arguments.repo_id} ({visibility} if it is new)")
        return
    url = push_built(
        arguments.directory,
        arguments.repo_id,
        private=not arguments.public,
        licences_checked=arguments.licences_checked,
    )
    print(f"uploaded to {url}")


def run_simulate(arguments: argparse.Namespace) -> None:
    """Write simulated cases."""
    from ..data.simulator.scenes import write_folder

    targets = {} if arguments.target is None else {"targets": arguments.target}
    write_folder(arguments.output, count=arguments.count, seed=arguments.seed, **targets)
    print(f"wrote {arguments.count} cases to {arguments.output}")


def placed_cases(arguments: argparse.Namespace) -> tuple[Splits, list[Case]]:
    """The splits of the sources, and their cases with the split set."""
    cases, notes = collect([Download.parse(text) for text in arguments.source])
    for note in notes:
        print(f"note: {note}")
    splits = splits_for(arguments)(cases)
    return splits, splits.apply(cases)


def splits_for(arguments: argparse.Namespace) -> Any:
    """Cases -> splits: the file that was given, or the rules of the paper."""
    if arguments.splits is not None:
        splits = Splits.load(arguments.splits)
        return lambda cases: splits
    return partial(divide, seed=arguments.seed)
