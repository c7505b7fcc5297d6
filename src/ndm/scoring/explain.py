r"""Which columns make a row odd: how far each value lies below what the other columns lead to expect.

.. math:: d_j(x) = \mathrm{E}_{x'_j \sim p(x_j \mid x_{-j})}[\log p(x'_j, x_{-j})] - \log p(x)

is the drop of the log-density by the value of column j. The density of the other columns is in both terms, so that

.. math:: d_j = \mathrm{E}[\log p(x'_j \mid x_{-j})] - \log p(x_j \mid x_{-j})

and no constant is missing. It is about 0 for an ordinary value, and positive for an odd one. For Gaussian rows it is
:math:`(r^2 - 1) / 2`, with r the residual of column j given the others in its standard deviations.

Nothing is drawn. The expectation is a quadrature: with :math:`L_k = \log p(v_k, x_{-j})` at points :math:`v_k` of
weights :math:`w_k`,

.. math:: d_j \approx \sum_k \pi_k L_k - \log p(x), \qquad \pi_k \propto w_k e^{L_k}.

- A category, or a rounded number of at most ``EXACT`` values, has all its values as points, with equal weights: this is
  exact. Of categories, all up to ``CATEGORIES`` are points; of more, the most frequent.
- A column that says whether a number is missing compares a density with a probability. So the log-densities of rows
  with the number are taken relative to that of its marginal distribution, as :mod:`ndm.dequantize` has it for rows
  without the number. The error is some tenths of a nat, because the marginal density is a rough one.
- Any other number has ``POINTS`` equally spaced points of its normal score :math:`y = S_j(v)`, with weights
  :math:`dv/dy = 1 / S_j'(v)`: first over all scores, and then ``POINTS`` more where the first found the mass. This
  resolves conditional distributions down to about an eighth of the width of the marginal. The error is about a tenth
  of a nat or less, because :math:`S_j` is a spline.

Log-densities by the ODE take long, and most of these say nothing: a column whose value is ordinary is not named, and a
value that the rest of the row excludes has no share of the mean. So a screen, which is a cheap estimate of log p such
as :func:`ndm.density.log_bound`, computes all drops first. Only the ``CHECKED`` columns with the largest of them have
their drops by log p, a column of few values from the values to which the screen gives a share of at least ``RARE``, or
from the ``EXACT`` likeliest if hardly any has so much. The screen only chooses: it is in no drop that is returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..marginal import Marginals
from ..mixed import MixedDecoder, MixedPredictor
from ..model import NDM
from ..tables import Column, Schema

POINTS = 16
EXACT = 24
CATEGORIES = 256
CHECKED = 6
"""The number of columns of a row whose drops are computed after the screen."""
RARE = 0.01
"""The least share of a point, by the screen, that is computed after it. All that is left out of a drop is some
hundredths of a nat, while the draws of a row with symbols make errors of some tenths."""
REACH = 4.5
"""The largest score of the first points."""
AT_ONCE = 4096
"""The most rows of several columns that are solved at once."""
WIDE = 4.0
"""The half width of the second points in standard deviations, but no less than the spacing of the first points."""

Density = Callable[[Tensor], Tensor]
"""log p of rows, ``(B, n)`` to ``(B,)`` in float64."""


class Quadrature(NamedTuple):
    """The points of a column for each of B rows."""

    points: Tensor
    """The values of the column, ``(B, K)``."""
    logs: Tensor
    """log p of the rows with these values, nats, ``(B, K)``."""
    weights: Tensor
    """The logarithms of the weights, ``(B, K)``."""

    def share(self) -> Tensor:
        """The share of each point of the mean, ``(B, K)``."""
        return (self.logs + self.weights).softmax(1)

    def mean(self) -> Tensor:
        """The mean of log p over the values of the column, nats, ``(B,)``; a point without a share may have -inf."""
        share = self.share()
        return (share * self.logs.where(share > 0, 0)).sum(1)


def conditional_drops(
    density: Density, rows: Tensor, log_p: Tensor, model: NDM, schema: Schema, screen: Density | None = None
) -> Tensor:
    """The drop of every column of the model in nats, ``(B, n)``.

    Args:
        density: log p of rows of the model.
        rows: the rows as the model's numbers, ``(B, n)``.
        log_p: ``density(rows)``.
        model: the model, whose decoder knows the marginal distributions.
        schema: what the columns hold.
        screen: a cheap estimate of ``density``. With it only the columns that may be the oddest have a drop, and the
            others have -inf. Without it all are computed by ``density``.
    """
    decoder = model.decoder
    assert isinstance(decoder, MixedDecoder)
    cheap = density if screen is None else screen
    listed = {place: values_of(model, place, column) for place, column in enumerate(schema.model_columns)}
    few = {
        place: points_of_values(relative(cheap, place, model), rows, place, values)
        for place, values in listed.items()
        if values is not None
    }
    free = [place for place, values in listed.items() if values is None]
    found = few | points_of_numbers(cheap, dict.fromkeys(free, rows), decoder.marginals)
    means = torch.stack([found[place].mean() for place in listed], 1)
    unit = torch.stack([references(rows, place, model) for place in listed], 1)
    own = log_p[:, None] - unit
    if screen is None:
        return means - own
    chosen = torch.zeros_like(means, dtype=torch.bool)
    chosen.scatter_(1, (means + unit).topk(min(CHECKED, len(found)), 1).indices, True)
    drops = drops_of_values(density, rows, own, few, chosen, model)
    some = {place: rows[chosen[:, place]] for place in free if chosen[:, place].any()}
    for place, exact in points_of_numbers(density, some, decoder.marginals).items():
        drops[chosen[:, place], place] = exact.mean() - own[chosen[:, place], place]
    return drops


def drops_of_values(
    density: Density, rows: Tensor, own: Tensor, found: Mapping[int, Quadrature], chosen: Tensor, model: NDM
) -> Tensor:
    """The drops of columns with a few values, of which only the likely ones are computed; -inf for others, ``(B, n)``.

    Args:
        density, rows, model: see :func:`conditional_drops`.
        own: log p of the rows, less the :func:`references` of each column, ``(B, n)``.
        found: the columns by their places, with what the screen says of their values.
        chosen: which columns of each row are computed, bool of shape ``(B, n)``.
    """
    same = {place: column.points == rows[:, [place]] for place, column in found.items()}
    asked = {p: chosen[:, [p]] & ~same[p] & likely(column.share()) for p, column in found.items()}
    changed = []
    for place, ask in asked.items():
        changed.append(rows[ask.nonzero()[:, 0]])
        changed[-1][:, place] = found[place].points[ask]
    answers = together(density, changed)
    drops = torch.full_like(rows, -math.inf)
    for (place, column), part, answer in zip(found.items(), changed, answers, strict=True):
        logs = torch.full_like(column.logs, -math.inf)
        logs = logs.masked_scatter(asked[place], answer - references(part, place, model))
        exact = column._replace(logs=logs.where(~same[place], own[:, [place]]))
        drops[:, place] = drops[:, place].where(~chosen[:, place], exact.mean() - own[:, place])
    return drops


def likely(share: Tensor) -> Tensor:
    """Which points are computed: those with a share of at least ``RARE``, or the ``EXACT`` likeliest if such points are
    less than half of the mean."""
    asked = share >= RARE
    few = share.topk(min(EXACT, share.shape[1]), 1).values[:, -1:]
    return torch.where((share * asked).sum(1, keepdim=True) < 0.5, share >= few, asked)


def relative(density: Density, place: int, model: NDM) -> Density:
    """The density that the values of a column are compared by: see :func:`references`."""
    return lambda rows: density(rows) - references(rows, place, model)


def references(rows: Tensor, place: int, model: NDM) -> Tensor:
    """The log-density of the marginal distribution at the numbers that a column might say are missing, ``(B,)``.

    It is 0 for all other columns.
    """
    decoder = model.decoder
    assert isinstance(decoder, MixedDecoder)
    alphabet = place - decoder.numbers
    if not any(which[:1] == [alphabet] for which in decoder.missing):
        return rows.new_zeros(len(rows))
    scores, log_slopes = decoder.marginals(rows[:, : decoder.numbers].to(decoder.marginals.x))
    return decoder.places.log_references(rows.to(scores), scores, log_slopes, alphabet).to(rows)


def values_of(model: NDM, place: int, column: Column) -> Tensor | None:
    """The values of a column that are points; None if there are too many, and no categories."""
    values = known_values(column)
    if values is None or len(values) <= CATEGORIES:
        return values
    assert isinstance(model.decoder, MixedDecoder)
    return frequent(model, place - model.decoder.numbers)


def known_values(column: Column) -> Tensor | None:
    """All values of a column, as the model's numbers; None if there are too many, and no categories."""
    if not column.numeric:
        return torch.arange(len(column.values), dtype=torch.float64)
    if column.step and column.values and len(column.values) <= EXACT:
        return torch.tensor([float(value) for value in column.values if value is not None], dtype=torch.float64)
    count = round((column.high - column.low) / column.step) + 1 if column.step and not column.values else EXACT + 1
    if count > EXACT:
        return None
    return column.low + column.step * torch.arange(count, dtype=torch.float64)


