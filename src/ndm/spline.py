r"""Increasing splines of rational-quadratic pieces, with straight lines beyond the outermost knots.

A piece of width w and height h rises with slopes :math:`s_0, s_1` at its ends. With :math:`\xi` the part of the width
that lies below x, and :math:`r_i = s_i w / h`,

.. math:: y = y_0 + h\, \frac{\xi^2 + r_0\, \xi (1 - \xi)}{1 + (r_0 + r_1 - 2)\, \xi (1 - \xi)}

The slopes of neighbouring pieces at a common knot need not agree.

References:
    Gregory, Delbourgo. Piecewise Rational Quadratic Interpolation to Monotonic Data. IMA J. Numer. Anal. 1982.
    Durkan, Bekasov, Murray, Papamakarios. Neural Spline Flows. NeurIPS 2019.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Knots(NamedTuple):
    """The ends of the pieces of the splines that hold some points, each ``(D, B)``: positions, values and slopes."""

    x0: Tensor
    x1: Tensor
    y0: Tensor
    y1: Tensor
    s0: Tensor
    s1: Tensor


class Spline(NamedTuple):
    """One spline for each of D columns, by tables of its knots."""

    x: Tensor
    """Positions, increasing, ``(D, knots)``."""
    y: Tensor
    """Values, ``(D, knots)``."""
    slope: Tensor
    """Derivatives from the left and from the right, ``(2, D, knots)``: the first and the last are those beyond."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values and derivatives at ``x``, ``(D, B)`` each."""
        k = self._piece(self.x, x)
        width, height = k.x1 - k.x0, k.y1 - k.y0
        mean = height / width
        first, last = k.s0 / mean, k.s1 / mean  # without units, so that no unit of x makes a product overflow
        low, high = self.x[:, :1], self.x[:, -1:]
        # Not by clamp, whose gradient is zero at a bound, and so at knots.
        inside = torch.where(x < low, low, torch.where(x > high, high, x))
        # Both parts are differences of x, so that beside a far value the nearer end decides the digits.
        part, rest = (inside - k.x0) / width, (k.x1 - inside) / width
        down = 1 + (first + last - 2) * part * rest
        y = k.y0 + height * part * (part + first * rest) / down
        slope = mean * (last * part**2 + 2 * part * rest + first * rest**2) / down**2
        first, last = self.slope[0, :, :1], self.slope[1, :, -1:]
        slope = torch.where(x < low, first, torch.where(x > high, last, slope))
        return y + torch.where(x < low, first * (x - low), torch.where(x > high, last * (x - high), 0.0)), slope

    def inverse(self, y: Tensor) -> Tensor:
        """The positions with these values, ``(D, B)``."""
        k = self._piece(self.y, y)
        width, height = k.x1 - k.x0, k.y1 - k.y0
        mean = height / width
        first, last = k.s0 / mean, k.s1 / mean
        low, high = self.y[:, :1], self.y[:, -1:]
        inside = torch.where(y < low, low, torch.where(y > high, high, y))
        part, rest = part_at(inside - k.y0, height, first, last), part_at(k.y1 - inside, height, last, first)
        x = torch.where(part < 0.5, k.x0 + width * part, k.x1 - width * rest)
        below, above = (y - low) / self.slope[0, :, :1], (y - high) / self.slope[1, :, -1:]
        return x + torch.where(y < low, below, torch.where(y > high, above, 0.0))

    def _piece(self, ends: Tensor, at: Tensor) -> Knots:
        """The pieces that hold ``at``, ``(D, B)``; points beyond the ends get the outermost pieces."""
        right = torch.searchsorted(ends, at).clamp(1, self.x.shape[1] - 1)
        tables = ((self.x, self.x), (self.y, self.y), (self.slope[1], self.slope[0]))
        pairs = ((low.gather(1, right - 1), high.gather(1, right)) for low, high in tables)
        return Knots(*(end for pair in pairs for end in pair))


def part_at(rise: Tensor, height: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """The part of a piece after which it has risen by ``rise`` of its ``height``.

    A part above a half may have lost its digits. Then the part from the other end has not.

    Args:
        first, last: the slopes at both ends, in units of the mean slope.
    """
    bend = first + last - 2
    a, b = height * (1 - first) + rise * bend, height * first - rise * bend
    root = (b**2 + 4 * a * rise).clamp(min=0).sqrt()
    return 2 * rise / (b + root).clamp(min=1e-100)
