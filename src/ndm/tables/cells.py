"""Types of columns, and plain Python values as typed arrays.

A column in memory is one of six arrays: ``float64`` (NaN is missing), ``int64``, ``bool``, ``datetime64[us]`` in UTC
(NaT is missing), or objects that are all text or all truth values (None is missing). Its :class:`Type` says what it was
before, so that it can be given back as that.
"""

from __future__ import annotations

import datetime
import decimal
import math
import re
import zoneinfo
from collections.abc import Iterable
from dataclasses import dataclass, field
from numbers import Complex, Integral, Real
from typing import Any, TypeAlias

import numpy as np

from ..errors import InputError
from ..support.checks import shown

Scalar: TypeAlias = str | bool | int | float | None
"""A value of a category column. None is a missing value."""

LARGEST_INTEGER = 2**52
"""Up to it, float64 holds integers and their differences exactly."""
FIRST, LAST = np.datetime64("0001-01-01", "us"), np.datetime64("9999-12-31T23:59:59.999999", "us")
"""The times that every library has."""
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
        label: the name of the column where it came from, if it was a whole number there.
        nullable: whether pandas held the numbers or truth values in a type with missing values, such as Int64.
    """

    name: str
    levels: tuple[Scalar, ...] | None = None
    zone: str | None = None
    unit: str = "us"
    label: int | None = None
    nullable: bool = False
    lost: str = field(default="", compare=False)
    """What of the column cannot be given back, for people; it is not kept."""

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
        """Plain values, for strict JSON."""
        found: dict[str, Any] = {"name": self.name}
        if self.levels is not None:
            found["levels"] = list(self.levels)
        if self.zone is not None:
            found["zone"] = self.zone
        if self.unit != "us":
            found["unit"] = self.unit
        if self.label is not None:
            found["label"] = self.label
        if self.nullable:
            found["nullable"] = True
        return found


def is_missing(value: Any) -> bool:
    """Whether a Python value stands for a missing one: None, NaN, pandas' NA and NaT."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return bool(np.isnat(value))
    if isinstance(value, decimal.Decimal):
        return value.is_nan()
    return isinstance(value, Real) and value != value


def typed(values: Iterable[Any], column: str) -> tuple[np.ndarray, Type]:
    """Python values as an array of one type.

    Args:
        values: the cells of the column.
        column: its name in error messages.

    Raises:
        InputError: if the values are of several types, complex, or numbers or times that are not held here; a
            :class:`BadType` if one is no text, number, truth value or date.
    """
    cells = [None if is_missing(v) else _plain(v, column) for v in values]
    found = {_kind(v, column) for v in cells if v is not None}
    if found <= {"whole", "real"}:
        if found == {"whole"} and None not in cells:
            return integers(np.array(cells, object), column), Type("int64")
        whole = [v for v in cells if isinstance(v, Integral)]
        integers(np.array(whole, object), column)
        return np.array([np.nan if v is None else real(v, column) for v in cells], np.float64), Type("float64")
    if found <= {"date", "datetime"}:
        return _times(cells, found, column)
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


def _plain(value: Any, column: str) -> Any:
    if isinstance(value, np.datetime64):
        return micros(np.array([value]), column).item()
    return value.item() if isinstance(value, np.generic) else value


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


def _times(cells: list[Any], found: set[str], column: str) -> tuple[np.ndarray, Type]:
    array = np.full(len(cells), "NaT", "datetime64[us]")
    zones = {zone_name(getattr(value, "tzinfo", None)) for value in cells if value is not None}
    if "None" in zones and len(zones) > 1:
        raise InputError(f"column {column} has times with a time zone and times without; give all of them one")
    for i, value in enumerate(cells):
        if value is not None:
            if getattr(value, "nanosecond", 0):
                raise InputError(too_fine(column))
            if "None" not in zones:
                value = value.astimezone(datetime.timezone.utc).replace(tzinfo=None)
            array[i] = np.datetime64(value, "us")
    if found == {"date"}:
        return array, Type("date")
    if zones <= {"None"}:
        return array, Type("datetime")
    if len(zones) == 1 and is_zone(zone := next(iter(zones))):
        return array, Type("datetime", zone=zone)
    some = ", ".join(shown(zone, 40) for zone in sorted(zones)[:3]) + (", ..." if len(zones) > 3 else "")
    return array, Type("datetime", zone="UTC", lost=f"has times in the zone(s) {some}; its times come back in UTC")


def micros(array: np.ndarray, column: str) -> np.ndarray:
    """Dates or times of any unit as ``datetime64[us]``.

    Raises:
        InputError: if one is not in the years 1 to 9999, or finer than a microsecond.
    """
    unit = np.datetime_data(array.dtype)[0]
    there = array[~np.isnat(array)]
    if unit in ("ns", "ps", "fs", "as"):  # which reach no other years
        if (there.astype("datetime64[us]").astype(array.dtype) != there).any():
            raise InputError(too_fine(column))
    elif len(there) and not (FIRST.astype(array.dtype) <= there.min() and there.max() <= LAST.astype(array.dtype)):
        raise InputError(
            f"column {column} has dates that are not in the years 1 to 9999; correct them, or make them missing"
        )
    return array.astype("datetime64[us]")


def too_fine(column: str) -> str:
    """The message about times that would lose their nanoseconds."""
    return f"column {column} has times finer than a microsecond, which would be cut off; round them to microseconds"


def zone_name(zone: datetime.tzinfo | None) -> str:
    """The name of a time zone. dateutil's are known by the file that they are from, or by an offset that is fixed."""
    name = str(zone)
    if zone is None or is_zone(name):
        return name
    if isinstance(offset := zone.utcoffset(None), datetime.timedelta):
        return str(datetime.timezone(offset))
    parts = re.sub(r"^\w+\('|'\)$", "", name).split("/")
    return next((part for i in range(len(parts)) if is_zone(part := "/".join(parts[i:]))), name)


def is_zone(name: str) -> bool:
    """Whether a time zone is known: by its name, or as an offset such as +02:00."""
    try:
        return bool(zone_of(name))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False


def zone_of(name: str) -> datetime.tzinfo:
    """The time zone of a name that :func:`is_zone` knows."""
    if name == "UTC":
        return datetime.timezone.utc
    if offset := re.fullmatch(r"(?:UTC)?([+-])(\d\d):(\d\d)", name):
        sign, hours, minutes = offset.groups()
        size = datetime.timedelta(hours=int(hours), minutes=int(minutes))
        return datetime.timezone(size if sign == "+" else -size)
    return zoneinfo.ZoneInfo(name)


def in_zone(times: np.ndarray, zone: str) -> list[datetime.datetime | None]:
    """Times in UTC, ``datetime64``, as Python's times in a zone; None where one is missing."""
    utc, place = datetime.timezone.utc, zone_of(zone)
    plain = times.astype("datetime64[us]").tolist()
    return [None if time is None else time.replace(tzinfo=utc).astimezone(place) for time in plain]


def real(value: Any, column: str) -> float:
    """A number as float64.

    Raises:
        InputError: if it is too large for it, or has more digits than it.
    """
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if isinstance(value, decimal.Decimal) and math.isfinite(value) and decimal.Decimal(repr(number)) != value:
        raise InputError(
            f"column {column} holds {shown(str(value), 40)}, which has more digits than real numbers have; round it, "
            "leave the column out or make it text"
        )
    return number


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
