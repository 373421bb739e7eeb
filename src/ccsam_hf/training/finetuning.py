"""A folder and a checkpoint -> a fine-tuned checkpoint with what it gained on held-out images (`finetune`).

Fifty images are far from enough to train everything: how much learns, how fast and how long follows from the number of
training images, `settings_for`. For 32 images they are the best of five settings on held-out lesions of BUSI
(training/README.md); for larger numbers they are chosen by judgement.
"""

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from ..adapters import ZeroLinear
from ..data.cases import Case
from ..data.readers import read_cases
from ..data.splits import Splits, divide
from ..evaluation.harness import evaluate_cases
from ..evaluation.segmenters import CCSamSegmenter
from ..evaluation.statistics import BASELINES, summarize
from ..hub.cards import checkpoint_card
from ..loading import GROUNDER_FOLDER, ModelSource
from ..modeling_ccsam import CCSamModel
from .files import write_folder
from .loop import train
from .run_config import RunConfig, published

FEWEST_IMAGES = 10
PROMPTS = ("box", "point")
SET_ELSEWHERE = {"data", "layout", "checkpoint", "output_dir", "seed"}  # by the arguments of `finetune`


def settings_for(num_images: int) -> dict[str, Any]:
    """Fields of `RunConfig` that depend on the number of training images.

    | images | what learns | rate | steps of 8 images |
    |---|---|---|---|
    | below 200 | low-rank adapters | 1e-3 | 400 |
    | below 2000 | the paper's adapters and the fusion | 2e-4 | 1500 |
    | above | and the mask decoder | 2e-4 | 6000 |
    """
    if num_images < 200:
        return {"trainable": "lora", "learning_rate": 1e-3, "max_steps": 400}
    if num_images < 2000:
        return {"trainable": "adapters", "learning_rate": 2e-4, "max_steps": 1500}
    return {"trainable": "declared", "learning_rate": 2e-4, "max_steps": 6000}


