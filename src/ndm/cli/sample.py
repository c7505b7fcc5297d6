"""``ndm sample``: draw samples from a trained model, as a picture or an array."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from ..errors import InputError
from ..support.devices import select_device
from ..support.files import check_writable, whole_file
from .commands import COMMANDS, Command, parsed_by
from .common import (
    INTERRUPTED,
    add_common,
    add_run,
    add_sampling,
    chosen_solver,
    draw,
    open_run,
    require_positive,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ..data import Dataset
    from ..experiment import Snapshot


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="ndm sample",
        exit_on_error=False,
        description="Draw samples from a run's model, as a picture or as an array.",
    )
    add_run(parser)
    parser.add_argument("--num", type=int, default=64, help="number of samples")
    add_sampling(parser)
    parser.add_argument("--mode", action="store_true", help="decode to the most probable value, not to a draw")
    parser.add_argument(
        "--out", type=Path, default=Path("samples.png"), help="file: a .png picture, or an .npz with the array x"
    )
    add_common(parser)
    return parser


def run(args: Namespace) -> int:
    import torch

    from ..sampling import SOLVERS
    from ..support.progress import console, warn

    if args.out.suffix not in (".png", ".npz"):
        raise InputError(f"--out must end in .png or .npz, got {args.out}")
    require_positive(args, "num", "steps")
    if args.out.is_dir():
        raise InputError(f"--out {args.out} is a folder; give a file name")
    device = select_device(args.device)
    run, snapshot, dataset = open_run(args)
    solver = chosen_solver(args, run)
    make_folder(args.out)
    if args.out.exists():
        warn(f"{args.out} exists and will be replaced")
    parts: list[Tensor] = []
    try:
        draw(snapshot.model.to(device), dataset.shape, args.num, solver, args.seed, args.mode, parts)
    except KeyboardInterrupt:
        if not parts:
            console.print(f"interrupted before the first samples were finished; {args.out} is not written")
            return INTERRUPTED
    x = torch.cat(parts)
    steps = f" {solver.steps} steps" if SOLVERS[solver.name].takes_steps else ""
    write(args.out, x, snapshot, dataset, f"{run.folder.name}, {snapshot.progress}, {solver.name}{steps}")
    done = len(x) == args.num
    console.print(f"{'' if done else 'interrupted: '}{len(x)} of {args.num} samples in {args.out}, {snapshot.progress}")
    return 0 if done else INTERRUPTED


def make_folder(out: Path) -> None:
    """Make the folder of a file, and refuse one in which no file can be made.

    Raises:
        InputError: with the reason of the system.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror or error}") from None
    check_writable(out.parent)


def write(out: Path, x: Tensor, snapshot: Snapshot, dataset: Dataset, title: str) -> None:
    """Write samples as a picture with a title or as an array, whole or not at all.

    Raises:
        InputError: if they are not finite.
    """
    import numpy as np

    from ..evaluation.pictures import write_samples

    if not bool(x.isfinite().all()):
        raise InputError("the samples are not finite, as the model's weights are not; try --checkpoint best")
    if out.suffix == ".png":
        write_samples(snapshot.model, x, dataset.test, out, title, dataset.distribution)
        return
    step = -1 if snapshot.step is None else snapshot.step
    with whole_file(out) as partial_file:
        np.savez_compressed(partial_file, x=x.numpy(), step=np.int64(step), last_step=np.int64(snapshot.last_step))


COMMANDS.add("sample", Command("draw samples from a trained model", parsed_by(make_parser), run))
