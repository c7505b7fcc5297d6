"""``ndm sample``: draw samples from a trained model, as a picture or an array."""

from __future__ import annotations

import os
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..errors import InputError
from .commands import COMMANDS, Command, parsed_by
from .common import add_common, add_run, add_sampling, chosen_solver, draw, open_run, require_positive, select_device


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


def run(args: Namespace) -> None:
    import numpy as np

    from ..evaluation.pictures import write_samples
    from ..support.progress import console

    if args.out.suffix not in (".png", ".npz"):
        raise InputError(f"--out must end in .png or .npz, got {args.out}")
    require_positive(args, "num", "steps")
    if args.out.is_dir():
        raise InputError(f"--out {args.out} is a folder; give a file name")
    run, model, dataset = open_run(args)
    model = model.to(select_device(args.device))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    x = draw(model, dataset.shape, args.num, chosen_solver(args, run), args.seed, args.mode)
    partial = args.out.with_name(f".{args.out.stem}.partial{args.out.suffix}")
    try:
        if args.out.suffix == ".npz":
            np.savez_compressed(partial, x=x.numpy())
        else:
            write_samples(model, x, dataset.test, partial)
        os.replace(partial, args.out)
    finally:
        partial.unlink(missing_ok=True)
    console.print(f"{args.num} samples in {args.out}")


COMMANDS.add("sample", Command("draw samples from a trained model", parsed_by(make_parser), run))
