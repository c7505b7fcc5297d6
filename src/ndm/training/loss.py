"""The loss of a batch as a module. On several devices this module is wrapped, so that gradients are synchronised."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..likelihood import bits_per_dim
from ..model import NDM
from ..objective import Bound, bound_terms, draw
from ..straightness import curvature
from ..support.checks import require
from ..support.streams import Stream
from ..support.tensors import hashed, rand, seed_dropout, seeded
from ..times import ImportanceTimes, LowDiscrepancyTimes
from .settings import TrainingConfig

PRIOR_EVERY = 8
"""One row of a batch in so many has its prior evaluated, where F is evaluated once more for it. The prior is small, and
its estimate and gradient stay unbiased. ``benchmarks/forms.py`` measures what a step costs."""


class Loss(nn.Module):
    """The bound, in bits/dim, on one process's rows of a batch.

    Times and noise depend only on (seed, step, microstep): every process draws them for the rows of all processes.
    Dropout draws inside the network, and depends on (seed, step, microstep, process).

    Args:
        model: the model.
        settings: the settings of training.
        seed: seed of all random draws.
        rank, count: the number of this process, from 0, and of all processes that share the batch.

    Raises:
        InputError: if the model's schedule does not allow the number of steps of the bound.
    """

    def __init__(self, model: NDM, settings: TrainingConfig, seed: int = 0, rank: int = 0, count: int = 1) -> None:
        super().__init__()
        model.process.schedule.check_steps(settings.bound_steps)
        self.model = model
        uniform = settings.uniform_times
        self.times = ImportanceTimes(uniform=uniform) if uniform < 1 else LowDiscrepancyTimes()
        self.steps, self.eta_range = settings.bound_steps, settings.eta_range
        self.straightness = settings.straightness
        require(
            not self.straightness or model.has_ode,
            "training.straightness is for models with an ODE: continuous time, and no target alone (set "
            "training.eta_range above 1)", self.straightness,
        )  # fmt: skip
        self.seed, self.rank, self.count = seed, rank, count
        # The compiled function is pure except for dropout: all other random numbers are drawn before it is called.
        self.terms = torch.compile(bound_terms) if settings.compile else bound_terms

    def forward(self, x: Tensor, step: int, microstep: int = 0) -> Tensor:
        """The three terms of the bound, ``(3,)``, in bits/dim: means over the rows ``x``, which are in data units."""
        key = (step, microstep)
        decoder = self.model.decoder
        cells = seeded(self.seed, Stream.CELLS, *key)
        x = decoder.jitter(x, rand((len(x), decoder.rounded), self.model.reference, cells, self.rank, self.count))
        x_model = self.model.encode(x)
        eta = self.draw_eta(x_model, seeded(self.seed, Stream.ETA, *key))
        latents = self.model.process.transform.latents(x_model)
        draws = draw(latents, self.times, seeded(self.seed, Stream.NOISE, *key), self.rank, self.count, PRIOR_EVERY)
        if self.training:
            seed_dropout(hashed(self.seed, Stream.DROPOUT, *key, self.rank))
        terms = self.terms(self.model, x, x_model, draws, self.steps, eta)
        balanced = terms.weighted(self.model.process.schedule.balance(draws.t))
        self.times.observe(draws.t, balanced.diffusion.detach())
        terms, balanced = terms.weighted(draws.weight), balanced.weighted(draws.weight)
        if self.model.process.schedule.per_channel:
            # The gradient is that of the balanced terms, and the figure is the bound.
            terms = Bound(*(new + (old - new).detach() for old, new in zip(terms, balanced, strict=True)))
        figures = torch.stack([bits_per_dim(term, x).mean() for term in terms])
        if not self.straightness:
            return figures
        z_t = self.model.process(x_model).marginal(draws.t).at(draws.eps_t)
        penalty = self.straightness * (draws.weight * curvature(self.model, z_t, draws.t)).mean()
        return figures + (penalty - penalty.detach()) / len(figures)  # its gradient alone: the figures are the bound's

    def draw_eta(self, x: Tensor, generator: torch.Generator) -> Tensor | None:
        """One eta per row, log-uniform in [1 / eta_range, eta_range]; for a range of 1 None, the process's own eta."""
        if self.eta_range == 1:
            return None
        u = rand((len(x),), x, generator, self.rank, self.count)
        return (math.log(self.eta_range) * (2 * u - 1)).exp()
