"""The program that the user runs: ``ndm``, or a file that registers parts and then does what ``ndm`` does."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from pathlib import Path

PROGRAM = ContextVar("PROGRAM", default="ndm")
"""The words before the name of a command; :func:`ndm.cli.main` sets them if it reads the arguments of the process."""


def program_of_process() -> str:
    """``ndm``, or ``python FILE`` if Python runs a file of the user's."""
    file = Path(sys.argv[0])
    return f"python {file}" if file.suffix == ".py" and file.stem != "__main__" else "ndm"


def command(words: str) -> str:
    """A command that the user can run next, such as ``evaluate RUN``, after the words of the program."""
    return f"{PROGRAM.get()} {words}"
