"""Images with the boxes of what is in them: simulated, of a folder, or of several sources mixed (`build_scenes`).

    source --> scene with boxes, masks and absent targets --> questions (`grounding_questions`)

An index gives the same scene on every machine, worker and process: what is drawn depends on the seed and the index.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from ..data.augmentation import UltrasoundAugmentation
from ..data.cases import Case
from ..data.prompts import tight_box
from ..data.readers import read_cases
from ..data.simulator import TARGETS as SIMULATED_TARGETS
from ..data.simulator import SimulatedCase, simulate
from ..data.splits import Splits, divide
from ..evaluation.grounding import Scene, are_of_two_organs, scenes_of
from .grounding_run import GrounderRun
from .run_config import MIXTURE, SIMULATOR

SCENE_SIZE = (192, 192)  # of simulated scenes; the image processor resizes them to the model's input
BACKBONE_SEEDS = 500_000_000  # training scenes count up from zero
VALIDATION_SEEDS = 1_000_000_000  # held-out tests from 2_000_000_000
STORED_SCENES = 1200  # simulated ones of a mixture, where the run does not say
HIDDEN, SHOWN = 0.1, 0.5  # share of a structure in the frame: below it is absent, from the other on it is present
SIDES = re.compile(r"\b(left|right)\b")


class SimulatedScenes(Dataset):
    """Scenes made when they are asked for: index + seed -> the same scene on every machine, worker and process.

    Args:
        count: number of scenes.
        first_seed: seed of the first.
        scene_weights: how often the scene of each target is drawn, relative to the others.
        size: (height, width) of the scenes.
    """

    def __init__(
        self,
        count: int,
        first_seed: int,
        scene_weights: dict[str, float],
        size: tuple[int, int] = SCENE_SIZE,
    ):
        self.count, self.first_seed, self.size = count, first_seed, size
        self.targets = list(scene_weights)
        self.probabilities = np.array(list(scene_weights.values())) / sum(scene_weights.values())

    def __len__(self) -> int:
        return self.count

    def case(self, index: int) -> SimulatedCase:
        """What the simulator makes for an index."""
        seed = self.first_seed + index
        target = np.random.default_rng([seed, 1]).choice(self.targets, p=self.probabilities)
        return simulate(target, seed, self.size)

    def __getitem__(self, index: int) -> tuple[Scene, int]:
        """A scene, its absent targets being the simulator's others, and the seed for what is drawn about it."""
        case = self.case(index)
        boxes = {target: tight_box(mask) for target, mask in case.masks.items() if mask.any()}
        absent = tuple(target for target in SIMULATED_TARGETS if target not in case.masks)
        return Scene(f"{case.target} {case.seed}", case.image, boxes, absent, case.masks), case.seed


class FolderScenes(Dataset):
    """Cases of a folder as scenes, again and again, in a new order each time round.

    A folder says what is in an image and not what else is: only targets of other organs count as absent.

    Args:
        cases: of `read_cases`.
        targets: everything that may be asked for.
        count: number of scenes.
        first_seed: seed of the first.
        shuffled: whether their order is drawn.
    """

    def __init__(self, cases: list[Case], targets: list[str], count: int, first_seed: int, shuffled: bool):
        self.cases, self.targets, self.count = cases, targets, count
        self.first_seed, self.shuffled = first_seed, shuffled

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Scene, int]:
        """As `SimulatedScenes`; a case with an empty mask is a scene in which its target is absent."""
        time_round, place = divmod(index, len(self.cases))
        if self.shuffled:
            place = np.random.default_rng([self.first_seed, time_round]).permutation(len(self.cases))[place]
        case = self.cases[place]
        mask = case.mask
        boxes = {case.target: tight_box(mask)} if mask.any() else {}
        absent = tuple(target for target in self.targets if are_of_two_organs(target, case.target))
        absent += () if boxes else (case.target,)
        return Scene(case.name, case.image, boxes, absent, {case.target: mask}), self.first_seed + index


@dataclass
class StoredScene:
    """A scene in memory.

    Attributes:
        name: identifies the scene within its source.
        image: (S, S) uint8.
        masks: target -> (S, S) bool for every target that was looked for, empty where it is absent.
        absent: targets that are not in the image.
    """

    name: str
    image: np.ndarray
    masks: dict[str, np.ndarray]
    absent: tuple[str, ...]


