"""Recipes: YAML files of settings. Some come with the package, and users may write their own."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..support.checks import shown
from ..support.files import BadFile, file_size
from ..support.plain_yaml import read_yaml
from .settings import GROUPS, Config, check_names, check_values, make_config


def recipes() -> dict[str, Path]:
    """The files of the recipes that come with the package, by name."""
    folder = Path(str(resources.files("ndm") / "experiment" / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """The file of a recipe, given by its name or its path.

    Raises:
        InputError: if there is no such recipe or file (the message lists all recipes), or if it cannot be read.
    """
    known = recipes()
    if name in known:
        return known[name]
    try:
        file_size(Path(name or " "))
    except BadFile:
        similar = difflib.get_close_matches(name, known, n=1)
        guess = f"did you mean {similar[0]}? " if similar else ""
        raise BadFile(f"no recipe or file {shown(repr(name))}; {guess}recipes: {', '.join(known)}") from None
    return Path(name)


def read_settings(path: Path, resolved: bool = False) -> dict[str, Any]:
    """The nested settings of a YAML file.

    Args:
        path: the file.
        resolved: whether it is that of a run, which has all groups of settings.

    Raises:
        InputError: if the file cannot be read or has an unknown setting; the message names the file and the mistake.
    """
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise InputError(f"{path} must hold keys such as data, model and training")
    try:
        check_names(tree)
        check_values(tree)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    lost = [group for group in GROUPS if group not in tree] if resolved else []
    if lost:
        raise BadFile(f"{path} is cut short: it has no settings {lost[0]}.*; restore it, or train a new run")
    return tree


def read_config(name: str | Path) -> Config:
    """The config of a recipe, given by its name or the path of a YAML file.

    Raises:
        InputError: if there is no such recipe or file, or if a setting in it is unknown or has a wrong value.
    """
    return read_config_file(find_recipe(str(name)))


def read_config_file(path: Path, resolved: bool = False) -> Config:
    """The config of a YAML file; the arguments are those of :func:`read_settings`.

    Raises:
        InputError: naming the file and what is wrong in it.
    """
    tree = read_settings(path, resolved)
    try:
        return make_config(tree)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
