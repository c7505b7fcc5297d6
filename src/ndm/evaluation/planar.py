"""How well points in the plane fill what they should: the share in the support, and the total variation on cells."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.dataset import Distribution

CELLS = 16
"""The number of cells on each side."""


def share_inside(samples: Tensor, distribution: Distribution) -> float:
    """The share of samples where a distribution has a density above zero."""
    return (distribution.log_prob(samples.double()) > -torch.inf).double().mean().item()


def total_variation(samples: Tensor, rows: Tensor) -> float:
    """Half the sum of the differences of the shares of both in 16 x 16 cells, and in the rest of the plane.

    The cells divide the smallest rectangle that has all ``rows``. Two sets of the same distribution are not at 0,
    because each share has an error.

    Args:
        samples, rows: points, ``(N, 2)`` and ``(M, 2)``.
    """
    low, high = rows.min(0).values, rows.max(0).values
    shares = []
    for points in (samples, rows):
        place = ((points.to(rows) - low) / (high - low) * CELLS).floor()
        place = torch.where(points.to(rows) == high, CELLS - 1, place)
        inside = ((place >= 0) & (place < CELLS)).all(1)
        index = torch.where(inside, place[:, 0] * CELLS + place[:, 1], CELLS**2).long()
        shares.append(torch.bincount(index, minlength=CELLS**2 + 1).double() / len(points))
    return (shares[0] - shares[1]).abs().sum().item() / 2
