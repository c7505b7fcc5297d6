"""``ndm report``: one page of HTML about a run, or about several runs and their differences."""

from __future__ import annotations

from inspect import Parameter, signature
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..errors import InputError
from ..support.devices import select_device
from ..support.files import destination
from .commands import COMMANDS, Command, parsed_by
from .common import INTERRUPTED, add_common, add_source, folder_of, open_run

DESCRIPTION = (
    "Write one page of HTML about a run, which opens without a network: what was trained on what, every estimate that "
    "`ndm evaluate` and `ndm quality` have left in the run's folder, learning curves, bits by time, samples beside "
    "test rows and the nearest training rows, F(x, t) and paths of the ODE with sliders, the schedule, and what `ndm "
    "doctor` says. For a table it has the columns, pairs of columns and the oddest rows. With several runs, runs of "
    "equal settings and other seeds are one group, and a table says which differences exceed the spread of the seeds. "
    "The page holds test rows and training rows, of a table whole rows, so it should not be sent to others if they are "
    "secret. "
    "--data.path is the new path of all runs whose data have a path, and the other runs are read as they are. "
    "Examples: ndm report runs/digits --out report.html; ndm report runs/comparison/*-seed* --out report.html"
)


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="ndm report", exit_on_error=False, description=DESCRIPTION)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs; digits-tiny and hf:user/model, too")
    add_source(parser)
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the file, which ends in .html")
    add_common(parser)
    return parser


def run(args: Namespace) -> int:
    from ..support.progress import console, warn
    from ..support.weights import not_finite
    from .sample import make_folder

    if args.out.suffix not in (".html", ".htm"):
        raise InputError(f"--out must end in .html, got {args.out}")
    destination(args.out)
    runs = [folder_of(name, args.quiet, "config.yaml") for name in args.runs]
    folders = [folder.resolve() for folder in runs]
    if twice := next((f for f in folders if folders.count(f) > 1), None):
        raise InputError(f"{twice} is given twice; give each run once")
    device = select_device(args.device)
    moved = [folder for folder in runs if len(runs) == 1 or has_path(folder)] if args.data.path is not None else []
    if args.data.path is not None and not moved:
        raise InputError("none of these runs has data with a path; leave out --data.path")

    from ..report import Subject, write_report

    subjects = []
    for folder in runs:
        own = args.clone()
        own.data.path = args.data.path if folder in moved else None
        found, snapshot, dataset = open_run(own, folder)
        if weights := not_finite(snapshot.model.state_dict()):
            raise InputError(f"{folder}: the model has {weights}; try --checkpoint best, or train it again")
        subjects.append(Subject(found, snapshot, dataset, snapshot.model.to(device), args.seed))
    make_folder(args.out)
    if args.out.exists():
        warn(f"{args.out} exists and will be replaced")
    try:
        size = write_report(subjects, args.out)
    except KeyboardInterrupt:
        console.print(f"interrupted; {args.out} is not written")
        return INTERRUPTED
    console.print(f"{args.out}: {size / 1e6:.2f} MB; open it in a browser")
    return 0


def has_path(folder: Path) -> bool:
    """Whether the data of a run have a path: one in its config, or one that a run from the Hub has no longer.

    Raises:
        InputError: if the folder is not a run's, or if its config cannot be read.
    """
    from ..data.names import DATASETS
    from ..experiment import Run

    data = Run.started(folder).config.data
    path = signature(DATASETS.find(data.name).load).parameters.get("path")
    return data.path is not None or (path is not None and path.default is Parameter.empty)


SUMMARY = "write a page about runs: estimates, samples, pictures with sliders, differences"
COMMANDS.add("report", Command(SUMMARY, parsed_by(make_parser), run))
