"""The cache of decoded images: rows are written to a file once, and later runs map that file into memory."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

LONG = 2_000  # number of rows from which a progress bar is shown


class Rows(NamedTuple):
    """Memory-mapped rows ``(N, C, H, W)``, uint8, and the first 16 digits of their SHA-256."""

    x: Tensor
    checksum: str


def cache_folder() -> Path:
    """The folder of downloads and decoded rows: NDM_DATA if that is set, else ``ndm`` in the user's cache."""
    if folder := os.environ.get("NDM_DATA"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ndm"


def fingerprint(folder: Path, names: Iterable[str]) -> str:
    """A key that changes with the folder, with the order of the names, and with any file's name, length or time."""

    def describe(file: str) -> Any:
        try:
            stat = os.stat(file)
        except OSError:  # for example a broken link, which is reported when the file is read
            return None
        return stat.st_size, stat.st_mtime_ns

    files = [(name, describe(os.path.join(folder, name))) for name in names]
    return hashlib.sha256(json.dumps([str(folder.resolve()), files]).encode()).hexdigest()[:16]


def find_rows(name: str, key: str) -> Rows | None:
    """The rows that :func:`write_rows` wrote under a name and a key; None if there are none."""
    for path in cache_folder().glob(f"{name}-{key}-*.npy"):
        try:
            rows = np.load(path, mmap_mode="r")
        except ValueError:  # the file was cut short; the rows will be written again
            continue
        with warnings.catch_warnings():
            # The rows are never written to. Mode "c" would give no warning, but the operating system refuses it for
            # files that are larger than memory.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return Rows(torch.from_numpy(rows), path.stem.rpartition("-")[2])
    return None


def write_rows(name: str, key: str, shape: Sequence[int], blocks: Iterable[np.ndarray], total: int) -> Rows:
    """Write rows to a file in the cache and map it into memory. The file appears only when it is complete.

    Args:
        name, key: the name and the key under which :func:`find_rows` finds the rows.
        shape: shape of one row.
        blocks: the rows in blocks, each ``(n, *shape)``, uint8. Errors that the iterator raises are passed on.
        total: number of rows that the progress bar counts to; ``blocks`` may hold fewer.

    Raises:
        InputError: if the file cannot be written.
    """
    header, checksum, count = {"descr": "|u1", "fortran_order": False}, hashlib.sha256(), 0
    # Processes that start together each write their own file. The last one to finish replaces an identical file.
    partial_file = cache_folder() / f"{name}-{key}-{os.getpid()}.tmp"
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with partial_file.open("wb") as file, counted(f"reading {name}", total) as advance:
            # The number of rows is known only at the end. numpy's header leaves room to fill it in.
            np.lib.format.write_array_header_1_0(file, header | {"shape": (0, *shape)})
            for block in blocks:
                content = np.ascontiguousarray(block).data
                checksum.update(content)
                file.write(content)
                count += len(block)
                advance(len(block))
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, header | {"shape": (count, *shape)})
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial_file, cache_folder() / f"{name}-{key}-{checksum.hexdigest()[:16]}.npy")
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write to {cache_folder()}: {reason}; set NDM_DATA to another folder") from None
    finally:
        if partial_file.exists():
            partial_file.unlink()
    rows = find_rows(name, key)
    assert rows is not None
    return rows


@contextmanager
def counted(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar if there are many rows. Yields a function that advances it by a number of rows."""
    if total < LONG:
        yield lambda _: None
        return
    from ..support.progress import progress_bar

    with progress_bar(title, total) as bar:
        yield lambda count: bar.advance(bar.task_ids[0], count)
