r"""Probabilities of rows of categories and integers, in bits per row, beside exact probabilities of other models.

    python benchmarks/mixed.py --data FOLDER [--sets adult mushrooms] [--splits 5] [--methods independent mixture]
    python benchmarks/mixed.py --table

FOLDER holds ``tables/adult.csv`` (15 columns, of which 6 are integers) and ``tables/mushrooms.csv`` (23 columns). All
columns have finitely many values, so everything is a probability, and nothing is left out:

.. math:: -\frac{1}{M} \sum_{m=1}^{M} \log_2 P(x_m) \quad \text{bits per row}

A column whose values are all whole numbers has the integers from the smallest to the largest of the whole file as its
values; another has the file's categories. Split ``s`` draws 80 % of the rows to train, 10 % to validate and 10 % to
test, with ``s`` as the seed. The rivals are in ``mixed_rivals.py`` with their probabilities. Our estimator gets the
training and validation rows as one table of numbers and strings, and has two figures: its log-probabilities
(``score_samples``: the likelihood of the ODE), and the variational bound of the same model, as the mean of 64 draws for
each row. The bound is on the likelihood of the SDE, which is not that of the ODE, so either may be the better figure.
The four draws of ``score_samples`` are the same for all rows, so their error does not average out over rows.

The file of records has, for each cell, the mean and its standard error over test rows, and the seconds. The standard
error in the table is that over splits. A finished cell is not computed again.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ndm
from cells import (
    OURS,
    Cells,
    choose,
    clock,
    common_options,
    ends,
    folder_of,
    limit_threads,
    mean_and_error,
    note_machine,
    ours,
    say,
    shown,
)
from mixed_rivals import Column, Fitted, boosted, chow_liu, independent, mixture
from ndm.errors import InputError
from ndm.evaluation.tables import markdown_table
from ndm.tables import Frame

SETS = ("mushrooms", "adult")
KEY = ("set", "split", "method")
BOUND = "ours, bound"
METHODS: dict[str, Callable[[np.ndarray, np.ndarray, list[Column], int], Fitted]] = {
    "independent": independent,
    "mixture": mixture,
    "tree": chow_liu,
    "boosted": boosted,
}
"""The rivals; our estimator gets the values and not the codes."""


@dataclass
class Table:
    """A table of finitely many values.

    Args:
        values: the values as they are, integers and strings, shape ``(N, D)``.
        codes: the same as codes, shape ``(N, D)``.
        columns: what the codes mean.
    """

    values: np.ndarray
    codes: np.ndarray
    columns: list[Column]

    @classmethod
    def of(cls, header: list[str], lines: list[list[str]]) -> Table:
        """A table from text."""
        values, codes, columns = [], [], []
        for name, texts in zip(header, zip(*lines, strict=True), strict=True):
            integer = all(text.lstrip("-").isdigit() for text in texts)
            column = np.array([int(text) for text in texts] if integer else texts)
            low = int(column.min()) if integer else 0
            code = column - low if integer else np.unique(column, return_inverse=True)[1].reshape(-1)
            values.append(column.astype(object))
            codes.append(code.astype(np.int64))
            columns.append(Column(name, int(code.max()) + 1, integer))
        return cls(np.stack(values, axis=1), np.stack(codes, axis=1), columns)


def load(path: Path) -> Table:
    """The table of a CSV file with a header.

    Raises:
        InputError: if it is not there.
    """
    if not path.is_file():
        raise InputError(f"there is no {path}: give --data the folder that holds tables/{path.name}")
    with path.open(newline="") as file:
        header, *lines = csv.reader(file)
    return Table.of(header, lines)


def split_rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The indices of the rows that train (80 %), validate (10 %) and test (10 %)."""
    order, tenth = np.random.default_rng(seed).permutation(count), round(count / 10)
    return np.sort(order[2 * tenth :]), np.sort(order[:tenth]), np.sort(order[tenth : 2 * tenth])


def bits(nats: np.ndarray) -> tuple[float, float]:
    """Mean bits per row and its standard error, from log-probabilities in nats."""
    value = -np.asarray(nats, dtype=np.float64) / math.log(2)
    return float(value.mean()), float(value.std(ddof=1) / len(value) ** 0.5)


