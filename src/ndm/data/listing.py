"""What a folder holds: all files in it and below it, and a count of what is left out.

Links are followed. A folder that several names lead to is read once, so a link back to a folder above ends there.
"""

from __future__ import annotations

import heapq
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError, printable

SHOWN = 8  # number of suffixes of unused files that are named
HIDDEN, UNREADABLE, TWICE = "hidden", "that cannot be read", "read under another name"


class Listing(NamedTuple):
    """The files below a folder, and the folders below it whose files are not among them."""

    files: list[str]
    """The relative paths of all files that are not hidden, in natural order: 2.png comes before 10.png."""
    hidden: int
    """The number of hidden files. File managers leave some, such as macOS's ._name.png."""
    folders: Counter[str]
    """The numbers of folders that are left out, by the reason."""

    def unused(self, used: Sequence[str]) -> str:
        """What is not used, in words: ``"3 files (.txt 2, hidden 1), 1 folder that cannot be read"``; else empty."""
        rest = Counter(_suffix(name) for name in set(self.files).difference(used))
        if self.hidden:
            rest[HIDDEN] += self.hidden
        parts = []
        if rest:
            kinds = sorted(rest.items(), key=lambda item: (-item[1], item[0]))
            shown = [f"{kind} {count}" for kind, count in kinds[:SHOWN]]
            shown += [f"others {sum(count for _, count in kinds[SHOWN:])}"] if len(kinds) > SHOWN else []
            parts.append(f"{_counted(rest.total(), 'file')} ({', '.join(shown)})")
        for reason, count in sorted(self.folders.items()):
            folders = _counted(count, "hidden folder" if reason == HIDDEN else "folder")
            parts.append(folders if reason == HIDDEN else f"{folders} {reason}")
        return ", ".join(parts)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _suffix(name: str) -> str:
    return printable(os.path.splitext(name)[1].lower()) or "no suffix"


def absolute(path: str | Path) -> Path:
    """The path, in which ``~`` and ``~name`` are the home folders.

    Raises:
        InputError: if that home folder is not known, or if the path is empty or no path.
    """
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise InputError(f"path must be the file or folder that holds the data, got {path!r}")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"the home folder in {path} is not known; give the full path") from None


def existing_folder(path: str | Path) -> Path:
    """The path as a folder that exists.

    Raises:
        InputError: if it is not an existing folder.
    """
    folder = absolute(path)
    if not os.path.isdir(folder):
        raise InputError(f"{folder} is not a folder; set path to the folder that holds the data")
    return folder


def list_files(folder: Path) -> Listing:
    """All files in a folder and below it.

    Raises:
        InputError: if the folder itself cannot be read. A folder below it that cannot be read is counted.
    """
    top = folder.resolve()
    seen = {_place(parent) for parent in top.parents}
    files: list[str] = []
    hidden, left = 0, Counter[str]()
    # Real folders come before linked ones, so that files keep their own names.
    real, linked = [""], list[str]()
    while real or linked:
        below = real.pop() if real else heapq.heappop(linked)
        try:
            place = _place(folder / below)
            if place in seen:
                left[TWICE] += 1
                continue
            seen.add(place)
            entries = list(os.scandir(folder / below))
        except OSError as error:
            if not below:
                raise InputError(f"{folder} cannot be read: {error.strerror}") from None
            left[UNREADABLE] += 1
            continue
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False) or os.path.isdir(entry.path)
            if entry.name.startswith("."):
                hidden += not is_folder
                left[HIDDEN] += is_folder
            elif not is_folder:
                files.append(below + entry.name)
            elif entry.is_symlink():
                heapq.heappush(linked, f"{below}{entry.name}/")
            else:
                real.append(f"{below}{entry.name}/")
    return Listing(sorted(files, key=lambda name: (_natural(name), name)), hidden, +left)


def _place(path: Path) -> tuple[int, int]:
    """What tells a file or folder apart from all others, whatever its name."""
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino


def _natural(name: str) -> list[Any]:
    return [int(part) if k % 2 else part for k, part in enumerate(re.split(r"(\d+)", name))]
