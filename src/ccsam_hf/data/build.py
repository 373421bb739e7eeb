"""Cases of several data sets, split -> one checked data set as Parquet on disk, which `datasets` reads and streams.

    <output>/README.md                                   the card; its front matter names the configs
    <output>/splits.json                                 which image lies in which split, see `splits.Splits`
    <output>/build.json                                  sources, counts, notes of the readers, versions
    <output>/data/<data set>/<split>-00000-of-00003.parquet

A config is a data set, "all" of them, or a group of `splits.GROUPS` ("seen", "unseen"). Everything is written beside
the output, in `.<output>.partial`, shard by shard, and renamed at the end: the output is complete or absent. A build
that was interrupted goes on where it stopped if its files, splits and versions are the same, and else starts again.
"""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..files import check_new_folder, remove_folder, replace_file, write_json
from .archives import data_root, unpack
from .card import dataset_card
from .cases import SPLITS, Case
from .readers import LAYOUTS, list_cases
from .rows import BUILD_FILE, check_complete, features, import_datasets, rows_of
from .splits import GROUPS, Splits

ROWS_OF_SHARD = 2000
ROWS_OF_GROUP = 100  # what a reader decodes at once
FORMAT = 2  # of a row; another one makes an interrupted build start again
ALL = "all"
PLAN_FILE = "plan"  # what an interrupted build was to write


@dataclass(frozen=True)
class Download:
    """A data set as it was downloaded.

    Attributes:
        layout: a key of `readers.LAYOUTS`.
        path: its directory, or an archive of it.
    """

    layout: str
    path: Path

    @classmethod
    def parse(cls, text: str) -> "Download":
        """Read `layout=path`; ValueError for anything else."""
        layout, separator, path = text.partition("=")
        if not separator or layout not in LAYOUTS or not path:
            raise ValueError(f"source {text!r} is not LAYOUT=PATH; accepted layouts are {', '.join(LAYOUTS)}")
        return cls(layout, Path(path).expanduser())

    def __str__(self):
        return f"{self.layout}={self.path}"


def collect(sources: Sequence[Download], unpacked: Path | None = None) -> tuple[list[Case], list[str]]:
    """List the cases of several sources.

    Args:
        sources: any number; no two of one data set.
        unpacked: directory into which archives are unpacked; what lies there already is used again. Without it an
            archive is refused.

    Returns:
        The cases and the notes of the readers.

    Raises:
        FileNotFoundError, ValueError: see `list_cases`; also two sources that hold the same data set.
    """
    cases, notes, source_of = [], [], {}
    for source in sources:
        directory = opened(source, unpacked)
        found, found_notes = list_cases(directory, source.layout)
        for dataset in {case.dataset for case in found}:
            if source_of.setdefault(dataset, source) != source:
                raise ValueError(
                    f"{source_of[dataset]} and {source} both hold {dataset}; expected every data set once: leave one "
                    "out, or give their folders different names"
                )
        cases += found
        # Notes are published with the data; where these lay on this machine is not.
        notes += [f"{source.layout}: {note.replace(str(directory), source.path.name)}" for note in found_notes]
    return cases, notes


def opened(source: Download, unpacked: Path | None) -> Path:
    """The directory of a source, unpacked where it is an archive."""
    if not source.path.is_file():
        return source.path
    if unpacked is None:
        raise ValueError(f"{source.path} is a file; expected a directory here: unpack it, or build from it")
    key = hashlib.sha256(str(identity(source.path)).encode()).hexdigest()[:16]
    directory = unpacked / key / source.path.name.split(".")[0]  # its name may become that of the data set
    if not directory.exists():
        unpack(source.path, directory)
    return data_root(directory)


