"""Tables of pandas, polars and pyarrow as typed arrays, and back, through narwhals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..support.checks import is_writable, shown
from .cells import Type, integers, is_missing, is_zone, micros, real, typed

REMEDY = "convert it to numbers, text or dates, or leave it out"
WIDTHS = ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float32", "Float64")
NULLABLE = {**{name: name.lower() for name in WIDTHS}, "boolean": "bool"}
"""The types of pandas with missing values, and what they hold."""


class Parts(NamedTuple):
    """A table taken apart."""

    names: tuple[str, ...]
    columns: tuple[np.ndarray, ...]
    types: tuple[Type, ...]
    kind: str
    """The library that the table is of: pandas, polars or pyarrow; ``other`` for one that narwhals knows besides."""


def from_dataframe(data: Any) -> Parts | None:
    """Take a table of a dataframe library apart; None if the value is no such table.

    Raises:
        InputError: if it is lazy, if two columns have one name, or if a column is of a type that is not read.
    """
    import narwhals as nw

    try:
        table = nw.from_native(data, pass_through=True)
    except nw.exceptions.DuplicateError:
        check_names([str(name) for name in getattr(data, "column_names", data.columns)])
        raise
    if isinstance(table, nw.LazyFrame):
        raise InputError("the table is lazy; give collect() of it")
    if not isinstance(table, nw.DataFrame):
        return None
    labels = [_label(name) for name in table.columns]
    names = tuple(map(str, labels))
    check_names(names)
    # By position: a name may be a number, which would choose a row.
    taken = [_column(series, name) for series, name in zip(table.iter_columns(), names, strict=True)]
    taken = [
        (array, replace(known, label=label) if isinstance(label, int) else known)
        for (array, known), label in zip(taken, labels, strict=True)
    ]
    kind = table.implementation.name.lower()
    arrays, types = tuple(array for array, _ in taken), tuple(type for _, type in taken)
    if kind not in ("pandas", "polars", "pyarrow"):
        return Parts(names, arrays, types, "other")
    before = _native_types(table.to_native())
    if kind == "pandas":
        types = tuple(map(_nullable, arrays, types, before))
    parts = Parts(names, arrays, types, kind)
    return parts._replace(types=_told(parts, before)) if arrays and len(arrays[0]) else parts


def _native_types(table: Any) -> list[str]:
    """What a library calls the types of a table's columns."""
    return [str(dtype) for dtype in (table.dtypes if hasattr(table, "dtypes") else table.schema.types)]


def _nullable(array: np.ndarray, known: Type, dtype: str) -> Type:
    """The type of a column of pandas, with whether its samples must be able to have missing values."""
    missing = (known.whole and array.dtype == np.float64) or (known.name == "bool" and array.dtype == object)
    return replace(known, nullable=True) if missing or dtype in NULLABLE else known


def _told(parts: Parts, before: Sequence[str]) -> tuple[Type, ...]:
    """The types of a table's columns, with what is to be said where a column comes back as another type.

    Nothing is said of columns of objects, which have no type, and of times of pandas, whose zone may have two names.
    """
    rows = [next((i for i, value in enumerate(array) if not is_missing(value)), 0) for array in parts.columns]
    one = tuple(array[i : i + 1] for array, i in zip(parts.columns, rows, strict=True))
    after = _native_types(to_dataframe(parts._replace(columns=one)))
    return tuple(
        replace(known, lost=f"is of the type {shown(old, 60)}, and comes back as {shown(new, 60)}")
        if old not in (new, "object", "Object") and not old.startswith("datetime64") and not known.lost
        else known
        for known, old, new in zip(parts.types, before, after, strict=True)
    )


def _label(name: Any) -> str | int:
    """The name of a column: text, or a whole number, which pandas gives to columns without names.

    Raises:
        InputError: if it is anything else, which could not be given back.
    """
    if isinstance(name, Integral) and not isinstance(name, bool):
        return int(name)
    if not isinstance(name, str):
        raise InputError(f"a column has the name {shown(repr(name), 40)}; make the names of all columns text")
    return name


