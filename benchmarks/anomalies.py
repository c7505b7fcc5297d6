r"""Anomalies in tables, found by the density of the normal rows: AUROC beside other detectors and published figures.

    python benchmarks/anomalies.py --data FOLDER [--sets thyroid cardio] [--methods knn iforest]
    python benchmarks/anomalies.py --data FOLDER --plain              # small sets are not resampled
    python benchmarks/anomalies.py --data FOLDER --contaminate 0.05   # anomalies among the training rows
    python benchmarks/anomalies.py --table

FOLDER holds ``adbench/*.npz`` with ``X`` (rows by columns) and ``y`` (1 for an anomaly). The protocol is that of
Livernoche et al., *On Diffusion Modeling for Anomaly Detection* (ICLR 2024). Its seeds are 0, 1, 2, 3 and 6:
with these, the k nearest neighbours have the published mean and standard deviation on every set.

* a set of fewer than 1,000 rows is resampled with replacement to 1,000 (so copies of a row are on both sides), and one
  of more than 50,000 is reduced to 50,000 without replacement;
* the first half of the normal rows, in this order, trains; the other half and all anomalies test;
* columns are standardised by the training rows; missing values then become 0, the mean.

The score of a detector is higher for a row that is less normal, and its figure is the area under the ROC curve:

.. math:: P(\text{score of an anomaly} > \text{score of a normal row}) + P(\text{equal}) / 2

Our detector gets the columns as they are. With ``--contaminate C``
randomly drawn anomalies, a share ``C`` of the training rows but at most half of all anomalies, train and do not test;
the records are in a file of their own.

Detectors without chance are run once where the rows are the same for every seed. A finished cell is not computed again,
and ``--plain`` takes the cells of the sets that are not resampled from the published protocol.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np

import ndm
from anomaly_rivals import Score, gmm, iforest, kde, knn, lof, ocsvm
from cells import OURS, Cells, choose, clock, common_options, ends, folder_of, limit_threads, note_machine, say
from ndm.errors import InputError
from ndm.evaluation.tables import markdown_table

PUBLISHED = Path(__file__).resolve().parent / "published" / "anomalies.csv"
FEWEST, MOST = 1_000, 50_000
SEEDS = (0, 1, 2, 3, 6)
KEY = ("set", "protocol", "seed", "method")
TASK = ("set", "protocol", "seed")


@dataclass
class Task:
    """The rows of one data set and seed.

    Args:
        train: rows that train, shape ``(N, D)``, not standardised.
        test: rows that test, shape ``(M, D)``.
        labels: 1 for an anomaly among the test rows, shape ``(M,)``.
        anomalies: how many of the training rows are anomalies.
        seeded: whether the rows depend on the seed.
    """

    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    anomalies: int
    seeded: bool

    def standardised(self) -> tuple[np.ndarray, np.ndarray]:
        """Training and test rows by the training rows' means and standard deviations; 0 for a missing value."""
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(self.train)
        return np.nan_to_num(scaler.transform(self.train)), np.nan_to_num(scaler.transform(self.test))


def draw_rows(count: int, seed: int, resample: bool) -> np.ndarray | None:
    """The rows of the protocol: ``FEWEST`` with replacement, ``MOST`` without, or None for all rows as they are."""
    if count > MOST:
        return np.random.RandomState(seed).choice(np.arange(count), MOST, replace=False)
    if count < FEWEST and resample:
        return np.random.RandomState(seed).choice(np.arange(count), FEWEST, replace=True)
    return None


