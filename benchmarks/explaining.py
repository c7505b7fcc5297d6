r"""How long the explanation of a row takes, and whether the screen names the columns that the full measure names.

    ndm train table --data.path mushrooms.csv --out mushrooms --training.steps 1500 --training.batch_size 256
    python benchmarks/explaining.py mushrooms mushrooms.csv --rows 2
    python benchmarks/explaining.py --table

In the records, adult has 800 steps of 256 rows and ``--model.width 128``. wine_red has 1,000 steps of 256 rows, and its
file is the array ``data`` of ``wine_red.npz``.

The rows are drawn from the file. Every second one gets, in one column, the value of another row. They are explained
twice in the same process: by the log-densities of all values of all columns, and with the screen, as ``ndm score
--explain`` does (:mod:`ndm.scoring.explain`). Both have the same draws. The record has, for a model and a number of
rows:

- the processor seconds for a row, and the number of log-densities;
- ``same``: the share of the three named columns that are the same;
- ``first``: the share of rows whose first column is the same;
- ``lost``: the mean over rows of what the three named columns lack, in nats of the full measure, to the three largest
  drops. Where all columns of a row are ordinary, many drops are equal, and the names say little.
- ``moved``: the largest difference of a drop in nats, of the columns that have one with the screen.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cells import Cells, clock, ends, limit_threads, note_machine, record_options, say
from ndm.density import log_bound, log_density
from ndm.errors import InputError
from ndm.evaluation.tables import markdown_table
from ndm.scoring import TableModel, conditional_drops
from ndm.scoring.model import MOST
from ndm.tables import read

KEY = ("model", "rows", "threads")


def rows_of(scorer: TableModel, path: Path, count: int) -> Tensor:
    """Rows of a file as the model's numbers, ``(count, n)``; every second one has a value of another row."""
    x = scorer.schema.encode(read(path))
    rng = np.random.default_rng(0)
    rows, others = x[rng.permutation(len(x))[: 2 * count]].reshape(2, count, -1)
    for row, other in zip(rows[1::2], others[1::2], strict=True):
        differ = np.flatnonzero(row != other)
        place = rng.choice(differ)
        row[place] = other[place]
    return torch.from_numpy(rows)


def measure(scorer: TableModel, rows: Tensor, screened: bool) -> dict[str, Any]:
    """The drops of rows, ``(B, n)``, with the processor seconds and the log-densities of a row."""
    count = 0

    def density(changed: Tensor) -> Tensor:
        nonlocal count
        count += len(changed)
        return log_density(scorer.model, changed, scorer.seed, quick=screened)

    screen = (lambda changed: log_bound(scorer.model, changed, scorer.seed)) if screened else None
    with clock() as spent:
        log_p = log_density(scorer.model, rows, scorer.seed)
        drops = conditional_drops(density, rows, log_p, scorer.model, scorer.schema, screen)
    return {"drops": drops, "seconds": spent.process / len(rows), "densities": 1 + count / len(rows)}


def agreement(full: Tensor, quick: Tensor) -> dict[str, float]:
    """How well the named columns agree, by the drops of two measures."""
    best, found = (drops.topk(min(MOST, full.shape[1]), 1).indices for drops in (full, quick))
    same = (best[:, :, None] == found[:, None]).any(2).double().mean()
    lost = (full.gather(1, best) - full.gather(1, found)).sum(1).mean()
    moved = (full - quick)[torch.isfinite(quick)].abs().max()
    first = (best[:, 0] == found[:, 0]).double().mean()
    return {"same": float(same), "first": float(first), "lost": float(lost), "moved": float(moved)}


def run(args: argparse.Namespace) -> None:
    """Explain the rows of a file, unless that is in the records."""
    if args.model is None or args.data is None:
        raise InputError("give the folder of a run of a table and a file of rows")
    limit_threads(args.threads)
    cells = Cells(args.out, KEY)
    if (args.model.name, args.rows, args.threads) in cells:
        return
    scorer = TableModel.load(args.model)
    rows = rows_of(scorer, args.data, args.rows)
    quick, full = (measure(scorer, rows, screened) for screened in (True, False))
    on = note_machine(args.out, args.threads, ["torch", "numpy", "ndm"])
    cells.add({
        "model": args.model.name, "rows": args.rows, "threads": args.threads, "columns": rows.shape[1],
        "seconds": quick["seconds"], "densities": quick["densities"], "full_seconds": full["seconds"],
        "full_densities": full["densities"], **agreement(full["drops"], quick["drops"]), "on": on,
    })  # fmt: skip
    say(f"{args.model.name}: {full['seconds']:.1f} s and {quick['seconds']:.1f} s for a row")


def table_of(records: list[dict[str, Any]]) -> str:
    """The Markdown table of what is finished."""
    header = ["model", "rows", "columns", "full: seconds, densities", "screened", "same", "first", "lost", "moved"]
    lines = [
        [
            *(f"{r[name]}" for name in ("model", "rows", "columns")),
            f"{r['full_seconds']:.1f}, {r['full_densities']:.0f}",
            f"{r['seconds']:.1f}, {r['densities']:.0f}",
            *(f"{r[name]:.2f}" for name in ("same", "first", "lost", "moved")),
        ]
        for r in records
    ]
    return markdown_table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="folder of a run of a table")
    parser.add_argument("data", type=Path, nargs="?", help="file of rows")
    parser.add_argument("--rows", type=int, default=8, help="the number of rows")
    record_options(parser, "explaining.jsonl")
    args = parser.parse_args()
    if not args.table:
        run(args)
    print(table_of([r for _, r in sorted(Cells(args.out, KEY).records.items())]))


if __name__ == "__main__":
    sys.exit(ends(main))
