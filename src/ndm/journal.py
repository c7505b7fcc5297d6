"""Append-only JSON lines that survive a kill: what was written stays, a line cut in half is ignored."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def append_line(path: Path, record: Any) -> None:
    """Append one line and wait until it is on disk; a half-written line before it is closed off first."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[Any]:
    """All whole lines of a file; none if there is no file."""
    lines = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


class Journal:
    """Pieces of a long computation, kept in a file as they are made and found there by the next attempt.

    Args:
        path: the file; None keeps the pieces in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.pieces: dict[str, Any] = {}
        for name, value in read_lines(path) if path else []:
            self.pieces[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self.pieces

    def __getitem__(self, name: str) -> Any:
        return self.pieces[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.pieces[name] = value
        if self.path:
            append_line(self.path, [name, value])

    def remove(self) -> None:
        """Delete the file: the computation is done."""
        if self.path:
            self.path.unlink(missing_ok=True)
