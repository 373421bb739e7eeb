"""The files of a study -> tables/, figures/ and report.html, one page that holds all it shows (`write_report`).

The page asks for nothing from outside, which its Content-Security-Policy also forbids: it can be mailed, archived and
opened from a disk. All text that came from the study is escaped.
"""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..files import write_text
from .figures import (
    Example,
    calibration_plot,
    case_dots,
    error_by_uncertainty_plot,
    qualitative_grid,
    referral_plot,
    save,
    seen_unseen_bars,
    spider,
    spider_keys,
)
from .statistics import blind_rows, summaries
from .tables import (
    BLIND,
    MARK,
    NOTHING,
    PUBLISHED,
    Table,
    blocks,
    by_model,
    clicks_table,
    comparisons_table,
    cost_table,
    headline_table,
    make_columns,
    misses_table,
    overview_table,
    prompt_text,
    reliability_table,
    results_table,
    table1,
    table2,
    table3,
    try_calibration,
    try_error_by_uncertainty,
    try_referral,
)

FILES = ("study.json", "cases.parquet", "summary.json", "comparisons.json")
TEMPLATE = "report.html.jinja"
MEDIA_TYPES = {"png": "image/png", "svg": "image/svg+xml"}
HASH_SHOWN = 16
MEASURED = (
    'Protocol "samus": the model sees the image at its own input size; truth and prediction are compared at 256x256. '
    "The truth is brought there by nearest neighbor. Of CC-SAM the mask counts that a user gets: smooth logits, one "
    "connected object, within the box; of other models their logits, resized bilinearly.",
    "Prompts come from the true mask at 256x256: box, the tight box; jittered box, each side moved by up to 5 %; "
    "point, the middle pixel of the mask counted row by row, as SAMUS clicks; random point, any pixel of the object; "
    "text, the box that a detector finds for the name of the target; no prompt, the image alone. Clicks: the first "
    "where the object is deepest, each of nine more where the largest connected error of the mask before is deepest.",
    "Dice, IoU and boundary IoU are in percent, distances in pixels of 256x256. HD is the Hausdorff distance in the "
    "Manhattan metric between the positions of all pixels of both masks. HD of rows is what SAMUS's code prints as "
    "Hausdorff distance: it reads each row of a mask as a point, so that a mask moved up or down keeps distance 0. "
    "HD95 and ASSD are Euclidean, between outlines.",
    "A case that failed, an object that was lost at 256x256, or a text that found nothing counts as a miss: Dice 0, "
    "IoU 0, and the largest value of each distance. No case is left out of a mean.",
    "Several draws of a prompt are averaged to one value a case. Intervals are 95 % bootstrap intervals over "
    "patients, over images where patients are not known.",
    "The blind baseline sees the prompt and not the image: the ellipse inscribed in a box, a disc around a click with "
    "the median area of the evaluated objects, or, without a prompt, the pixels that belong to at least half of the "
    "evaluated objects. What a model adds is the difference to it.",
)
LIMITS = (
    "All prompts but texts come from the true mask and are better than those of a person. The tight box tells most "
    "of the answer: compare with the blind baseline, not with 0.",
    "The blind baselines for points and for no prompt know the size or the place of the evaluated objects, which no "
    "model does: they are a little too good.",
    "Intervals tell of the choice of cases, not of another training of the same model or of another annotator.",
    f"Numbers with {MARK} come from the paper, on cases that are not published: a difference to a measured number is "
    "no test.",
    "Simulated images show that the code does what it should, not how a model does on patients.",
    "For research. Nothing here says that a model is fit for diagnosis.",
)


@dataclass(frozen=True)
class Picture:
    """A figure within the page."""

    uri: str
    alt: str
    caption: str
    is_wide: bool


@dataclass(frozen=True)
class Listing:
    """Text with its line breaks."""

    text: str


@dataclass
class Section:
    """A part of the page: paragraphs (str), `Table`, `Picture`, `Listing` and sections below it."""

    title: str
    parts: list[Any] = field(default_factory=list)


