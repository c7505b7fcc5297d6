"""``ndm sample``: draw samples from a trained model, as a picture, an array, the rows of a table or text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from ..errors import InputError
from ..support.devices import select_device
from ..support.files import check_writable, destination, whole_file
from ..support.program import command
from .commands import COMMANDS, Command, parsed_by
from .common import (
    INTERRUPTED,
    add_common,
    add_run,
    add_sampling,
    chosen_solver,
    draw,
    folder_of,
    open_run,
    require_positive,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ..data import Dataset
    from ..experiment import Snapshot
    from ..model import NDM


PLAIN = (".csv", ".tsv", ".npz")
"""The endings of tables that are not packed."""
BLANK = "_"
"""What stands for a character that is not given."""


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="ndm sample",
        exit_on_error=False,
        description="Draw samples from a run's model: a picture or an array, or for a run of `ndm train table` a table "
        "with the columns and types of the training rows, e.g. ndm sample runs/table-seed0 --num 1000 --out new.csv, "
        'and for a run of `ndm train text` text, e.g. ndm sample runs/text-seed0 --prompt "To be, ___ that is". '
        "The run may also be digits-tiny, which comes with the package, or hf:user/model, which is downloaded from the "
        "Hub",
    )
    add_run(parser)
    parser.add_argument("--num", type=int, default=64, help="number of samples")
    add_sampling(parser)
    parser.add_argument("--mode", action="store_true", help="decode to the most probable value, not to a draw")
    parser.add_argument(
        "--out", type=Path, default=None,
        help="file: a .png picture or an .npz with the array x, by default samples.png; for a table a .csv, .tsv, "
        ".parquet or .npz file, by default samples.csv; for text a .txt file or an .npz, by default samples.txt",
    )  # fmt: skip
    parser.add_argument(
        "--prompt", default=None,
        help="for text, the characters of a window that are given, with _ for each that the model fills in, as it does "
        "after the end",
    )  # fmt: skip
    add_common(parser)
    return parser


def run(args: Namespace) -> int:
    import torch

    from ..sampling import SOLVERS
    from ..support.progress import console, warn
    from ..support.room import check_disk
    from ..tables import write as write_table

    name = args.run.name
    args.run = folder_of(args.run, args.quiet, "config.yaml")
    args.out = chosen_file(args.run, args.out)
    require_positive(args, "num", "steps")
    destination(args.out)
    device = select_device(args.device)
    run, snapshot, dataset = open_run(args)
    solver, source = chosen_solver(args, run), args.data.path or run.config.data.path
    if source is not None and args.out.exists() and Path(source).exists() and args.out.samefile(source):
        raise InputError(f"--out {args.out} is the file of the run's data; choose another name")
    given = None if args.prompt is None else prompted(snapshot.model, args.prompt)
    if given is not None and solver.name != "ancestral":
        raise InputError(f"--prompt is filled in by ancestral steps; leave out --solver {solver.name}")
    make_folder(args.out)
    if dataset.schema is not None and args.out.name.lower().endswith(PLAIN):  # a byte for each value, if not packed
        check_disk(args.num * len(dataset.schema.columns), f"{args.num:,} rows", destination(args.out).parent)
    if args.out.exists():
        warn(f"{args.out} exists and will be replaced")
    parts: list[Tensor] = []
    try:
        draw(snapshot.model.to(device), dataset.shape, args.num, solver, args.seed, args.mode, parts, given)
    except KeyboardInterrupt:
        if not parts:
            console.print(f"interrupted before the first samples were finished; {args.out} is not written")
            return INTERRUPTED
    x = torch.cat(parts)
    if dataset.schema is not None:
        check_finite(x)
        write_table(dataset.schema.decode(x.numpy()), args.out)
        return told(len(x), args.num, args.out, snapshot)
    steps = f" {solver.steps} steps" if SOLVERS[solver.name].takes_steps else ""
    write(args.out, x, snapshot, dataset, f"{name}, {snapshot.progress}, {solver.name}{steps}")
    return told(len(x), args.num, args.out, snapshot)


def chosen_file(run: Path, out: Path | None) -> Path:
    """The file for the samples of a run.

    Raises:
        InputError: if the run's samples cannot be written in its format, or if a run of a table has lost its schema.
    """
    from ..experiment import Run
    from ..tables import kept
    from ..tables.files import SUFFIXES, check_format

    if not (run / kept.FILE).is_file():
        if (run / "config.yaml").is_file() and Run.started(run).config.data.name == "table":
            raise InputError(f"{run / kept.FILE} is missing; write it again with {command(f'train --resume {run}')}")
        text = (run / "config.yaml").is_file() and Run.started(run).config.data.name == "text"
        suffix = ".txt" if text else ".png"
        out = out or Path(f"samples{suffix}")
        if out.suffix not in (suffix, ".npz"):
            raise InputError(f"--out must end in {suffix} or .npz, got {out}")
        return out
    out = out or Path("samples.csv")
    if not out.name.lower().endswith(SUFFIXES):
        raise InputError(f"--out of a table must end in {', '.join(SUFFIXES)}, got {out}")
    check_format(out)
    return out


def prompted(model: NDM, prompt: str) -> tuple[Tensor, Tensor]:
    """The codes of a window of text that begins with a prompt, and which of them are known: those that are not ``_``.

    Raises:
        InputError: if the model is not of text, the prompt is longer than a window, or a character is unknown.
    """
    import torch

    from ..symbols import SymbolDecoder

    if not isinstance(model.decoder, SymbolDecoder) or not model.decoder.alphabet or model.shape is None:
        raise InputError("--prompt is for runs of text")
    (size,) = model.shape
    if len(prompt) > size:
        raise InputError(f"--prompt has {len(prompt)} characters, and a window of this model has {size}")
    window = prompt.ljust(size, BLANK)
    known = torch.tensor([character != BLANK for character in window])
    given = window.replace(BLANK, model.decoder.alphabet[:1])
    return model.decoder.codes(given), known


def told(drawn: int, wanted: int, out: Path, snapshot: Snapshot) -> int:
    """Say how many samples are in the file, and return the exit status."""
    from ..support.progress import console

    done = drawn == wanted
    console.print(f"{'' if done else 'interrupted: '}{drawn} of {wanted} samples in {out}, {snapshot.progress}")
    return 0 if done else INTERRUPTED


def check_finite(x: Tensor) -> None:
    """Refuse samples that are not finite.

    Raises:
        InputError: with what to try.
    """
    if not bool(x.isfinite().all()):
        raise InputError("the samples are not finite, as the model's weights are not; try --checkpoint best")


def make_folder(out: Path) -> None:
    """Make the folder of a file, and refuse one in which no file can be made.

    Raises:
        InputError: with the reason of the system.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror or error}") from None
    check_writable(destination(out).parent)


def write(out: Path, x: Tensor, snapshot: Snapshot, dataset: Dataset, title: str) -> None:
    """Write samples as a picture or text with a title, or as an array, whole or not at all.

    Raises:
        InputError: if they are not finite.
    """
    import numpy as np

    from ..evaluation.pictures import write_samples
    from ..evaluation.texts import write_texts

    check_finite(x)
    if out.suffix == ".txt":
        write_texts(snapshot.model, x, out, title)
        return
    if out.suffix == ".png":
        write_samples(snapshot.model, x, dataset.test, out, title, dataset.distribution)
        return
    step = -1 if snapshot.step is None else snapshot.step
    with whole_file(out) as partial_file:
        np.savez_compressed(partial_file, x=x.numpy(), step=np.int64(step), last_step=np.int64(snapshot.last_step))


COMMANDS.add("sample", Command("draw samples from a trained model", parsed_by(make_parser), run))