class MixedScenes(Dataset):
    """Endless scenes of several sources, each moved and changed in its grey values.

    Args:
        sources: scenes by source.
        weights: how often each source is drawn, relative to the others.
        count: length; nothing but the number of indices.
        size: rows and columns of a scene.
        seed: of all that is drawn.
    """

    def __init__(
        self, sources: dict[str, list[StoredScene]], weights: dict[str, float], count: int, size: int, seed: int
    ):
        self.sources, self.count, self.size, self.seed = sources, count, size, seed
        self.names, self.weights_by_source = list(sources), weights
        self.weights = np.array([weights[name] for name in self.names]) / sum(weights[name] for name in self.names)
        self.change_grey_values = UltrasoundAugmentation()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Scene, int]:
        """A scene, and the seed for what is drawn about it."""
        rng = np.random.default_rng([self.seed, int(index)])
        source = str(rng.choice(self.names, p=self.weights))
        stored = self.sources[source][int(rng.integers(len(self.sources[source])))]
        scene = move_scene(stored, self.size, rng)
        image = self.change_grey_values(scene.image.astype(np.float32) / 255, rng)
        image = (255 * image).round().astype(np.uint8)
        return Scene(f"{source}/{scene.name}", image, scene.boxes, scene.absent, scene.masks), int(index)


class StillScenes(Dataset):
    """Scenes in memory as they are, for validation."""

    def __init__(self, scenes: Sequence[StoredScene]):
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Scene, int]:
        """As `MixedScenes`."""
        stored = self.scenes[index]
        boxes = {target: box_of(mask) for target, mask in stored.masks.items() if mask.any()}
        return Scene(stored.name, stored.image, boxes, stored.absent, stored.masks), index


def move_scene(stored: StoredScene, size: int, rng: np.random.Generator) -> Scene:
    """Zoom, stretch, turn, shift and flip.

    A structure that leaves the frame is absent; one that leaves it by half is neither absent nor present. Scenes with
    a left or a right structure are not flipped.
    """
    if rng.random() < 0.08:  # a detail, in which most structures are absent
        zoom, reach = float(rng.uniform(1.6, 3.0)), 0.6
    else:
        zoom, reach = float(np.exp(rng.uniform(np.log(0.75), np.log(1.4)))), 0.15
    turn = np.deg2rad(rng.uniform(-15, 15)) if rng.random() < 0.5 else 0.0
    stretch = float(np.exp(rng.uniform(-0.15, 0.15)))
    shift = rng.uniform(-reach, reach, 2)
    has_sides = any(SIDES.search(target) for target in stored.masks)
    flip = -1.0 if not has_sides and rng.random() < 0.5 else 1.0
    cos, sin = np.cos(turn) / zoom, np.sin(turn) / zoom
    theta = torch.tensor(
        [[[flip * cos * stretch, -sin * stretch, shift[0]], [flip * sin / stretch, cos / stretch, shift[1]]]],
        dtype=torch.float32,
    )
    layers = np.stack([stored.image.astype(np.float32), *(255.0 * mask for mask in stored.masks.values())])
    grid = F.affine_grid(theta, [1, 1, size, size], align_corners=False)
    moved = F.grid_sample(torch.from_numpy(layers.astype(np.float32))[None], grid, align_corners=False)[0].numpy()
    whole = (size / len(stored.image) * zoom) ** 2  # pixels of the frame for each stored one
    boxes, masks, absent = {}, {}, list(stored.absent)
    for layer, (target, mask) in zip(moved[1:], stored.masks.items(), strict=True):
        now = masks[target] = layer > 127
        if not mask.any():
            continue
        share = now.sum() / (whole * mask.sum())
        if share >= SHOWN:
            boxes[target] = box_of(now)
        elif share < HIDDEN:
            absent.append(target)
    return Scene(stored.name, moved[0].round().astype(np.uint8), boxes, tuple(absent), masks)


