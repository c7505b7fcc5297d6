"""Scores of the rows of a file, part by part: the memory does not grow with the file.

A file is gone through twice. First every row is checked, so that a bad one is told before any work. Then the rows are
scored. If the scores go to a file, they wait in a temporary file, without the rows; ranks need all of them, eight bytes
each. The file is written at the end, whole or not at all.
"""

from __future__ import annotations

import csv
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import InputError, printable
from ..solvers import SolverError
from ..support.files import whole_file
from ..support.progress import warn
from ..tables import batches
from .model import Scores, TableModel
from .pace import paced, small_parts

ROWS = 4096
"""The number of rows that are read at a time, and the most that are scored at a time."""
FIRST_ROWS = 32
"""The number of rows that are scored first without an explanation, so that the progress moves soon."""
SUFFIXES = (".csv", ".parquet")
"""The endings of files of scores."""


def check_rows(model: TableModel, path: Path, encoding: str = "utf-8") -> int:
    """The number of rows of a file, all of which can be scored. A warning says which columns make rows impossible.

    Raises:
        InputError: if the file cannot be read or a row cannot be scored; the message says where and what to do.
    """
    count, broken = 0, Counter[str]()
    for frame in _parts(model, path, ROWS, encoding):
        with _told(path, count, len(frame)):
            model.check(frame)
            broken.update({name: int(where.sum()) for name, where in model.schema.broken(frame).items()})
        count += len(frame)
    if found := [f"{printable(name)} ({rows:,} of {count:,} rows)" for name, rows in broken.items() if rows]:
        warn(f"values that no training row allows, such as a new category, cost log(N + 2) nats: {', '.join(found)}")
    return count


def stream_scores(
    model: TableModel, path: Path, total: int, explain: bool = False, encoding: str = "utf-8"
) -> Iterator[Scores]:
    """The scores of the rows of a file in its order, part by part, with progress and the speed.

    Args:
        model: the model.
        path: a file that :func:`ndm.tables.batches` reads.
        total: its number of rows, which :func:`check_rows` gives.
        explain: see :meth:`TableModel.score`.
        encoding: the encoding of a text file.

    Raises:
        InputError: if rows cannot be scored.
    """
    done = 0
    frames = _parts(model, path, ROWS, encoding)
    with paced("explaining" if explain else "scoring", total) as tell:
        for frame in small_parts(frames) if explain else small_parts(frames, FIRST_ROWS, ROWS):
            with _told(path, done, len(frame)):
                scores = model.score(frame, explain)
            done += len(frame)
            tell(done)
            yield scores


def score_file(model: TableModel, path: Path, out: Path, explain: bool = False, encoding: str = "utf-8") -> int:
    """Write the scores of a file into another: ``log_density``, ``rank``, and ``column_1, drop_1, ...``.

    Rank 1 is the row with the lowest log-density. Rows of equal log-density have the same rank.

    Args:
        out: a .csv or .parquet file, which is written whole or not at all.

    Returns:
        The number of rows.

    Raises:
        InputError: if rows cannot be scored.
        OSError: with ``out`` as its ``filename``, if it cannot be written.
    """
    total = check_rows(model, path, encoding)
    most = model.most if explain else 0
    record = np.dtype([("log_density", "f8"), ("columns", "i4", (most,)), ("drops", "f8", (most,))])
    with _temporary() as kept:
        for scores in stream_scores(model, path, total, explain, encoding):
            part = np.empty(len(scores.log_density), record)
            part["log_density"], part["columns"], part["drops"] = scores
            _keep(kept, part)
        ordered = np.empty(total)
        for start, part in _records(kept, record):
            ordered[start : start + len(part)] = part["log_density"]
        ordered.sort()
        with whole_file(out) as partial, _writer(partial) as write:
            for _, part in _records(kept, record):
                scores = Scores(part["log_density"], part["columns"], part["drops"])
                rank = np.searchsorted(ordered, scores.log_density, "left") + 1
                write(columns_of(model, scores, rank))
    return total


def _temporary() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise _no_room(error) from None


def _keep(file: IO[bytes], part: np.ndarray) -> None:
    try:
        file.write(part.tobytes())
        file.flush()
    except OSError as error:
        raise _no_room(error) from None


def _no_room(error: OSError) -> InputError:
    folder = tempfile.gettempdir()
    return InputError(
        f"scores are kept in the folder for temporary files, {folder}, until they have ranks, and it cannot be written "
        f"({error.strerror}); make room there, or set the variable TMPDIR to another folder"
    )


def columns_of(model: TableModel, scores: Scores, rank: np.ndarray | None = None) -> dict[str, list[Any]]:
    """Scores as named columns, in the order in which they are written."""
    found: dict[str, list[Any]] = {"log_density": scores.log_density.tolist()}
    if rank is not None:
        found["rank"] = rank.tolist()
    for k in range(scores.columns.shape[1]):
        found[f"column_{k + 1}"] = [model.names[place] for place in scores.columns[:, k].tolist()]
        found[f"drop_{k + 1}"] = scores.drops[:, k].tolist()
    return found


class CsvWriter:
    """Writes named columns as text, with a header above the first."""

    def __init__(self, file: IO[str]) -> None:
        self.writer, self.begun = csv.writer(file, lineterminator="\n"), False

    def __call__(self, columns: dict[str, list[Any]]) -> None:
        if not self.begun:
            self.writer.writerow(columns)
        self.begun = True
        self.writer.writerows(zip(*columns.values(), strict=True))


@contextmanager
def _writer(path: Path) -> Iterator[Callable[[dict[str, list[Any]]], None]]:
    """A function that appends named columns to a file."""
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            yield CsvWriter(file)
        return
    import pyarrow as pa
    from pyarrow import parquet

    found: list[parquet.ParquetWriter] = []

    def write(columns: dict[str, list[Any]]) -> None:
        table = pa.table(columns)
        if not found:
            found.append(parquet.ParquetWriter(path, table.schema))
        found[0].write_table(table)

    try:
        yield write
    finally:
        for writer in found:
            writer.close()


def _records(file: IO[bytes], record: np.dtype[Any]) -> Iterator[tuple[int, np.ndarray]]:
    """The records of a temporary file, part by part, each with the place of its first."""
    file.seek(0)
    start, size = 0, 16 * ROWS * record.itemsize
    while block := file.read(size):
        part = np.frombuffer(block, record)
        yield start, part
        start += len(part)


def _parts(model: TableModel, path: Path, rows: int, encoding: str) -> Iterator[Any]:
    try:
        yield from batches(path, rows, encoding, {column.name: column.type for column in model.schema.columns})
    except InputError as error:
        text = str(error).replace("--data.encoding", "--encoding")
        raise InputError(text if printable(str(path)) in text else f"{path}: {text}") from None


@contextmanager
def _told(path: Path, first: int, rows: int) -> Iterator[None]:
    """Tell errors with the file and the rows."""
    try:
        yield
    except SolverError as error:
        raise InputError(f"{path}, among rows {first} to {first + rows - 1}: {error}") from None
    except InputError as error:
        text = str(error).replace("; leave these rows out, or score them as impossible with unknown='odd'", "")
        where = "" if first == 0 else f", of the rows from row {first} on, where that is row 0"
        raise InputError(f"{path}{where}: {text}") from None
