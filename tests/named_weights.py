"""Weights and inputs made from names and formulas: the same numbers on every machine, without a file of 500 MB.

The stream of `numpy.random.RandomState` is frozen by numpy's own promise: a weight depends on its name and shape only.
"""

import re
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

# Name pattern to (mean, standard deviation); what matches nothing is scaled by its fan-in. Chosen so that signals keep
# a size of about one through all layers and every part (positions, norms, tables) moves the result.
SCALES = (
    (r"gaussian_matrix$|positional_embedding$", (0.0, 1.0)),
    (r"pos_embed$", (0.0, 0.5)),
    (r"rel_pos_[hw]$", (0.0, 0.15)),
    (r"point_embed|not_a_point_embed|no_mask_embed|iou_token|mask_tokens", (0.0, 1.0)),
    (r"running_var$", (1.0, 0.2)),
    (r"running_mean$", (0.0, 0.2)),
    (r"bias$", (0.0, 0.1)),
)


def fill(name: str, shape: tuple[int, ...]) -> Tensor:
    """A float32 tensor, uniform around the mean its name asks for, seeded by the CRC-32 of the name."""
    named = [scale for pattern, scale in SCALES if re.search(pattern, name)]
    if named:
        mean, std = named[0]
    elif len(shape) == 1:  # the weight of a norm
        mean, std = 1.0, 0.1
    else:
        mean, std = 0.0, 1.2 / np.sqrt(np.prod(shape[1:]))
    stream = np.random.RandomState(zlib.crc32(name.encode()))
    values = mean + std * np.sqrt(3) * stream.uniform(-1, 1, size=shape)
    return torch.from_numpy(values.astype(np.float32))


def fill_like(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Named weights for every floating-point tensor of a state dict; counters become zero."""
    return {
        name: fill(name, tuple(tensor.shape)) if tensor.is_floating_point() else torch.zeros_like(tensor, device="cpu")
        for name, tensor in state_dict.items()
    }


def formula_image(size: int, batch_size: int = 1) -> Tensor:
    """Smooth and sharp structure in [0, 1], different in every channel and image: (batch_size, 3, size, size)."""
    y, x = np.meshgrid(np.arange(size) / size, np.arange(size) / size, indexing="ij")
    images = []
    for index in range(batch_size):
        rings = np.cos(40 * np.hypot(x - 0.4 - 0.1 * index, y - 0.55))
        waves = np.sin(9 * x + 5 * y * y) + ((7 * x).astype(int) % 2)
        images.append([0.5 + 0.2 * rings * np.cos(channel + 3 * x) + 0.1 * (waves - 0.5) for channel in range(3)])
    return torch.from_numpy(np.array(images).clip(0, 1).astype(np.float32))
