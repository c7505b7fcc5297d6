"""Results: every figure is finite, every record is strict JSON, and a result that cannot be kept is still shown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..support.files import check_writable
from ..support.journal import append_line
from ..support.progress import warn


def check_finite(record: dict[str, Any]) -> None:
    """Refuse a record with a figure that is not finite.

    Raises:
        InputError: naming the first such figure, and the likely remedy.
    """
    for name, value in figures(record):
        if not math.isfinite(value):
            raise InputError(
                f"the result has no value, because {name} is {value}: the model's weights are not finite, or the "
                "computation leaves the range of numbers; try --dtype float64 or an earlier checkpoint (--checkpoint "
                "best), or train again with a smaller training.learning_rate"
            )


def figures(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of a nested record, each with its place in it, e.g. ``estimates, bound, T=10, bpd``."""
    if isinstance(value, float):
        yield name, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from figures(item, f"{name}, {key}" if name else str(key))
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            named = item.get("estimator", item.get("name", number)) if isinstance(item, dict) else number
            yield from figures(item, f"{name}, {named}")


def without_infinities(record: dict[str, Any]) -> dict[str, Any]:
    """A flat record in which None, which is JSON, takes the place of numbers that are not finite."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def as_json(record: dict[str, Any]) -> str:
    """A record as indented, strict JSON."""
    return json.dumps(record, indent=2, allow_nan=False)


def warn_unless_writable(folder: Path) -> bool:
    """Say at the start that a result will be printed only, if the folder that should keep it cannot be written.

    Returns:
        Whether the folder can be written.
    """
    try:
        check_writable(folder)
    except InputError as error:
        warn(f"{error}, so the result will only be printed")
        return False
    return True


def keep_result(path: Path, record: dict[str, Any]) -> bool:
    """Append a result to a file. If that fails, warn with one line, because the result itself is still to be shown.

    Returns:
        Whether the result is kept.

    Raises:
        ValueError: if the record is not strict JSON; see :func:`check_finite`.
    """
    as_json(record)
    try:
        append_line(path, record)
    except (OSError, InputError) as error:
        warn_not_written(path, error)
        return False
    return True


def warn_not_written(path: Path, error: Exception) -> None:
    """Say in one line that a file could not be written."""
    warn(f"{path} could not be written ({getattr(error, 'strerror', None) or error})")
