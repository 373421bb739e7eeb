"""What a folder knows about a checkpoint, for its card: config, run, evaluation, weights (`Facts`, `read_facts`)."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..data.sources import SOURCES
from ..data.splits import SEEN, UNSEEN
from ..evaluation.record import read_record

SIMULATOR = "simulator"  # `data` of a run whose images are drawn
SIMULATED = "ccsam-hf-simulator"  # such images among the data sets of a card


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
