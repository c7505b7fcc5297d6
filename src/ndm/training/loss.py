"""The loss of a batch as a module. On several devices this module is wrapped, so that gradients are synchronised."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..likelihood import bits_per_dim
from ..model import NDM
from ..objective import Bound, bound_and_prediction, bound_terms, draw
from ..process import ForwardProcess
from ..straightness import curvature
from ..support.checks import require
from ..support.streams import Stream
from ..support.tensors import hashed, rand, seed_dropout, seeded
from ..times import ImportanceTimes, LowDiscrepancyTimes
from ..transform import Identity
from .cross_entropy import check_symbols, cross_entropy, learned_apart
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
        InputError: as :func:`check_loss`.
    """

    def __init__(self, model: NDM, settings: TrainingConfig, seed: int = 0, rank: int = 0, count: int = 1) -> None:
        super().__init__()
        check_loss(model, settings)
        self.model = model
        uniform = settings.uniform_times
        self.times = ImportanceTimes(uniform=uniform) if uniform < 1 else LowDiscrepancyTimes()
        self.steps, self.eta_range = settings.bound_steps, settings.eta_range
        self.weighting, self.straightness = settings.weighting, settings.straightness
        self.seed, self.rank, self.count = seed, rank, count
        # The compiled function is pure except for dropout: all other random numbers are drawn before it is called.
        self.by_entropy = self.weighting == "cross_entropy"
        terms = bound_and_prediction if self.by_entropy else bound_terms
        self.terms: Callable[..., Any] = torch.compile(terms) if settings.compile else terms

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
        terms, prediction = terms if self.by_entropy else (terms, None)
        balanced = terms.weighted(self.balance(draws.t))
        self.times.observe(draws.t, balanced.diffusion.detach())
        terms, balanced = terms.weighted(draws.weight), balanced.weighted(draws.weight)
        if self.model.process.schedule.per_channel or self.weighting == "flow_matching":
            # The gradient is that of the balanced terms, and the figure is the bound.
            terms = Bound(*(new + (old - new).detach() for old, new in zip(terms, balanced, strict=True)))
        figures = torch.stack([bits_per_dim(term, x).mean() for term in terms])
        if prediction is not None and figures.requires_grad:
            entropy = bits_per_dim(cross_entropy(self.model, prediction, x_model), x).mean()
            apart = learned_apart(self.model, prediction, entropy, figures.sum())
            figures = figures.detach() + apart / len(figures)
        if not self.straightness:
            return figures
        z_t = self.model.process(x_model).marginal(draws.t).at(draws.eps_t)
        penalty = self.straightness * (draws.weight * curvature(self.model, z_t, draws.t)).mean()
        return figures + (penalty - penalty.detach()) / len(figures)  # its gradient alone: the figures are the bound's

    def balance(self, t: Tensor) -> Tensor:
        """The weights of the diffusion term at ``t`` in the gradient, ``(B,)``."""
        process = self.model.process
        return flow_matching_weight(process, t) if self.weighting == "flow_matching" else process.schedule.balance(t)

    def draw_eta(self, x: Tensor, generator: torch.Generator) -> Tensor | None:
        """One eta per row, log-uniform in [1 / eta_range, eta_range]; for a range of 1 None, the process's own eta."""
        if self.eta_range == 1:
            return None
        u = rand((len(x),), x, generator, self.rank, self.count)
        return (math.log(self.eta_range) * (2 * u - 1)).exp()


def check_loss(model: NDM, settings: TrainingConfig) -> None:
    """Refuse settings of training that are not for this model. It may be on the meta device.

    Raises:
        InputError: if the schedule does not allow the number of steps of the bound, or the weighting or the penalty is
            for other models.
    """
    model.process.schedule.check_steps(settings.bound_steps)
    if settings.weighting == "flow_matching":
        check_flow_matching(model, settings)
    if settings.weighting == "cross_entropy":
        check_symbols(model)
    require(
        not settings.straightness or model.has_ode,
        "training.straightness is for models with an ODE: continuous time, and no target alone (set "
        "training.eta_range above 1)", settings.straightness,
    )  # fmt: skip


def flow_matching_weight(process: ForwardProcess, t: Tensor) -> Tensor:
    r"""The weight of the continuous diffusion term with which it is the squared error of the velocity, ``(B,)``.

    If F(x, t) = x, an error of :math:`\hat x` changes the velocity by :math:`-\alpha \dot\gamma / 2` times itself, and
    the reverse drift by :math:`1 + \eta` times that. So

    .. math:: \| u - \hat u \|^2 = \frac{2 g^2}{(1 + \eta)^2} \cdot \frac{\| b - \hat b \|^2}{2 g^2}

    References:
        Lipman, Chen, Ben-Hamu, Nickel, Le. Flow Matching for Generative Modeling. ICLR 2023.
        Kingma, Gao. Understanding Diffusion Objectives as the ELBO with Simple Data Augmentation. NeurIPS 2023.
    """
    return 2 * process.noise_rate(t) ** 2 / (1 + process.eta) ** 2


def check_flow_matching(model: NDM, settings: TrainingConfig) -> None:
    """Refuse what has no flow matching: its weight is no bound, so nothing of the forward process can be learned by it.

    Raises:
        InputError: saying what is wrong.
    """
    process = model.process
    require(
        isinstance(process.transform, Identity) and not any(p.requires_grad for p in process.parameters())
        and not process.schedule.per_channel and settings.bound_steps is None and settings.eta_range == 1,
        "training.weighting flow_matching is for conventional diffusion with a fixed schedule in continuous time "
        "(model.transform identity, model.schedule ot or another without parameters, training.bound_steps null, "
        "training.eta_range 1)", settings.weighting,
    )  # fmt: skip
