"""The rows of every model and case, by any number of processes, going on where they were stopped (`collect`).

Each case is written down as soon as it is there, in a file whose first line is the identity of the evaluation: what
its rows depend on. A file of another identity is refused. Cases that failed are tried again.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..files import write_text
from ..grounding import TextGrounder
from ..identity import describe_differences
from .data_sets import DataSet
from .measuring import Blind, CaseMeasurer, check_prompts
from .protocol import NEEDS
from .rows import from_json, to_json
from .segmenters import Segmenter

logger = logging.getLogger(__name__)

UNFINISHED = "rows.unfinished.jsonl"


def collect(
    models: dict[str, Segmenter],
    data: Sequence[DataSet],
    prompts: Sequence[str],
    draws: int,
    grounder: TextGrounder | None,
    folder: Path,
    identity: dict[str, Any],
    accelerator: Any = None,
) -> list[dict]:
    """The rows of every model and case.

    Args:
        models, data, prompts, draws, grounder, accelerator: see `ccsam_hf.evaluation.harness.evaluate_study`.
        folder: receives the file `UNFINISHED`.
        identity: what the rows depend on.

    Returns:
        All rows as records, on every process.

    Raises:
        ValueError: a model cannot be asked so, the folder holds a stopped evaluation of another identity, or every row
            of a model on a data set failed.
    """
    measurers = make_measurers(models, data, prompts, draws, grounder)
    tasks = [(name, place, i) for name, place in measurers for i in range(len(data[place].cases))]
    is_main = accelerator is None or accelerator.is_main_process
    path = folder / UNFINISHED
    if is_main:
        start_or_go_on(path, identity)
    if accelerator is not None:
        accelerator.wait_for_everyone()
    known = {index: rows for index, rows in read_lines(path) if all(row["status"] != "failed" for row in rows)}
    pending = [index for index in range(len(tasks)) if index not in known]
    if accelerator is not None:
        accelerator.wait_for_everyone()  # before the first line is added to what others still read
    loader = DataLoader(pending, batch_size=1, collate_fn=itemgetter(0)) if pending else []
    if accelerator is not None and pending:
        loader = accelerator.prepare(loader)
    bar = tqdm(total=len(tasks), initial=len(known), desc="evaluate", unit="case", disable=None if is_main else True)
    with bar, path.open("a", encoding="utf-8") if is_main else open(os.devnull, "w") as file:
        for index in loader:
            name, place, i = tasks[index]
            rows = measurers[name, place].measure(data[place].cases[i])
            lines = [(index, [row.to_record(prompts) for row in rows])]
            if accelerator is not None:
                lines = accelerator.gather_for_metrics(lines, use_gather_object=True)
            known |= dict(lines)
            if is_main:
                file.writelines(format_line(*line) for line in lines)
                file.flush()
            bar.update(len(lines))
    for key in measurers:
        check_not_all_failed([row for index, task in enumerate(tasks) if task[:2] == key for row in known[index]])
    return [row for index in range(len(tasks)) for row in known[index]]


def make_measurers(
    models: dict[str, Segmenter],
    data: Sequence[DataSet],
    prompts: Sequence[str],
    draws: int,
    grounder: TextGrounder | None,
) -> dict[tuple[str, int], CaseMeasurer]:
    """Of each model, by its name and the place of the data set, with the prompts that the model reads."""
    read_by = {name: [each for each in prompts if NEEDS[each] in models[name].reads] for name in models}
    for name, segmenter in models.items():
        check_prompts(segmenter, read_by[name], draws, grounder if "text" in read_by[name] else None)
    blind = [Blind(each.cases, prompts) for each in data]
    return {
        (name, place): CaseMeasurer(
            models[name], blind[place], read_by[name], draws, grounder, model=name, data=data[place].name
        )
        for name, place in product(models, range(len(data)))
    }


def start_or_go_on(path: Path, identity: dict[str, Any]) -> None:
    """Make the file of unfinished rows, or cut off the line that was being written when its process was stopped."""
    first = json.dumps({"identity": identity}, default=str) + "\n"
    kept = first
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        if lines and lines[0].endswith("\n") and lines[0] != first:
            before = json.loads(lines[0]).get("identity", {})
            raise ValueError(
                f"{path} is a stopped evaluation of something else ({describe_differences(before, identity)}): finish "
                "that one with its own call, remove the file, or choose another output"
            )
        kept = first + "".join(line for line in lines[1:] if line.endswith("\n"))
    write_text(path, kept)


def read_lines(path: Path) -> Iterator[tuple[int, list[dict]]]:
    """Number of the task and rows of each case that is done."""
    with path.open(encoding="utf-8") as file:
        next(file)
        for line in file:
            content = json.loads(line)
            yield content["task"], [from_json(row) for row in content["rows"]]


def format_line(task: int, rows: list[dict]) -> str:
    """What `read_lines` reads."""
    return json.dumps({"task": task, "rows": [to_json(row) for row in rows]}) + "\n"


def check_not_all_failed(rows: Sequence[dict]) -> None:
    """Raise ValueError where all rows failed, because then it is the model or the call that is wrong."""
    if rows and all(row["status"] == "failed" for row in rows):
        raise ValueError(f"all {len(rows)} rows failed; the first says {rows[0]['reason']}")
