r"""Monotone maps of the columns of a table to normal scores, with their exact derivatives.

.. math:: y_j = S_j(x_j), \qquad \log p(x) = \log p(y) + \sum_j \log S_j'(x_j)

:math:`S_j` is a rational-quadratic spline through the points :math:`(q_m, \Phi^{-1}(m))` of the quantiles
:math:`q_m` of column j, with the slopes at the knots that make it smooth and increasing, and straight lines beyond the
outermost knots. So the edges, tails and spikes of a column are there before a network learns anything, and a column in
any unit has about the spread of a standard normal variable.

References:
    Gregory, Delbourgo. Piecewise Rational Quadratic Interpolation to Monotonic Data. IMA J. Numer. Anal. 1982.
    Durkan, Bekasov, Murray, Papamakarios. Neural Spline Flows. NeurIPS 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .errors import InputError
from .support.checks import require_count
from .support.registry import savable

MOST_KNOTS = 64
ROWS_PER_KNOT = 30
NARROWEST = 1e-4
"""The least distance of two knots, in standard deviations of the column."""
SMALLEST_SPREAD = 1e-100
"""The smallest standard deviation of a column; the largest is its inverse. Beyond them products of slopes overflow."""


class Knots(NamedTuple):
    """The ends of the pieces of the splines that hold some points, each ``(D, B)``: positions, values and slopes."""

    x0: Tensor
    x1: Tensor
    y0: Tensor
    y1: Tensor
    s0: Tensor
    s1: Tensor


@savable
class Marginals(nn.Module):
    """One increasing spline for each column; without fitting they are the identity.

    Args:
        columns: the number D of columns.
        knots: the number of knots of each spline.

    Raises:
        InputError: if a count is too small.
    """

    x: Tensor
    """Positions of the knots in data units, ``(D, knots)``, float64 wherever the model's weights are."""
    y: Tensor
    """Values at the knots, ``(D, knots)``."""
    slope: Tensor
    """Derivatives at the knots, ``(D, knots)``."""

    def __init__(self, columns: int, knots: int = 2) -> None:
        super().__init__()
        require_count(0, columns=columns)
        require_count(2, knots=knots)
        self.columns = columns
        self.knots = knots
        positions = torch.linspace(-1.0, 1.0, knots, dtype=torch.float64).repeat(columns, 1)
        self.register_buffer("x", positions)
        self.register_buffer("y", positions.clone())
        self.register_buffer("slope", torch.ones_like(positions))

    @classmethod
    def fit(cls, rows: Tensor, knots: int | None = None) -> Marginals:
        """The splines of the columns of ``rows``, ``(N, D)``.

        Args:
            rows: the data in their own units.
            knots: the number of quantiles; by default one for every 30 rows, from 4 to 64.

        Raises:
            InputError: if a column has a single value or a value that is not finite.
        """
        values = rows.double().numpy()
        quantiles = knots or int(min(MOST_KNOTS, max(4, len(values) // ROWS_PER_KNOT)))
        splines = [fit_spline(column, quantiles) for column in values.T]
        self = cls(values.shape[1], quantiles + 2)
        for name, k in (("x", 0), ("y", 1), ("slope", 2)):
            table = np.stack([spline[k] for spline in splines]) if splines else np.empty((0, quantiles + 2))
            setattr(self, name, torch.from_numpy(table))
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Marginals:
        # The tables keep their digits, whatever dtype the weights get. MPS has no float64.
        exact = {name: getattr(self, name) for name in ("x", "y", "slope")}
        super()._apply(fn, recurse)
        for name, old in exact.items():
            new = getattr(self, name)
            if not (old.is_meta or new.is_meta or new.device.type == "mps"):
                setattr(self, name, old.to(new.device))
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normal scores y and :math:`\\log S'(x)`, both ``(B, D)`` in float64."""
        x = x.to(self.x.dtype).T.contiguous()
        k = self._piece(self.x, x)
        width, height = k.x1 - k.x0, k.y1 - k.y0
        mean = height / width
        first, last = k.s0 / mean, k.s1 / mean  # without units, so that no unit of x makes a product overflow
        part = ((x - k.x0) / width).clamp(0, 1)
        down = 1 + (first + last - 2) * part * (1 - part)
        y = k.y0 + height * (part**2 + first * part * (1 - part)) / down
        slope = mean * (last * part**2 + 2 * part * (1 - part) + first * (1 - part) ** 2) / down**2
        below, above = (x - self.x[:, :1]).clamp(max=0), (x - self.x[:, -1:]).clamp(min=0)
        return (y + self.slope[:, :1] * below + self.slope[:, -1:] * above).T, slope.log().T

    def inverse(self, y: Tensor) -> Tensor:
        """The values x with these normal scores, ``(B, D)`` in float64."""
        y = y.to(self.x.dtype).T.contiguous()
        k = self._piece(self.y, y)
        width, height = k.x1 - k.x0, k.y1 - k.y0
        mean, rise = height / width, (y - k.y0).clamp(min=0).minimum(height)
        first, last = k.s0 / mean, k.s1 / mean
        bend = first + last - 2
        a = height * (1 - first) + rise * bend
        b = height * first - rise * bend
        c = -rise
        part = 2 * c / (-b - (b**2 - 4 * a * c).clamp(min=0).sqrt())
        below, above = (y - self.y[:, :1]).clamp(max=0), (y - self.y[:, -1:]).clamp(min=0)
        return (k.x0 + width * part + below / self.slope[:, :1] + above / self.slope[:, -1:]).T

    def _piece(self, ends: Tensor, at: Tensor) -> Knots:
        """The pieces that hold ``at``, ``(D, B)``; points beyond the ends get the outermost pieces."""
        right = torch.searchsorted(ends, at).clamp(1, self.knots - 1)
        pairs = ((table.gather(1, right - 1), table.gather(1, right)) for table in (self.x, self.y, self.slope))
        return Knots(*(end for pair in pairs for end in pair))


def standard_deviation(values: np.ndarray) -> np.ndarray:
    """The standard deviation over the first axis, in any unit: the squares do not overflow."""
    scale = np.abs(values).max(0)
    scale = np.where(scale > 0, scale, 1.0)
    return (values / scale).std(0) * scale


def fit_spline(column: np.ndarray, quantiles: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, normal scores and slopes of the knots of one column, each ``(quantiles + 2,)``.

    Raises:
        InputError: if the column has a single value or a value that is not finite.
    """
    if not np.isfinite(column).all() or column.min() == column.max():
        raise InputError("a column needs finite values, and at least two different ones, for a marginal distribution")
    spread = standard_deviation(column)
    if not SMALLEST_SPREAD < spread < 1 / SMALLEST_SPREAD:
        raise InputError(
            f"a column has a standard deviation of {spread:.3g}, with which densities are no numbers; give it in "
            "another unit"
        )
    share = np.concatenate([[0.5 / len(column)], (np.arange(quantiles) + 0.5) / quantiles, [1 - 0.5 / len(column)]])
    position = np.quantile(column, share.clip(0, 1))
    position[0], position[-1] = column.min(), column.max()
    score = torch.special.ndtri(torch.from_numpy(share)).numpy()
    kept = [0]
    for m in range(1, len(share)):
        if position[m] - position[kept[-1]] > NARROWEST * spread and score[m] - score[kept[-1]] > 1e-3:
            kept.append(m)
    if len(kept) < 2:
        kept = [0, len(share) - 1]
    position, score = position[kept], score[kept]
    width, rise = np.diff(position), np.diff(score)
    secant = rise / width
    slope = np.concatenate([secant[:1], secant, secant[-1:]])[: len(position)]
    # A weighted harmonic mean of the neighbouring secants keeps the spline increasing and smooth.
    slope[1:-1] = (width[1:] + width[:-1]) / (width[1:] / secant[1:] + width[:-1] / secant[:-1])
    slope[-1] = secant[-1]
    # Unused knots continue the last straight line.
    steps = spread * np.arange(1, quantiles + 3 - len(position))
    more = (position[-1] + steps, score[-1] + slope[-1] * steps, np.full(len(steps), slope[-1]))
    return tuple(np.concatenate(pair) for pair in zip((position, score, slope), more, strict=True))  # type: ignore[return-value]
