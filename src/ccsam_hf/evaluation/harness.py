"""Models x data sets x prompts -> one row a case, over any number of processes, going on where it was stopped.

Three ways in, each on top of the one before: `evaluate_cases` in memory, `evaluate_directory` for `ccsam-hf evaluate`,
`evaluate_study` for several models beside each other. What a row holds is said in `ccsam_hf.evaluation.protocol`.

A case whose segmentation raises an exception is a row too: "failed", with the scores of a miss and the reason. So is a
text that is not found, or an object that the resize to 256x256 loses: "missed". An evaluation that goes on tries
failed cases again.
"""

import base64
import csv
import hashlib
import io
import json
import logging
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.cases import SPLITS, Case
from ..data.prompts import Prompt
from ..data.readers import read_cases
from ..geometry import rescale_boxes
from ..grounding import TextGrounder
from ..pipeline_ccsam import CCSamPipeline
from .limit import sample_cases
from .protocol import DRAWN, NEEDS, PROMPTS, PROTOCOLS, prompt_from, scored, seed_of, true_mask, unscored
from .segmenters import (
    SIZE,
    CCSamSegmenter,
    Segmenter,
    about_module,
    disc,
    ellipse,
    load_segmenter,
    mean_mask,
)
from .statistics import comparisons, summaries, summarize

logger = logging.getLogger(__name__)

UNFINISHED = "rows.unfinished.jsonl"
MISSES_NAMED = 20
RESERVED_NAMES = (
    "all",
    "baseline",
    "n_without_object",
    "prompt",
    "protocol",
    "split",
    "limit",
    "model",
    "grounder",
    "versions",
)


@dataclass(frozen=True)
class DataSet:
    """Cases under one name.

    Attributes:
        name: of the study's tables.
        cases: each with an object.
        layout: how they were read.
        seen: whether the models trained on such data, for the tables of seen and unseen; None where that is not said.
    """

    name: str
    cases: Sequence[Case]
    layout: str = ""
    seen: bool | None = None

    def __post_init__(self):
        if not self.cases:
            raise ValueError(f"data set {self.name!r} has no case; there is nothing to evaluate")

    @property
    def about(self) -> dict[str, Any]:
        """What a study says of it; the hash is that of the list of data set, name, target and split of each case."""
        lines = [f"{case.dataset}\t{case.name}\t{case.target}\t{case.split}\n" for case in self.cases]
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
        about = {"name": self.name, "layout": self.layout, "cases": len(self.cases), "seen": self.seen}
        return about | {"sha256": digest}


class Blind:
    """The baseline of each kind of prompt for a set of cases; those that need a usual size or place know these cases.

    Args:
        cases: each with an object.
        prompts: kinds of `PROMPTS`.
    """

    def __init__(self, cases: Sequence[Case], prompts: Sequence[str]):
        kinds = {NEEDS[prompt] for prompt in prompts}
        truths = [true_mask(case) for case in cases] if kinds - {"box"} else []
        self.by_kind = {"box": ellipse()}
        if "point" in kinds:
            self.by_kind["point"] = disc(truths)
        if "none" in kinds:
            self.by_kind["none"] = mean_mask(truths, [case.target for case in cases])

    def mask(self, prompt: Prompt, kind: str, target: str) -> np.ndarray:
        """(256, 256) bool."""
        return self.by_kind[NEEDS[kind]].segment(None, prompt, target).mask


