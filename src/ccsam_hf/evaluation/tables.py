"""A study's means, counts and tests, and the numbers of the paper -> tables (`Table`), as Markdown and as CSV.

What was published carries a dagger and stands in `published.json`; nothing of it was measured here. A column of the
paper holds measured numbers of that very data set alone: whatever else was measured has columns of its own.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from .reliability import REFERRAL_SIGNS, calibration, error_by_uncertainty, referral
from .rows import CLICK_COLUMNS, NOC_COLUMNS, NOC_LEVELS
from .statistics import BASELINES

PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
MARK = PUBLISHED["mark"]
BLIND = "(blind)"  # ends the name of a baseline
NOTHING = "–"
NUMBER_STARTS = "0123456789+-<" + NOTHING

SCORE_LABELS = {
    "dice": "Dice, %",
    "iou": "IoU, %",
    "sensitivity": "Sensitivity, %",
    "specificity": "Specificity, %",
    "boundary_iou": "Boundary IoU, %",
    "hd_rows": "HD of rows, px",
    "hd_samus": "HD, px",
    "hd_euclidean": "HD (Euclidean), px",
    "hd95": "HD95, px",
    "assd": "ASSD, px",
}
SHOWN_SCORES = ("dice", "iou", "hd_rows", "hd_samus")
COST_LABELS = {  # column of a cost -> heading, unit, digits behind the point
    "image_size": ("Input, px", 1, 0),
    "parameters": ("Parameters, M", 1e6, 1),
    "trainable_parameters": ("of them learn, M", 1e6, 1),
    "gflops": ("GFLOPs", 1, 1),
    "peak_mib": ("Peak memory, MiB", 1, 0),
    "encode_seconds": ("Encoding an image, s", 1, 3),
    "decode_seconds": ("Decoding a prompt, s", 1, 4),
    "images_per_second": ("Images a second", 1, 2),
}

MEASURED_HD = (
    "HD is hd_rows in measured lines, the number that SAMUS's code prints as Hausdorff distance; it is the only "
    "measured column that may stand beside the published HD."
)
PUBLISHED_MARK = f"{MARK} published in arXiv {PUBLISHED['source']['arxiv']}, Table {{}}; not measured here."


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        title: what it shows.
        columns: (group, heading) of each; neighbors of one group share a heading above them, "" is no group.
        rows: one text for each column.
        notes: sentences that belong below it.
    """

    title: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    @property
    def headings(self) -> list[str]:
        """One text for each column, with its group."""
        return [f"{group}: {name}" if group else name for group, name in self.columns]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Each group with the number of columns below it."""
        return [(group, len(list(mine))) for group, mine in groupby(self.columns, key=itemgetter(0))]

    @property
    def are_numbers(self) -> list[bool]:
        """For each column whether its cells are numbers, which stand at the right."""
        return [
            all(not cell or cell[0] in NUMBER_STARTS for cell in column) for column in zip(*self.rows, strict=True)
        ]

    def to_markdown(self) -> str:
        """Title, table and notes; what has a meaning in Markdown tables or in HTML loses it."""
        lines = [self.headings, ["---"] * len(self.columns), *self.rows]
        table = "".join("| " + " | ".join(map(in_markdown, line)) + " |\n" for line in lines)
        notes = "".join(f"\n{in_markdown(note)}\n" for note in self.notes)
        return f"**{in_markdown(self.title)}**\n\n{table}{notes}"

    def to_csv(self) -> str:
        """One line of headings and the rows."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.headings, *self.rows])
        return text.getvalue()


