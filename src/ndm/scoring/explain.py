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
  exact. Of more categories, the ``EXACT`` most frequent are taken.
- Any other number has ``POINTS`` equally spaced points of its normal score :math:`y = S_j(v)`, with weights
  :math:`dv/dy = 1 / S_j'(v)`: first over all scores, and then ``POINTS`` more where the first found the mass. This
  resolves conditional distributions down to about an eighth of the width of the marginal. The error is about a tenth
  of a nat or less, because :math:`S_j` is a spline.

So a row of n numbers costs ``2 POINTS n`` log-densities.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..marginal import Marginals
from ..mixed import MixedDecoder, MixedPredictor
from ..model import NDM
from ..tables import Column, Schema

POINTS = 16
EXACT = 24
REACH = 4.5
"""The largest score of the first points."""
WIDE = 4.0
"""The half width of the second points in standard deviations, but no less than the spacing of the first points."""

Density = Callable[[Tensor], Tensor]
"""log p of rows, ``(B, n)`` to ``(B,)`` in float64."""


def conditional_drops(density: Density, rows: Tensor, log_p: Tensor, model: NDM, schema: Schema) -> Tensor:
    """The drop of every column of the model in nats, ``(B, n)``.

    Args:
        density: log p of rows of the model.
        rows: the rows as the model's numbers, ``(B, n)``.
        log_p: ``density(rows)``.
        model: the model, whose decoder knows the marginal distributions.
        schema: what the columns hold.
    """
    decoder, drops = model.decoder, []
    assert isinstance(decoder, MixedDecoder)
    for place, column in enumerate(schema.model_columns):
        values = known_values(column)
        if values is None:
            drops.append(drop_of_number(density, rows, log_p, place, decoder.marginals))
        else:
            if len(values) > EXACT:
                values = frequent(model, place - decoder.numbers)
            drops.append(drop_of_values(density, rows, log_p, place, values))
    return torch.stack(drops, 1)


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
    """The codes of the most frequent symbols of an alphabet, by the bias of the predictor."""
    assert isinstance(model.predictor, MixedPredictor)
    bias = model.predictor.bias.detach().cpu().split(model.predictor.alphabets)[alphabet]
    return bias.topk(EXACT).indices.double()


def drop_of_values(density: Density, rows: Tensor, log_p: Tensor, place: int, values: Tensor) -> Tensor:
    """The drop of a column with a few values ``(K,)``, ``(B,)``."""
    points = values.expand(len(rows), -1)
    return expected(at_points(density, rows, place, points), torch.zeros_like(points))[0] - log_p


def drop_of_number(density: Density, rows: Tensor, log_p: Tensor, place: int, marginals: Marginals) -> Tensor:
    """The drop of a column of real numbers, ``(B,)``."""
    scores = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64).expand(len(rows), -1)
    spacing = 2 * REACH / (POINTS - 1)
    logs, weights = scored(density, rows, place, scores, marginals)
    _, share = expected(logs, weights)
    mean = (share * scores).sum(1)
    deviation = ((share * (scores - mean[:, None]) ** 2).sum(1)).sqrt()
    half = (WIDE * deviation).clamp(min=spacing, max=REACH)
    finer = mean[:, None] + half[:, None] * torch.linspace(-1, 1, POINTS, dtype=torch.float64)
    logs, weights = scored(density, rows, place, finer, marginals)
    return expected(logs, weights)[0] - log_p


def scored(density: Density, rows: Tensor, place: int, scores: Tensor, marginals: Marginals) -> tuple[Tensor, Tensor]:
    """log p with a column at the values of scores ``(B, K)``, and the logarithms of dv/dy there."""
    device = marginals.x.device
    whole = torch.zeros(scores.numel(), marginals.columns, dtype=torch.float64)
    whole[:, place] = scores.flatten()
    values = marginals.inverse(whole.to(device))
    slopes = marginals(values)[1][:, place].cpu().view_as(scores)
    return at_points(density, rows, place, values[:, place].cpu().view_as(scores)), -slopes


def at_points(density: Density, rows: Tensor, place: int, points: Tensor) -> Tensor:
    """log p of every row with a column at each of its points ``(B, K)``, ``(B, K)``."""
    changed = rows[:, None].repeat(1, points.shape[1], 1)
    changed[:, :, place] = points
    return density(changed.flatten(0, 1)).view_as(points)


def expected(logs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of ``logs`` under shares proportional to exp(logs + weights), ``(B,)``, and these shares, ``(B, K)``."""
    share = (logs + weights).softmax(1)
    return (share * logs).sum(1), share
