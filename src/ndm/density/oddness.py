r"""How odd a row is, seen in several ways that no unit changes.

A density finds rows where few others are. But a rare row of a large, thin region is not odd, and densities in the
data's own units follow the units and the rounding of each column. So the densities here are of normal scores or of
standardised columns, and each is only compared with those of the training rows:

.. math:: \ell(x) = -\log P\big(s(X) \ge s(x)\big), \qquad X \text{ a training row}

is the tail of a score s: how many nats of chance it takes to see such a value. Three scores are used.

* The diffusion term of the bound, which is :math:`-\log p` of the normal scores up to a constant. It finds what breaks
  a fine structure, such as a relation of columns.
* A kernel density of the normal scores and one of the standardised columns. A kernel density is what the reverse
  process of the training rows themselves gives at one noise level, without a network, and it finds what is far from
  everything. The bandwidth has the largest leave-one-out likelihood; where rows repeat, as in resampled data, it is so
  small that a copy of a training row is known as one. Where they do not, a training row must not be its own kernel, or
  new rows would look odd beside it. So one of the kernels that coincide with a row counts by Good and Turing's estimate

.. math:: c = \min(1, 2 N_2 / N_1)

  with the numbers :math:`N_1` and :math:`N_2` of points that are there once and twice: it is 0 if no training row comes
  twice.

The oddness is :math:`\max_k \ell_k + \operatorname{mean}_k \ell_k`: a row is odd if one view finds it very odd, and
more so if they agree.

The network is only asked if it is as good a density as the kernels: if the normal scores of rows that it was not
trained on are not less probable by its ODE than by the kernels of all other rows, beyond two standard errors.
Otherwise, as with few rows or many copies, it blurs what the kernels see. Without held-out rows it is not asked either.
With symbols, which have no kernel density, it always is.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor

from ..draws import draw_probes
from ..likelihood import ode_log_prob
from ..mixed import MixedDecoder
from ..model import NDM
from ..objective import continuous_diffusion
from ..quantiles import standard_deviation, without_far_ones
from ..sampling import velocity_field
from ..solvers import Solver
from ..support.tensors import full_times, seeded
from .scores import EXACT_UP_TO

KERNELS, LEFT_OUT, REFERENCE, HELD_OUT = 8_000, 1_500, 2_000, 250
"""The most rows that are kernels, that choose the bandwidth, with which the diffusion term is compared, and that decide
whether the network is asked."""
BANDWIDTHS = np.geomspace(0.02, 2.0, 24)
SAME = 1e-18
"""The squared distance of rows that are the same but for rounding."""
TIMES, DRAWS = 24, 2
BLOCK = 1024


class Tail:
    """The tail probabilities of a score among training rows.

    Between the scores of training rows, -log P is linear, so that rounding errors of a score stay small.

    Args:
        scores: the scores of training rows, larger for odder rows, ``(N,)``.
    """

    def __init__(self, scores: np.ndarray) -> None:
        scores = np.sort(scores)
        middle, high = np.quantile(scores, [0.5, 0.9])
        self.middle, self.scale = float(middle), max(float(high - middle), 1e-12)
        first = np.flatnonzero(np.diff(scores, prepend=-math.inf) > 1e-6 * self.scale)  # of rows with equal scores
        self.knots = np.append(scores[first], scores[-1] + 0.1 * self.scale)
        self.levels = -np.log(1 - np.append(first, len(scores)) / (len(scores) + 1))

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """-log P, ``(M,)``. Beyond all training rows it still grows a little, so that rows keep their order."""
        beyond = np.log1p(np.maximum(scores - self.middle, 0) / self.scale)
        return np.interp(scores, self.knots, self.levels) + 1e-3 * beyond


class Kernels:
    """A density of Gaussian kernels, compared with the training rows.

    Args:
        rows: the training rows as points, ``(N, D)`` in float64.
        seed: seed of the rows that are taken, if there are many.
    """

    def __init__(self, rows: np.ndarray, seed: int = 0) -> None:
        order = np.random.default_rng(seed).permutation(len(rows))
        self.points = rows[order[:KERNELS]]
        chosen = np.arange(min(LEFT_OUT, len(self.points)))
        squares = self._squares(self.points[chosen])
        squares[torch.arange(len(chosen)), torch.from_numpy(chosen)] = math.inf  # a row is not its own kernel
        others = (squares < SAME).sum(1)
        once, twice = int((others == 0).sum()), int((others == 1).sum())
        self.known = min(1.0, twice / once) if once else 1.0
        """How much one of the kernels that coincide with a row counts."""
        dim = rows.shape[1]
        fits = [(-score(squares, h)).clamp(min=-1e4).mean().item() - dim * math.log(h) for h in BANDWIDTHS]
        self.bandwidth = float(BANDWIDTHS[int(np.argmax(fits))])
        self.left_out = max(fits) - dim / 2 * math.log(2 * math.pi) - math.log(len(self.points) - 1)
        """The mean log-density of training rows by the kernels of the others, nats."""
        self.tail = Tail(score(squares, self.bandwidth).numpy())

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """-log P of rows, ``(M,)``."""
        parts = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
        return self.tail(np.concatenate([self._scores(part) for part in parts]))

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        """:func:`score` of rows, where one kernel that coincides with a row counts ``known``, ``(M,)``."""
        squares = self._squares(rows)
        nearest, at = squares.min(1)
        same = (nearest < SAME).nonzero()[:, 0]
        squares[same, at[same]] += -2 * self.bandwidth**2 * math.log(self.known) if self.known else math.inf
        return score(squares, self.bandwidth).numpy()

    def _squares(self, rows: np.ndarray) -> Tensor:
        """The squared distances of rows from all kernels, ``(M, N)``."""
        a, b = torch.from_numpy(rows), torch.from_numpy(self.points)
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()


def score(squares: Tensor, bandwidth: float) -> Tensor:
    """-log of the sum of kernels, ``(M,)``; at most 1e6, so that it is finite."""
    return -torch.logsumexp(-squares / (2 * bandwidth**2), 1).clamp(min=-1e6)


@torch.no_grad()
def diffusion_term(model: NDM, rows: Tensor, seed: int = 0) -> np.ndarray:
    """The diffusion term of the bound, nats, ``(N,)``: all rows get the same times and noise.

    Args:
        model: a model of a table, in evaluation mode.
        rows: ``(N, n)`` in data units.
        seed: seed of the noise.
    """
    generator, parts = seeded(seed), []
    noise = torch.randn(TIMES, DRAWS, *model.latent_shape(tuple(rows.shape[1:])), generator=generator)
    for block in rows.split(BLOCK):
        q, total = model.process(model.encode(block)), torch.zeros(len(block), dtype=torch.float64)
        for k in range(TIMES):
            t = full_times((k + 0.5) / TIMES, q.curve.x)
            for eps in noise[k]:
                for sign in (1, -1):
                    z_t = q.marginal(t).at(sign * eps.to(q.curve.x))
                    total += continuous_diffusion(model, q, z_t, t).double().cpu() / (2 * DRAWS * TIMES)
        parts.append(total.clamp(max=1e12))
    return torch.cat(parts).numpy()


@torch.no_grad()
def log_density_of_scores(model: NDM, rows: Tensor, seed: int = 0) -> np.ndarray:
    """The log-density of the normal scores of rows of numbers by the ODE, nats, ``(N,)``; NaN where that fails."""
    decoder, x = model.decoder, model.encode(rows)
    assert isinstance(decoder, MixedDecoder)
    z_0, log_weight = decoder.latent(rows, x, model.process, torch.zeros_like(x))
    probe = draw_probes(z_0, "exact" if z_0.shape[1] <= EXACT_UP_TO else "hutchinson", seeded(seed))
    found = ode_log_prob(velocity_field(model), z_0, probe, Solver("dopri5", rtol=1e-3, atol=1e-3))
    return (found.log_prob + log_weight + decoder.log_scale(rows)).double().cpu().numpy()


class Oddness:
    """The oddness of rows, from a model and its training rows, in float64.

    Args:
        model: a model of a table, in evaluation mode.
        rows: all rows that ordinary rows are known from, ``(N, n)`` in data units.
        held_out: those of them that the model was not trained on, ``(M, n)``.
        seed: seed of all draws.
    """

    def __init__(self, model: NDM, rows: Tensor, held_out: Tensor, seed: int = 0) -> None:
        decoder = model.decoder
        assert isinstance(decoder, MixedDecoder)
        model = copy.deepcopy(model).double()
        self.numbers, self.seed = decoder.numbers, seed
        numbers = rows[:, : self.numbers].numpy()
        std = without_far_ones(numbers, standard_deviation(numbers)) if len(numbers) else np.ones(self.numbers)
        self.mean, self.std = numbers.mean(0), np.where(std > 0, std, 1.0)
        self.scores = Kernels(self._points(model, rows, scores=True), seed)
        self.columns = Kernels(self._points(model, rows, scores=False), seed)
        self.term: Tail | None = None
        if decoder.alphabets or self._is_worth_asking(model, held_out):
            reference = rows[torch.randperm(len(rows), generator=seeded(seed))[:REFERENCE]]
            self.term = Tail(diffusion_term(model, reference, seed))

    def __call__(self, model: NDM, rows: Tensor) -> np.ndarray:
        """The views -log P of rows, ``(K, N)``: those of the kernels, and the network's if it is asked."""
        model = copy.deepcopy(model).double()
        views = [
            self.scores(self._points(model, rows, scores=True)),
            self.columns(self._points(model, rows, scores=False)),
        ]
        if self.term is not None:
            views.append(self.term(diffusion_term(model, rows, self.seed)))
        return np.stack(views)

    def _is_worth_asking(self, model: NDM, held_out: Tensor) -> bool:
        """Whether held-out rows are not clearly less probable by the model than by the kernels."""
        if len(held_out) < 2:
            return False
        found = np.nan_to_num(log_density_of_scores(model, held_out[:HELD_OUT], self.seed), nan=-1e4)
        error = found.std(ddof=1) / len(found) ** 0.5
        return bool(found.mean() + 2 * error > self.scores.left_out)

    def _points(self, model: NDM, rows: Tensor, scores: bool) -> np.ndarray:
        """Rows as points: normal scores or standardised numbers, and symbols a distance of one apart."""
        x = model.encode(rows).double().cpu().numpy().copy()
        x[:, self.numbers :] /= math.sqrt(2)
        if not scores:
            x[:, : self.numbers] = (rows[:, : self.numbers].numpy() - self.mean) / self.std
        return x


def combined(views: np.ndarray) -> np.ndarray:
    """The oddness of views ``(K, N)``, ``(N,)``."""
    return np.asarray(views.max(0) + views.mean(0))
