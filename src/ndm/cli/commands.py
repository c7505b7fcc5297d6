"""The registry of commands. Each command is registered in the file that defines it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jsonargparse import ArgumentParser, Namespace

from ..support.registry import Registry
from .options import parse


class Command(NamedTuple):
    """A command, which ``ndm NAME`` runs."""

    summary: str
    """Its line in ``ndm --help``."""
    parse: Callable[[list[str]], Namespace]
    """Parses the arguments after the name. It raises InputError; see :func:`ndm.cli.options.parse`."""
    run: Callable[[Namespace], int | None]
    """Runs the command and returns the exit status; None means 0."""


COMMANDS = Registry[Command]("command")


def parsed_by(make_parser: Callable[[], ArgumentParser]) -> Callable[[list[str]], Namespace]:
    """A function that makes the parser when it is called, and parses arguments with it."""
    return lambda arguments: parse(make_parser(), arguments)
