r"""Test log-likelihood of tables, in nats per row, beside flows, mixtures of Gaussians and kernels.

    pip install "zuko>=1.3"
    python benchmarks/density.py --data FOLDER [--sets power_plant kin8nm] [--splits 5] [--methods nsf gmm]
    python benchmarks/density.py --compare       # paired differences of finished cells
    python benchmarks/density.py --table

FOLDER holds ``uci/*.npz`` with ``data`` (rows by columns) and ``test_mask`` (splits by rows). All columns are modelled.

* Of equal rows one is kept, so that no row is in two parts of a split.
* A column whose values lie on a grid of a decimal step gets uniform noise of one step, the same for every method, as
  values that repeat have no density. (The step is above 0.01 % of the standard deviation, and four in five of the
  values that differ from the commonest lie on the grid.)
* Columns without a density are left out, and the record names them: constant columns, columns that depend linearly on
  those before them, and columns off any grid where one value is in more than 2 % of the rows.
* A tenth of the rows that do not test, drawn with the split's number as the seed, validates.
* Columns are standardised by the rows that do not test. Nats are those of the standardised columns.

Every rival is fitted on the training rows and chosen by the validation rows. Our estimator gets both as one table, as
it takes its own rows for validation. The file of records has, for each cell, the mean and its standard error over test
rows; the values of the rows go to ``*-rows/`` beside it, outside version control, for ``--compare``. The time of
training is the processor's, summed over threads, with the choice of a size: that of the spline flow is of both sizes
that are tried. Libraries are imported before. An interrupted benchmark goes on: a finished cell is not computed again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cells import (
    OURS,
    Cells,
    choose,
    clock,
    common_options,
    ends,
    folder_of,
    import_libraries,
    limit_threads,
    mean_and_error,
    note_machine,
    ours,
    say,
    shown,
)
from density_rivals import Fitted, flow, gaussian_mixture, kernel_density
from ndm.errors import InputError
from ndm.evaluation.tables import markdown_table

SETS = (
    "power_plant", "kin8nm", "wine_red", "airfoil", "boston", "energy", "yacht", "skillcraft", "parkinsons",
    "pumadyn32nm", "gas", "naval", "elevators", "pol",
)  # fmt: skip
STEPS = {"wine_red": {7: 1e-4}}
"""Steps that the rule does not find: half of the densities of wine_red have four decimals and half have five."""
FINEST = 1e-4
"""The finest step that gets noise, in standard deviations."""
KEY = ("set", "split", "method")


def fit_ours(train: np.ndarray, valid: np.ndarray, seed: int) -> Fitted:
    """Our estimator, fitted on all rows that do not test."""
    return Fitted(ours(seed).fit(np.concatenate([train, valid])).score_samples)


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, int], Fitted]] = {
    "nsf": flow("NSF", 5, 128),
    "nsf-small": flow("NSF", 3, 64),
    "maf": flow("MAF", 5, 128),
    "gmm": gaussian_mixture,
    "kde": kernel_density,
    OURS: fit_ours,
}
COLUMNS = {"NSF": ("nsf", "nsf-small"), "MAF": ("maf",), "GMM": ("gmm",), "KDE": ("kde",)}
"""The rivals of the table. Of several sizes the validation rows choose one, for each split."""


@dataclass
class Table:
    """A data set as it is modelled.

    Args:
        rows: shape ``(N, D)``, with noise on the quantised columns, not standardised.
        test: which rows test, for each split, shape ``(splits, N)``.
        facts: what was left out and where noise was added, for the record.
    """

    rows: np.ndarray
    test: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)

    def split(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Training, validation and test rows of a split, standardised by those that do not test."""
        rest, test = self.rows[~self.test[number]], self.rows[self.test[number]]
        mean, std = rest.mean(0), rest.std(0)
        order = np.random.default_rng(number).permutation(len(rest))
        count = round(len(rest) / 10)
        valid, train = rest[np.sort(order[:count])], rest[np.sort(order[count:])]
        return (train - mean) / std, (valid - mean) / std, (test - mean) / std


def grid_step(column: np.ndarray) -> float | None:
    """The largest power of ten on whose grid a column lies, if it is above 0.01 % of the standard deviation.

    The grid goes through the commonest value, since some columns come centred. Four in five of the other values must
    lie on it, to within 1 % of the step and not on the commonest value itself.
    """
    values, counts = np.unique(column, return_counts=True)
    apart = column[column != values[counts.argmax()]] - values[counts.argmax()]
    if not len(apart):
        return None
    for power in range(int(np.floor(np.log10(np.ptp(column)))), -300, -1):
        step = float(f"1e{power}")
        if step <= FINEST * column.std():
            return None
        steps = apart / step
        if ((np.abs(steps - steps.round()) < 0.01) & (steps.round() != 0)).mean() >= 0.8:
            return step
    return None


