"""Fine-tuning on 40 real lesions, tested on 16 others, before and after, beside a U-Net trained on the same lesions.

    python training/compare_finetuning.py --data BUSI --output runs/finetuning
    python training/compare_finetuning.py --data BUSI --output runs/finetuning --sweep

In each of five folds, 32 of the 40 train and 8 choose the checkpoint. Images in which the audit sees one lesion stay
together. The lesions stand in a queue, in an order drawn from the seed in which the categories take turns: the first
16 images test, the next 8 validate, the others train, and what was tested goes to the end. So each of 56 images is
tested once or twice. CC-SAM goes through `ccsam_hf.training.finetuning`, as `ccsam-hf train` does. The U-Nets start
from random weights and see the same samples, for as many steps and for more, at a rate of their own; `--unet` adds one
that starts, as CC-SAM does, from what it learnt elsewhere. All are scored by `ccsam_hf.evaluation.harness`.

With `--sweep`, settings of fine-tuning are compared on the lesions that validate, by their last weights, so that no
setting gains from having more checkpoints to choose from. In other folds these lesions test: a default that the sweep
chose has seen them once.

The same command goes on with what was stopped; a fold that has its result.json is not run again. Several processes may
share the folds: `--folds 0 1 2` and `--folds 3 4`, and after them the command without `--folds` for all tables.
"""

import argparse
import json
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import accumulate
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from ccsam_hf import TINY
from ccsam_hf.data.audit import audit_cases
from ccsam_hf.data.build import Download, build
from ccsam_hf.data.cases import SPLITS, Case
from ccsam_hf.data.readers import LAYOUTS, read_cases
from ccsam_hf.data.splits import Splits, in_strata, units_of
from ccsam_hf.evaluation.harness import evaluate_cases
from ccsam_hf.evaluation.metrics import SCORES
from ccsam_hf.evaluation.protocol import true_mask
from ccsam_hf.evaluation.segmenters import load_segmenter
from ccsam_hf.evaluation.statistics import blind_rows, compare
from ccsam_hf.files import write_json, write_text
from ccsam_hf.identity import find_versions
from ccsam_hf.training.finetuning import finetune, parse_fields, settings_for
from ccsam_hf.training.run_config import RunConfig
from ccsam_hf.training.unet import train_unet

FOLDS = 5
PROMPTS = ["box", "point"]
SHOWN = ("dice", "hd_samus")
COLUMNS = ("data", "dataset", "name", "target", "patient_id", "model", "prompt", "draw", "status")
COLUMNS += (*SCORES, *(f"baseline_{score}" for score in SCORES))  # of a row that are kept
BEFORE, AFTER = "CC-SAM, before", "CC-SAM, fine-tuned"
UNET_RATE = 1e-3  # of the U-Nets; fine-tuning may go slower than what starts from random weights
SWEEP = {
    f"{learns}, rate {rate:g}, {steps} steps": {"trainable": learns, "learning_rate": rate, "max_steps": steps}
    for learns, rate, steps in (
        ("lora", 1e-3, 400),
        ("lora", 1e-3, 200),
        ("lora", 3e-4, 400),
        ("adapters", 1e-3, 400),
        ("declared", 3e-4, 400),
    )
}


# --- folds -----------------------------------------------------------------------------------------------------------


def lesions_of(cases: Sequence[Case]) -> dict[str, str]:
    """Image -> what it shows: its patient, or one name for all images that the audit takes for one picture."""
    lesions = {case.name: case.patient_id or case.name for case in cases}
    for finding in audit_cases([replace(case, split=None) for case in cases]).findings:
        if finding.kind in ("duplicate", "near duplicate"):
            same = {lesions[name] for _, name in finding.images}
            lesions = {name: min(same) if lesion in same else lesion for name, lesion in lesions.items()}
    return lesions


def folds_of(cases: Sequence[Case], num_test: int, num_validation: int, seed: int) -> list[Splits]:
    """The lists of every fold, as the first lines of this file say; what a release itself splits is ignored.

    Args:
        cases: of one data set, with the lesion as patient; images without an object are removed.
        num_test, num_validation: images of a fold.
        seed: of the order.

    Raises:
        ValueError: several data sets, or numbers of images that cannot be had.
    """
    datasets = {case.dataset for case in cases}
    if len(datasets) > 1:
        raise ValueError(f"the cases are of {', '.join(sorted(datasets))}; expected one data set")
    (dataset,) = datasets
    shown = [replace(case, split=None) for case in cases if true_mask(case).any()]
    without = {case.name for case in cases} - {case.name for case in shown}
    removed = {dataset: dict.fromkeys(sorted(without), "no object at 256x256")}
    queue, folds = queue_of(shown, dataset, seed), []
    for fold in range(FOLDS):
        test, others = taken(queue, num_test)
        validation, train = taken(others, num_validation)
        if not train:
            raise ValueError(f"{len(shown)} images leave none to train on beside {num_test} and {num_validation}")
        lists = dict(zip(SPLITS, (sorted(sum(units, [])) for units in (train, validation, test)), strict=True))
        rule = f"fold {fold}: the next {num_test} of a queue test, the {num_validation} behind them validate"
        folds.append(Splits(rule, seed, {dataset: lists}, removed))
        queue = others + test
    return folds


