"""A table in memory: named columns of typed arrays, taken from what the user has and given back as the same.

Messages about the shape of a table are in scikit-learn's words, which its checks of estimators expect.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import InputError
from ..support.checks import shown
from .cells import BadType, Type, in_zone, integers, micros, typed
from .dataframes import Parts, check_names, from_dataframe, to_dataframe

KINDS = ("numpy", "pandas", "polars", "pyarrow")


@dataclass(frozen=True, eq=False)
class Frame:
    """A table with N rows.

    Attributes:
        names: the columns' names.
        columns: one array of shape ``(N,)`` per column, as :mod:`ndm.tables.cells` describes them.
        types: what each column was where it came from.
        kind: what the user gave: numpy (also for lists), pandas, polars or pyarrow.
    """

    names: tuple[str, ...]
    columns: tuple[np.ndarray, ...]
    types: tuple[Type, ...]
    kind: str

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.columns) == len(self.types):
            raise InputError("a table needs a name and a type for each column")
        check_names(self.names)
        if len({len(column) for column in self.columns}) > 1:
            raise InputError("the columns of a table must have equally many rows")

    @classmethod
    def of(cls, data: Any) -> Frame:
        """Take in a table.

        Args:
            data: a Frame; a NumPy array of shape ``(N, n)`` of numbers, truth values, text, dates or objects; a list of
                rows; or a table of pandas, polars or pyarrow. The columns of an array have the names x0, x1, ...

        Raises:
            InputError: if it is no table of at least one row and one column, or holds what is not read.

        Example:
            >>> from ndm.tables import Frame
            >>> Frame.of([[1.5, "a"], [2.5, "b"]]).names
            ('x0', 'x1')
        """
        if isinstance(data, cls):
            return data
        if hasattr(data, "tocsr") or type(data).__module__.startswith("scipy.sparse"):
            raise InputError("sparse tables are not supported; give toarray() of it")
        if isinstance(data, (str, bytes, dict)) or np.ma.isMaskedArray(data):
            what = "masked array" if np.ma.isMaskedArray(data) else type(data).__name__
            raise InputError(f"a {what} is no table; give an array of shape (rows, columns) or a dataframe")
        parts = from_dataframe(data)
        if parts is None:
            return of_array(_array(data))
        _check_size(len(parts.columns[0]) if parts.columns else 0, len(parts.names))
        # A table of another library that narwhals knows comes back as arrays, which everything reads.
        return cls(parts.names, parts.columns, parts.types, parts.kind if parts.kind in KINDS else "numpy")

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.columns[0]) if self.columns else 0

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, Type]]:
        """Name, array and type of each column."""
        return iter(zip(self.names, self.columns, self.types, strict=True))

    def column(self, name: str) -> np.ndarray:
        """The array of a column.

        Raises:
            InputError: if there is no such column.
        """
        if name not in self.names:
            raise InputError(f"the table has no column {name!r}; it has {', '.join(self.names[:20])}")
        return self.columns[self.names.index(name)]

    def take(self, rows: Any) -> Frame:
        """Some of the rows: a slice, indices or a mask."""
        return replace(self, columns=tuple(column[rows] for column in self.columns))

    def native(self, kind: str | None = None) -> Any:
        """The table as a NumPy array, or as a table of pandas, polars or pyarrow.

        Columns get the types that they had. An array has the narrowest type that holds all its columns, and Python
        objects if these are not all numbers or have times in a zone. Missing numbers are NaN in arrays and in pandas,
        and null otherwise.

        Args:
            kind: one of ``KINDS``; what the table came as if None.

        Raises:
            InputError: if the kind is unknown, or its library is not installed.
        """
        kind = kind or self.kind
        if kind == "numpy":
            return self._array()
        if kind not in KINDS:
            raise InputError(f"a table is given as {', '.join(KINDS)}, got {kind!r}")
        return to_dataframe(Parts(self.names, self.columns, self.types, kind))

    def _array(self) -> np.ndarray:
        dtypes = [_dtype(column, known) for column, known in zip(self.columns, self.types, strict=True)]
        zones = [known.zone for known in self.types]
        alike = all(d.kind in "iuf" for d in dtypes) or (len(set(dtypes)) == 1 and not any(zones))
        array = np.empty((self.rows, len(self.names)), np.result_type(*dtypes) if alike and dtypes else object)
        for j, (column, zone) in enumerate(zip(self.columns, zones, strict=True)):
            if zone is not None and column.dtype.kind == "M":  # arrays of times have no zones
                array[:, j] = in_zone(column, zone)
            elif array.dtype != object or column.dtype != object:
                array[:, j] = column if array.dtype != object else column.astype(dtypes[j]).astype(object)
            else:
                array[:, j] = column
        return array


def numbered(columns: int) -> tuple[str, ...]:
    """The names of the columns of an array, which has none of its own: x0, x1, ..."""
    return tuple(f"x{j}" for j in range(columns))


def _dtype(column: np.ndarray, known: Type) -> np.dtype[Any]:
    """The type of a column in an array."""
    if column.dtype.kind == "M":
        return np.dtype("datetime64[D]" if known.name == "date" else f"datetime64[{known.unit}]")
    if known.number and not (known.whole and column.dtype == np.float64 and np.isnan(column).any()):
        return np.dtype(known.name)
    return column.dtype


def _check_size(rows: int, columns: int) -> None:
    if columns == 0:
        raise InputError(f"0 feature(s) (shape=({rows}, 0)) while a minimum of 1 is required.")
    if rows == 0:
        raise InputError(f"Found array with 0 sample(s) (shape=(0, {columns})) while a minimum of 1 is required.")


def _array(data: Any) -> np.ndarray:
    """An array of two dimensions."""
    buffer = isinstance(data, (memoryview, bytearray))
    if isinstance(data, Sequence) and not hasattr(data, "__array__") and not buffer:
        return _rows(data)
    if not (buffer or hasattr(data, "__array__")):
        raise InputError(
            f"a {type(data).__name__} is no table; give an array of shape (rows, columns), a list of rows or a "
            "dataframe"
        )
    try:
        array = np.asarray(data)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = shown(" ".join(str(error).split()), 160)
        raise InputError(
            f"a {type(data).__name__} could not be read as an array ({reason}); give a NumPy array, such as "
            "detach().cpu().double().numpy() of a dense tensor"
        ) from None
    if array.ndim != 2:
        if array.ndim > 2:
            raise InputError(f"Found array with dim {array.ndim}, while dim <= 2 is required; give rows and columns")
        name = "scalar" if array.ndim == 0 else "1D"
        raise InputError(
            f"Expected 2D array, got {name} array instead. Reshape your data either using array.reshape(-1, 1) if your "
            "data has a single feature or array.reshape(1, -1) if it contains a single sample."
        )
    return array


def _rows(data: Sequence[Any]) -> np.ndarray:
    """A list of rows as an array of objects, so that 1 and "1" stay apart."""
    if any(isinstance(row, (str, bytes, dict, set, frozenset)) or not hasattr(row, "__len__") for row in data):
        return _array(np.array([0.0]))  # refused as an array of one dimension
    widths = {len(row) for row in data}
    if len(widths) > 1:
        at = next(i for i, row in enumerate(data) if len(row) != len(data[0]))
        raise InputError(
            f"the rows must be equally long: row 0 has {len(data[0])} values, and row {at} has {len(data[at])}"
        )
    array = np.empty((len(data), widths.pop() if widths else 0), object)
    for i, row in enumerate(data):
        for j, value in enumerate(row):
            array[i, j] = value
    return array


def of_array(array: np.ndarray, names: tuple[str, ...] | None = None) -> Frame:
    """The table in an array of shape (rows, columns), whose columns are x0, x1, ... unless they have names.

    Raises:
        InputError: if the array is empty or holds what no column holds.
    """
    _check_size(*array.shape)
    what = "an array" if names is None else f"column {', '.join(names)}, an array"
    names = names or numbered(array.shape[1])
    kind = array.dtype.kind
    if kind == "c":
        raise InputError("Complex data not supported; give real and imaginary parts as columns")
    if kind not in "biufMUO":
        raise BadType(f"{what} of {array.dtype} is not read: argument must be a string or a real number in each cell")
    pairs = [_array_column(array[:, j], name) for j, name in enumerate(names)]
    return Frame(names, tuple(column for column, _ in pairs), tuple(known for _, known in pairs), "numpy")


def _array_column(column: np.ndarray, name: str) -> tuple[np.ndarray, Type]:
    kind = column.dtype.kind
    if kind in "OU":
        return typed(column.tolist() if kind == "U" else column, name)
    if kind == "b":
        return column.copy(), Type("bool")
    if kind in "iu":
        return integers(column, name), Type(column.dtype.name)
    if kind == "M":
        unit = np.datetime_data(column.dtype)[0]
        known = Type("date") if unit in "YMWD" else Type("datetime", unit=unit if unit in ("s", "ms", "ns") else "us")
        return micros(column, name), known
    x = column.astype(np.float64)
    if column.dtype.itemsize > 8 and (x != column)[np.isfinite(column)].any():
        raise InputError(f"column {name} has more digits than float64; make it float64 if they do not matter")
    return x, Type(column.dtype.name if column.dtype.itemsize <= 8 else "float64")
