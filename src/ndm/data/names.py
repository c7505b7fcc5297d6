"""The registry of data sets. A loader is registered where it is defined; its data set then has a name everywhere.

    @register("clouds", shape=(3,))
    def clouds(path: str | Path) -> Dataset: ...

A loader is a function that returns a :class:`Dataset`. It takes those of the parameters ``path``, ``size``,
``on_bad_file``, ``background``, ``columns``, ``impute`` and ``encoding`` that it uses. The user must set a parameter
that has no default value.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from ..errors import InputError
from ..support.registry import Registry
from .dataset import Dataset
from .settings import BACKGROUND, ENCODING, OnBadFile

Shape = tuple[int | None, ...]
Load = TypeVar("Load", bound=Callable[..., Dataset])


class Source(NamedTuple):
    """A loader, and the shape of its rows if it is known before the data are loaded."""

    load: Callable[..., Dataset]
    shape: Shape | None = None
    """Shape of a row. None in place of a side stands for the ``size`` that the user sets."""
    levels: int = 256
    """The number of values that an element can take, if the data are quantised."""


DATASETS = Registry[Source]("data set")
"""Every data set, by name."""


def register(name: str, shape: Shape | None = None, levels: int = 256) -> Callable[[Load], Load]:
    """A decorator that registers a function as the loader of a data set.

    Args:
        name: the data set's name.
        shape: the shape of a row, if it is known before the data are loaded. The parameters of a recipe can then be
            counted without its data. None in place of a side stands for the ``size`` that the user sets.
        levels: the number of values that an element can take, if the data are quantised.

    Raises:
        InputError: if another data set has that name.

    Example:
        >>> from ndm.data import Dataset, load_dataset, register
        >>> @register("bits", shape=(4,))
        ... def bits():
        ...     x = torch.randint(2, (100, 4), generator=torch.Generator().manual_seed(0))
        ...     return Dataset("bits", x[:80], x[80:90], x[90:], levels=2, release="fair coins, seed 0")
        >>> load_dataset("bits").shape
        (4,)
    """

    def join(load: Load) -> Load:
        DATASETS.add(name, Source(load, shape, levels))
        return load

    return join


def shape_of(name: str, size: int | None = None) -> tuple[int, ...] | None:
    """The shape of a row, without loading the data; None if it is known only from the data.

    The pictures of a folder are assumed to be in colour.
    """
    shape = DATASETS[name].shape if name in DATASETS else None
    if shape is None:
        return None
    sides = tuple(n or size or 0 for n in shape)
    return sides if all(sides) else None


def load_dataset(
    name: str,
    path: str | Path | None = None,
    size: int | None = None,
    flip: bool = False,
    on_bad_file: OnBadFile = "refuse",
    background: str = BACKGROUND,
    columns: Mapping[str, str] | None = None,
    impute: bool = False,
    encoding: str = ENCODING,
) -> Dataset:
    """Load a data set by its name.

    Args:
        name: a name of :data:`DATASETS`.
        path: the file or folder that holds the data. MNIST and CIFAR-10 are downloaded to it if they are not there.
            Without a path they are kept in the user's cache.
        size: height and width in pixels to which ``images`` resizes its pictures, or the characters of a window of
            ``text``.
        flip: mirror each training image left to right with probability 1/2.
        on_bad_file: whether ``images`` refuses a folder with pictures that cannot be used, or skips those pictures.
        background: the colour that ``images`` puts behind transparent pictures: the name of a colour or ``#rrggbb``.
        columns: the kinds of some columns of a ``table``, by name.
        impute: whether rows of a ``table`` with missing numbers are used; otherwise they are refused.
        encoding: the encoding of ``text``, or of a ``table`` in text.

    Raises:
        InputError: if the name is unknown, if the data set needs an option that is not given or is given one that it
            does not use, or if the data cannot be read.

    Example:
        >>> from ndm.data import load_dataset
        >>> load_dataset("digits").shape
        (1, 8, 8)
    """
    load = DATASETS.find(name, DATASETS.kind).load
    given = {
        "path": path,
        "size": size,
        "on_bad_file": None if on_bad_file == "refuse" else on_bad_file,
        "background": None if background == BACKGROUND else background,
        "columns": columns or None,
        "impute": impute or None,
        "encoding": None if encoding == ENCODING else encoding,
    }
    options = {option: value for option, value in given.items() if value is not None}
    known = inspect.signature(load).parameters
    for option in options:
        if option not in known:
            raise InputError(f"the data set {name} has no {option}; leave it out")
    for option in given:
        if option in known and known[option].default is inspect.Parameter.empty and option not in options:
            raise InputError(f"the data set {name} needs {option}; set it")
    dataset = load(**options)
    if flip and len(dataset.shape) != 3:
        raise InputError(f"the data set {name} holds no images to flip; leave flip out")
    return replace(dataset, flip=flip)
