"""Write the tables of the bundled default's results into README.md and docs/results.md, from its evaluation.json.

    python training/write_results.py

Each page holds the lines `<!-- results -->` and `<!-- /results -->`; what stands between them is replaced. The README
gets the Dice of each data set, docs/results.md also intervals, Hausdorff distances, parts and clicks.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from ccsam_hf import DEFAULT
from ccsam_hf.evaluation.record import read_record
from ccsam_hf.files import write_text

REPOSITORY = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)


def entries_of(record: dict[str, Any]) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """(data set, target) -> prompt -> entry; a set of one target has it in place of "all"."""
    targets = {data["name"]: data["targets"] for data in record["data"]}
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for entry in record["results"]:
        name = entry["data"]
        if entry["target"] == "all" and len(targets[name]) > 1:
            continue
        target = targets[name][0] if entry["target"] == "all" else entry["target"]
        found.setdefault((name, target), {})[entry["prompt"]] = entry
    return found


def short_table(record: dict[str, Any]) -> str:
    """Dice by box and by click of each target, the blind baseline beside them."""
    seen = {data["name"]: data["seen"] for data in record["data"]}
    lines = [
        "| test images | n | in training | box | ellipse in the box | click | disc at the click |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, target), prompts in entries_of(record).items():
        box, point = prompts["box"], prompts["point"]
        dice = [each["mean"] for entry in (box, point) for each in (entry["dice"], entry["baseline"]["dice"])]
        cells = [f"{target} ({name})", str(box["n"]), "other patients" if seen[name] else "never"]
        lines.append("| " + " | ".join([*cells, *(f"{value:.1f}" for value in dice)]) + " |")
    return "\n".join(lines)


def long_table(record: dict[str, Any]) -> str:
    """Dice and `hd_samus` with intervals for each target and prompt, the blind baseline beside them."""
    lines = [
        "| test images | prompt | n | Dice, % | blind | `hd_samus`, px | blind |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, target), prompts in entries_of(record).items():
        for prompt, entry in prompts.items():
            cells = [f"{target} ({name})", prompt, str(entry["n"])]
            for score in ("dice", "hd_samus"):
                low, high = entry[score]["ci95"]
                cells += [f"{entry[score]['mean']:.1f} [{low:.1f}, {high:.1f}]"]
                cells += [f"{entry['baseline'][score]['mean']:.1f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def replace_results(page: Path, text: str) -> None:
    """Put a text between the markers of a page.

    Raises:
        ValueError: the page has not exactly one pair of markers.
    """
    old = page.read_text(encoding="utf-8")
    new, count = MARKED.subn(lambda match: f"{match[1]}{text}\n{match[2]}", old)
    if count != 1:
        raise ValueError(f"{page.name} has {count} pairs of <!-- results --> and <!-- /results -->; expected one")
    write_text(page, new)


def main(folder: str | Path = DEFAULT, repository: Path = REPOSITORY) -> None:
    """Write both pages."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    record = read_record(folder)
    if record is None:
        raise FileNotFoundError(f"{folder} has no evaluation.json; write it with training/write_cards.py first")
    replace_results(repository / "README.md", short_table(record))
    replace_results(repository / "docs" / "results.md", long_table(record))


if __name__ == "__main__":
    main()
