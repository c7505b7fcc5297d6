"""Checks of settings and arguments. An error message is one line with the name, the rule and the given value."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from ..errors import InputError


def require(condition: bool, rule: str, value: Any) -> None:
    """Refuse a value that breaks a rule.

    Raises:
        InputError: if ``condition`` is False; the message is the rule and the value.
    """
    if not condition:
        raise InputError(f"{rule}, got {value}")


def require_count(least: int = 1, **values: Any) -> None:
    """Refuse values that are not whole numbers (2.5, "3", True), or are below ``least``.

    Raises:
        InputError: naming the first such value.
    """
    for name, value in values.items():
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        require(whole and value >= least, f"{name} must be a whole number and at least {least}", repr(value))


def require_number(**values: Any) -> None:
    """Refuse values that are not finite real numbers ("7", None, NaN).

    Raises:
        InputError: naming the first such value.
    """
    for name, value in values.items():
        number = isinstance(value, Real) and not isinstance(value, bool)
        require(number and math.isfinite(value), f"{name} must be a finite number", repr(value))


def require_rate(**values: Any) -> None:
    """Refuse values that are not in [0, 1).

    Raises:
        InputError: naming the first such value.
    """
    require_number(**values)
    for name, value in values.items():
        require(0 <= value < 1, f"{name} must be in [0, 1)", value)


def require_kind(**parts: tuple[Any, type]) -> None:
    """Refuse a part ``(value, kind)`` that is not an instance of its kind.

    Raises:
        InputError: naming the first such part, its kind and that of what was given.
    """
    for name, (value, kind) in parts.items():
        require(isinstance(value, kind), f"{name} must be a {kind.__name__}", type(value).__name__)


def row_shape(shape: Any) -> tuple[int, ...]:
    """The shape of one row as a tuple of positive whole numbers, ``(C, *)``.

    Raises:
        InputError: if it is anything else.
    """
    sizes = tuple(shape) if isinstance(shape, Iterable) and not isinstance(shape, str) else ()
    if not sizes or not all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= 1 for n in sizes):
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