def fit(method: str, table: Table, train: np.ndarray, valid: np.ndarray, seed: int) -> tuple[Fitted, np.ndarray]:
    """A fitted method, and the rows of the table in the form that it takes."""
    if method == OURS:
        model = ours(seed).fit(table.values[np.concatenate([train, valid])])
        return Fitted(model.score_samples, facts={"own": model}), table.values
    return METHODS[method](table.codes[train], table.codes[valid], table.columns, seed), table.codes


def bound_of(model: Any, values: np.ndarray, draws: int = 64) -> np.ndarray:
    """The variational bound of the log-probability of each row, nats, as the mean of independent draws."""
    rows = torch.from_numpy(model.schema_.encode(Frame.of(values)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        total = sum(ndm.bound(model.model_, rows, generator=generator).total.double() for _ in range(draws))
    return -(total / draws).numpy()


def run(args: argparse.Namespace) -> None:
    """Compute the cells that are not in the file yet."""
    methods = choose(args.methods, (*METHODS, OURS), "method")
    if args.data is None:
        raise InputError("give the folder of the data: --data FOLDER")
    folder = folder_of(args.data, "tables", "*.csv")
    limit_threads(args.threads)
    on = note_machine(args.out, args.threads, ("torch", "numpy", "scikit-learn", "scipy", "ndm"))
    cells = Cells(args.out, KEY)
    for name in choose(args.sets, SETS, "data set"):
        table = load(folder / f"{name}.csv")
        for split in range(args.splits):
            train, valid, test = split_rows(len(table.codes), split)
            for method in methods:
                if (name, split, method) in cells:
                    continue
                with clock() as spent:
                    fitted, rows = fit(method, table, train, valid, split)
                with clock() as scoring:
                    value, error = bits(fitted.log_prob(rows[test]))
                facts: dict[str, Any] = {key: v for key, v in fitted.facts.items() if key != "own"}
                valid_bits = None if fitted.valid is None else -fitted.valid / math.log(2)
                sizes = {"train": len(train), "test": len(test), "columns": len(table.columns)}
                seconds = {"seconds": spent.wall, "process_seconds": spent.process, "scoring_seconds": scoring.wall}
                record = {"set": name, "split": split, "method": method, "bits": value, "error": error}
                if method == OURS:
                    record["bound"], record["bound_error"] = bits(bound_of(fitted.facts["own"], rows[test]))
                cells.add({**record, "validation": valid_bits, **sizes, **seconds, **facts, "on": on})
                say(f"{name} split {split} {method}: {value:.3f} ({error:.3f}) bits per row, {spent.wall:.0f} s")


def table_of(out: Path) -> str:
    """The Markdown table of what is finished: bits per row and, for each method, the processor time of training."""
    cells = Cells(out, KEY).records
    lines = []
    for name in (s for s in SETS if any(key[0] == s for key in cells)):
        of = {m: [r for key, r in cells.items() if key[0] == name and key[2] == m] for m in (*METHODS, OURS)}
        of[BOUND] = [{**r, "bits": r["bound"]} for r in of[OURS] if "bound" in r]
        found = {m: mean_and_error([r["bits"] for r in records]) for m, records in of.items() if records}
        best = min(found, key=lambda m: found[m][0])
        first = next(records for records in of.values() if records)[0]
        figures = [
            f"{shown(*found[m], bold=m == best)} [{len(of[m])}], {np.mean([r['process_seconds'] for r in of[m]]):.0f} s"
            if m in found
            else ""
            for m in of
        ]
        lines.append([name, f"{first['train']:,} x {first['columns']}", *figures])
    header = ["bits per row (s.e.) [splits], processor seconds", "training rows x columns", *METHODS, "ours", BOUND]
    return markdown_table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_options(parser, "mixed.jsonl", (*METHODS, OURS))
    parser.add_argument("--sets", nargs="+", metavar="SET", help=f"default: {' '.join(SETS)}")
    parser.add_argument("--splits", type=int, default=5)
    args = parser.parse_args()
    if not args.table:
        run(args)
    print(table_of(args.out))


if __name__ == "__main__":
    sys.exit(ends(main))
