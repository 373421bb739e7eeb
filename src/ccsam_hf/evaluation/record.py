"""A study, and a grounder's scores -> `evaluation.json` beside the weights that they measured (`study_record`).

The file is small enough to lie in a checkpoint's folder; the card of the checkpoint takes its figures from it alone.
It names the weights by their hashes, so that figures of other weights are refused and never shown.
"""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_text
from ..grounding import TextGrounder
from ..identity import hash_file
from .metrics import SHAPES
from .rows import CLICK_COLUMNS, NOC_COLUMNS
from .segmenters import CCSamSegmenter, about_module
from .statistics import BASELINES

NAME = "evaluation.json"
SCORES = ("dice", "hd_samus", "hd_rows")
ENTRY = ("model", "data", "prompt", "target")  # tells the entries of a summary apart
DIGITS = 6  # that are kept of a number: more than any table shows
PATH_IN_COMMAND = re.compile(r"(^|[=:])/\S*?([^/\s]+)/?$")


def study_record(
    study: str | Path,
    folder: str | Path,
    compared_with: str | None = None,
    corrections: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """What a study measured of one CC-SAM checkpoint.

    Args:
        study: output folder of training/evaluate.py, with the checkpoint among its models.
        folder: of the checkpoint.
        compared_with: another model of the study; the record then holds how the checkpoint differs from it.
        corrections: Dice by number of clicks, of models and data sets of the study: `{"model", "data", "n", "dice":
            [percent, ...], "weights", "cases"}` each, the last two being the hashes of both.

    Returns:
        "weights", file name -> SHA-256; "state_sha256" of names and values; "protocol", "command", "versions"; "data",
        its hash and targets among it; "results", one entry for each data set and prompt, and for each target where
        there are several: n, how many of them were found, and for "dice" (percent), "hd_samus" and "hd_rows" (pixels
        of 256x256) mean and ci95, and the same of the blind baseline, mean and max of parts and reach, and of the
        prompt "clicks" what the clicks gained; "compared", "corrections" where there are any.

    Raises:
        FileNotFoundError: a file of the study is missing.
        ValueError: the study measured other weights, lacks the model to compare with, or contradicts a correction.
    """
    about, entries = read_study(study, "study.json"), read_study(study, "summary.json")
    state = CCSamSegmenter.load(folder).about["sha256"]
    model = name_of(state, about, folder)
    record = {
        "weights": file_hashes(folder),
        "state_sha256": state,
        **conditions(about),
        "data": [data | {"targets": targets_of(entries, data["name"])} for data in about["data"]],
        "results": results_of(entries, model),
    }
    if compared_with is not None:
        record["compared"] = compared(read_study(study, "comparisons.json"), model, compared_with)
    if corrections:
        record["corrections"] = [
            {"model": model_role(each["model"], model), **check_correction(each, about)} for each in corrections
        ]
    return record


def grounding_record(
    scores: str | Path, folder: str | Path, study: str | Path | None = None, model: str | Path | None = None
) -> dict[str, Any]:
    """What was measured of one text grounder.

    Args:
        scores: JSON file of training/evaluate_grounder.py.
        folder: of the grounder.
        study: output folder of training/evaluate.py with this grounder, for the way from the text to the mask.
        model: folder of the CC-SAM that the study gave the boxes to; needed with a study.

    Returns:
        "weights" and "state_sha256" as in `study_record`; "scenes", "seed", "versions"; "results", an entry of
        `ccsam_hf.evaluation.grounding.summarize_grounding` for each form of the text and target, "form" and "target"
        among it; "average_precision" by form; where real sets were measured "real", the entries of
        `ccsam_hf.evaluation.grounding.summarize_pairs`, "real_split", the part of the sets, and "largest_difference"
        of a score alone and among others; "masks", protocol, command, versions, data and results of the study.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: other weights were measured.
    """
    content = json.loads(Path(scores).read_text(encoding="utf-8"))
    grounder = TextGrounder.from_pretrained(folder).model
    state = about_module(grounder, None)["sha256"]
    check_state(content.get("sha256"), state, scores, folder)
    forms = {name: entry for name, entry in content.items() if isinstance(entry, dict) and "all" in entry}
    record = {
        "weights": file_hashes(folder),
        "state_sha256": state,
        "scenes": content["scenes"],
        "seed": content["seed"],
        "versions": content["versions"],
        "average_precision": {form: rounded(entries["average_precision"]) for form, entries in forms.items()},
        "results": [
            {"form": form, "target": target} | {name: rounded(value) for name, value in entry.items()}
            for form, entries in forms.items()
            for target, entry in entries.items()
            if target != "average_precision"
        ],
    }
    if "real" in content:
        real = content["real"]
        record["real"] = [{name: rounded_all(value) for name, value in pair.items()} for pair in real["pairs"]]
        record |= {"real_split": real["split"], "largest_difference": rounded(real["largest_difference"])}
    if study is not None:
        about, entries = read_study(study, "study.json"), read_study(study, "summary.json")
        check_state((about["grounder"] or {}).get("sha256"), state, study, folder)
        name = name_of(CCSamSegmenter.load(model).about["sha256"], about, model)
        found = [entry for entry in results_of(entries, name) if entry["prompt"] == "text"]
        record["masks"] = {"model": name, **conditions(about), "data": about["data"], "results": found}
    return record


def write_record(folder: str | Path, record: dict[str, Any]) -> None:
    """Write `evaluation.json`, an entry of a list on a line of its own."""
    parts = []
    for name, value in record.items():
        text = json.dumps(value, allow_nan=False)
        if isinstance(value, list) and value:
            text = "[\n  " + ",\n  ".join(json.dumps(each, allow_nan=False) for each in value) + "\n ]"
        parts.append(f" {json.dumps(name)}: {text}")
    write_text(Path(folder) / NAME, "{\n" + ",\n".join(parts) + "\n}\n")


def read_record(folder: str | Path) -> dict[str, Any] | None:
    """The content of `evaluation.json`; None where the folder has none.

    Raises:
        ValueError: it is a record of other weights than those in the folder.
    """
    path = Path(folder) / NAME
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    if record.get("weights") != file_hashes(folder):
        raise ValueError(
            f"{path} is not of the weights beside it; expected the hashes of {', '.join(file_hashes(folder))}: "
            "evaluate these weights, or remove the file"
        )
    return record


def file_hashes(folder: str | Path) -> dict[str, str]:
    """File name -> SHA-256 of each file of weights in a folder; FileNotFoundError where there is none."""
    paths = sorted(Path(folder).glob("*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"{folder} has no *.safetensors; expected the folder of a checkpoint")
    return {path.name: hash_file(path) for path in paths}


# --- parts of a study ------------------------------------------------------------------------------------------------


def read_study(study: str | Path, name: str) -> Any:
    """The content of one of its JSON files; FileNotFoundError where it is missing."""
    path = Path(study) / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; expected the output folder of a finished training/evaluate.py")
    return json.loads(path.read_text(encoding="utf-8"))


def name_of(state: str, about: dict[str, Any], folder: str | Path) -> str:
    """Name of the model of a study that has this state; ValueError where none has."""
    for model in about["models"]:
        if model.get("sha256") == state:
            return model["name"]
    found = {model["name"]: model.get("sha256", "")[:12] for model in about["models"]}
    raise ValueError(
        f"the study measured {found}, none of them the weights in {folder} ({state[:12]}): evaluate these weights"
    )


def check_state(measured: str | None, state: str, where: str | Path, folder: str | Path) -> None:
    """ValueError unless the grounder that was measured is that of the folder."""
    if measured != state:
        raise ValueError(
            f"{where} measured the grounder {str(measured)[:12]} and not the one in {folder} ({state[:12]}): evaluate "
            "these weights"
        )


def conditions(about: dict[str, Any]) -> dict[str, Any]:
    """Protocol, versions, and the command with absolute paths by their last part alone."""
    parts = [PATH_IN_COMMAND.sub(r"\1\2", part) for part in shlex.split(about["command"])]
    return {"protocol": about["protocol"], "command": shlex.join(parts), "versions": about["versions"]}


def targets_of(entries: Sequence[dict], data: str) -> list[str]:
    """Names of the targets in a data set."""
    return sorted({entry["target"] for entry in entries if entry["data"] == data} - {"all"})


def results_of(entries: Sequence[dict], model: str) -> list[dict[str, Any]]:
    """The entries of one model, each with its baseline; of a single target that of all stands for it."""
    by_key = {tuple(entry[name] for name in ENTRY): entry for entry in entries}
    found = []
    for (name, data, prompt, target), entry in by_key.items():
        if name != model or (target != "all" and len(targets_of(entries, data)) == 1):
            continue
        baseline = by_key[f"{BASELINES[prompt]} (blind)", data, prompt, target]
        found.append(
            {"data": data, "prompt": prompt, "target": target, "n": entry["n"]}
            | {"found": entry["n"] - entry["n_missed"], "failed": entry["n_failed"]}
            | pick_scores(entry)
            | pick_shapes(entry)
            | pick_clicks(entry)
            | {"baseline": {"name": BASELINES[prompt], **pick_scores(baseline)}}
        )
    return found


def pick_scores(entry: dict[str, Any]) -> dict[str, Any]:
    """Mean and interval of each score that is kept."""
    return {
        name: {"mean": rounded(entry[name]["mean"]), "ci95": [rounded(each) for each in entry[name]["ci95"]]}
        for name in SCORES
    }


def pick_shapes(entry: dict[str, Any]) -> dict[str, Any]:
    """Mean and largest value of parts, largest part's share and reach outside the box, where the study has them."""
    known = {name: entry[name] for name in SHAPES if name in entry}
    return {name: {each: rounded(value[each]) for each in ("mean", "max")} for name, value in known.items()}


def pick_clicks(entry: dict[str, Any]) -> dict[str, Any]:
    """Dice by number of clicks, and the number of clicks to a level, of the prompt "clicks"."""
    if CLICK_COLUMNS[0] not in entry:
        return {}
    found: dict[str, Any] = {"dice": [rounded(entry[column]["mean"]) for column in CLICK_COLUMNS]}
    for column in NOC_COLUMNS:
        value = entry[column]
        found[column] = {"mean": rounded(value["mean"]), "ci95": [rounded(each) for each in value["ci95"]]}
        found[column] |= {"n_not_reached": value["n_not_reached"]}
    return {"clicks": found}


def compared(comparisons: Sequence[dict], model: str, other: str) -> list[dict[str, Any]]:
    """Change in Dice from the other model to this one, for each data set and prompt; ValueError without any."""
    found = []
    for each in comparisons:
        if each["score"] != "dice" or {each["model_a"], each["model_b"]} != {model, other}:
            continue
        sign = 1 if each["model_b"] == model else -1
        found.append(
            {"with": other, "data": each["data"], "prompt": each["prompt"], "n": each["n"]}
            | {"difference": rounded(sign * each["difference"])}
            | {"ci95": sorted(rounded(sign * bound) for bound in each["ci95"])}
        )
    if not found:
        raise ValueError(f"the study does not compare {model!r} with {other!r}; expected both among its models")
    return found


def model_role(name: str, model: str) -> str:
    """Name of another model; "this" for the checkpoint itself."""
    return "this" if name == model else name


def check_correction(correction: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """Data, number of cases and Dice by clicks; ValueError where weights or cases are not those of the study."""
    for kind, name, hash_of in (("models", "model", "weights"), ("data", "data", "cases")):
        known = next((each["sha256"] for each in about[kind] if each["name"] == correction[name]), None)
        if known is None or known != correction[hash_of]:
            raise ValueError(
                f"the corrections are of {name} {correction[name]!r} with {hash_of} {correction[hash_of][:12]}, the "
                f"study has {str(known)[:12]} under that name: measure both with the same weights and data"
            )
    return {name: correction[name] for name in ("data", "n", "dice")}


def rounded_all(value: Any) -> Any:
    """A name as it is, a number or a list of numbers with the digits that are kept."""
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return value if isinstance(value, str) else rounded(value)


def rounded(value: float | None) -> float | None:
    """With the digits that are kept."""
    return value if value is None or isinstance(value, int) else float(f"{value:.{DIGITS}g}")
