r"""Tables whose density is known: how far the estimator is from it, and whether its density sums to one.

    python benchmarks/known.py [--tables numbers symbols mixed] [--rows 2000] [--seeds 0 1 2]
    python benchmarks/known.py --table

* ``numbers``: two real columns, the second about a wave of the first;
* ``symbols``: two categories that agree in nine of ten rows, and an integer that depends on them;
* ``mixed``: a category, an integer that depends on it, and a real column that depends on both.

``gap`` is the mean over 2,000 new rows of log p(x) - log p_model(x), an estimate of KL(truth || model) in nats.
``total`` adds up the model's density and probabilities over all categories, all integers and a grid of each real column
(the trapezoidal rule). The points of a grid are equidistant as normal scores of the model's own marginal distribution:
there the density is smooth, while in data units it follows each quantile of the training rows. The estimator has its
defaults. Where a row has symbols or integers, its probability is an unbiased estimate by importance sampling.
``score_samples`` has a few draws, the same for all rows, so its errors do not average out over rows. So the total has
many draws of its own, in proportion to the true probabilities, and a standard error. The script exits with 1 if a total
differs from 1 by more than half a percent.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binom, norm

import ndm
from cells import Cells, clock, ends, limit_threads, mean_and_error, note_machine, ours, record_options, say, shown
from ndm.density.scores import SOLVER
from ndm.evaluation.tables import markdown_table
from ndm.marginal import Marginals
from ndm.tables import Frame

NEW_ROWS, FEWEST_DRAWS = 2_000, 2
"""How many new rows are scored, and the fewest draws of a row of a total where draws are needed."""
KEY = ("table", "rows", "seed")
CITIES = ("Lima", "Oslo", "Rome")
SHARES = np.array([0.2, 0.3, 0.5])


@dataclass(frozen=True)
class Known:
    """A table with a known density.

    Args:
        draw: a number of rows and a generator to rows.
        log_p: rows to the true log p of each, ``(N,)``.
        everything: the model's marginals to rows that cover all values, and the weight of each in a sum over them.
        draws: about how many draws a total takes where draws are needed.
    """

    draw: Callable[[int, np.random.Generator], pd.DataFrame]
    log_p: Callable[[pd.DataFrame], np.ndarray]
    everything: Callable[[Marginals], tuple[pd.DataFrame, np.ndarray]]
    draws: int = 100_000


def axes(marginals: Marginals, count: int, far: float = 5.0) -> list[tuple[np.ndarray, np.ndarray]]:
    """The points of each real column with normal scores from -far to far, and their weights in an integral."""
    scores = torch.linspace(-far, far, count, dtype=torch.float64)[:, None].expand(-1, marginals.columns)
    points = marginals.inverse(scores)
    weights = (scores[1] - scores[0]) / marginals(points)[1].exp()
    weights[[0, -1]] /= 2
    return list(zip(points.T.numpy(), weights.T.numpy(), strict=True))


def crossed(**axes: tuple[np.ndarray, np.ndarray]) -> tuple[pd.DataFrame, np.ndarray]:
    """All combinations of the points of several axes, with the products of their weights."""
    points = np.meshgrid(*(points for points, _ in axes.values()), indexing="ij")
    weights = np.meshgrid(*(weights for _, weights in axes.values()), indexing="ij")
    return pd.DataFrame({name: p.ravel() for name, p in zip(axes, points, strict=True)}), np.prod(weights, 0).ravel()


def counted(values: object) -> tuple[np.ndarray, np.ndarray]:
    """Values that a sum takes one by one."""
    return np.array(values), np.ones(len(np.array(values)))


def draw_numbers(n: int, rng: np.random.Generator) -> pd.DataFrame:
    x = rng.normal(size=n)
    return pd.DataFrame({"x": 100 * x, "y": np.sin(3 * x) + 0.3 * rng.normal(size=n)})


def log_p_numbers(rows: pd.DataFrame) -> np.ndarray:
    x = rows.x / 100
    return norm.logpdf(x) - math.log(100) + norm.logpdf(rows.y, np.sin(3 * x), 0.3)


def draw_symbols(n: int, rng: np.random.Generator) -> pd.DataFrame:
    a = rng.choice(CITIES, n, p=SHARES)
    b = np.where(rng.random(n) < 0.85, a, rng.choice(CITIES, n))
    return pd.DataFrame({"a": a, "b": b, "k": rng.binomial(8, np.where(a == b, 0.3, 0.7))})


def log_p_symbols(rows: pd.DataFrame) -> np.ndarray:
    same = rows.a == rows.b
    share = SHARES[np.searchsorted(CITIES, rows.a)]
    return np.log(share * np.where(same, 0.9, 0.05)) + binom.logpmf(rows.k, 8, np.where(same, 0.3, 0.7))


def draw_mixed(n: int, rng: np.random.Generator) -> pd.DataFrame:
    city = rng.choice(CITIES, n, p=SHARES)
    rooms = rng.binomial(6, 0.2 + 0.3 * np.searchsorted(CITIES, city))
    rent = 20 * rooms + 40 * (city == "Oslo") + (5 + 5 * (city == "Rome")) * rng.normal(size=n)
    return pd.DataFrame({"city": city, "rooms": rooms, "rent": rent})


def log_p_mixed(rows: pd.DataFrame) -> np.ndarray:
    place = np.searchsorted(CITIES, rows.city)
    mean, spread = 20 * rows.rooms + 40 * (rows.city == "Oslo"), 5 + 5 * (rows.city == "Rome")
    return np.log(SHARES[place]) + binom.logpmf(rows.rooms, 6, 0.2 + 0.3 * place) + norm.logpdf(rows.rent, mean, spread)


def all_numbers(marginals: Marginals) -> tuple[pd.DataFrame, np.ndarray]:
    x, y = axes(marginals, 161)
    return crossed(x=x, y=y)


def all_symbols(marginals: Marginals) -> tuple[pd.DataFrame, np.ndarray]:
    return crossed(a=counted(CITIES), b=counted(CITIES), k=counted(range(9)))


def all_mixed(marginals: Marginals) -> tuple[pd.DataFrame, np.ndarray]:
    *_, rent = axes(marginals, 641)  # with a quarter of them, the grid's place changes the total by a twentieth
    return crossed(city=counted(CITIES), rooms=counted(range(7)), rent=rent)


TABLES = {
    "numbers": Known(draw_numbers, log_p_numbers, all_numbers),
    "symbols": Known(draw_symbols, log_p_symbols, all_symbols),
    "mixed": Known(draw_mixed, log_p_mixed, all_mixed, draws=300_000),
}


def run(args: argparse.Namespace) -> None:
    """Compute the cells that are missing."""
    limit_threads(args.threads)
    on, cells = note_machine(args.out, args.threads, ["torch", "numpy", "ndm"]), Cells(args.out, KEY)
    for seed in args.seeds:
        for name in args.tables:
            if (name, args.rows, seed) in cells:
                continue
            known, rng = TABLES[name], np.random.default_rng(seed)
            with clock() as fitting:
                density = ours(seed).fit(known.draw(args.rows, rng))
            new = known.draw(NEW_ROWS, rng)
            gaps = known.log_p(new) - np.asarray(density.score_samples(new))
            gap, error = mean_and_error(gaps.tolist())
            rows, weights = known.everything(density.model_.decoder.marginals)
            with clock() as scoring:
                shares = np.exp(known.log_p(rows)) * weights
                total, total_error = total_of(density, rows, weights, shares, known.draws, seed)
            cells.add({
                "table": name, "rows": args.rows, "seed": seed, "gap": gap, "error": error, "total": total,
                "total_error": total_error, "process_seconds": fitting.process,
                "scoring_ms_per_row": 1e3 * scoring.process / len(rows), "on": on,
            })  # fmt: skip
            say(f"{name}, {args.rows} rows, seed {seed}: gap {gap:.4f} ({error:.4f}) nats, total {total:.5f}, s.e. "
                f"{total_error:.5f}")  # fmt: skip


def total_of(
    density: Any, rows: pd.DataFrame, weights: np.ndarray, shares: np.ndarray, count: int, seed: int
) -> tuple[float, float]:
    """The weighted sum of the density of rows, and its standard error; each row gets its share of all draws."""
    encoded, model = torch.from_numpy(density.schema_.encode(Frame.of(rows))), density.model_
    draws = (
        np.maximum(FEWEST_DRAWS, np.rint(count * shares).astype(int))
        if model.decoder.drawn
        else np.ones(len(rows), int)
    )
    generator = torch.Generator().manual_seed(seed)
    parts = [
        ndm.log_prob(model, part, solver=SOLVER, dtype=torch.float64, generator=generator)
        for part in encoded.repeat_interleave(torch.from_numpy(draws), 0).split(2048)
    ]
    terms = np.split(torch.cat(parts).exp().numpy(), np.cumsum(draws)[:-1])
    total = sum(weight * term.mean() for weight, term in zip(weights, terms, strict=True))
    variances = [w**2 * t.var(ddof=1) / len(t) for w, t in zip(weights, terms, strict=True) if len(t) > 1]
    return float(total), float(np.sqrt(sum(variances)))


def table_of(out: Path) -> str:
    """The Markdown table of what is finished."""
    header = [
        "table",
        "training rows",
        "seed",
        "gap, nats (s.e.)",
        "total",
        "ms for a row of the total",
    ]
    lines = []
    for r in Cells(out, KEY).records.values():
        figures = [shown(r["gap"], r["error"], 4), shown(r["total"], r["total_error"] or None, 4)]
        figures.append(f"{r['scoring_ms_per_row']:.2f}")
        lines.append([r["table"], str(r["rows"]), str(r["seed"]), *figures])
    return markdown_table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), metavar="TABLE")
    parser.add_argument("--rows", type=int, default=2_000, help="the number of training rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    record_options(parser, "known.jsonl")
    args = parser.parse_args()
    if not args.table:
        run(args)
    print(table_of(args.out))
    off = [r for r in Cells(args.out, KEY).records.values() if abs(r["total"] - 1) > 0.005]
    if off:
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(ends(main))
