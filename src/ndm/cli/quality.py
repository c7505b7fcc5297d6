"""``ndm quality``: samples of a run beside its test rows, and beside training rows in the samples' place."""

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
        description="How good a run's samples are: sliced Wasserstein distance, a classifier two-sample test, "
        "precision and recall, memorisation. Beside each is what as many training rows score against the same test "
        "rows, which is about what a perfect sampler would. Nothing is downloaded; FID and KID want a weights file. "
        "The result is appended to RUN/qualities.jsonl.",
    )
    add_run(parser)
    parser.add_argument("--samples", type=Path, default=None, help="an .npz of `ndm sample`, instead of drawing")
    parser.add_argument("--num", type=int, default=1000, help="how many to draw")
    add_sampling(parser)
    parser.add_argument(
        "--inception", type=Path, default=None, help="Inception weights for FID and KID: weights-inception-2015-*.pth"
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
    from ..support.progress import console

    require_positive(args, "num", "steps")
    run, model, dataset = open_run(args)
    if args.inception is not None:  # before an hour of sampling
        if dataset.levels != 256:
            raise InputError(f"--inception is for 8-bit images, and {dataset.name} holds others; leave it out")
        if not args.inception.is_file():
            raise InputError(f"--inception {args.inception}: no such file")
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
    console.print(f"comparing {len(x)} samples")
    scores = quality(x, dataset.train, dataset.test, args.seed)
    if args.inception is not None:
        scores += inception_distances(x.byte(), dataset.train.byte(), dataset.test.byte(), args.inception, args.seed)
    result = {**facts, "rows": len(x), "scores": [score._asdict() for score in scores]}
    append_line(run.qualities_file, result)
    print(json.dumps(result, indent=2) if args.json else scores_table(scores))


def read_samples(path: Path) -> Tensor:
    """The array ``x`` of an .npz file.

    Raises:
        InputError: if there is none.
    """
    import numpy as np
    import torch

    try:
        with np.load(path, allow_pickle=False) as file:
            return torch.from_numpy(file["x"])
    except (OSError, ValueError, KeyError, TypeError, IndexError, BadZipFile) as error:
        raise InputError(f"cannot read samples from {path} ({error}); make them with ndm sample --out x.npz") from None


COMMANDS.add("quality", Command("how good a trained model's samples are", parsed_by(make_parser), run))
