r"""Columns that the others determine: constants, copies, sums of numeric columns with factors, functions of a category.

Such a column has no density beside the others. It is left out of the model and is computed from them on the way back:

.. math:: x_j = a + \sum_{i \in K} b_i x_i \qquad\text{or}\qquad x_j = f(x_i)

with K a set of columns that are kept. Columns are gone through in their order, so that the earlier of dependent columns
is kept. A numeric column is dependent if every row is as near to the relation as rounding of float64 explains
(``ROUNDING`` of the size of the terms), or of float32 if all values are such. A relation that holds only after rounding
to decimals is no such relation, because the column then says something that the others do not. Later rows break a
relation if they are further from it than ``TOLERANCE`` standard deviations of the column and ``SINGLE`` of the size of
the terms. A function f of the category :math:`x_i` is a table of values; it needs many rows for each category.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

TOLERANCE = 1e-6
SINGLE = 2.0**-22
ROUNDING = 1e-12
NEARLY = 1e-3
"""Columns whose distance from a linear relation is less than this part of their deviation are named, but kept."""
ROWS_A_COLUMN = 2
"""A relation with m columns is sought in more than this many times ``m + 2`` rows; fewer fit one another by chance."""
ROWS_A_CATEGORY = 30
"""A function of a column with V categories is sought in at least this many times V rows."""


@dataclass(frozen=True)
class Relation:
    """A column as ``intercept + sum of coefficients * others``, or as one of some values by the category of another.

    Without others it is constant.

    Attributes:
        name: the column.
        intercept: a constant, in the column's unit.
        others: names of columns.
        coefficients: one number per name.
        tolerance: how far a row may be from the relation, in the column's unit.
        relative: the same as a part of the size of the terms.
        values: the column for each category of the only other column, if it is a function of it.
    """

    name: str
    intercept: float
    others: tuple[str, ...] = ()
    coefficients: tuple[float, ...] = ()
    tolerance: float = 0.0
    relative: float = SINGLE
    values: tuple[float, ...] = ()

    def value(self, x: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
        """The column, shape ``(rows,)``, from the others by name; NaN for a category without a value."""
        if self.values:
            codes = x[self.others[0]].astype(np.int64)
            known = (codes >= 0) & (codes < len(self.values))
            return np.where(known, np.array(self.values)[codes * known], np.nan)
        total = np.full(rows, self.intercept)
        for name, coefficient in zip(self.others, self.coefficients, strict=True):
            total = total + coefficient * x[name]
        return total

    def broken(self, x: Mapping[str, np.ndarray]) -> np.ndarray:
        """Whether each row breaks the relation, or lacks a value that it needs, bool."""
        given = x[self.name]
        if self.values:
            return np.asarray(given != self.value(x, len(given)))
        size = np.abs(given) + abs(self.intercept)
        for name, coefficient in zip(self.others, self.coefficients, strict=True):
            size = size + np.abs(coefficient * x[name])
        allowed = self.tolerance + self.relative * size
        return np.asarray(~(np.abs(given - self.value(x, len(given))) <= allowed))

    @property
    def text(self) -> str:
        """What the column is, for people."""
        if not self.others:
            return "is constant"
        if self.values:
            return f"follows from {self.others[0]}"
        if self.intercept == 0 and self.coefficients == (1.0,):
            return f"is equal to {self.others[0]}"
        terms = []
        for name, c in [*zip(self.others, self.coefficients, strict=True), ("", self.intercept)]:
            if name or c:
                size = "" if name and abs(c) == 1 else f"{abs(c):.6g} "
                terms.append(f"{'-' if c < 0 else '+'} {size}{name}".rstrip())
        most = [*terms[:5], f"... ({len(terms)} terms)"] if len(terms) > 6 else terms
        return f"is {' '.join(most).removeprefix('+ ')}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, for strict JSON."""
        lists = {"others": list(self.others), "coefficients": list(self.coefficients), "values": list(self.values)}
        return {**vars(self), **lists}


def constants_and_copies(x: Mapping[str, np.ndarray], same: Mapping[str, Any]) -> list[Relation]:
    """The columns that are constant or equal to an earlier one.

    Args:
        x: columns as numbers or codes, each of shape ``(N,)``.
        same: for each column, what besides its numbers must be equal for two columns to be so.
    """
    found: list[Relation] = []
    seen: dict[tuple[bytes, Any], str] = {}
    for name, column in x.items():
        if (column == column[0]).all():
            found.append(Relation(name, float(column[0])))
            continue
        first = seen.setdefault((column.tobytes(), same[name]), name)
        if first != name:
            found.append(Relation(name, 0.0, (first,), (1.0,)))
    return found


