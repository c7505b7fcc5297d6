"""Evaluating a model: the bound at several numbers of steps, and the ODE's likelihood, each with its standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .likelihood import bits_per_dim, log_prob
from .model import NDM
from .objective import bound

CHUNK = 512


@dataclass(frozen=True)
class Estimate:
    """One number, and everything needed to know which. The unit is bits/dim; nats are summed over a row.

    For discrete data the ODE's number is an upper bound on the NLL, with ``samples`` importance samples.
    """

    estimator: str
    bpd: float
    standard_error: float | None
    nats: float
    prior: float | None
    diffusion: float | None
    reconstruction: float | None
    rows: int
    samples: int
    seed: int
    seconds: float


def count_chunks(x: Tensor) -> int:
    """How many pieces the rows of ``x`` are evaluated in."""
    return -(-len(x) // CHUNK)


def _chunks(model: NDM, x: Tensor) -> Iterator[Tensor]:
    for rows in x.split(CHUNK):
        yield rows.to(model.reference.device)


def _estimate(
    name: str, per_row: Tensor, terms: list[float], samples: int, seed: int, x: Tensor, start: float
) -> Estimate:
    bpd = bits_per_dim(per_row, x)
    prior, diffusion, reconstruction = terms or (None, None, None)
    error = (bpd.std() / len(bpd) ** 0.5).item() if len(bpd) > 1 else None
    return Estimate(
        name, bpd.mean().item(), error, per_row.mean().item(), prior, diffusion, reconstruction,
        len(bpd), samples, seed, time.perf_counter() - start,
    )  # fmt: skip


@torch.no_grad()
def evaluate_bound(
    model: NDM,
    x: Tensor,
    steps: int | None,
    passes: int = 30,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Estimate:
    """The bound at ``steps`` (None: continuous time): mean over rows of the mean over ``passes`` Monte-Carlo passes.

    Args:
        model: in evaluation mode.
        x: rows in data units.
        advance: called after every pass.
    """
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(3, len(x), dtype=torch.float64)
    for _ in range(passes):
        parts = [torch.stack(list(bound(model, rows, steps, generator=generator))) for rows in _chunks(model, x)]
        total += torch.cat(parts, dim=1).cpu()
        advance()
    total /= passes
    terms = bits_per_dim(total, x).mean(1).tolist()
    name = "bound, continuous time" if steps is None else f"bound, T={steps}"
    return _estimate(name, total.sum(0), terms, passes, seed, x, start)


def evaluate_ode(
    model: NDM,
    x: Tensor,
    samples: int = 1,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Estimate:
    """The ODE's negative log-likelihood with exact divergence; see :func:`ndm.log_prob`.

    Args:
        advance: called after every piece of ``count_chunks``.
    """
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for rows in _chunks(model, x):
        parts.append(-log_prob(model, rows, samples=samples, rtol=rtol, atol=atol, generator=generator).cpu().double())
        advance()
    discrete = f", {samples} importance samples" if model.decoder.discrete and samples > 1 else ""
    name = f"ODE NLL (exact divergence, rtol {rtol:g}{discrete})"
    return _estimate(name, torch.cat(parts), [], samples, seed, x, start)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def estimates_table(estimates: dict[str, list[Estimate]]) -> str:
    """A Markdown table of several models' estimates, bits/dim."""
    header = ["model", "estimator", "bits/dim", "s.e.", "prior", "diffusion", "reconstruction", "n", "seconds"]
    rows = []
    for model, items in estimates.items():
        for e in items:
            terms = ["" if v is None else f"{v:.4f}" for v in (e.prior, e.diffusion, e.reconstruction)]
            rows.append(
                [
                    model,
                    e.estimator,
                    f"{e.bpd:.3f}",
                    "" if e.standard_error is None else f"{e.standard_error:.3f}",
                    *terms,
                    str(e.rows),
                    f"{e.seconds:.1f}",
                ]
            )
    return markdown_table(header, rows)
