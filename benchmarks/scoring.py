r"""How long the log-likelihoods of 10,000 rows take, and what Hutchinson's estimator costs in accuracy.

    python benchmarks/scoring.py [--columns 10 100] [--rows 10000] [--threads 2]
    python benchmarks/scoring.py --table

The rows are made: a smooth function of normal numbers, mixed by a random matrix, with noise on every column. The
estimator has its defaults and trains on 5,000 rows. With many columns ``score_samples`` estimates the divergence. The
last columns of the table then say, for 200 rows, how well it agrees with the exact divergence: Spearman's correlation,
and the mean and the standard deviation of the differences in nats, beside the standard deviation of log p over rows.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

import ndm
from cells import Cells, clock, ends, limit_threads, note_machine, ours, record_options, say
from ndm.density.scores import EXACT_UP_TO, SOLVER
from ndm.evaluation.tables import markdown_table
from ndm.tables import Frame

TRAINING, CHECKED = 5_000, 200
KEY = ("columns", "rows", "threads")


def make_rows(count: int, columns: int, seed: int) -> np.ndarray:
    """Rows of dependent real numbers, ``(count, columns)``."""
    mixing = 2 * np.random.default_rng(0).normal(size=(columns, columns)) / columns**0.5
    rng = np.random.default_rng([1, seed])
    return np.tanh(rng.normal(size=(count, columns)) @ mixing) + 0.3 * rng.normal(size=(count, columns))


def agreement(density: Any, rows: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """How well scores agree with the log-likelihoods by the exact divergence."""
    encoded = torch.from_numpy(density.schema_.encode(Frame.of(rows)))
    exact = ndm.log_prob(density.model_, encoded, solver=SOLVER, dtype=torch.float64).numpy()
    error = scores - exact
    rank = float(spearmanr(scores, exact).statistic)
    return {"spearman": rank, "bias": float(error.mean()), "noise": float(error.std()), "spread": float(exact.std())}


def run(args: argparse.Namespace) -> None:
    """Compute the cells that are missing."""
    limit_threads(args.threads)
    on, cells = note_machine(args.out, args.threads, ["torch", "numpy", "ndm"]), Cells(args.out, KEY)
    for columns in args.columns:
        if (columns, args.rows, args.threads) in cells:
            continue
        density = ours(0).fit(make_rows(TRAINING, columns, 0))
        rows = make_rows(args.rows, columns, 1)
        with clock() as spent:
            scores = density.score_samples(rows)
        facts = agreement(density, rows[:CHECKED], scores[:CHECKED]) if columns > EXACT_UP_TO else {}
        cells.add({
            "columns": columns, "rows": args.rows, "threads": args.threads, "seconds": spent.wall,
            "process_seconds": spent.process, "rows_per_second": args.rows / spent.wall, **facts, "on": on,
        })  # fmt: skip
        say(f"{args.rows:,} rows of {columns} columns: {spent.wall:.0f} s")


def table_of(records: list[dict[str, Any]]) -> str:
    """The Markdown table of what is finished."""
    header = ["columns", "rows", "threads", "seconds", "rows per second", "correlation", "difference (s.d.)", "log p"]
    lines = []
    for r in records:
        facts = ["exact", "", ""]
        if "spearman" in r:
            facts = [f"{r['spearman']:.3f}", f"{r['bias']:+.2f} ({r['noise']:.2f})", f"s.d. {r['spread']:.2f}"]
        numbers = [f"{r['columns']}", f"{r['rows']:,}", f"{r['threads']}", f"{r['seconds']:.0f}"]
        lines.append([*numbers, f"{r['rows_per_second']:.0f}", *facts])
    return markdown_table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--rows", type=int, default=10_000)
    record_options(parser, "scoring.jsonl", threads=2)
    args = parser.parse_args()
    if not args.table:
        run(args)
    print(table_of([r for _, r in sorted(Cells(args.out, KEY).records.items())]))


if __name__ == "__main__":
    sys.exit(ends(main))
