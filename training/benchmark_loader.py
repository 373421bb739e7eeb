"""Speed and memory of the training loader, beside a plain loop over the same files.

    python training/benchmark_loader.py --output loader.json

Simulated cases are written to a temporary folder, as PNG files and as Parquet. Loaders are timed in turn, round by
round, so that whatever else the machine does slows all of them; medians of the rounds are printed. The plain loop is
what a script without this package would do: PIL opens and resizes, torchvision's functions on PIL images change image
and mask as SAMUS trains, numpy draws a click and a box; it checks nothing and cannot be repeated.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as plain

from ccsam_hf.data.augmentation import SAMUS_AUGMENTATION
from ccsam_hf.data.prompts import TRAINING_PROMPTS
from ccsam_hf.data.readers import list_cases
from ccsam_hf.data.rows import features, rows_of
from ccsam_hf.data.samples import Samples, StreamedSamples
from ccsam_hf.data.simulator import TARGETS, write_folder

SIDE = 256
SHARDS = 4
ROWS_OF_GROUP = 100  # as in a built data set


class PlainLoop(Dataset):
    """The reference: paths in, a sample out, as short as can be."""

    def __init__(self, folder: Path):
        self.images = sorted((folder / "images").iterdir())
        self.masks = [folder / "masks" / f"{path.stem}.png" for path in self.images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, mask = Image.open(self.images[index]).convert("L"), Image.open(self.masks[index]).convert("L")
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        mask = mask.resize((SIDE, SIDE), Image.Resampling.NEAREST)
        if random.random() < 0.5:
            image = plain.adjust_gamma(image, 1 / random.uniform(1, 2.4))
        if random.random() < 0.5:
            angle = random.uniform(-30, 30)
            image, mask = plain.rotate(image, angle, InterpolationMode.BILINEAR), plain.rotate(mask, angle)
        if random.random() < 0.5:
            side = int(SIDE * random.uniform(1, 1.3))
            top, left = random.randint(0, side - SIDE), random.randint(0, side - SIDE)
            image = plain.crop(plain.resize(image, [side, side]), top, left, SIDE, SIDE)
            mask = plain.crop(plain.resize(mask, [side, side], InterpolationMode.NEAREST), top, left, SIDE, SIDE)
        if random.random() < 0.5:
            image = plain.adjust_contrast(image, random.uniform(0.8, 2))
        pixels = np.argwhere(np.array(mask) > 0)[:, ::-1]
        if len(pixels) == 0:
            pixels = np.zeros((1, 2))
        click, box = pixels[random.randrange(len(pixels))], np.concatenate([pixels.min(0), pixels.max(0)])
        return {
            "pixel_values": plain.to_tensor(image).repeat(3, 1, 1),
            "labels": plain.to_tensor(mask),
            "input_points": torch.tensor(click.tolist(), dtype=torch.float32)[None, None],
            "input_labels": torch.ones(1, 1, dtype=torch.long),
            "input_boxes": torch.tensor(box.tolist(), dtype=torch.float32)[None],
        }


def write_data(directory: Path, count: int, size: tuple[int, int]) -> dict[str, Any]:
    """Simulated cases as files and as Parquet; the data sets to time, by name."""
    folder = directory / "folder"
    write_folder(folder, count=count, seed=0, targets=TARGETS, size=size)
    cases, _ = list_cases(folder, "folder")
    rows = datasets.Dataset.from_list(list(rows_of(cases)), features=features())
    files = [str(directory / f"train-{i}.parquet") for i in range(SHARDS)]
    for i, path in enumerate(files):
        rows.shard(SHARDS, i).to_parquet(path, batch_size=ROWS_OF_GROUP)
    source = {"path": "parquet", "data_files": files, "split": "train", "cache_dir": str(directory / "cache")}
    ours = {"prompts": TRAINING_PROMPTS, "augmentation": SAMUS_AUGMENTATION}
    return {
        "plain loop, files": PlainLoop(folder),
        "Samples, files": Samples(cases, **ours),
        "Samples, local Parquet": Samples(datasets.load_dataset(**source), **ours),
        "StreamedSamples, Parquet": StreamedSamples(datasets.load_dataset(**source, streaming=True), **ours),
    }


def loader_of(dataset: Any, num_workers: int, batch_size: int) -> DataLoader:
    """A loader whose workers live on, so that starting them is not timed; local data in random order."""
    shuffle = not isinstance(dataset, StreamedSamples)
    return DataLoader(dataset, batch_size, shuffle, num_workers=num_workers, persistent_workers=True)


def images_a_second(loader: DataLoader) -> float:
    """Speed of one pass."""
    start = time.perf_counter()
    count = sum(len(batch["pixel_values"]) for batch in loader)
    return count / (time.perf_counter() - start)


def speeds(sources: dict[str, Any], workers: list[int], batch_size: int, rounds: int) -> dict[str, list[float]]:
    """Images a second of each loader in each round; a first pass warms up and is left out."""
    loaders = {
        f"{name}, {count} worker{'s' * (count > 1)}": loader_of(source, count, batch_size)
        for count in workers
        for name, source in sources.items()
    }
    measured: dict[str, list[float]] = {name: [] for name in loaders}
    for round_index in range(rounds + 1):
        for name, loader in loaders.items():
            speed = images_a_second(loader)
            if round_index:
                measured[name].append(speed)
    return measured


def tree_rss_mib() -> float:
    """Resident memory of this process and its workers; pages they share count once for each."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(process.memory_info().rss for process in processes) / 2**20


