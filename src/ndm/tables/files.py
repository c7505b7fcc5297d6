"""Tables in files: text (.csv, .tsv, also .gz), Parquet (.parquet) and NumPy's archives (.npz).

Text and Parquet are read by pyarrow, an optional dependency. A ``.npz`` file holds one array of shape ``(N, n)`` with
the name X or data and nothing else, or one array of shape ``(N,)`` per column.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..support.checks import require_count, shown
from ..support.files import file_size, reading, whole_file
from ..support.npy import opened_archive, read_member
from .cells import Type, is_missing
from .delimited import blocks, separator
from .frame import Frame, numbered, of_array

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".npz")
LARGEST = 1 << 34
"""Bytes of the largest table that is held in memory."""
LARGE = 1 << 30
DENSEST = 1000
"""A Parquet file that claims more than ``LARGE`` bytes may claim this many times its size."""


def read(path: str | Path, encoding: str = "utf-8", types: Mapping[str, Type] | None = None) -> Frame:
    """Read a table.

    Args:
        path: the file. Its format is told by its name.
        encoding: the encoding of a text file.
        types: the types of columns in another file. Columns that held text there hold text here, also if all of it
            looks like numbers.

    Raises:
        InputError: if it cannot be read, in one line that says what to do.

    Example:
        >>> from ndm.tables import Frame, read, write
        >>> write(Frame.of([[1.5, "a"], [2.5, "b"]]), "table.npz")  # doctest: +SKIP
        >>> read("table.npz").names  # doctest: +SKIP
        ('x0', 'x1')
    """
    file = _checked(path)
    if _suffix(file) == ".npz":
        return _read_npz(file)
    parts, size = [], 0
    for part in _arrow_tables(file, encoding, types or {}, 65536):
        parts.append(part)
        size += part.nbytes
        if size > LARGEST:
            raise InputError(f"{file} holds more than {LARGEST >> 30} GB, too much for memory; keep fewer rows")
    import pyarrow as pa

    return Frame.of(pa.concat_tables(parts))


def batches(
    path: str | Path, rows: int = 65536, encoding: str = "utf-8", types: Mapping[str, Type] | None = None
) -> Iterator[Frame]:
    """Read a table part by part. Text and Parquet are not held in memory.

    Args:
        path, encoding, types: see :func:`read`.
        rows: the number of rows of each part but the last.

    Raises:
        InputError: as :func:`read` does. A text file is read to its end before the first part is given.
    """
    require_count(rows=rows)
    file = _checked(path)
    if _suffix(file) == ".npz":
        table = _read_npz(file)
        for start in range(0, len(table), rows):
            yield table.take(slice(start, start + rows))
        return
    import pyarrow as pa

    rest = None
    for part in _arrow_tables(file, encoding, types or {}, rows):
        rest = part if rest is None else pa.concat_tables([rest, part])
        whole = len(rest) - len(rest) % rows
        for start in range(0, whole, rows):
            yield Frame.of(rest.slice(start, rows))
        rest = rest.slice(whole) if whole else rest
    if rest is not None and len(rest):
        yield Frame.of(rest)


def write(frame: Frame, path: str | Path) -> None:
    """Write a table, whole or not at all. The format is told by the name.

    Raises:
        InputError: if there is no such format, or it cannot hold the table.
        OSError: with ``path`` as its ``filename``, if it cannot be written.
    """
    file = Path(path)
    suffix = _suffix(file)
    if suffix == ".npz":
        arrays = _npz_arrays(frame, file)
        with whole_file(file) as partial, zipfile.ZipFile(partial, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        return
    _need_pyarrow(file)
    import pyarrow as pa

    table = frame.native("pyarrow")
    with whole_file(file) as partial:
        if suffix == ".parquet":
            from pyarrow import parquet

            parquet.write_table(table, partial)
            return
        from pyarrow import csv

        plain = [
            column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in table.columns
        ]
        text = pa.table(dict(zip(table.column_names, plain, strict=True)))
        options = csv.WriteOptions(delimiter=separator(file))
        packed = "gzip" if suffix.endswith(".gz") else None
        with pa.output_stream(partial, compression=packed) as stream:
            csv.write_csv(text, stream, options)


def check_format(path: str | Path) -> None:
    """Refuse a file that :func:`write` cannot write, by its name.

    Raises:
        InputError: if there is no such format, or its library is not installed.
    """
    if _suffix(Path(path)) != ".npz":
        _need_pyarrow(Path(path))


def _suffix(path: Path) -> str:
    name = path.name.lower()
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.endswith(suffix):
            return suffix
    raise InputError(f"{path} is no table by its name; tables end with {', '.join(SUFFIXES)}")


def _checked(path: str | Path) -> Path:
    """The path of a regular file of a known format."""
    file = Path(path)
    size = file_size(file)
    suffix = _suffix(file)
    if suffix != ".npz":
        _need_pyarrow(file)
    if size == 0:
        raise InputError(f"{file} is empty; write a header with the names of the columns, and rows below it")
    return file


def _need_pyarrow(path: Path) -> None:
    if find_spec("pyarrow") is None:
        raise InputError(f"{path} needs pyarrow; run: pip install 'ndm[tables]' (a .npz file does not need it)")


def _arrow_tables(path: Path, encoding: str, types: Mapping[str, Type], rows: int) -> Iterator[Any]:
    if _suffix(path) == ".parquet":
        return _parquet(path, rows)
    return blocks(path, encoding, {name: _is_text(known) for name, known in types.items()})


def _is_text(known: Type) -> bool:
    levels = known.levels or ("",)
    return known.name == "string" or (known.name in ("category", "enum") and any(isinstance(v, str) for v in levels))


def _parquet(path: Path, rows: int) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        limits = {"thrift_string_size_limit": LARGE, "thrift_container_size_limit": 1 << 20}
        with parquet.ParquetFile(path.absolute(), page_checksum_verification=True, **limits) as file:
            meta = file.metadata
            groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
            claim = max(meta.num_rows * meta.num_columns * 8, sum(group.total_byte_size for group in groups))
            size = path.stat().st_size
            if claim > max(LARGE, DENSEST * size):
                raise InputError(
                    f"{path} claims {claim / 1e9:.1f} GB in {size / 1e6:.2f} MB; if this is right, save it as CSV"
                )
            if not meta.num_rows:
                raise InputError(f"{path} has no rows; write some")
            for batch in file.iter_batches(batch_size=rows, use_threads=False):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        reason = shown(" ".join(str(error).split()), 200)
        raise InputError(f"{path} is damaged or not a Parquet file: {reason}") from None


def _read_npz(path: Path) -> Frame:
    with reading(path, "is damaged or no .npz file; save it with numpy.savez"), opened_archive(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        whole = next((name for name in ("X", "data") if name in names), None)
        if whole is not None:
            array = read_member(archive, whole, f"{whole} of {path}")
            if array.ndim == 2:
                others = ", ".join(name for name in names if name != whole)
                if others:
                    raise InputError(
                        f"{path} holds {shown(others)} beside the table {whole}; save the table alone, or one array of "
                        "shape (rows,) per column"
                    )
                return Frame.of(array)
        arrays = {name: read_member(archive, name, f"{name} of {path}") for name in names}
    for name, array in arrays.items():
        if array.ndim != 1:
            raise InputError(
                f"{name} of {path} has shape {array.shape}; save an array of shape (rows, columns) as X, or one array "
                "of shape (rows,) per column"
            )
    if len({len(array) for array in arrays.values()}) != 1:
        raise InputError(f"{path} holds no columns of equal length; save one array of shape (rows,) per column")
    frames = [of_array(array[:, None], (name,)) for name, array in arrays.items()]
    columns = tuple(frame.columns[0] for frame in frames)
    return Frame(tuple(arrays), columns, tuple(frame.types[0] for frame in frames), "numpy")


def _npz_arrays(frame: Frame, path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file: X if the columns have no names of their own and are numbers, else one per column."""
    if frame.names == numbered(len(frame.names)) and all(known.number for known in frame.types):
        return {"X": frame.native("numpy")}
    arrays = {}
    for name, array, known in frame:
        if array.dtype == object and any(map(is_missing, array)):
            raise InputError(f"column {name} has missing text, which {path} cannot hold; write a .csv or .parquet file")
        one = replace(frame, names=(name,), columns=(array,), types=(known,)).native("numpy")[:, 0]
        arrays[name] = np.array(one.tolist()) if one.dtype == object else one
    return arrays