class CaseRows:
    """Rows of single cases of one model; the encoding of an image is kept until another image comes.

    Args:
        segmenter: the model.
        blind: baselines.
        prompts: kinds of `PROMPTS`.
        draws: of each kind in `DRAWN`.
        grounder: finds the texts; needed for them alone.
        named: columns that every row begins with.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        blind: Blind,
        prompts: Sequence[str],
        draws: int,
        grounder: TextGrounder | None,
        named: dict[str, str],
    ):
        self.segmenter, self.blind, self.prompts, self.draws = segmenter, blind, prompts, draws
        self.grounder, self.named = grounder, named
        self.image_of, self.encoded = None, None

    def __call__(self, case: Case) -> list[dict]:
        """One row for each prompt that the model reads, and each draw of it."""
        head = self.named | {"dataset": case.dataset, "name": case.name, "target": case.target, "split": case.split}
        head |= {"patient_id": case.patient_id}
        rows = []
        for kind in self.prompts:
            for draw in range(self.draws if kind in DRAWN else 1):
                row = head | {"prompt": kind, "draw": draw}
                if "text" in self.prompts:
                    row |= {"box_score": None, "found": None}
                try:
                    rows.append(row | self.result(case, kind, draw))
                except Exception as error:  # whatever a model raises, the other cases go on and this one is told of
                    logger.warning("case %s, prompt %s failed: %s", case.name, kind, error)
                    rows.append(row | unscored("failed", f"{type(error).__name__}: {error}"))
        return rows

    def result(self, case: Case, kind: str, draw: int) -> dict:
        """The columns behind the names of case and prompt."""
        truth, seed, found = true_mask(case), seed_of(case, draw), {}
        if kind == "text":
            image = case.image
            (find,) = self.grounder(image, case.target)
            found = {"box_score": find.best_score, "found": len(find.boxes) > 0}
            if not found["found"]:
                return found | unscored("missed", find.reason or "nothing was found")
        if not truth.any():
            return found | unscored("missed", "no pixel of the object is left at 256x256")
        if kind == "text":
            prompt = Prompt(box=rescale_boxes(find.boxes[0], image.shape, SIZE).cpu().numpy())
        else:
            prompt = prompt_from(truth, kind, seed)
        encoded = self.encode(case)
        torch.manual_seed(seed)  # of the draws of a posterior
        prediction = self.segmenter.segment(encoded, prompt, case.target)
        return found | scored(prediction, self.blind.mask(prompt, kind, case.target), truth, prompt)

    def encode(self, case: Case) -> Any:
        """The encoded image of a case."""
        if self.image_of != case.image_source:
            self.encoded, self.image_of = self.segmenter.encode(case.image), case.image_source
        return self.encoded


def evaluate_cases(
    segmenter: Segmenter,
    cases: Sequence[Case],
    prompts: Sequence[str],
    draws: int = 1,
    grounder: TextGrounder | None = None,
    model: str = "model",
    data: str = "data",
) -> list[dict]:
    """Segment every case by protocol "samus" and score the masks.

    Args:
        segmenter: the model.
        cases: each with an object.
        prompts: kinds of `ccsam_hf.evaluation.protocol.PROMPTS` that the model reads.
        draws: how often "random-point" and "jittered-box" are drawn.
        grounder: finds the texts, each the name of the case's target; needed for them alone.
        model, data: names in the rows.

    Returns:
        One row a case, prompt and draw, in that order.

    Raises:
        ValueError: a prompt is unknown or not the model's, there is no case, a case has no object, a grounder is there
            without texts or not there with them, or every single case failed.
    """
    check_prompts(segmenter, prompts, draws, grounder)
    check_cases(cases)
    of_case = CaseRows(segmenter, Blind(cases, prompts), prompts, draws, grounder, {"model": model, "data": data})
    return checked([row for case in cases for row in of_case(case)])


def evaluate_directory(
    model_dir: str | Path,
    data_dir: str | Path,
    layout: str,
    prompt: str,
    protocol: str,
    output_dir: str | Path,
    grounder: str | Path | None = None,
    split: str | None = None,
    draws: int = 1,
    num_samples: int | None = None,
    limit: int | None = None,
) -> dict:
    """Evaluate a checkpoint on a directory of cases; writes `summary.json` and `cases.csv`, each in one piece.

    Cases without an object cannot be prompted: they are counted in the log and as `n_without_object`, and have no row.
    The same call goes on with an evaluation that was stopped.

    Args:
        model_dir: folder or Hub id of CC-SAM, or another model as `load_segmenter` names it.
        data_dir: folder of the cases.
        layout: how it is laid out, see `ccsam_hf.data.readers`.
        prompt: one of `ccsam_hf.evaluation.protocol.PROMPTS`.
        protocol: "samus".
        output_dir: folder of the files; made where it is missing.
        grounder: for texts, folder or Hub id; left out, the one beside the model.
        split: "train", "validation" or "test" to evaluate the cases that the release puts there, None for all.
        draws: of "random-point" and "jittered-box".
        num_samples: draws of the posterior for the uncertainty, None for none.
        limit: at most so many cases, the same ones at every call, see `ccsam_hf.evaluation.limit`; None for all.

    Returns:
        The content of `summary.json`: that of `summarize`, and `n_without_object`, `prompt`, `protocol`, `split`,
        `limit`, `model`, `grounder` (its text encoder and what it was tuned on, None for zero-shot), `versions`.

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: an argument is unknown, the cases are not as their layout says, none has an object, every single
            one failed, a target has a name that the summary uses itself, or the output holds a stopped evaluation of
            something else.
    """
    check_choice("prompt", prompt, PROMPTS)
    check_choice("protocol", protocol, PROTOCOLS)
    data, n_without_object = read_data(Path(data_dir).name, data_dir, layout, split, limit=limit)
    taken = sorted({case.target for case in data.cases} & set(RESERVED_NAMES))
    if taken:
        raise ValueError(f"target {taken[0]!r} is a name of the summary itself: call the target something else")
    segmenter = load_segmenter(str(model_dir), num_samples)
    found_by = load_grounder(segmenter, grounder) if prompt == "text" else None
    settings = found_by and found_by.settings
    about = {
        "n_without_object": n_without_object,
        "prompt": prompt,
        "protocol": protocol,
        "split": split,
        "limit": limit,
        "model": str(model_dir),
        "grounder": settings and {"text_encoder": settings.text_encoder, "tuned_on": settings.tuned_on},
        "versions": versions(),
    }
    output_dir = Path(output_dir)
    rows = collect({str(model_dir): segmenter}, [data], [prompt], draws, found_by, output_dir, about)
    name_misses(rows)
    summary = summarize(rows) | about
    write_table(output_dir / "cases.csv", rows)
    write_json(output_dir / "summary.json", summary)
    (output_dir / UNFINISHED).unlink()
    return summary


def evaluate_study(
    models: dict[str, Segmenter],
    data: Sequence[DataSet],
    prompts: Sequence[str],
    output_dir: str | Path,
    draws: int = 1,
    grounder: TextGrounder | None = None,
    accelerator: Any = None,
    command: str = "",
) -> list[dict]:
    """Evaluate several models on several data sets: `study.json`, cases, `summary.json` and `comparisons.json`.

    A prompt that a model does not read is left out for that model. The same call goes on with a study that was
    stopped. Several processes give the same rows as one.

    Args:
        models: display name -> model.
        data: data sets of different names.
        prompts, draws, grounder: see `evaluate_cases`.
        output_dir: the study's folder; made where it is missing.
        accelerator: accelerate's `Accelerator` where several processes share the cases.
        command: as it stands in `study.json`.

    Returns:
        The rows, by model, data set and case.

    Raises:
        ValueError: as in `evaluate_cases`, or the output holds a stopped study of something else.
    """
    import pandas

    names = [each.name for each in data]
    if len(set(names)) < len(names) or not models:
        raise ValueError(f"data sets {names} and models {list(models)}; expected different names and a model at least")
    output_dir = Path(output_dir)
    about = {
        "models": [{"name": name, **segmenter.about} for name, segmenter in models.items()],
        "data": [each.about for each in data],
        "prompts": list(prompts),
        "draws": draws,
        "grounder": grounder and about_module(grounder.model, grounder.model.name_or_path or None),
        "protocol": PROTOCOLS[0],
        "versions": versions(),
    }
    rows = collect(models, data, prompts, draws, grounder, output_dir, about, accelerator)
    if accelerator is None or accelerator.is_main_process:
        write_table(output_dir / "cases.csv", rows)
        unfinished = output_dir / "cases.parquet.unfinished"
        pandas.DataFrame(rows).to_parquet(unfinished, index=False)
        os.replace(unfinished, output_dir / "cases.parquet")
        write_json(output_dir / "summary.json", summaries(rows))
        write_json(output_dir / "comparisons.json", comparisons(rows))
        write_json(output_dir / "study.json", about | {"command": command})
        (output_dir / UNFINISHED).unlink()
    return rows


def collect(
    models: dict[str, Segmenter],
    data: Sequence[DataSet],
    prompts: Sequence[str],
    draws: int,
    grounder: TextGrounder | None,
    folder: Path,
    about: dict[str, Any],
    accelerator: Any = None,
) -> list[dict]:
    """The rows of every model and case, each written down as soon as it is there.

    Args:
        models, data, prompts, draws, grounder, accelerator: see `evaluate_study`.
        folder: receives the file `UNFINISHED`, whose first line is `about` and whose other lines are cases.
        about: what the rows depend on; a file of something else is refused.

    Returns:
        All rows, on every process.
    """
    read_by = {name: [each for each in prompts if NEEDS[each] in models[name].reads] for name in models}
    for name, segmenter in models.items():
        check_prompts(segmenter, read_by[name], draws, grounder if "text" in read_by[name] else None)
    blind = [Blind(each.cases, prompts) for each in data]
    of_case = {
        (name, place): CaseRows(
            models[name], blind[place], read_by[name], draws, grounder, {"model": name, "data": data[place].name}
        )
        for name, place in product(models, range(len(data)))
    }
    tasks = [(name, place, i) for name, place in of_case for i in range(len(data[place].cases))]
    is_main = accelerator is None or accelerator.is_main_process
    path = folder / UNFINISHED
    if is_main:
        start_or_go_on(path, about)
    if accelerator is not None:
        accelerator.wait_for_everyone()
    finished = {index: rows for index, rows in read_lines(path) if all(row["status"] != "failed" for row in rows)}
    pending = [index for index in range(len(tasks)) if index not in finished]
    if accelerator is not None:
        accelerator.wait_for_everyone()  # before the first line is added to what others still read
    loader = DataLoader(pending, batch_size=1, collate_fn=itemgetter(0)) if pending else []
    if accelerator is not None and pending:
        loader = accelerator.prepare(loader)
    bar = tqdm(
        total=len(tasks), initial=len(finished), desc="evaluate", unit="case", disable=None if is_main else True
    )
    with bar, path.open("a", encoding="utf-8") if is_main else open(os.devnull, "w") as file:
        for index in loader:
            name, place, i = tasks[index]
            lines = [(index, of_case[name, place](data[place].cases[i]))]
            if accelerator is not None:
                lines = accelerator.gather_for_metrics(lines, use_gather_object=True)
            finished |= dict(lines)
            if is_main:
                file.writelines(as_line(*line) for line in lines)
                file.flush()
            bar.update(len(lines))
    for (name, place), _ in of_case.items():
        mine = [row for index, task in enumerate(tasks) if task[:2] == (name, place) for row in finished[index]]
        checked(mine)
    return [row for index in range(len(tasks)) for row in finished[index]]


def name_misses(rows: Sequence[dict]) -> None:
    """Say on the console which cases were missed, and why."""
    missed = [row for row in rows if row["status"] == "missed"]
    if not missed:
        return
    names = [f"{row['name']} ({row['target']}: {row['reason']})" for row in missed[:MISSES_NAMED]]
    more = f", and {len(missed) - len(names)} more in cases.csv" if len(missed) > len(names) else ""
    logger.warning("%d of %d were missed: %s%s", len(missed), len(rows), "; ".join(names), more)


def start_or_go_on(path: Path, about: dict[str, Any]) -> None:
    """Make the file of unfinished rows, or cut off the line that was being written when its process was stopped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first = json.dumps({"about": about}, default=str) + "\n"
    kept = first
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        if lines and lines[0].endswith("\n") and lines[0] != first:
            raise ValueError(
                f"{path} is a stopped evaluation of other models, data, prompts or versions; expected the same call: "
                "finish that one, or choose another output"
            )
        kept = first + "".join(line for line in lines[1:] if line.endswith("\n"))
    write_text(path, kept)


