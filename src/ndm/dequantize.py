r"""Numbers of a row that are not known exactly, and the places that are drawn for them.

A diffusion model has densities, and a table has numbers that are more or less than real numbers:

* A rounded number x has a cell of width h. With u uniform, the probability of the cell is

  .. math:: P(x) = h\, \mathrm{E}_u[p(x + h (u - \tfrac12))].

* A real column may have a frequent value, such as the 0 of a column of amounts. It gets a narrow cell too, so that the
  density there is the probability of the value divided by h. Other numbers of the column stay where they are.
* A missing number x with normal score y is integrated out,

  .. math:: \int p(x, \ldots)\, dx = \mathrm{E}_y\Big[\frac{p(S^{-1}(y), \ldots)}{q(y)}\Big],
            \qquad q(y) = \mathcal{N}(y; 0, 1) \cdot S'(S^{-1}(y)), \quad y \sim \mathcal{N}(0, 1),

  where q is the marginal distribution of the column. The model of rows whose missing numbers were drawn like this has
  them independent of everything else, and then every draw gives the same.

By Jensen's inequality the expected logarithm of one draw is at most the logarithm of the expectation: this is what the
bound estimates. The ODE's likelihood averages weights over draws.

References:
    Theis, van den Oord, Bethge. A Note on the Evaluation of Generative Models. ICLR 2016 (uniform dequantisation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .marginal import Marginals, cell_widths
from .support.checks import listed, require, require_count, require_number

SINGLE = 2.0**-22
"""Relative rounding of float32: two numbers nearer than this are one frequent value."""
SMALLEST = 2.0**-25
"""The least probability of either tail of a drawn score: half of the spacing of float32's uniform numbers."""


T = TypeVar("T")


class Dequantizer:
    """Draws places for the numbers of a row that are not known exactly.

    Args:
        columns: the number D of numbers of a row.
        alphabets: how many symbols each of the columns behind them has.
        cells: the width of the cell of each number in data units, 0 for one that is not rounded; None is 0 for all.
        spikes: for each number, the only values that have cells; empty if all have.
        missing: for each number, the position of the alphabet that says whether it is missing, and then its codes that
            say so; empty for a number that is never missing.

    Raises:
        InputError: if these do not fit each other.
    """

    def __init__(
        self, columns: int, alphabets: Sequence[int], cells: Sequence[float] | None,
        spikes: Sequence[Sequence[float]] | None, missing: Sequence[Sequence[int]] | None,
    ) -> None:  # fmt: skip
        self.columns = columns
        self.cells = cell_widths(cells, columns)
        self.spikes = _lists("spikes", spikes, columns)
        self.missing = _lists("missing", missing, columns)
        for j, values in enumerate(self.spikes):
            require_number(**{f"spikes[{j}][{i}]": value for i, value in enumerate(values)})
            require(not values or self.cells[j] > 0, f"spikes[{j}] need a cell", self.cells[j])
        for j, which in enumerate(self.missing):
            if not which:
                continue
            alphabet, *codes = which
            require_count(0, **{f"missing[{j}][{i}]": code for i, code in enumerate((alphabet, *codes))})
            require(alphabet < len(alphabets), f"missing[{j}] must begin with the position of an alphabet", alphabet)
            fits = 0 < len(set(codes)) == len(codes) < alphabets[alphabet] > max(codes, default=0)
            require(fits, f"missing[{j}] must have some of the codes of alphabet {alphabet}", codes)
        self.drawn = [j for j in range(columns) if self.cells[j] or self.missing[j]]
        """The positions of the numbers for which a place is drawn."""

    def place(self, x: Tensor, u: Tensor, marginals: Marginals) -> Tensor:
        """Rows in which each number that is not known exactly has the place that u gives it.

        Args:
            x: rows ``(B, D + symbols)`` in float64.
            u: uniform numbers in [0, 1), ``(B, drawn)`` or ``(1, drawn)``.
            marginals: the maps of the columns to normal scores.
        """
        if not self.drawn:
            return x
        u = u.to(x).expand(len(x), -1)
        gone = self.is_missing(x)
        x = x.clone()
        for k, j in enumerate(self.drawn):
            x[:, j] += self.cells[j] * (u[:, k] - 0.5) * self._has_cell(x[:, j], j)
        if any(self.missing):
            scores = x.new_zeros(len(x), self.columns)
            scores[:, self.drawn] = torch.special.ndtri(u.clamp(SMALLEST, 1 - SMALLEST))
            x[:, : self.columns] = torch.where(gone, marginals.inverse(scores).to(x), x[:, : self.columns])
        return x

    def log_volume(self, x: Tensor, scores: Tensor, log_slopes: Tensor) -> Tensor:
        """log p(row) - log p(normal scores and symbols) of placed rows, ``(B,)``.

        Args:
            x: rows ``(B, D + symbols)``.
            scores, log_slopes: what the marginals give for the numbers, ``(B, D)``.
        """
        free = (scores.square() + math.log(2 * math.pi)) / 2
        return torch.where(self.is_missing(x), free, self._known(log_slopes)).sum(1)

    def log_references(self, x: Tensor, scores: Tensor, log_slopes: Tensor, alphabet: int) -> Tensor:
        """log q of the numbers that are there though this alphabet might say that they are missing, summed, ``(B,)``.

        Less this, the log-likelihoods of a row with a number and of the same row without it are in the same unit.

        Args:
            x, scores, log_slopes: those of :meth:`log_volume`.
        """
        free = -(scores.square() + math.log(2 * math.pi)) / 2
        says = torch.tensor([which[:1] == [alphabet] for which in self.missing], device=x.device)
        there = says & ~self.is_missing(x)
        return torch.where(there, free + self._known(log_slopes), 0.0).sum(1)

    def _known(self, log_slopes: Tensor) -> Tensor:
        """The logarithm of what a density of normal scores is multiplied by, for each number that is there."""
        widths = [0.0 if self.spikes[j] or not self.cells[j] else math.log(self.cells[j]) for j in range(self.columns)]
        return log_slopes + torch.tensor(widths).to(log_slopes)

    def is_missing(self, x: Tensor) -> Tensor:
        """Where rows ``(B, D + symbols)`` say that a number is missing, bool ``(B, D)``."""
        gone = torch.zeros(len(x), self.columns, dtype=torch.bool, device=x.device)
        for j, which in enumerate(self.missing):
            if which:
                alphabet, *codes = which
                gone[:, j] = torch.isin(x[:, self.columns + alphabet], torch.tensor(codes, device=x.device).to(x))
        return gone

    def _has_cell(self, values: Tensor, j: int) -> Tensor:
        """Where values of column j have a cell, as 0 and 1."""
        if not self.spikes[j]:
            return torch.ones_like(values)
        spikes = torch.tensor(self.spikes[j], dtype=values.dtype, device=values.device)
        distance = (values[:, None] - spikes).abs()
        return (distance <= SINGLE * spikes.abs()).any(1).to(values)


def _lists(name: str, values: Sequence[Sequence[T]] | None, columns: int) -> list[list[T]]:
    """A list for each column; None is an empty one for each."""
    lists: list[list[T]] = [[] for _ in range(columns)]
    if values is not None:
        lists = [list(listed(name, one)) for one in listed(name, values)]
    require(len(lists) == columns, f"{name} must have a list for each of {columns} numbers", len(lists))
    return lists
