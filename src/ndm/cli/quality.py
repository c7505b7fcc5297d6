"""``ndm quality``: compare samples of a run with its test rows, and training rows with the same test rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from ..errors import InputError, printable
from ..support.devices import select_device
from .commands import COMMANDS, Command, parsed_by
from .common import add_common, add_run, add_sampling, chosen_solver, draw, open_run, require_positive

if TYPE_CHECKING:
    from torch import Tensor

    from ..data import Dataset


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="ndm quality",
        exit_on_error=False,
        description="Measure how good a run's samples are: sliced Wasserstein distance, a classifier two-sample test, "
        "precision and recall, and memorisation. Beside each score is that of as many training rows against the same "
        "test rows, which is about the score of a perfect sampler. Nothing is downloaded; FID and KID need a file of "
        "weights. The result is appended to RUN/qualities.jsonl.",
    )
    add_run(parser)
    parser.add_argument("--samples", type=Path, default=None, help=".npz of `ndm sample`; by default samples are drawn")
    parser.add_argument("--num", type=int, default=1000, help="number of samples to draw")
    add_sampling(parser)
    parser.add_argument(
        "--inception", type=Path, default=None, help="file weights-inception-2015-*.pth; it adds FID and KID"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_common(parser)
    return parser


def run(args: Namespace) -> None:
    from ..evaluation.inception import inception_distances
    from ..evaluation.quality import check_sizes, quality
    from ..evaluation.tables import scores_table
    from ..experiment.results import as_json, check_finite, warn_unless_writable
    from ..saving import weights_checksum
    from ..support.progress import progress_bar

    require_positive(args, "num", "steps")
    device = select_device(args.device)
    given = None if args.samples is None else read_samples(args.samples)
    run, snapshot, dataset = open_run(args)
    # Everything that can be checked is checked before sampling, which may take an hour.
    if dataset.schema is not None:
        raise InputError(f"quality compares pictures, and {args.run} is a table; its figures are those of ndm evaluate")
    if dataset.alphabet:
        raise InputError(f"quality compares pictures, and {args.run} is text; its figures are those of ndm evaluate")
    check_sizes(args.num if given is None else len(given), len(dataset.train), len(dataset.test))
    if args.inception is not None:
        check_inception(args.inception, dataset)
    warn_unless_writable(run.folder)
    facts, stamp = run.facts(dataset, snapshot) | {"seed": args.seed}, run.stamp
    if given is None:
        model, solver = snapshot.model.to(device), chosen_solver(args, run)
        x = draw(model, dataset.shape, args.num, solver, args.seed)
        facts |= {"solver": solver.name, "steps": solver.steps, "weights_sha256": weights_checksum(model)}
    else:
        x = checked_samples(given, dataset, args.samples)
        facts |= {"samples": str(args.samples)}
    with progress_bar(f"comparing {len(x)} samples", None):
        scores = quality(x, dataset.train, dataset.test, args.seed)
    if args.inception is not None:
        scores += inception_distances(x.byte(), dataset.train.byte(), dataset.test.byte(), args.inception, args.seed)
    result = {**facts, "rows": len(x), "scores": [score._asdict() for score in scores]}
    check_finite(result)
    run.keep(run.qualities_file, result, stamp)
    if args.json:
        print(as_json(result))
        return
    print(scores_table(scores))
    source = str(args.samples) if given is not None else f"{run.folder.name}, {snapshot.progress}"
    print(f"samples of {printable(source)}")


def check_inception(weights: Path, dataset: Dataset) -> None:
    """Refuse what FID and KID cannot use.

    Raises:
        InputError: if the data are not 8-bit images, or if the file of weights or a library is missing.
    """
    from ..evaluation.inception import load_inception

    if dataset.levels != 256:
        raise InputError(f"--inception is for 8-bit images, and {dataset.name} has none; leave it out")
    if not weights.is_file():
        raise InputError(f"--inception {weights}: there is no such file")
    load_inception(weights)


def read_samples(path: Path) -> Tensor:
    """The array ``x`` of an .npz file.

    Raises:
        InputError: if the file cannot be read, has no such array, or if the array does not hold real numbers.
    """
    import numpy as np
    import torch

    from ..support.files import reading
    from ..support.npy import opened_archive, read_member

    damaged = "is not a file of samples; make one with ndm sample --out x.npz"
    with reading(path, damaged), opened_archive(path) as archive:
        if "x.npy" not in archive.namelist():
            raise InputError(f"{path} has no array x; make the samples with ndm sample --out x.npz")
        x = read_member(archive, "x", f"x in {path}")
    if x.dtype.kind not in "iuf" or x.ndim < 2:
        raise InputError(
            f"x in {path} is {x.dtype} of shape {x.shape}; samples are rows of integers or real numbers, as from ndm "
            "sample --out x.npz"
        )
    # Integers of other sizes and numbers in the other order of bytes are numbers all the same.
    return torch.from_numpy(x.astype(np.float64 if x.dtype.kind == "f" else np.int64))


def checked_samples(x: Tensor, dataset: Dataset, path: Path) -> Tensor:
    """Samples from a file, if they are in the units of the data; levels as integers.

    Raises:
        InputError: if the rows have another shape, or values that are no values of the data.
    """
    import torch

    if tuple(x.shape[1:]) != dataset.shape:
        raise InputError(
            f"the samples in {path} have rows of shape {tuple(x.shape[1:])}, and those of {dataset.name} have "
            f"{dataset.shape}"
        )
    if not bool(x.isfinite().all()):
        raise InputError(f"the samples in {path} are not finite in {int((~x.isfinite()).flatten(1).any(1).sum())} rows")
    if bool((x.abs() > torch.finfo(torch.float32).max).any()):  # their distances would leave the range of float64
        raise InputError(
            f"the samples in {path} have values beyond the range of float32, up to {x.abs().max().item():g}"
        )
    if dataset.levels is None:
        return x
    if bool((x != x.round()).any()) or bool((x < 0).any()) or bool((x >= dataset.levels).any()):
        raise InputError(
            f"the samples in {path} must be the integers 0..{dataset.levels - 1} that {dataset.name} has, and are "
            f"values from {x.min().item():g} to {x.max().item():g}"
            + (", not all of them integers" if bool((x != x.round()).any()) else "")
        )
    return x.long()


COMMANDS.add("quality", Command("measure how good a trained model's samples are", parsed_by(make_parser), run))