class Files:
    """The folders tables/ and figures/ of a study.

    Args:
        folder: of the study.
    """

    def __init__(self, folder: Path):
        self.tables, self.figures = folder / "tables", folder / "figures"
        for each in (self.tables, self.figures):
            each.mkdir(exist_ok=True)

    def table(self, name: str, table: Table) -> Table:
        """Write a table as Markdown and CSV, and hand it on."""
        write_text(self.tables / f"{name}.md", table.to_markdown())
        write_text(self.tables / f"{name}.csv", table.to_csv())
        return table

    def picture(
        self, name: str, figure: Any, alt: str, caption: str, kind: str = "svg", is_wide: bool = False
    ) -> Picture:
        """Save a figure, and make of it what the page shows."""
        paths = save(figure, self.figures / name)
        (shown,) = [path for path in paths if path.suffix == f".{kind}"]
        content = base64.b64encode(shown.read_bytes()).decode()
        return Picture(f"data:{MEDIA_TYPES[kind]};base64,{content}", alt, caption, is_wide)


@dataclass(frozen=True)
class Study:
    """What a study folder holds, see `ccsam_hf.evaluation.harness`."""

    about: dict[str, Any]
    rows: list[dict]
    entries: list[dict]
    comparisons: list[dict]

    @classmethod
    def read(cls, folder: Path) -> "Study":
        """Read the four files; FileNotFoundError names the first that is missing."""
        for name in FILES:
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder} has no {name}; expected a finished study with {', '.join(FILES)}: evaluate it first"
                )
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise ImportError('a report needs pyarrow: pip install "ccsam-hf[evaluation]"') from error
        about, entries, comparisons = (
            json.loads((folder / name).read_text(encoding="utf-8")) for name in FILES if name.endswith(".json")
        )
        return cls(about, parquet.read_table(folder / "cases.parquet").to_pylist(), entries, comparisons)

    def names(self, seen: bool) -> list[str]:
        """The data sets that are said to be like those of the training, or unlike."""
        return [data["name"] for data in self.about["data"] if data.get("seen") is seen]

    @property
    def models(self) -> list[str]:
        """Their names, in the order of the study."""
        return [model["name"] for model in self.about["models"]]

    def overall(self, prompt: str) -> list[dict]:
        """The means over all targets with one kind of prompt."""
        return [entry for entry in self.entries if (entry["target"], entry["prompt"]) == ("all", prompt)]

    def of(self, data: str, prompt: str) -> list[dict]:
        """The rows of one data set and prompt."""
        return [row for row in self.rows if (row["data"], row["prompt"]) == (data, prompt)]


def write_report(
    study_dir: str | Path,
    examples: Sequence[Example],
    costs: dict[str, Any] | None = None,
    ablation: dict[str, Any] | None = None,
) -> Path:
    """Write tables/, figures/ and report.html into the folder of a study, each file in one piece.

    Args:
        study_dir: folder of `ccsam_hf.evaluation.harness.evaluate_study`.
        examples: cases that are shown; none leaves the pictures out.
        costs: what `training/benchmark_cost.py` writes: "models", name -> columns of
            `ccsam_hf.evaluation.tables.COST_LABELS`, and "device", "command", "notes". Models that have the name of a
            model of the study stand on the wheel with their Dice.
        ablation: the table1.json of `training/ablation.py`, beside the paper's Table 1.

    Returns:
        Path of report.html.

    Raises:
        FileNotFoundError: a file of the study is missing.
        ImportError: matplotlib or pyarrow is not installed.
    """
    folder = Path(study_dir)
    study = Study.read(folder)
    files = Files(folder)
    sections = [
        evaluated(study, files),
        Section("Results", [files.table("headline", headline_table(study.entries))]),
        details(study, files),
        misses(study, files),
        seen_and_unseen(study, files),
        reliability(study, files),
        pictures(examples, files),
        cost(study, costs, files),
        published(study, ablation, files),
        Section("How it was measured", list(MEASURED)),
        Section("Limits", list(LIMITS)),
    ]
    path = folder / "report.html"
    write_text(path, rendered(study, sections))
    return path


