"""``ndm recipes``: list the recipes that come with the package."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from .commands import COMMANDS, Command, parsed_by


def make_parser() -> ArgumentParser:
    return ArgumentParser(
        prog="ndm recipes",
        exit_on_error=False,
        description="List the recipes that come with the package, each with its number of parameters ('by the data' if "
        "that depends on the data) and a description.",
    )


def run(_: Namespace) -> None:
    from ..experiment.build import count_parameters
    from ..experiment.recipe import read_config, recipes

    for name in recipes():
        config = read_config(name)
        parameters = count_parameters(config)
        size = "by the data" if parameters is None else f"{parameters:,}"
        print(f"{name:26s}{size:>13s}  {config.description}")


COMMANDS.add("recipes", Command("list the recipes", parsed_by(make_parser), run))
