"""Several data sets and the simulator, mixed: many objects an image, each with prompts of its own (`MixedSamples`).

    source --> image with its objects --zoom, turn, flip--> --paste and find objects of no class--> --grey values-->
    K objects, each with a box or a click

An index gives the same sample on every machine, in any worker and process: what is drawn depends on the seed and the
index alone. Images are kept in memory at `STORED_SIZE`, so a pass costs no decoding.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..data.augmentation import UltrasoundAugmentation
from ..data.cases import Case
from ..data.class_free import find_region, paste_shape
from ..data.simulator import simulate
from ..geometry import resize_masks
from ..processing_ccsam import PAD_VALUE

STORED_SIZE = 288  # rows and columns of the images in memory: room for a crop of the 256 that the model sees
SIZE = 256
FEWEST_PIXELS = 40  # of an object in the model's input: a smaller one is passed over


@dataclass
class StoredImage:
    """An image in memory.

    Attributes:
        pixels: (STORED_SIZE, STORED_SIZE) uint8.
        objects: (STORED_SIZE, STORED_SIZE) uint8, bit k set where object k is.
        targets: what the objects are.
    """

    pixels: np.ndarray
    objects: np.ndarray
    targets: list[str]


def store_image(image: np.ndarray, masks: Sequence[np.ndarray], targets: Sequence[str]) -> StoredImage:
    """An image (H0, W0) uint8 with the masks (H0, W0) bool of its objects, at most 8, as it is kept in memory."""
    if len(masks) > 8:
        raise ValueError(f"an image has {len(masks)} objects; expected at most 8")
    size = (STORED_SIZE, STORED_SIZE)
    pixels = F.interpolate(torch.tensor(image)[None, None].float(), size, mode="bilinear", antialias=True)
    objects = np.zeros(size, np.uint8)
    for bit, mask in enumerate(masks):
        resized = resize_masks(torch.from_numpy(mask)[None, None], size)[0, 0].bool().numpy()
        objects |= resized.astype(np.uint8) << bit
    return StoredImage(pixels[0, 0].clamp(0, 255).round().byte().numpy(), objects, list(targets))


def store_cases(cases: Sequence[Case], name: str) -> list[StoredImage]:
    """The images of cases, each once with all of its objects; images without an object are kept for their texture."""
    images: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in cases:
        images[case.dataset, case.name].append(case)
    stored = []
    for own in tqdm(images.values(), desc=f"read {name}", disable=None):
        masks = [(case.mask, case.target) for case in own]
        masks = [(mask, target) for mask, target in masks if mask.any()]
        stored.append(store_image(own[0].image, [mask for mask, _ in masks], [target for _, target in masks]))
    return stored


def store_simulated(count: int, first_seed: int, target_weights: dict[str, float]) -> list[StoredImage]:
    """Simulated scenes with every structure that they show."""
    targets = list(target_weights)
    weights = np.array(list(target_weights.values())) / sum(target_weights.values())
    stored = []
    for seed in tqdm(range(first_seed, first_seed + count), desc="simulate", disable=None):
        target = str(np.random.default_rng([seed, 1]).choice(targets, p=weights))
        case = simulate(target, seed)
        shown = {name: mask for name, mask in case.masks.items() if mask.any()}
        stored.append(store_image(case.image, list(shown.values()), list(shown)))
    return stored


class MixedSamples(Dataset):
    """Endless samples of several sources.

    A sample holds, for K objects:

    | key | shape | |
    |---|---|---|
    | pixel_values | (3, 256, 256) float32 | in [0, 1] |
    | labels | (K, 256, 256) uint8 | 0 or 1 |
    | input_boxes | (K, 4) float32 | -10 where the object has a click |
    | input_points | (K, 1, 2) float32 | -10 where the object has a box |
    | input_labels | (K, 1) int64 | 1, or -10 where the object has a box |
    | name | str | source and number of the image |

    Args:
        sources: images by source.
        weights: how often each source is drawn.
        count: length; nothing but the number of indices.
        num_objects: K.
        seed: of everything that is drawn.
        box_share: of the objects that are asked for by a box; the others by a click.
        class_free: expected share of images that receive objects of no class, [0, 1].
    """

    def __init__(
        self,
        sources: dict[str, list[StoredImage]],
        weights: dict[str, float],
        count: int,
        num_objects: int = 4,
        seed: int = 0,
        box_share: float = 0.55,
        class_free: float = 0.7,
    ):
        self.sources, self.count, self.num_objects, self.seed = sources, count, num_objects, seed
        self.names = list(sources)
        self.weights = np.array([weights[name] for name in self.names]) / sum(weights[name] for name in self.names)
        self.box_share, self.class_free = box_share, class_free
        self.change_grey_values = UltrasoundAugmentation()

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        """An index says all; a run of this data set has one epoch."""

    def draw_image(self, rng: np.random.Generator) -> tuple[StoredImage, str]:
        """An image of a source drawn by weight."""
        name = str(rng.choice(self.names, p=self.weights))
        place = int(rng.integers(len(self.sources[name])))
        return self.sources[name][place], f"{name}/{place}"

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, int(index)])
        for _ in range(20):
            stored, name = self.draw_image(rng)
            image, masks = move_image(stored, rng)
            seen = [True] * len(masks)
            if rng.random() < self.class_free:
                other = self.draw_image(rng)[0].pixels[:SIZE, :SIZE].astype(np.float32) / 255
                image, masks, seen = self.add_objects(image, other, masks, rng)
            objects = [
                (mask, is_seen) for mask, is_seen in zip(masks, seen, strict=True) if mask.sum() >= FEWEST_PIXELS
            ]
            if objects:
                break
        else:
            raise ValueError(f"20 images of {self.names} had no object; expected masks to draw prompts from")
        image = self.change_grey_values(image, rng)
        return self.make(image, objects, name, rng)

    def add_objects(
        self, image: np.ndarray, other: np.ndarray, masks: list[np.ndarray], rng: np.random.Generator
    ) -> tuple[np.ndarray, list[np.ndarray], list[bool]]:
        """One to three objects of no class, pasted, nested or found; real ones that they hide too much of go."""
        masks, seen = list(masks), [True] * len(masks)
        for _ in range(int(rng.integers(1, 4))):
            if rng.random() < 0.35:
                region = find_region(image, rng)
                if region is not None:
                    masks.append(region)
                    seen.append(True)
                continue
            inside = None
            if masks and rng.random() < 0.25:
                inside = masks[int(rng.integers(len(masks)))]
                inside = inside if inside.sum() > 400 else None
            changed, mask, is_seen = paste_shape(image, other, rng, inside)
            hidden = [(mask & each).sum() > 0.4 * each.sum() for each in masks]
            if any(hidden) and is_seen:
                continue
            image = changed
            masks.append(mask)
            seen.append(is_seen)
        return image, masks, seen

    def make(
        self, image: np.ndarray, objects: list[tuple[np.ndarray, bool]], name: str, rng: np.random.Generator
    ) -> dict[str, Any]:
        """The sample of an image with its objects: K of them, the same one again where there are fewer."""
        order = rng.permutation(len(objects))
        chosen = [objects[order[k % len(order)]] for k in range(self.num_objects)]
        boxes = np.full((self.num_objects, 4), PAD_VALUE, np.float32)
        points = np.full((self.num_objects, 1, 2), PAD_VALUE, np.float32)
        labels = np.full((self.num_objects, 1), PAD_VALUE, np.int64)
        for k, (mask, is_seen) in enumerate(chosen):
            if not is_seen or rng.random() < self.box_share:
                boxes[k] = draw_box(mask, rng)
            else:
                points[k, 0], labels[k, 0] = draw_click(mask, rng), 1
        return {
            "pixel_values": torch.from_numpy(image)[None].repeat(3, 1, 1),
            "labels": torch.from_numpy(np.stack([mask for mask, _ in chosen]).astype(np.uint8)),
            "input_boxes": torch.from_numpy(boxes),
            "input_points": torch.from_numpy(points),
            "input_labels": torch.from_numpy(labels),
            "name": name,
        }


def move_image(stored: StoredImage, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """Zoom, stretch, turn, shift and flip to 256x256: the image (H, W) float32 in [0, 1] and the masks (H, W) bool."""
    turn = np.deg2rad(rng.uniform(-30, 30)) if rng.random() < 0.5 else 0.0
    zoom = float(np.exp(rng.uniform(np.log(0.75), np.log(1.7)))) if rng.random() < 0.6 else 1.0
    stretch = float(np.exp(rng.uniform(-0.2, 0.2))) if rng.random() < 0.5 else 1.0
    shift = rng.uniform(-0.25, 0.25, 2) if rng.random() < 0.5 else np.zeros(2)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    cos, sin = np.cos(turn) / zoom, np.sin(turn) / zoom
    theta = torch.tensor(
        [[[flip * cos * stretch, -sin * stretch, shift[0]], [flip * sin / stretch, cos / stretch, shift[1]]]],
        dtype=torch.float32,
    )
    grid = F.affine_grid(theta, [1, 1, SIZE, SIZE], align_corners=False)
    pixels = torch.from_numpy(stored.pixels)[None, None].float() / 255
    image = F.grid_sample(pixels, grid, mode="bilinear", align_corners=False)[0, 0].numpy()
    objects = torch.from_numpy(stored.objects)[None, None].float()
    moved = F.grid_sample(objects, grid, mode="nearest", align_corners=False)[0, 0].numpy().astype(np.uint8)
    return image, [(moved >> bit & 1).astype(bool) for bit in range(len(stored.targets))]


def draw_box(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The tight box (4,) in edges, in half of the draws moved at each side by a normal error of up to a tenth."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
    if rng.random() < 0.5:
        side = np.tile(box[2:] - box[:2], 2)
        moved = box + np.clip(rng.normal(0, 0.04, 4), -0.1, 0.1) * side
        moved = np.clip(moved, 0, SIZE)
        if (moved[2:] - moved[:2] >= 2).all():
            box = moved
    return box.astype(np.float32)


def draw_click(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A click (2,) on the object: its middle pixel in row order, its deepest one, or any one, deep ones more often."""
    pixels = np.flatnonzero(mask)
    kind = rng.random()
    if kind < 0.4:
        chosen = pixels[len(pixels) // 2]
    else:
        depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].ravel()[pixels]
        chosen = pixels[depth.argmax()] if kind < 0.55 else rng.choice(pixels, p=depth / depth.sum())
    row, column = divmod(int(chosen), mask.shape[1])
    return np.array([column, row], np.float32)
