"""What several writers of files share."""

from __future__ import annotations

import hashlib
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file that is never seen half written, by another process or after a kill."""
    partial_file = path.with_name(path.name + ".tmp")
    partial_file.write_text(text)
    partial_file.replace(path)


def sha256(path: Path) -> str:
    """Checksum of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
