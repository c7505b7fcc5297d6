"""The command line: ``ndm demo | train | evaluate | doctor | sample | quality | recipes``."""

from __future__ import annotations

import sys
from collections.abc import Callable

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from ..config import count_parameters, make_config, read_settings, recipes
from ..errors import InputError
from . import demo, doctor, evaluate, quality, sample, train


def recipes_parser() -> ArgumentParser:
    return ArgumentParser(
        prog="ndm recipes",
        exit_on_error=False,
        description="List the recipes that come with the package, and the number of their models' parameters.",
    )


def run_recipes(_: Namespace) -> None:
    for name, path in recipes().items():
        config = make_config(read_settings(path))
        parameters = count_parameters(config)
        size = "by the data" if parameters is None else f"{parameters:,}"
        print(f"{name:26s}{size:>13s}  {config.description}")


COMMANDS: dict[str, tuple[Callable[[], ArgumentParser], Callable[[Namespace], None], str]] = {
    "demo": (demo.make_parser, demo.run, "train, evaluate and picture two models on digits; start here"),
    "train": (train.make_parser, train.run, "train a recipe, any setting overridden"),
    "evaluate": (evaluate.make_parser, evaluate.run, "bits per dimension of a trained model"),
    "doctor": (doctor.make_parser, doctor.run, "where a trained model's bits go, and what to change"),
    "sample": (sample.make_parser, sample.run, "draw samples from a trained model"),
    "quality": (quality.make_parser, quality.run, "how good a trained model's samples are"),
    "recipes": (recipes_parser, run_recipes, "list the recipes"),
}
USAGE = "usage: ndm COMMAND ...   (ndm COMMAND --help explains each)\n\n" + "\n".join(
    f"  {name:10s} {text}" for name, (_, _, text) in COMMANDS.items()
)


def parse(arguments: list[str]) -> tuple[Callable[[Namespace], None], Namespace]:
    """The command to run, and its arguments.

    Raises:
        InputError: on an unknown command, recipe, option or value.
    """
    name, *rest = arguments
    if name not in COMMANDS:
        raise InputError(f"unknown command {name!r}; choose one of {', '.join(COMMANDS)}")
    make_parser, command, _ = COMMANDS[name]
    try:
        asked = [a for a in rest if a not in ("-h", "--help")]
        if name != "train" or (rest and not asked):
            return command, make_parser().parse_args(rest)
        # Twice: the second time with the recipe's or the run's settings as defaults, which --help then shows.
        return command, train.make_parser(train.defaults(make_parser().parse_args(asked))).parse_args(rest)
    except InputError:
        raise
    except (ArgumentError, TypeError, ValueError) as error:
        raise InputError(f"{' '.join(str(error).split())} (see: ndm {name} --help)") from None


def main(arguments: list[str] | None = None) -> int:
    """Run a command; exit code 0, 2 for bad input (one line on the error stream), 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if arguments[0] == "--version":
        from ..version import __version__

        print(f"ndm {__version__}")
        return 0
    try:
        command, args = parse(arguments)
        command(args)
    except InputError as error:
        print(f"ndm: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"ndm: error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
