"""The exponential moving average of a model's weights (EMA): what is evaluated and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def _local(parameter: Tensor) -> Tensor:
    """This process's part of a parameter that may be sharded (FSDP); it shares the parameter's memory."""
    value = parameter.detach()
    return value.to_local() if hasattr(value, "to_local") else value


class Average:
    """The moving average of a module's parameters, shard by shard where they are sharded.

    Args:
        module: whose parameters are averaged; it starts from their present values.
        decay: of the average; ``(1 + step) / (10 + step)`` while that is less, so that it forgets the start.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.values = [_local(p).clone() for p in self.parameters]
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the parameters as they are after ``step``, which counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if self.values:
            torch._foreach_lerp_(self.values, [_local(p) for p in self.parameters], 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within, the module's parameters are the average and ``values`` the parameters."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, value in zip(self.parameters, self.values, strict=True):
            local = _local(parameter)
            kept = local.clone()
            local.copy_(value)
            value.copy_(kept)