def read_lines(path: Path) -> Iterator[tuple[int, list[dict]]]:
    """Number of the task and rows of each case that is done."""
    with path.open(encoding="utf-8") as file:
        next(file)
        for line in file:
            content = json.loads(line)
            rows = content["rows"]
            for row in rows:
                row["mask"] = row["mask"] and base64.b64decode(row["mask"])
            yield content["task"], rows


def as_line(task: int, rows: list[dict]) -> str:
    """What `read_lines` reads."""
    texts = [row | {"mask": row["mask"] and base64.b64encode(row["mask"]).decode()} for row in rows]
    return json.dumps({"task": task, "rows": texts}) + "\n"


def read_data(
    name: str,
    directory: str | Path,
    layout: str,
    split: str | None = None,
    seen: bool | None = None,
    limit: int | None = None,
) -> tuple[DataSet, int]:
    """The cases with an object of a directory, and the number of those without.

    With a limit no more masks are read than it needs; the number is then of those that were read.

    Raises:
        FileNotFoundError, ValueError: nothing to read there, no case in the split, or none with an object.
    """
    if split is not None:
        check_choice("split", split, SPLITS)
    every = [case for case in read_cases(directory, layout) if split in (None, case.split)]
    if not every:
        raise ValueError(f"{directory} has no case in split {split!r}; its layout may know no splits: build it first")
    cases, without = sample_cases(every, len(every) if limit is None else limit)
    if not cases:
        raise ValueError(f"none of the {len(every)} cases in {directory} has an object: there is nothing to prompt")
    if without:
        logger.warning("%d of %d cases have no object and are not evaluated", without, without + len(cases))
    return DataSet(name, cases, layout, seen), without


