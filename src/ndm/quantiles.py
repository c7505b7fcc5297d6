r"""The knots of the spline that maps a column to normal scores.

The spline goes through the points :math:`(q_m, \Phi^{-1}(m))` of the quantiles :math:`q_m`, and through the smallest
and the largest value. The slope at a knot is a harmonic mean of the two neighbouring secants in which the nearer one
counts more. Where these secants differ much, values cluster, and the spline has a kink instead. Where values are
popular (:mod:`ndm.popular`), it is a straight line in each popular cell and between them.

References:
    Gregory, Delbourgo. Piecewise Rational Quadratic Interpolation to Monotonic Data. IMA J. Numer. Anal. 1982.
    Fritsch, Butland. A Method for Constructing Local Monotone Piecewise Cubic Interpolants. SIAM J. Sci. Stat. Comput.
    1984 (the mean of the secants).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .errors import InputError
from .popular import Popular, find_popular
from .spline import Spline

NARROWEST = 1e-4
"""The least distance of two knots, in standard deviations of the column."""
FEW_ROWS, STEEPEST = 100, 1.5
"""With fewer rows the lines beyond the outermost knots are no steeper than this, in normal scores for a standard
deviation: two neighbouring values at an end do not show that the column ends there."""
KINK = 2.0
"""The largest ratio of the slope at an end of a piece and of its mean slope, but for the outermost pieces."""
TAILS = 12
"""The slopes that are tried at the inner ends of these."""
FEW_FAR_ONES = 0.01
"""If nine in ten rows spread less than this part of the standard deviation, it is that of a few far values."""
SMALLEST_SPREAD = 1e-100
"""The smallest standard deviation of a column; the largest is its inverse. Beyond them products of slopes overflow."""


def standard_deviation(values: np.ndarray) -> np.ndarray:
    """The standard deviation over the first axis, in any unit: the squares do not overflow."""
    scale = np.abs(values).max(0)
    scale = np.where(scale > 0, scale, 1.0)
    return (values / scale).std(0) * scale


def fit_column(values: np.ndarray, placed: np.ndarray, cell: float, quantiles: int, cells: int) -> np.ndarray:
    """The spline of one column: positions, normal scores and the slopes from both sides of each knot, ``(4, knots)``.

    Args:
        values: the column.
        placed: the column with each rounded value at a random place in its cell.
        cell: the width of these cells, or 0.
        quantiles: the number of quantiles.
        cells: the most popular cells.

    Raises:
        InputError: if the column has a single value or a value that is not finite.
    """
    spread = spread_of(placed)
    spline, shares = smooth_spline(placed, quantiles, spread)
    popular = find_popular(values, distribution(spline), spread, cell, cells)
    if popular is None:
        return spline
    return with_popular(spline, shares, popular, (values.min() - cell / 2, values.max() + cell / 2), spread)


def unknown_column(value: float) -> np.ndarray:
    """Two values around one, as a stand-in for a column of which fewer than two values are known."""
    return value + max(1.0, abs(value)) * np.array([-1.0, 1.0])


def fit_spiked(values: np.ndarray, spikes: np.ndarray, width: float, quantiles: int, cells: int) -> np.ndarray:
    """The spline of a column in which the values ``spikes`` alone have cells of ``width``; see :func:`fit_column`."""
    spikes = np.sort(spikes)
    others = values[~np.isin(values, spikes)]
    if len(np.unique(others)) < 2:
        return fit_column(values, values, 0.0, quantiles, cells)
    spread = spread_of(values)
    spline, shares = smooth_spline(others, quantiles, spread)
    rows = np.array([(values == spike).sum() for spike in spikes])
    spikes, rows = spikes[rows > 0], rows[rows > 0]
    if not len(rows):
        return spline
    popular = Popular(spikes - width / 2, width, rows, len(others) / len(values), 0.0, 0.0)
    return with_popular(spline, shares, popular, (values.min() - width / 2, values.max() + width / 2), spread)


def spread_of(placed: np.ndarray) -> float:
    """The standard deviation of a column, or that of its middle if a few far values make it large.

    Raises:
        InputError: if the column has a single value or a value that is not finite.
    """
    if not np.isfinite(placed).all() or placed.min() == placed.max():
        raise InputError(
            "a column needs finite values, and at least two different ones in float64, for a marginal distribution"
        )
    spread = float(standard_deviation(placed))
    if not SMALLEST_SPREAD < spread < 1 / SMALLEST_SPREAD:
        raise InputError(
            f"a column has a standard deviation of {spread:.3g}, with which densities are no numbers; give it in "
            "another unit"
        )
    return float(without_far_ones(placed, np.array(spread)))


def without_far_ones(values: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """The standard deviations ``spread`` over the first axis, or those of the middle if a few far values make them
    large: such values say nothing of the others."""
    middle = np.subtract(*np.quantile(values, (0.95, 0.05), axis=0)) / 3.3
    return np.where((middle > 0) & (middle < FEW_FAR_ONES * spread), middle, spread)


def distribution(spline: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The distribution function that a spline stands for."""
    one = Spline(*(torch.from_numpy(table) for table in (spline[:1], spline[1:2], spline[2:, None])))
    return lambda x: torch.special.ndtr(one.forward(torch.from_numpy(x)[None])[0][0]).numpy()


