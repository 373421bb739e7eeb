"""Run config -> the samples to train on and to validate with, and the order in which they come."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from ..data.augmentation import NO_AUGMENTATION, Augmentation
from ..data.build import load_built
from ..data.cases import Case
from ..data.prompts import FIXED_PROMPTS, PromptSampler
from ..data.readers import read_cases
from ..data.samples import SampleMaker, Samples
from ..data.simulator.scenes import simulate
from ..data.splits import Splits, divide
from .mixture import MixedSamples, store_cases, store_simulated
from .run_config import MIXTURE, SIMULATOR, RunConfig

VALIDATION_SEEDS = 1_000_000_000  # training cases count up from zero, held-out tests from 2_000_000_000


class SimulatedSamples(SampleMaker, Dataset):
    """Cases made when they are asked for: an index gives the same case on every machine, worker and process.

    Args:
        count: number of cases.
        first_seed: seed of the first.
        target_weights: how often each target is drawn, relative to the others.
        prompts, augmentation, seed: see `SampleMaker`.
    """

    def __init__(
        self,
        count: int,
        first_seed: int,
        target_weights: dict[str, float],
        prompts: PromptSampler,
        augmentation: Augmentation = NO_AUGMENTATION,
        seed: int = 0,
    ):
        super().__init__(prompts, augmentation, seed, (256, 256))
        self.count, self.first_seed = count, first_seed
        self.targets = list(target_weights)
        self.probabilities = np.array(list(target_weights.values())) / sum(target_weights.values())

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        seed = self.first_seed + int(index)
        target = str(np.random.default_rng([seed, 1]).choice(self.targets, p=self.probabilities))
        case = simulate(target, seed)
        row = {"image": case.image, "mask": case.mask, "name": str(seed), "target": target, "dataset": SIMULATOR}
        return self.make(row)


class EpochOrder(Sampler[int]):
    """An order drawn anew for each epoch from seed and epoch alone.

    The last samples of the order, too few for a batch, wait for another epoch: a step of the optimizer has a whole
    batch, in however many parts and processes it is computed. Fewer samples than a batch are one step.

    Args:
        count: number of samples.
        seed: of the draw.
        batch_size: samples of a step, of all parts and processes.
    """

    def __init__(self, count: int, seed: int, batch_size: int = 1):
        self.count, self.seed, self.epoch = count, seed, 0
        self.length = count - count % batch_size if count >= batch_size else count

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        return iter(order[: self.length].tolist())


def build_samples(run: RunConfig) -> tuple[SampleMaker, SampleMaker]:
    """Training and validation samples.

    Raises:
        FileNotFoundError, ValueError: the data cannot be read, a split is empty, a simulated target has no weight, or
            the sampler does not draw what the run's prompts need.
    """
    prompts = PromptSampler(**run.prompt_sampler)
    needed = {"point": ("points",), "box": ("box",), "both": ("points", "box"), "text": ("box",)}
    lacking = {part for kind in run.prompts for part in needed[kind] if prompts.probability_of(part) < 1}
    if lacking:
        raise ValueError(
            f"prompts={run.prompts} need {' and '.join(sorted(lacking))} for every sample; expected probabilities in "
            f"prompt_sampler={run.prompt_sampler} that add up to 1"
        )
    augmentation = Augmentation() if run.augmentation == "samus" else NO_AUGMENTATION
    if run.data == MIXTURE:
        return build_mixture(run)
    if run.data == SIMULATOR:
        unknown = sorted(set(run.targets) - set(run.target_weights))
        if unknown:
            raise ValueError(f"targets {unknown} have no weight; expected some of {', '.join(run.target_weights)}")
        count = run.train_cases or run.max_steps * run.batch_size
        weights = {
            name: weight for name, weight in run.target_weights.items() if name in run.targets or not run.targets
        }
        return (
            SimulatedSamples(count, 0, weights, prompts, augmentation, run.seed),
            SimulatedSamples(run.eval_cases or 120, VALIDATION_SEEDS, weights, FIXED_PROMPTS),
        )
    training, validation = select(run)
    if run.eval_cases and run.eval_cases < len(validation):
        chosen = sorted(np.random.default_rng(run.seed).permutation(len(validation))[: run.eval_cases].tolist())
        validation = validation.select(chosen) if hasattr(validation, "select") else [validation[i] for i in chosen]
    return (
        Samples(training, prompts, augmentation, run.seed, check_masks=True),
        Samples(validation, FIXED_PROMPTS, check_masks=True),
    )


def build_mixture(run: RunConfig) -> tuple[MixedSamples, Samples]:
    """Training samples of all sources, and validation samples of the real ones: `eval_cases` of each target at most.

    Raises:
        FileNotFoundError, ValueError: a source cannot be read, or the split lists do not name all of its images.
    """
    splits = None if run.splits is None else Splits.load(run.splits)
    stored, validation = {}, []
    for name, source in run.sources.items():
        if name == SIMULATOR:
            stored[name] = store_simulated(source["cases"], 0, run.target_weights)
            continue
        cases = read_cases(Path(run.root) / source.get("directory", name), source["layout"])
        cases = (splits or divide(cases, run.seed)).apply(cases)
        stored[name] = store_cases([case for case in cases if case.split == "train"], name)
        validation += choose_evenly([case for case in cases if case.split == "validation"], run.eval_cases, run.seed)
    weights = {name: source.get("weight", 1.0) for name, source in run.sources.items()}
    return (
        MixedSamples(
            stored,
            weights,
            run.max_steps * run.batch_size,
            run.num_objects,
            run.seed,
            run.box_share,
            run.class_free,
        ),
        Samples(validation, FIXED_PROMPTS, check_masks=True),
    )


def choose_evenly(cases: list[Case], count: int, seed: int) -> list[Case]:
    """At most `count` cases of each target, drawn from the seed; all where `count` is 0."""
    chosen = []
    for target in sorted({case.target for case in cases}):
        own = [case for case in cases if case.target == target]
        order = np.random.default_rng(seed).permutation(len(own))[: count or None]
        chosen += [own[i] for i in sorted(order)]
    return chosen


def select(run: RunConfig) -> tuple[Any, Any]:
    """The cases or rows that the run asks for, of the training and of the validation split."""
    if run.layout == "built":
        parts = [load_built(run.data, split=split) for split in ("train", "validation")]
        labels = [list(zip(part["dataset"], part["target"], strict=True)) for part in parts]
    else:
        cases = read_cases(run.data, run.layout)
        cases = divide(cases, run.seed).apply(cases)
        parts = [[case for case in cases if case.split == split] for split in ("train", "validation")]
        labels = [[(case.dataset, case.target) for case in part] for part in parts]
    there = [{label[i] for label in labels[0] + labels[1]} for i in (0, 1)]
    for kind, wanted, present in zip(("datasets", "targets"), (run.datasets, run.targets), there, strict=True):
        unknown = sorted(set(wanted) - present)
        if unknown:
            raise ValueError(f"{run.data} has no {kind} {unknown}; expected some of {', '.join(sorted(present))}")
    selected = []
    for split, part, own_labels in zip(("train", "validation"), parts, labels, strict=True):
        keep = [i for i, label in enumerate(own_labels) if is_wanted(run, *label)]
        if not keep:
            raise ValueError(
                f"{run.data} has no case in split {split!r} for datasets={run.datasets or 'all'} and "
                f"targets={run.targets or 'all'}; choose others, or split the data another way"
            )
        selected.append(part.select(keep) if run.layout == "built" else [part[i] for i in keep])
    return tuple(selected)


def is_wanted(run: RunConfig, dataset: str, target: str) -> bool:
    """Whether the run asks for a data set and a target."""
    return (not run.datasets or dataset in run.datasets) and (not run.targets or target in run.targets)
