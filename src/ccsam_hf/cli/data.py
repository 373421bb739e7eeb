"""The commands `ccsam-hf data build|audit|show|push|simulate`: thin over `ccsam_hf.data`."""

import argparse
import sys
from functools import partial
from typing import Any

import numpy as np

from ..data.build import Download, build, collect
from ..data.cases import SPLITS, Case
from ..data.splits import Splits, divide, divide_in_folds
from ..visualization import contact_sheet, overlay


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
    record = check_complete(arguments.directory)
    warning = redistribution_warning(record["counts"], record.get("own", ()))
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
