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

with x in model units and u uniform in :math:`[0, 1)^D`. For continuous data the estimate is exact up to the solver's
error. For discrete data it is a lower bound in expectation, which more importance samples tighten:
:math:`\log p(x) \ge \mathrm{E} \log \frac1S \sum_s w_s\, p_{\mathrm{ODE}}(z_0^s)`.

Bits per dimension are nats / (D ln 2), without any other constant.

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
from typing import Any, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor

from .draws import Dequantization, Divergence, draw_latent, draw_probes
from .errors import InputError
from .gaussian import Gaussian
from .model import NDM, check_model, check_not_random
from .sampling import velocity_field
from .solvers import ODE_SOLVERS, Failures, Solver, VectorField, find_solver, solve_ode
from .solvers.checked import check_problem, checked_field
from .support.checks import require, require_choice, require_count, require_flag, require_real
from .support.tensors import require_generator, require_shape, stratified

Nats = TypeVar("Nats", Tensor, float)
EXACT_UP_TO = 256  # the most elements of a row for which affordable_divergence is exact
TOGETHER = 2**14
"""The most elements of the latents of several draws that are solved as one batch: small batches cost about the same."""
PASS_ELEMENTS = 2**20
"""The most elements of a batch of backward passes for larger rows. A network with a hundred activations per element
then needs half a gigabyte in float32. Smaller rows have all their passes in one batch, up to 64 rows at a time."""


def bits_per_dim(nats: Nats, x: Tensor) -> Nats:
    """Convert nats per row (a tensor or a number) to bits per element of a row of ``x``: nats / (D ln 2)."""
    require_real(nats=nats)
    return nats / (elements(x) * math.log(2))


def affordable_divergence(x: Tensor, most: int = EXACT_UP_TO) -> Divergence:
    """The divergence for rows like those of ``x``: exact up to ``most`` elements, because its cost grows with D."""
    return "exact" if elements(x) <= most else "hutchinson"


def elements(x: Any) -> int:
    """The number D of elements of a row of ``x``, ``(B, *)``.

    Raises:
        InputError: if ``x`` is no batch of rows.
    """
    shape = tuple(getattr(x, "shape", ()))
    if len(shape) < 2 or not math.prod(shape[1:]):
        raise InputError(f"x must be the data, of shape (batch, ...), got {shape or type(x).__name__}")
    return math.prod(shape[1:])


class Likelihood(NamedTuple):
    """An estimate of log p(x) by the ODE, per row."""

    log_prob: Tensor
    """``(B,)``, nats."""
    standard_error: Tensor
    """Monte-Carlo standard error of ``log_prob``, ``(B,)``, nats; 0 if nothing is drawn, NaN for one draw.
    For importance samples it comes from the delta method. A value close to 1 then means that one weight dominates, and
    that the true error is larger."""
    nfe: Tensor
    """Evaluations of the field per solve, ``(B,)``."""
    divergence_nfe: Tensor
    """Evaluations of the divergence per solve, ``(B,)``. With ``dopri5`` they come on top of ``nfe``; with the other
    solvers each evaluation of the field also gives the divergence."""
    failures: Failures
    """The rows that the solver could not finish in some draw; their ``log_prob`` is NaN."""

    @classmethod
    def concatenate(cls, blocks: Sequence[Likelihood]) -> Likelihood:
        """Join the estimates of consecutive blocks of rows."""
        return cls(
            torch.cat([block.log_prob for block in blocks]),
            torch.cat([block.standard_error for block in blocks]),
            torch.cat([block.nfe for block in blocks]),
            torch.cat([block.divergence_nfe for block in blocks]),
            Failures.concatenate([block.failures for block in blocks]),
        )

    def split(self, rows: int) -> list[Likelihood]:
        """The estimates of consecutive blocks of ``rows`` rows; :meth:`concatenate` joins them."""
        parts = (value.split(rows) for value in self[:-1])
        return [Likelihood(*part) for part in zip(*parts, self.failures.split(rows), strict=True)]

    def checked(self) -> Likelihood:
        """Return this estimate.

        Raises:
            SolverError: if the solver could not finish some rows; ``result`` is this estimate.
        """
        return self.failures.check(self)


