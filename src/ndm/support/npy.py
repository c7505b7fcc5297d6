"""numpy's files, ``.npy`` and ``.npz``, read with bounded memory.

The header of an array comes first. What it claims is compared with the size of the file before memory is taken, and
objects are never unpickled.
"""

from __future__ import annotations

import math
import os
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ..errors import InputError

LARGE = 1 << 30  # number of bytes from which an array's compression is questioned
DENSEST = 100  # factor by which no large array of pictures can be compressed
PIECE = 1 << 20  # number of bytes that are read at a time


class Header(NamedTuple):
    """What an array's header claims."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    offset: int
    """The number of bytes before the first element."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes], length: int, what: str) -> Header:
    """Read an array's header from the start of a file.

    Args:
        file: the open file.
        length: the number of bytes in the file.
        what: the array's name in error messages.

    Raises:
        InputError: if the header is malformed, if the array holds Python objects, or if the array that it describes
            does not fill the file.
        ValueError: if the file does not start as an array does.
    """
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise InputError(f"{what} has version {version} of the .npy format; save a plain array with numpy.save")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = Header(*readers[version](file), file.tell())
    except Exception:  # numpy parses the header as Python's literals, and hostile ones fail in many ways
        raise InputError(f"{what} has a malformed header; save it again with numpy.save") from None
    if header.dtype.hasobject:
        raise InputError(f"{what} holds Python objects, which are not read; save an array of numbers")
    if min(header.shape, default=0) < 0 or header.offset + header.nbytes != length:
        raise InputError(
            f"{what} is damaged: its header claims {header.dtype} {header.shape}, which is "
            f"{header.nbytes:,} bytes, but {max(0, length - header.offset):,} follow; save it again"
        )
    return header


def read_npy(path: Path) -> np.ndarray:
    """The array in a ``.npy`` file, mapped into memory.

    Raises:
        InputError: see :func:`read_header`.
        OSError: if the file cannot be read.
        ValueError: if it is no ``.npy`` file.
    """
    with path.open("rb") as file:
        header = read_header(file, os.fstat(file.fileno()).st_size, str(path))
        if header.nbytes == 0:
            return np.empty(header.shape, header.dtype)
        order = "F" if header.fortran_order else "C"
        mapped = np.memmap(file, header.dtype, "r", header.offset, header.shape, order)  # type: ignore[call-overload]
        return mapped.view(np.ndarray)


def read_member(archive: zipfile.ZipFile, name: str, what: str) -> np.ndarray:
    """An array of a ``.npz`` file.

    Args:
        archive: the open file.
        name: the name of the array, without ``.npy``.
        what: the array's name in error messages.

    Raises:
        InputError: see :func:`read_header`; also if the array is too large for the memory, or so highly compressed that
            it can hold no pictures.
    """
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        header = read_header(file, info.file_size, what)
        packed = min(info.compress_size, os.fstat(archive.fp.fileno()).st_size)  # type: ignore[union-attr]
        if header.nbytes > max(LARGE, DENSEST * packed):
            raise InputError(
                f"{what} claims {header.nbytes / 1e9:.1f} GB in {packed / 1e6:.1f} MB; if this is right, save it "
                "uncompressed with numpy.save"
            )
        try:
            flat = np.empty(header.nbytes, np.uint8)
        except MemoryError:
            raise InputError(
                f"{what} takes {header.nbytes / 1e9:.1f} GB, more than the memory has; save it with numpy.save as a "
                ".npy file, which is not held in memory"
            ) from None
        view, done = flat.data, 0
        while piece := file.read(min(PIECE, header.nbytes - done)):
            view[done : done + len(piece)] = piece
            done += len(piece)
    if done < header.nbytes:
        raise EOFError
    return np.ndarray(header.shape, header.dtype, flat, order="F" if header.fortran_order else "C")


def read_member_header(archive: zipfile.ZipFile, name: str, what: str) -> Header:
    """The header of an array of a ``.npz`` file; see :func:`read_header`."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        return read_header(file, info.file_size, what)


@contextmanager
def opened_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a ``.npz`` file.

    Raises:
        InputError: if it is encrypted, or if two members have one name.
    """
    with zipfile.ZipFile(path) as archive:
        if any(info.flag_bits & 1 for info in archive.infolist()):
            raise InputError(f"{path} is encrypted; save it without a password")
        for name, count in Counter(archive.namelist()).items():
            if count > 1:
                raise InputError(f"{path} holds {name} {count} times; save it again")
        yield archive
