"""What is a learned forward process worth? Conventional and neural diffusion on seven sets, by ``ndm compare``.

    python benchmarks/worth.py --data FOLDER --work FOLDER [--aims paper fair few-2] [--sets checkerboard digits]
        [--seeds 3] [--seed 2] [--split test] [--jobs 1]
    python benchmarks/worth.py --table

The sets are ``checkerboard``, ``gmm-digits``, ``digits``, ``mnist`` (28 x 28, a small U-Net), ``power_plant`` and
``kin8nm`` (tables with the default model of tables) and ``cifar10`` (12,000 images). FOLDER holds ``uci/*.npz``,
``MNIST`` and ``cifar10_subset.npz``. A question is one of these aims:

* ``paper``: the protocol of the paper. Nothing is matched: F of the predictor's size comes on top of the baseline. The
  schedule is linear, the variance is fixed, and both are trained in continuous time. Images have levels.
* ``fair``: the same at equal parameters. A small F follows the noise, and the predictor is narrower, so that both
  together have the parameters of the conventional model.
* ``euler``: samples of the ODE in 1 to 8 steps of Euler's method, and by DDIM, at equal parameters. ``straight`` has a
  penalty on the acceleration along its paths; ``flow-matching`` is tried with that penalty, too.
* ``few-2``, ``few-4``: the same, trained for two or four steps, with a learned schedule, end and reverse variance for
  all variants; only ``nfdm`` and ``nfdm-path`` keep their own path, and models of tables have none of the three.

Choose by ``--split validation`` with seeds 0 and 1, and confirm with ``--seed 2``, which is the default. Runs lie in
the work folder, and finished ones are not repeated. The figures of each question are kept beside this file, and
``--table`` makes tables of them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from cells import RESULTS, choose, ends, limit_threads
from ndm.cli import main as command
from ndm.evaluation.tables import markdown_table
from ndm.experiment.differences import rows_of
from ndm.support.files import write_whole
from ndm.support.journal import read_lines

KEPT = RESULTS / "worth"
LEVELS = ["--model.parameterization", "levels"]
SETS = {
    "checkerboard": ["checkerboard", "--training.steps", "3000"],
    "gmm-digits": ["gmm-digits", "--model.tied_to", "time", "--training.steps", "3000"],
    "digits": ["digits-conventional", *LEVELS, "--model.dropout", "0.3", "--training.steps", "800"],
    "mnist": ["mnist-small-conventional", "--training.steps", "1500"],
    "power_plant": ["table", "--training.steps", "4000"],
    "kin8nm": ["table", "--training.steps", "4000"],
    "cifar10": ["array", "--training.steps", "1000"],
}
"""The recipe of each set and its budget."""
SAME_SIZE = {
    "checkerboard": (128, 3), "gmm-digits": (160, 3), "digits": (160, 3), "mnist": (48, 1), "power_plant": (128, 3),
    "kin8nm": (128, 3), "cifar10": (32, 1),
}  # fmt: skip
"""The width and the depth of an F of the predictor's size."""
IMAGES, TABLES = ("mnist", "cifar10"), ("power_plant", "kin8nm")
FORMS = ("conventional", "gains", "directions", "basis-curve", "network", "network-target")
ON_A_PATH = ("nfdm-path", "nfdm")
"""The variants on another path, without F and with it."""
OWN = Path(__file__).parent / "variants"
STRAIGHT = ("conventional", "flow-matching", str(OWN / "straight-flow-matching.yaml"), "straight")
AIMS = {
    "paper": (["conventional", "network"], ["--match", "none", "--steps", "10,50,1000,continuous"]),
    "fair": ([*FORMS, *ON_A_PATH], ["--match", "params", "--steps", "10,50,continuous"]),
    "euler": (
        [*STRAIGHT],
        [
            "--match",
            "params",
            "--steps",
            "continuous",
            "--sampling_steps",
            "1,2,4,8",
            "--solvers",
            "euler,ddim",
            "--ode_rows",
            "0",
        ],
    ),
    "few-2": ([*FORMS, *ON_A_PATH], ["--match", "params", "--steps", "2", "--training.bound_steps", "2"]),
    "few-4": ([*FORMS, *ON_A_PATH], ["--match", "params", "--steps", "4", "--training.bound_steps", "4"]),
}
"""The variants of each question, and the options."""
SMALL_F = (32, 1)
"""The size of F where parameters are matched, so that the predictor keeps most of its width."""


