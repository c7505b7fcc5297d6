"""Functions for writing files and for their checksums."""

from __future__ import annotations

import hashlib
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is never half written, even if this process is killed or another one reads it."""
    partial_file = path.with_name(path.name + ".tmp")
    partial_file.write_text(text)
    partial_file.replace(path)


def sha256(path: Path) -> str:
    """The SHA-256 checksum of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
