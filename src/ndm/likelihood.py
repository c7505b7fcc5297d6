r"""Likelihood through the model's ODE.

.. math:: \log p_{\mathrm{ODE}}(z_0) = \log \mathcal{N}(z_1; 0, I) + \int_0^1 \nabla \cdot u_p(z_t, t)\, dt

Every estimator is :math:`\log p_{\mathrm{ODE}}` of some :math:`z_0`, plus the logarithm of a weight w:

==============================  =====================================  =============================================
data, dequantisation            :math:`z_0`                            :math:`\log w`
==============================  =====================================  =============================================
continuous                      :math:`\alpha_0 x`                     :math:`D \log \alpha_0` less the decoder's
                                                                       log-scale
K levels, ``"decoder"``         drawn from :math:`q(z_0 \mid x)`       :math:`\log p(x \mid z_0) - \log q(z_0|x)`
K levels, ``"uniform"``         :math:`\alpha_0 (x + (2u - 1) / K)`    :math:`D \log \alpha_0 + D \log (2 / K)`
==============================  =====================================  =============================================

with x in model units and u uniform in :math:`[0, 1)^D`. Continuous data: exact up to the solver. Discrete data: a lower
bound in expectation, tighter with more importance samples,
:math:`\log p(x) \ge \mathrm{E} \log \frac1S \sum_s w_s\, p_{\mathrm{ODE}}(z_0^s)`.

Bits per dimension are nats / (D ln 2); there is no other constant.

References:
    Chen, Rubanova, Bettencourt, Duvenaud. Neural Ordinary Differential Equations. NeurIPS 2018.
    Grathwohl et al. FFJORD. ICLR 2019 (Hutchinson's estimator).
    Theis, van den Oord, Bethge. A Note on the Evaluation of Generative Models. ICLR 2016 (uniform dequantisation).
    Burda, Grosse, Salakhutdinov. Importance Weighted Autoencoders. ICLR 2016.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor

from .errors import InputError
from .gaussian import Gaussian
from .model import NDM
from .sampling import velocity_field
from .solvers import ODE_SOLVERS, Failures, Solver, VectorField, find_solver, solve_ode
from .support.tensors import expand, full_times, rand, randn_like, sum_rows

Divergence = Literal["exact", "hutchinson", "hutchinson-gaussian"]
Dequantization = Literal["decoder", "uniform"]
Nats = TypeVar("Nats", Tensor, float)
EXACT_UP_TO = 256  # elements of a row, for affordable_divergence


def bits_per_dim(nats: Nats, x: Tensor) -> Nats:
    """Nats per row, a tensor or a number, to bits per element of a row of ``x``: nats / (D ln 2)."""
    return nats / (x[0].numel() * math.log(2))


def affordable_divergence(x: Tensor) -> Divergence:
    """The divergence for rows like those of ``x``: exact up to 256 elements, because its cost grows with them."""
    return "exact" if x[0].numel() <= EXACT_UP_TO else "hutchinson"


class Likelihood(NamedTuple):
    """An estimate of log p(x) by the ODE, per row."""

    log_prob: Tensor
    """``(B,)``, nats."""
    standard_error: Tensor
    """Monte-Carlo error of ``log_prob`` over its own draws, ``(B,)``, nats; 0 if nothing is drawn, NaN for one draw.
    For importance samples by the delta method: close to 1 it means that one weight dominates, and understates."""
    nfe: Tensor
    """Evaluations of the field per solve, ``(B,)``."""
    divergence_nfe: Tensor
    """Evaluations of the divergence per solve, ``(B,)``; ``dopri5`` makes them besides those of the field."""
    failures: Failures
    """The rows that the solver could not finish, in any of the draws; their ``log_prob`` is NaN."""

    @classmethod
    def concatenate(cls, blocks: Sequence[Likelihood]) -> Likelihood:
        """One estimate of consecutive blocks of rows."""
        return cls(
            torch.cat([block.log_prob for block in blocks]),
            torch.cat([block.standard_error for block in blocks]),
            torch.cat([block.nfe for block in blocks]),
            torch.cat([block.divergence_nfe for block in blocks]),
            Failures.concatenate([block.failures for block in blocks]),
        )

    def checked(self) -> Likelihood:
        """This estimate.

        Raises:
            SolverError: if the solver could not finish some rows; ``result`` is this estimate.
        """
        return self.failures.check(self)


def log_prob(model: NDM, x: Tensor, **options: Any) -> Tensor:
    """log p(x) by the model's ODE, ``(B,)``, nats: exact up to the solver for continuous data, else a lower bound.

    The options are those of :func:`ode_likelihood`. If ``x`` requires a gradient, the result is differentiable in it.

    Raises:
        InputError: as :func:`ode_likelihood`.
        SolverError: if the solver could not finish some rows; ``result`` is the :class:`Likelihood` of all rows.

    Example:
        >>> process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
        >>> model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,))), ndm.GaussianDecoder())
        >>> x = torch.randn(3, 2, requires_grad=True)
        >>> (score,) = torch.autograd.grad(ndm.log_prob(model, x, solver="rk4").sum(), x)
    """
    return ode_likelihood(model, x, **options).checked().log_prob


def ode_likelihood(
    model: NDM,
    x: Tensor,
    solver: Solver | str = "dopri5",
    dequantization: Dequantization = "decoder",
    divergence: Divergence = "exact",
    samples: int = 1,
    max_rows: int | None = None,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> Likelihood:
    """log p(x) by the model's ODE, with its Monte-Carlo error and cost.

    Rows that the solver cannot finish raise nothing: ``failures`` of the result says which they are, and their
    ``log_prob`` is NaN. :meth:`Likelihood.checked` raises an error for them.

    Args:
        model: the model.
        x: data in its own units, ``(B, *)``. If it requires a gradient, so does the result (the solver's steps are held
            fixed); otherwise no graph is kept.
        solver: a name of ``ndm.ODE_SOLVERS``, or an :class:`ndm.Solver`; ``dopri5`` controls each row on its own.
        dequantization: for discrete data, through the decoder or uniform noise (see the table above).
        divergence: ``"exact"`` (D backward passes per evaluation) or Hutchinson's estimator (one, unbiased, noisy) with
            Rademacher or Gaussian probes, one probe per solve.
        samples: for discrete data and exact divergence, importance samples. With Hutchinson's estimator the draws are
            averaged instead, because the logarithm of an average of noisy weights is no bound; so are the probes of
            continuous data.
        max_rows: rows solved at once, to bound memory; the answer does not depend on it.
        dtype: compute in this precision, in a copy of the model.
        generator: seeds the latents and the probes.

    Raises:
        InputError: if x is out of the decoder's range or not finite, or an option does not fit.
    """
    if divergence not in get_args(Divergence):
        raise InputError(f"divergence must be one of {', '.join(get_args(Divergence))}; got {divergence!r}")
    if dequantization not in get_args(Dequantization):
        raise InputError(f"dequantization must be 'decoder' or 'uniform', got {dequantization!r}")
    for name, count in (("samples", samples), ("max_rows", max_rows)):
        if count is not None and count < 1:
            raise InputError(f"{name} must be at least 1, got {count}")
    solver = Solver.of(solver)
    find_solver(solver.name, ODE_SOLVERS)
    model.process.schedule.check_steps(None)
    if dtype is not None:
        model = copy.deepcopy(model).to(dtype)
        x = x.to(dtype) if x.is_floating_point() else x
    random = model.decoder.discrete or divergence != "exact"
    draws: list[Likelihood] = []
    with torch.set_grad_enabled(x.requires_grad and torch.is_grad_enabled()):
        for _ in range(samples if random else 1):
            z_0, log_weight = draw_latent(model, x, dequantization, generator)
            probe = draw_probe(z_0, divergence, generator)
            draw = _in_blocks(velocity_field(model), z_0, probe, solver, max_rows)
            draws.append(draw._replace(log_prob=draw.log_prob + log_weight))
        return _average(draws, importance=divergence == "exact", random=random)


def draw_latent(
    model: NDM, x: Tensor, dequantization: Dequantization = "decoder", generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """z_0 and log w of the table above, ``(B, *)`` and ``(B,)``.

    Raises:
        InputError: if x does not fit the decoder, or continuous data are to be dequantised.
    """
    x_model = model.encode(x)
    t_0 = full_times(0.0, x_model)
    noise = model.process.schedule(t_0)
    if dequantization == "decoder":
        return model.decoder.draw_latent(x, x_model, model.process(x_model).marginal(t_0), noise, generator)
    u, log_volume = model.decoder.dequantize(x_model, generator)
    return expand(noise.alpha, u) * u, u[0].numel() * noise.alpha.log() + log_volume


def draw_probe(z: Tensor, divergence: Divergence, generator: torch.Generator | None = None) -> Tensor | None:
    """Noise of unit covariance shaped like ``z`` for Hutchinson's estimator, or None for the exact divergence."""
    if divergence == "exact":
        return None
    if divergence == "hutchinson-gaussian":
        return randn_like(z.detach(), generator)
    return 2 * (rand(tuple(z.shape), z.detach(), generator) < 0.5).to(z) - 1