def build(
    sources: Sequence[Download],
    output: str | Path,
    splits_of: Callable[[Sequence[Case]], Splits],
    progress: bool = False,
) -> dict[str, Any]:
    """Read, check, split and write data sets.

    Args:
        sources: what was downloaded; archives (zip, tar) are unpacked beside the output and removed afterwards.
        output: directory that does not exist, or is empty.
        splits_of: cases -> `Splits`, for instance `splits.divide`.
        progress: whether a bar is shown on standard error.

    Returns:
        The content of build.json.

    Raises:
        FileExistsError: the output has content.
        FileNotFoundError, ValueError: a source cannot be read, no split names an image, or a case cannot be used: the
            headers of all are checked before the first is written, and damage behind a header stops the build there.
            What is complete stays in `.<output>.partial`.
    """
    output = Path(output).resolve()
    check_new_folder(output)
    partial = output.parent / f".{output.name}.partial"
    partial.mkdir(parents=True, exist_ok=True)
    cases, notes = collect(sources, partial / "sources")
    splits = splits_of(cases)
    cases = splits.apply(cases)
    check_all(cases, progress)

    shards = plan_shards(cases)
    plan = hashlib.sha256(json.dumps(plan_of(shards), sort_keys=True).encode()).hexdigest()
    start_or_resume(partial, plan)
    with tqdm(total=len(cases), desc="write", unit="case", disable=not progress) as bar:
        for path, members in shards.items():
            if not (partial / path).exists():
                write_shard(partial / path, members, bar)
            else:
                bar.update(len(members))

    record = {
        "format": FORMAT,
        "sources": [f"{source.layout}={source.path.name}" for source in sources],
        "counts": counts_of(cases),
        "own": sorted({case.dataset for case in cases if case.release is None}),
        "notes": notes,
        "versions": {name: version(name) for name in ("ccsam-hf", "datasets", "pillow")},
    }
    splits.save(partial / "splits.json")
    card = dataset_card(
        record["counts"],
        rule=splits.rule,
        seed=splits.seed,
        notes=notes,
        removed=splits.removed,
        configs=configs_of(record["counts"], record["own"], fingerprint(partial, list(shards))),
        own=record["own"],
    )
    (partial / "README.md").write_text(card, encoding="utf-8")
    write_json(partial / BUILD_FILE, record, indent=1)
    remove_folder(partial / "sources")  # renamed first: a build that is stopped here must not read half of them again
    if output.exists():
        output.rmdir()
    os.replace(partial, output)
    (output / PLAN_FILE).unlink()
    return record


def load_built(directory: str | Path, config: str = ALL, split: str | None = None, streaming: bool = False):
    """Load what `build` wrote.

    Args:
        directory: the output of a build, or the id of a data set repository on the Hub.
        config: "all", "seen", "unseen" or the name of a data set.
        split: "train", "validation" or "test"; left out, all as a `DatasetDict`.
        streaming: whether rows are read from the files as they are asked for, instead of being copied into the cache.

    Returns:
        `datasets.DatasetDict`, `Dataset`, or their iterable forms.

    Raises:
        ImportError: no `datasets`.
        ValueError: the directory is not a complete build, or has no such config.
    """
    datasets = import_datasets()
    if Path(directory).is_dir():
        check_complete(Path(directory))
    return datasets.load_dataset(str(directory), config, split=split, streaming=streaming)


def check_all(cases: Sequence[Case], progress: bool) -> None:
    """Look at the header of every file; ValueError that counts what cannot be used and shows the first."""
    if not cases:
        raise ValueError("no case is left to write; expected at least one that is in a split")
    problems = []
    for case in tqdm(cases, desc="check", unit="case", disable=not progress):
        try:
            case.check()
        except (ValueError, OSError) as error:
            problems.append(str(error))
    if problems:
        raise ValueError(
            f"{len(problems)} of {len(cases)} cases cannot be used, the first: {problems[0]}; "
            "ccsam-hf data audit lists them all, and its --fix writes split lists without them"
        )


