"""``ndm demo``: train, evaluate and picture two models of digits."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..support.devices import select_device
from .commands import COMMANDS, Command, parsed_by
from .common import INTERRUPTED, add_common


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="ndm demo",
        exit_on_error=False,
        description="Train a conventional diffusion model and a neural diffusion model of the same size on 8x8 digits, "
        "evaluate both on test data, and write pictures, a summary and a page that opens in a browser. This takes "
        "about two minutes on two CPU cores.",
    )
    parser.add_argument("--out", type=Path, default=Path("ndm-demo"), help="folder for the results")
    parser.add_argument("--steps", type=int, default=500, help="number of training steps of each model, at most")
    add_common(parser)
    return parser


def run(args: Namespace) -> int:
    from ..demo import demo

    return 0 if demo(args.out, args.steps, seed=args.seed, device=select_device(args.device)) else INTERRUPTED


SUMMARY = "train, evaluate and picture two models on digits; start here"
COMMANDS.add("demo", Command(SUMMARY, parsed_by(make_parser), run))
