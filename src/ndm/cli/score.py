"""``ndm score``: log-densities of the rows of a table, their ranks, and the columns that make them odd."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..errors import InputError
from ..support.devices import select_device
from ..support.files import destination
from .commands import COMMANDS, Command, parsed_by
from .common import INTERRUPTED, add_common, folder_of

DESCRIPTION = (
    "Score the rows of a table by a model that `ndm train table` made. Each row gets log_density, the natural "
    "logarithm of its density: densities in the units of the real columns, times probabilities of the rounded "
    "numbers, counts, dates and categories. A row is odd if its number is low beside those of other rows; rank 1 is "
    "the oddest. A row that breaks what all training rows have in common, such as a category that none has, gets log "
    "1/(N + 2) for it, N being their number. The columns are found by name, in any order. The file is read in parts, "
    "so it may be larger than the memory; ranks need eight bytes a row, and there are none on standard output. Every "
    "row is checked before the first is scored, and --out is written whole or not at all. Example: ndm score "
    "runs/table-seed0 rows.csv --out scores.csv"
)


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="ndm score", exit_on_error=False, description=DESCRIPTION)
    parser.add_argument("model", type=Path, help="folder of the run or of its model, or hf:user/model")
    parser.add_argument("rows", type=Path, help="the rows: a .csv, .tsv, .parquet or .npz file")
    parser.add_argument(
        "--out", type=Path, default=None,
        help="a .csv or .parquet file for the scores, in the order of the rows; the default is standard output, "
        "without ranks",
    )  # fmt: skip
    parser.add_argument(
        "--explain", action="store_true",
        help="name the three columns that make each row odd (column_1, column_2, column_3), with their drops in nats: "
        "how far the log-density of the column's value, given the other columns, lies below what it is on average. A "
        "drop of 0 is ordinary. Where there are many columns, a row takes seconds: it may then be better to score all "
        "rows first, and to explain those of the first ranks",
    )  # fmt: skip
    parser.add_argument("--encoding", type=str, default="utf-8", help="encoding of rows in text, such as latin-1")
    add_common(parser)
    return parser


def run(args: Namespace) -> int:
    from ..scoring import TableModel, score_file, stream_scores
    from ..scoring.stream import SUFFIXES, CsvWriter, check_rows, columns_of
    from ..support.progress import console, warn

    out: Path | None = args.out
    if out is not None:
        if out.suffix not in SUFFIXES:
            raise InputError(f"--out must end in .csv or .parquet, got {out}")
        destination(out)
        if out.suffix == ".parquet" and find_spec("pyarrow") is None:
            raise InputError(f"--out {out} needs pyarrow; run: pip install 'ndm[tables]', or write a .csv file")
        if out.exists() and args.rows.exists() and out.samefile(args.rows):
            raise InputError(f"--out {out} is the file of the rows; choose another name")
        from .sample import make_folder

        make_folder(out)
    elif sys.stdout is None:
        raise InputError("standard output is closed; give a file for the scores with --out")
    device = select_device(args.device)
    model = TableModel.load(folder_of(args.model, args.quiet, "schema.json"), device, args.seed)
    try:
        if out is None:
            total = check_rows(model, args.rows, args.encoding)
            write = CsvWriter(sys.stdout)
            for scores in stream_scores(model, args.rows, total, args.explain, args.encoding):
                write(columns_of(model, scores))
                sys.stdout.flush()
            console.print(f"{total:,} rows scored; ranks need --out, because they need all rows")
            return 0
        if out.exists():
            warn(f"{out} exists and will be replaced")
        total = score_file(model, args.rows, out, args.explain, args.encoding)
    except KeyboardInterrupt:
        console.print("interrupted" if out is None else f"interrupted; {out} is not written")
        return INTERRUPTED
    console.print(f"{total:,} rows scored: {out}")
    return 0


COMMANDS.add(
    "score", Command("score the rows of a table: log-density, rank, and what is odd", parsed_by(make_parser), run)
)
