"""Evaluating a model: every number with its estimator, standard error and cost, made in pieces that are kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .journal import Journal
from .likelihood import Divergence, bits_per_dim, ode_likelihood
from .model import NDM
from .objective import bound
from .solvers import SolverError
from .tensors import seeded

Estimator = Literal["bound", "ode", "ode-uniform"]
ROWS = {"bound": 256, "ode": 64, "ode-uniform": 64}  # of one piece; random draws are a function of (seed, piece)


@dataclass(frozen=True)
class Protocol:
    """Everything that decides a number besides the model and the rows.

    Args:
        estimator: ``bound`` (variational), ``ode`` (for discrete data through the decoder) or ``ode-uniform`` (for
            discrete data by uniform dequantisation).
        steps: number of steps T of the bound; None is continuous time.
        passes: Monte-Carlo passes over the rows for the bound.
        samples, divergence, solver, solver_steps, rtol, atol: of the ODE, see :func:`ndm.ode_likelihood`.
        seed: of everything that is drawn.
    """

    estimator: Estimator
    steps: int | None = None
    passes: int = 30
    samples: int = 1
    divergence: Divergence = "exact"
    solver: str = "dopri5"
    solver_steps: int = 50
    rtol: float = 1e-4
    atol: float = 1e-4
    seed: int = 0

    def name(self, discrete: bool) -> str:
        """What the number is called wherever it appears."""
        if self.estimator == "bound":
            return "bound, continuous time" if self.steps is None else f"bound, T={self.steps}"
        kind = {"ode": "ODE through the decoder", "ode-uniform": "ODE, uniform dequantisation"}[self.estimator]
        draws = "importance samples" if self.divergence == "exact" else "draws averaged"
        if not discrete:
            kind, draws = "ODE", "probes averaged"
        random = discrete or self.divergence != "exact"
        fixed = self.solver.partition(":")[2] in ("", "euler", "midpoint", "rk4") and self.solver != "dopri5"
        accuracy = f"{self.solver_steps} steps" if fixed else f"rtol {self.rtol:g}"
        several = f", {self.samples} {draws}" if random and self.samples > 1 else ""
        return f"{kind} ({self.divergence} divergence, {self.solver} {accuracy}{several})"


@dataclass(frozen=True)
class Estimate:
    """One number, and everything needed to know which. The unit is bits/dim; nats are summed over a row.

    ``nfe`` counts evaluations of the predictor per row: one a pass for the bound, those of one solve for the ODE, where
    ``divergence_nfe`` counts those of the divergence (the same ones, for solvers that carry it along).
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


def count_pieces(protocol: Protocol, rows: int) -> int:
    """How many pieces ``rows`` rows are evaluated in."""
    return -(-rows // ROWS[protocol.estimator])


@torch.no_grad()
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
        SolverError: if the ODE cannot be solved for some rows, numbered as in ``x``; ``partial`` holds their piece.
    """
    journal = Journal() if journal is None else journal
    parts: list[dict[str, Any]] = []
    for k, rows in enumerate(x.split(ROWS[protocol.estimator])):
        name = f"{protocol}/{k}"
        if name not in journal:
            start = time.perf_counter()
            device, dtype = model.reference.device, model.reference.dtype
            rows = rows.to(device, dtype) if rows.is_floating_point() else rows.to(device)
            values = _piece(model, rows, protocol, k)
            journal[name] = {key: v.double().cpu().tolist() for key, v in values.items()} | {
                "seconds": time.perf_counter() - start
            }
        parts.append(journal[name])
        advance()
    values = {
        k: torch.tensor([row for part in parts for row in part[k]], dtype=torch.float64)
        for k in parts[0]
        if k != "seconds"
    }
    nats = values["nats"].T if protocol.estimator == "bound" else values["nats"][None]
    bpd = bits_per_dim(nats.sum(0), x)
    by_term = bits_per_dim(nats, x).mean(1).tolist()
    prior, diffusion, reconstruction = by_term if protocol.estimator == "bound" else (None, None, None)
    return Estimate(
        protocol.name(model.decoder.discrete),
        bpd.mean().item(),
        (bpd.std() / len(bpd) ** 0.5).item() if len(bpd) > 1 else None,
        nats.sum(0).mean().item(),
        prior,
        diffusion,
        reconstruction,
        values["nfe"].mean().item(),
        values["divergence_nfe"].mean().item() if "divergence_nfe" in values else None,
        len(bpd),
        protocol.passes if protocol.estimator == "bound" else protocol.samples,
        protocol.seed,
        sum(part["seconds"] for part in parts),
    )


def _piece(model: NDM, rows: Tensor, p: Protocol, number: int) -> dict[str, Tensor]:
    """Negative log-likelihoods in nats and evaluations of each row."""
    generator = seeded(p.seed, number)
    if p.estimator == "bound":
        passes = [
            torch.stack(bound(model, rows, p.steps, generator=generator), dim=1).double() for _ in range(p.passes)
        ]
        return {"nats": torch.stack(passes).mean(0), "nfe": torch.full((len(rows),), p.passes)}
    try:
        result = ode_likelihood(
            model, rows, "uniform" if p.estimator == "ode-uniform" else "decoder", p.divergence, p.samples,
            p.solver, p.solver_steps, p.rtol, p.atol, generator=generator,
        )  # fmt: skip
    except SolverError as error:
        offset = number * ROWS[p.estimator]
        raise SolverError(error.solver, error.partial, error.rows + offset, error.times, error.reasons) from None
    return {"nats": -result.log_prob, "nfe": result.nfe, "divergence_nfe": result.divergence_nfe}


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
