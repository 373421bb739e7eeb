"""Small ablations on simulated cases: the eight rows of the paper's Table 1, and the choices behind the defaults.

    python training/ablation.py --output runs/ablation --study table1

The paper's situation in miniature. Two runs on structures of the heart stand for the published weights: a plain SAM
for ViT, prompt encoder and mask decoder, and a CNN. Every configuration takes these weights, starts all else anew,
freezes what the paper freezes and trains for the same steps on thyroid nodules (for TN3K) and breast lesions (for
BUSI). With `--start random` all of it starts anew and learns instead, as in the bundled checkpoint.

A seed decides the start, the split of the cases, their order and the prompts; configurations share the seeds. Rows
with a text prompt train on moved boxes of the truth, as a detector in the loop would mostly measure itself, and are
tested with the box that the text finds; a second table has the box of the truth. The same command goes on with what
was stopped; a configuration that has its result.json is not run again.
"""

import argparse
import json
import re
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from ccsam_hf import TINY_GROUNDER, CCSamConfig, CCSamModel, TextGrounder
from ccsam_hf.data.cases import Case
from ccsam_hf.data.readers import read_cases
from ccsam_hf.data.simulator import write_folder
from ccsam_hf.data.splits import divide
from ccsam_hf.evaluation.harness import evaluate_cases
from ccsam_hf.evaluation.segmenters import CCSamSegmenter
from ccsam_hf.evaluation.statistics import BASELINES
from ccsam_hf.files import write_json
from ccsam_hf.training.loop import train
from ccsam_hf.training.run_config import RunConfig

TARGETS = ("thyroid nodule", "breast lesion")
TARGETS_BEFORE = ("left ventricle", "myocardium", "left atrium")
FIRST_SEED = 2_000_000_000  # of the cases: none that the bundled grounder has seen
SCORES = {"dice": "Dice", "hd_samus": "HD"}
MOVED_BOX = {"tight_box": 0.0, "jittered_box": 1.0, "jitter_fraction": 0.1}

ROWS = ("samus", "resnet50", "vaf", "text", "resnet50_text", "vaf_text", "resnet50_vaf", "resnet50_vaf_text")
LAMBDAS = ("lambda_c", "lambda_v", "lambda_a")
BASE = {**dict.fromkeys(LAMBDAS, 1e-3), "vaf_config.residual": True, "train_mask_decoder": True}
BASE["cnn_config.feature_stages"] = ("stage2", "stage3", "stage4")
CHANGES = {
    "base, lambda 0.001": {},
    **{f"lambda {value:g}": dict.fromkeys(LAMBDAS, value) for value in (0.0, 1e-4, 1e-2)},
    "no residual": {"vaf_config.residual": False},
    "frozen mask decoder": {"train_mask_decoder": False},
    "last stage of the CNN alone": {"cnn_config.feature_stages": ("stage4",)},
}


class Configuration(NamedTuple):
    """What a line of the tables stands for."""

    cells: tuple[str, ...]  # before the scores
    fields: dict[str, Any]  # of the model, "part.field" for those of a sub-config
    tested: tuple[str, ...] = ("point", "box")  # one prompt for each table
    training: dict[str, Any] = {}  # fields of RunConfig


def table1_row(name: str) -> Configuration:
    """A row of Table 1; the mask decoder is frozen in all of them, as in SAMUS."""
    has_resnet50, has_vaf, has_text = switches = [part in name for part in ("resnet50", "vaf", "text")]
    fields = {"cnn_branch": "resnet50" if has_resnet50 else "samus", "fusion": "vaf" if has_vaf else "cross_branch"}
    fields |= {"train_mask_decoder": False, "cnn_config.samus_channels": 16}  # SAMUS's CNN as small as all else
    cells = tuple("✓" if switch else "×" for switch in switches)
    if has_text:
        return Configuration(cells, fields, ("text", "box"), {"prompts": ["box"], "prompt_sampler": MOVED_BOX})
    return Configuration(cells, fields, ("point",), {"prompts": ["point"]})


