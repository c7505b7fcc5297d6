"""``ndm doctor``: where a trained model's bits go, and what to change."""

from __future__ import annotations

import json
from dataclasses import asdict

from jsonargparse import ArgumentParser, Namespace

from .commands import COMMANDS, Command, parsed_by
from .common import add_common, add_run, open_run, require_positive, select_device


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="ndm doctor",
        exit_on_error=False,
        description="Examine a run's model on validation rows: the share of each term of the bound and of each tenth "
        "of time, the prior gap, whether gamma_0 fits the data's levels, cost and stiffness of the ODE, the ODE "
        "against the bound, and what to change; the picture is RUN/doctor.png. Less than a minute for small models.",
    )
    add_run(parser)
    parser.add_argument("--limit", type=int, default=256, help="only the first so many rows")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_common(parser)
    return parser


def run(args: Namespace) -> None:
    from ..evaluation.diagnosis import diagnose, report
    from ..evaluation.pictures import draw_diagnosis
    from ..support.progress import console

    require_positive(args, "limit")
    run, model, dataset = open_run(args)
    model = model.to(select_device(args.device))
    rows = dataset.validation[: args.limit].to(model.reference.device)
    with console.status("examining: bound, time profile, ODE"):
        diagnosis = diagnose(model, rows, args.seed)
    draw_diagnosis(diagnosis, run.folder / "doctor.png")
    print(json.dumps(asdict(diagnosis), indent=2) if args.json else report(diagnosis))


COMMANDS.add("doctor", Command("where a trained model's bits go, and what to change", parsed_by(make_parser), run))
