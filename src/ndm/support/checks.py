"""Checks of settings: one line that names the setting, its rule and what was given."""

from __future__ import annotations

from typing import Any

from ..errors import InputError


def require(condition: bool, rule: str, value: Any) -> None:
    """Refuse a value that does not fit.

    Raises:
        InputError: saying the rule and the value.
    """
    if not condition:
        raise InputError(f"{rule}, got {value}")


def shown(value: Any, most: int = 80) -> str:
    """A value from a file, as a message shows it: on one line, and cut if it is long.

    Text is shown as it is, unless it has characters that a terminal would not print.
    """
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."
