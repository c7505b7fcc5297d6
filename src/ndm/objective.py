r"""The variational bound: the training objective, and the first number to report.

.. math::
    -\log p(x) \le
    \underbrace{\mathrm{KL}(q(z_1 \mid x) \,\|\, \mathcal{N}(0, I))}_{\text{prior}} +
    \underbrace{T\, \mathrm{E}_i\, \mathrm{KL}(q(z_s \mid z_t, x) \,\|\, p(z_s \mid z_t))}_{\text{diffusion}} +
    \underbrace{\mathrm{E}[-\log p(x \mid z_0)]}_{\text{reconstruction}}

with :math:`s = i/T,\ t = (i+1)/T`; as T grows the diffusion term tends to

.. math:: \mathrm{E}_t\, \|b_q(z_t, t) - b_p(z_t, t)\|^2 / (2 g_t^2)

where b are the reverse drifts. The prior and the diffusion term depend on F, and both are trained: without the prior, F
collapses or explodes. The reconstruction does not depend on F, because F(x, 0) = x (:mod:`ndm.soundness` tries this).

References:
    Bartosh, Vetrov, Naesseth. Neural Diffusion Models. ICML 2024, Algorithm 1.
    Kingma, Salimans, Poole, Ho. Variational Diffusion Models. NeurIPS 2021.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .gaussian import Gaussian
from .mixture import divergence
from .model import NDM, check_gradients, check_model
from .predictor import Prediction
from .process import ConditionalProcess
from .support.checks import check_eta, require_count, require_kind
from .support.tensors import expand, full_times, rand, randn_like, sum_rows
from .times import LowDiscrepancyTimes
from .transform import BasisCurve


class Bound(NamedTuple):
    """The three terms of the bound, each ``(B,)``, nats."""

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor

    @property
    def total(self) -> Tensor:
        """The bound on -log p(x), ``(B,)``, nats."""
        return self.prior + self.diffusion + self.reconstruction

    def weighted(self, weight: Tensor) -> Bound:
        """This bound with the diffusion term multiplied by ``weight``, ``(B,)``."""
        return self._replace(diffusion=weight * self.diffusion)


class Draws(NamedTuple):
    """All random draws for the bound of a batch ``(B, *)``."""

    t: Tensor
    """The times at which the diffusion term is evaluated, ``(B,)``."""
    weight: Tensor
    """The weights that make the estimate of the diffusion term unbiased, ``(B,)``."""
    eps_0: Tensor
    """The noise of z_0, ``(B, *)``; of symbols also that of z_s, which must not depend on that of z_t."""
    eps_t: Tensor
    """The noise of z_t, ``(B, *)``."""
    prior_rows: slice = slice(None)
    """The rows whose prior is evaluated, if F is evaluated once more for it."""
    prior_weight: float = 1.0
    """The weight that makes their estimate of the mean prior unbiased."""


def draw(
    z: Tensor,
    times: LowDiscrepancyTimes,
    generator: torch.Generator | None = None,
    rank: int = 0,
    count: int = 1,
    prior_every: int = 1,
) -> Draws:
    """The draws for latents like ``z``, ``(B, *)``, with ``z`` part ``rank`` of ``count`` equal parts of a batch.

    One row in ``prior_every`` of the whole batch has its prior evaluated.
    """
    eps_0 = randn_like(z, generator, rank, count)
    t, weight = times(z, generator, rank, count)
    eps_t, rows = randn_like(z, generator, rank, count), len(z) * count
    if prior_every == 1:
        return Draws(t, weight, eps_0, eps_t)
    first = -rank * len(z) % prior_every
    return Draws(t, weight, eps_0, eps_t, slice(first, None, prior_every), rows / math.ceil(rows / prior_every))


def bound(
    model: NDM,
    x: Tensor,
    steps: int | None = None,
    times: LowDiscrepancyTimes | None = None,
    generator: torch.Generator | None = None,
    eta: Tensor | None = None,
) -> Bound:
    """An unbiased estimate of the bound on -log p(x), differentiable in all parameters.

    Args:
        model: the model.
        x: data in data units, ``(B, *)``: a torch tensor or a NumPy array of integers or floats of any precision.
        steps: the number of steps T; None is continuous time.
        times: draws the times at which the diffusion term is evaluated; by default low-discrepancy uniform times.
        generator: seeds the times and the noise.
        eta: replaces the eta of the process, one value between 1e-12 and 1e12 per row, ``(B,)``. Each eta has its own
            reverse process and its own bound; at small eta the bound mostly measures the error of the ODE's velocity.

    Returns:
        The three terms per row, in nats.

    Raises:
        InputError: if x does not fit the model or is not finite, the schedule does not allow ``steps``, or the model's
            dtype cannot resolve the schedule (see :meth:`ndm.Schedule.check_precision`).
    """
    check_model(model)
    if torch.is_grad_enabled():
        check_gradients(model)
    if steps is not None:
        require_count(steps=steps)
    model.process.schedule.check_steps(steps)
    if eta is not None:
        many = isinstance(eta, Tensor) and eta.numel() > 0 and not eta.is_meta
        check_eta(*([eta.min().item(), eta.max().item()] if many else [eta]))
    times = LowDiscrepancyTimes() if times is None else times
    require_kind(times=(times, LowDiscrepancyTimes))
    x = model.rows(x)
    x = model.decoder.jitter(x, rand((len(x), model.decoder.rounded), model.reference, generator))
    x_model = model.encode(x)
    draws = draw(model.process.transform.latents(x_model), times, generator)
    terms = bound_terms(model, x, x_model, draws, steps, eta)
    times.observe(draws.t, terms.diffusion.detach())
    return terms.weighted(draws.weight)


def bound_terms(
    model: NDM, x: Tensor, x_model: Tensor, draws: Draws, steps: int | None = None, eta: Tensor | None = None
) -> Bound:
    """The terms of :func:`bound` as a function of the draws; the weight of the diffusion term is not applied.

    Args:
        x, x_model: the data in data units and in model units, ``(B, *)``.

    Raises:
        InputError: if the dtype of ``x_model`` cannot resolve the schedule or the number of steps.
    """
    return bound_and_prediction(model, x, x_model, draws, steps, eta)[0]


def bound_and_prediction(
    model: NDM, x: Tensor, x_model: Tensor, draws: Draws, steps: int | None = None, eta: Tensor | None = None
) -> tuple[Bound, Prediction]:
    """:func:`bound_terms`, and the prediction at the times that were drawn."""
    model.process.schedule.check_precision(x_model.dtype, steps)
    q = model.process(x_model, eta=eta).keeping()
    prior = prior_term(model, q, x_model, draws)

    z_0 = q.start().at(draws.eps_0)
    reconstruction = model.decoder.nll(x, z_0, model.process)

    s, t = (draws.t, draws.t) if steps is None else step_around(draws.t, steps)
    if steps is None:
        q.affine_with_derivative(t)  # first, so that F and its derivative are evaluated once and together
    z_t = q.marginal(t).at(draws.eps_t)
    prediction = model.predict(z_t, t)
    p = model.reverse(prediction, q.eta)
    diffusion = drift_error(q, p, z_t, t) if steps is None else steps * step_error(q, p, z_t, s, t, draws.eps_0)
    return Bound(prior, diffusion, reconstruction), prediction


def prior_term(model: NDM, q: ConditionalProcess, x: Tensor, draws: Draws) -> Tensor:
    """KL(q(z_1 | x) || N(0, I)), ``(B,)``, nats; 0 for rows that others stand for."""
    rows, prior = draws.prior_rows, x.new_zeros(len(x))
    if rows == slice(None) or isinstance(q.curve, BasisCurve):  # F(x, 1) is wanted for all rows, or costs nothing
        z_1 = q.marginal(full_times(1.0, x))
        return z_1.kl(Gaussian.standard(z_1.mean))
    if len(few := x[rows]):
        z_1 = model.process(few).marginal(full_times(1.0, few))
        prior[rows] = draws.prior_weight * z_1.kl(Gaussian.standard(z_1.mean)).to(prior)
    return prior


def step_around(u: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The ends s < t of the step that contains ``u``, one of ``steps`` equal steps; each ``(B,)``."""
    i = (u * steps).floor().clamp(max=steps - 1)
    return i / steps, (i + 1) / steps


