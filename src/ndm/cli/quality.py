"""``ndm quality``: compare samples of a run with its test rows, and training rows with the same test rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from jsonargparse import ArgumentParser, Namespace

from ..errors import InputError
from .commands import COMMANDS, Command, parsed_by
from .common import add_common, add_run, add_sampling, chosen_solver, draw, open_run, require_positive, select_device

if TYPE_CHECKING:
    from torch import Tensor


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
    from ..evaluation.inception import inception_distances, inception_metrics
    from ..evaluation.quality import quality
    from ..evaluation.tables import scores_table
    from ..saving import weights_checksum
    from ..support.journal import append_line
    from ..support.progress import progress_bar

    require_positive(args, "num", "steps")
    run, model, dataset = open_run(args)
    if args.inception is not None:  # these checks come before sampling, which may take an hour
        if dataset.levels != 256:
            raise InputError(f"--inception is for 8-bit images, and {dataset.name} has none; leave it out")
        if not args.inception.is_file():
            raise InputError(f"--inception {args.inception}: there is no such file")
        inception_metrics()
    facts = run.facts(dataset) | {"seed": args.seed}
    if args.samples is None:
        model = model.to(select_device(args.device))
        solver = chosen_solver(args, run)
        x = draw(model, dataset.shape, args.num, solver, args.seed)
        facts |= {"solver": solver.name, "steps": solver.steps, "weights_sha256": weights_checksum(model)}
    else:
        x = read_samples(args.samples)
        facts |= {"samples": str(args.samples)}
    with progress_bar(f"comparing {len(x)} samples", None):
        scores = quality(x, dataset.train, dataset.test, args.seed)
    if args.inception is not None:
        scores += inception_distances(x.byte(), dataset.train.byte(), dataset.test.byte(), args.inception, args.seed)
    result = {**facts, "rows": len(x), "scores": [score._asdict() for score in scores]}
    append_line(run.qualities_file, result)
    print(json.dumps(result, indent=2) if args.json else scores_table(scores))


def read_samples(path: Path) -> Tensor:
    """The array ``x`` of an .npz file.

    Raises:
        InputError: if the file cannot be read or has no such array.
    """
    import numpy as np
    import torch

    try:
        with np.load(path, allow_pickle=False) as file:
            return torch.from_numpy(file["x"])
    except (OSError, ValueError, KeyError, TypeError, IndexError, BadZipFile) as error:
        raise InputError(f"cannot read samples from {path} ({error}); make them with ndm sample --out x.npz") from None


COMMANDS.add("quality", Command("measure how good a trained model's samples are", parsed_by(make_parser), run))