def headline_table(entries: Sequence[dict]) -> Table:
    """Mean Dice over all targets: a line for each data set and prompt, a column for each model, the last one blind.

    Args:
        entries: of `ccsam_hf.evaluation.statistics.summaries`.
    """
    lines: dict[tuple[str, str], dict[str, str]] = {block: {} for block in blocks(entries)}
    for entry in entries:
        if entry["target"] == "all":
            name = BLIND if entry["model"].endswith(BLIND) else entry["model"]
            line = lines[entry["data"], entry["prompt"]]
            line |= {"n": str(entry["n"]), name: with_interval(entry["dice"])}
    models = [model for model in dict.fromkeys(entry["model"] for entry in entries) if not model.endswith(BLIND)]
    heads = make_columns("Data", "Prompt", "Cases", *models, "Blind baseline")
    rows = [
        [data, prompt_text(prompt), *(line.get(name, NOTHING) for name in ("n", *models, BLIND))]
        for (data, prompt), line in lines.items()
    ]
    notes = (
        "The blind baseline sees the prompt and not the image: an ellipse in the box, a disc around the point, or, "
        "without a prompt, the usual place of the target. A dash: the model does not read that prompt.",
    )
    return Table("Mean Dice, %, with 95 % intervals, all targets together", heads, rows, notes)


def overview_table(entries: Sequence[dict]) -> Table:
    """All scores of every model, data set and prompt in one line, over all targets.

    Args:
        entries: of `ccsam_hf.evaluation.statistics.summaries`.
    """
    scores = [score for score in SCORE_LABELS if all(score in entry for entry in entries)]
    kept = [score for score in scores if score not in ("dice", "sensitivity", "specificity", "hd_euclidean")]
    heads = ["Data", "Prompt", "Model", "Cases", "Dice, % [95 %]", *(SCORE_LABELS[score] for score in kept)]
    heads += ["Parts", "Largest reach"]
    rows = [
        [entry["data"], prompt_text(entry["prompt"]), entry["model"], str(entry["n"]), with_interval(entry["dice"])]
        + [f"{entry[score]['mean']:.1f}" for score in kept]
        + [f"{entry['parts']['mean']:.2f}" if "parts" in entry else NOTHING]
        + [f"{100 * entry['reach_outside_box']['max']:.0f} %" if "reach_outside_box" in entry else NOTHING]
        + [str(entry["n_missed"]), str(entry["n_failed"])]
        for entry in by_block(entries)
        if entry["target"] == "all"
    ]
    notes = (
        "Parts: connected parts of a mask before specks are removed, on average. Largest reach: how far a mask "
        "reaches beyond the box of its prompt at most, as a share of the box's side.",
    )
    return Table("All scores, all targets together", make_columns(*heads, "Missed", "Failed"), rows, notes)


def results_table(entries: Sequence[dict], data: str, prompt: str) -> Table:
    """Each target and model of one data set and prompt in a line, the blind baseline behind the models.

    Args:
        entries: of `ccsam_hf.evaluation.statistics.summaries`.
        data, prompt: as in the entries.

    Raises:
        ValueError: no entry has this data and prompt.
    """
    mine = [entry for entry in entries if (entry["data"], entry["prompt"]) == (data, prompt)]
    if not mine:
        kinds = sorted({f"{entry['data']} with {entry['prompt']}" for entry in entries})
        raise ValueError(f"no entry is of {data!r} with prompt {prompt!r}; there are {', '.join(kinds) or 'none'}")
    targets = list(dict.fromkeys(entry["target"] for entry in mine))
    if len(targets) == 2:  # one target and "all": the same numbers twice
        targets = targets[:1]
    rows = [
        ["all targets" if target == "all" else target, entry["model"], str(entry["n"])]
        + [with_interval(entry[score]) for score in SHOWN_SCORES]
        + [str(entry["n_missed"]), str(entry["n_failed"])]
        for target in targets
        for entry in mine
        if entry["target"] == target
    ]
    heads = ["Target", "Model", "Cases", *(f"{SCORE_LABELS[score]} [95 %]" for score in SHOWN_SCORES)]
    return Table(f"{data}, {prompt_text(prompt)}", make_columns(*heads, "Missed", "Failed"), rows)