def ode_log_prob(
    f: VectorField,
    z_0: Tensor,
    probe: Tensor | None = None,
    solver: Solver | str = "dopri5",
) -> Likelihood:
    """log-density at ``z_0`` of the variable that dz = f dt carries to N(0, I) at t = 1.

    Rows that the solver cannot finish raise nothing: ``failures`` of the result says which they are, and their
    log-density is NaN.

    Args:
        f: the vector field ``f(t, z)``.
        z_0: where, ``(B, *)``.
        probe: for Hutchinson's estimator, as of :func:`draw_probe`; None is the exact divergence.
        solver: a name of ``ndm.ODE_SOLVERS``, or an :class:`ndm.Solver`.
    """
    field: VectorField = lambda t, z, *_: f(t, z)  # noqa: E731
    args = () if probe is None else (probe,)
    # A graph only where it is asked for: the field's parameters alone would keep every evaluation's.
    with torch.set_grad_enabled(z_0.requires_grad and torch.is_grad_enabled()):
        end = solve_ode(field, z_0, 0.0, 1.0, solver, args, partial(value_and_divergence, f))
    log_p = Gaussian.standard(end.state).log_prob(end.state) + end.integral
    if end.failures:
        log_p = log_p.index_fill(0, end.failures.rows.to(log_p.device), math.nan)
    error = torch.full_like(log_p, 0.0 if probe is None else math.nan).detach()
    return Likelihood(log_p, error, end.nfe.to(log_p.dtype), end.quadrature_nfe.to(log_p.dtype), end.failures)


