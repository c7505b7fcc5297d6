"""Find out what a column holds, and say what is remarkable about it."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..support.checks import shown
from .cells import Scalar, Type, is_missing
from .column import DAY, SECOND, Column, is_date, parse_dates
from .grid import LEAST_ROWS, Cells, cells, find_grid, frequent, spread
from .kinds import Kind

MOST_CATEGORIES = 100
"""A column with more categories than this, and with more than ``MOST_DISTINCT`` of its rows, is an identifier."""
MOST_DISTINCT = 0.1
FEW_STRAYS, MANY_STRAYS = 0.1, 0.9
"""A category column of which no more than this are words, and the rest numbers or dates, may be meant as such. Words
such as 3 or 5 are usual beside others, and words such as 2024-02-30 are not."""


NARROW, NARROWEST = 1e-3, 1e-6
"""The largest and the smallest width of the cell of a frequent value in a column without a grid, in its spread."""
FAR = 1_000
"""Values further from the median than so many times the range of nine in ten rows are worth a word."""
LARGEST, SMALLEST = 1e99, 1e-99
"""Beyond and below these, densities leave the range of float64."""


class Note(NamedTuple):
    """Something remarkable about a column, and what was done."""

    column: str
    text: str


def detect(name: str, array: np.ndarray, type: Type, kind: Kind | None = None) -> tuple[Column, list[Note]]:
    """Describe a column by its values in the training rows.

    Text and truth values and categoricals are categories; numbers are counts, quantised or real by their spacing; dates
    are dates. Missing numbers are passed over; a missing value of a category column is one of its values.

    Args:
        name: the name of the column.
        array: its values, shape ``(N,)``.
        type: what it was in the user's table.
        kind: the kind that the user chose, or None.

    Raises:
        InputError: if the column cannot be of that kind, holds infinities or only missing values, or is an identifier.
    """
    chosen = kind is not None
    if kind is None:
        kind = "category" if array.dtype.kind in "bO" or type.name in ("category", "enum", "bool") else None
        kind = "date" if array.dtype.kind == "M" else kind
    lost = [Note(name, type.lost)] if type.lost else []
    if kind == "category":
        column = _category(name, array, type)
        return column, lost + ([] if chosen else strays(name, array))
    column, notes = _date(name, array, type) if kind == "date" else _number(name, array, type, kind)
    return column, lost + notes


def _category(name: str, array: np.ndarray, type: Type) -> Column:
    if array.dtype.kind == "M":
        raise InputError(f"column {name} holds dates, which are no categories; make them text")
    found: set[Any] = {None if is_missing(v) else v for v in _distinct(array)}
    if len(found) > max(MOST_CATEGORIES, MOST_DISTINCT * len(array)):
        words = sorted(v for v in found if isinstance(v, str) and not _is_number(v))
        hint = f"make it numbers: {shown(words[0], 40)} is none" if words else "make it numbers"
        hint = hint if len(words) <= MOST_DISTINCT * len(found) else "drop it, or merge its values"
        if words and sum(map(_is_signed, words)) > 0.9 * len(words):
            hint = f"write plain numbers: {shown(words[0], 40)} has signs or commas that numbers do not have"
        raise InputError(
            f"column {name} has {len(found)} different values in {len(array)} rows, as an identifier has; {hint}"
        )
    levels = {level: i for i, level in enumerate(type.levels or ())}
    values: list[Scalar] = sorted(
        (v for v in found if v is not None), key=lambda v: (levels.get(v, len(levels)), isinstance(v, str), v)
    )
    if array.dtype.kind == "f" and (type.whole or type.name in ("category", "enum")):
        values = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
    return Column(name, "category", type, values=(*values, None) if None in found else tuple(values))


def strays(name: str, array: np.ndarray) -> list[Note]:
    """What is to be said of a column of text of which all but a few values are numbers, or dates."""
    texts = Counter(value for value in array.tolist() if isinstance(value, str)) if array.dtype == object else Counter()
    for kind, is_one, most in (("number", _is_number, FEW_STRAYS), ("date", is_date, MANY_STRAYS)):
        words = {text: count for text, count in texts.items() if not is_one(text)}
        count, present = sum(words.values()), texts.total()
        if 0 < count <= most * present:
            what = f"{count} of {present} values {f'is not a {kind}' if count == 1 else f'are not {kind}s'}"
            first = shown(repr(next(iter(words))), 40)
            advice = "correct it, or leave it empty if it is missing"
            return [Note(name, f"is taken as a category: {what} ({first}); {advice}")]
    return []


def _distinct(array: np.ndarray) -> list[Any]:
    return list(set(array.tolist())) if array.dtype == object else np.unique(array).tolist()


def _is_signed(text: str) -> bool:
    """Whether a text is a number with a sign of money or percent, or with commas between thousands."""
    return _is_number(re.sub(r"[,\s%$€£¥']", "", text))


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _number(name: str, array: np.ndarray, type: Type, kind: Kind | None) -> tuple[Column, list[Note]]:
    column = Column(name, kind or "real", type)
    x = _present(column, array)
    found = cells(x)
    whole = bool((x == np.rint(x)).all())
    if kind in ("count", "quantised"):
        if kind == "count" and not (whole and x.min() >= 0):
            raise InputError(f"column {name} cannot be a count: it holds numbers that are negative or not whole")
        found = found if found.step else _forced(name, x)
    elif kind == "real":
        found = Cells(0.0, found.grid if found.grid and found.grid.decimals is not None else None)
    if kind is None and found.step:
        column = replace(column, kind="count" if whole and x.min() >= 0 else "quantised")
    return _spaced(column, x, found)


def _forced(name: str, x: np.ndarray) -> Cells:
    """Cells of a column that the user wants to be discrete."""
    grid = find_grid(np.unique(x))
    if grid is None:
        raise InputError(f"column {name} cannot be quantised: its values have no common step; round them")
    return Cells(grid.step, grid)


def _date(name: str, array: np.ndarray, type: Type) -> tuple[Column, list[Note]]:
    if array.dtype == object:
        array = parse_dates(array, name)
    column = Column(name, "date", type)
    if array.dtype.kind != "M":
        raise InputError(
            f"column {name} cannot be a date: it holds numbers; convert it to dates or to text like 2024-12-31"
        )
    present = array[~np.isnat(array)].astype("datetime64[us]").astype(np.int64)
    if not len(present):
        raise InputError(f"column {name} holds only missing values; drop it")
    column = replace(column, origin=int(present.min()), unit=SECOND)
    if (present % DAY == 0).all():
        column = replace(column, unit=DAY)
    x = _present(column, array)
    return _spaced(column, x, cells(x))


def _present(column: Column, array: np.ndarray) -> np.ndarray:
    """The numbers of a column that are not missing."""
    x = column.numbers(array)
    x = x[~np.isnan(x)]
    if not len(x):
        raise InputError(f"column {column.name} holds only missing values; drop it")
    width = float(x.max()) - float(x.min())
    if np.abs(x).max() > LARGEST or 0 < width < SMALLEST:
        far = f"numbers beyond {LARGEST:g}" if np.abs(x).max() > LARGEST else f"differences below {SMALLEST:g}"
        raise InputError(
            f"column {column.name} has {far}, whose squares float64 does not hold; give it in another unit"
        )
    return x


def _spaced(column: Column, x: np.ndarray, found: Cells) -> tuple[Column, list[Note]]:
    """The column with its cells, and what is to be said of it."""
    low, high = float(x.min()), float(x.max())
    column = replace(column, step=found.step, grid=found.grid, values=found.values, low=low, high=high)
    notes = []
    if found.values:
        notes.append(Note(column.name, f"has only {len(found.values)} different values, which are kept"))
    if not column.step and low < high:
        notes += _far_ones(column, x)
        spikes = frequent(x)
        if spikes:
            column = _spiked(column, x, [value for value, _ in spikes])
            shares = ", ".join(f"{shown(_text(column, value))} in {share:.0%}" for value, share in spikes[:3])
            cell = f"; cells of width {column.width:.3g} hold their probabilities" if column.spikes else ""
            notes.append(Note(column.name, f"is real but has frequent values: {shares} of the rows{cell}"))
    return column, notes


def _far_ones(column: Column, x: np.ndarray) -> list[Note]:
    """What is to be said of a few values that are very far from the others."""
    low, middle, high = np.quantile(x, (0.05, 0.5, 0.95))
    far = np.unique(x[np.abs(x - middle) > FAR * (high - low)]) if low < high else x[:0]
    if not len(far):
        return []
    count = int(np.isin(x, far).sum())
    worst = shown(_text(column, far[np.abs(far - middle).argmax()]))
    which = f"a value ({worst})" if count == 1 else f"{count} values (such as {worst})"
    advice = "a wrong number or a code for a missing one should be corrected, or left empty"
    return [Note(column.name, f"has {which} further from the median than {FAR} times the range of most; {advice}")]


def _spiked(column: Column, x: np.ndarray, spikes: list[float]) -> Column:
    """The column with cells for its frequent values, in which no other value lies.

    A column with a grid keeps it. One with few other values, or with values very near the frequent ones, has no cells.
    """
    values = np.unique(x)
    apart = np.diff(values)[np.isin(values[1:], spikes) | np.isin(values[:-1], spikes)].min(initial=math.inf)
    scale = spread(x)
    width = float(min(apart, NARROW * scale))
    if column.grid or len(values) - len(spikes) < LEAST_ROWS or width < NARROWEST * scale:
        return column
    return replace(column, spikes=tuple(sorted(spikes)), width=width)


def _text(column: Column, value: float) -> str:
    return str(column.decode(np.array([value]))[0]) if column.kind == "date" else f"{value:.6g}"
