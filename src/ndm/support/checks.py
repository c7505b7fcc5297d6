"""Checks of settings. An error message is one line with the setting, its rule and the given value."""

from __future__ import annotations

from typing import Any

from ..errors import InputError


def require(condition: bool, rule: str, value: Any) -> None:
    """Refuse a value that breaks a rule.

    Raises:
        InputError: if ``condition`` is False; the message is the rule and the value.
    """
    if not condition:
        raise InputError(f"{rule}, got {value}")
