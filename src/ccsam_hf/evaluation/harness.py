"""Models x data sets x prompts -> one row a case (`evaluate_cases`, `evaluate_directory`, `evaluate_study`).

Three ways in, each on top of the one before: in memory, `ccsam-hf evaluate`, several models beside each other. What a
row holds is said in `ccsam_hf.evaluation.rows`.

A case whose segmentation raises an exception is a row too: "failed", with the scores of a miss and the reason. So is a
text that is not found, or an object that the resize to 256x256 loses: "missed".
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checks import check_choice
from ..data.cases import Case
from ..data.splits import Splits
from ..files import replace_file, write_json, write_text
from ..grounding import TextGrounder
from ..identity import find_versions, hash_weights
from ..pipeline_ccsam import CCSamPipeline
from .collecting import UNFINISHED, check_not_all_failed, collect
from .data_sets import DataSet, check_texts, read_data
from .measuring import Blind, CaseMeasurer, check_prompts
from .protocol import PROMPTS, PROTOCOLS
from .reliability import reliability_entries, summarize_reliability
from .rows import format_csv
from .segmenters import CCSamSegmenter, Segmenter, about_module, load_segmenter
from .statistics import comparisons, summaries, summarize

logger = logging.getLogger(__name__)

MISSES_NAMED = 20
RESERVED_NAMES = (
    "all",
    "baseline",
    "reliability",
    "n_without_object",
    "prompt",
    "protocol",
    "split",
    "limit",
    "model",
    "grounder",
    "versions",
    "identity",
)


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
        One record of `ccsam_hf.evaluation.rows.Row` a case, prompt and draw, in that order.

    Raises:
        ValueError: a prompt is unknown or not the model's, there is no case, a case has no object, a grounder is there
            without texts or not there with them, or every single case failed.
    """
    check_prompts(segmenter, prompts, draws, grounder)
    check_cases(cases)
    measurer = CaseMeasurer(segmenter, Blind(cases, prompts), prompts, draws, grounder, model, data)
    records = [row.to_record(prompts) for case in cases for row in measurer.measure(case)]
    check_not_all_failed(records)
    return records


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
    target: str | None = None,
    splits: str | Path | None = None,
) -> dict:
    """Evaluate a checkpoint on a directory of cases; writes `summary.json` and `cases.csv`, each in one piece.

    Cases without an object cannot be prompted: they are counted as `n_without_object` and have no row. The same call
    goes on with an evaluation that was stopped; the call of anything else is refused there.

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
        target: the cases of this target alone; where the data name no target, what their objects are.
        splits: file of `ccsam_hf.data.splits.Splits` in place of the release's splits.

    Returns:
        The content of `summary.json`: that of `summarize`, `reliability` (see `summarize_reliability`), the settings,
        `n_without_object`, `grounder` (None for zero-shot), `versions`, and `identity`, see `identify`.

    Raises:
        FileNotFoundError, ValueError: a folder is missing, an argument is unknown, no case can be evaluated, a target
            has a name that the summary uses, a text would ask for "object", or another evaluation was stopped there.
    """
    check_choice("prompt", prompt, PROMPTS)
    check_choice("protocol", protocol, PROTOCOLS)
    lists = None if splits is None else Splits.load(splits)
    data, without_object = read_data(
        Path(data_dir).name, data_dir, layout, split, limit=limit, target=target, splits=lists
    )
    check_targets(data.cases)
    if prompt == "text":
        check_texts(data.cases, data_dir)
    models = {str(model_dir): load_segmenter(str(model_dir), num_samples)}
    found_by = load_grounder(models[str(model_dir)], grounder) if prompt == "text" else None
    identity = identify(models, [data], [prompt], draws, found_by)
    rows = collect(models, [data], [prompt], draws, found_by, Path(output_dir), identity)
    about = {"prompt": prompt, "protocol": protocol, "split": split, "limit": limit, "model": str(model_dir)}
    about |= {"n_without_object": without_object, "grounder": describe_grounder(found_by)}
    about |= {"versions": identity["versions"], "identity": identity}
    return write_evaluation(Path(output_dir), rows, about)