def clicks_table(entries: Sequence[dict], data: str) -> Table:
    """Dice by number of clicks and NoC of one data set, a line for each target and model.

    Args:
        entries: of `ccsam_hf.evaluation.statistics.summaries`; those without clicks are left out.
        data: as in the entries.
    """
    mine = [entry for entry in entries if entry["data"] == data and CLICK_COLUMNS[0] in entry]
    columns = [*make_columns("Target", "Model", "Cases")]
    columns += [("Dice, %, after clicks", column.removeprefix("dice_")) for column in CLICK_COLUMNS]
    measures = {"": "clicks to an IoU of", "_dice": "clicks to a Dice of"}
    columns += [
        (group, f"{level} % [95 %], not reached") for ending, group in measures.items() for level in NOC_LEVELS
    ]
    rows = [
        ["all targets" if entry["target"] == "all" else entry["target"], entry["model"], str(entry["n"])]
        + [f"{entry[column]['mean']:.1f}" for column in CLICK_COLUMNS]
        + [f"{with_interval(entry[column])}, {entry[column]['n_not_reached']}" for column in NOC_COLUMNS]
        for entry in mine
    ]
    notes = ("A case that does not get there within ten clicks counts as ten; the last number says how many do not.",)
    return Table(f"{data}, {prompt_text('clicks')}", columns, rows, notes)


def comparisons_table(comparisons: Sequence[dict], data: str, prompt: str) -> Table:
    """The paired tests of one data set and prompt, a line for each pair of models.

    Args:
        comparisons: of `ccsam_hf.evaluation.statistics.comparisons`.
        data, prompt: as in there.
    """
    pairs: dict[tuple[str, str], dict[str, dict]] = {}
    for each in comparisons:
        if (each["data"], each["prompt"]) == (data, prompt):
            pairs.setdefault((each["model_a"], each["model_b"]), {})[each["score"]] = each
    scores = list(dict.fromkeys(score for tests in pairs.values() for score in tests))
    names = ("B - A [95 %]", "B better", "effect", "p (Holm)")
    columns = [*make_columns("A", "B"), *((SCORE_LABELS[score], name) for score in scores for name in names)]
    rows = [[*pair, *(cell for score in scores for cell in test_cells(tests[score]))] for pair, tests in pairs.items()]
    counts = {(each["n"], each["n_groups"]) for tests in pairs.values() for each in tests.values()}
    notes = [
        'B - A is the mean difference over cases. For a distance less is better; "B better", the share of cases, and '
        "the effect, the rank-biserial correlation, already say so: positive means that B is better. p: Wilcoxon "
        "signed-rank test over patients, or images where patients are not known; adjusted by Holm's method within "
        "this table."
    ]
    notes += [f"Cases: {n}, of {n_groups} patients or images." for n, n_groups in sorted(counts)]
    return Table(f"Paired tests: {data}, {prompt_text(prompt)}", columns, rows, notes)


def test_cells(test: dict) -> list[str]:
    """The cells of one pair and score in `comparisons_table`."""
    low, high = test["ci95"]
    p = "< 0.001" if test["p_holm"] < 0.001 else f"{test['p_holm']:.3f}"
    return [
        f"{test['difference']:+z.1f} [{low:+z.1f}, {high:+z.1f}]",
        f"{100 * test['share_better']:.0f} %",
        f"{test['effect']:+z.2f}",
        p,
    ]


def misses_table(rows: Sequence[dict]) -> Table:
    """What was missed or failed, by its reason.

    Args:
        rows: of `ccsam_hf.evaluation.harness`.
    """
    found: dict[tuple, list[str]] = {}
    for row in rows:
        if row["status"] != "ok":
            kind = (row["model"], row["data"], prompt_text(row["prompt"]), row["status"], row["reason"] or "")
            found.setdefault(kind, []).append(row["name"])
    lines = [[*kind, str(len(names)), list_names(dict.fromkeys(names))] for kind, names in found.items()]
    heads = ("Model", "Data", "Prompt", "Status", "Reason", "Rows", "Images")
    return Table("Missed and failed", make_columns(*heads), lines)


