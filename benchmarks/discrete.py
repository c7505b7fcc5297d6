r"""Is a forward process that moves its symbols worth learning? Bits of text and of tables of categories.

    python benchmarks/discrete.py --data FOLDER [--sets letters mushrooms] [--methods moving learned] [--seeds 1 2]
    python benchmarks/discrete.py --data FOLDER --text my.txt      # another text, under the name of its file
    python benchmarks/discrete.py --table

FOLDER holds ``text/tinyshakespeare.txt``, ``tables/mushrooms.csv``, ``tables/adult.csv`` and ``MNIST``. The sets are:

* ``shakespeare``: its 65 characters; ``letters``: the same text as 26 small letters and the space. Windows of 32
  characters; the first 90 % train, the next 5 % validate and the last 5 % test. Bits per character.
* ``mushrooms``: all columns; ``adult``: the category columns. Columns that others determine are left out; 80 % of the
  rows train, 10 % validate and 10 % test. Bits per row.
* ``mnist``: the 256 levels of its images. The first 55,000 of the training images train, the others validate. Bits per
  pixel, of 300 test images.

The methods are those of ``discrete_models.py``: all diffusion models have the same network, steps, batches and
optimiser, and the weights of the best validation bound are kept. The dimension of the points of each method is the one
with the best validation bound among ``--dims`` with seed 0. The other seeds then train at this dimension alone, and
their test bounds make the table: the mean, and the paired difference to moving points that learn in the same way, with
an interval of 95 % by Student's t. All methods have the same test rows. The bound is also given in T = 2 to 64 steps,
and a second table has samples of text in so many steps; see ``discrete_samples.py``. A finished cell is not computed
again.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from cells import Cells, choose, clock, common_options, ends, limit_threads, note_machine, say
from discrete_fit import Fit, Rows, evaluated, parameters, split_text, trained
from discrete_models import BLIND, BOUND, METHODS, applies, fit_of, has_dim, plain
from discrete_rivals import Autoregressive
from discrete_samples import drawn, measures, words_of
from ndm.data import load_dataset
from ndm.errors import InputError
from ndm.evaluation.tables import markdown_table
from ndm.tables import Schema, read

SETS = ("mushrooms", "adult", "letters", "shakespeare", "mnist")
KEY = ("set", "method", "dim", "seed", "steps")
WINDOW = 32
STEPS = (2, 4, 8, 16, 64)
CHOOSING, SEEDS = 0, (1, 2, 3, 4, 5)
MOST_ROWS = 2000
"""The most validation rows, and the most test rows."""
TABLE_PASSES, TEXT_PASSES, IMAGE_PASSES = (32, 128, 16), (4, 16, 4), (1, 8, 1)
"""The passes over the validation rows, and over the test rows in continuous time and in few steps. A draw of the bound
of a row of a table is off by bits."""


HELD_OUT = "held out"
SAMPLES = 500
"""The windows that are drawn."""


def text_codes(text: str) -> tuple[torch.Tensor, str]:
    """The codes of the characters of a text, and its alphabet."""
    known, codes = np.unique(np.array([text]).view(np.uint32), return_inverse=True)
    return torch.from_numpy(codes.reshape(-1)), "".join(map(chr, known))


def letters_of(text: str) -> str:
    """A text as the 26 small letters and single spaces."""
    return re.sub("[^a-z]+", " ", text.lower())


def load(name: str, args: argparse.Namespace) -> tuple[Rows, tuple[torch.Tensor, ...], str]:
    """What the rows of a set are, its training, validation and test codes, and the alphabet of a text.

    Raises:
        InputError: if the file is missing.
    """
    if name in ("mushrooms", "adult"):
        frame = read(args.data / "tables" / f"{name}.csv")
        schema = Schema.fit(frame)
        codes = torch.from_numpy(schema.encode(frame)[:, len(schema.numeric) :]).long()
        order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))
        parts = codes[order].tensor_split([len(codes) * 8 // 10, len(codes) * 9 // 10])
        return Rows(tuple(count for _, count in schema.categories)), parts, ""
    if name == "mnist":
        images = load_dataset("mnist", args.data)
        return Rows((256,), image=images.shape), (images.train, images.validation[:300], images.test[:300]), ""
    file = args.text or args.data / "text" / "tinyshakespeare.txt"
    if not file.is_file():
        raise InputError(f"there is no {file}")
    text = file.read_text(encoding="utf-8")
    codes, alphabet = text_codes(letters_of(text) if name == "letters" else text)
    return Rows((len(alphabet),), WINDOW), split_text(codes, WINDOW), alphabet


def cell(name: str, method: str, dim: int, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """The record of one method with one dimension and seed."""
    rows, (train, validation, test), alphabet = load(name, args)
    places = rows.length or math.prod(rows.image)  # 1 for a table
    passes = TEXT_PASSES if rows.length else IMAGE_PASSES if rows.image else TABLE_PASSES
    bits = 1 / (math.log(2) * places)
    torch.manual_seed(seed)
    fit = fit_of(method, rows, train, dim)
    batch = 32 if rows.length else 16 if rows.image else 128
    with clock() as spent:
        every = max(1, args.steps // 8)
        fit, curve = trained(fit, train, validation[:MOST_ROWS], args.steps, batch, seed, every, passes[0])
    test = test[:MOST_ROWS]
    bound, error = evaluated(fit, test, fit.steps, passes[1])
    few = {} if method == "autoregressive" or fit.steps else {
        str(T): evaluated(fit, test, T, passes[2])[0] * bits for T in STEPS
    }  # fmt: skip
    samples = samples_of(fit, train, test, alphabet) if alphabet else {}
    return {
        "set": name, "method": method, "dim": dim, "seed": seed, "steps": args.steps, "test": bound * bits,
        "test_error": error * bits, "validation": [value * bits for value in curve], "in_steps": few,
        "samples": samples,
        "parameters": parameters(fit), "seconds": spent.process,
    }  # fmt: skip


def samples_of(fit: Fit, train: torch.Tensor, test: torch.Tensor, alphabet: str) -> dict[str, dict[str, float]]:
    """The measures of samples in few steps, and of as many test windows."""
    vocabulary = set(words_of("".join(alphabet[code] for code in [*train[:, 0].tolist(), *train[-1, 1:].tolist()])))
    found = {HELD_OUT: measures(test[:SAMPLES], alphabet, vocabulary)}
    for steps in [WINDOW] if isinstance(fit, Autoregressive) else [fit.steps] if fit.steps else STEPS:
        codes = drawn(fit, SAMPLES, WINDOW, steps, torch.Generator().manual_seed(0))
        found[str(steps)] = measures(codes, alphabet, vocabulary)
    return found


def best_dim(cells: Cells, name: str, method: str, steps: int) -> int | None:
    """The dimension with the best validation bound with the seed that chooses; None before it has been trained."""
    found = [r for r in cells.records.values() if (r["set"], r["method"], r["steps"]) == (name, method, steps)]
    found = [r for r in found if r["seed"] == CHOOSING]
    return min(found, key=lambda r: min(r["validation"]))["dim"] if found else None


def run(args: argparse.Namespace) -> None:
    methods = choose(args.methods, METHODS, "method")
    names = [args.text.stem] if args.text else choose(args.sets, SETS, "set")
    if args.data is None and args.text is None:
        raise InputError("give --data, the folder of the data sets, or --text")
    limit_threads(args.threads)
    cells = Cells(args.out, KEY)
    machine = note_machine(args.out, args.threads, ["ndm", "torch", "numpy"])

    def finish(name: str, method: str, dim: int, seed: int) -> None:
        if (name, method, dim, seed, args.steps) not in cells:
            record = cell(name, method, dim, seed, args)
            cells.add({**record, "on": machine})
            say(f"{name} {method} d = {dim} seed {seed}: {record['test']:.4f}, {record['seconds']:.0f} s")

    for name in names:
        rows, *_ = load(name, args)
        chosen = [method for method in methods if applies(method, rows)]
        for method in chosen:
            for dim in args.dims if has_dim(method, rows) else [0]:
                finish(name, method, dim, CHOOSING)
        for seed in args.seeds:
            for method in chosen:
                dim = best_dim(cells, name, method, args.steps)
                assert dim is not None
                finish(name, method, dim, seed)


def reference(method: str) -> str:
    """The method that another one is compared with: moving points that learn in the same way."""
    if method == f"moving{BLIND}":
        return f"moving{BOUND}"
    way = method.removeprefix(plain(method))
    return "moving" if method == f"moving{BOUND}" else f"moving{way}"


def interval(differences: list[float]) -> str:
    """The mean of paired differences with its interval of 95 %."""
    count = len(differences)
    if count < 2:
        return "".join(f"{value:+.4f}" for value in differences)
    half = student.ppf(0.975, count - 1) * np.std(differences, ddof=1) / count**0.5
    return f"{np.mean(differences):+.4f} ± {half:.4f}"


def table_of(path: Path, steps: int | None) -> str:
    """The table of finished cells: per set and method the test bound and the paired difference to ``moving``."""
    cells, lines = Cells(path, KEY), []
    found = {(r["set"], r["steps"]) for r in cells.records.values() if steps in (None, r["steps"])}
    for name, budget in sorted(found):
        tests: dict[str, dict[int, dict[str, Any]]] = {}
        for method in METHODS:
            dim = best_dim(cells, name, method, budget)
            records = [r for r in cells.records.values() if r["seed"] != CHOOSING and r["dim"] == dim]
            records = [r for r in records if (r["set"], r["method"], r["steps"]) == (name, method, budget)]
            tests[method] = {r["seed"]: r for r in records}
        for method, runs in tests.items():
            if runs:
                other = reference(method)
                common = sorted(runs.keys() & tests[other].keys())
                pairs = [runs[seed]["test"] - tests[other][seed]["test"] for seed in common]
                first = runs[min(runs)]
                few = [np.mean([r["in_steps"][str(T)] for r in runs.values()]) for T in STEPS if first["in_steps"]]
                mean = np.mean([r["test"] for r in runs.values()])
                against = f"{other} {interval(pairs)}" if pairs and method != other else ""
                lines.append([
                    name, str(budget), method, str(first["dim"] or "-"), str(len(runs)), f"{mean:.4f}",
                    against, *(f"{value:.3f}" for value in few),
                    *([""] * (len(STEPS) - len(few))), f"{first['parameters']:,}",
                ])  # fmt: skip
    header = ["set", "training steps", "method", "d", "seeds", "bits", "difference to", *(f"T = {T}" for T in STEPS)]
    return markdown_table([*header, "parameters"], lines)


def samples_table(path: Path) -> str:
    """The table of the samples of text: the share of known words and, behind it, that of different stretches."""
    cells, lines = Cells(path, KEY), []
    columns = [*map(str, STEPS), str(WINDOW), HELD_OUT]
    kept = [r for r in cells.records.values() if r.get("samples") and r["seed"] != CHOOSING]
    for name, budget in sorted({(r["set"], r["steps"]) for r in kept}):
        for method in METHODS:
            dim = best_dim(cells, name, method, budget)
            of = [r["samples"] for r in kept if (r["set"], r["steps"], r["method"]) == (name, budget, method)
                  and r["dim"] == dim]  # fmt: skip
            if of:
                shares = [[np.mean([s[c][m] for s in of]) if c in of[0] else None for c in columns]
                          for m in ("words", "different")]  # fmt: skip
                figures = ["" if w is None else f"{w:.3f} ({d:.3f})" for w, d in zip(*shares, strict=True)]
                lines.append([name, str(budget), method, str(len(of)), *figures])
    header = ["known words (different stretches)", "training steps", "method", "seeds"]
    return markdown_table([*header, *(f"T = {T}" for T in STEPS), "place by place", HELD_OUT], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_options(parser, "discrete.jsonl", METHODS)
    parser.add_argument("--sets", nargs="+", metavar="SET", help=f"default: {' '.join(SETS)}")
    parser.add_argument("--text", type=Path, help="a text in UTF-8, in place of the sets")
    parser.add_argument("--dims", nargs="+", type=int, default=[1, 2, 4, 8], help="dimensions of points that are tried")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="seeds after the dimension is chosen")
    parser.add_argument("--steps", type=int, default=4000, help="training steps")
    args = parser.parse_args()
    if CHOOSING in args.seeds:
        parser.error(f"seed {CHOOSING} chooses the dimension; give others")
    if not args.table:
        run(args)
    print(table_of(args.out, None))
    print(samples_table(args.out))


if __name__ == "__main__":
    sys.exit(ends(main))