def check_names(names: Sequence[str]) -> None:
    """Refuse a name that two columns have.

    Raises:
        InputError: with the name.
    """
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"{count} columns have the name {name!r}; give each its own")


def _column(series: Any, name: str) -> tuple[np.ndarray, Type]:
    import narwhals as nw

    dtype = series.dtype
    if dtype.is_integer():
        there = series.drop_nulls()
        # NumPy has no integers of 128 bits.
        wide = dtype in (nw.Int128, nw.UInt128)
        array = integers(np.array(there.to_list(), object) if wide else there.to_numpy(), name)
        if len(there) < len(series):
            filled = np.full(len(series), np.nan)
            filled[~series.is_null().to_numpy().astype(bool)] = array
            array = filled
        return array, Type(_name(dtype))
    if dtype.is_float():
        return _floats(series), Type(_name(dtype))
    if dtype == nw.Decimal:
        return np.array([np.nan if v is None else real(v, name) for v in series.to_list()]), Type("float64")
    if dtype == nw.Boolean:
        array, _ = typed(series.to_list(), name)
        return (array if array.dtype != np.float64 else np.full(len(array), None, object)), Type("bool")
    if dtype == nw.String:
        return _objects(series), Type("string")
    if dtype in (nw.Categorical, nw.Enum):
        return _categorical(series, name)
    if dtype == nw.Date:
        dates = series.to_numpy()  # pandas gives Python's dates for Arrow's
        return (micros(dates, name) if dates.dtype.kind == "M" else typed(dates, name)[0]), Type("date")
    if dtype == nw.Datetime:
        if dtype.time_zone is not None:
            if not is_zone(dtype.time_zone):
                raise InputError(f"column {name} has the unknown time zone {shown(dtype.time_zone)}; give another")
            series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return micros(series.to_numpy(), name), Type("datetime", None, dtype.time_zone, dtype.time_unit)
    values = series.to_list()
    if all(map(is_missing, values)):
        return np.full(len(values), np.nan), Type("float64")
    if dtype in (nw.Object, nw.Unknown):
        return typed(values, name)
    raise InputError(f"column {name} is of type {dtype}; {REMEDY}")


def _name(dtype: Any) -> str:
    name = str(dtype).lower()
    return name if name in ("float16", "float32") or name.endswith(("int8", "int16", "int32")) else _wide(name)


def _wide(name: str) -> str:
    return "uint64" if name.startswith("uint") else "int64" if name.startswith("int") else "float64"


def _floats(series: Any) -> np.ndarray:
    values = series.to_numpy()
    if values.dtype == object:
        values = np.array([np.nan if is_missing(v) else v for v in values])
    return values.astype(np.float64)


def _objects(series: Any) -> np.ndarray:
    array = np.empty(len(series), object)
    array[:] = [v if type(v) is str or not is_missing(v) else None for v in series.to_list()]
    return array


def _categorical(series: Any, name: str) -> tuple[np.ndarray, Type]:
    """Text as objects, other values as arrays of their own type; the levels are kept where the library lists them."""
    import narwhals as nw

    ordered = series.dtype == nw.Enum
    levels: list[Any] | None = None
    if ordered:
        levels = list(series.dtype.categories)
    elif hasattr(series.to_native().dtype if series.implementation.is_pandas() else None, "categories"):
        levels = series.to_native().cat.categories.tolist()  # an Arrow dictionary has none
    cells = series.to_list()
    array, known = typed([*cells, *(levels or [])], name)
    if known.time:
        raise InputError(f"column {name} has dates as categories; convert it to dates or to text")
    if levels is None and known.number:  # with missing ones among them, integers are float64 in the array
        levels = sorted({v for v in cells if not is_missing(v)})
    return array[: len(series)], Type("enum" if ordered else "category", None if levels is None else tuple(levels))


