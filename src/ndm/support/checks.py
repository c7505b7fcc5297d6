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