def evaluated(study: Study, files: Files) -> Section:
    """Models, data, prompts, versions and the command."""
    about = study.about
    models = Table(
        "Models",
        make_columns("Name", "Checkpoint", "Parameters", f"SHA-256 of the weights, first {HASH_SHOWN}"),
        [
            [each["name"], each.get("checkpoint") or NOTHING, thousands(each.get("parameters")), first_of_hash(each)]
            for each in about["models"]
        ],
    )
    said = {True: "seen", False: "unseen", None: NOTHING}
    data = Table(
        "Data",
        make_columns("Name", "Layout", "Cases", "Training", f"SHA-256 of the cases, first {HASH_SHOWN}"),
        [
            [each["name"], each.get("layout") or NOTHING, str(each["cases"])]
            + [said[each.get("seen")], first_of_hash(each)]
            for each in about["data"]
        ],
        ("Seen: the models were trained on data of this kind, as whoever made the study says. A case is one object.",),
    )
    splits = sorted({row["split"] or "no split" for row in study.rows})
    parts = [files.table("models", models), files.table("data", data)]
    parts.append(
        f"Prompts: {', '.join(map(prompt_text, about['prompts']))}. Draws of prompts by chance: "
        f"{about.get('draws', 1)}. Splits of the cases: {', '.join(splits)}. Protocol: {about['protocol']}."
    )
    grounder = about.get("grounder")
    if grounder:
        parts.append(
            f"Texts were found by {grounder.get('checkpoint') or 'a grounder without a name'}, SHA-256 of its weights "
            f"{first_of_hash(grounder)}…"
        )
    if about.get("command"):
        parts.append(Listing(about["command"]))
    parts.append("Versions: " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()) + ".")
    return Section("What was evaluated", parts)


def details(study: Study, files: Files) -> Section:
    """A section for each data set and prompt: table, cases, paired tests."""
    parts: list[Any] = ["The lines that end in (blind) are baselines that see the prompt and not the image."]
    for number, (data, prompt) in enumerate(blocks(study.rows), 1):
        name, rows = f"{number:02d}-{slug(data)}-{prompt}", study.of(data, prompt)
        title = f"{data}, {prompt_text(prompt)}"
        means = [
            f"{entry['model']} {entry['dice']['mean']:.1f}" for entry in study.overall(prompt) if entry["data"] == data
        ]
        dots = files.picture(
            f"cases-{name}",
            case_dots([*rows, *blind_rows(rows)], study.models),
            f"Dice of each case of {title}, a line of dots for each model. Mean Dice: {', '.join(means)}.",
            f"Dice of every case of {title}, or of every draw of its prompt. Missed and failed ones are at 0.",
        )
        tests = comparisons_table(study.comparisons, data, prompt)
        section = Section(title, [files.table(f"results-{name}", results_table(study.entries, data, prompt)), dots])
        if prompt == "clicks":
            section.parts.append(files.table(f"clicks-{name}", clicks_table(study.entries, data)))
        if tests.rows:
            section.parts.append(files.table(f"tests-{name}", tests))
        parts.append(section)
    parts.append(Section("All scores", [files.table("all-scores", overview_table(study.entries))]))
    return Section("By data set and prompt", parts)


def misses(study: Study, files: Files) -> Section:
    """What gave no mask."""
    table = misses_table(study.rows)
    if not table.rows:
        return Section("Missed and failed cases", [f"None: all {len(study.rows)} rows have a mask that was scored."])
    files.table("missed-and-failed", table)
    counts = {status: sum(row["status"] == status for row in study.rows) for status in ("missed", "failed")}
    text = (
        f"{counts['missed']} of {len(study.rows)} rows were missed, {counts['failed']} failed. They count in every "
        "mean, with the scores of a miss. A row is one draw of a prompt for one case by one model."
    )
    return Section("Missed and failed cases", [text, table])


def seen_and_unseen(study: Study, files: Files) -> Section:
    """Mean Dice on data like the training's, and on other data."""
    seen, unseen = study.names(True), study.names(False)
    if not seen or not unseen:
        text = "The study does not name both data like those of the training and data unlike them."
        return Section("Seen and unseen data", [text])
    parts: list[Any] = []
    for prompt in study.about["prompts"]:
        mine = [each for each in study.overall(prompt) if each["data"] in seen + unseen]
        if not mine:
            continue
        said = "; ".join(f"{each['model']} on {each['data']} {each['dice']['mean']:.1f}" for each in mine)
        parts.append(
            files.picture(
                f"seen-unseen-{prompt}",
                seen_unseen_bars(study.entries, seen, unseen, prompt),
                f"Bars of the mean Dice by model on seen and unseen data, {prompt_text(prompt)}: {said}.",
                f"Mean Dice on seen and unseen data, {prompt_text(prompt)}.",
            )
        )
    return Section("Seen and unseen data", parts)