def functions_of_categories(x: Mapping[str, np.ndarray], categories: Mapping[str, int]) -> list[Relation]:
    """The columns that are functions of a category column, in an order in which they can be computed.

    Of categories that determine each other the first is kept.

    Args:
        x: columns as numbers or codes without missing values, each of shape ``(N,)`` and not constant.
        categories: how many categories each of the category columns has.
    """
    found: list[Relation] = []
    kept = {name: count for name, count in categories.items() if 0 < ROWS_A_CATEGORY * count <= len(x[name])}
    for name in reversed(list(x)):
        column = x[name]
        for other, count in kept.items():
            if other == name:
                continue
            first, codes = np.zeros(count, np.int64), x[other].astype(np.int64)
            first[codes[::-1]] = np.arange(len(codes))[::-1]
            values = column[first]
            twice = values[np.bincount(codes, minlength=count) > 1]
            if (column[:1000] == values[codes[:1000]]).all() and (column == values[codes]).all() and np.ptp(twice) > 0:
                found.append(Relation(name, 0.0, (other,), values=tuple(values.tolist())))
                kept.pop(name, None)
                break
    return found[::-1]


def linear_relations(x: Mapping[str, np.ndarray]) -> tuple[list[Relation], list[tuple[str, float]]]:
    """The numeric columns that are linear combinations of earlier ones.

    Args:
        x: numeric columns that are not constant, each of shape ``(N,)``.

    Returns:
        The relations; and columns that are nearly dependent, with the distance as a part of their deviation.
    """
    relations: list[Relation] = []
    near: list[tuple[str, float]] = []
    kept: list[str] = []
    basis: list[np.ndarray] = []
    for name, column in x.items():
        centred = column - column.mean()
        scale = float(np.sqrt(np.mean(centred**2)))
        rest = centred / scale
        if len(column) > ROWS_A_COLUMN * (len(kept) + 2):
            for _ in range(2):  # twice: once leaves rounding errors along the basis
                for direction in basis:
                    rest = rest - direction * (direction @ rest)
        size = float(np.sqrt(np.mean(rest**2)))
        if size < NEARLY:
            relation = _fit(name, column, scale, kept, x) if size < TOLERANCE else None
            if relation:
                relations.append(relation)
                continue
            near.append((name, size))
        kept.append(name)
        length = np.linalg.norm(rest)
        if length > 0 and size > TOLERANCE / 10:
            basis.append(rest / length)
    return relations, near


def _fit(
    name: str, column: np.ndarray, scale: float, kept: Sequence[str], x: Mapping[str, np.ndarray]
) -> Relation | None:
    """The relation of a column to the fewest of those that are kept, if it holds in all rows."""
    others = list(kept)
    for _ in range(2):
        table = np.stack([x[other] for other in others], 1)
        means, scales = table.mean(0), table.std(0)
        solution = np.linalg.lstsq((table - means) / scales, (column - column.mean()) / scale, rcond=None)[0]
        used = np.abs(solution) > 1e-7
        coefficients = solution * scale / scales
        if used.all() or not used.any():
            break
        others = [other for other, keep in zip(others, used, strict=True) if keep]
    with np.errstate(over="ignore"):  # numbers beyond float32 are no float32
        single = all(np.array_equal(x[used].astype(np.float32), x[used]) for used in (name, *others))
    rounded = _simple(coefficients)
    for attempt in (rounded, coefficients):
        intercept = float((column - table @ attempt).mean())
        intercept = 0.0 if abs(intercept) < 1e-9 * scale else intercept
        relation = Relation(name, intercept, tuple(others), tuple(attempt.tolist()), TOLERANCE * scale)
        exact = replace(relation, tolerance=16 * 2.0**-52 * scale, relative=SINGLE if single else ROUNDING)
        if not exact.broken(x).any():
            return relation
    return None


def _simple(x: np.ndarray) -> np.ndarray:
    """Coefficients that are whole numbers, or parts of such, but for rounding, as these."""
    simple = x.copy()
    for denominator in (10000, 1000, 100, 60, 12, 10, 8, 7, 3, 1):
        near = np.rint(x * denominator) / denominator
        simple = np.where(np.abs(x - near) <= 1e-7 * np.abs(x), near, simple)
    return simple
