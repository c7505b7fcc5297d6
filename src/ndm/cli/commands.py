"""The table of commands; a command joins it in the file that defines it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jsonargparse import ArgumentParser, Namespace

from ..support.registry import Registry


class Command(NamedTuple):
    """What ``ndm NAME`` does."""

    summary: str
    """One line for ``ndm --help``."""
    parse: Callable[[list[str]], Namespace]
    """The words behind the name, parsed; it may raise what an ArgumentParser raises."""
    run: Callable[[Namespace], int | None]
    """Runs the command; None is the exit status 0."""


COMMANDS = Registry[Command]("command")


def parsed_by(make_parser: Callable[[], ArgumentParser]) -> Callable[[list[str]], Namespace]:
    """A function that makes the parser when it is needed, and parses."""
    return lambda arguments: make_parser().parse_args(arguments)
