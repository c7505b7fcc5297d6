"""What must hold between the parts of a schema that was read from a file."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError
from ..support.checks import require, shown
from .cells import NAMES, is_zone
from .column import DAY, SECOND, Column
from .relations import Relation


def check_columns(columns: Sequence[Column], indicators: Sequence[Column]) -> None:
    """Refuse columns that no training rows have.

    Raises:
        InputError: naming the column.
    """
    parts = [*columns, *indicators]
    require(bool(columns), "the table must have columns", "none")
    for column in parts:
        name = shown(column.name)
        same = sum(other.name == column.name for other in parts)
        require(same == 1, f"column {name} must be there once", f"{same} times")
        kind = column.type
        require(kind.name in NAMES, f"the type of column {name} must be known", shown(kind.name))
        require(
            kind.unit in ("s", "ms", "us", "ns"), f"the unit of the times of column {name} must be known", kind.unit
        )
        require(kind.zone is None or is_zone(kind.zone), f"the zone of column {name} must be known", shown(kind.zone))
        require(column.unit in (SECOND, DAY), f"column {name} must be in seconds or days", column.unit)
        require(column.step >= 0, f"the step of column {name} must not be negative", column.step)
        require(column.low <= column.high, f"the lowest value of column {name} must be the lowest", column.low)
        require(not column.grid or column.grid.step > 0, f"the grid of column {name} must have a step", column.grid)
        rising = list(column.spikes) == sorted(set(column.spikes)) and column.width >= 0
        fits = rising and bool(column.spikes) == (column.width > 0)
        require(fits, f"the frequent values of column {name} must be rising and have cells", column.spikes)
        values = column.values
        alike = len({(isinstance(value, bool), value) for value in values}) == len(values)
        require(alike, f"the values of column {name} must differ", shown(repr(values)))
        if column.numeric:
            rising = all(isinstance(v, float) for v in values) and list(values) == sorted(values)  # type: ignore[type-var]
            require(rising, f"the values of column {name} must be rising numbers", shown(repr(values)))
        else:
            require(bool(values), f"column {name} must have values", "none")
            require(
                None not in values[:-1], f"the missing value of column {name} must be the last", shown(repr(values))
            )
    for column in indicators:
        of = [other for other in columns if other.numeric and column.name.startswith(f"{other.name} ")]
        require(bool(of) and column.values == (False, True), "an indicator must be one of a number", shown(column.name))


def check_relations(relations: Sequence[Relation], columns: Sequence[Column]) -> None:
    """Refuse relations that cannot be computed in their order.

    Raises:
        InputError: naming the relation's column.
    """
    names = {column.name for column in columns}
    out = [relation.name for relation in relations]
    for number, relation in enumerate(relations):
        name = shown(relation.name)
        unknown = [other for other in (relation.name, *relation.others) if other not in names]
        require(not unknown, f"the relation of column {name} must be between known columns", shown(unknown))
        later = [other for other in relation.others if other in out[number:]]
        terms = (len(relation.others), len(relation.coefficients))
        fits = terms == ((1, 0) if relation.values else (terms[0], terms[0]))
        if later or relation.name in out[:number] or not fits:
            raise InputError(f"the relation of column {name} cannot be computed")
    if len(out) == len(names):
        raise InputError("all columns are left out")