def memory(source: Any, num_workers: int, batch_size: int, samples: int) -> dict[str, float]:
    """Mean resident memory in MiB over the first and over the last quarter of many samples, epoch after epoch."""
    loader, seen, readings, epoch = loader_of(source, num_workers, batch_size), 0, [], 0
    while seen < samples:
        source.set_epoch(epoch)
        for batch in loader:
            seen += len(batch["pixel_values"])
            readings.append(tree_rss_mib())
        epoch += 1
    quarter = len(readings) // 4
    return {"first_quarter": statistics.mean(readings[:quarter]), "last_quarter": statistics.mean(readings[-quarter:])}


def main() -> None:
    """Print two tables and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--size", type=int, nargs=2, default=(SIDE, SIDE), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory-samples", type=int, default=20_000)
    parser.add_argument("--output", type=Path, default=Path("loader.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as directory:
        sources = write_data(Path(directory), arguments.cases, tuple(arguments.size))
        measured = speeds(sources, arguments.workers, arguments.batch_size, arguments.rounds)
        memories = {
            name: memory(source, max(arguments.workers), arguments.batch_size, arguments.memory_samples)
            for name, source in sources.items()
            if name.endswith("Parquet") and arguments.memory_samples
        }
    medians = {name: statistics.median(values) for name, values in measured.items()}
    print(f"{'images a second':44}{'median':>8}{'lowest':>8}{'highest':>9}{'of plain':>10}")
    for name, values in measured.items():
        reference = medians["plain loop, files, " + name.rsplit(", ", 1)[1]]
        print(f"{name:44}{medians[name]:8.0f}{min(values):8.0f}{max(values):9.0f}{medians[name] / reference:10.2f}")
    print(f"\n{'memory of all processes, MiB':44}{'first quarter':>15}{'last quarter':>15}")
    for name, quarters in memories.items():
        print(f"{name:44}{quarters['first_quarter']:15.0f}{quarters['last_quarter']:15.0f}")
    report = {
        "images_a_second": {name: [round(value, 1) for value in values] for name, values in measured.items()},
        "medians": {name: round(value, 1) for name, value in medians.items()},
        "memory_mib": memories,
        "settings": {name: str(value) for name, value in vars(arguments).items()},
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg(),
        "versions": {"torch": torch.__version__, "datasets": datasets.__version__},
    }
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
