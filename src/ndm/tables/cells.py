"""Types of columns, and plain Python values as typed arrays.

A column in memory is one of six arrays: ``float64`` (NaN is missing), ``int64``, ``bool``, ``datetime64[us]`` in UTC
(NaT is missing), or objects that are all text or all truth values (None is missing). Its :class:`Type` says what it was
before, so that it can be given back as that.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Complex, Integral, Real
from typing import Any, TypeAlias

import numpy as np

from ..errors import InputError
from ..support.checks import shown

Scalar: TypeAlias = str | bool | int | float | None
"""A value of a category column. None is a missing value."""

LARGEST_INTEGER = 2**52
"""Up to it, float64 holds integers and their differences exactly."""
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
NUMBERS = (*INTEGERS, "float16", "float32", "float64")
NAMES = (*NUMBERS, "bool", "string", "category", "enum", "date", "datetime")


class BadType(InputError, TypeError):
    """A cell that is neither text, nor a number, a truth value or a date. scikit-learn expects a TypeError here."""


@dataclass(frozen=True)
class Type:
    """What a column was where it came from.

    Attributes:
        name: one of ``NAMES``. ``category`` and ``enum`` are categoricals without and with an order.
        levels: all values of a categorical, in its order, if it lists them.
        zone: the time zone of a ``datetime``.
        unit: the unit of a ``datetime``: s, ms, us or ns.
    """

    name: str
    levels: tuple[Scalar, ...] | None = None
    zone: str | None = None
    unit: str = "us"

    @property
    def number(self) -> bool:
        """Whether the column holds numbers."""
        return self.name in NUMBERS

    @property
    def whole(self) -> bool:
        """Whether the column holds integers."""
        return self.name in INTEGERS

    @property
    def time(self) -> bool:
        """Whether the column holds dates or times."""
        return self.name in ("date", "datetime")

    def to_json(self) -> dict[str, Any]:
        """Plain values, which :meth:`from_json` reads."""
        found: dict[str, Any] = {"name": self.name}
        if self.levels is not None:
            found["levels"] = list(self.levels)
        if self.zone is not None:
            found["zone"] = self.zone
        if self.unit != "us":
            found["unit"] = self.unit
        return found

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Type:
        """The type that :meth:`to_json` wrote."""
        levels = value.get("levels")
        zone, unit = value.get("zone"), value.get("unit", "us")
        return cls(value["name"], None if levels is None else tuple(levels), zone, unit)


def is_missing(value: Any) -> bool:
    """Whether a Python value stands for a missing one: None, NaN, pandas' NA and NaT."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return bool(np.isnat(value))
    return isinstance(value, Real) and value != value


def typed(values: Iterable[Any], column: str) -> tuple[np.ndarray, Type]:
    """Python values as an array of one type.

    Args:
        values: the cells of the column.
        column: its name in error messages.

    Raises:
        InputError: if the values are of several types, complex, or integers that float64 cannot hold; a
            :class:`BadType` if one is no text, number, truth value or date.
    """
    cells = [None if is_missing(v) else v.item() if isinstance(v, np.generic) else v for v in values]
    found = {_kind(v, column) for v in cells if v is not None}
    if found <= {"whole", "real"}:
        if found == {"whole"} and None not in cells:
            return integers(np.array(cells, object), column), Type("int64")
        return np.array([np.nan if v is None else float(v) for v in cells], np.float64), Type("float64")
    if found <= {"date", "datetime"}:
        return _times(cells, found)
    if len(found) > 1:
        one, other = sorted(found)[:2]
        words = {"bool": "truth values", "text": "text", "whole": "numbers", "real": "numbers"}
        raise InputError(
            f"column {column} mixes {words.get(one, 'dates')} and {words.get(other, 'dates')}; make all its values of "
            "one type"
        )
    if found == {"bool"}:
        return (np.array(cells, object), Type("bool")) if None in cells else (np.array(cells, bool), Type("bool"))
    array = np.empty(len(cells), object)
    array[:] = cells
    return array, Type("string")


def _kind(value: Any, column: str) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Integral):
        return "whole"
    if isinstance(value, (Real, decimal.Decimal)):
        return "real"
    if isinstance(value, datetime.datetime):
        return "datetime"
    if isinstance(value, datetime.date):
        return "date"
    if isinstance(value, Complex):
        raise InputError(f"Complex data not supported: column {column} holds {shown(value)}; give its parts as columns")
    raise BadType(
        f"column {column} holds the {type(value).__name__} {shown(value, 40)}: "
        "argument must be a string or a real number"
    )


def _times(cells: list[Any], found: set[str]) -> tuple[np.ndarray, Type]:
    array = np.full(len(cells), "NaT", "datetime64[us]")
    for i, value in enumerate(cells):
        if value is not None:
            if isinstance(value, datetime.datetime) and value.tzinfo is not None:
                value = value.astimezone(datetime.timezone.utc).replace(tzinfo=None)
            array[i] = np.datetime64(value, "us")
    return array, Type("date" if found == {"date"} else "datetime")


def integers(values: np.ndarray, column: str) -> np.ndarray:
    """Integers as int64.

    Raises:
        InputError: if one is beyond 2^52, so that float64 does not hold its differences from others.
    """
    if len(values) and max(int(values.max()), -int(values.min())) > LARGEST_INTEGER:
        raise InputError(
            f"column {column} holds integers beyond 2^52, which real numbers do not tell apart; leave the column out "
            "or make it text"
        )
    return values.astype(np.int64)
