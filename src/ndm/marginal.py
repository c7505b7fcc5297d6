r"""Monotone maps of the columns of a table to normal scores, with their exact derivatives.

.. math:: y_j = S_j(x_j), \qquad \log p(x) = \log p(y) + \sum_j \log S_j'(x_j)

:math:`S_j` is a rational-quadratic spline through the points :math:`(q_m, \Phi^{-1}(m))` of the quantiles
:math:`q_m` of column j. The slopes at the knots make it increasing, and smooth where the distances of quantiles are
about even. Beyond the outermost knots it is straight. So the edges, tails and spikes of a column are there before a
network learns anything, and a column in any unit has about the spread of a standard normal variable. Where values are
popular (:mod:`ndm.popular`), the spline is a straight line in each popular cell and between them, with a kink at the
edges.

:mod:`ndm.spline` evaluates the splines, and :mod:`ndm.quantiles` finds their knots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .errors import InputError
from .quantiles import continued, fit_column, fit_spiked, unknown_column
from .spline import Spline
from .support.checks import listed, require, require_count, require_number, require_seed
from .support.registry import savable
from .support.tensors import require_table

MOST_KNOTS = 64
ROWS_PER_KNOT = 30
MOST_CELLS, MOST_CELLS_OF_ALL = 20_000, 500_000
"""The most popular cells of a column, and of all columns together: each has as many knots as the one with most."""


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
    """Derivatives at the knots, ``(2, D, knots)``: those from the left and those from the right, so that the first and
    the last are those beyond the knots."""

    def __init__(self, columns: int, knots: int = 2) -> None:
        super().__init__()
        require_count(0, columns=columns)
        require_count(2, knots=knots)
        self.columns = columns
        self.knots = knots
        positions = torch.linspace(-1.0, 1.0, knots, dtype=torch.float64).repeat(columns, 1)
        self.register_buffer("x", positions)
        self.register_buffer("y", positions.clone())
        self.register_buffer("slope", torch.ones_like(positions).repeat(2, 1, 1))

    @classmethod
    def fit(
        cls, rows: Tensor, knots: int | None = None, cells: Sequence[float] | None = None, seed: int = 0,
        spikes: Sequence[Sequence[float]] | None = None, known: Tensor | None = None,
    ) -> Marginals:  # fmt: skip
        """The splines of the columns of ``rows``, ``(N, D)``.

        Args:
            rows: the data in their own units.
            knots: the number of quantiles; by default one for every 30 rows, from 4 to 64.
            cells: the width of the cell of each column, such as the step of its grid, 0 for one that is not rounded;
                None is 0 for all. Rounded values are spread evenly over their cells.
            seed: seed of the places in the cells.
            spikes: for each column, the only values that are spread over their cells; empty if all are.
            known: which numbers count, bool ``(N, D)``; None if all do.

        Raises:
            InputError: if ``rows`` are no table of real numbers, or a column has a single value or a value that is not
                finite.
        """
        require_seed(seed)
        if knots is not None:
            require_count(knots=knots)
        fits = isinstance(rows, Tensor) and rows.ndim == 2 and len(rows) > 0 and rows.layout is torch.strided
        if not fits or rows.is_complex() or rows.is_meta:
            got = f"{rows.dtype} {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
            raise InputError(f"rows must be a tensor of real numbers of shape (N, D) with at least one row, got {got}")
        rows = rows.detach().cpu().double()
        widths = cell_widths(cells, rows.shape[1])
        columns = rows.shape[1]
        quantiles = knots or int(min(MOST_KNOTS, max(4, len(rows) // ROWS_PER_KNOT)))
        placed = spread_out(rows, widths, seed)
        most = min(MOST_CELLS, MOST_CELLS_OF_ALL // max(1, columns))
        splines = []
        for j in range(columns):
            counts = torch.ones(len(rows), dtype=torch.bool) if known is None else known[:, j]
            values, spread = rows[counts, j].numpy(), placed[counts, j].numpy()
            if known is not None and not counts.all() and len(np.unique(values)) < 2:
                values = spread = unknown_column(float(rows[0, j]))
            if spikes and spikes[j]:
                splines.append(fit_spiked(values, np.array(spikes[j]), widths[j], quantiles, most))
            else:
                splines.append(fit_column(values, spread, widths[j], quantiles, most))
        self = cls(columns, max((spline.shape[1] for spline in splines), default=quantiles + 2))
        filled = [continued(spline, self.knots) for spline in splines]
        tables = torch.from_numpy(np.stack(filled, 1) if filled else np.empty((4, 0, self.knots)))
        self.x, self.y, self.slope = tables[0].clone(), tables[1].clone(), tables[2:].clone()
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

    @property
    def spline(self) -> Spline:
        """The splines of the columns."""
        return Spline(self.x, self.y, self.slope)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normal scores y and :math:`\\log S'(x)`, both ``(B, D)`` in float64.

        Raises:
            InputError: if ``x`` is no tensor of real numbers of shape ``(B, D)``.
        """
        require_table("x", x, self.columns)
        x = x.to(self.x.dtype).T.contiguous()
        y, slope = self.spline.forward(x)
        return y.T, slope.log().T

    def inverse(self, y: Tensor) -> Tensor:
        """The values x with these normal scores, ``(B, D)`` in float64.

        Raises:
            InputError: as :meth:`forward` does.
        """
        require_table("y", y, self.columns)
        y = y.to(self.x.dtype).T.contiguous()
        return self.spline.inverse(y).T

    def reach(self) -> tuple[Tensor, Tensor]:
        """The largest size of a value among the knots, and the mean width of a unit of normal scores, ``(D,)`` each."""
        x, y = self.x.cpu().double(), self.y.cpu().double()
        return x.abs().amax(1), (x[:, -1] - x[:, 0]) / (y[:, -1] - y[:, 0])


def cell_widths(cells: Sequence[float] | None, columns: int) -> list[float]:
    """The width of the cell of each column, 0 for one that is not rounded; None is 0 for all.

    Raises:
        InputError: if there are not as many widths as columns, or one is not finite or negative.
    """
    widths = [0.0] * columns if cells is None else list(listed("cells", cells))
    require_number(**{f"cells[{i}]": width for i, width in enumerate(widths)})
    widths = [float(width) for width in widths]
    fits = len(widths) == columns and all(0 <= width < math.inf for width in widths)
    require(fits, f"cells must be {columns} widths of at least 0", cells)
    return widths


def spread_out(rows: Tensor, cells: Sequence[float], seed: int = 0) -> Tensor:
    """Rows ``(N, D)`` with each rounded number at a random place in its cell, in float64."""
    noise = np.random.default_rng(seed).random(rows.shape) - 0.5
    return rows.double() + torch.from_numpy(noise) * torch.tensor(list(cells), dtype=torch.float64)
