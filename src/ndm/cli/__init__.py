"""The command line: ``ndm demo | train | evaluate | doctor | sample | quality | recipes``."""

from __future__ import annotations

import sys

from jsonargparse import ArgumentError

from ..errors import InputError

# The help lists the commands in the order of these imports.
from . import demo, train, evaluate, doctor, sample, quality, recipes  # noqa: F401  # isort: skip
from .commands import COMMANDS


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
        args = command.parse(arguments)
    except InputError:
        raise
    except (ArgumentError, TypeError, ValueError) as error:
        raise InputError(f"{' '.join(str(error).split())} (see: ndm {name} --help)") from None
    return command.run(args) or 0


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 2 for bad input (with one line on stderr), or 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        from ..version import __version__

        print(f"ndm {__version__}")
        return 0
    try:
        return run(arguments[0], arguments[1:])
    except InputError as error:
        print(f"ndm: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"ndm: error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
