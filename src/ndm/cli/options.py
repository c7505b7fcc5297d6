"""How the arguments of every command are parsed: options are written in full, and an error is one line."""

from __future__ import annotations

import argparse
import difflib
import io
import re
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from ..errors import InputError
from ..support.checks import is_writable, shown
from ..support.values import in_words, refuse_base_60

FEW = 8
"""The number of options up to which the error for an unknown option lists them all."""
MOST_DIGITS = 308
"""No number has more digits: floats end there. Python refuses to read some thousands, in words that name no option."""
UNREAD_FILE = re.compile(r'Parser key "(?P<key>[^"]+)": Unable to load config ([\'"])(?P<file>.+?)\2')
NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|-inf|-nan", re.IGNORECASE)


def with_plain_types(text: str) -> str:
    """A help text whose types are words and not Python's representations of them, where a line may have been broken."""
    text = re.sub(r"<class\s+'(?:\w+\.)*(\w+)'>", r"\1", text)
    return re.sub(r"<function\s+seed_number\s+at\s+0x[0-9a-f]+>", "int", text)


def parse(parser: ArgumentParser, arguments: Sequence[str], **options: Any) -> Namespace:
    """The parsed arguments. Abbreviations of options are refused.

    Args:
        options: options of ``parser.parse_args``.

    Raises:
        InputError: if an option is unknown or has a wrong value; the message names it.
    """
    parser.allow_abbrev = False
    joined = join_negative_numbers(arguments)
    for argument in joined:
        if not is_writable(argument):
            raise InputError(f"the argument {shown(argument)} has a character that no file name has; leave it out")
        if re.search(f"[0-9]{{{MOST_DIGITS}}}", argument):
            raise InputError(
                f"the argument {shown(argument, 40)} has more than {MOST_DIGITS} digits; give a smaller number"
            )
    said = io.StringIO()  # argparse says nothing if it cannot write the help
    try:
        with redirect_stdout(said):
            parsed = parser.parse_args(joined, **options)
    except InputError:
        raise
    except (ArgumentError, TypeError, ValueError) as error:
        text = unknown_option(parser, joined) or wrong_value(error, parser)
        raise InputError(f"{text} (see: {parser.prog} --help)") from None
    finally:
        print(with_plain_types(said.getvalue()), end="")
    given = given_options(joined)
    for name, value in given:
        if not value and name != "--description":
            raise InputError(f"{name or 'an argument'} is empty; give a value, or leave it out")
    refuse_base_60((name, text, parsed.get(name.lstrip("-").removesuffix("+"))) for name, text in given)
    return parsed


def given_options(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """The options with their values, and other arguments with an empty name. An option without a value is left out."""
    given, option = [], ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--") and not equals:
            option = argument
            continue
        given.append((name, value) if name.startswith("--") else (option, argument))
        option = ""
    return given


def join_negative_numbers(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``--option -1e-3`` as ``--option=-1e-3``, because -1e-3 would be taken for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and re.fullmatch(r"--[^=]+", joined[-1]) and NEGATIVE_NUMBER.fullmatch(argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def unknown_option(parser: ArgumentParser, arguments: Sequence[str]) -> str | None:
    """A message about the first option that the parser does not have, with the most similar one, or None."""
    known = options_of(parser)
    # Without its group too, so that --steps leads to --training.steps; a full name goes before.
    forms = {form(name.rpartition(".")[2]): name for name in known} | {form(name): name for name in known}
    for argument in arguments:
        name = argument.partition("=")[0].removesuffix("+")  # --list+=item appends to a list
        if argument == "--":
            return None
        if re.match(r"--|-[a-zA-Z]", argument) and name not in ("-h", *known):
            similar = difflib.get_close_matches(form(name), forms, n=1)
            guess = f"; did you mean {forms[similar[0]]}?" if similar else ""
            choice = f"; the options are {', '.join(known)}" if len(known) <= FEW else ""
            return f"unknown option {name}{guess}{choice}"
    return None


def options_of(parser: ArgumentParser) -> list[str]:
    """The names of the options, in the order of the help."""
    public = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    return [name for action in public for name in action.option_strings if name.startswith("--")]


def form(name: str) -> str:
    """The form of an option's name that is compared: ``--Batch-size`` is as good as ``--batch_size``."""
    return name.lstrip("-").lower().replace("-", "_")


def wrong_value(error: Exception, parser: ArgumentParser) -> str:
    """The parser's message about a value, with the option's name first and the kind of the value in words."""
    text = " ".join(str(error).split())
    if unread := UNREAD_FILE.match(text):
        try:
            open(unread["file"]).close()
        except OSError as cause:
            return f"--{unread['key']} {unread['file']}: {cause.strerror}"
        return f"--{unread['key']} {unread['file']}: it is no YAML file of the settings {unread['key']}.*"
    return in_words(text, options_of(parser)) or re.sub(r"^argument (\S+): ", r"\1: ", text)
