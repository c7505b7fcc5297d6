r"""Popular values: what a smooth density of one column cannot see.

A column may be smooth at large, and still many rows share a few values or narrow intervals: round prices, the hours of
a contract, the reading of one day. The probability of cell k of a fine grid is then

.. math:: P(k) = w\, P_0(k) + (1 - w)\, n_k / n

with :math:`P_0` of the smooth density, the number :math:`n_k` of rows in a popular cell and their sum n. A cell is
popular if it has at least two rows, or more if there are very many such cells. On a grid on which a column was recorded
a single row may be enough, since a value that was seen once may come again. The weight w has the largest leave-one-out
likelihood, in which a row sees its cell with :math:`n_k - 1` rows; a cell that is popular only because of this row is
not popular then.

The cells of a column that was recorded on a grid are those of the grid. For another column their width is chosen by the
same likelihood, and equal values count once, because the density of a value that repeats has no bound. Popular cells
are used only if they make a row more probable by more than :data:`LEAST` nats in the mean, and by more than three
standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

WIDTHS = np.geomspace(1e-4, 0.5, 24)
"""The widths of cells that are tried, in standard deviations."""
WEIGHTS = np.concatenate([np.geomspace(1e-5, 0.1, 25), np.linspace(0.1, 1.0, 31)[1:-1]])
ROWS = 50_000
"""The most rows that are looked at."""
LEAST = 0.01
"""The least mean gain, in nats, for which popular cells are used."""

Distribution = Callable[[np.ndarray], np.ndarray]


class Popular(NamedTuple):
    """The popular cells of a column."""

    low: np.ndarray
    """Their lower edges, increasing, ``(K,)``."""
    width: float
    rows: np.ndarray
    """How many rows each has, ``(K,)``."""
    weight: float
    """The weight w of the smooth density."""
    gain: float
    """By how much a row is more probable with them, leave-one-out, in nats."""
    error: float
    """The standard error of the gain."""

    def edges(self) -> np.ndarray:
        """The lower and upper edges of all cells, ``(2 K,)``; neighbours share one up to rounding."""
        return np.maximum.accumulate(np.stack([self.low, self.low + self.width], 1).ravel())

    def distribution(self, x: np.ndarray) -> np.ndarray:
        """The share of the popular cells' rows below x, spread evenly in each cell."""
        before = np.concatenate([[0], np.cumsum(self.rows)]) / self.rows.sum()
        levels = np.stack([before[:-1], before[1:]], 1).ravel()
        return np.interp(x, self.edges(), levels, left=0.0, right=1.0)


def find_popular(
    values: np.ndarray, smooth: Distribution, spread: float, cell: float = 0.0, most: int = 5_000
) -> Popular | None:
    """The popular cells of a column, or None if a smooth density is as good.

    Args:
        values: the values of the rows, ``(N,)``.
        smooth: the smooth distribution function.
        spread: the standard deviation of the column.
        cell: the step of the grid on which the values were recorded, each in the middle of its cell; 0 without a grid.
        most: the most popular cells.
    """
    if len(values) > ROWS:
        values = np.random.default_rng(0).choice(values, ROWS, replace=False)
    if cell:
        centres, counts = np.unique(values, return_counts=True)
        found = [popular_cells(centres - cell / 2, cell, counts, smooth, least, most) for least in (1, 2)]
    else:
        values = np.unique(values)
        middle, found = values[len(values) // 2], []  # from which the numbers of cells have all digits
        for width in WIDTHS * spread:
            numbers, counts = np.unique(np.floor((values - middle) / width + 0.5), return_counts=True)
            found.append(popular_cells(middle + (numbers - 0.5) * width, width, counts, smooth, 2, most))
    best = max(found, key=lambda popular: popular.gain)
    return best if best.gain > max(LEAST, 3 * best.error) else None


def popular_cells(
    low: np.ndarray, width: float, count: np.ndarray, smooth: Distribution, least: int, most: int
) -> Popular:
    """The cells with at least ``least`` rows, or the ``most`` with most rows, with the best weight of the rest."""
    total = int(count.sum())
    enough = max(least, int(np.sort(count)[-most - 1]) + 1 if len(count) > most else least)
    low, count = low[count >= enough], count[count >= enough]
    if not (count > enough).any():
        return Popular(low, width, count, 1.0, 0.0, 0.0)
    smooth_share = np.maximum(smooth(low + width) - smooth(low), 1e-300)
    others = np.where(count > enough, count - 1, 0) / (count.sum() - 1) / smooth_share
    rest = total - count.sum()
    # log(P(k) / P_0(k)) of a row in each popular cell, for each weight; it is log w for a row in no popular cell.
    gains = np.log(WEIGHTS[:, None] + (1 - WEIGHTS[:, None]) * others)
    means = (gains @ count + rest * np.log(WEIGHTS)) / total
    best = int(np.argmax(means))
    weight, gain = float(WEIGHTS[best]), float(means[best])
    squares = (gains[best] - gain) ** 2 @ count + rest * (math.log(weight) - gain) ** 2
    return Popular(low, width, count, weight, gain, math.sqrt(squares) / total)