def discrete_diffusion(
    model: NDM, q: ConditionalProcess, z_t: Tensor, s: Tensor, t: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """KL(q(z_s | z_t, x) || p(z_s | z_t)), ``(B,)``, nats: the contribution of one step to the diffusion term.

    That of symbols is an estimate, with noise that ``generator`` seeds.
    """
    eps = randn_like(z_t, generator) if model.predictor.symbols else torch.zeros_like(z_t)
    return step_error(q, model(z_t, t, q.eta), z_t, s, t, eps)


def continuous_diffusion(model: NDM, q: ConditionalProcess, z_t: Tensor, t: Tensor) -> Tensor:
    """The integrand of the diffusion term at ``t``, ``(B,)``, nats per unit of time."""
    return drift_error(q, model(z_t, t, q.eta), z_t, t)


def step_error(q: ConditionalProcess, p: ConditionalProcess, z_t: Tensor, s: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """:func:`discrete_diffusion` of a reverse process p, for symbols with the noise ``eps``, ``(B, *)``."""
    return divergence(q.posterior(z_t, s, t), p.posterior(z_t, s, t), eps)


def drift_error(q: ConditionalProcess, p: ConditionalProcess, z_t: Tensor, t: Tensor) -> Tensor:
    """:func:`continuous_diffusion` of a reverse process p."""
    return sum_rows(((q.reverse_drift(z_t, t) - p.reverse_drift(z_t, t)) / expand(q.noise_rate(t), z_t)) ** 2) / 2