def reliability_table(rows: Sequence[dict]) -> Table:
    """How well models estimate their own quality, one line per model, data set and prompt.

    Args:
        rows: of `ccsam_hf.evaluation.harness`.
    """
    lines = []
    for (data, prompt, model), mine in by_model(rows).items():
        line, known = [data, prompt_text(prompt), model], try_calibration(mine)
        for name in ("ece", "ece_inner", "mce"):
            line.append(NOTHING if not known or known[name] is None else f"{100 * known[name]:.1f}")
        for by in REFERRAL_SIGNS:
            known = try_referral(mine, by)
            for name, form, unit in (("spearman", "{:+z.2f}", 1), ("share_of_oracle", "{:z.0f} %", 100)):
                line.append(NOTHING if not known or known[name] is None else form.format(unit * known[name]))
        lines.append(line)
    columns = [
        *make_columns("Data", "Prompt", "Model"),
        *(("Calibration error, %", name) for name in ("all pixels", "inner bins", "largest bin")),
        *((group, name) for group in ("Uncertainty", "Own IoU estimate") for name in ("rank correlation", "gain")),
    ]
    notes = (
        "Calibration error: mean distance between the probability that a pixel is object and the share of such pixels "
        'that are. Most pixels are sure background; "inner bins" leaves out the first and the last of 15 bins and '
        "tells of the outline.",
        "Rank correlation: Spearman's, with Dice over cases; a useful uncertainty is negative there, a useful "
        "estimate of the IoU positive. Gain: what sending doubtful cases away adds to the mean Dice of the rest, as a "
        "share of what the best possible order adds; 0 % is a random order.",
    )
    return Table("Calibration and referral", columns, lines, notes)


def cost_table(costs: dict[str, dict], notes: Sequence[str] = ()) -> Table:
    """What models cost, as far as it was measured.

    Args:
        costs: model -> any columns of `COST_LABELS`; what is missing or None is not known.
        notes: on how it was measured.
    """
    shown = [name for name in COST_LABELS if any(cost.get(name) is not None for cost in costs.values())]
    rows = []
    for model, cost in costs.items():
        cells = [model]
        for name in shown:
            _, unit, digits = COST_LABELS[name]
            cells.append(NOTHING if cost.get(name) is None else f"{cost[name] / unit:,.{digits}f}")
        rows.append(cells)
    return Table("Cost", make_columns("Model", *(COST_LABELS[name][0] for name in shown)), rows, notes)


def table1(results: dict[str, Sequence[dict]] | None = None, data: str = "simulated") -> Table:
    """The paper's Table 1, the ablation, with what an ablation of our own measured in columns beside it.

    Args:
        results: "results" in the table1.json of `training/ablation.py`: row -> for each seed prompt -> target ->
            scores. Of the prompts of a row the first counts: the text or the click, not the box of the truth.
        data: name of what it was measured on.

    Raises:
        ValueError: a row is none of Table 1.
    """
    published, results = PUBLISHED["tables"]["1"], results or {}
    names = [line["name"] for line in published["rows"]]
    strange = sorted(results.keys() - set(names))
    if strange:
        raise ValueError(f"{strange[0]!r} is no row of Table 1: {', '.join(names)}")
    switches = {"resnet50": "ResNet50", "vaf": "VAF", "text": "Text prompt"}
    columns = [*make_columns(*switches.values()), *paper_columns(published)]
    by_row = {name: [next(iter(of_seed.items())) for of_seed in seeds] for name, seeds in results.items()}
    of_seeds = [targets for seeds in by_row.values() for _, targets in seeds]
    targets = list(of_seeds[0]) if of_seeds else []
    distance = "hd_rows" if all("hd_rows" in each for targets in of_seeds for each in targets.values()) else "hd_samus"
    columns += [(f"{data}: {each}", SCORE_LABELS[score]) for each in targets for score in ("dice", distance)]

    def measured(seeds: Sequence[tuple[str, dict]], prefix: str = "") -> list[str]:
        names = [(target, prefix + score) for target in targets for score in ("dice", distance)]
        return [over_seeds([scores[target][name] for _, scores in seeds]) for target, name in names]

    rows, blind = [], {}
    for line in published["rows"]:
        cells = ["✓" if line[switch] else "×" for switch in switches] + published_cells(published, line)
        seeds = by_row.get(line["name"], [])
        rows.append(cells + (measured(seeds) if seeds else [NOTHING] * 2 * len(targets)))
        if seeds and f"blind_{distance}" in seeds[0][1][targets[0]]:
            blind[seeds[0][0]] = seeds
    for prompt, seeds in blind.items():
        cells = [f"{BASELINES[prompt]} (blind), {prompt_text(prompt)}", "", ""]
        rows.append(cells + [NOTHING] * 2 * len(published["columns"]) + measured(seeds, "blind_"))
    notes = [PUBLISHED_MARK.format(1), *published["notes"]]
    if of_seeds:
        notes += [
            f"Measured columns: mean ± standard deviation over {max(map(len, by_row.values()))} seeds, on data of "
            "another kind than the paper's: compare the order of the rows, not the numbers.",
            HD_NOTES[distance],
        ]
    return Table("Table 1: ablation", columns, rows, notes)