def to_dataframe(parts: Parts) -> Any:
    """A table of the library that ``parts.kind`` names, with columns of the types that are recorded.

    Raises:
        InputError: if the library is not installed.
    """
    import narwhals as nw

    try:
        if parts.kind == "pandas":
            return _pandas(parts)
        series = [
            _series(nw, name, array, known, parts.kind)
            for name, array, known in zip(parts.names, parts.columns, parts.types, strict=True)
        ]
        return nw.from_dict({one.name: one for one in series}).to_native()
    except ImportError:
        raise InputError(f"{parts.kind} is not installed; run: pip install {parts.kind}") from None
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text {shown(error.object, 40)} holds half a character, which {parts.kind} refuses"
        ) from None


def _plain(array: np.ndarray, known: Type) -> list[Any]:
    """The cells as Python values, missing ones as None."""
    if known.name == "date":
        array = array.astype("datetime64[D]")
    cells = [None if is_missing(v) else v for v in array.tolist()]
    if known.levels is not None:
        level = {v: v for v in known.levels}
        return [level.get(v, v) for v in cells]
    return [None if v is None else int(v) for v in cells] if known.whole else cells


def _series(nw: Any, name: str, array: np.ndarray, known: Type, backend: str) -> Any:
    """One column of polars or pyarrow."""
    cells = _plain(array, known)
    if known.name in ("category", "enum"):
        if backend == "pyarrow":
            import pyarrow as pa

            codes = pa.chunked_array([pa.array(cells).dictionary_encode()])
            return nw.from_native(codes, series_only=True).alias(name)
        if known.name == "enum" and backend == "polars":
            return nw.new_series(name, cells, nw.Enum(known.levels), backend=backend)
        if all(v is None or isinstance(v, str) for v in cells):
            return nw.new_series(name, cells, nw.Categorical(), backend=backend)
        return nw.new_series(name, cells, backend=backend)
    if known.name == "datetime":
        wide = nw.new_series(name, array, nw.Datetime("us", known.zone), backend=backend)
        return wide if known.unit == "us" else wide.cast(nw.Datetime(known.unit, known.zone))
    if known.name == "date":
        return nw.new_series(name, array, nw.Date(), backend=backend)
    words = {"bool": "Boolean", "string": "String", "float16": "Float32"}
    dtype = getattr(nw, words.get(known.name) or known.name.title().replace("Ui", "UI"))
    return nw.new_series(name, cells, dtype(), backend=backend)


def _pandas(parts: Parts) -> Any:
    import pandas as pd

    nullable = {plain: name for name, plain in NULLABLE.items()}

    def series(array: np.ndarray, known: Type) -> Any:
        if known.name in ("category", "enum"):
            cells = _plain(array, known)
            return pd.Series(pd.Categorical(cells, known.levels, ordered=known.name == "enum"))
        if known.name == "datetime":
            if known.zone is not None:
                return pd.Series(array).dt.tz_localize("UTC").dt.tz_convert(known.zone).dt.as_unit(known.unit)
            return pd.Series(array.astype(f"datetime64[{known.unit}]"))
        missing = known.whole and array.dtype == np.float64 and np.isnan(array).any()
        if missing or known.nullable or (known.name == "bool" and array.dtype == object):
            return pd.Series(_plain(array, known), dtype=nullable.get(known.name, object))
        if known.name == "date" or array.dtype == object:
            cells = _plain(array, known)
            text = known.name == "string" and all(v is None or is_writable(v) for v in set(cells))
            return pd.Series(cells, dtype=None if text else object)
        return pd.Series(array.astype(known.name))

    columns = zip(parts.names, parts.columns, parts.types, strict=True)
    named = {name if known.label is None else known.label: series(array, known) for name, array, known in columns}
    return pd.DataFrame(named)
