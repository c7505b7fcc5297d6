"""Whether plain values that were read from a file fit the constructor that they are for.

The annotations of the constructor say what fits. Only this package's own classes are asked, because other code may
annotate more loosely; their counts are bounded, because a loop over a count of 10^9 would not end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from ..errors import InputError
from .checks import shown

BOUNDS = {"levels": 2**20, "fourier": 64}
"""The largest number of levels of an element, and exponent k of a frequency 2^k: the size of a file bounds neither."""


def check_arguments(cls: type, arguments: Mapping[str, Any], largest: int) -> None:
    """Refuse arguments of a constructor of this package that are of a wrong kind, not finite or too large.

    Args:
        largest: the largest whole number, but for those of ``BOUNDS``.

    Raises:
        InputError: naming the class, the argument, its value and its kind.
    """
    if not is_own(cls):
        return
    hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    for name, value in arguments.items():
        bound = BOUNDS.get(name, largest)
        if name in hints and not fits(value, hints[name], bound):
            kind = getattr(hints[name], "__name__", None) or str(hints[name]).replace("typing.", "")
            raise InputError(
                f"{cls.__name__} takes no {name}={shown(value)}: it must be {kind}, finite and at most {bound:,}"
            )


def is_own(cls: type) -> bool:
    """Whether a class is of this package."""
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def fits(value: Any, hint: Any, largest: int) -> bool:
    """Whether a value is of the kind of an annotation; whole numbers may be at most ``largest``.

    A class stands for an object of it that is not built yet, and ``Any`` for one of which nothing is known.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or value is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, one, largest) for one in arguments)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in arguments)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, (list, tuple)) and all(fits(one, arguments[0], largest) for one in value)
    if hint is Tensor:
        inner = value if isinstance(value, list) else [value]
        return all(fits(one, Tensor if isinstance(one, list) else float, largest) for one in inner)
    if hint is bool:
        return isinstance(value, bool) or value in (0, 1)
    if isinstance(value, bool):
        return hint in (int, float)  # Python takes truth values for 0 and 1
    if hint is int:
        return isinstance(value, int) and abs(value) <= largest
    if hint is float:
        return isinstance(value, (int, float)) and abs(value) < 1e300 and math.isfinite(value)
    if isinstance(value, type):
        return not isinstance(hint, type) or issubclass(value, hint)
    return not isinstance(hint, type) or isinstance(value, hint)
