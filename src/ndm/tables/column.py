r"""One column of a table as real numbers, and back.

Each kind of column has its numbers:

- ``real``: the values in their own unit, with a density;
- ``quantised``: values on a grid or in a short list. A value stands for the cell
  :math:`[x - \text{step}/2,\ x + \text{step}/2]` and has a probability;
- ``count``: the same for whole numbers that are not negative;
- ``date``: days since the first date if all are whole days, else seconds;
- ``category``: codes 0..V-1 for the V values, of which a missing value may be one.

A real column that was recorded with few decimals is rounded to them on the way back. One without such a grid may have
frequent values, which get narrow cells; on the way back they take up what is in their cells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from ..errors import InputError
from ..support.checks import shown
from .cells import FIRST, LARGEST_INTEGER, LAST, Scalar, Type, is_missing, too_fine, typed
from .grid import Grid
from .kinds import Kind
from .plain import built
from .relations import ROUNDING, SINGLE

UNKNOWN = -1
"""The code of a category that the training rows do not have."""
BESIDE = 0.05
"""How far from its grid a number may be by rounding, in steps: rows that found the grid are nearer."""
DAY = 86_400_000_000
"""Microseconds in a day."""
SECOND = 1_000_000
CODE = re.compile(r"[-+]?0\d+|.*_.*")
"""Text that Python reads as a number, and that is a code or a word."""
ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?Z?)?")

CALENDAR = (int(FIRST.astype(np.int64)), int(LAST.astype(np.int64)))
NANOSECONDS = (-(2**63 // 1000), 2**63 // 1000 - 1)
"""The first and the last microseconds that dates, and times in nanoseconds, can hold."""


@dataclass(frozen=True)
class Column:
    """What a column holds.

    Attributes:
        name: its name.
        kind: see :mod:`ndm.tables.column`.
        type: what it was in the user's table.
        step: width of a cell of a discrete column; 0 for densities and categories.
        grid: the grid of the values, if there is one.
        values: the values of a category column in the order of their codes; those of a discrete column without a grid.
        spikes: the frequent values of a column with a density and without a grid, rising.
        width: the width of their cells.
        low: the smallest number of the training rows.
        high: the largest number of the training rows.
        fill: the number that stands for a missing one, or None if missing values are refused.
        origin: for dates, the microseconds since 1970 that are number 0.
        unit: for dates, the microseconds of one unit.
    """

    name: str
    kind: Kind
    type: Type
    step: float = 0.0
    grid: Grid | None = None
    values: tuple[Scalar, ...] = ()
    spikes: tuple[float, ...] = ()
    width: float = 0.0
    low: float = 0.0
    high: float = 0.0
    fill: float | None = None
    origin: int = 0
    unit: int = SECOND

    @property
    def numeric(self) -> bool:
        """Whether the column is a number, and no category."""
        return self.kind != "category"

    def numbers(self, array: np.ndarray) -> np.ndarray:
        """The values of a numeric column as float64; NaN where one is missing.

        Args:
            array: a column of a table, shape ``(N,)``.

        Raises:
            InputError: if it holds text, dates, or infinities in place of numbers, or no dates in place of dates.
        """
        if self.kind == "date":
            return self._dates(array)
        if array.dtype.kind not in ("iuf" if self.type.number else "iufb"):
            found = _first(array)
            if found is None:
                return np.full(len(array), np.nan)
            # One word makes a column of a text file text: the word is told, not the first number beside it.
            row, value = next(((i, v) for i, v in enumerate(array.tolist()) if not _is_plain(v)), found)
            raise InputError(f"column {self.name} holds {shown(value, 40)} in row {row}, where numbers are expected")
        x = array.astype(np.float64)
        infinite = int(np.isinf(x).sum())
        if infinite:
            raise InputError(
                f"Input contains infinity: column {self.name} in {infinite} row(s); leave them out or replace them"
            )
        return x

    def codes(self, array: np.ndarray) -> np.ndarray:
        """The codes of a category column, int64; ``UNKNOWN`` for values that the training rows do not have."""
        known: dict[Any, int] = {value: code for code, value in enumerate(self.values)}
        text = any(isinstance(value, str) for value in self.values)

        def code(value: Any) -> int:
            if value in known:
                return known[value]
            if is_missing(value):
                value = None
            elif text and not isinstance(value, str):
                # A part of a file in which this column happens to hold numbers only.
                value = str(value).lower() if isinstance(value, bool) else str(value)
            elif not text and isinstance(value, str):
                value = self._read(value)  # a part of a file in which one word makes this column text
            return known.get(value, UNKNOWN)

        if array.dtype.kind in "iufb":
            found, inverse = np.unique(array, return_inverse=True)
            return np.array([code(v) for v in found.tolist()], np.int64)[inverse.reshape(-1)]
        if array.dtype.kind == "M":
            array = array.astype(str)
        return np.fromiter(map(code, array.tolist()), np.int64, len(array))

    def _read(self, word: str) -> Any:
        """The number or truth value that a word stands for, else the word."""
        if self.type.name == "bool" and word.lower() in ("true", "false"):
            return word.lower() == "true"
        return float(word) if _is_plain(word) else word

    def encode(self, array: np.ndarray) -> np.ndarray:
        """The column as float64, shape ``(N,)``: numbers, NaN where one is missing, or codes."""
        return self.numbers(array) if self.numeric else self.codes(array).astype(np.float64)

    def snap(self, x: np.ndarray) -> np.ndarray:
        """The values that the column can take next to real numbers, in the same unit; codes for categories."""
        if not self.numeric:
            return np.clip(np.rint(x), 0, len(self.values) - 1)
        if self.step:
            x = np.clip(x, self.low, self.high)
        if self.values:
            return nearest(x, np.array(self.values, np.float64))
        if self.spikes:
            # A frequent value at an end is a cap or a floor.
            low = self.low if self.spikes[0] == self.low else -np.inf
            x = np.clip(x, low, self.high if self.spikes[-1] == self.high else np.inf)
            near = nearest(x, np.array(self.spikes))
            x = np.where(np.abs(x - near) <= self.width / 2, near, x)
        if self.grid:
            x = self.grid.nearest(x)
        if self.type.whole:
            bounds = np.iinfo(self.type.name)
            x = np.clip(np.rint(x), max(bounds.min, -LARGEST_INTEGER), min(bounds.max, LARGEST_INTEGER))
        return x

    def off_grid(self, x: np.ndarray) -> np.ndarray:
        """Whether each number lies beside the grid of a discrete column, where its probability is 0, bool."""
        if not (self.step and self.grid):
            return np.zeros(len(x), bool)
        with np.errstate(over="ignore"):  # numbers beyond float32 are no float32
            single = x.astype(np.float32) == x
        allowed = BESIDE * self.step + np.where(single, SINGLE, ROUNDING) * np.abs(x)
        return np.asarray(np.abs(x - self.grid.nearest(x)) > allowed)

    def decode(self, x: np.ndarray) -> np.ndarray:
        """The column of a table that numbers or codes stand for; NaN stands for a missing number.

        Args:
            x: real numbers, shape ``(N,)``.
        """
        x = np.where(np.isnan(x), np.nan, self.snap(x))
        if not self.numeric:
            known, _ = typed(self.values, self.name)
            if self.values == (None,) and not self.type.number:
                known = np.array([None], object)
            return known[x.astype(np.int64)]
        if self.kind == "date":
            return self._from_dates(x)
        if self.type.name == "bool":
            return x > 0.5
        return x.astype(np.int64) if self.type.whole and not np.isnan(x).any() else x

    def _dates(self, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind == "O":
            array = parse_dates(array, self.name)
        if array.dtype.kind != "M":
            if array.dtype == np.float64 and np.isnan(array).all():
                return array
            raise InputError(f"column {self.name} holds numbers or truth values, where dates are expected")
        missing = np.isnat(array)
        micros = np.where(missing, self.origin, array.astype("datetime64[us]").astype(np.int64)) - self.origin
        return np.where(missing, np.nan, micros / self.unit)

    def _from_dates(self, x: np.ndarray) -> np.ndarray:
        missing = np.isnan(x)
        # Draws beyond the last dates that the type holds become these, and do not wrap around.
        first, last = NANOSECONDS if self.type.unit == "ns" else CALENDAR
        micros = np.rint(np.where(missing, 0, x) * self.unit).clip(first - self.origin, last - self.origin)
        micros = (micros.astype(np.int64) + self.origin).clip(first, last)
        dates = np.where(missing, np.datetime64("NaT", "us"), micros.astype("datetime64[us]"))
        if self.type.name == "date":
            return dates.astype("datetime64[D]").astype("datetime64[us]")
        if self.type.name != "string":
            return dates
        whole = bool((micros % SECOND == 0).all())
        text = np.datetime_as_string(dates, unit="D" if self.unit == DAY else "s" if whole else "us").astype(object)
        text[missing] = None
        return text

    def to_json(self) -> dict[str, Any]:
        """Plain values, which :meth:`from_json` reads. What has its default value is left out."""
        plain: dict[str, Any] = {"name": self.name, "kind": self.kind, "type": self.type.to_json()}
        if self.grid:
            plain["grid"] = list(self.grid)
        for name in ("values", "spikes"):
            if getattr(self, name):
                plain[name] = list(getattr(self, name))
        for name in ("step", "width", "low", "high", "fill", "origin", "unit"):
            value = getattr(self, name)
            if value != Column.__dataclass_fields__[name].default:
                plain[name] = value
        return plain

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Column:
        """The column that :meth:`to_json` wrote.

        Raises:
            InputError: if the kind is unknown, or a value does not fit.
        """
        kind = value["kind"]
        if kind not in get_args(Kind):
            raise InputError(f"a column of kind {shown(kind)} is unknown; use the version that wrote it")
        return built(cls, value)


def nearest(x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Of rising values the one next to each number."""
    return values[np.searchsorted((values[1:] + values[:-1]) / 2, x)]


