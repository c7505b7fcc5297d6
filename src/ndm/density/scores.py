"""The log-likelihood of rows of a table.

The log-likelihood is that of the ODE (:mod:`ndm.likelihood`): exact for numbers, and with K importance samples for rows
with symbols or rounded numbers. All rows get the same draws, so the value of a row does not depend on the others.

The divergence is exact for rows of few latents. For more, it is Hutchinson's estimator with several probes. All rows
have the same probes, so its errors hardly change the order of rows, but they do not average out over rows. They are
largest with symbols, which have several latents each. So rows with symbols have the exact divergence for longer.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..draws import Divergence
from ..errors import InputError
from ..likelihood import ode_likelihood
from ..mixed import MixedDecoder, MixedPredictor
from ..model import NDM
from ..objective import Draws, bound_terms
from ..solvers import Solver
from ..support.tensors import seeded, stratified
from ..tables import Frame, Schema

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
BOUND_DRAWS, BOUND_BLOCK = 128, 4096
"""The draws of a row for its bound, and the most rows and draws that are computed at once."""
SOLVER = Solver("dopri5", rtol=1e-4, atol=1e-4)
"""The log-likelihood of a row is then off by a few hundredths of a nat; with 1e-3, by most of a nat in some rows."""


def log_density(model: NDM, rows: Tensor, seed: int = 0, quick: bool = False) -> Tensor:
    """log p of each row, nats, ``(N,)`` in float64 on the CPU.

    Args:
        model: a model of rows of numbers and symbols.
        rows: ``(N, n)`` in data units.
        seed: seed of the draws.
        quick: whether the ODE of rows with symbols is solved in float32 where the divergence is exact. That takes two
            thirds of the time, and is off by about 1e-4 nats.

    Raises:
        SolverError: if the solver could not finish some rows.
    """
    check_distance(model, rows)
    latents = model.latent_shape(tuple(rows.shape[1:]))[0]
    symbols = isinstance(model.decoder, MixedDecoder) and model.decoder.alphabets
    most = EXACT_WITH_SYMBOLS_UP_TO if symbols else EXACT_UP_TO
    divergence: Divergence = "exact" if latents <= most else "hutchinson"
    # Probes in another precision are other probes, and the values of both could not be compared.
    dtype = torch.float32 if quick and symbols and divergence == "exact" else torch.float64
    draws = 1 if not model.decoder.drawn else DRAWS if latents > 4 else MORE_DRAWS
    parts = [
        ode_likelihood(
            model, block, SOLVER, divergence=divergence, samples=draws, dtype=dtype, generator=seeded(seed),
            common=True, probes=PROBES // draws,
        ).checked().log_prob.double().cpu()
        for block in rows.split(BLOCK)
    ]  # fmt: skip
    return torch.cat(parts)


def log_bound(model: NDM, rows: Tensor, seed: int = 0) -> Tensor:
    """A cheap lower bound of log p of each row: minus the variational bound, nats, ``(N,)`` in float64 on the CPU.

    It is the mean of ``BOUND_DRAWS`` draws, which are the same for all rows, and needs no gradients. So the differences
    of rows that are nearly equal have little noise. It bounds the likelihood of the stochastic process, which is not
    that of the ODE.

    Args:
        model: a model of rows of numbers and symbols.
        rows: ``(N, n)`` in data units.
        seed: seed of the draws.
    """
    count, (latents, *_) = model.decoder.rounded, model.latent_shape(tuple(rows.shape[1:]))
    uniform = stratified(BOUND_DRAWS, 1 + count + 2 * latents, seeded(seed))
    time, places, normal = uniform.split([1, count, 2 * latents], 1)
    noise = torch.special.ndtri(normal).view(BOUND_DRAWS, 2, latents)
    parts = []
    for block in rows.split(max(1, BOUND_BLOCK // BOUND_DRAWS)):
        every = len(block)
        x = model.rows(block.repeat(BOUND_DRAWS, 1))
        x = model.decoder.jitter(x, places.repeat_interleave(every, 0).to(model.reference))
        x_model = model.encode(x)
        t, eps_0, eps_t = (
            part.repeat_interleave(every, 0).to(x_model) for part in (time[:, 0], noise[:, 0], noise[:, 1])
        )
        with torch.no_grad():
            terms = bound_terms(model, x, x_model, Draws(t, torch.ones_like(t), eps_0, eps_t))
        parts.append(-terms.total.double().cpu().view(BOUND_DRAWS, every).mean(0))
    return torch.cat(parts)


def rows_to_score(model: NDM, schema: Schema, frame: Frame) -> Tensor:
    """Rows as the model's numbers, ``(N, n)`` in float64.

    A category that no training row has gives way to the most frequent one of its column, so that the other columns are
    scored as those of ordinary rows. One that says whether a number is missing gives way to one that says what is the
    case.

    Args:
        model: a model of rows of numbers and symbols.
        schema: what the columns hold.
        frame: the rows, with the columns of the training rows.

    Raises:
        InputError: if columns are missing or additional, or hold what cannot be scored.
    """
    rows = torch.from_numpy(schema.encode(frame, unknown="odd"))
    unknown = rows[:, len(schema.numeric) :] < 0
    return with_known_codes(model, rows, schema.missing_numbers(frame)) if unknown.any() else rows


def with_known_codes(model: NDM, rows: Tensor, missing: np.ndarray) -> Tensor:
    """Rows with the code -1 of a new category replaced: see :func:`rows_to_score`.

    Args:
        missing: which numbers are missing, ``(N, numbers)``.
    """
    decoder = model.decoder
    assert isinstance(decoder, MixedDecoder) and isinstance(model.predictor, MixedPredictor)
    rows = rows.clone()
    for alphabet, bias in enumerate(model.predictor.bias.detach().cpu().split(decoder.alphabets)):
        place = decoder.numbers + alphabet
        new = (rows[:, place] < 0).nonzero()[:, 0]
        fits = torch.zeros(len(new), len(bias))
        for j, which in enumerate(decoder.missing):
            if which[:1] == [alphabet]:
                says = torch.isin(torch.arange(len(bias)), torch.tensor(which[1:]))
                fits += says == torch.from_numpy(missing[new.numpy(), j])[:, None]
        best = fits == fits.amax(1, keepdim=True)
        rows[new, place] = torch.where(best, bias, -torch.inf).argmax(1).to(rows)
    return rows


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
