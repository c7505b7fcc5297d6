"""The pieces of an evaluation. A piece holds the results for at most a few hundred rows, as a plain record.

It is a dictionary of lists with one number per row, unless the table says otherwise. A journal can keep it, and
processes can exchange it. Python's floats hold the numbers exactly.

==========  ===================================================================================================
estimator   keys of its pieces
==========  ===================================================================================================
bound       ``nats`` (three terms per row), ``nfe``, ``noise_variance`` (over the passes), ``pass_totals`` (one
            number per pass: the sum over the rows)
ODE         ``log_prob``, ``standard_error``, ``nfe``, ``divergence_nfe``; ``failures`` if there are any
both        ``seconds`` (one number)
==========  ===================================================================================================
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..draws import Dequantization
from ..likelihood import Likelihood, ode_likelihood
from ..model import NDM
from ..objective import bound
from ..solvers import Failures
from ..support.journal import Journal
from ..support.tensors import rows_at_once, seeded
from .protocol import Protocol

Piece = dict[str, Any]
ROWS = {"bound": 256, "ode": 64, "ode-uniform": 64}
"""The largest number of rows in a piece. Random draws are a function of (seed, piece), so they change with it."""


def rows_of_piece(protocol: Protocol, x: Tensor) -> int:
    """The number of rows of ``x`` in one piece."""
    return rows_at_once(x.shape[1:], ROWS[protocol.estimator])


def count_pieces(protocol: Protocol, x: Tensor, rank: int = 0, count: int = 1) -> int:
    """The number of pieces of ``x`` that process number ``rank`` of ``count`` computes."""
    return len(range(rank, -(-len(x) // rows_of_piece(protocol, x)), count))


@torch.no_grad()
def make_pieces(
    model: NDM,
    x: Tensor,
    protocol: Protocol,
    journal: Journal,
    advance: Callable[[], None] = lambda: None,
    rank: int = 0,
    count: int = 1,
) -> dict[int, Piece]:
    """Every ``count``-th piece, starting from number ``rank``, by number. Its values do not depend on the process.

    The journal keeps the pieces. A piece that it already holds is not computed again. It does not keep a piece with
    rows that the solver could not finish, because another attempt may finish them.
    """
    pieces: dict[int, Piece] = {}
    for number, rows in list(enumerate(x.split(rows_of_piece(protocol, x))))[rank::count]:
        name = f"{protocol}/{number}"
        if name in journal:
            pieces[number] = journal[name]
        else:
            pieces[number] = make_piece(model, rows, protocol, seeded(protocol.seed, number))
            if "failures" not in pieces[number]:
                journal[name] = pieces[number]
        advance()
    return pieces


def make_piece(model: NDM, rows: Tensor, protocol: Protocol, generator: torch.Generator) -> Piece:
    """Compute and time one piece."""
    start = time.perf_counter()
    make = _bound_piece if protocol.estimator == "bound" else _ode_piece
    piece = make(model, rows, protocol, generator)
    return piece | {"seconds": time.perf_counter() - start}


def _bound_piece(model: NDM, rows: Tensor, protocol: Protocol, generator: torch.Generator) -> Piece:
    passes = torch.stack([
        torch.stack(bound(model, rows, protocol.steps, generator=generator), dim=1).cpu().double()
        for _ in range(protocol.passes)
    ])  # fmt: skip
    totals = passes.sum(2)  # (passes, rows)
    noise_variance = totals.var(0) if protocol.passes > 1 else torch.zeros(len(rows))
    return {
        "nats": passes.mean(0).tolist(),
        "nfe": [float(protocol.passes)] * len(rows),
        "noise_variance": noise_variance.tolist(),
        "pass_totals": totals.sum(1).tolist(),
    }


def _ode_piece(model: NDM, rows: Tensor, protocol: Protocol, generator: torch.Generator) -> Piece:
    dequantization: Dequantization = "uniform" if protocol.estimator == "ode-uniform" else "decoder"
    result = ode_likelihood(
        model, rows, protocol.solver, dequantization, protocol.divergence, protocol.samples, generator=generator
    )
    names = ("log_prob", "standard_error", "nfe", "divergence_nfe")
    piece: Piece = {name: getattr(result, name).cpu().double().tolist() for name in names}
    if failed := result.failures:
        piece["failures"] = {"rows": failed.rows.tolist(), "times": failed.times.tolist(), "reasons": failed.reasons}
    return piece


def as_likelihood(pieces: Sequence[Piece], solver: str) -> Likelihood:
    """The ODE's likelihood of all rows of consecutive pieces, in float64."""
    blocks = []
    for piece in pieces:
        failed = piece.get("failures", {"rows": [], "times": [], "reasons": ()})
        rows, times = torch.tensor(failed["rows"], dtype=torch.long), torch.tensor(failed["times"], dtype=torch.float64)
        failures = Failures(solver, len(piece["log_prob"]), rows, times, tuple(failed["reasons"]))
        values = {key: column([piece], key) for key in ("log_prob", "standard_error", "nfe", "divergence_nfe")}
        blocks.append(Likelihood(**values, failures=failures))
    return Likelihood.concatenate(blocks)


def nats_of_rows(pieces: Sequence[Piece]) -> Tensor:
    """The negative log-likelihood of all rows of consecutive pieces, or the bound on it, in float64."""
    if "nats" in pieces[0]:
        return column(pieces, "nats").sum(1)
    return -column(pieces, "log_prob")


def column(pieces: Sequence[Piece], key: str) -> Tensor:
    """The values under one key for all rows of consecutive pieces, in float64."""
    return torch.tensor([value for piece in pieces for value in piece[key]], dtype=torch.float64)