def reliability(study: Study, files: Files) -> Section:
    """Calibration, error against uncertainty, referral."""
    table = reliability_table(study.rows)
    parts: list[Any] = [files.table("reliability", table)]
    shown = study.about["prompts"][0]
    parts.append(f"The figures are for the prompt {prompt_text(shown)}; the table has the others too.")
    groups = by_model(study.rows)
    for number, data in enumerate(dict.fromkeys(row["data"] for row in study.rows), 1):
        mine = {model: rows for (name, prompt, model), rows in groups.items() if (name, prompt) == (data, shown)}
        curves = {
            "calibration": {model: try_calibration(rows) for model, rows in mine.items()},
            "error-by-uncertainty": {model: try_error_by_uncertainty(rows) for model, rows in mine.items()},
            "referral": {
                model: try_referral(rows, "uncertainty") or try_referral(rows, "iou_score")
                for model, rows in mine.items()
            },
        }
        section = Section(data)
        for name, of_model in curves.items():
            known = {model: curve for model, curve in of_model.items() if curve}
            if known:
                draw, caption, alt = RELIABILITY_FIGURES[name]
                alts = "; ".join(f"{model}: {alt(curve)}" for model, curve in known.items())
                stem = f"{name}-{number:02d}-{slug(data)}"
                section.parts.append(files.picture(stem, draw(known, study.models), f"{caption} {alts}.", caption))
        if section.parts:
            parts.append(section)
    return Section("Uncertainty", parts)


RELIABILITY_FIGURES = {  # name -> what draws it, its caption, and what its alternative text says of a model
    "calibration": (
        calibration_plot,
        "Calibration: how often a pixel is object where the model gives it a probability. Below the dotted line the "
        "probabilities are too high, above it too low.",
        lambda curve: f"calibration error {100 * curve['ece']:.1f} %",
    ),
    "error-by-uncertainty": (
        error_by_uncertainty_plot,
        "Share of wrong pixels by their uncertainty. A useful uncertainty rises to the right.",
        lambda curve: (
            "wrong from the lowest to the highest bin "
            + ", ".join(NOTHING if share is None else f"{100 * share:.0f} %" for share in curve["wrong"])
        ),
    ),
    "referral": (
        referral_plot,
        "Referral: mean Dice of the cases that a model keeps when it sends its most doubtful ones to a person.",
        lambda curve: (
            f"from {curve['dice'][0]:.1f} to {curve['dice'][-1]:.1f} with half of the cases sent away, "
            f"best order {curve['oracle'][-1]:.1f}"
        ),
    ),
}


def pictures(examples: Sequence[Example], files: Files) -> Section:
    """Cases with the outlines of all models."""
    if not examples:
        return Section("Pictures", ["No examples were given."])
    groups: dict[tuple, list[Example]] = {}
    for example in examples:
        groups.setdefault(tuple(example.predictions), []).append(example)
    parts = []
    for number, (models, mine) in enumerate(groups.items(), 1):
        said = "; ".join(
            f"{example.title}: " + ", ".join(f"{model} {dice:.1f}" for model, (_, dice) in example.predictions.items())
            for example in mine
        )
        parts.append(
            files.picture(
                f"examples-{number:02d}",
                qualitative_grid(mine),
                f"Ultrasound images with the outlines of {', '.join(models)}. Dice: {said}.",
                "Blue and dashed: the truth. Orange: the model. White: the prompt. The number is the Dice, %.",
                "png",
                is_wide=True,
            )
        )
    return Section("Pictures", parts)


def cost(study: Study, costs: dict[str, Any] | None, files: Files) -> Section:
    """What each model costs, and what it gives for that."""
    if not costs:
        return Section("Cost", ["Costs were not measured with this study."])
    notes = [f"Device: {costs['device']}."] if costs.get("device") else []
    parts: list[Any] = [files.table("cost", cost_table(costs["models"], [*notes, *costs.get("notes", ())]))]
    if costs.get("command"):
        parts.append(Listing(costs["command"]))
    shown = study.about["prompts"][0]
    with_scores = {model: {**each, **mean_dice(study, model, shown)} for model, each in costs["models"].items()}
    in_study = {model: with_scores[model] for model in study.models if model in with_scores}
    drawn = in_study or with_scores
    if len(spider_keys(drawn)) >= 3:
        caption = (
            f"Outside is better. Dice ({prompt_text(shown)}) runs from 0 in the middle to 100; the other axes are "
            "ratios to the best model: ten times worse is half way in, a hundred times worse is the middle."
        )
        left_out = [model for model in with_scores if model not in drawn]
        if left_out:
            caption += f" Without {', '.join(left_out)}, which the study does not evaluate under that name."
        alt = "Wheel of scores and costs of each model; the numbers also stand in the tables."
        parts.append(files.picture("spider", spider(drawn, study.models), alt, caption))
    return Section("Cost", parts)


