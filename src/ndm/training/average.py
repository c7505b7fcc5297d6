"""The exponential moving average (EMA) of a model's weights, which is the model that is evaluated and saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def _local(parameter: Tensor) -> Tensor:
    """This process's part of a parameter, which may be sharded (FSDP). It shares the parameter's memory."""
    value = parameter.detach()
    return value.to_local() if hasattr(value, "to_local") else value


class Average:
    """The moving average of a module's parameters. If they are sharded, each process averages its own shard.

    Args:
        module: the module whose parameters are averaged. The average starts at their present values.
        decay: the decay per step. While ``(1 + step) / (10 + step)`` is smaller, the average uses that instead, so that
            it soon forgets the first values.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.values = [_local(p).clone() for p in self.parameters]
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the parameters after step number ``step``, which counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if self.values:
            torch._foreach_lerp_(self.values, [_local(p) for p in self.parameters], 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within this context the module holds the average, and ``values`` holds the parameters."""
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