def dependent_columns(rows: np.ndarray, tolerance: float = 1e-5) -> list[int]:
    """Columns that are linear functions of those before them, constants among them.

    A column is one if the part of its variance that the others leave unexplained is below ``tolerance``.
    """
    basis, found = [np.full(len(rows), len(rows) ** -0.5)], []
    for j, column in enumerate(rows.T):
        centred = column - column.mean()
        norm = np.linalg.norm(centred)
        if norm <= 1e-12 * max(1e-300, np.abs(column).max()) * len(rows) ** 0.5:
            found.append(j)
            continue
        left = centred / norm
        for _ in range(2):  # a second pass removes what rounding left of the first
            for direction in basis:
                left = left - direction * (direction @ left)
        if left @ left < tolerance:
            found.append(j)
        else:
            basis.append(left / np.linalg.norm(left))
    return found


def first_of_equal(rows: np.ndarray) -> np.ndarray:
    """The indices, in order, of the first of each set of equal rows."""
    return np.sort(np.unique(rows, axis=0, return_index=True)[1])


def prepare(
    data: np.ndarray, test_mask: np.ndarray, known_steps: dict[int, float] | None = None, most: float = 0.02
) -> Table:
    """Remove equal rows and columns without a density, and add noise to quantised columns.

    Args:
        data: shape ``(N, D)``.
        test_mask: shape ``(splits, N)``.
        known_steps: steps of columns, by their number, in place of those of :func:`grid_step`.
        most: the largest share of rows with one value in a column that is on no grid.
    """
    keep = first_of_equal(data)
    data, test_mask = data[keep], test_mask[:, keep]
    dependent = dependent_columns(data)
    steps = [(known_steps or {}).get(j) or grid_step(column) for j, column in enumerate(data.T)]
    common = [np.unique(column, return_counts=True)[1].max() / len(data) for column in data.T]
    atoms = [j for j, step in enumerate(steps) if step is None and common[j] > most and j not in dependent]
    columns = [j for j in range(data.shape[1]) if j not in dependent and j not in atoms]
    data = data[:, columns]
    keep = first_of_equal(data)
    data, test_mask = data[keep].astype(np.float64), test_mask[:, keep]
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, data.shape)
    noised = {str(j): steps[j] for j in columns if steps[j]}
    data += noise * np.array([steps[j] or 0.0 for j in columns])
    facts = {"rows": len(data), "columns": len(columns), "dependent": dependent, "atoms": atoms, "noise": noised}
    return Table(data, test_mask, facts)


def load(folder: Path, name: str) -> Table:
    """A data set of the folder.

    Raises:
        InputError: if it is not there.
    """
    path = folder / f"{name}.npz"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in folder.glob("*.npz")))
        raise InputError(f"there is no {path}: choose --sets among {there}")
    with np.load(path) as file:
        return prepare(file["data"], file["test_mask"], STEPS.get(name))


def rows_file(out: Path, name: str, split: int, method: str) -> Path:
    """The file of a cell's log-densities, one for each test row."""
    return out.with_name(f"{out.stem}-rows") / f"{name}-{split}-{method}.npy"


def run(args: argparse.Namespace) -> None:
    """Compute the cells that are not in the file yet."""
    methods = choose(args.methods, tuple(METHODS), "method")
    if args.data is None:
        raise InputError("give the folder of the data: --data FOLDER")
    folder = folder_of(args.data, "uci", "*.npz")
    limit_threads(args.threads)
    import_libraries("zuko", "sklearn.mixture", "sklearn.neighbors", "sklearn.ensemble", "ndm.density", "ndm.training")
    on = note_machine(args.out, args.threads, ("torch", "zuko", "numpy", "scikit-learn", "ndm"))
    cells = Cells(args.out, KEY)
    described = Cells(args.out, ["set"], "set")
    for name in args.sets or SETS:
        table = load(folder, name)
        described.add({"set": name, **table.facts})
        for split in range(min(args.splits, len(table.test))):
            train, valid, test = table.split(split)
            for method in methods:
                if (name, split, method) in cells:
                    continue
                with clock() as spent:
                    fitted = METHODS[method](train, valid, split)
                with clock() as scoring:
                    nats = np.asarray(fitted.score(test), dtype=np.float64)
                path = rows_file(args.out, name, split, method)
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, nats.astype(np.float32))
                value, error = float(nats.mean()), float(nats.std(ddof=1) / len(nats) ** 0.5)
                cells.add({
                    "set": name, "split": split, "method": method, "nats": value, "error": error,
                    "validation": fitted.valid, "train": len(train), "test": len(test), "seconds": spent.wall,
                    "process_seconds": spent.process, "scoring_seconds": scoring.wall, **fitted.facts, "on": on,
                })  # fmt: skip
                say(f"{name} split {split} {method}: {value:.3f} ({error:.3f}) nats per row, {spent.wall:.0f} s")


