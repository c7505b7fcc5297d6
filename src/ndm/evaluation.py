"""Evaluating a model: every number with its estimator, standard error and cost, made in pieces that are kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .likelihood import Dequantization, Divergence, Likelihood, bits_per_dim, ode_likelihood
from .model import NDM
from .objective import bound
from .solvers import ODE_SOLVERS, Failures, Solver
from .support.journal import Journal
from .support.tensors import rows_at_once, seeded

Estimator = Literal["bound", "ode", "ode-uniform"]
SOLVER = Solver(rtol=1e-4, atol=1e-4)
"""The solver of an evaluation unless another is chosen."""
# The largest number of rows in a piece; random draws are a function of (seed, piece).
ROWS = {"bound": 256, "ode": 64, "ode-uniform": 64}


@dataclass(frozen=True)
class Protocol:
    """Everything that decides a number besides the model and the rows.

    Args:
        estimator: ``bound`` (variational), ``ode`` (for discrete data through the decoder) or ``ode-uniform`` (for
            discrete data by uniform dequantisation).
        steps: number of steps T of the bound; None is continuous time.
        passes: Monte-Carlo passes over the rows for the bound.
        samples, divergence, solver: how the ODE is solved, see :func:`ndm.ode_likelihood`.
        seed: seeds everything that is drawn.
    """

    estimator: Estimator
    steps: int | None = None
    passes: int = 30
    samples: int = 1
    divergence: Divergence = "exact"
    solver: Solver = SOLVER
    seed: int = 0

    def draws(self, discrete: bool) -> int:
        """How many draws a row gets; the exact ODE of continuous data needs but one."""
        if self.estimator == "bound":
            return self.passes
        return self.samples if discrete or self.divergence != "exact" else 1

    def name(self, discrete: bool) -> str:
        """What the number is called wherever it appears."""
        if self.estimator == "bound":
            return "bound, continuous time" if self.steps is None else f"bound, T={self.steps}"
        kind = {"ode": "ODE through the decoder", "ode-uniform": "ODE, uniform dequantisation"}[self.estimator]
        draws = "importance samples" if self.divergence == "exact" else "draws averaged"
        if not discrete:
            kind, draws = "ODE", "probes averaged"
        solver = self.solver
        if ODE_SOLVERS.find(solver.name).takes_steps:
            accuracy = f"{solver.steps} steps"
        else:
            accuracy = f"rtol {solver.rtol:g}" + (f", atol {solver.atol:g}" if solver.atol != solver.rtol else "")
        several = f", {self.draws(discrete)} {draws}" if self.draws(discrete) > 1 else ""
        return f"{kind} ({self.divergence} divergence, {solver.name} {accuracy}{several})"


@dataclass(frozen=True)
class Estimate:
    """One number, and everything needed to know which. The unit is bits/dim; nats are summed over a row.

    ``standard_error`` is that of the mean over all rows there could be: the spread of the rows, and of the draws.
    ``nfe`` counts evaluations per row: of the predictor in all passes of the bound, of the field in one ODE solve.
    ``divergence_nfe`` counts those of the divergence: further ones for ``dopri5``, the same for solvers that carry it
    along.
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


def piece_rows(protocol: Protocol, x: Tensor) -> int:
    """How many of the rows ``x`` are evaluated together."""
    return rows_at_once(x.shape[1:], ROWS[protocol.estimator])


