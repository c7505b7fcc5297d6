"""Append-only files of JSON lines. If a process is killed, its lines remain, and an incomplete last line is ignored."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .files import BadFile, file_size, parse_json, reading, writing
from .progress import warn

LARGEST_JOURNAL, LONGEST_LINE = 2**30, 2**24
"""Bytes of the largest file that is read, and of the longest line in it."""


def append_line(path: Path, record: Any) -> None:
    """Append one line and wait until it is on disk; a half-written line before it is closed off first.

    Raises:
        OSError: with ``path`` as its ``filename``; the file is then as it was.
    """
    if path.exists():
        file_size(path)
    with writing(path), path.open("ab+", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        line = json.dumps(record).encode() + b"\n"
        if length:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        try:
            while line:  # a disk that fills up takes a part
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(length)
            raise


def read_lines(path: Path, fits: Callable[[Any], bool] = lambda _: True) -> list[Any]:
    """All whole lines of a file; none if there is no file. How many were passed over is said.

    Args:
        fits: whether a line is of this file; others are passed over, as those that are cut short or damaged are.

    Raises:
        InputError: if the file cannot be read.
    """
    lines, odd = [], []
    for number, text in enumerate(_split(path), start=1):
        try:
            line = None if len(text) >= LONGEST_LINE else parse_json(text, path)
        except BadFile:
            line = None
        if line is not None and fits(line):
            lines.append(line)
        else:
            odd.append(number)
    if odd:
        count = "1 line that is" if len(odd) == 1 else f"{len(odd)} lines that are"
        news = f"{path}: passed over {count} cut short, damaged or foreign (first: line {odd[0]})"
        warn(news)
    return lines


def _split(path: Path) -> Iterator[bytes]:
    """The lines of a file; one that is too long comes in pieces."""
    if not path.exists():
        return
    file_size(path, LARGEST_JOURNAL)
    with reading(path), path.open("rb") as file:
        while line := file.readline(LONGEST_LINE):
            if line.strip():
                yield line


class Journal:
    """The finished pieces of a long computation. They are kept in a file, where the next attempt finds them.

    Each is a line of its name, its value, and a checksum of both: what a line holds is what was computed.

    Args:
        path: the file; None keeps the pieces in memory only.
        number: number of this writer. Writers that run at the same time each write their own file, and read all files.
    """

    def __init__(self, path: Path | None = None, number: int = 0) -> None:
        self.path = path
        self.number = number
        self.pieces: dict[str, Any] = {}
        self.read()

    @property
    def files(self) -> list[Path]:
        """The files of all writers. For ``pieces.jsonl`` they are ``pieces.0.jsonl``, ``pieces.1.jsonl``, ..."""
        return sorted(self.path.parent.glob(self.path.with_suffix(".*.jsonl").name)) if self.path else []

    def read(self) -> None:
        """Read what all writers have written so far."""
        for path in self.files:
            self.pieces.update((name, value) for name, value, _ in read_lines(path, _is_piece))

    def __contains__(self, name: str) -> bool:
        return name in self.pieces

    def __getitem__(self, name: str) -> Any:
        return self.pieces[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.pieces[name] = value
        if self.path:
            append_line(self.path.with_suffix(f".{self.number}.jsonl"), [name, value, _seal(name, value)])

    def remove(self) -> None:
        """Delete the files when the computation is done."""
        for path in self.files:
            path.unlink(missing_ok=True)


def _seal(name: str, value: Any) -> str:
    return hashlib.sha256(json.dumps([name, value]).encode()).hexdigest()[:16]


def _is_piece(line: Any) -> bool:
    return isinstance(line, list) and len(line) == 3 and isinstance(line[0], str) and line[2] == _seal(*line[:2])