def box_of(mask: np.ndarray) -> np.ndarray:
    """The edges (4,) of a mask's pixels, x0 y0 x1 y1, behind the last column and row."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float32)


def store_scene(scene: Scene, size: int) -> StoredScene:
    """Squeeze a scene to (size, size)."""
    masks = [255 * mask.astype(np.uint8) for mask in scene.masks.values()]
    layers = torch.from_numpy(np.stack([scene.image, *masks]))
    layers = F.interpolate(layers[None].float(), (size, size), mode="bilinear", antialias=True)[0].numpy()
    squeezed = {target: layer > 127 for target, layer in zip(scene.masks, layers[1:], strict=True)}
    return StoredScene(scene.name, layers[0].round().astype(np.uint8), squeezed, scene.absent)


def store_simulated(
    count: int, first_seed: int, scene_weights: dict[str, float], targets: Sequence[str], size: int
) -> list[StoredScene]:
    """Simulated scenes; what the simulator does not draw is absent, what it may draw and does not is absent too."""
    made = SimulatedScenes(count, first_seed, scene_weights, (size, size))
    scenes = []
    for index in range(count):
        case = made.case(index)
        masks = {target: mask for target, mask in case.masks.items() if target in targets and mask.any()}
        absent = tuple(target for target in targets if target not in case.masks)
        scenes.append(StoredScene(f"{case.target} {case.seed}", case.image, masks, absent))
    return scenes


def build_scenes(run: GrounderRun) -> tuple[Dataset, Dataset, list[str]]:
    """Training and validation scenes, apart from each other, and the targets that are asked for in them.

    A folder is divided as `ccsam-hf train` with the same seed divides it: by patients, by lists of its own where it
    has some, and with a test part that is not looked at. Sources are divided by the run's lists.
    """
    if run.data == MIXTURE:
        return build_mixture(run)
    if run.data is None:
        return (
            SimulatedScenes(run.max_steps * run.batch_size, 0, run.scene_weights),
            SimulatedScenes(run.eval_scenes, VALIDATION_SEEDS, run.scene_weights),
            list(SIMULATED_TARGETS),
        )
    cases = read_cases(run.data, run.layout)
    placed = divide(cases, run.seed).apply(cases)
    training, validation = ([case for case in placed if case.split == split] for split in ("train", "validation"))
    validation = validation[: run.eval_scenes]
    for split, found in (("train on", training), ("validate with", validation)):
        if not any(case.mask.any() for case in found):
            raise ValueError(
                f"{run.data} leaves {len(found)} cases to {split}, and none has an object; give it more cases"
            )
    targets = sorted({case.target for case in cases})
    return (
        FolderScenes(training, targets, run.max_steps * run.batch_size, run.seed, shuffled=True),
        FolderScenes(validation, targets, len(validation), VALIDATION_SEEDS, shuffled=False),
        targets,
    )


def read_source(run: GrounderRun, name: str) -> list[Case]:
    """The cases of a source: of its directory below the run's root, by default its name, in its layout."""
    about = run.sources[name]
    return read_cases(Path(run.root) / about.get("directory", name), about.get("layout", "folder"))


def build_mixture(run: GrounderRun) -> tuple[MixedScenes, StillScenes, list[str]]:
    """`build_scenes` of several sources.

    Raises:
        ValueError: no sources, one without weight, or no lists for those in folders.
    """
    folders = [name for name in run.sources if name != SIMULATOR]
    if not run.sources or any("weight" not in about for about in run.sources.values()):
        raise ValueError(f"data={MIXTURE} with sources={run.sources}; expected sources, each with a weight")
    if folders and run.splits is None:
        raise ValueError(f"sources {folders} have no splits; expected the file with the lists of their images")
    cases = {name: read_source(run, name) for name in folders}
    placed = {name: Splits.load(run.splits).apply(found) for name, found in cases.items()}
    shown = {case.target for found in placed.values() for case in found}
    targets = sorted(shown | (set(SIMULATED_TARGETS) if SIMULATOR in run.sources else set()))
    training, validation = {}, []
    rng = np.random.default_rng([run.seed, 4])
    for name, about in run.sources.items():
        if name == SIMULATOR:
            settings = (run.scene_weights, targets, run.stored_size)
            training[name] = store_simulated(about.get("cases", STORED_SCENES), 0, *settings)
            validation += store_simulated(run.eval_scenes, VALIDATION_SEEDS, *settings)
            continue
        parts = ([case for case in placed[name] if case.split == split] for split in ("train", "validation"))
        training[name], held_out = (
            [store_scene(scene, run.stored_size) for scene in scenes_of(part, targets)] for part in parts
        )
        order = rng.permutation(len(held_out))[: run.eval_scenes]
        validation += [held_out[place] for place in sorted(order.tolist())]
    weights = {name: float(about["weight"]) for name, about in run.sources.items()}
    count = run.max_steps * run.batch_size
    return MixedScenes(training, weights, count, run.image_size, run.seed), StillScenes(validation), targets


__all__ = ["FolderScenes", "MixedScenes", "SimulatedScenes", "StillScenes", "build_scenes"]
