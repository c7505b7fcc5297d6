"""Whether a result fits into the memory and onto the disk, which is asked before hours of work."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..errors import InputError


def check_memory(size: int, what: str) -> None:
    """Refuse a result that is larger than the whole memory of this machine.

    Args:
        size: its bytes at least.
        what: the result, in the plural.

    Raises:
        InputError: with both sizes.
    """
    has = memory()
    if has is not None and size > has:
        raise InputError(
            f"{what} take at least {size / 1e9:,.1f} GB of memory, and this machine has {has / 1e9:,.1f} GB; "
            "choose a smaller number"
        )


def check_disk(size: int, what: str, folder: Path) -> None:
    """Refuse a file that is larger than the free space of its disk; the rest is as in :func:`check_memory`."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"{what} take at least {size / 1e9:,.1f} GB, and the disk of {folder.resolve()} has {free / 1e9:,.1f} "
            "GB left; choose a smaller number, or another disk"
        )


def memory() -> int | None:
    """The bytes of memory of this machine; None if the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