HD_NOTES = {
    "hd_rows": MEASURED_HD,
    "hd_samus": "The measured HD is hd_samus, between the positions of all pixels: it is another quantity than the "
    "published HD.",
}


def table2(entries: Sequence[dict] = (), datasets: dict[str, str] | None = None) -> Table:
    """The paper's Table 2, task-specific methods, with the models of a study below; see `paper_table`."""
    return paper_table("2", entries, datasets)


def table3(entries: Sequence[dict] = (), datasets: dict[str, str] | None = None) -> Table:
    """The paper's Table 3, foundation models, with the models of a study below; see `paper_table`."""
    return paper_table("3", entries, datasets)


def paper_table(number: str, entries: Sequence[dict] = (), datasets: dict[str, str] | None = None) -> Table:
    """A comparison of the paper, with a line for each model and prompt of a study.

    Args:
        number: "2" or "3".
        entries: of `ccsam_hf.evaluation.statistics.summaries`, with dice and hd_rows.
        datasets: data of the entries -> the data set of the paper that it is: "TN3K", "BUSI" or "CAMUS". Data that
            are not in here never fill a column of the paper: they have columns of their own, for the paper's targets.

    Returns:
        Where several data are one column of the paper, a model has a line for each.
    """
    published, datasets = PUBLISHED["tables"][number], datasets or {}
    place = {
        (about["dataset"], about["target"]): name
        for name, about in PUBLISHED["columns"].items()
        if name in published["columns"]
    }
    targets = {target for _, target in place}
    columns, lines, counts = list(published["columns"]), {}, {}
    for entry in entries:
        if entry["target"] not in targets:
            continue
        own = f"{entry['data']}: {entry['target']}"
        column = place.get((datasets.get(entry["data"]), entry["target"]), own)
        if column not in columns:
            columns.append(column)
        of_model = lines.setdefault((entry["model"], entry["prompt"]), [])
        line = next((each for each in of_model if column not in each), None)
        if line is None:
            line = {}
            of_model.append(line)
        line[column] = [f"{entry['dice']['mean']:.2f}", f"{entry['hd_rows']['mean']:.2f}"]
        if column != own:
            counts.setdefault(column, {})[f"{entry['data']}, {entry['n']} cases"] = None
    heads = [("", "Method"), *((name, score) for name in columns for score in ("Dice", "HD"))]
    rows = [
        [f"{line['method']} {MARK}", *published_cells(published, line)]
        + [NOTHING] * 2 * (len(columns) - len(published["columns"]))
        for line in published["rows"]
    ]
    for (model, prompt), of_model in lines.items():
        for line in of_model:
            cells = [cell for name in columns for cell in line.get(name, [NOTHING, NOTHING])]
            rows.append([f"{model}, {prompt_text(prompt)}", *cells])
    notes = [PUBLISHED_MARK.format(number), *published["notes"]]
    if lines:
        notes.append(MEASURED_HD)
        notes += [f"Measured in column {name}: {'; '.join(each)}." for name, each in counts.items()]
        if not counts:
            notes.append("No data set of the study is one of the paper's: its columns hold published numbers alone.")
    return Table(f"Table {number}: {published['title'].lower()}", heads, rows, notes)


