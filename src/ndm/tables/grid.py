r"""The grid on which a column of numbers was recorded.

Numbers lie on a grid if :math:`x = \text{offset} + \text{step} \cdot k` with integers k, for the largest such step. A
decimal grid is sought first: the fewest decimals that write all values, and the greatest common divisor of the values
in that unit. Numbers that were centred or rescaled lie on other grids, whose step is the greatest common divisor of the
gaps by Euclid's algorithm with a tolerance. Both allow for the rounding of ``float64``, or of ``float32`` if all values
are such.

A column is *discrete*, so that its values have probabilities and not densities, by one of two rules:

- coarse: the step is more than ``COARSE`` of the spread, which is the standard deviation or the interquartile range
  over 1.349 if that is smaller and not zero; so a few far values do not make a column continuous;
- few: at most ``FEW`` of the rows are distinct, or of the rows that are left without the values that more than
  ``OFTEN`` of all rows have. The cells are those of the grid if at least ``FILLED`` of it is used, and else lie around
  the ``LARGEST_LIST`` or fewer values, as wide as the smallest gap between them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

COARSE = 0.01
FEW, REPEATED = 0.05, 0.5
OFTEN = 0.05
LEAST_ROWS = 5
"""A value in fewer rows is not called frequent, however few rows there are."""
FILLED = 0.1
LARGEST_LIST = 1000
MOST_DECIMALS = 12
FEWEST = 5
"""A grid that is not decimal is sought for this many values or more; fewer lie on some grid by chance."""
FINEST = 1e-4
"""Steps of grids that are not decimal are at least this part of the spread."""


class Grid(NamedTuple):
    """Values ``offset + step * k``; ``decimals`` is None if the grid is not decimal."""

    offset: float
    step: float
    decimals: int | None = None

    def nearest(self, x: np.ndarray) -> np.ndarray:
        """The values of the grid next to numbers of any shape."""
        value = self.offset + self.step * np.rint((x - self.offset) / self.step)
        return rounded(value, self.decimals)


class Cells(NamedTuple):
    """How the values of a column are spaced."""

    step: float
    """Width of the cells of a discrete column; 0 if the column is continuous."""
    grid: Grid | None
    values: tuple[float, ...] = ()
    """All values of a discrete column that has no grid."""


def rounded(x: np.ndarray, decimals: int | None) -> np.ndarray:
    """Numbers with so many decimals, each the float64 next to its decimal form; unchanged if ``decimals`` is None."""
    return x if decimals is None else np.rint(x * 10.0**decimals) / 10.0**decimals


def spread(x: np.ndarray) -> float:
    """The standard deviation, or the interquartile range over 1.349 if that is smaller and not zero."""
    low, high = np.quantile(x, [0.25, 0.75])
    deviation, between = float(x.std()), float(high - low) / 1.349
    return between if 0 < between < deviation else deviation


def frequent(x: np.ndarray) -> list[tuple[float, float]]:
    """The values that more than ``OFTEN`` of the rows have, and their shares, the most frequent first."""
    values, counts = np.unique(x, return_counts=True)
    often = np.flatnonzero(counts > max(OFTEN * len(x), LEAST_ROWS - 1))
    return [(float(values[i]), float(counts[i]) / len(x)) for i in often[np.argsort(-counts[often], kind="stable")]]


def cells(x: np.ndarray) -> Cells:
    """Find out whether finite numbers are discrete, and on which grid they lie."""
    values = np.unique(x)
    width = spread(x)
    grid = find_grid(values, FINEST * width)
    if len(values) < 2:
        return Cells(grid.step if grid else 0.0, grid)
    if grid and grid.step > COARSE * width:
        return Cells(grid.step, grid)
    often = frequent(x)
    rest = len(x) - round(sum(share for _, share in often) * len(x))
    few = len(values) <= FEW * len(x) or len(values) - len(often) <= FEW * rest
    # Beside frequent values the others repeat, too, unless they are fewer than anything can be said of.
    if few and len(values) - len(often) <= max(REPEATED * rest, LEAST_ROWS - 1):
        if grid and len(values) - 1 >= FILLED * round((values[-1] - values[0]) / grid.step):
            return Cells(grid.step, grid)
        if len(values) <= LARGEST_LIST:
            return Cells(float(np.diff(values).min()), None, tuple(values.tolist()))
    return Cells(0.0, grid if grid and grid.decimals is not None else None)


def find_grid(values: np.ndarray, finest: float = 0.0) -> Grid | None:
    """The grid of sorted distinct numbers, or None if there is none.

    A single number lies on the grid of its decimals. Steps of a grid that is not decimal are at least ``finest``.
    """
    largest = float(np.abs(values).max())
    if largest <= 2**53 and (values == np.rint(values)).all():
        return _whole(values, 1.0, 0)
    with np.errstate(over="ignore"):  # numbers beyond float32 are no float32
        single = np.array_equal(values.astype(np.float32), values)
    # Small whole numbers are float32 too, and exact: only what is no grid in float64 may be one rounded to float32.
    for type in (np.float64, np.float32) if single else (np.float64,):
        noise = 4 * largest * float(np.finfo(type).eps)
        grid = _decimal(values, noise, largest) or _any(values, noise, finest)
        if grid:
            return grid
    return None


def _decimal(values: np.ndarray, noise: float, largest: float) -> Grid | None:
    for decimals in range(MOST_DECIMALS + 1):
        unit = 10.0**decimals
        if largest * unit >= 2**53 or 1 / unit <= 100 * noise:
            return None
        k = np.rint(values * unit)
        if np.abs(values - k / unit).max() <= noise:
            return _whole(k, unit, decimals)
    return None


def _whole(k: np.ndarray, unit: float, decimals: int) -> Grid:
    """The grid of sorted whole numbers of a unit."""
    step = max(int(np.gcd.reduce(np.diff(k.astype(np.int64)))), 1) if len(k) > 1 else 1
    # The offset is less than a step: differences from a far offset would be rounded.
    return Grid(int(k[0]) % step / unit, step / unit, decimals)


def _any(values: np.ndarray, noise: float, finest: float) -> Grid | None:
    gaps = np.diff(values)
    gaps = gaps[gaps > 2 * noise]
    if len(gaps) < FEWEST - 1:
        return None
    step, least = float(gaps.min()), max(finest, 1e4 * noise)
    while step >= least:
        rest = np.abs(gaps - step * np.rint(gaps / step))
        # The error of a remainder is that of the divisor times the quotient: it grows as the grid gets longer.
        left = rest[rest > 100 * noise * np.maximum(1, gaps / step)]
        if not len(left):
            break
        step = float(left.min())
    else:
        return None
    offset = float(values[0])
    for _ in range(2):
        k = np.rint((values - offset) / step)
        middle = k.mean()
        step = float(((k - middle) @ values) / ((k - middle) @ (k - middle)))
        offset = float(values.mean() - step * middle)
    k = np.rint((values - offset) / step)
    return Grid(offset + step * float(k[0]), step) if np.abs(values - offset - step * k).max() <= 4 * noise else None