STUDIES = {
    "table1": {name: table1_row(name) for name in ROWS},
    "choices": {name: Configuration((name,), BASE | change) for name, change in CHANGES.items()},
}


def write_start(folder: Path, fields: dict[str, Any], seed: int, pretrained: dict[str, torch.Tensor]) -> str:
    """`CCSamConfig.tiny()` with fields changed, drawn from a seed but for the pre-trained tensors that fit into it."""
    config = CCSamConfig.tiny()
    for name, value in fields.items():
        part, _, last = name.rpartition(".")
        setattr(getattr(config, part) if part else config, last, value)
    torch.manual_seed(seed)
    model = CCSamModel(config)
    left_behind = model.load_state_dict(pretrained, strict=False).unexpected_keys
    strange = [name for name in left_behind if not name.startswith("cnn_branch.backbone.")]
    if strange:  # SAMUS's CNN has no place for a ResNet; all else must find its own
        raise ValueError(f"{len(strange)} pre-trained tensors have no place, for instance {strange[0]}")
    model.save_pretrained(folder)
    return str(folder)


def train_one(arguments: argparse.Namespace, folder: Path, start: str, seed: int, steps: int, **settings: Any) -> Path:
    """Train, with one validation at the end, which chooses nothing."""
    shared = {"data": str(arguments.cases_folder), "layout": "folder", "num_workers": 0, "tracker": "none"}
    shared |= {"mixed_precision": "bf16"}
    shared |= {"max_steps": steps, "warmup_steps": steps // 20, "eval_every": steps, "eval_cases": 16}
    shared |= {"targets": list(TARGETS), "trainable": "all" if arguments.start == "random" else "declared"}
    run = {"output_dir": str(folder / "run"), "checkpoint": start, "seed": seed, "ema_decay": 0.99}
    train(RunConfig(**run | shared | settings))
    return folder / "run" / "best"


def pretrain(arguments: argparse.Namespace) -> dict[str, torch.Tensor]:
    """The tensors that stand for published weights, one set for all seeds: SAM's, and those of a CNN."""
    kept, plain_sam = {}, {"cnn_branch": "none", "fusion": "none", "vision_config.feature_adapters": False}
    kinds = {"sam": (plain_sam, r"(?!vit_branch\.position_adapter\.)"), "cnn": ({}, r"cnn_branch\.backbone\.")}
    for name, (fields, pattern) in kinds.items():
        folder = arguments.folder / "pretraining" / name
        start = write_start(folder / "start", fields, 0, {})
        targets = list(TARGETS_BEFORE)
        best = train_one(arguments, folder, start, 0, 2 * arguments.steps, targets=targets, trainable="all")
        tensors = load_file(best / "model.safetensors")
        kept |= {each: tensor for each, tensor in tensors.items() if re.match(pattern, each)}
    return kept


def scores_of(checkpoint: Path, cases: list[Case], prompt: str, grounder: TextGrounder) -> dict[str, Any]:
    """Means over the cases of each target: the model's, "blind_" those of the prompt alone, and the share "found"."""
    segmenter = CCSamSegmenter.load(checkpoint)
    rows = evaluate_cases(segmenter, cases, [prompt], grounder=grounder if prompt == "text" else None)
    scores = {}
    for target in TARGETS:
        own = [row for row in rows if row["target"] == target]
        scores[target] = {"n": len(own), "found": mean(row["status"] != "missed" for row in own)}
        scores[target] |= {name: mean(row[name] for row in own) for name in SCORES}
        scores[target] |= {f"blind_{name}": mean(row[f"baseline_{name}"] for row in own) for name in SCORES}
    return scores


def result_of(arguments: argparse.Namespace, name: str, seed: int, given: dict[str, Any]) -> dict[str, Any]:
    """Train and test one configuration with one seed, or read what an earlier call found."""
    configuration = STUDIES[arguments.study][name]
    folder = arguments.folder / arguments.study / name.replace(" ", "_") / f"seed-{seed}"
    path = folder / "result.json"
    if not path.is_file():
        start = write_start(folder / "start", configuration.fields, seed, given["pretrained"])
        best = train_one(arguments, folder, start, seed, arguments.steps, **configuration.training)
        placed = divide(given["cases"], seed).apply(given["cases"])
        cases = [case for case in placed if case.split == "test" and case.target in TARGETS]
        scores = {prompt: scores_of(best, cases, prompt, given["grounder"]) for prompt in configuration.tested}
        write_json(path, scores, indent=1)
    return json.loads(path.read_text())


def cells_of(seeds: list[dict[str, Any]], prompt: str, prefix: str = "") -> list[str]:
    """Mean and standard deviation over the seeds, by target and score."""
    columns = [[scores[prompt][target][prefix + name] for scores in seeds] for target in TARGETS for name in SCORES]
    return [f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if values[1:] else "") for values in columns]