def plan_shards(cases: Sequence[Case]) -> dict[Path, list[Case]]:
    """Path of each shard within the output -> its cases, sorted by name and class id."""
    members = defaultdict(list)
    for case in sorted(cases, key=lambda case: (case.dataset, case.split, case.name, case.class_id)):
        members[case.dataset, case.split].append(case)
    shards = {}
    for (dataset, split), of_split in members.items():
        count = -(-len(of_split) // ROWS_OF_SHARD)
        for i in range(count):
            path = Path("data", dataset, f"{split}-{i:05d}-of-{count:05d}.parquet")
            shards[path] = of_split[i * ROWS_OF_SHARD : (i + 1) * ROWS_OF_SHARD]
    return shards


def plan_of(shards: dict[Path, list[Case]]) -> list:
    """Everything that decides the content of the shards, as JSON."""
    return [FORMAT, version("pillow")] + [
        [
            str(path),
            [
                [case.name, case.target, case.class_id, case.patient_id, case.category, case.spacing_mm, case.release]
                + [identity(file) for file in (*case.image_source.paths, *case.mask_source.paths)]
                for case in members
            ],
        ]
        for path, members in shards.items()
    ]


def identity(path: Path) -> list:
    """What changes when a file does."""
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def start_or_resume(partial: Path, plan: str) -> None:
    """Keep finished shards of the same plan, remove those of another one and whatever was half written."""
    (partial / BUILD_FILE).unlink(missing_ok=True)  # of a build that was stopped between it and the renaming
    path = partial / PLAN_FILE
    if not path.exists() or path.read_text() != plan:
        remove_folder(partial / "data")
        path.write_text(plan)
    for half_written in partial.glob("data/*/.*.partial"):
        half_written.unlink()


def write_shard(path: Path, cases: Sequence[Case], bar: tqdm) -> None:
    """Write one Parquet file under another name, then rename it."""
    import pyarrow
    from pyarrow import parquet

    schema = features().arrow_schema
    with replace_file(path) as partial, parquet.ParquetWriter(partial, schema) as writer:
        for start in range(0, len(cases), ROWS_OF_GROUP):
            group = cases[start : start + ROWS_OF_GROUP]
            writer.write_table(pyarrow.Table.from_pylist(list(rows_of(group)), schema=schema))
            bar.update(len(group))


def counts_of(cases: Sequence[Case]) -> dict[str, dict[str, dict[str, int]]]:
    """Data set -> split -> target -> number of cases."""
    counts = Counter((case.dataset, case.split, case.target) for case in cases)
    nested: dict[str, dict[str, dict[str, int]]] = {}
    for (dataset, split, target), count in sorted(counts.items()):
        nested.setdefault(dataset, {}).setdefault(split, {})[target] = count
    return nested


def fingerprint(directory: Path, shards: Sequence[Path]) -> str:
    """What changes with any byte of the shards: their paths within the directory and the SHA-256 of each."""
    digest = hashlib.sha256()
    for path in shards:
        with (directory / path).open("rb") as file:
            digest.update(f"{path.as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def configs_of(counts: dict[str, dict[str, dict[str, int]]], own: Sequence[str], content: str) -> list[dict[str, Any]]:
    """The configs of the card: all data sets, each group of which one is there, and each data set.

    One's own data sets (`own`) are in no group, whatever their names.

    `datasets` caches a local folder by its last name and its configs, whatever lies in the files: without the
    fingerprint (`content`) in the configs, it would give the rows of an older build, or of another folder so named.
    """
    members = {ALL: list(counts)}
    members |= {
        group: [name for name in names if name in counts and name not in own] for group, names in GROUPS.items()
    }
    members |= {name: [name] for name in counts}
    return [
        {
            "config_name": config,
            "description": f"content {content}",
            **({"default": True} if config == ALL else {}),
            "data_files": [
                {"split": split, "path": [f"data/{name}/{split}-*.parquet" for name in names if split in counts[name]]}
                for split in SPLITS
                if any(split in counts[name] for name in names)
            ],
        }
        for config, names in members.items()
        if names
    ]
