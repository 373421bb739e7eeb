r"""Write `evaluation.json` and the card of the bundled checkpoint and of its text grounder from what was measured.

    ccsam-hf data simulate --output sim --count 300 --seed 2000000000
    python training/evaluate.py --output results/study --model "first lesson=ccsam:runs/tiny/best" \
        --model ccsam-tiny=ccsam:src/ccsam_hf/assets/ccsam-tiny --grounder src/ccsam_hf/assets/ccsam-tiny/grounder \
        --data simulated=folder:sim --data BUSI=busi:BUSI --seen simulated --unseen BUSI --prompt box point text
    python training/evaluate_grounder.py --output results/grounder.json
    ccsam-hf evaluate --model src/ccsam_hf/assets/ccsam-tiny --data sim --prompt clicks --output results/sim-clicks
    python training/write_cards.py --study results/study --grounder results/grounder.json \
        --compared-with "first lesson" --corrections ccsam-tiny simulated results/sim-clicks/summary.json

    python training/evaluate.py --output results/small --model ccsam-small=ccsam:src/ccsam_hf/assets/ccsam-small \
        --data BUSI=busi:BUSI --data CAMUS=camus:CAMUS --data HC18=folder:HC18 --data CCA=folder:CCA \
        --data DDTI=ddti:DDTI --data NERVE=folder:NERVE --split test --splits training/splits/real.json \
        --seen BUSI CAMUS HC18 CCA --unseen DDTI NERVE --prompt box point
    python training/write_cards.py --small-study results/small

`--corrections` comes once for each model and data set, `--compared-with` where the study has another model. Without
`--study` the cards alone are written anew, from the `evaluation.json` that lie there. Figures of other weights than
the bundled ones are refused.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ccsam_hf import DEFAULT, TINY, TINY_GROUNDER
from ccsam_hf.evaluation.record import grounding_record, study_record, write_record
from ccsam_hf.evaluation.rows import CLICK_COLUMNS
from ccsam_hf.files import write_text
from ccsam_hf.hub.cards import checkpoint_card, grounder_card

SMALL_GROUNDER = Path(DEFAULT) / "grounder"


def tiny_card(folder: str | Path = TINY) -> str:
    """The card of ccsam-tiny."""
    tags = ("simulated-data",)
    return checkpoint_card(folder, template="ccsam-tiny.md", name="ccsam-tiny", license="apache-2.0", tags=tags)


def small_card(folder: str | Path = DEFAULT) -> str:
    """The card of ccsam-small, whose weights carry the terms of CAMUS."""
    return checkpoint_card(
        folder, template="ccsam-small.md", name="ccsam-small", license="cc-by-nc-sa-4.0", tags=("real-data",)
    )


def tiny_grounder_card(folder: str | Path = TINY_GROUNDER) -> str:
    """The card of its grounder."""
    return grounder_card(
        folder, template="ccsam-tiny-grounder.md", name="ccsam-tiny-grounder", tags=("simulated-data",)
    )


def small_grounder_card(folder: str | Path) -> str:
    """The card of the grounder of ccsam-small, whose weights carry the terms of CAMUS."""
    return grounder_card(
        folder,
        template="ccsam-small-grounder.md",
        name="ccsam-small-grounder",
        license="cc-by-nc-sa-4.0",
        tags=("real-data",),
    )


def corrections_in(model: str, data: str, path: str | Path) -> dict[str, Any]:
    """Dice by number of clicks in the summary.json of `ccsam-hf evaluate --prompt clicks`, by the study's names."""
    summary = json.loads(Path(path).read_text(encoding="utf-8"))
    if summary.get("prompt") != "clicks":
        raise ValueError(
            f"{path} is of the prompt {summary.get('prompt')!r}; expected ccsam-hf evaluate --prompt clicks"
        )
    entry, identity = summary["all"], summary["identity"]
    dice = [round(entry[column]["mean"], 1) for column in CLICK_COLUMNS]
    hashes = {"weights": identity["models"][0]["sha256"], "cases": identity["data"][0]["sha256"]}
    return {"model": model, "data": data, "n": entry["n"], "dice": dice} | hashes


def write_card(folder: str | Path, text: str) -> None:
    """Write README.md, whole or not at all."""
    write_text(Path(folder) / "README.md", text)


def main(texts: Sequence[str] | None = None, tiny: str | Path = TINY, grounder: str | Path = TINY_GROUNDER) -> None:
    """Write the files into the two folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, help="output of training/evaluate.py")
    parser.add_argument("--grounder", type=Path, help="output of training/evaluate_grounder.py")
    parser.add_argument("--compared-with", metavar="MODEL", help="another model of the study")
    parser.add_argument("--corrections", nargs=3, action="append", default=[], metavar=("MODEL", "DATA", "FILE"))
    parser.add_argument("--small-study", type=Path, help="output of training/evaluate.py for ccsam-small")
    parser.add_argument(
        "--small-grounder", type=Path, help="output of training/evaluate_grounder.py for that of ccsam-small"
    )
    arguments = parser.parse_args(texts)
    if (arguments.study is None) != (arguments.grounder is None):
        parser.error("--study and --grounder belong together")
    if arguments.study is not None:
        corrections = [corrections_in(*each) for each in arguments.corrections]
        records = {
            tiny: study_record(arguments.study, tiny, arguments.compared_with, corrections),
            grounder: grounding_record(arguments.grounder, grounder, arguments.study, tiny),
        }
        for folder, record in records.items():
            write_record(folder, record)
    cards = {tiny: tiny_card(tiny), grounder: tiny_grounder_card(grounder)}
    if arguments.small_study is not None:
        write_record(DEFAULT, study_record(arguments.small_study, DEFAULT))
    if arguments.small_grounder is not None:
        write_record(SMALL_GROUNDER, grounding_record(arguments.small_grounder, SMALL_GROUNDER))
    if tiny == TINY:
        cards[DEFAULT] = small_card(DEFAULT)
        cards[SMALL_GROUNDER] = small_grounder_card(SMALL_GROUNDER)
    for folder, text in cards.items():
        write_card(folder, text)


if __name__ == "__main__":
    main()