def queue_of(cases: Sequence[Case], dataset: str, seed: int) -> list[list[str]]:
    """Names of images by lesion, in an order drawn from the seed in which the categories take turns."""
    units = units_of(cases)[1]
    order = in_strata(units, seed, dataset)
    places = []
    for category in sorted({category for category, _ in units.values()}):
        own = [units[unit][1] for unit in order if units[unit][0] == category]
        ends = list(accumulate(len(names) for names in own))
        places += [((end - len(names) / 2) / ends[-1], names) for end, names in zip(ends, own, strict=True)]
    return [names for _, names in sorted(places)]


def taken(queue: list[list[str]], count: int) -> tuple[list[list[str]], list[list[str]]]:
    """The first lesions that fit into `count` images, and the others; ValueError where they do not add up to it."""
    chosen, left, room = [], [], count
    for names in queue:
        (chosen if len(names) <= room else left).append(names)
        room -= len(names) if len(names) <= room else 0
    if room:
        raise ValueError(f"lesions of {len(queue)} do not add up to {count} images; choose other numbers")
    return chosen, left


# --- what is run -----------------------------------------------------------------------------------------------------


def cases_of_fold(arguments: argparse.Namespace, fold: int) -> tuple[Path, dict[str, list[Case]]]:
    """The folder of a fold's data, built where it is missing, and its cases by split."""
    folder = arguments.folder / f"fold-{fold}" / "data"
    if not folder.is_dir():
        build([Download(arguments.layout, arguments.data)], folder, lambda cases: arguments.splits[fold])
    cases = [replace(case, patient_id=arguments.lesions[case.name]) for case in read_cases(folder, "built")]
    return folder, {split: [case for case in cases if case.split == split] for split in SPLITS}


def rows_of(model: str, what: str, cases: list[Case], prompts: list[str], fold: int) -> list[dict]:
    """Rows of a model, `what` as `load_segmenter` reads it."""
    rows = evaluate_cases(load_segmenter(what), cases, prompts, model=model, data=f"fold {fold}")
    return [{name: row[name] for name in COLUMNS} for row in rows]


def compare_in_fold(arguments: argparse.Namespace, fold: int) -> list[dict]:
    """Train and test in one fold, or read what an earlier call found."""
    folder = arguments.folder / f"fold-{fold}"
    if not (folder / "result.json").is_file():
        data, cases = cases_of_fold(arguments, fold)
        rows = rows_of(BEFORE, f"ccsam:{arguments.model}", cases["test"], PROMPTS, fold)
        if not (folder / "ccsam").is_dir():
            finetune(data, "built", arguments.model, folder / "ccsam", arguments.seed, arguments.overrides)
        rows += rows_of(AFTER, f"ccsam:{folder / 'ccsam'}", cases["test"], PROMPTS, fold)
        run = RunConfig(**yaml.safe_load((folder / "ccsam.run" / "run.yaml").read_text()))
        starts = [(f"U-Net, {steps} steps", None, steps) for steps in (run.max_steps, *arguments.unet_steps)]
        if arguments.unet:
            rows += rows_of("pre-trained U-Net, before", f"unet:{arguments.unet}", cases["test"], ["none"], fold)
            starts.append(("pre-trained U-Net, fine-tuned", arguments.unet, run.max_steps))
        for number, (name, checkpoint, steps) in enumerate(starts):
            output = folder / f"unet-{number}"
            settings = {"checkpoint": checkpoint and str(checkpoint), "max_steps": steps, "learning_rate": UNET_RATE}
            train_unet(replace(run, output_dir=str(output), **settings))
            rows += rows_of(name, f"unet:{output / 'best'}", cases["test"], ["none"], fold)
        write_json(folder / "result.json", rows)
    return json.loads((folder / "result.json").read_text())


def sweep_in_fold(arguments: argparse.Namespace, fold: int) -> list[dict]:
    """Validate every setting in one fold, or read what an earlier call found; their weights are not kept."""
    rows = []
    for name, fields in {BEFORE: None, **SWEEP}.items():
        folder = arguments.folder / f"fold-{fold}" / name.replace(" ", "_")
        if not (folder / "result.json").is_file():
            data, cases = cases_of_fold(arguments, fold)
            checkpoint = arguments.model
            if fields is not None:
                shutil.rmtree(folder / "ccsam", ignore_errors=True)  # complete, but stopped before it was measured
                finetune(
                    data, "built", arguments.model, folder / "ccsam", arguments.seed, arguments.overrides | fields
                )
                checkpoint = folder / "ccsam.run" / "last"
            own = rows_of(name, f"ccsam:{checkpoint}", cases["validation"], PROMPTS, fold)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json(folder / "result.json", own)
        rows += json.loads((folder / "result.json").read_text())
    return rows


