"""Scenes -> texts to ask in them, model inputs and labels (`Questions`)."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..evaluation.grounding import Scene
from ..geometry import boxes_to_unit
from ..grounding import TextGrounder
from ..grounding_texts import encode_captions, make_caption
from ..image_processing_ccsam import to_three_channels, to_unit_image

SHOWN_SHARE = 0.6  # of the texts that ask for something in the image
FINEST_STRIDE = 8  # pixels between the places of the backbone's finest map


@dataclass
class Questions:
    """Scenes -> a batch: texts for each image, drawn from what is in it and what is not.

    Three of five texts ask for a target that the image shows. A batch has one form of text, as short texts would be
    padded to the length of long ones.

    Args:
        grounder: its processor and tokenizer make the inputs.
        description_share: share of batches whose texts are in the long form.
        texts_per_image: K.
        targets: those whose masks the batch brings; none for no masks.
    """

    grounder: TextGrounder
    description_share: float
    texts_per_image: int = 1
    targets: tuple[str, ...] = ()

    def __call__(self, scenes: list[tuple[Scene, int]]) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """Model inputs and `labels` for `grounding_loss`.

        Returns:
            pixel_values (B, 3, H, W) and pixel_mask (B, H, W) of B images; input_ids, token_type_ids and
            attention_mask (B*K, T), the texts of an image one after the other; with targets also masks (B, N, h, w)
            in [0, 1], where h and w are an eighth of H and W. And B*K labels.
        """
        captions, boxes, images = [], [], []
        is_long = np.random.default_rng([scenes[0][1], 3]).random() < self.description_share
        for scene, seed in scenes:
            for target in draw_targets(scene, self.texts_per_image, np.random.default_rng([seed, 2])):
                captions.append(make_caption(target, "description" if is_long else "phrase"))
                found = np.array([box for name, box in scene.boxes.items() if name == target], dtype=np.float32)
                boxes.append(boxes_to_unit(torch.from_numpy(found.reshape(-1, 4)), scene.image.shape))
            images.append(to_three_channels(to_unit_image(scene.image), do_convert_grayscale=True))
        inputs = dict(self.grounder.processor.image_processor(images, do_rescale=False, return_tensors="pt"))
        tokens, phrase_maps = encode_captions(self.grounder.processor.tokenizer, captions, self.grounder.max_tokens)
        labels = [
            {"class_labels": torch.zeros(len(each), dtype=torch.long), "boxes": each, "phrase_maps": phrase_map[None]}
            for each, phrase_map in zip(boxes, phrase_maps, strict=True)
        ]
        if self.targets:
            inputs["masks"] = coarse_masks([scene for scene, _ in scenes], self.targets, inputs["pixel_values"].shape)
        return {**inputs, **tokens}, labels


def draw_targets(scene: Scene, count: int, rng: np.random.Generator) -> list[str]:
    """Which targets to ask for: see `Questions`. None is asked for twice as long as there are others of its kind.

    Every other time the first absent one is a target that was looked for in the image, such as the lesion of a normal
    breast, or a structure outside the frame.
    """
    present = [str(target) for target in rng.permutation(list(scene.boxes))]
    absent = [str(target) for target in rng.permutation(list(scene.absent))]
    if rng.random() < 0.5:
        absent.sort(key=lambda target: target not in scene.masks)
    if present and not absent:
        return [present[place % len(present)] for place in range(count)]
    if absent and not present:
        return [absent[place % len(absent)] for place in range(count)]
    is_shown = rng.random(count) < SHOWN_SHARE
    queues = {True: itertools.cycle(present), False: itertools.cycle(absent)}
    return [next(queues[bool(shown)]) for shown in is_shown]


def coarse_masks(scenes: list[Scene], targets: tuple[str, ...], shape: tuple[int, ...]) -> Tensor:
    """(B, N, h, w) in [0, 1]: the share of each structure in each place of the backbone's finest map."""
    size = shape[-2] // FINEST_STRIDE, shape[-1] // FINEST_STRIDE
    rows = []
    for scene in scenes:
        nowhere = np.zeros(scene.image.shape, dtype=bool)
        layers = np.stack([scene.masks.get(target, nowhere) for target in targets])
        rows.append(F.adaptive_avg_pool2d(torch.from_numpy(layers).float(), size))
    return torch.stack(rows)


__all__ = ["Questions", "coarse_masks", "draw_targets"]
