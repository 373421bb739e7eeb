"""A checkpoint's folder -> its card, README.md on the Hub (`checkpoint_card`, `grounder_card`), and a Space's.

The words are in hub_cards/, Jinja templates that extend each other; the figures come from `evaluation.json` in the
folder (`ccsam_hf.evaluation.record`), the story of the weights from `training.json` or `conversion_report.json`. What
none of them knows, the card says that nobody recorded.
"""

import json
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, SpaceCard, SpaceCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open
from yaml import YAMLError

from ..data.card import card_template, one_line
from ..data.sources import SOURCES
from ..data.splits import SEEN, UNSEEN
from ..evaluation.record import read_record
from ..evaluation.tables import NOTHING, with_interval
from ..grounding import SETTINGS_KEY
from ..loading import GROUNDER_FOLDER

TAGS = ("ultrasound", "medical-imaging", "image-segmentation", "segment-anything", "ccsam")
GROUNDER_TAGS = ("ultrasound", "medical-imaging", "grounding-dino", "ccsam")
SIMULATOR = "simulator"  # `data` of a run whose images are drawn
SIMULATED = "ccsam-hf-simulator"  # such images among the data sets of a card
PROMPT_NAMES = {
    "box": "tight box",
    "point": "middle click",
    "text": "text",
    "jittered-box": "jittered box",
    "random-point": "random click",
    "clicks": "ten clicks",
    "none": "no prompt",
}

# The Hub's identifiers of licences (hf.co/docs/hub/repositories-licenses), and those of its tasks that fit images.
LICENSES = frozenset(
    """apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
    lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib
    pddl lgpl-lr deepfloyd-if-license llama2 gemma unknown other""".split()
)
VISION_TASKS = frozenset(
    """depth-estimation image-classification object-detection image-segmentation image-to-image video-classification
    zero-shot-image-classification mask-generation zero-shot-object-detection image-feature-extraction
    keypoint-detection""".split()
)
COLORS = frozenset("red yellow green blue indigo purple pink gray".split())
SDKS = frozenset("gradio streamlit docker static".split())
LICENSE_NAME = re.compile(r"[a-z0-9.-]+")
LONGEST_SHORT_DESCRIPTION = 60
LINE = 119


def checkpoint_card(
    folder: str | Path,
    *,
    template: str = "model_card.md",
    evaluation: dict[str, Any] | None = None,
    run: dict[str, Any] | None = None,
    **options: Any,
) -> str:
    """Write the card of a CC-SAM checkpoint.

    Args:
        folder: with config.json and weights; training.json, conversion_report.json, evaluation.json and a grounder are
            used where they lie there.
        template: in hub_cards/, model_card.md or one that extends it.
        evaluation: in place of evaluation.json, its "results" at least.
        run: settings of the run that left the weights, in place of those in training.json.
        **options: see `card`.

    Returns:
        Markdown with YAML front matter that `check_card` accepts.

    Raises:
        FileNotFoundError: config.json, weights or the template are missing.
        ValueError: evaluation.json is of other weights, or a value is none that the Hub accepts.
    """
    facts = read_facts(folder, "checkpoint", evaluation, run)
    results = mask_results(facts.evaluation) if facts.evaluation else []
    options = {"pipeline_tag": "mask-generation"} | options | {"tags": [*TAGS, *options.get("tags", ())]}
    return card(facts, results, template, has_grounder=(Path(folder) / GROUNDER_FOLDER).is_dir(), **options)


def grounder_card(folder: str | Path, *, template: str = "grounder_card.md", **options: Any) -> str:
    """Write the card of a text grounder; arguments, result and errors as those of `checkpoint_card`.

    Args:
        folder: with config.json and weights, and what else `checkpoint_card` uses.
        template: in hub_cards/, grounder_card.md or one that extends it.
        **options: see `card`.
    """
    facts = read_facts(folder, "grounder")
    results = box_results(facts.evaluation) if facts.evaluation else []
    options = {"pipeline_tag": "zero-shot-object-detection"} | options
    options["tags"] = [*GROUNDER_TAGS, *options.get("tags", ())]
    return card(facts, results, template, settings=facts.config.get(SETTINGS_KEY, {}), **options)


