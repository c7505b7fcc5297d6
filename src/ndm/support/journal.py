"""Append-only files of JSON lines. If a process is killed, its lines remain, and an incomplete last line is ignored."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def append_line(path: Path, record: Any) -> None:
    """Append one line and wait until it is on disk. If the last line of the file is incomplete, it is ended first."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[Any]:
    """All complete lines of a file; an empty list if there is no file."""
    lines = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


class Journal:
    """The finished pieces of a long computation. They are kept in a file, where the next attempt finds them.

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
            self.pieces.update(read_lines(path))

    def __contains__(self, name: str) -> bool:
        return name in self.pieces

    def __getitem__(self, name: str) -> Any:
        return self.pieces[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.pieces[name] = value
        if self.path:
            append_line(self.path.with_suffix(f".{self.number}.jsonl"), [name, value])

    def remove(self) -> None:
        """Delete the files when the computation is done."""
        for path in self.files:
            path.unlink(missing_ok=True)