def frequent(model: NDM, alphabet: int) -> Tensor:
    """The codes of the most frequent symbols of an alphabet, by the bias of the predictor, in float64."""
    assert isinstance(model.predictor, MixedPredictor)
    bias = model.predictor.bias.detach().cpu().split(model.predictor.alphabets)[alphabet]
    return bias.topk(CATEGORIES).indices.double()


def points_of_values(density: Density, rows: Tensor, place: int, values: Tensor) -> Quadrature:
    """The points of a column with a few values ``(K,)``."""
    points = values.expand(len(rows), -1)
    return Quadrature(points, at_points(density, rows, place, points), torch.zeros_like(points))


def points_of_numbers(density: Density, parts: Mapping[int, Tensor], marginals: Marginals) -> dict[int, Quadrature]:
    """The points of columns of real numbers, each for rows of its own, ``(B, n)``."""
    coarse = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64)
    spacing = 2 * REACH / (POINTS - 1)
    scores = {place: coarse.expand(len(rows), -1) for place, rows in parts.items()}
    finer = {}
    for place, found in scored(density, parts, scores, marginals).items():
        share = found.share()
        mean = (share * coarse).sum(1)
        deviation = ((share * (coarse - mean[:, None]) ** 2).sum(1)).sqrt()
        half = (WIDE * deviation).clamp(min=spacing, max=REACH)
        finer[place] = mean[:, None] + half[:, None] * torch.linspace(-1, 1, POINTS, dtype=torch.float64)
    return scored(density, parts, finer, marginals)


