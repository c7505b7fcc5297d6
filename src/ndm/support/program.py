"""The program that the user runs: ``ndm``, or a file that registers parts and then does what ``ndm`` does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

PROGRAM = ContextVar("PROGRAM", default="ndm")
"""The words before the name of a command."""


@contextmanager
def named_program() -> Iterator[None]:
    """Commands are told with the name of this process's program: ``python FILE`` if that is a file of the user's."""
    file = Path(sys.argv[0])
    own = file.suffix == ".py" and file.stem != "__main__"
    before = PROGRAM.set(f"python {file}" if own else "ndm")
    try:
        yield
    finally:
        PROGRAM.reset(before)


def command(words: str) -> str:
    """A command that the user can run next, such as ``evaluate RUN``, after the words of the program."""
    return f"{PROGRAM.get()} {words}"
