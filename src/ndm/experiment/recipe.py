"""Recipes: YAML files of settings. Some come with the package, and users may write their own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from .settings import Config, check_names, make_config


def recipes() -> dict[str, Path]:
    """The files of the recipes that come with the package, by name."""
    folder = Path(str(resources.files("ndm") / "experiment" / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """The file of a recipe, given by its name or its path.

    Raises:
        InputError: if there is no such recipe or file; the message lists all recipes.
    """
    known = recipes()
    if name in known:
        return known[name]
    if Path(name).is_file():
        return Path(name)
    if name and Path(name).is_dir():
        raise InputError(f"{name} is a folder; give the name of a recipe or a YAML file")
    raise InputError(f"no recipe or file {name!r}; recipes: {', '.join(known)}")


def read_settings(path: Path) -> dict[str, Any]:
    """The nested settings of a YAML file.

    Raises:
        InputError: if the file cannot be read or has an unknown setting; the message names the file and the mistake.
    """
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path} must hold keys such as data, model and training")
    try:
        check_names(tree)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return tree


def read_config(name: str | Path) -> Config:
    """The config of a recipe, given by its name or the path of a YAML file.

    Raises:
        InputError: if there is no such recipe or file, or if a setting in it is unknown or has a wrong value.
    """
    return make_config(read_settings(find_recipe(str(name))))