def paired(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The mean of ``a - b`` over rows, and the standard error of that mean."""
    difference = a.astype(np.float64) - b
    return float(difference.mean()), float(difference.std(ddof=1) / len(difference) ** 0.5)


def compare(out: Path) -> None:
    """Write, for each cell of ours and each rival, the difference in nats with its standard error over test rows."""
    cells, pairs = Cells(out, KEY), Cells(out, (*KEY, "rival"), "paired")
    for name, split, method in sorted(cells.records):
        first, second = rows_file(out, name, split, OURS), rows_file(out, name, split, method)
        if method == OURS or (name, split, OURS) not in cells:
            continue
        if not (first.is_file() and second.is_file()):
            if (name, split, OURS, method) in pairs:
                continue
            say(f"{name} split {split} {method}: no file of the rows' values, so there is no paired difference")
            continue
        value, error = paired(np.load(first), np.load(second))
        pairs.add({"set": name, "split": split, "method": OURS, "rival": method, "nats": value, "error": error})


def chosen(cells: Cells, name: str, split: int, methods: tuple[str, ...]) -> dict[str, Any] | None:
    """The record of the size that the validation rows choose; None until all sizes are finished."""
    records = [cells.records.get((name, split, method)) for method in methods]
    return None if None in records else max(records, key=lambda r: r["validation"])  # type: ignore[index, type-var]


def table(out: Path) -> str:
    """The Markdown table of what is finished: means over splits, with the standard error over splits in brackets."""
    cells, pairs, described = Cells(out, KEY), Cells(out, (*KEY, "rival"), "paired"), Cells(out, ["set"], "set")
    splits = 1 + max((key[1] for key in cells.records), default=0)
    lines = []
    for name in dict.fromkeys([*SETS, *(key[0] for key in cells.records)]):
        of = {
            title: {s: r for s in range(splits) if (r := chosen(cells, name, s, methods))}
            for title, methods in COLUMNS.items()
        }
        mine = {s: cells.records[name, s, OURS] for s in range(splits) if (name, s, OURS) in cells}
        if not mine and not any(of.values()):
            continue
        all_methods = {**of, "ours": mine}
        means = {t: mean_and_error([r["nats"] for r in found.values()]) for t, found in all_methods.items() if found}
        most = max(len(found) for found in all_methods.values())
        best = max(means, key=lambda title: means[title][0])
        facts = described.records[name,]
        line = [name, f"{facts['rows']:,} x {facts['columns']}", str(most)]
        for title, found in all_methods.items():
            short_of = f" [{len(found)}]" if found and len(found) < most else ""
            line.append(shown(*means[title], bold=title == best) + short_of if found else "")
        rivals = {title: means[title][0] for title in of if title in means}
        gap, speed = "", ""
        if mine and rivals:
            rival = max(rivals, key=rivals.__getitem__)
            differences = {s: mine[s]["nats"] - r["nats"] for s, r in of[rival].items() if s in mine}
            if differences:
                value, error = mean_and_error(list(differences.values()))
                first = next(iter(differences))
                pair = pairs.records.get((name, first, OURS, of[rival][first]["method"]))
                error = pair["error"] if error is None and pair else error  # of one split, over its rows
                gap = f"{value:+.3f} ({'unknown' if error is None else f'{error:.3f}'}) to {rival}"
        both = [s for s in mine if s in of["NSF"]]
        if both:
            sizes = (OURS, *COLUMNS["NSF"])
            time, *others = (sum(cells.records[name, s, m]["process_seconds"] for s in both) for m in sizes)
            speed = f"{time / sum(others):.2f}"
        lines.append([*line, gap, speed])
    header = ["set", "rows x columns", "splits", *COLUMNS, "ours", "ours - best rival", "processor time / NSF's"]
    return markdown_table(header, lines)


def left_out(out: Path) -> str:
    """A Markdown table of the columns of each set that were left out, and of those that got noise, by number."""
    lines = []
    for (name,), facts in Cells(out, ["set"], "set").records.items():
        numbers = [", ".join(map(str, facts[key])) for key in ("dependent", "atoms", "noise")]
        lines.append([name, *numbers])
    return markdown_table(["set", "left out: dependent", "left out: one value in over 2 %", "noise of one step"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_options(parser, "density.jsonl", tuple(METHODS))
    parser.add_argument("--sets", nargs="+", metavar="SET", help=f"default: {' '.join(SETS)}")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--compare", action="store_true", help="only write the paired differences")
    args = parser.parse_args()
    if not (args.table or args.compare):
        run(args)
    if not args.table:
        compare(args.out)
    print(table(args.out) + "\n" + left_out(args.out))


if __name__ == "__main__":
    sys.exit(ends(main))
