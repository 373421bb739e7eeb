"""Cases under one name (`DataSet`), read from a directory as an evaluation needs them (`read_data`)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..checks import check_choice
from ..data.cases import DEFAULT_TARGET, SPLITS, Case
from ..data.readers import read_cases
from ..data.splits import Splits
from ..identity import hash_cases
from .limit import sample_cases

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSet:
    """Cases under one name.

    Attributes:
        name: of the study's tables.
        cases: each with an object.
        layout: how they were read.
        seen: whether the models trained on such data, for the tables of seen and unseen; None where that is not said.
    """

    name: str
    cases: Sequence[Case]
    layout: str = ""
    seen: bool | None = None

    def __post_init__(self):
        if not self.cases:
            raise ValueError(f"data set {self.name!r} has no case; there is nothing to evaluate")

    @cached_property
    def about(self) -> dict[str, Any]:
        """What a study says of it; the hash is that of the cases with their files, masks and splits."""
        about = {"name": self.name, "layout": self.layout, "cases": len(self.cases), "seen": self.seen}
        return about | {"sha256": hash_cases(self.cases)}


def read_data(
    name: str,
    directory: str | Path,
    layout: str,
    split: str | None = None,
    seen: bool | None = None,
    limit: int | None = None,
    target: str | None = None,
    splits: Splits | None = None,
) -> tuple[DataSet, int]:
    """The cases with an object of a directory, and the number of those without.

    With a limit no more masks are read than it needs; the number is then of those that were read.

    Args:
        name, layout, seen: see `DataSet`.
        directory: of the cases.
        split: one of `SPLITS` for the cases that the release puts there, None for all.
        limit: at most so many cases, see `ccsam_hf.evaluation.limit`.
        target: the cases of this target alone; where the data name no target, what their objects are.
        splits: lists that take the place of the release's splits; they name every image.

    Raises:
        FileNotFoundError, ValueError: nothing to read there, no case in the split or of the target, none with an
            object, or an image that `splits` does not name.
    """
    if split is not None:
        check_choice("split", split, SPLITS)
    every = read_cases(directory, layout)
    every = every if splits is None else splits.apply(every)
    every = [case for case in every if split in (None, case.split)]
    if not every:
        raise ValueError(f"{directory} has no case in split {split!r}; its layout may know no splits: build it first")
    every = every if target is None else choose_target(every, target, directory)
    cases, without = sample_cases(every, len(every) if limit is None else limit)
    if not cases:
        raise ValueError(f"none of the {len(every)} cases in {directory} has an object: there is nothing to prompt")
    if without:
        logger.warning("%d of %d cases have no object and are not evaluated", without, without + len(cases))
    return DataSet(name, cases, layout, seen), without


def choose_target(cases: Sequence[Case], target: str, directory: str | Path) -> list[Case]:
    """The cases of a target, or all cases under its name where none of them has one; ValueError for another target."""
    targets = sorted({case.target for case in cases})
    if targets == [DEFAULT_TARGET]:
        return [replace(case, target=target) for case in cases]
    if target not in targets:
        raise ValueError(f"{directory} has no case of target {target!r}; it has {', '.join(targets)}")
    return [case for case in cases if case.target == target]


def check_texts(cases: Sequence[Case], directory: str | Path) -> None:
    """Raise ValueError where texts would ask for "object", which no grounder can find."""
    count = sum(case.target == DEFAULT_TARGET for case in cases)
    if count:
        raise ValueError(
            f"{count} of {len(cases)} objects in {directory} have no name, so a text would ask for "
            f"{DEFAULT_TARGET!r}: say what they are with --target (target=), or in cases.csv"
        )
