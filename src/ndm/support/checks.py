"""Checks of settings and arguments. An error message is one line with the name, the rule and the given value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from ..errors import InputError

WORDS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text", NoneType: "null"}
"""What messages call the values of a type."""
LARGEST_ETA = 1e12
"""A bound is computed for eta from 1 / LARGEST_ETA to LARGEST_ETA. Its terms grow with eta or with 1 / eta, and float32
has all of their digits in this range."""


def require(condition: bool, rule: str, value: Any) -> None:
    """Refuse a value that breaks a rule.

    Raises:
        InputError: if ``condition`` is False; the message is the rule and the value.
    """
    if not condition:
        raise InputError(f"{rule}, got {value}")


def is_finite(value: Any) -> bool:
    """Whether a real number is finite, also as a float."""
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


def require_count(least: int = 1, **values: Any) -> None:
    """Refuse values that are not whole numbers (2.5, "3", True), are below ``least`` or too large to count anything.

    Raises:
        InputError: naming the first such value.
    """
    for name, value in values.items():
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        require(whole and value >= least, f"{name} must be a whole number and at least {least}", repr(value))
        require(value < 2**63, f"{name} must be below 2^63", repr(value))


def require_flag(**values: Any) -> None:
    """Refuse values that are neither True nor False, such as the text "False", which Python takes for True.

    Raises:
        InputError: naming the first such value.
    """
    for name, value in values.items():
        flag = isinstance(value, (bool, np.bool_)) or (type(value) is int and value in (0, 1))
        require(flag, f"{name} must be True or False", shown(repr(value)))


def require_choice(choices: Sequence[str], **values: Any) -> None:
    """Refuse values that are not one of some words.

    Raises:
        InputError: naming the first such value, and the words.
    """
    *words, last = map(repr, choices)
    for name, value in values.items():
        known = isinstance(value, str) and value in choices
        require(known, f"{name} must be {', '.join(words)} or {last}", shown(repr(value)))


def listed(name: str, values: Any) -> tuple[Any, ...]:
    """A list, a tuple, or an array or tensor of one dimension as a tuple; its values are not looked at.

    Raises:
        InputError: if it is anything else, such as a number or a text.
    """
    wrong = isinstance(values, (str, bytes, Mapping)) or getattr(values, "ndim", 1) != 1
    try:
        return tuple(None if wrong else values.tolist() if hasattr(values, "ndim") else values)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"{name} must be a list of numbers, got {shown(repr(values))}") from None


def require_seed(seed: Any) -> None:
    """Refuse what is no seed.

    Raises:
        InputError: if it is no whole number, or not in [0, 2^63).
    """
    require_count(0, seed=seed)
    require(seed < 2**63, "seed must be below 2^63", seed)


def require_number(**values: Any) -> None:
    """Refuse values that are not finite real numbers ("7", None, NaN).

    Raises:
        InputError: naming the first such value.
    """
    for name, value in values.items():
        number = isinstance(value, (Integral, float, np.floating)) and not isinstance(value, bool)
        require(number and is_finite(value), f"{name} must be a finite number", shown(repr(value)))


def require_real(**values: Any) -> None:
    """Refuse what is neither a real number nor an array or a tensor of real numbers; NaN is one.

    Raises:
        InputError: naming the first such value.
    """
    for name, value in values.items():
        kind = str(getattr(value, "dtype", ""))
        array = "int" in kind or "float" in kind
        number = isinstance(value, Real) and not isinstance(value, bool)
        number = number and (is_finite(value) or not isinstance(value, Integral))
        if not (array or number):  # the text of a tensor costs milliseconds, so it is only made for a message
            rule = f"{name} must be real numbers: a tensor, an array or a number"
            raise InputError(f"{rule}, got {shown(repr(value))}")


def require_rate(**values: Any) -> None:
    """Refuse values that are not in [0, 1).

    Raises:
        InputError: naming the first such value.
    """
    require_number(**values)
    for name, value in values.items():
        require(0 <= value < 1, f"{name} must be in [0, 1)", value)


def require_types(settings: Any, group: str = "") -> None:
    """Refuse values of a dataclass that are not of the types and choices of its annotations.

    Whole numbers serve as real ones. The values inside of lists and dictionaries are not looked at, but for choices.

    Args:
        settings: an instance.
        group: what messages put before a name, as in ``training.``.

    Raises:
        InputError: naming the first such value, and what it must be.
    """
    for name, wanted in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        options = get_args(wanted) if get_origin(wanted) in (Union, UnionType) else (wanted,)
        if not any(_is_of(value, option) for option in options):
            rule = f"{group}{name} must be {' or '.join(_in_words(option) for option in options)}"
            raise InputError(f"{rule}, got {shown(repr(value))}")


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, which may be a choice or a list of choices."""
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is list and get_origin(get_args(kind)[0]) is Literal:
        return isinstance(value, list) and all(_is_of(one, get_args(kind)[0]) for one in value)
    if kind in (int, float):
        number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        return number and is_finite(value)
    return isinstance(value, get_origin(kind) or kind)


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) in (list, dict):
        inner = get_args(kind)[0]
        return f"a {get_origin(kind).__name__}" + (f" of {_in_words(inner)}" if get_origin(inner) is Literal else "")
    return WORDS.get(kind, f"a {kind.__name__}")


def require_kind(**parts: tuple[Any, type | tuple[type, ...]]) -> None:
    """Refuse a part ``(value, kind)`` that is not an instance of its kind, or of one of its kinds.

    Raises:
        InputError: naming the first such part, its kind and that of what was given.
    """
    for name, (value, kind) in parts.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        words = " or a ".join(one.__name__ for one in kinds)
        require(isinstance(value, kinds), f"{name} must be a {words}", type(value).__name__)


def require_network(net: Any) -> None:
    """Refuse what is neither a module nor a function, such as a name or a class.

    Raises:
        InputError: with what was given.
    """
    network = callable(net) and not isinstance(net, type)
    require(network, "net must be a torch module, or a function of the same arguments", repr(net))


def row_shape(shape: Any) -> tuple[int, ...]:
    """The shape of one row as a tuple of positive whole numbers, ``(C, *)``.

    Raises:
        InputError: if it is anything else.
    """
    try:
        sizes = () if isinstance(shape, (str, bytes)) else tuple(shape)
    except TypeError:  # a number, which may be a tensor without dimensions
        sizes = ()
    if not sizes or not all(isinstance(n, Integral) and not isinstance(n, bool) and 1 <= int(n) < 2**63 for n in sizes):
        raise InputError(f"shape must be the positive sizes of one sample, e.g. (1, 8, 8) or (2,), got {shape!r}")
    return tuple(int(n) for n in sizes)


def is_writable(text: str) -> bool:
    """Whether a text can be the name of a file and be written in UTF-8, but for bytes in names of files."""
    try:
        return b"\0" not in text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def shown(value: Any, most: int = 80) -> str:
    """A value from a file, as a message shows it: on one line, and cut if it is long.

    Text is shown as it is, unless it has characters that a terminal would not print.
    """
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def check_eta(*values: Any) -> None:
    """Refuse what is no eta of a bound.

    Raises:
        InputError: if a value is no number, or not between 1e-12 and 1e12.
    """
    rule = f"eta must be positive and between {1 / LARGEST_ETA:g} and {LARGEST_ETA:g} (the bound is infinite at 0)"
    for eta in values:
        require_number(eta=eta)
        require(1 / LARGEST_ETA <= eta <= LARGEST_ETA, rule, eta)