def write_evaluation(output_dir: Path, rows: list[dict], about: dict[str, Any]) -> dict[str, Any]:
    """Write cases.csv and summary.json, whose content is returned, and name what was missed."""
    name_misses(rows)
    summary = summarize(rows) | {"reliability": summarize_reliability(rows)} | about
    write_text(output_dir / "cases.csv", format_csv(rows, [about["prompt"]]))
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
    """Evaluate several models on several data sets; see `write_study` for the files.

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
    names = [each.name for each in data]
    if len(set(names)) < len(names) or not models:
        raise ValueError(f"data sets {names} and models {list(models)}; expected different names and a model at least")
    output_dir = Path(output_dir)
    identity = identify(models, data, prompts, draws, grounder)
    rows = collect(models, data, prompts, draws, grounder, output_dir, identity, accelerator)
    if accelerator is None or accelerator.is_main_process:
        about = {
            "models": [{"name": name, **segmenter.about} for name, segmenter in models.items()],
            "data": [each.about for each in data],
            "prompts": list(prompts),
            "draws": draws,
            "grounder": grounder and about_module(grounder.model, grounder.model.name_or_path or None),
            "protocol": PROTOCOLS[0],
            "versions": identity["versions"],
            "command": command,
        }
        write_study(output_dir, rows, about)
        (output_dir / UNFINISHED).unlink()
    return rows


def write_study(output_dir: Path, rows: list[dict], about: dict[str, Any]) -> None:
    """Write cases.csv, cases.parquet (with masks), summary.json, comparisons.json, reliability.json and study.json."""
    import pandas

    write_text(output_dir / "cases.csv", format_csv(rows, about["prompts"]))
    with replace_file(output_dir / "cases.parquet") as partial:
        pandas.DataFrame(rows).to_parquet(partial, index=False)
    write_json(output_dir / "summary.json", summaries(rows))
    write_json(output_dir / "comparisons.json", comparisons(rows))
    write_json(output_dir / "reliability.json", reliability_entries(rows))
    write_json(output_dir / "study.json", about)


def identify(
    models: dict[str, Segmenter],
    data: Sequence[DataSet],
    prompts: Sequence[str],
    draws: int,
    grounder: TextGrounder | None,
) -> dict[str, Any]:
    """What rows depend on: weights, data with masks and splits, prompts, draws, samples, protocol and versions."""
    return {
        "models": [
            {"name": name, "sha256": each.about["sha256"], "num_samples": getattr(each, "num_samples", None)}
            for name, each in models.items()
        ],
        "data": [{name: each.about[name] for name in ("name", "layout", "cases", "sha256")} for each in data],
        "prompts": list(prompts),
        "draws": draws,
        "grounder": grounder and hash_weights(grounder.model),
        "protocol": PROTOCOLS[0],
        "versions": find_versions(),
    }


def load_grounder(segmenter: Segmenter, grounder: str | Path | None) -> TextGrounder:
    """The grounder of a folder or Hub id, or the one beside the model's weights; ValueError where there is none."""
    if grounder is not None:
        return TextGrounder.from_pretrained(grounder)
    if not isinstance(segmenter, CCSamSegmenter):
        raise ValueError("the model has no grounder of its own; give the folder or Hub id of one (--grounder)")
    return CCSamPipeline(segmenter.model, segmenter.processor).grounder


def describe_grounder(grounder: TextGrounder | None) -> dict[str, Any] | None:
    """What the summary says of a grounder."""
    if grounder is None:
        return None
    return {"text_encoder": grounder.settings.text_encoder, "tuned_on": grounder.settings.tuned_on}


def name_misses(rows: Sequence[dict]) -> None:
    """Say on the console which cases were missed, and why."""
    missed = [row for row in rows if row["status"] == "missed"]
    if not missed:
        return
    names = [f"{row['name']} ({row['target']}: {row['reason']})" for row in missed[:MISSES_NAMED]]
    more = f", and {len(missed) - len(names)} more in cases.csv" if len(missed) > len(names) else ""
    logger.warning("%d of %d were missed: %s%s", len(missed), len(rows), "; ".join(names), more)


def check_cases(cases: Sequence[Case]) -> None:
    """Raise ValueError where there is no case, or one without an object."""
    if not cases:
        raise ValueError("cases is empty; there is nothing to evaluate")
    for case in cases:
        if not case.mask.any():
            raise ValueError(f"case {case.name!r} has no object; a prompt needs one: leave such cases out")


def check_targets(cases: Sequence[Case]) -> None:
    """Raise ValueError where a target has a name that the summary uses itself."""
    taken = sorted({case.target for case in cases} & set(RESERVED_NAMES))
    if taken:
        raise ValueError(f"target {taken[0]!r} is a name of the summary itself: call the target something else")