def data_of(name: str, folder: Path, work: Path) -> list[str]:
    """The options that name the data of a set."""
    if name in TABLES:
        path = work / f"{name}.csv"
        if not path.is_file():
            rows = np.load(folder / "uci" / f"{name}.npz")["data"]
            header = ",".join(f"x{j}" for j in range(rows.shape[1]))
            lines = "\n".join(",".join(map(repr, row)) for row in rows.tolist())
            write_whole(path, f"{header}\n{lines}\n")
        return ["--data.path", str(path)]
    if name == "cifar10":
        return ["--data.path", str(folder / "cifar10_subset.npz")]
    return ["--data.path", str(folder)] if name == "mnist" else []


def options_of(aim: str, name: str) -> list[str]:
    """The options of ``ndm compare`` for a question, without those of seeds and files."""
    variants, options = AIMS[aim]
    if name in IMAGES:  # a rotation of all pixels is larger than the predictor
        variants = [variant for variant in variants if variant != "directions"]
    if name in TABLES:  # they have one schedule, and it is not learned
        variants = [variant for variant in variants if variant not in ON_A_PATH]
        options = [*options, "--sampling_steps", "none"]
    found = [*SETS[name], *options, "--variants", ",".join(variants)]
    width, depth = SAME_SIZE[name] if aim == "paper" else SMALL_F
    found += ["--model.transform_width", str(width), "--model.transform_depth", str(depth)]
    if aim != "paper" and name != "kin8nm":  # one of its columns gets its noise first, so that F has one time
        found += ["--model.tied_to", "noise"]
    if aim.startswith("few") and name not in TABLES:
        found += ["--model.schedule", "learned", "--model.learned_end", "true", "--model.variance", "true"]
        found += ["--sampling_steps", aim.removeprefix("few-")]
    if name in IMAGES:
        found += ["--passes", "2", "--limit", "500", "--ode_rows", "0", "--samples", "500"]
        found += ["--training.evaluate_every", "500", "--training.sample_every", "0"]
    return found


def run(args: argparse.Namespace) -> None:
    limit_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    for aim in choose(args.aims, tuple(AIMS), "aim"):
        for name in choose(args.sets, tuple(SETS), "set"):
            if aim == "euler" and name in TABLES:
                continue  # rows of tables have no metrics of samples
            folder = args.work / f"{aim}-{name}-{args.split}"
            line = ["compare", *options_of(aim, name), *data_of(name, args.data, args.work), "--out", str(folder)]
            line += [
                "--seeds",
                str(args.seeds),
                "--seed",
                str(args.seed),
                "--split",
                args.split,
                "--jobs",
                str(args.jobs),
            ]
            if command([*line, "--device", "cpu", "--quiet"]):
                raise SystemExit(f"{aim}, {name}: stopped")
            keep(folder / "cells.jsonl", KEPT / f"{aim}-{name}{'' if args.split == 'test' else '-validation'}.jsonl")


def keep(source: Path, path: Path) -> None:
    """Copy the records of a comparison."""
    path.parent.mkdir(exist_ok=True)
    write_whole(path, source.read_text())


def tables() -> str:
    """A table for each question that has records."""
    texts = []
    for path in sorted(KEPT.glob("*.jsonl")):
        records = {(r["variant"], r["seed"]): r for r in read_lines(path, lambda line: isinstance(line, dict))}
        first = next(iter(records))[0]
        texts.append(f"### {path.stem}\n\n{markdown_table(*rows_of(records, first))}")
    return "\n".join(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--work", type=Path, help="folder of the runs")
    parser.add_argument("--aims", nargs="+", metavar="AIM", help=f"default: {' '.join(AIMS)}")
    parser.add_argument("--sets", nargs="+", metavar="SET", help=f"default: {' '.join(SETS)}")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--seed", type=int, default=2, help="the first seed")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a run")
    parser.add_argument("--table", action="store_true", help="only print the tables of what is kept")
    args = parser.parse_args()
    if not args.table:
        if args.data is None or args.work is None:
            parser.error("give --data and --work, or --table")
        run(args)
    print(tables())


if __name__ == "__main__":
    sys.exit(ends(main))