def with_popular(
    spline: np.ndarray, shares: np.ndarray, popular: Popular, ends: tuple[float, float], spread: float
) -> np.ndarray:
    """A smooth spline through the quantiles at ``shares``, with popular cells, of a column with these ends."""
    smooth, tail = distribution(spline), shares[0]
    below = lambda x: popular.weight * smooth(x) + (1 - popular.weight) * popular.distribution(x)  # noqa: E731
    edges = popular.edges()
    ends = (min(ends[0], spline[0, 0]), max(ends[1], spline[0, -1]))
    outside = spline[0][np.searchsorted(edges, spline[0]) % 2 == 0]  # the density is even within a cell
    knots = np.unique(np.concatenate([edges, outside, ends]).clip(*ends))
    level = below(knots)
    level = tail + (1 - 2 * tail) * (level - level[0]) / (level[-1] - level[0])
    # Straight lines in normal scores are only even if they are short.
    levels = np.unique(np.concatenate([level, shares]))
    scores = torch.special.ndtri(torch.from_numpy(levels)).numpy()
    beyond = (min(spline[2, 0], 1 / spread), min(spline[3, -1], 1 / spread))  # an outermost cell may be popular
    return straight_spline(np.interp(levels, level, knots), scores, beyond)


def smooth_spline(column: np.ndarray, quantiles: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """The smooth spline through the quantiles of a column, see :func:`fit_column`, and the shares below them."""
    tail = 0.5 / len(column)
    shares = np.concatenate([[tail], (np.arange(quantiles) + 0.5) / quantiles, [1 - tail]]).clip(0, 1)
    position = np.quantile(column, shares)
    position[0], position[-1] = column.min(), column.max()
    score = torch.special.ndtri(torch.from_numpy(shares)).numpy()
    lowest = int((position == position[0]).sum()) - 1  # of values that share the lower end, the score of their last
    position, score = position[lowest:], score[lowest:]
    kept = separate(position, score, np.full(len(position), NARROWEST * spread), 1e-3)
    position, score = position[kept], score[kept]
    width = np.diff(position)
    secant = np.diff(score) / width
    slope = np.concatenate([secant[:1], secant, secant[-1:]])[: len(position)]
    # A harmonic mean of the neighbouring secants keeps the spline increasing. The nearer one counts more, so that the
    # mean is right to second order at uneven knots, too.
    slope[1:-1] = (width[1:] + width[:-1]) / (width[:-1] / secant[1:] + width[1:] / secant[:-1])
    slope[-1] = secant[-1]
    left, right = slope.copy(), slope.copy()
    # A kink keeps the density of a cluster out of the gap beside it. A tail may go on from the density at its knot, or
    # be such a gap with a few far values behind it: its values tell.
    left[1:] = left[1:].clip(secant / KINK, secant * KINK)
    right[:-1] = right[:-1].clip(secant / KINK, secant * KINK)
    if len(position) > 2:
        left[1] = tail_slope(-column, -position[1::-1], -score[1::-1], (left[1], slope[1]), left[0])
        right[-2] = tail_slope(column, position[-2:], score[-2:], (right[-2], slope[-2]), right[-1])
    if len(column) < FEW_ROWS:
        left[0], right[-1] = min(slope[0], STEEPEST / spread), min(slope[-1], STEEPEST / spread)
    return np.stack([position, score, left, right]), shares


def tail_slope(
    column: np.ndarray, position: np.ndarray, score: np.ndarray, between: tuple[float, float], last: float
) -> float:
    """The slope at the inner end of the outermost piece, between two slopes, with the largest likelihood of its values.

    Args:
        column: the values.
        position, score: both ends of the piece at the upper end of the column, ``(2,)`` each.
        between: the smallest and the largest slope, in any order.
        last: the slope at the outer end.
    """
    slopes = np.geomspace(*between, TAILS) if between[0] != between[1] else np.array(between[:1])
    inside = np.tile(column[column > position[0]], (len(slopes), 1))
    tables = [np.tile(ends, (len(slopes), 1)) for ends in (position, score)]
    ends = np.stack([slopes, np.full(len(slopes), last)], 1)
    y, slope = Spline(*map(torch.from_numpy, [*tables, np.stack([ends, ends])])).forward(torch.from_numpy(inside))
    return float(slopes[int((slope.log() - y**2 / 2).sum(1).argmax())])


def straight_spline(position: np.ndarray, score: np.ndarray, beyond: tuple[float, float]) -> np.ndarray:
    """Straight lines through points in increasing order, and the slopes ``beyond`` them; see :func:`fit_column`."""
    kept = separate(position, score, 1e-13 * np.abs(position), 1e-12)
    position, score = position[kept], score[kept]
    secant = np.diff(score) / np.diff(position)
    return np.stack([position, score, np.append(beyond[0], secant), np.append(secant, beyond[1])])


def separate(position: np.ndarray, score: np.ndarray, width: np.ndarray, rise: float) -> list[int]:
    """The first point, and each more than its ``width`` and ``rise`` beyond the last that is kept; at least both
    ends."""
    kept = [0]
    for m in range(1, len(position)):
        if position[m] - position[kept[-1]] > width[m] and score[m] - score[kept[-1]] > rise:
            kept.append(m)
    return kept if len(kept) > 1 else [0, len(position) - 1]


def continued(spline: np.ndarray, knots: int) -> np.ndarray:
    """A spline with more knots, which continue its last straight line."""
    position, score, _, slope = spline[:, -1]
    steps = (spline[0, -1] - spline[0, 0]) / knots * np.arange(1, knots + 1 - spline.shape[1])
    same = np.full(len(steps), slope)
    return np.concatenate([spline, np.stack([position + steps, score + slope * steps, same, same])], 1)
