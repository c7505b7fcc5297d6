"""The kinds of columns, and the user's choice of them by name or position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral
from typing import Any, Literal, get_args

from ..errors import InputError
from ..support.checks import shown

Kind = Literal["real", "quantised", "count", "date", "category"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def chosen_kinds(columns: Mapping[Any, Any] | None, names: Sequence[str]) -> dict[str, Kind]:
    """The kinds that the user chose, by the names of columns.

    Args:
        columns: kinds by names, or by positions from 0.
        names: the names of all columns.

    Raises:
        InputError: if a name, a position or a kind is unknown, or a column is chosen twice.
    """
    if columns is None:
        return {}
    if not isinstance(columns, Mapping):
        raise InputError(f"columns must map names of columns to kinds, got {shown(columns)}")
    found: dict[str, Kind] = {}
    for key, kind in columns.items():
        name = _name(key, names)
        if kind not in KINDS:
            raise InputError(f"the kind {shown(kind)} of column {name} is unknown{_near(kind, KINDS)}")
        if name in found:
            raise InputError(f"column {name} is given a kind twice; leave one out")
        found[name] = kind
    return found


def _name(key: Any, names: Sequence[str]) -> str:
    if isinstance(key, Integral) and not isinstance(key, bool):
        if not -len(names) <= int(key) < len(names):
            raise InputError(f"there is no column {key}; the positions are 0 to {len(names) - 1}")
        return names[int(key)]
    if key not in names:
        raise InputError(f"there is no column {shown(key)}{_near(key, names)}")
    return str(key)


def _near(word: Any, known: Sequence[str]) -> str:
    """The end of a message about an unknown word."""
    near = get_close_matches(str(word), known, 1)
    listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return f"; did you mean {near[0]}?" if near else f"; known are {listed}"
