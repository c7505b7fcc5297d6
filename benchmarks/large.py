"""A file of millions of rows scored by ``ndm score``: the rate, and the memory, which does not grow with the file.

    python benchmarks/large.py --folder FOLDER [--rows 100000 5000000] [--width 32]
    python benchmarks/large.py --table

The rows have two real columns, the second about a wave of the first. The script trains a small model, writes a CSV file
of each size into the folder, scores it as a user would, in a process of its own, and notes the most memory that this
process had. The ranks of the scores need eight bytes a row. A size that is recorded is not scored again. The script
exits with 1 if the largest file took over 25 bytes of memory a row more than the smallest.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

from cells import Cells, ends, note_machine, record_options, say
from ndm.errors import InputError
from ndm.evaluation.tables import markdown_table

PART = 100_000
KEY = ("rows", "width")


def write_rows(path: Path, count: int) -> None:
    """Write a CSV file of that many rows, part by part."""
    rng = np.random.default_rng(count)
    with path.open("w", encoding="utf-8") as file:
        file.write("x,y\n")
        for start in range(0, count, PART):
            n = min(PART, count - start)
            x = rng.normal(size=n)
            y = np.sin(3 * x) + 0.3 * rng.normal(size=n)
            file.writelines(f"{a:.6f},{b:.6f}\n" for a, b in zip(x, y, strict=True))


def command(*arguments: object) -> tuple[float, float, float]:
    """Run ``ndm`` in a process of its own: the seconds, the seconds of the processor, and the most memory in MiB.

    Raises:
        InputError: if it fails.
    """
    start = time.perf_counter()
    words = [sys.executable, "-m", "ndm", *map(str, arguments)]
    _, status, usage = os.wait4(os.spawnv(os.P_NOWAIT, sys.executable, words), 0)
    if status:
        raise InputError(f"ndm {arguments[0]} failed")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def run(args: argparse.Namespace) -> None:
    """Score the files whose sizes are not recorded."""
    if args.folder is None:
        raise InputError("give --folder a folder for the files and the model, or --table")
    args.folder.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    on, cells = note_machine(args.out, args.threads, ["torch", "pyarrow", "ndm"]), Cells(args.out, KEY)
    model = args.folder / f"run-{args.width}"
    for rows in args.rows:
        if (rows, args.width) in cells:
            continue
        if not (model / "model" / "model.safetensors").exists():
            write_rows(args.folder / "train.csv", 5_000)
            options = ["--model.width", args.width, "--training.steps", 1_000, "--device", "cpu", "--overwrite"]
            command("train", "table", "--data.path", args.folder / "train.csv", "--out", model, *options)
        path = args.folder / f"{rows}.csv"
        write_rows(path, rows)
        seconds, process, memory = command("score", model, path, "--out", args.folder / "scores.csv", "--device", "cpu")
        path.unlink()
        cells.add({
            "rows": rows, "width": args.width, "seconds": seconds, "process_seconds": process,
            "rows_per_second": rows / seconds, "mebibytes": memory, "on": on,
        })  # fmt: skip
        say(f"{rows:,} rows: {rows / seconds:,.0f} rows/s, {memory:,.0f} MiB")


def table_of(records: list[dict]) -> str:
    """The Markdown table of what is finished."""
    header = ["rows", "width of the network", "seconds", "rows per second", "most memory, MiB"]
    return markdown_table(header, [
        [f"{r['rows']:,}", str(r["width"]), *(f"{r[key]:,.0f}" for key in ("seconds", "rows_per_second", "mebibytes"))]
        for r in records
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder for the files and the model")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 5_000_000])
    parser.add_argument("--width", type=int, default=128, help="width of the network")
    record_options(parser, "large.jsonl", threads=2)
    args = parser.parse_args()
    if not args.table:
        run(args)
    records = [r for _, r in sorted(Cells(args.out, KEY).records.items())]
    print(table_of(records))
    for width in {r["width"] for r in records}:
        first, *_, last = [r for r in records if r["width"] == width] * 2
        if (last["mebibytes"] - first["mebibytes"]) * 2**20 > 25 * (last["rows"] - first["rows"]):
            raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(ends(main))
