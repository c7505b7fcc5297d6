"""Variants of a recipe: settings that take the place of its own, so that all else stays the same.

====================  =============================================================================================
variant               the forward process, and what is predicted
====================  =============================================================================================
``conventional``      F(x, t) = x: conventional diffusion
``network``           any network F, evaluated on the prediction of x: the form of the paper
``network-target``    any network F, with its target predicted
``basis``             F = x + sum_k t^k h_k(x), evaluated on the prediction of x
``basis-curve``       the same, with the curve predicted
``basis-target``      the same, with the target predicted
``gains``             a gain for each element
``directions``        a gain for each of a set of learned orthonormal directions
``directions-basis``  the same, and what ``basis`` adds to x on top
``flow``              a network F that scales the noise, too
``nfdm``              the same on the path of neural flow diffusion models, which ends at gamma = 10
``nfdm-path``         F(x, t) = x on that path, so that it is no part of the difference
``flow-matching``     F(x, t) = x on the straight path of flow matching, trained on the velocity alone
``straight``          ``basis-curve`` on that path, with a penalty that makes the paths of its ODE straight
``diffenc``           a network F that follows the noise, with its target predicted
``elementwise``       F(x, t) = x, with a learned schedule for each element: MuLAN without its latent
``blur``              images that are blurred before noise hides them
====================  =============================================================================================

Anyone's own variant is a YAML file of settings, or a Python file that registers parts and has a dictionary
``settings``.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..support.checks import shown
from .recipe import read_settings
from .settings import GROUPS, Config, ModelConfig, check_names, check_values, make_config


def _forward(transform: str, **model: Any) -> dict[str, Any]:
    """The settings of a forward process; what ``model`` does not name is as the recipe has it, but for its form."""
    rest: dict[str, Any] = {"rotation": "none", "predict_curve": False, "predict_target": False}
    return {"model": {"transform": transform, **rest, **model}}


_SIZE_OF_F = ("tied_to", "transform_width", "transform_depth")
_NO_F = {field.name: field.default for field in fields(ModelConfig) if field.name in _SIZE_OF_F}
"""What describes F has its default where there is none: models of tables refuse what they do not read."""
_PATH: dict[str, Any] = {"schedule": "geometric", "gamma_max": 10.0, "learned_end": False}
_STRAIGHT: dict[str, Any] = {"schedule": "ot", "gamma_max": 10.0, "learned_end": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "conventional": _forward("identity", **_NO_F),
    "network": _forward("network"),
    "network-target": _forward("network", predict_target=True),
    "basis": _forward("time_basis"),
    "basis-curve": _forward("time_basis", predict_curve=True),
    "basis-target": _forward("time_basis", predict_target=True),
    "gains": _forward("linear"),
    "directions": _forward("linear", rotation="learned"),
    "directions-basis": _forward("linear_basis", rotation="learned"),
    "flow": _forward("gaussian_flow"),
    "nfdm": _forward("gaussian_flow", tied_to="time", **_PATH),
    "nfdm-path": _forward("identity", **_NO_F, **_PATH),
    "flow-matching": _forward("identity", **_NO_F, **_STRAIGHT) | {"training": {"weighting": "flow_matching"}},
    "straight": _forward("time_basis", predict_curve=True, tied_to="time", **_STRAIGHT)
    | {"training": {"straightness": 0.1}},
    "diffenc": _forward("network", predict_target=True, tied_to="noise"),
    "elementwise": _forward("identity", schedule="elementwise", learned_end=False, tied_to="time"),
    "blur": _forward("blur", tied_to="time"),
}


PREFIX = "ndm_variant_"
"""The beginning of the names under which the files of variants are loaded; their checksums follow."""


class Variant(NamedTuple):
    """Settings that take the place of a recipe's, under a name."""

    name: str
    settings: dict[str, Any]
    module: Path | None = None
    """The Python file that registers its parts."""

    @property
    def checksum(self) -> str:
        """The beginning of the SHA-256 of the Python file; empty if there is none."""
        return "" if self.module is None else checksum_of(self.module)

    def applied(self, config: Config, seed: int) -> Config:
        """The config of a run of this variant."""
        tree = asdict(config)
        for key, value in self.settings.items():
            tree[key] = tree[key] | value if key in GROUPS else value
        return make_config(tree | {"seed": seed})


def find_variant(name: str) -> Variant:
    """A variant of the package, or that of a file.

    Raises:
        InputError: if there is none, or the file has no settings of a variant.
    """
    if name in VARIANTS:
        return Variant(name, VARIANTS[name])
    path = Path(name)
    if path.suffix not in (".yaml", ".yml", ".py"):
        similar = difflib.get_close_matches(name, VARIANTS, n=1)
        guess = f"did you mean {similar[0]}? " if similar else ""
        raise InputError(
            f"no variant {shown(repr(name))}; {guess}variants: {', '.join(VARIANTS)}, or a .yaml or .py file"
        )
    if not path.is_file():
        raise InputError(f"there is no file {shown(name)}")
    module = path.resolve() if path.suffix == ".py" else None
    settings = read_settings(path) if module is None else settings_of_module(module)
    fixed = sorted(settings.keys() & {"seed", "data", "init"})
    if fixed:
        raise InputError(f"{name}: a variant must not set {fixed[0]}, which all variants share")
    return Variant(path.stem, settings, module)


def checksum_of(path: Path) -> str:
    """The beginning of the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def loaded_from(path: Path) -> str | None:
    """The name of a module that Python has loaded from this file: as the program itself, or because it was imported."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and not name.startswith(PREFIX) and os.path.realpath(file) == str(path):
            return name
    return None


def settings_of_module(path: Path) -> dict[str, Any]:
    """The dictionary ``settings`` of a Python file, which is run once in a process: its parts have one name each.

    Raises:
        InputError: if it fails, or has no such dictionary, or if a setting in it is unknown or has a wrong value.
    """
    name = loaded_from(path) or PREFIX + checksum_of(path)
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise InputError(f"{path} cannot be run as a module of Python")
        sys.modules[name] = importlib.util.module_from_spec(spec)  # as an import does; dataclasses look there
        try:
            spec.loader.exec_module(sys.modules[name])
        except SystemExit:
            del sys.modules[name]
            raise InputError(f'{path} ends the process; put what it runs under if __name__ == "__main__":') from None
        except Exception as error:
            del sys.modules[name]
            raise InputError(f"{path}: {type(error).__name__}: {shown(str(error), 400)}") from error
    settings = getattr(sys.modules[name], "settings", None)
    if not isinstance(settings, dict):
        raise InputError(
            f"{path} must have a dictionary settings, e.g. settings = {{'model': {{'transform': 'mine'}}}}"
        )
    try:
        check_names(settings)
        check_values(settings)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return settings