# --- what is told ----------------------------------------------------------------------------------------------------


def lines_of(rows: list[dict]) -> list[dict[str, Any]]:
    """For each prompt and model the mean of each score over the folds' means, their standard deviation, and the gain.

    Args:
        rows: of any number of folds; the blind baselines are added.

    Returns:
        `{"prompt", "model", "n", "dice": {"mean", "std", "folds"}, "hd_samus": {...}}`, by prompt; "gain", where the
        prompt has rows of `BEFORE`, is what `statistics.compare` says of the Dice against these, lesion by lesion.
    """
    of_kind: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for row in [*rows, *blind_rows(rows)]:
        of_kind[row["prompt"], row["model"]].append(row)
    lines = []
    for prompt, model in sorted(of_kind, key=lambda kind: [*PROMPTS, "none"].index(kind[0])):
        own, before = of_kind[prompt, model], of_kind.get((prompt, BEFORE))
        line: dict[str, Any] = {"prompt": prompt, "model": model, "n": len(own)}
        for score in SHOWN:
            of_fold = defaultdict(list)
            for row in own:
                of_fold[row["data"]].append(row[score])
            folds = {name: mean(values) for name, values in of_fold.items()}
            spread = stdev(folds.values()) if len(folds) > 1 else 0.0
            line[score] = {"mean": mean(folds.values()), "std": spread, "folds": folds}
        if before and model != BEFORE:
            line["gain"] = compare(before, own, "dice")
        lines.append(line)
    return lines


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown."""
    cells = [["Prompt", "Model", "Dice", "Dice against before [95 %]", "HD"], ["---"] * 5]
    for line in lines:
        dice, distance = ("{mean:.1f} ± {std:.1f}".format(**line[score]) for score in SHOWN)
        gain = line.get("gain")
        gained = "{:+.1f} [{:+.1f}, {:+.1f}]".format(gain["difference"], *gain["ci95"]) if gain else ""
        cells.append([line["prompt"], line["model"], dice, gained, distance])
    return "".join("| " + " | ".join(line) + " |\n" for line in cells)


def parse_arguments(texts: list[str] | None = None) -> argparse.Namespace:
    """What is said on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--layout", choices=LAYOUTS, default="busi")
    parser.add_argument("--model", default=TINY, help="folder or Hub id (default: the bundled ccsam-tiny)")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sweep", action="store_true", help="compare settings, in place of before and after")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", help="of the runs, as in ccsam-hf train"
    )
    parser.add_argument("--unet-steps", type=int, nargs="*", default=[2000], help="beside as many as CC-SAM's")
    parser.add_argument("--unet", type=Path, help="a trained U-Net to fine-tune as well")
    parser.add_argument("--test-images", type=int, default=16, help="of a fold")
    parser.add_argument("--validation-images", type=int, default=8, help="of a fold")
    parser.add_argument("--folds", type=int, nargs="+", choices=range(FOLDS), default=list(range(FOLDS)))
    parser.add_argument("--seed", type=int, default=0, help="of folds and training")
    arguments = parser.parse_args(texts)
    arguments.overrides = parse_fields(arguments.set)
    return arguments


def main(texts: list[str] | None = None) -> None:
    """Run what is missing, print the table, write it and all rows as comparison.* or sweep.*."""
    arguments = parse_arguments(texts)
    name, in_fold = ("sweep", sweep_in_fold) if arguments.sweep else ("comparison", compare_in_fold)
    arguments.folder = arguments.output / name
    cases = read_cases(arguments.data, arguments.layout)
    arguments.lesions = lesions_of([case for case in cases if true_mask(case).any()])
    cases = [replace(case, patient_id=arguments.lesions.get(case.name)) for case in cases]
    arguments.splits = folds_of(cases, arguments.test_images, arguments.validation_images, arguments.seed)

    asked = ("data", "layout", "model", "overrides", "unet_steps", "unet", "test_images", "validation_images", "seed")
    settings: dict[str, Any] = {each: str(getattr(arguments, each)) for each in asked}
    settings |= {each: Path(text).name for each, text in settings.items() if Path(text).is_absolute()}
    num_images = sum(len(lists["train"]) for lists in arguments.splits[0].lists.values())
    settings["finetuning"] = SWEEP if arguments.sweep else settings_for(num_images)
    path = arguments.folder / "settings.json"
    if path.is_file() and json.loads(path.read_text()) != settings:
        raise ValueError(f"{arguments.folder} holds results of other settings ({path}); choose another output")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)

    rows = [row for fold in arguments.folds for row in in_fold(arguments, fold)]
    lines = lines_of(rows)
    about = {
        "settings": settings,
        "versions": find_versions(),
        "folds": [asdict(splits) for splits in arguments.splits],
    }
    write_json(arguments.output / f"{name}.json", about | {"means": lines, "rows": rows})
    write_text(arguments.output / f"{name}.md", table(lines))
    print(table(lines))


if __name__ == "__main__":
    main()