def load_grounder(segmenter: Segmenter, grounder: str | Path | None) -> TextGrounder:
    """The grounder of a folder or Hub id, or the one beside the model's weights; ValueError where there is none."""
    if grounder is not None:
        return TextGrounder.from_pretrained(grounder)
    if not isinstance(segmenter, CCSamSegmenter):
        raise ValueError("the model has no grounder of its own; give the folder or Hub id of one (--grounder)")
    return CCSamPipeline(segmenter.model, segmenter.processor).grounder


def check_prompts(segmenter: Segmenter, prompts: Sequence[str], draws: int, grounder: TextGrounder | None) -> None:
    """Raise ValueError for prompts that are none, unknown, not the model's, or that do not fit the grounder."""
    if not prompts:
        raise ValueError(f"no prompt is one that the model reads; it reads {', '.join(segmenter.reads)}")
    if draws < 1:
        raise ValueError(f"draws is {draws}; expected at least 1")
    for prompt in prompts:
        check_choice("prompt", prompt, PROMPTS)
        if NEEDS[prompt] not in segmenter.reads:
            raise ValueError(f"prompt {prompt!r} is not one that the model reads: {', '.join(segmenter.reads)}")
    if ("text" in prompts) != (grounder is not None):
        raise ValueError(f"prompts {list(prompts)} came {'without' if grounder is None else 'with'} a grounder")


