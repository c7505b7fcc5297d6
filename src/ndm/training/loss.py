"""The loss of a batch as a module: what is wrapped for several devices, so that gradients are synchronised."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..likelihood import bits_per_dim
from ..model import NDM
from ..objective import bound_terms, draw
from ..support.streams import Stream
from ..support.tensors import hashed, rand, seeded
from ..times import ImportanceTimes, LowDiscrepancyTimes
from .settings import TrainingConfig


class Loss(nn.Module):
    """The bound in bits/dim of one process's rows of a batch.

    Times and noise are functions of (seed, step, microstep), drawn for the rows of all processes; dropout, which draws
    inside the network, is one of (seed, step, microstep, process).

    Args:
        model: the model.
        settings: the settings of training.
        seed: of everything that is drawn.
        rank, count: this process among those that share the batch.
    """

    def __init__(self, model: NDM, settings: TrainingConfig, seed: int = 0, rank: int = 0, count: int = 1) -> None:
        super().__init__()
        self.model = model
        uniform = settings.uniform_times
        self.times = ImportanceTimes(uniform=uniform) if uniform < 1 else LowDiscrepancyTimes()
        self.steps, self.eta_range = settings.bound_steps, settings.eta_range
        self.seed, self.rank, self.count = seed, rank, count
        # What is compiled is a pure function: everything random is drawn before it, but for dropout.
        self.terms = torch.compile(bound_terms) if settings.compile else bound_terms

    def forward(self, x: Tensor, step: int, microstep: int = 0) -> Tensor:
        """Means over the rows ``x`` of the three terms, ``(3,)``, bits/dim."""
        key = (step, microstep)
        x_model = self.model.encode(x)
        eta = self.draw_eta(x_model, seeded(self.seed, Stream.ETA, *key))
        draws = draw(x_model, self.times, seeded(self.seed, Stream.NOISE, *key), self.rank, self.count)
        if self.training:
            torch.manual_seed(hashed(self.seed, Stream.DROPOUT, *key, self.rank))
        terms = self.terms(self.model, x, x_model, draws, self.steps, eta)
        self.times.observe(draws.t, terms.diffusion.detach())
        return torch.stack([bits_per_dim(term, x).mean() for term in terms.weighted(draws.weight)])

    def draw_eta(self, x: Tensor, generator: torch.Generator) -> Tensor | None:
        """One eta per row, log-uniform between ``1 / eta_range`` and it; None, the process's own, for a range of 1."""
        if self.eta_range == 1:
            return None
        u = rand((len(x),), x, generator, self.rank, self.count)
        return (math.log(self.eta_range) * (2 * u - 1)).exp()
