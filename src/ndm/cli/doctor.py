"""``ndm doctor``: show which parts of a model's bound cost how many bits, and advise what to change."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..errors import InputError, printable
from ..support.devices import select_device
from .commands import COMMANDS, Command, parsed_by
from .common import add_common, add_run, open_run, require_positive


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="ndm doctor",
        exit_on_error=False,
        description="Examine a run's model on validation rows, and say what to change. The report has the bits of each "
        "term of the bound and of each tenth of time, the prior gap, the fit of gamma_0 to the data's levels, the cost "
        "and stiffness of the ODE, and the ODE's likelihood beside the bound. The picture is written to "
        "RUN/doctor.png. A small model takes less than a minute. For text, RUN/symbols.png shows how the characters "
        "move, and in which order noise makes them one.",
    )
    add_run(parser)
    parser.add_argument("--limit", type=int, default=256, help="largest number of rows to use, from the first")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_common(parser)
    return parser


def run(args: Namespace) -> None:
    from ..evaluation.diagnosis import diagnose, report
    from ..evaluation.moves import draw_moves, moves, names_of, report_moves
    from ..evaluation.pictures import draw_diagnosis
    from ..experiment.results import as_json, check_finite, warn_unless_writable
    from ..support.progress import progress_bar

    require_positive(args, "limit")
    device = select_device(args.device)
    run, snapshot, dataset = open_run(args)
    warn_unless_writable(run.folder)
    model = snapshot.model.to(device)
    rows = dataset.validation[: args.limit].to(model.reference.device)
    with progress_bar("examining: bound, time profile, ODE", None):
        diagnosis = diagnose(model, rows, args.seed, unit=dataset.unit)
    result = {**snapshot.facts, **asdict(diagnosis)}
    check_finite(result)
    title = f"{run.folder.name}, {snapshot.progress}, {len(rows)} validation rows of {dataset.name}"
    draw_picture(partial(draw_diagnosis, diagnosis), run.folder / "doctor.png", title)
    found = moves(model) if dataset.alphabet else None
    if found is not None:
        draw_picture(partial(draw_moves, found, names_of(model)), run.folder / "symbols.png", title)
    if args.json:
        print(as_json(result))
        return
    print(f"{printable(run.folder.name)}, {snapshot.progress}: validation rows of {dataset.name}, seed {args.seed}")
    print(report(diagnosis))
    if found is not None:
        print(f"\n{report_moves(found, names_of(model))}")
    if dataset.schema is not None:
        nats = diagnosis.bound * rows.shape[1] * math.log(2)
        print(f"\nthe bound of a row of {rows.shape[1]} columns is {nats:.3f} nats, {nats / math.log(2):.3f} bits")


def draw_picture(draw: Callable[[Path, str], None], path: Path, title: str) -> None:
    """Draw a picture, or say why that is not possible: the report is printed in any case."""
    from ..experiment.results import warn_not_written

    try:
        draw(path, title)
    except (OSError, InputError) as error:
        warn_not_written(path, error)


COMMANDS.add("doctor", Command("say where a trained model's bits go, and what to change", parsed_by(make_parser), run))