def check_cases(cases: Sequence[Case]) -> None:
    """Raise ValueError where there is no case, or one without an object."""
    if not cases:
        raise ValueError("cases is empty; there is nothing to evaluate")
    for case in cases:
        if not case.mask.any():
            raise ValueError(f"case {case.name!r} has no object; a prompt needs one: leave such cases out")


def checked(rows: list[dict]) -> list[dict]:
    """The rows; ValueError where all of them failed, because then it is the model or the call that is wrong."""
    if rows and all(row["status"] == "failed" for row in rows):
        raise ValueError(f"all {len(rows)} rows failed; the first says {rows[0]['reason']}")
    return rows


def check_choice(name: str, value: str, accepted: tuple[str, ...]) -> None:
    """Raise ValueError for a value that is not accepted."""
    if value not in accepted:
        raise ValueError(f"{name} is {value!r}; accepted are {', '.join(accepted)}")


def versions() -> dict[str, str]:
    """Of what decides the numbers."""
    names = ("ccsam-hf", "torch", "torchvision", "transformers", "numpy", "scipy", "pillow")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a source tree on the path instead of an installed package
            found[name] = "not installed"
    return found


def write_table(path: Path, rows: Sequence[dict]) -> None:
    """A CSV file of all columns but those that a cell cannot hold, lists and bytes."""
    left_out = {name for row in rows for name, value in row.items() if isinstance(value, (list, bytes))}
    text = io.StringIO()
    names = [name for name in rows[0] if name not in left_out]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_json(path: Path, content: Any) -> None:
    """Strict JSON, in one piece."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Under another name first."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
