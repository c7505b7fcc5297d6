"""The schema of a table: what its columns hold, how rows become numbers for a model, and how these come back.

The model's columns are the numeric ones first, each in its own unit, and then the categories as codes 0..V-1. Columns
that the others determine are left out of the model (:mod:`ndm.tables.relations`). A number that is missing is filled
with the median, which stands for any number, and a category column ``NAME missing`` says where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ..errors import InputError, printable
from ..support.checks import require_kind, shown
from .align import aligned
from .cells import Type
from .column import UNKNOWN, Column
from .detect import Note, detect
from .frame import KINDS, Frame
from .kinds import chosen_kinds
from .layout import Layout, layout_of
from .plain import built
from .relations import Relation, constants_and_copies, functions_of_categories, linear_relations
from .sound import check_columns, check_relations

Unknown = Literal["refuse", "odd"]
MISSING = " missing"
"""What the name of the column that says where a value is missing ends with."""


@dataclass(frozen=True)
class Schema:
    """What the columns of a table hold.

    Attributes:
        columns: one per column of the table, in its order.
        indicators: the category columns that say where a numeric column has missing values.
        relations: the columns that are left out, in an order in which they can be computed.
        source: the kind of the table, as in :class:`~ndm.tables.frame.Frame`.
        notes: what was found.
    """

    columns: tuple[Column, ...]
    indicators: tuple[Column, ...]
    relations: tuple[Relation, ...]
    source: str
    notes: tuple[Note, ...] = ()

    @classmethod
    def fit(cls, frame: Frame, columns: Mapping[Any, Any] | None = None, impute: bool = False) -> Schema:
        """Find out what the columns of a table hold.

        Args:
            frame: the training rows.
            columns: the kinds (real, quantised, count, date, category) of some columns, by name or position.
            impute: leave missing numbers and dates open, and add a column that says where they are.

        Raises:
            InputError: if a column cannot be used, has missing numbers without ``impute``, or if all are constant.

        Example:
            >>> from ndm.tables import Frame, Schema
            >>> schema = Schema.fit(Frame.of([[1.5, "a"], [2.5, "b"], [4.5, "a"]]))
            >>> schema.numeric, schema.categories
            ((('x0', 1.0),), (('x1', 2),))
        """
        chosen = chosen_kinds(columns, frame.names)
        detected = [detect(name, array, type, chosen.get(name)) for name, array, type in frame]
        found = [column for column, _ in detected]
        notes = [note for _, more in detected for note in more]
        x = {column.name: column.encode(array) for column, array in zip(found, frame.columns, strict=True)}
        missing = {name: np.isnan(values) for name, values in x.items()}
        if not impute:
            refuse_missing(missing, "fill them, leave these rows out, or set impute=True")
        indicators = []
        for i, column in enumerate(found):
            if impute and column.numeric:
                where = missing[column.name]
                fill = float(column.snap(np.array([np.median(x[column.name][~where])]))[0])
                found[i] = replace(column, fill=fill)
                if where.any():
                    indicators.append(_indicator(column.name, frame.names))
                    x[column.name] = np.where(where, fill, x[column.name])
                    x[indicators[-1].name] = where.astype(np.float64)
                    text = f"has {int(where.sum())} missing values, which are left open"
                    notes.append(Note(column.name, f"{text}; {indicators[-1].name} says where"))
        parts = [*found, *indicators]
        relations = constants_and_copies(x, {c.name: (c.kind == "category", c.unit, c.origin, c.values) for c in parts})
        out = {relation.name for relation in relations}
        if len(out) == len(parts):
            raise InputError(
                f"all columns are constant in the training rows (n_samples = {len(frame)}); give rows that differ"
            )
        whole = {c.name for c in found if c.numeric and not (c.fill is not None and missing[c.name].any())} - out
        linear, near = linear_relations({name: v for name, v in x.items() if name in whole})
        out |= {relation.name for relation in linear}
        categories = {c.name: len(c.values) for c in parts if not c.numeric and c.name not in out}
        left = {*whole, *categories} - out  # without the linear ones
        rest = {name: v for name, v in x.items() if name in left}
        relations = [*functions_of_categories(rest, categories), *linear, *relations]
        notes += [Note(r.name, f"{r.text}; it is left out and put back") for r in relations]
        notes += [Note(n, f"is within {d:.1g} deviations of a linear combination of others; kept") for n, d in near]
        order = {part.name: i for i, part in enumerate(parts)}
        notes.sort(key=lambda note: order[note.column])
        return cls(tuple(found), tuple(indicators), tuple(relations), frame.kind, tuple(notes))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the table's columns."""
        return tuple(column.name for column in self.columns)

    @property
    def model_columns(self) -> tuple[Column, ...]:
        """The model's columns in its order."""
        out = {relation.name for relation in self.relations}
        kept = [column for column in (*self.columns, *self.indicators) if column.name not in out]
        return (*(c for c in kept if c.numeric), *(c for c in kept if not c.numeric))

    @property
    def numeric(self) -> tuple[tuple[str, float], ...]:
        """Name and step of each numeric column of the model; the step of a column with a density is 0."""
        return tuple((column.name, column.step) for column in self.model_columns if column.numeric)

    @property
    def categories(self) -> tuple[tuple[str, int], ...]:
        """Name and number of values of each category column of the model."""
        return tuple((column.name, len(column.values)) for column in self.model_columns if not column.numeric)

    @property
    def layout(self) -> Layout:
        """What the model needs to know of its columns."""
        indicators = {column.name.removesuffix(MISSING): column.name for column in self.indicators}
        return layout_of(self.model_columns, indicators, self.relations)

    def encode(self, frame: Frame, unknown: Unknown = "refuse") -> np.ndarray:
        """Rows as the model's numbers.

        Args:
            frame: rows of the same columns. Those of a dataframe may be in another order.
            unknown: whether categories that the training rows do not have are refused, or become the code -1 ("odd").
                Numbers that are missing in a column without an indicator are always refused.

        Returns:
            float64 of shape ``(N, n)``.

        Raises:
            InputError: if columns are missing, additional, or hold something else than in the training rows.
        """
        if unknown not in ("refuse", "odd"):
            raise InputError(f"unknown must be refuse or odd, got {shown(unknown)}")
        frame = self._aligned(frame)
        x, missing = self._numbers(frame, [c.name for c in self.model_columns])
        indicated = {column.name for column in self.indicators}
        names = {c.name: c.name + MISSING for c in self.model_columns if c.numeric}
        refuse_missing(
            {name: missing[name] for name, indicator in names.items() if indicator not in indicated},
            "no training row has one there; fill them or leave these rows out",
        )
        if unknown == "refuse":
            for column in self.model_columns:
                if not column.numeric and column.name in self.names:
                    self._refuse_unknown(column, x[column.name], frame)
        return np.stack([x[column.name] for column in self.model_columns], 1)

    def missing_numbers(self, frame: Frame) -> np.ndarray:
        """Which numbers of the model are missing in rows, bool of shape ``(N, numbers)``."""
        frame = self._aligned(frame)
        numbers = [column for column in self.model_columns if column.numeric]
        found = [np.isnan(column.encode(frame.column(column.name))) for column in numbers]
        return np.stack(found, 1) if found else np.zeros((len(frame), 0), bool)

    def violations(self, frame: Frame) -> np.ndarray:
        """Whether a row is impossible by the training rows, bool of shape ``(N,)``: see :meth:`broken`."""
        return np.any(list(self.broken(frame).values()), axis=0)

    def broken(self, frame: Frame) -> dict[str, np.ndarray]:
        """Whether a row is impossible by the training rows because of a column, bool of shape ``(N,)``, by column.

        It is if it has a category that they do not have, a number beside the grid of a discrete column, another value
        in a constant column, breaks the relation that gives a column, or has a missing number in a column where they
        have none.

        Raises:
            InputError: as :meth:`encode` does, but not for these rows.
        """
        frame = self._aligned(frame)
        x, missing = self._numbers(frame, [column.name for column in (*self.columns, *self.indicators)])
        indicated = {column.name for column in self.indicators}
        broken = {}
        for column in self.columns:
            broken[column.name] = np.zeros(len(frame), bool)
            if column.numeric:
                broken[column.name] |= column.off_grid(x[column.name])
                if column.name + MISSING not in indicated:
                    broken[column.name] |= missing[column.name]
            else:
                broken[column.name] |= x[column.name] == UNKNOWN
        for relation in self.relations:
            broken[relation.name] = broken.get(relation.name, False) | relation.broken(x)
        return broken

    def widened(self, frame: Frame) -> Schema:
        """The schema whose discrete columns reach to the ends of more rows, so that these come back.

        Args:
            frame: rows that break nothing; see :meth:`violations`.

        Raises:
            InputError: if a column of a few values without a grid has another value, which could not come back.
        """
        frame, columns = self._aligned(frame), []
        for column in self.columns:
            if column.numeric:
                x = column.encode(frame.column(column.name))
                new = x[~(np.isnan(x) | np.isin(x, np.array(column.values, float)))] if column.values else x[:0]
                if len(new):
                    raise InputError(
                        f"column {column.name} holds {new[0]:g}, which the first rows lack; set warm_start=False"
                    )
                low, high = np.fmin.reduce(x, initial=column.low), np.fmax.reduce(x, initial=column.high)
                column = replace(column, low=float(low), high=float(high))
            columns.append(column)
        return replace(self, columns=tuple(columns))

    def decode(self, array: np.ndarray) -> Frame:
        """The table that the model's numbers stand for.

        Numbers are put on their grids and in the observed range where the column is discrete; columns that were left
        out are computed; where an indicator is set, the value is missing.

        Args:
            array: real numbers of shape ``(N, n)``, as :meth:`encode` gives them.

        Raises:
            InputError: if the array is of another shape, or holds NaN.
        """
        array = np.asarray(array, np.float64)
        model = self.model_columns
        if array.ndim != 2 or array.shape[1] != len(model):
            raise InputError(f"the array must have shape (rows, {len(model)}), got {array.shape}")
        if np.isnan(array).any():
            raise InputError("the array holds NaN; decode finite numbers")
        x = {column.name: column.snap(array[:, j]) for j, column in enumerate(model)}
        parts = {column.name: column for column in (*self.columns, *self.indicators)}
        for relation in self.relations:
            x[relation.name] = parts[relation.name].snap(relation.value(x, len(array)))
        for indicator in self.indicators:
            name = indicator.name.removesuffix(MISSING)
            x[name] = np.where(x[indicator.name] == 1, np.nan, x[name])
        arrays = tuple(column.decode(x[column.name]) for column in self.columns)
        return Frame(self.names, arrays, tuple(column.type for column in self.columns), self.source)

    def describe(self) -> str:
        """What was found, as a small table with a line per column and a line per note."""
        out = {relation.name: relation for relation in self.relations}
        lines = [("column", "kind", "in the model as")]
        for column in (*self.columns, *self.indicators):
            how = f"{len(column.values)} categories" if not column.numeric else "density"
            if column.numeric and column.step:
                how = f"cells of {column.step:.6g}{_unit(column)} from {column.low:.6g} to {column.high:.6g}"
            lines.append((column.name, column.kind, "left out" if column.name in out else how))
        first, second = (max(len(line[i]) for line in lines) for i in (0, 1))
        table = [f"{a:<{first}}  {b:<{second}}  {c}" for a, b, c in lines]
        return "\n".join(map(printable, [*table, *(f"{note.column} {note.text}" for note in self.notes)]))

    def to_json(self) -> dict[str, Any]:
        """Plain values, for strict JSON, which :meth:`from_json` reads."""
        return {
            "version": 1,
            "source": self.source,
            "columns": [column.to_json() for column in self.columns],
            "indicators": [column.to_json() for column in self.indicators],
            "relations": [relation.to_json() for relation in self.relations],
            "notes": [list(note) for note in self.notes],
        }

    @classmethod
    def from_json(cls, value: Any) -> Schema:
        """The schema that :meth:`to_json` wrote.

        Raises:
            InputError: if it is no such value.
        """
        try:
            if value["version"] != 1:
                raise InputError(f"the schema of the table has version {shown(value['version'])}, and this ndm reads 1")
            columns, indicators = (tuple(map(Column.from_json, value[name])) for name in ("columns", "indicators"))
            check_columns(columns, indicators)
            relations = tuple(built(Relation, relation) for relation in value["relations"])
            check_relations(relations, (*columns, *indicators))
            if value["source"] not in KINDS:
                raise InputError(f"the schema is of a table of {shown(value['source'])}, which is unknown")
            notes = tuple(built(Note, note) for note in value["notes"])
            return cls(columns, indicators, relations, value["source"], notes)
        except InputError as error:
            raise InputError(f"{error}; restore the schema, or train again") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"the schema of the table is damaged ({shown(str(error))}); train again") from None

    def _aligned(self, frame: Frame) -> Frame:
        require_kind(frame=(frame, Frame))
        return aligned(frame, self.names, self.source)

    def _numbers(self, frame: Frame, names: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Numbers and codes of the columns, with missing numbers filled, and where these are."""
        x: dict[str, np.ndarray] = {}
        missing: dict[str, np.ndarray] = {}
        base = {name.removesuffix(MISSING) for name in names if name not in frame.names}
        for column in self.columns:
            if column.name in names or column.name in base:
                x[column.name] = column.encode(frame.column(column.name))
                missing[column.name] = np.isnan(x[column.name])
                fill = column.low if column.fill is None else column.fill
                x[column.name] = np.where(missing[column.name], fill, x[column.name])
        for indicator in self.indicators:
            if indicator.name in names:
                x[indicator.name] = missing[indicator.name.removesuffix(MISSING)].astype(np.float64)
        return x, missing

    def _refuse_unknown(self, column: Column, codes: np.ndarray, frame: Frame) -> None:
        rows = np.flatnonzero(codes == UNKNOWN)
        if len(rows):
            value = frame.column(column.name)[rows[:1]].tolist()[0]
            many = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
            raise InputError(
                f"column {column.name} holds {shown(value, 40)} in row {rows[0]}{many}, which no training row has; "
                "leave these rows out, or score them as impossible with unknown='odd'"
            )


def _indicator(name: str, names: Sequence[str]) -> Column:
    if name + MISSING in names:
        raise InputError(f"the table has a column {name + MISSING!r}, which impute=True would add; rename it")
    return Column(name + MISSING, "category", Type("bool"), values=(False, True))


def _unit(column: Column) -> str:
    return "" if column.kind != "date" else " s" if column.unit == 1_000_000 else " days"


def refuse_missing(missing: Mapping[str, np.ndarray], remedy: str) -> None:
    """Refuse missing numbers.

    Raises:
        InputError: with the columns, how often each has none, and the first row that has none somewhere.
    """
    counts = {name: int(where.sum()) for name, where in missing.items() if where.any()}
    if counts:
        listed = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:10])
        more = f" and {len(counts) - 10} more" if len(counts) > 10 else ""
        first = int(np.flatnonzero(np.any(list(missing.values()), axis=0))[0])
        where = f"in column(s) {listed}{more}, first in row {first} (counted from 0)"
        raise InputError(f"Input contains NaN or missing values {where}; {remedy}")