def finetune(
    data: str | Path,
    layout: str,
    model: str | Path,
    output: str | Path,
    seed: int = 0,
    overrides: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Fine-tune a checkpoint, and measure it before and after on images that neither trained nor chose it.

    Args:
        data: directory of cases; what its layout does not split is split by `ccsam_hf.data.splits.divide`.
        layout: see `ccsam_hf.data.readers`.
        model: folder or Hub id to start from.
        output: becomes the fine-tuned checkpoint, with its card, `results.json` and `splits.json`, complete or not at
            all. The run lies in `<output>.run` beside it; the same call goes on with one that was stopped.
        seed: of splits and training.
        overrides: fields of `RunConfig` over those that `settings_for` chooses.

    Returns:
        The content of `results.json`: for "before" and "after" and each prompt the summary of the test images.

    Raises:
        FileExistsError: the output exists, or `<output>.run` is a run of other settings.
        FileNotFoundError, ValueError: the data cannot be read, or are too few; an override that an argument sets;
            low-rank adapters for a checkpoint whose fusion has never been trained.
    """
    output = Path(output)
    if output.exists():
        raise FileExistsError(f"{output} exists; choose another output, or remove it")
    taken = sorted(SET_ELSEWHERE & set(overrides or {}))
    if taken:
        raise ValueError(
            f"{', '.join(taken)} cannot be set: they follow from data, layout, model, output and seed, so that the "
            "run and the test have the same splits"
        )
    cases = read_cases(data, layout)
    splits = divide(cases, seed)  # of all cases, as the run divides them
    prompted = [case for case in splits.apply(cases) if case.mask.any()]
    of_split = {name: [case for case in prompted if case.split == name] for name in ("train", "validation", "test")}
    images = check_numbers(data, of_split)
    run = RunConfig(
        **{
            "output_dir": str(output.with_name(output.name + ".run")),
            "checkpoint": str(model),
            "data": str(data),
            "layout": layout,
            "seed": seed,
            "warmup_steps": 40,
            "ema_decay": 0.99,
            "eval_every": 100,
            "tracker": "none",
            "num_workers": 0,
            **settings_for(images["train"]),
            **(overrides or {}),
        }
    )
    refuse_untrained(model, run.trainable)
    before = measure(model, of_split["test"])
    train(run)
    best = Path(run.output_dir) / "best"
    results = {"before": before, "after": measure(best, of_split["test"]), "run": published(run)}
    results["images"] = images

    def write(folder: Path) -> None:
        shutil.copytree(best, folder, dirs_exist_ok=True)
        splits.save(folder / "splits.json")
        source = ModelSource.of(model)
        if source.grounder is not None:  # so that texts work with the new one as with the old one
            source.grounder.copy_to(folder / GROUNDER_FOLDER)
        card = finetuned_card(folder, results, splits, source.base_model)
        (folder / "README.md").write_text(card, encoding="utf-8")
        (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    write_folder(output, write)
    return results


def parse_fields(texts: list[str]) -> dict[str, Any]:
    """`FIELD=VALUE` as fields of `RunConfig`, values as in YAML; ValueError for an unknown field or another form."""
    known = {each.name: each.type for each in fields(RunConfig)}
    found = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or name not in known:
            raise ValueError(
                f"{text!r} is not FIELD=VALUE with a field of a run; known are {', '.join(sorted(known))}"
            )
        kind = known[name]
        found[name] = kind(value) if kind in (int, float) else yaml.safe_load(value)  # to YAML 1e-3 is a text
    return found


def check_numbers(data: str | Path, of_split: dict[str, list[Case]]) -> dict[str, int]:
    """Images of each split; ValueError where there are too few to train on, to choose by, or to measure with."""
    numbers = {name: len({(case.dataset, case.name) for case in found}) for name, found in of_split.items()}
    if numbers["train"] < FEWEST_IMAGES or not numbers["validation"] or not numbers["test"]:
        raise ValueError(
            f"{data} gives {numbers['train']} images with an object to train on, {numbers['validation']} to validate "
            f"with and {numbers['test']} to test with; expected at least {FEWEST_IMAGES}, 1 and 1: add images"
        )
    return numbers


def refuse_untrained(model: str | Path, trainable: str) -> None:
    """Raise ValueError where low-rank adapters alone would learn and the fusion is as it starts, without effect."""
    if trainable != "lora":
        return
    fusion = CCSamModel.from_pretrained(model).fusion
    if fusion is not None and isinstance(fusion.output, ZeroLinear) and not fusion.output.weight.any():
        raise ValueError(
            f"the fusion of {model} has never been trained, and trainable=lora does not train it; expected a trained "
            "checkpoint, or --set trainable=declared, which trains all that the paper does"
        )


def measure(checkpoint: str | Path, cases: list[Case]) -> dict[str, Any]:
    """Summaries of the test cases by prompt, each with the baseline that does not see the image."""
    segmenter = CCSamSegmenter.load(checkpoint)
    return {prompt: summarize(evaluate_cases(segmenter, cases, [prompt])) for prompt in PROMPTS}


def finetuned_card(folder: Path, results: dict[str, Any], splits: Splits, base_model: str) -> str:
    """The card of a fine-tuned checkpoint that lies in a folder."""
    rows, measured = [], []
    for prompt in PROMPTS:
        for when in ("before", "after"):
            scores = results[when][prompt]["all"]
            rows.append((prompt, when, scores["dice"], scores["hd_samus"], scores["n"]))
        measured.append({"data": Path(results["run"]["data"]).name, "prompt": prompt, "target": "all", **scores})
        baseline = results["after"][prompt]["baseline"][BASELINES[prompt]]
        rows.append(
            (prompt, f"{BASELINES[prompt]}, blind to the image", baseline["dice"], baseline["hd_samus"], scores["n"])
        )
    return checkpoint_card(
        folder,
        template="finetuned_card.md",
        evaluation={"results": measured},
        run=results["run"],
        name="CC-SAM, fine-tuned",
        license="other",
        license_name="that-of-the-base-model-and-the-data",
        library_name="ccsam-hf",
        pipeline_tag="image-segmentation",
        base=base_model,
        rows=rows,
        images=results["images"],
        rule=splits.rule,
    )
