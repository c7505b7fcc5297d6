"""The log-likelihood of rows of a table.

The log-likelihood is that of the ODE (:mod:`ndm.likelihood`): exact for numbers, and with K importance samples for rows
with symbols or rounded numbers. All rows get the same draws, so the value of a row does not depend on the others.

The divergence is exact for rows of few latents. For more, it is Hutchinson's estimator with several probes. All rows
have the same probes, so its errors hardly change the order of rows, but they do not average out over rows. They are
largest with symbols, which have several latents each. So rows with symbols have the exact divergence for longer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..draws import Divergence
from ..errors import InputError
from ..likelihood import ode_likelihood
from ..mixed import MixedDecoder
from ..model import NDM
from ..solvers import Solver
from ..support.tensors import seeded

EXACT_UP_TO, EXACT_WITH_SYMBOLS_UP_TO = 64, 128
"""The most latents of a row for an exact divergence: of numbers, and of rows with symbols."""
DRAWS, MORE_DRAWS = 4, 8
"""The number of draws of a row, and of one with four latents at most, where draws are cheap. On rows of many symbols
more draws would still tighten the bound."""
PROBES = 8
"""The probes of all draws of a row."""
BLOCK = 1024
FARTHEST = 1e70
"""The largest normal score whose density is a number in float64."""
SOLVER = Solver("dopri5", rtol=1e-4, atol=1e-4)
"""The log-likelihood of a row is then off by a few hundredths of a nat; with 1e-3, by most of a nat in some rows."""


def log_density(model: NDM, rows: Tensor, seed: int = 0) -> Tensor:
    """log p of each row, nats, ``(N,)`` in float64 on the CPU.

    Args:
        model: a model of rows of numbers and symbols.
        rows: ``(N, n)`` in data units.
        seed: seed of the draws.

    Raises:
        SolverError: if the solver could not finish some rows.
    """
    check_distance(model, rows)
    latents = model.latent_shape(tuple(rows.shape[1:]))[0]
    symbols = isinstance(model.decoder, MixedDecoder) and model.decoder.alphabets
    most = EXACT_WITH_SYMBOLS_UP_TO if symbols else EXACT_UP_TO
    divergence: Divergence = "exact" if latents <= most else "hutchinson"
    draws = 1 if not model.decoder.drawn else DRAWS if latents > 4 else MORE_DRAWS
    parts = [
        ode_likelihood(
            model, block, SOLVER, divergence=divergence, samples=draws, dtype=torch.float64, generator=seeded(seed),
            common=True, probes=PROBES // draws,
        ).checked().log_prob.cpu()
        for block in rows.split(BLOCK)
    ]  # fmt: skip
    return torch.cat(parts)


def check_distance(model: NDM, rows: Tensor) -> None:
    """Refuse rows with a number so far from the training rows that its density is no number, before any is scored.

    Raises:
        InputError: with the row.
    """
    if isinstance(model.decoder, MixedDecoder) and model.decoder.numbers:
        marginals = model.decoder.marginals
        far = marginals(rows[:, : model.decoder.numbers].to(marginals.x))[0].abs().amax(1)
        worst = int(far.argmax())
        if not far[worst] <= FARTHEST:
            raise InputError(
                f"row {worst} is as far as {float(far[worst]):.2g} standard deviations from the training rows, and "
                "its density is no number; remove it, or correct it"
            )