def mean_dice(study: Study, model: str, prompt: str) -> dict[str, float | None]:
    """Mean Dice over the data sets that are not said to be unseen, and over those that are; None without any."""
    unseen = study.names(False)
    found: dict[str, list[float]] = {"dice": [], "unseen_dice": []}
    for entry in study.overall(prompt):
        if entry["model"] == model:
            found["unseen_dice" if entry["data"] in unseen else "dice"].append(entry["dice"]["mean"])
    return {name: sum(values) / len(values) if values else None for name, values in found.items()}


def published(study: Study, ablation: dict[str, Any] | None, files: Files) -> Section:
    """The paper's three tables, with what was measured here where it is of the same data."""
    entries, datasets = paper_entries(study)
    paper = PUBLISHED["source"]
    return Section(
        "Beside the paper",
        [
            f"Numbers with {MARK} were published in “{paper['paper']}”, {paper['authors']}, arXiv {paper['arxiv']}. "
            "They were not measured here.",
            *PUBLISHED["protocol"],
            files.table("paper-table1", table1(ablation and ablation["results"])),
            files.table("paper-table2", table2(entries, datasets)),
            files.table("paper-table3", table3(entries, datasets)),
        ],
    )


def paper_entries(study: Study) -> tuple[list[dict], dict[str, str]]:
    """Means for the paper's tables, and which data are one of the paper's data sets.

    A data set of a study may hold several of the paper's, as US30K does: each gets a name of its own. A case is of one
    of them where its reader says so (`Case.release`), whatever its folder is called.
    """
    known = {about["dataset"] for about in PUBLISHED["columns"].values()}
    releases = [row.get("release") for row in study.rows]
    together: dict[str, set] = {}
    for row, release in zip(study.rows, releases, strict=True):
        together.setdefault(row["data"], set()).add(release)
    renamed, datasets = [], {}
    for row, release in zip(study.rows, releases, strict=True):
        name = row["data"]
        if release in known:
            name = name if len(together[name]) == 1 else f"{name}, {release}"
            datasets[name] = release
        renamed.append({**row, "data": name})
    return summaries(renamed, ("dice", "hd_rows")), datasets


def warnings(study: Study) -> list[str]:
    """What a reader must not miss."""
    found = []
    for status in ("failed", "missed"):
        count = sum(row["status"] == status for row in study.rows)
        if count:
            found.append(f"{count} of {len(study.rows)} rows {status}. They are in every mean as misses.")
    for data, prompt in blocks(study.rows):
        means = {each["model"]: each["dice"]["mean"] for each in study.overall(prompt) if each["data"] == data}
        blind = next((mean for model, mean in means.items() if model.endswith(BLIND)), 0.0)
        beaten = [f"{model} {mean:.1f}" for model, mean in means.items() if mean <= blind and model in study.models]
        if beaten:
            found.append(
                f"On {data}, {prompt_text(prompt)}, the blind baseline has a mean Dice of {blind:.1f}; not better: "
                f"{', '.join(beaten)}."
            )
    return found


def rendered(study: Study, sections: Sequence[Section]) -> str:
    """The page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["zip"] = partial(zip, strict=True)
    return environment.get_template(TEMPLATE).render(
        models=study.models,
        data=[each["name"] for each in study.about["data"]],
        cases=sum(each["cases"] for each in study.about["data"]),
        warnings=warnings(study),
        sections=sections,
        mark=MARK,
        blind=BLIND,
        slug=slug,
    )


def first_of_hash(about: dict[str, Any]) -> str:
    """The beginning of a hash; the whole of it stands in study.json."""
    return (about.get("sha256") or NOTHING)[:HASH_SHOWN]


def thousands(number: int | None) -> str:
    """A number with its thousands apart."""
    return NOTHING if number is None else f"{number:,}"


def slug(text: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40]
