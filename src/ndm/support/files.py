"""The one place that opens files which somebody else may have written, and that writes ours whole.

A file that is read here is a regular file (a pipe would hang) of a bounded size, is text in UTF-8, and is not nested
more than 64 deep; JSON of 16 MB at most, unless said otherwise. Whatever is wrong is one line that names the file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import lzma
import os
import stat
import struct
import tarfile
import tempfile
import time
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import InputError
from .checks import require_kind

LARGEST_TEXT = 16 * 2**20
"""Bytes of the largest JSON that is read."""
DEEPEST = 64
"""How deeply lists and mappings may be nested."""
ABANDONED = 24 * 3600
"""Seconds after which a file that is still incomplete is taken for that of a killed process, and is removed."""
DAMAGED = (
    OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, struct.error, zipfile.BadZipFile,
    zlib.error, lzma.LZMAError, tarfile.TarError,
)  # fmt: skip
"""The errors that are raised while an archive is read if it is damaged or of another kind."""


class BadFile(InputError):
    """A file that is missing, cut short, altered or foreign; one that could not be looked into is no such file."""


def file_size(path: Path, largest: int | None = None) -> int:
    """The size in bytes of a regular file, which is not opened.

    Raises:
        BadFile: if there is no such file, or it is larger than ``largest``.
        InputError: if the path is no regular file, or cannot be looked up.
    """
    with reading(path):
        found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path} is a folder; give a file")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} is a pipe or a device; give a regular file")
    if largest is not None and found.st_size > largest:
        raise BadFile(f"{path} is too large: {found.st_size:,} bytes, and at most {largest:,} are read")
    return found.st_size


@contextmanager
def reading(path: Path, damaged: str = "") -> Iterator[None]:
    """Tell errors of the system in one line with the file's name, each as what it is.

    Args:
        path: the file.
        damaged: the end of the message ``"PATH ..."`` about an archive that is damaged or of another kind. If it is
            given, the path must be a regular file, and any of :data:`DAMAGED` is told so.

    Raises:
        BadFile: if there is no such file, or if it is damaged.
        InputError: on any other error, such as a missing permission.
    """
    if damaged:
        file_size(path)
    try:
        yield
    except InputError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise BadFile(f"cannot read {path}: no such file") from None
    except DAMAGED as error:
        if isinstance(error, OSError) and (error.strerror or not damaged):
            raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
        if damaged:
            raise BadFile(f"{path} {damaged}") from None
        if isinstance(error, ValueError):  # a path with a null character
            raise InputError(f"cannot read {str(path)!r}: it is no path") from None
        raise


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """The text of a file.

    Raises:
        InputError: if it cannot be read; a :class:`BadFile` if it is missing, too large or no text.
    """
    file_size(path, largest)
    with reading(path), path.open("rb") as file:
        content = file.read(largest + 1)
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise BadFile(f"cannot read {path}: it is not text in UTF-8 (byte {error.start})") from None


def read_json(path: Path, largest: int = LARGEST_TEXT) -> Any:
    """The value of a JSON file.

    Raises:
        InputError: if it cannot be read; a :class:`BadFile` if it is missing, damaged, too large or nested too deeply.
    """
    return parse_json(read_text(path, largest), path)


def parse_json(text: str | bytes, path: Path) -> Any:
    """The value of a JSON text, which is from ``path``.

    Raises:
        BadFile: if it is damaged or nested too deeply.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise BadFile(f"{path} is damaged or not from ndm: no JSON ({reason})") from None
    _check_nesting(value, path)
    return value


def _check_nesting(value: Any, path: Path) -> None:
    layer = [value]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for item in layer:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        if not inner:
            return
        layer = inner
    raise BadFile(f"cannot read {path}: it is nested too deeply")


@contextmanager
def writing(path: Path, partial_file: Path | None = None) -> Iterator[None]:
    """Errors of the disk name the file that was to be written, also where they name none or its partial file.

    Raises:
        OSError: with a ``filename``.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None and error.filename not in (partial_file, str(partial_file)):
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from None


def destination(path: Path) -> Path:
    """The file that is written under a path: what a link leads to, also if it does not exist yet.

    Raises:
        InputError: if it is a folder, a pipe or a device, or if the path cannot be looked up.
    """
    try:
        found = Path(os.path.realpath(path)) if path.is_symlink() else path
        mode = found.stat().st_mode
    except FileNotFoundError:
        return found
    except OSError as error:
        raise InputError(f"{path} cannot be written: {(error.strerror or str(error)).lower()}") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(f"{path} is {kind}; give the name of a file")
    return found


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file that is never seen half written, by another process, after a kill, or on a full disk.

    Write to the path that is given, which has the same ending and a name that no other writer has. It takes the place
    of ``path`` in the end, or is removed if there was an error. What a killed process left is removed after a day.
    If ``path`` is a link, the file that it leads to is replaced, and the link stays.

    Raises:
        InputError: if ``path`` is a folder, a pipe or a device.
        OSError: with ``path`` as its ``filename``, if it cannot be written.
    """
    path = destination(path)
    # Absolute, because pyarrow takes ~/x for a file in the user's home folder.
    partial_file = path.absolute().with_name(f".ndm-{uuid.uuid4().hex}.partial{path.suffix}")
    with writing(path, partial_file):
        remove_abandoned(path.parent, ".ndm-*.partial*")
        try:
            yield partial_file
            partial_file.replace(path)
        finally:
            partial_file.unlink(missing_ok=True)


def remove_abandoned(folder: Path, pattern: str) -> None:
    """Remove the files of a folder that killed processes have left incomplete."""
    for left in folder.glob(pattern):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()


def make_folder(path: str | Path) -> Path:
    """Make a folder and those that it is in, unless it exists.

    Raises:
        InputError: if it is no path, or with the reason of the system.
    """
    require_kind(folder=(path, (str, Path)))
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    except (OSError, ValueError) as error:  # a path with a null character is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot make the folder {folder}: {reason}; choose another folder") from None


def check_writable(folder: Path) -> None:
    """Refuse a folder in which no file can be made.

    Raises:
        InputError: with the reason of the system.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({(error.strerror or str(error)).lower()})") from None


def write_whole(path: Path, text: str) -> None:
    """Write a text in UTF-8 by :func:`whole_file`."""
    with whole_file(path) as partial_file:
        partial_file.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Checksum of a regular file's content, in hexadecimal.

    Raises:
        InputError: if the file cannot be read; a :class:`BadFile` if there is none.
    """
    file_size(path)
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
