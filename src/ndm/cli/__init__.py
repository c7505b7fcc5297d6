"""The command line: ``ndm demo | train | compare | evaluate | doctor | report | sample | score | ...``."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

from ..errors import InputError
from ..support.output import drop_unwritable_output, escape_unknown_characters
from ..support.program import named_program

# The help lists the commands in the order of these imports.
from . import (  # isort: skip
    demo, train, compare, evaluate, doctor, report, sample, score, quality, push, recipes,  # noqa: F401
)  # fmt: skip
from .commands import COMMANDS

READER_LEFT = 141
"""The exit status of a command whose output nobody reads any more, as in ``ndm recipes | head -1``: 128 + SIGPIPE."""


def usage() -> str:
    """The text that ``ndm --help`` prints."""
    lines = [f"  {name:10s} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: ndm COMMAND ...   (ndm COMMAND --help explains a command)", "", *lines])


def run(name: str, arguments: list[str]) -> int:
    """Parse the arguments of a command and run it.

    Raises:
        InputError: if a command, recipe, option or value is unknown, or if the command refuses its input.
    """
    command = COMMANDS.find(name)
    try:
        os.getcwd()
    except OSError as error:  # libraries that are imported later would end the process
        raise InputError(f"the working directory cannot be used ({error.strerror}); change to another one") from None
    args = command.parse(arguments)
    if "quiet" not in args:
        return command.run(args) or 0
    from ..support.progress import console

    console.quiet = args.quiet
    try:
        return command.run(args) or 0
    finally:
        console.quiet = False


def answer(arguments: list[str]) -> int:
    """Print the help or the version, or run a command. Everything is printed when this returns."""
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(usage())
            return 0
        if arguments[0] == "--version":
            from ..version import __version__

            print(f"ndm {__version__}")
            return 0
        return run(arguments[0], arguments[1:])
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status.

    It is 0; 2 for bad input, with one line on stderr; 130 for Ctrl-C; or 141 if the reader of the output has left.
    """
    escape_unknown_characters()
    try:
        if arguments is not None:
            return answer(arguments)
        with named_program():
            return answer(sys.argv[1:])
    except InputError as error:
        return refuse(str(error))
    except OSError as error:
        if error.errno == errno.EPIPE:
            drop_unwritable_output()
            return READER_LEFT
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return refuse(": ".join([" -> ".join(names) or "input or output", error.strerror or str(error)]))
    except KeyboardInterrupt:
        return 130


def refuse(text: str) -> int:
    """Print an error as one line, whatever characters are in it, and return its exit status."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in f"ndm: error: {text}")
    with suppress(OSError):
        if sys.stderr is not None:  # print would take standard output instead
            print(line, file=sys.stderr, flush=True)
    drop_unwritable_output()
    return 2
