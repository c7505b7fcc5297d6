"""What happens to output that cannot be written, because its reader has left or its disk is full."""

from __future__ import annotations

import io
import os
import sys


def escape_unknown_characters() -> None:
    """Let characters that the encoding of the output does not have be written as escapes, and end no command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def drop_unwritable_output() -> None:
    """Send standard output and the error stream nowhere if they cannot be written, so that Python ends in peace."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
