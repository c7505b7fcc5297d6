"""Plain values of a file as the dataclasses and named tuples that they were written from.

The annotations of a class say what its values are. Numbers must be finite. A value that does not fit is refused by its
name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import InputError
from ..support.checks import shown

T = TypeVar("T")


def built(cls: type[T], value: Any) -> T:
    """An object of a class from its fields by name, or for a named tuple from a list of them.

    Raises:
        InputError: if a field is unknown, missing or does not fit.
    """
    hints = get_type_hints(cls)
    if isinstance(value, list) and issubclass(cls, tuple):
        value = dict(zip(hints, value, strict=False)) if len(value) <= len(hints) else value
    if not isinstance(value, Mapping) or not set(value) <= set(hints):
        raise InputError(f"{shown(repr(value))} is no {cls.__name__}")
    fields = {name: _fit(one, hints[name], f"{cls.__name__}.{name}") for name, one in value.items()}
    try:
        return cls(**fields)
    except TypeError:
        raise InputError(f"{shown(repr(value))} is no {cls.__name__}") from None


def _fit(value: Any, hint: Any, name: str) -> Any:
    """A value as its annotation says."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and type(None) in inner:
            return None
        kinds = [kind for kind in inner if kind is not type(None)]
        exact = [kind for kind in kinds if type(value) is kind]
        hint = (exact or kinds)[0]
        origin, inner = get_origin(hint), get_args(hint)
    if origin is tuple and isinstance(value, list):
        return tuple(_fit(one, inner[0], name) for one in value)
    if origin is Literal and value in inner:
        return value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and number and abs(value) < 1e308 and math.isfinite(value):
        return float(value)
    if hint is int and type(value) is int and abs(value) < 2**63:
        return value
    if hint in (str, bool) and type(value) is hint:
        return value
    if origin is None and isinstance(hint, type) and hint not in (float, int, str, bool):
        return built(hint, value)
    raise InputError(f"{name} is {shown(repr(value))}")