def parse_dates(array: np.ndarray, name: str) -> np.ndarray:
    """Text in ISO 8601 as ``datetime64[us]``; None is NaT.

    Raises:
        InputError: with the first value that is no date, or if one is finer than a microsecond.
    """
    dates = np.full(len(array), "NaT", "datetime64[us]")
    for row, value in enumerate(array.tolist()):
        if value is not None:
            try:
                if not (isinstance(value, str) and ISO.fullmatch(value)):
                    raise ValueError
                if re.search(r"\.\d{6}\d*[1-9]", value):
                    raise InputError(too_fine(name))
                dates[row] = np.datetime64(value.removesuffix("Z"), "us")
            except InputError:
                raise
            except ValueError:
                raise InputError(
                    f"column {name} holds {shown(value, 40)} in row {row}, which is no date; write dates as 2024-12-31 "
                    "or 2024-12-31T23:59:59"
                ) from None
    return dates


def is_date(text: str) -> bool:
    """Whether a text is a date in ISO 8601, also with a zone such as +01:00."""
    local = re.sub(r"(?<=:..)[+-]\d\d:?\d\d$|Z$", "", text)
    try:
        return bool(ISO.fullmatch(local)) and not np.isnat(np.datetime64(local, "us"))
    except ValueError:
        return False


def _is_plain(value: Any) -> bool:
    """Whether a value is missing or a text that would be read as a number, were its column not text."""
    if is_missing(value) or not isinstance(value, str):
        return is_missing(value)
    try:
        number = float(value)
    except ValueError:
        return False
    code = CODE.fullmatch(value) or (value.lstrip("+-").isdecimal() and abs(number) > LARGEST_INTEGER)
    return bool(np.isfinite(number)) and not code


def _first(array: np.ndarray) -> tuple[int, Any] | None:
    """The first value that is not missing, and its row."""
    return next(((row, value) for row, value in enumerate(array.tolist()) if not is_missing(value)), None)
