"""What a model of a table needs to know of its columns: numbers, and no names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .column import Column
from .relations import Relation


class Layout(NamedTuple):
    """The columns of a model of rows: numbers first, and then symbols."""

    cells: Sequence[float]
    """The width of the cell of each number, 0 for a number that is not rounded."""
    alphabets: Sequence[int] = ()
    """How many symbols each of the other columns has."""
    grids: Sequence[float] | None = None
    """The step of the grid on which each number was recorded, also if it has a density; None if these are the cells."""
    spikes: Sequence[Sequence[float]] | None = None
    """For each number the only values that have cells; empty if all have; None if that holds for all."""
    missing: Sequence[Sequence[int]] | None = None
    """For each number the position of the alphabet that says whether it is missing, and its codes that say so; empty
    for a number that is never missing; None if that holds for all."""


def layout_of(columns: Sequence[Column], indicators: Mapping[str, str], relations: Sequence[Relation]) -> Layout:
    """The layout of a model.

    Args:
        columns: the model's columns, the numeric ones first.
        indicators: by the name of a numeric column, the name of the column that says where it is missing.
        relations: how columns that are left out follow from the others.
    """
    numbers = [column for column in columns if column.numeric]
    symbols = [column for column in columns if not column.numeric]
    cells = [column.step or column.width for column in numbers]
    grids = [cell or (column.grid.step if column.grid else 0.0) for cell, column in zip(cells, numbers, strict=True)]
    places = {column.name: place for place, column in enumerate(symbols)}
    sources = {relation.name: relation for relation in relations}

    def values(name: str) -> tuple[int, np.ndarray]:
        """The alphabet from which a category follows, and the category for each of its codes."""
        if name in places:
            return places[name], np.arange(len(symbols[places[name]].values))
        relation = sources[name]
        alphabet, codes = values(relation.others[0])
        return alphabet, np.array(relation.values)[codes.astype(np.int64)] if relation.values else codes

    missing: list[list[int]] = []
    for column in numbers:
        missing.append([])
        if column.name in indicators:
            alphabet, flags = values(indicators[column.name])
            missing[-1] = [alphabet, *np.flatnonzero(flags == 1).tolist()]
    alphabets = [len(column.values) for column in symbols]
    return Layout(cells, alphabets, grids, [list(column.spikes) for column in numbers], missing)
