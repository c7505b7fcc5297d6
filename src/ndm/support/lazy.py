"""Packages that import a public name when it is first used, so that ``ndm COMMAND --help`` does not wait for torch.

Such a package has its imports under ``if TYPE_CHECKING:``, where editors and type checkers see them, and below them

    __getattr__, __dir__ = lazy(__name__, {"module": "Name OtherName", ...})
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions ``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: the package's ``__name__``.
        homes: the public names, separated by spaces, by the module of the package that defines them. The modules are
            attributes of the package too.
    """
    home = {name: module for module, names in homes.items() for name in names.split()}

    def get(name: str) -> Any:
        if name in home:
            value = getattr(import_module(f"{package}.{home[name]}"), name)
        elif name in homes:
            value = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)  # found there from now on, without this function
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *home, *homes})
