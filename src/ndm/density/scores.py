r"""The log-likelihood of rows of a table, and how odd they are at two scales.

The log-likelihood is that of the ODE (:mod:`ndm.likelihood`): exact for numbers, and with K importance samples for rows
with symbols or rounded numbers. All rows get the same draws, so the value of a row does not depend on the others.

The divergence is exact for rows of few latents. For more, it is Hutchinson's estimator with a probe for each draw.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..likelihood import Divergence, ode_likelihood
from ..model import NDM
from ..solvers import Solver
from ..support.tensors import full_times, randn_like, seeded, sum_rows

EXACT_UP_TO, EXACT_DRAWS_UP_TO = 64, 8
"""The most latents of a row for an exact divergence: without draws, and where each draw needs its own solution."""
DRAWS = 8
BLOCK = 1024
SOLVER = Solver("dopri5", rtol=1e-3, atol=1e-3)


def log_density(model: NDM, rows: Tensor, seed: int = 0) -> Tensor:
    """log p of each row, nats, ``(N,)`` in float64 on the CPU.

    Args:
        model: a model of rows of numbers and symbols.
        rows: ``(N, n)`` in data units.
        seed: seed of the draws.

    Raises:
        SolverError: if the solver could not finish some rows.
    """
    latents = model.latent_shape(tuple(rows.shape[1:]))[0]
    exact = latents <= (EXACT_DRAWS_UP_TO if model.decoder.drawn else EXACT_UP_TO)
    divergence: Divergence = "exact" if exact else "hutchinson"
    parts = [
        ode_likelihood(
            model, block, SOLVER, divergence=divergence, samples=DRAWS, dtype=torch.float64, generator=seeded(seed),
            common=True,
        ).checked().log_prob.cpu()
        for block in rows.split(BLOCK)
    ]  # fmt: skip
    return torch.cat(parts)


@torch.no_grad()
def denoising_error(model: NDM, rows: Tensor, gamma: float = 1.0, draws: int = 8, seed: int = 0) -> Tensor:
    r"""How badly rows are restored from much noise: :math:`\mathrm{E}\|F(x, t) - F(\hat x(z_t), t)\|^2`, ``(N,)``.

    The noise is common to all rows, and comes in pairs of opposite signs.

    Args:
        gamma: the logarithm of the ratio of noise to signal.
        draws: how many pairs of noise.
    """
    generator = seeded(seed)
    parts = []
    x = model.decoder.jitter(rows, torch.full((1, model.decoder.rounded), 0.5, dtype=torch.float64))
    for block in x.split(BLOCK):
        x_model = model.encode(block)
        q = model.process(x_model)
        schedule = model.process.schedule
        ends = [schedule(full_times(value, x_model[:1])).gamma.item() for value in (0.0, 1.0)]
        t = full_times(min(1.0, max(0.0, (gamma - ends[0]) / (ends[1] - ends[0]))), x_model)
        marginal = q.marginal(t)
        alpha = schedule(t).alpha[:, None]
        error = torch.zeros(len(block), device=x_model.device)
        generator = seeded(seed)
        for _ in range(draws):
            eps = randn_like(marginal.mean[:1], generator)
            for sign in (1, -1):
                predicted = model(marginal.at(sign * eps), t).marginal(t).mean
                error = error + sum_rows(((marginal.mean - predicted) / alpha) ** 2)
        parts.append((error / (2 * draws)).double().cpu())
    return torch.cat(parts)
