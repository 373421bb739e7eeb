"""Counts, splits and sources of a built data set -> its card, README.md on the Hub (`dataset_card`).

The words are in hub_cards/dataset_card.md, a Jinja template; what is known of each source is in `sources.SOURCES`.
"""

import html
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from ..descriptions import TARGETS
from .cases import SPLITS
from .sources import SOURCES

SIZE_CATEGORIES = {
    "n<1K": 1_000,
    "1K<n<10K": 10_000,
    "10K<n<100K": 100_000,
    "100K<n<1M": 1_000_000,
    "1M<n<10M": 10_000_000,
}
LARGEST_SIZE_CATEGORY = "10M<n<100M"
PLACES = (Path(__file__).parents[1] / "hub_cards", Path(__file__).parents[3] / "hub_cards")  # wheel, repository


def dataset_card(
    counts: dict[str, dict[str, dict[str, int]]],
    *,
    rule: str,
    seed: int,
    notes: Sequence[str] = (),
    removed: dict[str, dict[str, str]] | None = None,
    configs: list[dict[str, Any]],
    own: Sequence[str] = (),
) -> str:
    """Write the card of a data set.

    Args:
        counts: data set -> split -> target -> number of rows.
        rule, seed: of `Splits`: how the rows were divided.
        notes: of the readers.
        removed: data set -> name of an image -> why it was left out; data sets that `counts` lacks are passed over.
        configs: at least one, for the front matter, as the Hub reads them; the card shows how to load the one that has
            `"default": True`, else the first.
        own: data sets that are no published ones, though their names may be those of one.

    Returns:
        Markdown with YAML front matter. Texts from outside are put on one line, and lose their meaning as HTML or as
        an end of a table's cell.

    Raises:
        ValueError: there is no row.
        FileNotFoundError: the template is missing, see `card_template`.
    """
    rows = table_rows(counts)
    total = sum(sum(of_split.values()) for _, _, of_split in rows)
    if not total:
        raise ValueError(
            f"counts is {counts}, without any row; expected data set -> split -> target -> number of rows"
        )
    organs = sorted({TARGETS[target].organ for _, target, _ in rows if target in TARGETS})
    names = ", ".join(counts)
    default = next((config for config in configs if config.get("default")), configs[0])
    warning = redistribution_warning(counts, own)
    sources = {name: SOURCES[name] for name in counts if name in SOURCES and name not in own}
    card = DatasetCard.from_template(
        DatasetCardData(
            pretty_name=f"Ultrasound segmentation: {names}",
            license="other",
            license_name="terms-of-each-source",
            task_categories=["image-segmentation"],
            size_categories=[size_category(total)],
            tags=["medical", "ultrasound", *organs],
            configs=configs,
        ),
        template_path=str(card_template("dataset_card.md")),
        title=one_line(f"Ultrasound segmentation: {names}"),
        total=total,
        warning=one_line(warning) if warning else None,
        config_names=[config["config_name"] for config in configs],
        default_config=default["config_name"],
        first_split=default["data_files"][0]["split"],
        splits=[split for split in SPLITS if any(split in of_dataset for of_dataset in counts.values())],
        rows=[(one_line(name), one_line(target), of_split) for name, target, of_split in rows],
        rule=one_line(rule),
        seed=seed,
        removed=[
            (one_line(name), one_line(reason), count)
            for name in counts
            for reason, count in Counter((removed or {}).get(name, {}).values()).most_common()
        ],
        notes=[one_line(note) for note in notes],
        sources=sources,
        own=[one_line(name) for name in counts if name not in sources],
        citations=dict.fromkeys(entry for source in sources.values() for entry in source.bibtex),
    )
    return card.content.rstrip() + "\n"


def redistribution_warning(datasets: Iterable[str], own: Sequence[str] = ()) -> str | None:
    """What to know before these data sets are passed on, a sentence; None where the terms of all of them allow it.

    Args:
        datasets: names; a name that `SOURCES` lacks is somebody's own data.
        own: further names of somebody's own data.
    """
    names = list(datasets)
    known = {name: SOURCES[name].redistribution for name in names if name in SOURCES and name not in own}
    reasons = []
    for standing, sentence in (
        ("not allowed", "the terms do not allow it for {}"),
        ("not stated", "no permission to do so is known for {}"),
    ):
        if of_standing := [name for name, its_standing in known.items() if its_standing == standing]:
            reasons.append(sentence.format(", ".join(of_standing)))
    if owned := [name for name in names if name not in known]:
        reasons.append(f"the licence of {', '.join(owned)} is for its owner to state")
    if not reasons:
        return None
    return f"Check the terms before you pass these images on, in public or to others: {'; '.join(reasons)}."


def card_template(name: str) -> Path:
    """The path of a template in hub_cards/.

    Args:
        name: file name, for instance "dataset_card.md".

    Raises:
        FileNotFoundError: neither the package nor the repository around it has the file.
    """
    for place in PLACES:
        if (place / name).is_file():
            return place / name
    raise FileNotFoundError(
        f"no card template {name!r} in {' or '.join(str(place) for place in PLACES)}; expected it in the installed "
        "package or at the top of the repository: install ccsam-hf again"
    )


def size_category(total: int) -> str:
    """The Hub's word for a number of rows."""
    return next((category for category, bound in SIZE_CATEGORIES.items() if total < bound), LARGEST_SIZE_CATEGORY)


def table_rows(counts: dict[str, dict[str, dict[str, int]]]) -> list[tuple[str, str, dict[str, int]]]:
    """Data set, target and the number of rows of each split, in the order of `counts`."""
    return [
        (name, target, {split: of_split.get(target, 0) for split, of_split in of_dataset.items()})
        for name, of_dataset in counts.items()
        for target in dict.fromkeys(target for of_split in of_dataset.values() for target in of_split)
    ]


def one_line(text: str) -> str:
    """A text that stays within a line, within a table's cell and outside HTML."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "&#124;")