def table(study: str, place: int, results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown in the form of the paper, for one place in `tested`; the last lines are blind to the image."""
    first = ["ResNet50", "VAF", "Text prompt"] if study == "table1" else ["Choice"]
    head = first + [f"{target}: {score}" for target in TARGETS for score in SCORES.values()]
    lines, any_of = [head, ["---"] * len(head)], {}
    for name, seeds in results.items():
        for prompt in STUDIES[study][name].tested[place : place + 1]:
            lines.append([*STUDIES[study][name].cells, *cells_of(seeds, prompt)])
            any_of[prompt] = seeds
    for prompt, seeds in any_of.items():
        blind = [f"{BASELINES[prompt]}, {prompt} alone", *[""] * (len(first) - 1)]
        lines.append(blind + cells_of(seeds, prompt, "blind_"))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main() -> None:
    """Run what is missing, print the tables, write `<study>.md` and `<study>.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--study", choices=STUDIES, default="table1")
    parser.add_argument("--start", choices=("pretrained", "random"), default="pretrained")
    parser.add_argument("--steps", type=int, default=500, help="of 8 images; twice as many before")
    parser.add_argument("--cases", type=int, default=500, help="of each target: seven tenths train, two tenths test")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--grounder", default=TINY_GROUNDER, help="finds the boxes of texts")
    arguments = parser.parse_args()
    arguments.folder = arguments.output / f"{arguments.start}_{arguments.cases}-cases_{arguments.steps}-steps"
    arguments.cases_folder, targets = arguments.output / f"cases-{arguments.cases}", TARGETS + TARGETS_BEFORE
    if not arguments.cases_folder.is_dir():
        write_folder(arguments.cases_folder, count=len(targets) * arguments.cases, seed=FIRST_SEED, targets=targets)
    given = {"cases": read_cases(arguments.cases_folder, "folder")}
    given["grounder"] = TextGrounder.from_pretrained(arguments.grounder)
    given["pretrained"] = pretrain(arguments) if arguments.start == "pretrained" else {}

    names = [name for name in STUDIES[arguments.study] if (arguments.start, name) != ("random", "frozen mask decoder")]
    results = {name: [result_of(arguments, name, seed, given) for seed in range(arguments.seeds)] for name in names}
    tables = table(arguments.study, 0, results) + "\n" + table(arguments.study, 1, results)
    about = {"settings": {name: str(value) for name, value in vars(arguments).items()}, "results": results}
    about["versions"] = {name: version(name) for name in ("ccsam-hf", "torch", "transformers")}
    (arguments.folder / f"{arguments.study}.md").write_text(tables, encoding="utf-8")
    (arguments.folder / f"{arguments.study}.json").write_text(json.dumps(about, indent=1) + "\n")
    print(tables)


if __name__ == "__main__":
    main()
