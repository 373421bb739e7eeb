"""Cases or rows of a built data set -> what the model trains on: resized, augmented, prompted (`Samples`).

    case or row --read--> image, mask --resize--> 256x256 --Augmentation--> image, mask --PromptSampler--> sample

Images and masks are resized as `CCSamImageProcessor` does it, so that without augmentation `pixel_values` and `labels`
are what `CCSamProcessor` gives. Prompts are drawn from the mask after resize and augmentation, as in SAMUS.

What is drawn for a sample depends on the seed, the epoch and the sample's data set, name and target, and on nothing
else: it is the same for any number of workers and processes, in any order, local or streamed.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tvF

from ..geometry import resize_masks
from ..processing_ccsam import PAD_VALUE
from .augmentation import NO_AUGMENTATION, Augmentation
from .cases import Case
from .prompts import TRAINING_PROMPTS, PromptSampler

logger = logging.getLogger(__name__)

COLUMNS = ("image", "mask", "name", "target", "dataset")


class SampleMaker:
    """What `Samples` and `StreamedSamples` share: settings, epoch, and how a row becomes a sample.

    A sample holds, as `CCSamModel` takes them once a batch axis is in front:

    | key | shape | |
    |---|---|---|
    | pixel_values | (3, H, W) float32 | in [0, 1] |
    | labels | (1, H, W) float32 | 0 or 1 |
    | input_points | (1, N, 2) float32 | N is the sampler's `max_points`; where fewer are drawn the rest is -10 |
    | input_labels | (1, N) int64 | 1 on the object, 0 beside it, -10 where there is no point |
    | input_boxes | (1, 4) float32 | |
    | text | str | "" where none is drawn |
    | name, target, dataset | str | |

    Coordinates are pixels of the H x W frame. Keys of parts that the sampler never draws are absent.

    Args:
        prompts: draws the prompts; of boxes it draws one for every sample or none for any, so that samples batch.
        augmentation: changes image and mask before.
        seed: of everything that is drawn.
        size: (height, width) of the model input.

    Raises:
        ValueError: a sampler that draws boxes for some of the samples only.
    """

    def __init__(self, prompts: PromptSampler, augmentation: Augmentation, seed: int, size: tuple[int, int]):
        if prompts.probability_of("box") not in (0, 1):
            raise ValueError(
                f"the sampler draws boxes with probability {prompts.probability_of('box'):g}; expected 0 or 1: a "
                "batch has a box for every sample or for none"
            )
        self.prompts, self.augmentation, self.seed, self.size = prompts, augmentation, seed, tuple(size)
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that live on see it change

    def set_epoch(self, epoch: int) -> None:
        """Draw anew in the next pass: call it in every process before each epoch; accelerate does so for one only."""
        self.epoch.fill_(epoch)

    def resize(self, image: np.ndarray, mask: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (1, H, W) float32 in [0, 1] and mask (1, H, W) bool from (H0, W0) uint8 and bool."""
        pixels = torch.tensor(image)[None].float().div_(255)
        pixels = tvF.resize(pixels, self.size, interpolation=InterpolationMode.BILINEAR, antialias=True)
        return pixels.clamp_(0, 1), resize_masks(torch.from_numpy(mask)[None, None], self.size)[0].bool()

    def make(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """The sample of a row; None where no pixel of the resized mask is set, so that no prompt can be drawn."""
        image, mask = self.resize(row["image"], row["mask"])
        if not mask.any():
            return None
        rng = np.random.default_rng([self.seed, int(self.epoch), identity(row)])
        height, width = row["image"].shape
        pixel_aspect = width * self.size[0] / (height * self.size[1])
        image, mask, _ = self.augmentation(
            tv_tensors.Image(image), tv_tensors.Mask(mask), rng=rng, pixel_aspect=pixel_aspect
        )
        prompt = self.prompts.sample(mask[0].numpy(), row["target"], rng)

        sample = {
            "pixel_values": image.as_subclass(torch.Tensor).repeat(3, 1, 1),
            "labels": mask.as_subclass(torch.Tensor).float(),
        }
        if self.prompts.max_points:
            points = torch.full((1, self.prompts.max_points, 2), float(PAD_VALUE))
            labels = torch.full((1, self.prompts.max_points), PAD_VALUE)
            if prompt.points is not None:
                points[0, : len(prompt.points)] = torch.from_numpy(prompt.points)
                labels[0, : len(prompt.points)] = torch.from_numpy(prompt.labels)
            sample |= {"input_points": points, "input_labels": labels}
        if prompt.box is not None:
            sample["input_boxes"] = torch.from_numpy(prompt.box)[None]
        if self.prompts.text:
            sample["text"] = prompt.text or ""
        return sample | {key: row[key] for key in ("name", "target", "dataset")}


class Samples(SampleMaker, Dataset):
    """Samples of cases or of a built data set that lies on disk, by index; `SampleMaker` says what a sample holds.

    A mask without object cannot be prompted. Where a data set has a column `mask_area`, rows with 0 are left out, and
    with `check_masks` every sample whose object has no pixel in the model input; the log says how many. One that is
    met later raises an error: no sample is passed over in silence.

    Args:
        source: cases, or a `datasets.Dataset` with the columns of `ccsam_hf.data.rows`, of which image, mask, name,
            target and dataset are needed. Cases of the layout "built" are slow in random order, because they read many
            rows for one: use `ccsam_hf.data.build.load_built`.
        prompts, augmentation, seed, size: see `SampleMaker`.
        check_masks: decode all masks at construction, once, instead of relying on `mask_area`.

    Attributes:
        indices: positions in the source of what is kept; `samples[i]` is made from `source[samples.indices[i]]`.

    Raises:
        ValueError: a column is missing, no sample has an object, or see `SampleMaker`.
    """

    def __init__(
        self,
        source: Sequence[Case] | Any,
        prompts: PromptSampler = TRAINING_PROMPTS,
        augmentation: Augmentation = NO_AUGMENTATION,
        seed: int = 0,
        size: tuple[int, int] = (256, 256),
        check_masks: bool = False,
    ):
        super().__init__(prompts, augmentation, seed, size)
        columns = getattr(source, "column_names", None)
        self.source = source if columns is None else selected(source)
        has_object = np.ones(len(source), dtype=bool)
        if check_masks:
            masks = self.source if columns is None else self.source.select_columns("mask")
            has_object[:] = [self.has_object(item) for item in masks]
        elif columns is not None and "mask_area" in columns:
            has_object[:] = np.array(source["mask_area"][:]) > 0
        self.indices = np.flatnonzero(has_object)
        if len(self.indices) == 0:
            raise ValueError(f"none of {len(source)} samples has an object; expected masks to draw prompts from")
        if len(self.indices) < len(source):
            logger.warning(
                "%d of %d samples have no object to draw a prompt from and are left out",
                len(source) - len(self.indices),
                len(source),
            )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A sample.

        Raises:
            ValueError: image or mask cannot be read or differ in size, or the resized mask is empty.
        """
        row = read(self.source[int(self.indices[index])])
        sample = self.make(row)
        if sample is None:
            raise ValueError(
                f"{described(row)}: no pixel of the mask ({int(row['mask'].sum())} at {row['mask'].shape}) is set at "
                f"{self.size}, so no prompt can be drawn: check_masks=True leaves such samples out"
            )
        return sample

    def has_object(self, item: Case | dict[str, Any]) -> bool:
        """Whether a pixel of the resized mask is set."""
        mask = item.mask if isinstance(item, Case) else to_mask(item["mask"])
        return bool(resize_masks(torch.from_numpy(mask)[None, None], self.size).any())


class StreamedSamples(SampleMaker, IterableDataset):
    """Samples of a streamed data set, in the stream's order; `SampleMaker` says what a sample holds.

    Rows without an object in the model input are left out; the log says how many at the end of each pass. The workers
    of a `DataLoader` share the files of the stream between them, so there should be at least as many files as workers.
    Shuffle the stream before (`stream.shuffle(seed, buffer_size)`). With several processes, either split the stream
    (`datasets.distributed.split_dataset_by_node`) and do not let accelerate prepare the loader, which would split it
    again; or let it, with `dispatch_batches=False`, and every process reads the whole stream for its share.

    Args:
        source: `datasets.IterableDataset` with the columns that `Samples` needs.
        prompts, augmentation, seed, size: see `SampleMaker`.

    Raises:
        ValueError: a column is missing, or see `SampleMaker`.
    """

    def __init__(
        self,
        source: Any,
        prompts: PromptSampler = TRAINING_PROMPTS,
        augmentation: Augmentation = NO_AUGMENTATION,
        seed: int = 0,
        size: tuple[int, int] = (256, 256),
    ):
        super().__init__(prompts, augmentation, seed, size)
        self.source = selected(source)

    def set_epoch(self, epoch: int) -> None:
        """Draw anew and shuffle the stream anew in the next pass."""
        super().set_epoch(epoch)
        self.source.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        left_out = 0
        for item in self.source:
            sample = self.make(read(item))
            if sample is None:
                left_out += 1
            else:
                yield sample
        if left_out:
            logger.warning("%d samples have no object to draw a prompt from and were left out", left_out)


def selected(source: Any) -> Any:
    """The data set with the columns of a sample alone; ValueError where one is missing."""
    columns = source.column_names or []  # None for a stream that does not know them
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise ValueError(
            f"the data set has columns {columns} and no {', '.join(missing)}; expected {', '.join(COLUMNS)}: rename "
            "yours, and call resolve_features() on a stream that tells none"
        )
    return source.select_columns(list(COLUMNS))


def read(item: Case | dict[str, Any]) -> dict[str, Any]:
    """The columns of a sample with image (H0, W0) uint8 and mask (H0, W0) bool; ValueError where sizes differ."""
    if isinstance(item, Case):
        row = {name: getattr(item, name) for name in COLUMNS}
    else:
        row = item | {"image": np.asarray(item["image"].convert("L")), "mask": to_mask(item["mask"])}
    if row["image"].shape != row["mask"].shape:
        raise ValueError(
            f"{described(row)}: mask of shape {row['mask'].shape} and image of {row['image'].shape}; expected one"
        )
    return row


def to_mask(image: Image.Image) -> np.ndarray:
    """(H0, W0) bool, set above zero."""
    return np.asarray(image.convert("L")) > 0


def described(row: dict[str, Any]) -> str:
    """A sample in words, for errors."""
    return f"{row['dataset']}/{row['name']} ({row['target']})"


def identity(row: dict[str, Any]) -> int:
    """A number for a sample that is the same on every machine, 0 to 2**64."""
    key = "\0".join(row[name] for name in ("dataset", "name", "target"))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