def log_prob(model: NDM, x: Tensor, **options: Any) -> Tensor:
    """log p(x) by the model's ODE, ``(B,)``, nats.

    It is exact up to the solver's error for continuous data, and a lower bound in expectation for discrete data. The
    options are those of :func:`ode_likelihood`. If ``x`` requires a gradient, the result is differentiable in ``x``.

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
    common: bool = False,
    probes: int = 1,
) -> Likelihood:
    """log p(x) by the model's ODE, with its Monte-Carlo error and cost.

    Rows that the solver cannot finish raise no error: the result lists them in ``failures``, and their ``log_prob`` is
    NaN. :meth:`Likelihood.checked` raises an error for them.

    Args:
        model: the model, in evaluation mode if it has dropout or batch norm.
        x: data in data units, ``(B, *)``: a torch tensor or a NumPy array of integers or floats of any precision. If it
            requires a gradient, the result does too (with the solver's steps held fixed); otherwise no graph is kept.
        solver: a name of ``ndm.ODE_SOLVERS``, or an :class:`ndm.Solver`; ``dopri5`` chooses the steps of each row
            separately.
        dequantization: for discrete data, ``"decoder"`` or ``"uniform"`` (see the table above).
        divergence: ``"exact"`` (D backward passes per evaluation, some at a time, so that memory stays bounded), or
            Hutchinson's estimator ``"hutchinson"`` or ``"hutchinson-gaussian"`` (backward passes with Rademacher or
            Gaussian probes, which stay the same along a path; unbiased and noisy). The exact divergence takes hours for
            images.
        samples: the number of draws. For discrete data and exact divergence they are importance samples. With
            Hutchinson's estimator their logarithms are averaged instead, because the logarithm of an average of noisy
            weights is not a bound. Continuous data with exact divergence need no draws.
        max_rows: how many rows are solved at once, to limit memory. Only answers of scipy and torchdiffeq depend on it.
        dtype: compute in this precision, in a copy of the model.
        generator: seeds the latents and the probes.
        common: whether every row gets the same draws, so that its estimate does not depend on the rows beside it.
            Several draws are then spread evenly over each random number, see :func:`ndm.support.tensors.stratified`.
        probes: the number of probes of a draw. They share its path, so they cost less than draws, and their mean has
            less noise. The standard error is that of the draws.

    Raises:
        InputError: if x does not fit the model or is not finite, an option does not fit, the model is random because it
            is in training mode, or its dtype cannot resolve the schedule (:meth:`ndm.Schedule.check_precision`).
    """
    require_flag(common=common)
    require(not common or dequantization == "decoder", "common draws are for dequantization='decoder'", dequantization)
    solver = _check_options(model, solver, dequantization, divergence, samples, max_rows, dtype, generator)
    require_count(probes=probes)
    keep = isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled()
    # Divergences need gradients, which inference mode forbids even to what it has made.
    with torch.inference_mode(False), torch.set_grad_enabled(keep):
        if dtype is not None or any(p.is_inference() for p in model.parameters()):
            model = copy.deepcopy(model).to(dtype or model.reference.dtype)
        x = model.rows(x)
        x = x.clone() if x.is_inference() else x
        if dtype is not None and model.weightless and x.is_floating_point():
            x = x.to(dtype)
        random = model.decoder.drawn or divergence != "exact"
        samples = samples if random else 1
        latents = math.prod(model.latent_shape(tuple(x.shape[1:])))
        places = stratified(samples, model.decoder.rounded + latents, generator) if common and samples > 1 else None
        draws: list[Likelihood] = []
        together = _draws_at_once(solver, len(x), latents, max_rows)
        for first in range(0, samples, together):
            starts, log_weights, drawn = [], [], []
            for k in range(first, min(first + together, samples)):
                place = None if places is None else places[k]
                z_0, log_weight = draw_latent(model, x, dequantization, generator, common, place)
                probe = draw_probes(z_0, divergence, generator, common, probes)
                starts.append(z_0)
                log_weights.append(log_weight)
                drawn += [] if probe is None else [probe]
            probe = torch.cat(drawn) if drawn else None
            solved = _in_blocks(velocity_field(model), torch.cat(starts), probe, solver, max_rows).split(len(x))
            draws += [d._replace(log_prob=d.log_prob + w) for d, w in zip(solved, log_weights, strict=True)]
        return _average(draws, importance=divergence == "exact", random=random)


def _check_options(
    model: NDM, solver: Solver | str, dequantization: str, divergence: str, samples: int, max_rows: int | None,
    dtype: torch.dtype | None, generator: torch.Generator | None,
) -> Solver:  # fmt: skip
    """Refuse options of :func:`ode_likelihood` that do not fit; the solver as a :class:`Solver`."""
    check_model(model)
    require_choice(get_args(Divergence), divergence=divergence)
    require_choice(get_args(Dequantization), dequantization=dequantization)
    require_count(samples=samples, max_rows=1 if max_rows is None else max_rows)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype.itemsize > 1):
        raise InputError(f"dtype must be a floating-point dtype such as torch.float64, got {dtype!r}")
    require_generator(generator)
    solver = Solver.of(solver)
    find_solver(solver.name, ODE_SOLVERS)
    model.process.schedule.check_steps(None)
    check_not_random(model)
    return solver


def ode_log_prob(
    f: VectorField,
    z_0: Tensor,
    probe: Tensor | None = None,
    solver: Solver | str = "dopri5",
) -> Likelihood:
    """Log-density at ``z_0`` of the distribution that dz = f dt carries to N(0, I) at t = 1.

    Rows that the solver cannot finish raise no error: the result lists them in ``failures``, and their log-density is
    NaN.

    Args:
        f: the vector field ``f(t, z)``.
        z_0: the points at which the density is evaluated, ``(B, *)``.
        probe: the probe of Hutchinson's estimator, ``(B, *)``, or several, ``(B, P, *)``, of which the mean is taken;
            see :func:`ndm.draws.draw_probes`. None is the exact divergence.
        solver: a name of ``ndm.ODE_SOLVERS``, or an :class:`ndm.Solver`.
    """
    check_problem(z_0, 0.0, 1.0)
    f = checked_field(f)
    if probe is not None:
        several = isinstance(probe, Tensor) and probe.dim() == z_0.dim() + 1 and probe.shape[1] > 0
        require_shape("probe", probe[:, 0] if several else probe, z_0, "z_0")
    args = () if probe is None else (probe,)
    # Keep a graph only if z_0 asks for it, or the field's parameters would keep the graph of every evaluation.
    with torch.set_grad_enabled(z_0.requires_grad and torch.is_grad_enabled()):
        end = solve_ode(lambda t, z, *_: f(t, z), z_0, 0.0, 1.0, solver, args, partial(value_and_divergence, f))
    log_p, failures = Gaussian.standard(end.state).log_prob(end.state) + end.integral, end.failures
    bad = ~torch.isfinite(log_p)
    if bad.any():
        infinite = Failures.where(failures.solver, bad, 1.0, "the log-density is not finite")
        failures = Failures.first([failures, infinite])
    if failures:
        log_p = log_p.index_fill(0, failures.rows.to(log_p.device), math.nan)
    error = torch.full_like(log_p, 0.0 if probe is None else math.nan).detach()
    return Likelihood(log_p, error, end.nfe.to(log_p.dtype), end.quadrature_nfe.to(log_p.dtype), failures)


def value_and_divergence(f: VectorField, t: Tensor, z: Tensor, probe: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""f and its divergence in z, ``(B, *)`` and ``(B,)``: exact, or the mean of :math:`\epsilon^\top J \epsilon`.

    The mean is over probes; the trace of J is the sum of such forms over a basis. Both results are differentiable if
    ``z`` requires a gradient, and detached otherwise.
    """
    keep = z.requires_grad and torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        t, z = (a.clone() if a.is_inference() else a for a in (t, z))
        if not keep:
            z = z.detach().requires_grad_(True)
        value = f(t, z)
        if not value.requires_grad:
            raise InputError(
                "the field has no gradient in z, so that its divergence is unknown: do not detach it or compute it "
                "under torch.no_grad(); to a field that does not depend on z, add 0 * z"
            )
        if probe is None:
            basis = torch.eye(z[0].numel(), dtype=z.dtype, device=z.device).view(-1, 1, *z.shape[1:])
            trace = _sum_of_forms(value, z, basis.expand(-1, *z.shape), keep)
        else:
            probes = probe[None] if probe.dim() == z.dim() else probe.transpose(0, 1)
            trace = _sum_of_forms(value, z, probes, keep) / len(probes)
    return (value, trace) if keep else (value.detach(), trace.detach())