def count_pieces(protocol: Protocol, x: Tensor) -> int:
    """How many pieces the rows ``x`` are evaluated in."""
    return -(-len(x) // piece_rows(protocol, x))


@torch.no_grad()
def make_pieces(
    model: NDM,
    x: Tensor,
    protocol: Protocol,
    journal: Journal,
    advance: Callable[[], None] = lambda: None,
    rank: int = 0,
    count: int = 1,
) -> dict[int, Likelihood]:
    """Put every ``count``-th piece from ``rank`` on into the journal, if it is not there.

    Pieces with rows that the solver could not finish are returned instead. Which process makes a piece does not change
    it.
    """
    failed: dict[int, Likelihood] = {}
    for k, rows in list(enumerate(x.split(piece_rows(protocol, x))))[rank::count]:
        name = f"{protocol}/{k}"
        if name not in journal:
            start = time.perf_counter()
            device, dtype = model.reference.device, model.reference.dtype
            rows = rows.to(device, dtype) if rows.is_floating_point() else rows.to(device)
            generator = seeded(protocol.seed, k)
            if protocol.estimator == "bound":
                values = _bound_piece(model, rows, protocol, generator)
            else:
                result = _ode_piece(model, rows, protocol, generator)
                values = {"nats": -result.log_prob, "nfe": result.nfe, "divergence_nfe": result.divergence_nfe}
                if result.failures:
                    failed[k] = result
            if k not in failed:
                journal[name] = {key: v.cpu().double().tolist() for key, v in values.items()} | {
                    "seconds": time.perf_counter() - start
                }
        advance()
    return failed


def evaluate(
    model: NDM,
    x: Tensor,
    protocol: Protocol,
    journal: Journal | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Estimate:
    """One estimate over the rows ``x``, in data units.

    Args:
        model: in evaluation mode.
        journal: where finished pieces are kept, and those of an earlier attempt are found.
        advance: called after every piece.

    Raises:
        SolverError: if the solver could not finish some rows, numbered as in ``x``, once all others are done;
            ``result`` is the :class:`ndm.Likelihood` of all rows. The pieces without them are kept in the journal.
    """
    journal = Journal() if journal is None else journal
    failed = make_pieces(model, x, protocol, journal, advance)
    numbers = range(count_pieces(protocol, x))
    if failed:
        pieces = [failed[k] if k in failed else _kept_likelihood(protocol, journal[f"{protocol}/{k}"]) for k in numbers]
        Likelihood.concatenate([_on_cpu(piece) for piece in pieces]).checked()
    parts: list[dict[str, Any]] = [journal[f"{protocol}/{k}"] for k in numbers]
    column = lambda key: torch.tensor([v for part in parts for v in part[key]], dtype=torch.float64)  # noqa: E731
    nats = column("nats").T if protocol.estimator == "bound" else column("nats")[None]
    bpd = bits_per_dim(nats.sum(0), x)
    variance = bpd.var(correction=min(1, len(bpd) - 1)) / len(bpd)
    if protocol.estimator == "bound" and protocol.passes > 1:
        # The times of a pass are spread evenly over its rows, so the noise of the rows all but cancels in their mean:
        # the spread of the rows without it, and the spread of the passes.
        noise = column("noise_variance").mean() / (x[0].numel() * math.log(2)) ** 2
        totals = torch.tensor([part["pass_totals"] for part in parts], dtype=torch.float64).sum(0)
        passes = bits_per_dim(totals / len(x), x)
        variance = (variance - noise / protocol.passes / len(x)).clamp(min=0) + passes.var() / protocol.passes
    by_term = bits_per_dim(nats, x).mean(1).tolist()
    prior, diffusion, reconstruction = by_term if protocol.estimator == "bound" else (None, None, None)
    return Estimate(
        protocol.name(model.decoder.discrete),
        bpd.mean().item(),
        variance.sqrt().item() if len(bpd) > 1 else None,
        nats.sum(0).mean().item(),
        prior,
        diffusion,
        reconstruction,
        column("nfe").mean().item(),
        None if protocol.estimator == "bound" else column("divergence_nfe").mean().item(),
        len(bpd),
        protocol.draws(model.decoder.discrete),
        protocol.seed,
        sum(part["seconds"] for part in parts),
    )


def _bound_piece(model: NDM, rows: Tensor, p: Protocol, generator: torch.Generator) -> dict[str, Tensor]:
    """The bound of each row in nats by term, its evaluations and its variance over passes; the total of each pass."""
    passes = torch.stack([
        torch.stack(bound(model, rows, p.steps, generator=generator), dim=1).cpu().double()
        for _ in range(p.passes)
    ])  # fmt: skip
    totals = passes.sum(2)  # (passes, rows)
    return {
        "nats": passes.mean(0),
        "nfe": torch.full((len(rows),), p.passes),
        "noise_variance": totals.var(0) if p.passes > 1 else torch.zeros(len(rows)),
        "pass_totals": totals.sum(1),
    }


def _ode_piece(model: NDM, rows: Tensor, p: Protocol, generator: torch.Generator) -> Likelihood:
    """The ODE's likelihood of each row."""
    dequantization: Dequantization = "uniform" if p.estimator == "ode-uniform" else "decoder"
    return ode_likelihood(model, rows, p.solver, dequantization, p.divergence, p.samples, generator=generator)


def _kept_likelihood(protocol: Protocol, part: dict[str, Any]) -> Likelihood:
    """A piece of the journal; its standard error is not kept."""
    nats, nfe, divergence_nfe = (
        torch.tensor(part[key], dtype=torch.float64) for key in ("nats", "nfe", "divergence_nfe")
    )
    none = Failures.none(protocol.solver.name, nats)
    return Likelihood(-nats, torch.full_like(nats, math.nan), nfe, divergence_nfe, none)


def _on_cpu(piece: Likelihood) -> Likelihood:
    """The same in float64 on the CPU."""
    log_prob, standard_error, nfe, divergence_nfe, failures = piece
    values = [v.cpu().double() for v in (log_prob, standard_error, nfe, divergence_nfe)]
    return Likelihood(values[0], values[1], values[2], values[3], failures)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def estimates_table(estimates: dict[str, list[Estimate]]) -> str:
    """A Markdown table of several models' estimates, bits/dim."""
    header = ["model", "estimator", "bits/dim", "s.e.", "prior", "diffusion", "reconstruction", "NFE", "n", "seconds"]
    rows = []
    for model, items in estimates.items():
        for e in items:
            terms = ["" if v is None else f"{v:.4f}" for v in (e.prior, e.diffusion, e.reconstruction)]
            error = "" if e.standard_error is None else f"{e.standard_error:.3f}"
            apart = e.divergence_nfe is not None and e.divergence_nfe != e.nfe
            nfe = f"{e.nfe:.0f}" + (f" + {e.divergence_nfe:.0f} div" if apart else "")
            rows.append([model, e.estimator, f"{e.bpd:.3f}", error, *terms, nfe, str(e.rows), f"{e.seconds:.1f}"])
    return markdown_table(header, rows)
