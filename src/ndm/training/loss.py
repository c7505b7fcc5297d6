"""The loss of a batch as a module: what is wrapped for several devices, so that gradients are synchronised."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..config import Config
from ..likelihood import bits_per_dim
from ..model import NDM
from ..objective import bound
from ..tensors import hashed, rand, seeded
from ..times import ImportanceTimes, LowDiscrepancyTimes

_NOISE, _ETA, _DROPOUT = 0, 3, 4  # purposes of the seeded streams, apart from those of the data


class Loss(nn.Module):
    """The bound in bits/dim of one process's rows of a batch.

    Times and noise are functions of (seed, step, microstep), drawn for the rows of all processes; dropout, which draws
    inside the network, is one of (seed, step, microstep, process).

    Args:
        model: the model.
        config: the run's settings.
        rank, count: this process among those that share the batch.
    """

    def __init__(self, model: NDM, config: Config, rank: int = 0, count: int = 1) -> None:
        super().__init__()
        self.model = model
        uniform = config.training.uniform_times
        self.times = ImportanceTimes(uniform=uniform) if uniform < 1 else LowDiscrepancyTimes()
        self.steps, self.eta_range = config.training.bound_steps, config.training.eta_range
        self.seed, self.rank, self.count = config.seed, rank, count

    def forward(self, x: Tensor, step: int, microstep: int = 0) -> Tensor:
        """Means over the rows ``x`` of the three terms, ``(3,)``, bits/dim."""
        shard = {"rank": self.rank, "count": self.count}
        if self.training:
            torch.manual_seed(hashed(self.seed, _DROPOUT, step, microstep, self.rank))
        eta = random_eta(self.model, x, self.eta_range, seeded(self.seed, _ETA, step, microstep, **shard))
        generator = seeded(self.seed, _NOISE, step, microstep, **shard)
        terms = bound(self.model, x, self.steps, self.times, generator, eta)
        return torch.stack([bits_per_dim(term, x).mean() for term in terms])


def random_eta(model: NDM, x: Tensor, largest: float, generator: torch.Generator) -> Tensor | None:
    """One eta per row of ``x``, log-uniform between ``1 / largest`` and ``largest``; None (the process's own) for 1."""
    if largest == 1:
        return None
    u = rand((len(x),), model.reference, generator)
    return (math.log(largest) * (2 * u - 1)).exp()