def paper_columns(published: dict[str, Any]) -> list[tuple[str, str]]:
    """Groups and headings of the columns of one of the paper's tables."""
    return [(name, score) for name in published["columns"] for score in ("Dice", "HD")]


def published_cells(published: dict[str, Any], line: dict[str, Any]) -> list[str]:
    """The numbers of a line of the paper, each with the mark."""
    return [f"{line['scores'][name][score]:.2f} {MARK}" for name in published["columns"] for score in ("dice", "hd")]


def by_model(rows: Sequence[dict]) -> dict[tuple[str, str, str], list[dict]]:
    """(data, prompt, model) -> its rows, data sets first, in the order in which they appear."""
    groups: dict[tuple[str, str, str], list[dict]] = {}
    for data, prompt in blocks(rows):
        for row in rows:
            if (row["data"], row["prompt"]) == (data, prompt):
                groups.setdefault((data, prompt, row["model"]), []).append(row)
    return groups


def blocks(entries: Iterable[dict]) -> list[tuple[str, str]]:
    """(data, prompt) of entries or rows, all prompts of a data set beside each other, in the order they appear."""
    found = list(dict.fromkeys((entry["data"], entry["prompt"]) for entry in entries))
    order = list(dict.fromkeys(data for data, _ in found))
    return sorted(found, key=lambda block: order.index(block[0]))


def by_block(entries: Sequence[dict]) -> list[dict]:
    """Entries in the order of `blocks`."""
    order = blocks(entries)
    return sorted(entries, key=lambda entry: order.index((entry["data"], entry["prompt"])))


def try_calibration(rows: Sequence[dict]) -> dict | None:
    """`calibration` of rows, None where none can be."""
    return calibration(rows) if any(row.get("calibration_count") is not None for row in rows) else None


def try_error_by_uncertainty(rows: Sequence[dict]) -> dict | None:
    """`error_by_uncertainty` of rows, None where none can be."""
    return error_by_uncertainty(rows) if any(row.get("uncertainty_count") is not None for row in rows) else None


def try_referral(rows: Sequence[dict], by: str) -> dict | None:
    """`referral` of rows, None where none can be."""
    return referral(rows, by) if any(row.get(by) is not None for row in rows) else None


def make_columns(*names: str) -> list[tuple[str, str]]:
    """Columns without a group."""
    return [("", name) for name in names]


def with_interval(score: dict[str, Any]) -> str:
    """A mean with its interval, as "89.0 [87.4, 90.6]"."""
    return f"{score['mean']:.1f} [{score['ci95'][0]:.1f}, {score['ci95'][1]:.1f}]"


def over_seeds(values: Sequence[float]) -> str:
    """Mean and standard deviation, as "84.12 ± 0.53"; one value alone has none."""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if values[1:] else "")


def prompt_text(prompt: str) -> str:
    """A kind of prompt in words."""
    return {"none": "no prompt", "random-point": "random point", "jittered-box": "jittered box"}.get(prompt, prompt)


def list_names(names: Iterable[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def in_markdown(text: str) -> str:
    """Text on one line that is neither the end of a cell nor HTML nor emphasis."""
    text = " ".join(text.split())
    for sign, harmless in {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\\": "\\\\", "|": "\\|", "`": "\\`"}.items():
        text = text.replace(sign, harmless)
    return text.replace("[", "\\[") if "](" in text else text