def _sum_of_forms(value: Tensor, z: Tensor, vectors: Tensor, keep: bool) -> Tensor:
    """The sum over vectors v, ``(P, B, *)``, of v' J v for J = d value / dz of each row, ``(B,)``.

    Each vector is a backward pass, as many at once as memory should hold.
    """
    dim = z[0].numel()
    most = 64 * EXACT_UP_TO**2 if dim <= EXACT_UP_TO else PASS_ELEMENTS
    total, blocks = z.new_zeros(len(z)), vectors.split(max(1, most // z.numel()))
    for i, block in enumerate(blocks):
        more = keep or i + 1 < len(blocks)
        if len(block) == 1:
            (vjp,) = torch.autograd.grad(value, z, block[0], create_graph=keep, retain_graph=more)
            vjp = vjp[None]
        else:
            with torch.autograd.set_detect_anomaly(False):  # which looks at values; a batched pass shows none
                (vjp,) = torch.autograd.grad(
                    value, z, block, create_graph=keep, retain_graph=more, is_grads_batched=True
                )
        total = total + (vjp * block).flatten(2).sum(2).sum(0)
    return total


def _draws_at_once(solver: Solver, rows: int, latents: int, max_rows: int | None) -> int:
    """The number of draws that are solved as one batch, where the answer of a row does not depend on the others."""
    if not ODE_SOLVERS.find(solver.name).by_row:
        return 1
    return max(1, (max_rows or TOGETHER // latents) // rows)


def _in_blocks(f: VectorField, z_0: Tensor, probe: Tensor | None, solver: Solver, max_rows: int | None) -> Likelihood:
    """:func:`ode_log_prob` for ``max_rows`` rows at a time."""
    blocks = torch.arange(len(z_0), device=z_0.device).split(max_rows or len(z_0))
    return Likelihood.concatenate([
        ode_log_prob(f, z_0[block], None if probe is None else probe[block], solver) for block in blocks
    ])  # fmt: skip


def _average(draws: list[Likelihood], importance: bool, random: bool) -> Likelihood:
    """The log of the mean weight (``importance``) or the mean of the logs, and its standard error.

    The result is NaN for a row that failed in any draw, and the row's first failure is kept.
    """
    logs, count = torch.stack([draw.log_prob for draw in draws]), len(draws)
    mean = logs.logsumexp(0) - math.log(count) if importance else logs.mean(0)
    with torch.no_grad():
        # By the delta method, the error of the log of a mean is the relative error of the mean.
        spread = (logs - mean).exp() if importance else logs
        error = spread.std(0) / count**0.5 if random and count > 1 else torch.full_like(mean, math.nan if random else 0)
    nfe = torch.stack([draw.nfe for draw in draws]).mean(0)
    divergence_nfe = torch.stack([draw.divergence_nfe for draw in draws]).mean(0)
    return Likelihood(mean, error, nfe, divergence_nfe, Failures.first(draw.failures for draw in draws))