def space_card(sdk_version: str, models: Sequence[str] = ("ccsam-tiny",)) -> str:
    """Write the card of the Space in demo/.

    Args:
        sdk_version: of gradio.
        models: Hub ids of the checkpoints that it runs; the bundled one has none before somebody publishes it.

    Returns:
        Markdown with YAML front matter that `check_card` accepts for "space".
    """
    data = SpaceCardData(
        title="CC-SAM: ultrasound segmentation",
        emoji="🩻",
        colorFrom="blue",
        colorTo="gray",
        sdk="gradio",
        sdk_version=sdk_version,
        python_version="3.11",
        app_file="app.py",
        license="apache-2.0",
        models=list(models),
        tags=["ultrasound", "medical-imaging", "image-segmentation", "segment-anything"],
        short_description="Segment ultrasound images by text, box or clicks",
    )
    text = render("space_card.md", data, title=data.title)
    check_card(text, "space")
    return text


# --- what a folder knows ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What the files of a folder say.

    Attributes:
        name: of the folder.
        config: config.json.
        parameters, megabytes: how many numbers the weights are, and the size of their files.
        record: training.json, empty where there is none.
        run: settings of the run that left the weights; None where they are not recorded.
        start: name of the setting that says what the run started from.
        conversion: conversion_report.json; None where there is none.
        evaluation: evaluation.json; None where there is none.
    """

    name: str
    config: dict[str, Any]
    parameters: int
    megabytes: float
    record: dict[str, Any]
    run: dict[str, Any] | None
    start: str
    conversion: dict[str, Any] | None
    evaluation: dict[str, Any] | None

    @property
    def is_simulated(self) -> bool:
        """Whether the images of the run were drawn by the simulator."""
        return self.run is not None and self.run.get("data") in (SIMULATOR, None)

    @property
    def is_from_scratch(self) -> bool:
        """Whether the run is known to have started from no checkpoint."""
        return self.run is not None and self.run.get(self.start, "not recorded") is None

    @property
    def sources(self) -> list[str]:
        """The public data sets that the run is known to have used."""
        if self.run is None or self.is_simulated:
            return []
        named = [*self.run.get("datasets", ()), *self.run.get("sources", ())]
        chosen = [name for name in named if name in SOURCES]
        return chosen or of_layout(self.run.get("layout", ""))

    @property
    def measured_on(self) -> list[str]:
        """The public data sets that the evaluation is known to have used."""
        evaluation = self.evaluation or {}
        data = [*evaluation.get("data", ()), *evaluation.get("masks", {}).get("data", ())]
        return [name for each in data for name in of_layout(each["layout"])]


def read_facts(
    folder: str | Path, start: str, evaluation: dict[str, Any] | None = None, run: dict[str, Any] | None = None
) -> Facts:
    """What the files of a folder say, and what is given in their place; errors as in `checkpoint_card`."""
    folder = Path(folder)
    config = read_json(folder / "config.json")
    if config is None:
        raise FileNotFoundError(f"{folder} has no config.json; expected the folder of a checkpoint")
    evaluation = evaluation or read_record(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no *.safetensors; expected the folder of a checkpoint")
    record = read_json(folder / "training.json") or {}
    return Facts(
        name=folder.resolve().name,
        config=config,
        parameters=sum(map(parameters_in, files)),
        megabytes=sum(file.stat().st_size for file in files) / 1e6,
        record=record,
        run=run or record.get("run"),
        start=start,
        conversion=read_json(folder / "conversion_report.json"),
        evaluation=evaluation,
    )


def read_json(path: Path) -> Any:
    """The content of a file; None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def parameters_in(path: Path) -> int:
    """How many numbers a file of weights holds."""
    with safe_open(path, "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())


def of_layout(layout: str) -> list[str]:
    """The public data sets that a layout of `ccsam_hf.data.readers` belongs to; none for one of anybody's data."""
    if layout == "us30k":
        return [*SEEN, *UNSEEN]
    return [name for name in SOURCES if name.lower() == layout.removesuffix("-sequence")]


# --- from facts to text ----------------------------------------------------------------------------------------------


def card(
    facts: Facts,
    results: list[EvalResult],
    template: str,
    *,
    pipeline_tag: str,
    tags: Sequence[str],
    name: str | None = None,
    repo_id: str | None = None,
    license: str | None = None,
    license_name: str | None = None,
    base_model: str | None = None,
    library_name: str = "transformers",
    **fields: Any,
) -> str:
    """Write a card.

    Args:
        facts: of the folder.
        results: for the model index.
        template: in hub_cards/.
        pipeline_tag, tags, library_name: see the Hub's model cards.
        name: title; the folder's name if left out.
        repo_id: where the folder is or will be on the Hub, for the code that loads it.
        license: identifier of the Hub; if left out, Apache-2.0 for what was trained from scratch on simulated images,
            else "other", or "unknown" where nothing is recorded.
        license_name: of the licence "other".
        base_model: Hub id of the model that the weights come from; left out of the card where it is not known.
        **fields: further ones of the template.

    Returns, Raises: see `checkpoint_card`.
    """
    name = " ".join((name or facts.name).split())
    if license is None:
        license, license_name = license_of(facts)
    data = ModelCardData(
        license=license,
        license_name=license_name,
        library_name=library_name,
        pipeline_tag=pipeline_tag,
        base_model=base_model,
        tags=list(dict.fromkeys(tags)),
        datasets=([SIMULATED] if facts.is_simulated else facts.sources) or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=name if results else None,  # of the model index alone
        eval_results=results or None,
    )
    names = dict.fromkeys([*facts.sources, *facts.measured_on])
    text = render(
        template,
        data,
        facts=facts,
        name=name,
        place=repo_id or "path/to/this/folder",
        carries_code=repo_id is not None or "auto_map" in facts.config,  # which a push adds where it is missing
        sources={each: SOURCES[each] for each in facts.sources},
        citations=list(dict.fromkeys(entry for each in names for entry in SOURCES[each].bibtex)),
        **fields,
    )
    check_card(text)
    return text


def license_of(facts: Facts) -> tuple[str, str | None]:
    """Identifier and name of the licence that follows from where the weights come from."""
    if facts.is_simulated and facts.is_from_scratch:
        return "apache-2.0", None
    if facts.run is not None:
        return "other", "that-of-the-base-model-and-the-data"
    return ("other", "that-of-the-published-weights") if facts.conversion else ("unknown", None)


def render(template: str, data: ModelCardData | SpaceCardData, **fields: Any) -> str:
    """A template of hub_cards/ with its front matter and fields; one that lacks a field is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # comes with torch

    path = card_template(template)
    environment = Environment(
        loader=FileSystemLoader(path.parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "line": one_line,
        "interval": with_interval,
        "percent": percent,
        "versions": versions_text,
        "command": command_lines,
        "by_target": by_target,
        "below_blind": below_blind,
    }
    environment.globals |= {"prompt_names": PROMPT_NAMES}
    text = environment.get_template(path.name).render(card_data=data.to_yaml(), **fields)
    front_matter = REGEX_YAML_BLOCK.match(text)[0]
    return front_matter + "\n" + filled(text.removeprefix(front_matter))


def filled(text: str) -> str:
    """Markdown with its paragraphs and list items on full lines; code, tables and headings stay as they are."""
    parts = re.split(r"^(```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)  # what has an odd place is code
    for place in range(0, len(parts), 2):
        blocks = [block.strip("\n") for block in re.split(r"\n\s*\n", parts[place]) if block.strip()]
        parts[place] = "\n\n".join(block if block[0] in "|#" else fill(block) for block in blocks)
    return "\n\n".join(part for part in parts if part) + "\n"


def fill(block: str) -> str:
    """A paragraph, or list, on full lines."""
    return "\n".join(
        textwrap.fill(
            " ".join(item.split()),
            LINE,
            subsequent_indent="  " if item.startswith("- ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for item in re.split(r"\n(?=- )", block)
    )


def percent(share: float | None) -> str:
    """A share in [0, 1] as "85.9"; a dash where there is none."""
    return NOTHING if share is None else f"{100 * share:.1f}"


def versions_text(versions: dict[str, str]) -> str:
    """What decides the figures, as "`torch` 2.14.1, `transformers` 5.24.0"."""
    return ", ".join(
        f"`{name}` {versions[name]}" for name in ("ccsam-hf", "torch", "transformers") if name in versions
    )


def command_lines(command: str) -> str:
    """A command of training/ as it is typed in a clone, with a line for each option where it is long."""
    text = f"python {command}"
    return text if len(text) <= LINE else text.replace(" --", " \\\n    --")


def by_target(evaluation: dict[str, Any]) -> dict[str, dict[str, dict[str, dict]]]:
    """Data set -> target -> prompt -> entry, of the data sets with several targets."""
    found: dict = {}
    for entry in evaluation["results"]:
        if entry["target"] != "all":
            found.setdefault(entry["data"], {}).setdefault(entry["target"], {})[entry["prompt"]] = entry
    return found


def below_blind(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """Entries whose Dice is not above that of the baseline that does not see the image."""
    return [each for each in evaluation["results"] if each["dice"]["mean"] <= each["baseline"]["dice"]["mean"]]


# --- the model index -------------------------------------------------------------------------------------------------


def mask_results(evaluation: dict[str, Any]) -> list[EvalResult]:
    """Dice and Hausdorff distance of each data set and prompt, all targets together."""
    return [
        EvalResult(
            task_type="mask-generation",
            task_name="Promptable segmentation",
            dataset_type=slug(entry["data"]),
            dataset_name=entry["data"],
            dataset_args={"cases": entry["n"]},
            metric_type=metric,
            metric_name=f"{label}, prompt: {PROMPT_NAMES[entry['prompt']]}",
            metric_value=round(entry[score]["mean"], 2),
            metric_args={"ci95": "{:.2f} to {:.2f}".format(*entry[score]["ci95"])},
        )
        for entry in evaluation["results"]
        if entry["target"] == "all"
        for score, metric, label in (
            ("dice", "dice", "Dice (%)"),
            ("hd_samus", "hausdorff-distance", "Hausdorff distance, Manhattan (px of 256x256)"),
        )
    ]


def box_results(evaluation: dict[str, Any]) -> list[EvalResult]:
    """Recall, overlap and average precision by form of the text, all targets together."""
    measured = []
    for entry in evaluation["results"]:
        if entry["target"] == "all":
            form, precision = entry["form"], evaluation["average_precision"][entry["form"]]
            measured += [
                ("recall", f"Recall at IoU 0.5 (%), text: {form}", 100 * entry["recall"]),
                ("mean_iou", f"Mean IoU (%), text: {form}", 100 * entry["mean_iou"]),
                ("mean_average_precision", f"Average precision at IoU 0.5 to 0.95 (%), text: {form}", 100 * precision),
            ]
    return [
        EvalResult(
            task_type="zero-shot-object-detection",
            task_name="Box of a structure that a text names",
            dataset_type=SIMULATED,
            dataset_name="simulated scenes with several structures",
            dataset_args={"scenes": evaluation["scenes"], "seed": evaluation["seed"]},
            metric_type=metric,
            metric_name=name,
            metric_value=round(value, 2),
        )
        for metric, name, value in measured
    ]


def slug(name: str) -> str:
    """A name in small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


# --- the check -------------------------------------------------------------------------------------------------------


def check_card(text: str, repo_type: str = "model") -> ModelCardData | SpaceCardData:
    """Validate a card as far as that goes without the Hub, whose own check needs the network.

    Args:
        text: Markdown with YAML front matter.
        repo_type: "model" or "space".

    Returns:
        The front matter as huggingface_hub reads it, the model index as `eval_results`.

    Raises:
        ValueError: huggingface_hub cannot read it, or it lacks what the Hub shows or names what the Hub does not know;
            the message names everything that is wrong.
    """
    if repo_type not in CARDS:
        raise ValueError(f"repo_type is {repo_type!r}; accepted are {', '.join(CARDS)}")
    if not REGEX_YAML_BLOCK.match(text):
        raise ValueError("the card does not begin with front matter; expected YAML between two lines of ---")
    card_class, problems_of = CARDS[repo_type]
    try:
        data = card_class(text).data
    except (YAMLError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"huggingface_hub cannot read the front matter: {error}") from error
    problems = [*license_problems(data), *problems_of(data)]
    if re.search(r"\{\{ | \}\}|\{%|%\}", text):
        problems.append("a template's signs are left in the text; expected them to be filled in")
    if problems:
        raise ValueError(f"the card is not one for the Hub: {'; '.join(problems)}")
    return data


def license_problems(data: ModelCardData | SpaceCardData) -> list[str]:
    """What is wrong with the licence."""
    if data.license not in LICENSES:
        return [
            f"license is {data.license!r}; expected an identifier of hf.co/docs/hub/repositories-licenses or 'other'"
        ]
    name = data.get("license_name")
    if data.license == "other" and isinstance(data, ModelCardData) and not LICENSE_NAME.fullmatch(str(name or "")):
        return [f"license 'other' came with license_name {name!r}; expected small letters, digits, dots and dashes"]
    return []


def model_problems(data: ModelCardData) -> list[str]:
    """What is wrong with a model's front matter."""
    problems = []
    if data.pipeline_tag not in VISION_TASKS:
        problems.append(f"pipeline_tag is {data.pipeline_tag!r}; expected one of {', '.join(sorted(VISION_TASKS))}")
    if not data.library_name or not data.tags:
        problems.append(f"library_name is {data.library_name!r} and tags are {data.tags}; expected both")
    bases = [data.base_model] if isinstance(data.base_model, str) else data.base_model or []
    for name in [*bases, *(data.datasets or [])]:
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            problems.append(str(error))
    for result in data.eval_results or []:
        value = result.metric_value
        if result.task_type not in VISION_TASKS:
            problems.append(f"the model index has the task {result.task_type!r}, which the Hub does not know")
        if not isinstance(value, int | float) or not math.isfinite(value):
            problems.append(f"{result.metric_name!r} is {value!r} in the model index; expected a number")
    return problems


def space_problems(data: SpaceCardData) -> list[str]:
    """What is wrong with a Space's front matter."""
    problems = [
        f"{name} is missing" for name in ("title", "emoji", "app_file", "sdk_version") if not getattr(data, name, None)
    ]
    for name, accepted in (("sdk", SDKS), ("colorFrom", COLORS), ("colorTo", COLORS)):
        if (value := data.get(name)) not in accepted:
            problems.append(f"{name} is {value!r}; expected one of {', '.join(sorted(accepted))}")
    description = data.get("short_description", "")
    if len(description) > LONGEST_SHORT_DESCRIPTION:
        problems.append(f"short_description has {len(description)} characters; at most {LONGEST_SHORT_DESCRIPTION}")
    return problems


CARDS = {"model": (ModelCard, model_problems), "space": (SpaceCard, space_problems)}


__all__ = ["check_card", "checkpoint_card", "grounder_card", "space_card"]
