r"""Models of rows of symbols that ``discrete.py`` compares: embeddings, fixed codes, and three of other kinds.

All but the autoregressive one have the same network, and draw the times of continuous time more often where their loss
is larger (:class:`ndm.ImportanceTimes`). A fit has the loss of a batch and a bound of each row, both in nats per row:

* ``moving``, ``learned``, ``random``: :class:`ndm.Embedding` of a dimension d, whose points move in time, are learned
  and stay, or keep their random places. Their networks, and those of ``one-hot`` and ``ordinal``, learn by the
  cross-entropy, and the points by the bound (:mod:`ndm.training.cross_entropy`). In tables and texts these networks
  read beliefs as well: the probabilities that each point alone gives its symbol.
* ``moving-bound``, ``learned-bound``: as ``moving`` and ``learned``, but the networks learn by the bound, too.
* ``moving-blind``, ``learned-blind``: as ``moving-bound`` and ``learned-bound``, with networks that read the points
  alone.
* ``one-hot``: every symbol is an axis (shifted and scaled like the other points). ``ordinal``: the symbols are equally
  spaced on a line. The levels of images start so with every embedding, and ``ordinal`` keeps them there.
* ``masked``, ``uniform``, ``autoregressive``: models without points, see ``discrete_rivals.py``.
* ``moving-T2``, ``masked-T4`` and others of this kind train for so many steps, all parts by the bound in so many steps.
  Points then learn the noise of each step and its end, and the discrete models choose the ends of their steps.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor
from torch.nn import functional

import ndm
from discrete_fit import Fit, Rows
from discrete_rivals import Autoregressive, Masked, Uniform
from ndm.levels import RANK
from ndm.objective import bound_and_prediction, draw
from ndm.training.cross_entropy import cross_entropy, learned_apart

BOUND, BLIND = "-bound", "-blind"
EMBEDDINGS = (
    "moving", "learned", "random", "one-hot", "ordinal",
    *(name + how for how in (BOUND, BLIND) for name in ("moving", "learned")),
)  # fmt: skip
FEW = (2, 4, 8)
"""The numbers of steps for which models train."""
METHODS = (
    *EMBEDDINGS, "masked", "uniform", "autoregressive",
    *(f"{name}-T{steps}" for steps in FEW for name in ("moving", "learned", "masked", "uniform")),
)  # fmt: skip
GAMMA, GAMMA_OF_LINES, GAMMA_OF_AXES, GAMMA_OF_LEVELS = (-7.0, 5.0), (-11.0, 5.0), (-7.0, 9.0), (-12.2, 6.0)
"""The ends of the schedule. Points on a line are nearer to each other than those in a plane or a space, and axes are
farther apart. So the first need less noise at t = 0 to be told apart, and the others more at t = 1 to be forgotten."""


class Embedded(Fit):
    """A diffusion model with one of the embeddings."""

    def __init__(self, method: str, rows: Rows, train: Tensor, dim: int) -> None:
        super().__init__(steps_of(method))
        count, places = sum(rows.alphabets), len(rows.alphabets)
        told = 0 if method.endswith(BLIND) else count
        self.by_entropy = self.steps is None and not method.endswith((BOUND, BLIND))
        method = plain(method)
        dim = 1 if rows.image else {"one-hot": max(rows.alphabets), "ordinal": 1}.get(method, dim)
        embedding = ndm.Embedding(rows.alphabets, dim, num_basis=2 if method == "moving" else 0)
        codes = torch.cat([torch.arange(levels) for levels in rows.alphabets])
        with torch.no_grad():
            if method == "one-hot":
                embedding.start.copy_(functional.one_hot(codes, dim).float())
            if method == "ordinal" or rows.image:
                embedding.start_in_order()
        embedding.start.requires_grad_(method in ("moving", "learned"))
        ends = GAMMA_OF_AXES if method == "one-hot" else GAMMA_OF_LINES if dim == 1 else GAMMA
        ends = GAMMA_OF_LEVELS if rows.image else ends
        schedule: ndm.Schedule = ndm.LinearSchedule(*ends)
        if self.steps is not None:
            schedule = ndm.StepwiseSchedule(*ends, self.steps, learned_end=True)
        process = ndm.ForwardProcess(schedule, embedding, tied_to="noise")
        predictor: ndm.SymbolPredictor | ndm.MixedPredictor
        decoder: ndm.SymbolDecoder | ndm.MixedDecoder
        if rows.length:
            predictor, decoder = ndm.SymbolPredictor(rows.network(dim, count, told), count), ndm.SymbolDecoder(count)
        elif rows.image:
            rank = min(RANK, count)
            predictor = ndm.SymbolPredictor(rows.network(dim, rank), count, rows.image[0], rank)
            decoder = ndm.SymbolDecoder(count, channels=rows.image[0])
        else:
            predictor = ndm.MixedPredictor(rows.network(dim * places, count, told), rows.alphabets)
            decoder = ndm.MixedDecoder(ndm.Marginals(0), rows.alphabets)
        predictor.start_at(train)
        self.model = ndm.NDM(process, predictor, decoder, shape=rows.image or (rows.length or places,))

    def nats(self, x: Tensor, steps: int | None, generator: torch.Generator) -> Tensor:
        times = self.times if steps is None else self.even
        total = ndm.bound(self.model, x, steps, times, generator).total
        times.update()
        return total

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if not self.by_entropy:
            return super().loss(x, generator)
        x_model = self.model.encode(x)
        draws = draw(self.model.process.transform.latents(x_model), self.times, generator)
        bound, prediction = bound_and_prediction(self.model, x, x_model, draws)
        self.times.observe(draws.t, bound.diffusion.detach())
        self.times.update()
        entropy = cross_entropy(self.model, prediction, x_model).mean()
        return learned_apart(self.model, prediction, entropy, bound.weighted(draws.weight).total.mean())


def plain(method: str) -> str:
    """The name of a method without the way in which it trains."""
    return re.sub(r"-T\d+$", "", method).removesuffix(BOUND).removesuffix(BLIND)


def steps_of(method: str) -> int | None:
    """The number of steps for which a method trains; None is continuous time."""
    found = re.search(r"-T(\d+)$", method)
    return int(found[1]) if found else None


def fit_of(method: str, rows: Rows, train: Tensor, dim: int) -> Fit:
    """The untrained model of a method.

    Args:
        rows: what the rows are.
        train: training codes, for the frequencies that models start at.
        dim: the dimension of points that are no fixed codes.
    """
    if plain(method) in ("masked", "uniform"):
        return (Masked if plain(method) == "masked" else Uniform)(rows, train, steps_of(method))
    return Autoregressive(rows) if method == "autoregressive" else Embedded(method, rows, train, dim)


def has_dim(method: str, rows: Rows) -> bool:
    """Whether a method has points of a dimension that is to be chosen; those of levels lie on a line."""
    return plain(method) in ("moving", "learned", "random") and not rows.image


def applies(method: str, rows: Rows) -> bool:
    """Whether a method is for such rows: characters have no order, levels have one, and the LSTM reads sequences."""
    if rows.image:
        return method in ("moving", "learned", "ordinal")
    return method != ("ordinal" if rows.length else "autoregressive")
