"""The exponential moving average of the weights that learn (`TrainableAverage`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class TrainableAverage:
    """Average of a module's learning parameters; frozen ones, which do not change, are not copied.

    The decay grows with the number of updates, min(decay, (1 + n) / (10 + n)), so that the start is soon forgotten.
    Buffers are those of the module itself.

    torch's `AveragedModel` is not used: it copies the frozen parameters too (nine tenths of CC-SAM), averages at a
    constant decay, and would break the resuming of earlier runs.

    Args:
        module: its parameters that require gradients now are averaged.
        decay: weight of the past, [0, 1); 0 makes the average the parameters themselves.
    """

    def __init__(self, module: nn.Module, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}; expected [0, 1)")
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.averages = [parameter.detach().clone() for parameter in self.parameters]
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.averages, [parameter.detach() for parameter in self.parameters], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module has the averages for its parameters inside, and its own again after."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"averages": self.averages, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved average."""
        averages: list[Tensor] = state["averages"]
        if [each.shape for each in averages] != [each.shape for each in self.averages]:
            raise ValueError(
                "the saved average is that of other parameters; resume with what learnt when it was saved"
            )
        for own, saved in zip(self.averages, averages, strict=True):
            own.copy_(saved)
        self.updates = state["updates"]
