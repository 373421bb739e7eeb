"""A checkpoint's folder -> its card, README.md on the Hub (`checkpoint_card`, `grounder_card`), and a Space's.

The words are in hub_cards/, Jinja templates that extend each other; the figures come from `evaluation.json` in the
folder (`ccsam_hf.evaluation.record`), the story of the weights from `training.json` or `conversion_report.json`. What
none of them knows, the card says that nobody recorded.
"""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData, SpaceCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from ..data.card import card_template, one_line
from ..data.sources import SOURCES
from ..evaluation.tables import NOTHING, with_interval
from ..grounding import SETTINGS_KEY
from ..loading import GROUNDER_FOLDER
from .card_check import check_card
from .card_facts import SIMULATED, Facts, read_facts
from .card_results import PROMPT_NAMES, box_results, mask_results

TAGS = ("ultrasound", "medical-imaging", "image-segmentation", "segment-anything", "ccsam")
GROUNDER_TAGS = ("ultrasound", "medical-imaging", "grounding-dino", "ccsam")
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


def space_card(sdk_version: str, models: Sequence[str] = ("ccsam-small",)) -> str:
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
        name: title; default: the folder's name.
        repo_id: where the folder is or will be on the Hub, for the code that loads it.
        license: identifier of the Hub; by default Apache-2.0 for what was trained from scratch on simulated images,
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


__all__ = ["checkpoint_card", "grounder_card", "space_card"]
