"""Registries of parts by name. Every kind of part has one, and a part is registered where it is defined.

    SCHEDULES = Registry[type["Schedule"]]("schedule")

    @SCHEDULES.register("linear")
    class LinearSchedule(Schedule): ...

    SCHEDULES.find("linear")    # the class; the error message for an unknown name lists all names

The command line, recipes and saved models find parts only here. A name in a file is only looked up; it never causes an
import.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from ..errors import InputError

T = TypeVar("T")
Part = TypeVar("Part")


OWN = "if it is your own, run the file that registers it in the place of ndm, as in python FILE evaluate RUN"
"""What a command needs that meets the name of a part that it does not know."""
CLASSES: dict[str, type] = {}
"""All registered classes of all kinds by their class names, which saved models use."""


def savable(cls: type[T]) -> type[T]:
    """A decorator for a class that a saved model may name. Classes in a registry need no decorator.

    Raises:
        InputError: if another class of that name is already registered.
    """
    if CLASSES.get(cls.__name__, cls) is not cls:
        raise InputError(f"there is already a registered class {cls.__name__}; choose another name")
    CLASSES[cls.__name__] = cls
    return cls


class Registry(Mapping[str, T]):
    """The parts of one kind by name, in the order in which they were registered.

    Args:
        kind: the word for a part in error messages, e.g. ``"schedule"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._parts: dict[str, T] = {}

    def register(self, name: str) -> Callable[[Part], Part]:
        """A decorator that registers a class or a function under ``name``.

        Raises:
            InputError: if the name, or the class's own name, is already taken by another part.
        """

        def join(part: Part) -> Part:
            self.add(name, part)  # type: ignore[arg-type]
            return part

        return join

    def add(self, name: str, part: T) -> None:
        """Register a part under a name; see :meth:`register`."""
        if name in self._parts:
            raise InputError(f"there is already a {self.kind} named {name!r}; choose another name")
        if isinstance(part, type):
            savable(part)
        self._parts[name] = part

    def find(self, name: str, setting: str = "") -> T:
        """The part of that name.

        Args:
            name: the name under which the part is registered.
            setting: the setting that holds the name, for the error message: ``"model.schedule"``. The message then also
                says how a command gets to know the user's own parts.

        Raises:
            InputError: if there is no such part; the message has the most similar name and all names.
        """
        if name in self._parts:
            return self._parts[name]
        error = unknown(setting or self.kind, name, self._parts)
        raise InputError(f"{error}; {OWN}") if setting else error

    def __getitem__(self, name: str) -> T:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not among ``known``, with the most similar name and all names."""
    names = list(known)
    similar = difflib.get_close_matches(str(name), names, n=1)
    guess = f"did you mean {similar[0]!r}? " if similar else ""
    return InputError(f"unknown {kind} {name!r}; {guess}choose one of {', '.join(names)}")
