"""Estimates of the likelihood. Each number comes with its estimator, its standard error and its cost.

The rows are evaluated in pieces, which a journal keeps. The random draws of a piece depend only on (seed, piece), so an
evaluation that is interrupted and continued, or shared among processes, gives the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..batch import as_batch
from ..errors import InputError
from ..likelihood import bits_per_dim
from ..model import NDM, check_model
from ..solvers import ODE_SOLVERS, find_solver
from ..support.checks import require_kind
from ..support.journal import Journal
from ..support.processes import gathered, rank_and_count
from ..support.progress import phase, progress_bar
from .pieces import Piece, as_likelihood, column, count_pieces, make_pieces
from .protocol import Protocol


@dataclass(frozen=True)
class Estimate:
    """An estimate of the likelihood, with everything that defines the number. It is a mean over rows.

    All values are in bits/dim, except ``nats``, which is in nats per row.

    ``standard_error`` measures how far the mean may be from that over the whole population of rows. It covers the
    spread of the rows and of the random draws. ``nfe`` is the number of evaluations per row: of the predictor in all
    passes of the bound, or of the field in one ODE solve. ``divergence_nfe`` is the number of evaluations of the
    divergence. ``dopri5`` makes them in addition to ``nfe``; other solvers evaluate both together.
    """

    estimator: str
    bpd: float
    standard_error: float | None
    nats: float
    prior: float | None
    diffusion: float | None
    reconstruction: float | None
    nfe: float
    divergence_nfe: float | None
    rows: int
    samples: int
    seed: int
    seconds: float


def evaluate(
    model: NDM,
    x: Tensor,
    protocol: Protocol,
    journal: Journal | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Estimate:
    """Estimate the likelihood of the rows ``x``, which are in data units, by one protocol.

    If a launcher has started several processes of ``torch.distributed``, they share the pieces. All processes must call
    this with the same model, rows and protocol, and all get the same estimate.

    Args:
        model: the model, in evaluation mode.
        journal: keeps finished pieces, and may hold those of an earlier attempt.
        advance: called after every piece that this process finishes.

    Raises:
        InputError: if the model, the rows or the protocol are none, or do not fit each other.
        SolverError: if the solver could not finish some rows. It is raised after all other rows are done, and numbers
            the rows as in ``x``; ``result`` is the :class:`ndm.Likelihood` of all rows. The journal keeps the pieces
            without failures.

    Example:
        >>> from ndm.evaluation import Protocol, evaluate
        >>> process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
        >>> model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,))), ndm.GaussianDecoder()).eval()
        >>> evaluate(model, torch.randn(20, 2), Protocol("bound", steps=10, passes=5)).estimator
        'bound, T=10'
    """
    check_model(model)
    require_kind(protocol=(protocol, Protocol))
    x = as_batch(x, model.shape)
    journal = Journal() if journal is None else journal
    shares = gathered(make_pieces(model, x, protocol, journal, advance, *rank_and_count()))
    made = {number: piece for share in shares for number, piece in share.items()}
    return summarise(model, x, protocol, [made[number] for number in sorted(made)])


def summarise(model: NDM, x: Tensor, protocol: Protocol, pieces: Sequence[Piece]) -> Estimate:
    """The estimate from all pieces of the rows ``x``, in their order.

    Raises:
        InputError: if the estimate is not finite.
        SolverError: if the solver could not finish some rows.
    """
    by_estimator = _summarise_bound if protocol.estimator == "bound" else _summarise_ode
    estimate = by_estimator(model, x, protocol, pieces)
    if not math.isfinite(estimate.bpd):
        raise InputError(
            f"the estimate {estimate.estimator} is {estimate.bpd}: the model's weights are not finite, or the "
            "computation leaves the range of numbers; try float64, or an earlier checkpoint"
        )
    return estimate


def evaluate_all(
    model: NDM, x: Tensor, protocols: Sequence[Protocol], journal: Journal | None = None, title: str = "evaluating"
) -> list[Estimate]:
    """One estimate per protocol, with a progress bar; see :func:`evaluate`.

    Raises:
        InputError: if there are no rows, or if the model does not allow a protocol. Nothing is computed before.
    """
    if not len(x):
        raise InputError("there are no rows to evaluate")
    for protocol in protocols:
        model.process.schedule.check_steps(protocol.steps)
        if protocol.estimator != "bound":
            find_solver(protocol.solver.name, ODE_SOLVERS)
    rank, count = rank_and_count()
    total = sum(count_pieces(protocol, x, rank, count) for protocol in protocols)
    estimates = []
    with progress_bar(title, total, visible=rank == 0) as bar:
        for protocol in protocols:
            with phase(protocol.name(model.decoder.drawn)):
                estimates.append(evaluate(model, x, protocol, journal, lambda: bar.advance(bar.task_ids[0])))
    return estimates


def _summarise_bound(model: NDM, x: Tensor, protocol: Protocol, pieces: Sequence[Piece]) -> Estimate:
    by_term = column(pieces, "nats").T  # (terms, rows)
    nats = by_term.sum(0)
    variance = _variance_of_mean(bits_per_dim(nats, x))
    if protocol.passes > 1:
        # The times of a pass are spread evenly over its rows, so the noise of the rows almost cancels in their mean.
        # The variance is therefore that of the rows without their noise, plus that of the mean of the passes.
        noise = column(pieces, "noise_variance").mean() / (x[0].numel() * math.log(2)) ** 2
        totals = torch.tensor([piece["pass_totals"] for piece in pieces], dtype=torch.float64).sum(0)
        passes = bits_per_dim(totals / len(x), x)
        variance = (variance - noise / protocol.passes / len(x)).clamp(min=0) + passes.var() / protocol.passes
    terms = bits_per_dim(by_term, x).mean(1).tolist()
    return _summary(model, x, protocol, pieces, nats, variance, terms)


def _summarise_ode(model: NDM, x: Tensor, protocol: Protocol, pieces: Sequence[Piece]) -> Estimate:
    nats = -as_likelihood(pieces, protocol.solver.name).checked().log_prob
    divergence_nfe = column(pieces, "divergence_nfe").mean().item()
    estimate = _summary(model, x, protocol, pieces, nats, _variance_of_mean(bits_per_dim(nats, x)))
    return replace(estimate, divergence_nfe=divergence_nfe)


def _variance_of_mean(values: Tensor) -> Tensor:
    return values.var(correction=min(1, len(values) - 1)) / len(values)


def _summary(
    model: NDM, x: Tensor, protocol: Protocol, pieces: Sequence[Piece], nats: Tensor, variance: Tensor,
    terms: Sequence[float | None] = (None, None, None),
) -> Estimate:  # fmt: skip
    """The estimate, from the nats of every row and the variance of their mean in bits/dim."""
    prior, diffusion, reconstruction = terms
    return Estimate(
        estimator=protocol.name(model.decoder.drawn),
        bpd=bits_per_dim(nats, x).mean().item(),
        standard_error=variance.sqrt().item() if len(x) > 1 else None,
        nats=nats.mean().item(),
        prior=prior,
        diffusion=diffusion,
        reconstruction=reconstruction,
        nfe=column(pieces, "nfe").mean().item(),
        divergence_nfe=None,
        rows=len(x),
        samples=protocol.draws(model.decoder.drawn),
        seed=protocol.seed,
        seconds=sum(piece["seconds"] for piece in pieces),
    )
