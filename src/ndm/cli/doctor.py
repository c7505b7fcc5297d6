"""``ndm doctor``: show which parts of a model's bound cost how many bits, and advise what to change."""

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
        description="Examine a run's model on validation rows, and say what to change. The report has the bits of each "
        "term of the bound and of each tenth of time, the prior gap, the fit of gamma_0 to the data's levels, the cost "
        "and stiffness of the ODE, and the ODE's likelihood beside the bound. The picture is written to "
        "RUN/doctor.png. A small model takes less than a minute.",
    )
    add_run(parser)
    parser.add_argument("--limit", type=int, default=256, help="largest number of rows to use, from the first")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_common(parser)
    return parser


def run(args: Namespace) -> None:
    from ..evaluation.diagnosis import diagnose, report
    from ..evaluation.pictures import draw_diagnosis
    from ..support.progress import progress_bar

    require_positive(args, "limit")
    run, model, dataset = open_run(args)
    model = model.to(select_device(args.device))
    rows = dataset.validation[: args.limit].to(model.reference.device)
    with progress_bar("examining: bound, time profile, ODE", None):
        diagnosis = diagnose(model, rows, args.seed)
    draw_diagnosis(diagnosis, run.folder / "doctor.png")
    print(json.dumps(asdict(diagnosis), indent=2) if args.json else report(diagnosis))


COMMANDS.add("doctor", Command("say where a trained model's bits go, and what to change", parsed_by(make_parser), run))