def value_and_divergence(f: VectorField, t: Tensor, z: Tensor, probe: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""f and its divergence in z: exact, or :math:`\epsilon^\top J \epsilon` for a probe; ``(B, *)``, ``(B,)``.

    Both are differentiable if ``z`` requires a gradient, and detached otherwise.
    """
    keep = z.requires_grad and torch.is_grad_enabled()
    with torch.enable_grad():
        if not keep:
            z = z.detach().requires_grad_(True)
        value = f(t, z)
        if probe is not None:
            (vjp,) = torch.autograd.grad(value, z, probe, create_graph=keep, retain_graph=keep)
            trace = sum_rows(vjp * probe)
        else:
            dim = z[0].numel()
            # Row d of the batch of cotangents picks output d; rows of z do not interact, so one batch serves all.
            picks = torch.eye(dim, dtype=z.dtype, device=z.device).view(dim, 1, *z.shape[1:]).expand(dim, *z.shape)
            (jacobian,) = torch.autograd.grad(value, z, picks, create_graph=keep, is_grads_batched=True)
            trace = jacobian.reshape(dim, len(z), dim).diagonal(dim1=0, dim2=2).sum(1)
    return (value, trace) if keep else (value.detach(), trace.detach())


def _in_blocks(f: VectorField, z_0: Tensor, probe: Tensor | None, solver: Solver, max_rows: int | None) -> Likelihood:
    """:func:`ode_log_prob` of ``max_rows`` rows at a time."""
    blocks = torch.arange(len(z_0), device=z_0.device).split(max_rows or len(z_0))
    return Likelihood.concatenate([
        ode_log_prob(f, z_0[block], None if probe is None else probe[block], solver) for block in blocks
    ])  # fmt: skip


def _average(draws: list[Likelihood], importance: bool, random: bool) -> Likelihood:
    """The log of the mean weight (``importance``) or the mean of the logs, and its standard error.

    A row that failed in any draw is NaN, and its first failure is kept.
    """
    logs, count = torch.stack([draw.log_prob for draw in draws]), len(draws)
    mean = logs.logsumexp(0) - math.log(count) if importance else logs.mean(0)
    with torch.no_grad():
        # The delta method for the log of a mean: the relative error of the mean.
        spread = (logs - mean).exp() if importance else logs
        error = spread.std(0) / count**0.5 if random and count > 1 else torch.full_like(mean, math.nan if random else 0)
    nfe = torch.stack([draw.nfe for draw in draws]).mean(0)
    divergence_nfe = torch.stack([draw.divergence_nfe for draw in draws]).mean(0)
    return Likelihood(mean, error, nfe, divergence_nfe, Failures.first(draw.failures for draw in draws))