def scored(
    density: Density, parts: Mapping[int, Tensor], scores: Mapping[int, Tensor], marginals: Marginals
) -> dict[int, Quadrature]:
    """The points of columns at scores ``(B, K)``, with dv/dy as weights."""
    spots = {place: at_scores(place, scores[place], marginals) for place in parts}
    logs = together(density, (with_points(rows, place, spots[place][0]) for place, rows in parts.items()))
    return {
        place: Quadrature(points, log_p.view_as(points), weights)
        for (place, (points, weights)), log_p in zip(spots.items(), logs, strict=True)
    }


def at_scores(place: int, scores: Tensor, marginals: Marginals) -> tuple[Tensor, Tensor]:
    """The values of a column at scores ``(B, K)``, and log dv/dy there; each ``(B, K)``."""
    whole = torch.zeros(scores.numel(), marginals.columns, dtype=torch.float64)
    whole[:, place] = scores.flatten()
    values = marginals.inverse(whole.to(marginals.x.device))
    slopes = marginals(values)[1][:, place].cpu().view_as(scores)
    return values[:, place].cpu().view_as(scores), -slopes


def at_points(density: Density, rows: Tensor, place: int, points: Tensor) -> Tensor:
    """log p of every row with a column at each of its points ``(B, K)``, ``(B, K)``."""
    return density(with_points(rows, place, points)).view_as(points)


def with_points(rows: Tensor, place: int, points: Tensor) -> Tensor:
    """Every row with a column at each of its points ``(B, K)``, ``(B K, n)``."""
    changed = rows[:, None].repeat(1, points.shape[1], 1)
    changed[:, :, place] = points
    return changed.flatten(0, 1)


def together(density: Density, parts: Iterable[Tensor]) -> list[Tensor]:
    """``density`` of each of several sets of rows, many of which are solved at once: a few rows take almost as long."""
    answers: list[Tensor] = []
    waiting: list[Tensor] = []
    for part in parts:
        if sum(map(len, waiting)) + len(part) > AT_ONCE:
            answers += solved(density, waiting)
            waiting = []
        waiting.append(part)
    return answers + solved(density, waiting)


def solved(density: Density, parts: list[Tensor]) -> list[Tensor]:
    """``density`` of each of several sets of rows, at once."""
    if not any(map(len, parts)):
        return [part.new_zeros(0) for part in parts]
    return list(density(torch.cat(parts)).split([len(part) for part in parts]))
