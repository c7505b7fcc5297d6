"""The cache of decoded images: rows are written to a file once, and later runs map that file into memory.

A file's name is ``NAME-SOURCE-STATE-CHECKSUM.npy``. SOURCE stands for the folder and the options, STATE for the files
in the folder, and CHECKSUM for the rows. The rows are compared with it whenever they are loaded. If the state of a
source has changed, its rows are written anew and the old ones are removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..support.files import remove_abandoned
from ..support.npy import read_npy
from .listing import absolute

LONG = 2_000  # number of rows from which a progress bar is shown
BLOCK = 1 << 26  # number of bytes whose checksum is computed at a time


class Rows(NamedTuple):
    """Memory-mapped rows ``(N, C, H, W)``, uint8, and the first 16 digits of their SHA-256."""

    x: Tensor
    checksum: str
    notes: dict[str, Any]
    """What :func:`write_rows` was told about the rows."""


def say(text: str) -> None:
    """Print one line on the error stream, as a warning."""
    from ..support.progress import warn

    warn(text)


def cache_folder() -> Path:
    """The folder of downloads and decoded rows: NDM_DATA if that is set, else ``ndm`` in the user's cache.

    A user without a home folder gets a folder among the system's temporary files.
    """
    if folder := os.environ.get("NDM_DATA"):
        return absolute(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return absolute(folder) / "ndm"
    try:
        return Path.home() / ".cache" / "ndm"
    except RuntimeError:  # HOME is not set and the user has no account, as in some containers
        return _temporary_cache()


@lru_cache(maxsize=1)
def _temporary_cache() -> Path:
    """The cache of a user without a home folder. This is said once in a process."""
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    folder = Path(tempfile.gettempdir()) / f"ndm{user}"
    say(f"this user has no home folder, so data are kept in {folder}; set NDM_DATA to keep them elsewhere")
    return folder


def fingerprint(folder: Path, names: Iterable[str], *options: str) -> str:
    """A key ``SOURCE-STATE``. STATE changes with the order of the names, and with any file's name, length or time."""

    def describe(file: str) -> Any:
        try:
            stat = os.stat(file)
        except OSError:  # for example a broken link, which is reported when the file is read
            return None
        return stat.st_size, stat.st_mtime_ns

    files = [(name, describe(os.path.join(folder, name))) for name in names]
    return f"{_digest([str(folder.resolve()), *options])}-{_digest(files)}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def find_rows(name: str, key: str) -> Rows | None:
    """The rows that :func:`write_rows` wrote under a name and a key; None if there are none.

    Rows that do not have the checksum in their file's name are damaged. This is said, and they are removed.
    """
    for path in sorted(cache_folder().glob(f"{name}-{key}-*.npy")):
        rows = _load(path)
        if rows is not None and _checksum(name, rows.x) == rows.checksum:
            return rows
        say(f"{path} is damaged; its rows are read from their source again")
        _remove(path)
    return None


def _load(path: Path) -> Rows | None:
    """The rows in a file, whatever their checksum; None if the file holds none."""
    notes_file = path.with_suffix(".json")
    notes: Any = {}
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            return None
        rows = read_npy(path)
        if notes_file.is_file():
            stored = json.loads(notes_file.read_text())
            notes = stored["notes"] if stored["sha256"] == _digest(stored["notes"]) else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    if rows.dtype != np.uint8 or rows.ndim != 4 or not isinstance(notes, dict):
        return None
    with warnings.catch_warnings():
        # The rows are never written to. Mode "c" would give no warning, but the operating system refuses it for
        # files that are larger than memory.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return Rows(torch.from_numpy(rows), path.stem.rpartition("-")[2], notes)


def _checksum(name: str, x: Tensor) -> str:
    digest, rows = hashlib.sha256(), x.numpy()
    step = max(1, BLOCK // max(1, rows[:1].nbytes))
    with counted(f"checking {name}", len(rows)) as advance:
        for start in range(0, len(rows), step):
            block = np.ascontiguousarray(rows[start : start + step])
            digest.update(block.data)
            advance(len(block))
    return digest.hexdigest()[:16]


def write_rows(
    name: str,
    key: str,
    shape: Sequence[int],
    blocks: Iterable[np.ndarray],
    total: int,
    notes: Callable[[], dict[str, Any]] = dict,
) -> Rows:
    """Write rows to a file in the cache and map it into memory. The file appears only when it is complete.

    Args:
        name, key: the name and the key under which :func:`find_rows` finds the rows.
        shape: shape of one row.
        blocks: the rows in blocks, each ``(n, *shape)``, uint8. Errors that the iterator raises are passed on.
        total: number of rows that the progress bar counts to; ``blocks`` may hold fewer.
        notes: a function that is called after the last block. It returns what shall be known about the rows.

    Raises:
        InputError: if the file cannot be written.
    """
    # Processes that start together each write their own file. The last one to finish replaces an identical file.
    partial_file = cache_folder() / f"{name}-{key}-{uuid.uuid4().hex}.tmp"
    notes_file = partial_file.with_name(f"{partial_file.stem}-notes.tmp")
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with partial_file.open("xb") as file, counted(f"reading {name}", total) as advance:
            checksum = _fill(file, shape, blocks, advance)
        path = cache_folder() / f"{name}-{key}-{checksum}.npy"
        if known := notes():  # they appear before the rows do
            notes_file.write_text(json.dumps({"notes": known, "sha256": _digest(known)}))
            os.replace(notes_file, path.with_suffix(".json"))
        os.replace(partial_file, path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write to {cache_folder()}: {reason}; set NDM_DATA to another folder") from None
    finally:
        for left in (partial_file, notes_file):
            if os.path.lexists(left):
                left.unlink()
    _remove_stale(name, key, path)
    rows = _load(path)
    if rows is None:
        raise InputError(f"{path} has been removed or changed while it was in use; start again")
    return rows


def _fill(file: IO[bytes], shape: Sequence[int], blocks: Iterable[np.ndarray], advance: Callable[[int], None]) -> str:
    """Write rows to an open file, down to the disk, and return their checksum."""
    header, digest, count = {"descr": "|u1", "fortran_order": False}, hashlib.sha256(), 0
    # The number of rows is known only at the end. numpy's header leaves room to fill it in.
    np.lib.format.write_array_header_1_0(file, header | {"shape": (0, *shape)})
    for block in blocks:
        content = np.ascontiguousarray(block).data
        digest.update(content)
        file.write(content)
        count += len(block)
        advance(len(block))
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, header | {"shape": (count, *shape)})
    file.flush()
    os.fsync(file.fileno())
    return digest.hexdigest()[:16]


def _remove_stale(name: str, key: str, path: Path) -> None:
    """Remove other rows of the same source, and files that a killed process left incomplete."""
    for other in cache_folder().glob(f"{name}-{key.partition('-')[0]}-*.npy"):
        if other != path:
            _remove(other)
    remove_abandoned(cache_folder(), f"{name}-*.tmp")


def _remove(path: Path) -> None:
    """Remove rows and their notes. Processes that have mapped the rows keep them."""
    with suppress(OSError):  # another process was faster, or the folder may not be written
        path.unlink()
        path.with_suffix(".json").unlink()


@contextmanager
def counted(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar if there are many rows. Yields a function that advances it by a number of rows."""
    if total < LONG:
        yield lambda _: None
        return
    from ..support.progress import progress_bar

    with progress_bar(title, total) as bar:
        yield lambda count: bar.advance(bar.task_ids[0], count)
