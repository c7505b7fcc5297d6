"""Tables: marginals and pairs of columns, data beside samples, and the oddest rows."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from ..scoring import TableModel
from ..scoring.explain import CHECKED, POINTS
from ..scoring.model import Scores
from ..tables import Column, Schema
from ..tables.schema import MISSING
from .charts import frame_of, scatter_chart, shares_chart, short, steps_chart
from .html import Html, element, figure, joined, note, side_by_side, table
from .subject import Subject

COLUMNS, PAIRS, CATEGORIES, BINS = 12, 4, 10, 30
"""The most columns and pairs that are drawn, the most categories of a column, and the bins of a histogram."""
SCORED, ODDEST, SHOWN = 100, 5, 12
"""The number of test rows that are scored, how many of them are shown, and the most columns that are shown."""
EXPLAINED = 400
"""The most log-densities that are computed to explain odd rows."""
LONGEST = 30
"""The most letters of a cell."""
YEAR = 365.2425 * 86_400_000_000
"""Microseconds."""


def schema_of(subject: Subject) -> Schema:
    """The schema of a subject that is a table."""
    assert subject.dataset.schema is not None
    return subject.dataset.schema


def both(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """Test rows and samples as numbers of the model's columns, ``(N, n)``; a missing number is NaN.

    Raises:
        InputError: if there are no test rows.
    """
    schema = schema_of(subject)
    drawn = schema.encode(schema.decode(subject.samples.numpy()), unknown="odd")
    found = []
    for x in (subject.test(1000).numpy().astype(np.float64), drawn):
        x = x.copy()
        places = {column.name: place for place, column in enumerate(schema.model_columns)}
        for name, place in places.items():
            if name + MISSING in places:
                x[x[:, places[name + MISSING]] == 1, place] = np.nan
        found.append(x)
    return found[0], found[1]


def marginals(subject: Subject) -> Html:
    """The distribution of every column among test rows and among samples."""
    test, drawn = both(subject)
    columns, names = schema_of(subject).model_columns, ["test rows", "samples"]
    parts = []
    for place, column in enumerate(columns[:COLUMNS]):
        label = f"{column.name}, test rows and samples"
        if column.numeric:
            pair = [values[np.isfinite(values)] for values in (numbers_of(column, x[:, place]) for x in (test, drawn))]
            edges = edges_of(pair[0], column)
            heights = [(np.histogram(values, edges)[0] / max(len(values), 1)).tolist() for values in pair]
            chart = steps_chart(heights, edges.tolist(), names, unit_of(column), label)
            words = f"{column.name} ({column.kind}): mean {short(pair[0].mean())} and {short(pair[1].mean())}."
        else:
            shares = [
                np.bincount(x[:, place].astype(int), minlength=len(column.values)) / len(x) for x in (test, drawn)
            ]
            order = np.argsort(-shares[0], kind="stable")[:CATEGORIES]
            values = [str(column.values[code]) for code in order]
            chart = shares_chart(values, [part[order].tolist() for part in shares], names, label)
            more = len(column.values) - len(order)
            words = f"{column.name} (category)" + (f", without {more} rarer categories." if more else ".")
        parts.append(figure(chart, words))
    words = f"{len(test):,} test rows, and {len(drawn):,} samples by {subject.how_sampled}."
    if len(columns) > COLUMNS:
        words += f" The first {COLUMNS} of {len(columns)} columns of the model are drawn."
    return joined([side_by_side(*parts), note(words)])


def numbers_of(column: Column, values: np.ndarray) -> np.ndarray:
    """The numbers of a column, NaN where one is missing; dates are years."""
    return 1970 + (column.origin + values * column.unit) / YEAR if column.kind == "date" else values


def unit_of(column: Column) -> str:
    """The name of an axis of a column."""
    return f"{column.name}, year" if column.kind == "date" else column.name


def edges_of(values: np.ndarray, column: Column) -> np.ndarray:
    """The edges of bins around values; where a column has few values, a bin for each."""
    low, high = frame_of(values)
    if column.step and column.kind != "date" and (column.high - column.low) / column.step <= 2 * BINS:
        edges = np.arange(column.low - column.step / 2, column.high + column.step, column.step)
        if len(edges) > 1 and (np.diff(edges) > 0).all():  # a step is lost beside a large number
            return edges
    return np.linspace(low, high, BINS + 1)


def pairs(subject: Subject) -> Html:
    """The most correlated pairs of numbers, test rows and samples side by side."""
    test, drawn = both(subject)
    drawn = drawn[: len(test)]
    numeric = [(place, column) for place, column in enumerate(schema_of(subject).model_columns) if column.numeric]
    if len(numeric) < 2:
        return note("The table has fewer than two columns of numbers, so there are no pairs to draw.")
    found = sorted(combinations(numeric, 2), key=lambda pair: -abs(correlation(test, pair[0][0], pair[1][0])))
    parts = []
    for (i, first), (j, second) in found[:PAIRS]:
        groups = [np.stack([numbers_of(first, x[:, i]), numbers_of(second, x[:, j])], 1) for x in (test, drawn)]
        axes, label = (unit_of(first), unit_of(second)), f"{first.name} and {second.name}"
        words = [f"correlation {correlation(x, i, j):.2f}" for x in (test, drawn)]
        left = scatter_chart(groups[:1], ["test rows"], *axes, f"{label}, test rows")
        right = scatter_chart([groups[0][:0], groups[1]], ["", "samples"], *axes, f"{label}, samples", like=groups[0])
        pair = figure(left, f"Test rows: {words[0]}."), figure(right, f"Samples: {words[1]}.")
        parts.append(element("div", *pair, class_="twins"))
    about = f"These pairs have the largest correlation among test rows: {min(PAIRS, len(found))} of {len(found)}."
    return joined([element("div", *parts, class_="pairs"), note(about)])


def correlation(x: np.ndarray, i: int, j: int) -> float:
    """The correlation of two columns over rows in which both are known; 0 if one is constant."""
    a, b = x[np.isfinite(x[:, [i, j]]).all(1)][:, [i, j]].T
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0


def oddest(subject: Subject) -> Html:
    """The test rows with the lowest log-densities, and the columns that make them odd.

    Raises:
        InputError: if there are no test rows, or they cannot be scored.
    """
    schema = schema_of(subject)
    scorer = TableModel(subject.model, schema, len(subject.dataset.train), subject.seed)
    frame = schema.decode(subject.test(SCORED).numpy())
    log_p = scorer.score(frame).log_density
    order = np.argsort(log_p, kind="stable")[:ODDEST]
    odd, count = frame.take(order), min(ODDEST, EXPLAINED // (CHECKED * POINTS))
    scores = scorer.score(odd.take(slice(count)), explain=True) if count else None
    names = odd.names[:SHOWN]
    rows = []
    for k, place in enumerate(order):
        why = "" if scores is None or k >= count else reasons(scorer, scores, k)
        cells = [shown(odd.column(name)[k]) for name in names]
        rows.append([f"{log_p[place]:.2f}", *([why] if count else []), *cells])
    words = (
        f"The {len(order)} oddest of {len(log_p)} test rows by log-density in nats; the median of these is "
        f"{np.median(log_p):.2f}. "
    )
    if count:
        words += (
            "In brackets is the drop of a column in nats: how far the log-density of its value, given the other "
            f"columns, lies below what it is on average. It is found for {'all' if count == ODDEST else count} of the "
            "rows. "
        )
    words += "ndm score --explain scores and explains every row of a file."
    header = ["log-density", *(["what makes it odd"] if count else []), *names]
    if len(odd.names) > SHOWN:
        words += f" The first {SHOWN} of {len(odd.names)} columns are shown."
    return joined([table(header, rows, "the oddest rows"), note(words)])


def reasons(scorer: TableModel, scores: Scores, row: int) -> str:
    """The columns that make a row odd, with their drops."""
    found = zip(scores.columns[row], scores.drops[row], strict=True)
    return (
        ", ".join(f"{scorer.names[place]} ({drop:+.1f})" for place, drop in found if drop > 0.5) or "no single column"
    )


def shown(value: object) -> str:
    """A value of a cell in a few letters."""
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