def make_task(x: np.ndarray, y: np.ndarray, seed: int, plain: bool = False, contaminate: float = 0.0) -> Task:
    """Draw, split and contaminate the rows of a data set.

    Args:
        x: shape ``(N, D)``.
        y: 1 for an anomaly, shape ``(N,)``.
        plain: whether a small set stays as it is.
        contaminate: share of the training rows that are to be anomalies.
    """
    drawn = draw_rows(len(x), seed, not plain)
    if drawn is not None:
        x, y = x[drawn], y[drawn]
    x = x.astype(np.float64)
    normal, odd = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
    half = round(0.5 * len(normal))
    train, test = normal[:half], normal[half:]
    added = 0
    if contaminate:
        added = min(round(half * contaminate / (1 - contaminate)), len(odd) // 2)
        order = np.random.default_rng(seed).permutation(odd)
        train, odd = np.concatenate([train, np.sort(order[:added])]), np.sort(order[added:])
    test = np.concatenate([test, odd])
    return Task(x[train], x[test], (y[test] == 1).astype(int), added, drawn is not None or added > 0)


def area(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve; a score that is not a number counts as 0, as in the published code."""
    from sklearn.metrics import roc_auc_score

    finite = np.nan_to_num(scores, nan=0.0, posinf=np.finfo(np.float64).max, neginf=np.finfo(np.float64).min)
    return float(roc_auc_score(labels, finite))


def fit_ours(train: np.ndarray, seed: int) -> Score:
    """Our detector."""
    model = ndm.NeuralDiffusionDetector(random_state=seed).fit(train)
    return lambda x: -np.asarray(model.score_samples(x), dtype=np.float64)


@dataclass(frozen=True)
class Method:
    """A detector.

    Args:
        fit: training rows and a seed to a score.
        chance: whether its result depends on the seed.
        most: the most training rows that it is run on.
        published: its name in the published table.
        raw: whether it gets the columns as they are.
    """

    fit: Callable[[np.ndarray, int], Score]
    chance: bool = True
    most: int = MOST
    published: str = ""
    raw: bool = False


METHODS = {
    "knn": Method(knn, chance=False, published="KNN"),
    "lof": Method(lof, chance=False, published="LOF"),
    "iforest": Method(iforest, published="IForest"),
    "ocsvm": Method(ocsvm, chance=False, most=12_000, published="OCSVM"),
    "gmm": Method(gmm, most=30_000),
    "kde": Method(kde, most=12_000),
    OURS: Method(fit_ours, raw=True),
}


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """``X`` and ``y`` of a file."""
    with np.load(path) as file:
        return file["X"], file["y"]


def files(folder: Path, names: list[str] | None) -> list[Path]:
    """The files of the data sets, small ones first.

    Raises:
        InputError: on a name that is not there.
    """
    there = {p.stem: p for p in sorted(folder.glob("*.npz"), key=lambda p: p.stat().st_size)}
    return [there[name] for name in choose(names, tuple(there), "data set")]


def protocol(rows: int, plain: bool) -> str:
    """The name of the protocol in the records: ``plain`` only for a set that it makes a difference for."""
    return "plain" if plain and rows < FEWEST else "adbench"


def run(args: argparse.Namespace, out: Path) -> None:
    """Compute the cells that are not in the file yet."""
    methods = choose(args.methods, tuple(METHODS), "method")
    if args.data is None:
        raise InputError("give the folder of the data: --data FOLDER")
    paths = files(folder_of(args.data, "adbench", "*.npz"), args.sets)
    limit_threads(args.threads)
    on = note_machine(out, args.threads, ("torch", "numpy", "scikit-learn", "ndm"))
    cells, tasks = Cells(out, KEY), Cells(out, TASK, "task")
    for path in paths:
        x, y = load(path)
        for seed in args.seeds:
            task = make_task(x, y, seed, args.plain, args.contaminate)
            key = {"set": path.stem, "protocol": protocol(len(x), args.plain), "seed": seed}
            sizes = {"rows": len(x), "train": len(task.train), "anomalies": task.anomalies, "test": len(task.test)}
            for name in methods:
                method = METHODS[name]
                again = seed != args.seeds[0] and not (task.seeded or method.chance)
                if again or len(task.train) > method.most or (*key.values(), name) in cells:
                    continue
                tasks.add({**key, **sizes})
                train, test = (task.train, task.test) if method.raw else task.standardised()
                with clock() as spent:
                    score = method.fit(train, seed)
                with clock() as scoring:
                    figure = 100 * area(task.labels, score(test))
                seconds = {"seconds": spent.wall, "process_seconds": spent.process, "scoring_seconds": scoring.wall}
                seconds = {title: round(value, 2) for title, value in seconds.items()}
                cells.add({**key, "method": name, "auroc": round(figure, 4), **seconds, "on": on})
                say(f"{path.stem} ({key['protocol']}) seed {seed} {name}: {figure:.2f}, {spent.wall:.1f} s")


def published() -> dict[str, dict[str, float]]:
    """The published AUROC x 100, by method and data set."""
    found: dict[str, dict[str, float]] = {}
    with PUBLISHED.open() as file:
        for line in csv.DictReader(row for row in file if not row.startswith("#")):
            found.setdefault(line["method"], {})[line["set"]] = float(line["auroc"])
    return found


def never_resampled(out: Path) -> set[str]:
    """The sets that have enough rows."""
    return {task["set"] for task in Cells(out, TASK, "task").records.values() if task["rows"] >= FEWEST}


def cells_of(out: Path, variant: str) -> list[dict[str, Any]]:
    """The records of a protocol; for ``plain`` also those of the sets that are not resampled."""
    cells = Cells(out, KEY).records.values()
    large = never_resampled(out) if variant == "plain" else set()
    whole = [r for r in cells if r["protocol"] == "adbench" and r["set"] in large]
    return [r for r in cells if r["protocol"] == variant] + whole


def table(out: Path, variant: str) -> str:
    """Markdown tables of a variant: a row for each set, means, wins and losses, and seconds of a fit."""
    records = cells_of(out, variant)
    methods = [name for name in METHODS if any(r["method"] == name for r in records)]
    known = published()
    sets = sorted({r["set"] for r in records}, key=str.lower)
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in methods}
    for r in records:
        figures[r["method"]].setdefault(r["set"], []).append(r["auroc"])
    means = {name: {s: mean(values) for s, values in of.items()} for name, of in figures.items()}
    beside = [f"{name}, published" for name in known]
    lines = []
    for s in sets:
        best = max(means[name][s] for name in methods if s in means[name])
        line = [s]
        for name in methods:
            values = figures[name].get(s)
            text = "" if not values else f"{mean(values):.2f}" + (f" ({stdev(values):.2f})" if len(values) > 1 else "")
            line.append(f"**{text}**" if values and means[name][s] == best else text)
        lines.append([*line, *(f"{known[name][s]:.2f}" if s in known[name] else "" for name in known)])
    whole = [s for s in sets if all(s in of for of in means.values())]
    kept = [s for s in sets if s in never_resampled(out)]
    for title, chosen in (
        (f"mean of {len(sets)}", sets),
        (f"mean of the {len(kept)} that are never resampled", kept),
        (f"mean of the {len(whole)} that all have", whole),
    ):
        full = lambda of, chosen=chosen: f"{mean(of[s] for s in chosen):.2f}" if set(chosen) <= set(of) else ""  # noqa: E731
        if chosen:
            lines.append([title, *(full(means[name]) for name in methods), *(full(known[name]) for name in known)])
    text = markdown_table([variant, *methods, *beside], lines)
    return text + "\n" + against(means, known) + "\n" + times(records, methods)


def against(means: dict[str, dict[str, float]], known: dict[str, dict[str, float]]) -> str:
    """How often each method is above and below each other and the published ones, by more than 0.005."""
    others: dict[str, dict[str, float]] = {**means, **{f"{name}, published": of for name, of in known.items()}}
    lines = []
    for name, of in means.items():
        line = [name]
        for other, values in others.items():
            gaps = [of[s] - values[s] for s in of if s in values]
            wins, losses = sum(g > 0.005 for g in gaps), sum(g < -0.005 for g in gaps)
            line.append("" if other == name else f"{wins}-{losses}")
        lines.append(line)
    return markdown_table(["wins-losses of", *others], lines)


def times(records: list[dict[str, Any]], methods: list[str]) -> str:
    """The median and the largest processor time of a fit, in seconds summed over threads."""
    lines = []
    for name in methods:
        seconds = [r["process_seconds"] for r in records if r["method"] == name]
        lines.append([name, f"{median(seconds):.2f}", f"{max(seconds):.1f}", str(len(seconds))])
    return markdown_table(["processor seconds of a fit", "median", "largest", "fits"], lines)


def differences(out: Path) -> str:
    """Where a detector with a published figure differs from it by more than 0.1."""
    known, lines = published(), []
    records = cells_of(out, "adbench")
    for name, method in METHODS.items():
        for s in sorted({r["set"] for r in records}, key=str.lower):
            values = [r["auroc"] for r in records if r["set"] == s and r["method"] == name]
            target = known.get(method.published, {}).get(s)
            if values and target is not None and abs(mean(values) - target) > 0.1:
                spread = f"{stdev(values):.2f}" if len(values) > 1 else ""
                lines.append([s, name, f"{mean(values):.2f}", spread, str(len(values)), f"{target:.2f}"])
    return markdown_table(["set", "detector", "here", "s.d.", "seeds", "published"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_options(parser, "anomalies.jsonl", tuple(METHODS))
    parser.add_argument("--sets", nargs="+", metavar="SET", help="default: all of the folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--plain", action="store_true", help="do not resample small sets")
    parser.add_argument("--contaminate", type=float, default=0.0, help="share of anomalies among the training rows")
    parser.add_argument("--differences", action="store_true", help="only list what differs from the published figures")
    args = parser.parse_args()
    if not 0 <= args.contaminate < 1:
        raise InputError(f"--contaminate must be at least 0 and below 1, got {args.contaminate}")
    added = f"-contaminated-{args.contaminate:g}" if args.contaminate else ""
    out = args.out.with_name(f"{args.out.stem}{added}{args.out.suffix}")
    if args.differences:
        print(differences(out))
        return
    if not args.table:
        run(args, out)
    variants = dict.fromkeys(r["protocol"] for r in Cells(out, KEY).records.values())
    print("\n".join(table(out, variant) for variant in variants))


if __name__ == "__main__":
    sys.exit(ends(main))
