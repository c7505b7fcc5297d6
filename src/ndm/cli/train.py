"""``ndm train``: train a recipe. Options override its settings."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from ..errors import InputError
from ..experiment.plan import PLANNED, planned_for
from ..experiment.recipe import find_recipe, read_settings
from ..experiment.settings import Config, add_settings, config_of, differences, make_config, named_settings
from ..hub import is_borrowed
from ..support.devices import select_device
from ..support.program import command
from .commands import COMMANDS, Command
from .common import INTERRUPTED, add_common
from .options import parse as parse_with

if TYPE_CHECKING:
    from accelerate import PartialState

    from ..data import Dataset
    from ..experiment.run import Run, Trained


TABLE, TEXT = "table", "text"
"""The name of the data set of the user's own tables."""
DESCRIPTION = (
    "Train a model. RECIPE is a name from `ndm recipes` or a YAML file. Options override its settings, e.g. `ndm train "
    "digits --out runs/digits --seed 0 --training.steps 300 --model.width 128`. On Ctrl-C or SIGTERM the run writes a "
    "checkpoint and stops; `ndm train --resume RUN` continues exactly from the newest one, and with a larger "
    "`--training.steps` it goes on to a later step. `--init RUN` starts with the weights of another run. `accelerate "
    "launch -m ndm train ...` trains on several devices."
)


def make_parser() -> ArgumentParser:
    more = " `ndm train RECIPE --help` shows a recipe's values."
    parser = ArgumentParser(prog="ndm train", exit_on_error=False, description=DESCRIPTION + more)
    parser.add_argument("recipe", type=str, nargs="?", help="name of a recipe, or a YAML file")
    parser.add_argument("--resume", type=Path, default=None, metavar="RUN", help="continue this run; give no recipe")
    parser.add_argument("--out", type=Path, default=None, help="folder of the run; the default is runs/RECIPE-seedN")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is already in that folder")
    add_common(parser, seed=False)
    add_settings(parser)
    return parser


def settings_of(given: Namespace) -> dict[str, Any]:
    """The settings that options override: those of the recipe, or of the run that is resumed.

    Raises:
        InputError: if neither or both are given, or if the settings cannot be read.
    """
    recipe, resume = given.get("recipe"), given.get("resume")
    if (recipe is None) == (resume is None):
        raise InputError("give a recipe (ndm train digits), or a run to go on with (ndm train --resume RUN)")
    if resume is None:
        return read_settings(find_recipe(recipe))
    if given.get("out") is not None or given.get("overwrite"):
        raise InputError("--resume continues in the run's own folder; leave out --out and --overwrite")
    from ..experiment import Run

    return read_settings(Run.started(resume).config_file, resolved=True)


def parse(arguments: list[str]) -> Namespace:
    """The parsed arguments. Their attribute ``config`` is the resolved configuration.

    The arguments are parsed twice, because the recipe among them decides the defaults of the others.

    Raises:
        InputError: if there is neither a recipe nor a run, or if a setting has a wrong value.
    """
    parser = make_parser()
    asked = [a for a in arguments if a not in ("-h", "--help")]
    given: set[str] = set()
    if asked or not arguments:
        options = parse_with(parser, asked, defaults=False)
        settings = settings_of(options)
        given = {*named_settings(settings), *options.keys()}
        if asked == arguments:  # the help does not wait for torch
            make_config(settings)  # a mistake in the recipe is told as such
        parser.set_defaults(named_settings(settings))
        parser.description = f"{DESCRIPTION} The defaults below are the recipe's."
        if asked != arguments and is_table(settings, options):
            for action in parser._actions:
                if action.dest in PLANNED and action.dest not in given:
                    action.default = "from the data"
    from ..data.listing import absolute

    args = parse_with(parser, arguments)  # with --help this prints the help and exits
    args.config, args.given = config_of(args), given
    paths = {"init": args.config.init, "data": args.config.data.path}
    found = {name: os.path.realpath(absolute(path)) for name, path in paths.items() if path is not None}
    if args.config.init is not None and is_borrowed(args.config.init):
        found["init"] = args.config.init
    data = replace(args.config.data, path=found.get("data"))  # the paths must hold from any directory
    args.config = replace(args.config, init=found.get("init"), data=data)
    return args


def is_table(settings: dict[str, Any], options: Namespace) -> bool:
    """Whether the data are a table, by the options or else by the recipe."""
    return (options.get("data.name") or settings.get("data", {}).get("name")) == TABLE


def run(args: Namespace) -> int:
    from ..experiment import Run
    from ..support.processes import connected, failing_together
    from ..support.progress import console

    device = select_device(args.device)
    processes = connected(device)
    console.quiet |= not processes.is_main_process
    run = Run.started(args.resume) if args.resume else Run(args.out or default_folder(args))
    # The first process writes. It has the folder to itself from here on, before anything is read or replaced.
    with ExitStack() as stack:
        with failing_together():
            if processes.is_main_process:
                stack.enter_context(run.lock)
        trained = train(args, run, device, processes)
    processes.wait_for_everyone()  # a process that exits early closes its connections, and the others would abort
    if not trained.finished:
        return INTERRUPTED
    if args.config.data.name == TABLE:
        follows = f"{command(f'score {run.folder} ROWS --out scores.csv')}, {command(f'evaluate {run.folder}')}"
        console.print(f"done: {run.folder} (schema.json, metrics.jsonl, model/). Next: {follows}")
        return 0
    samples = "samples.txt" if args.config.data.name == TEXT else "samples.png"
    console.print(f"done: {run.folder} ({samples}, metrics.jsonl, model/). Next: {command(f'evaluate {run.folder}')}")
    return 0


def default_folder(args: Namespace) -> Path:
    """The folder of a run for which no other is given."""
    return Path("runs") / f"{Path(args.recipe).stem}-seed{args.config.seed}"


def train(args: Namespace, run: Run, device: str, processes: PartialState) -> Trained:
    """Begin or continue a run, train it, and draw its samples. The first process holds the lock of the run."""
    from ..data import load_dataset
    from ..experiment.build import seeded_model, told_fourier
    from ..experiment.run import samples_suffix
    from ..experiment.snapshot import start_from
    from ..soundness import check_forward
    from ..support.processes import failing_together, first_process_first
    from ..support.progress import console, progress_bar
    from ..training.loss import check_loss
    from ..training.optimization import check_start

    config, resumed = args.config, args.resume is not None
    with failing_together():
        if processes.is_main_process and not resumed:
            run.check_free(args.overwrite)
    if config.init is not None and not resumed and Path(config.init).is_relative_to(os.path.realpath(run.folder)):
        raise InputError(f"--init {config.init} is in the run that would be replaced; choose another --out")
    check_start(config.training, processes.num_processes)
    # If there are several processes, the first one makes the folders and caches, and the others then find them.
    with first_process_first():
        dataset = load_dataset(**asdict(config.data))
        args.config = config = planned_for(config, args.given, dataset)
        model = seeded_model(config, dataset)
        if dataset.schema is not None and not resumed:
            args.config = config = told_fourier(config, model, "model.fourier" in args.given)
        if config.init is not None and not resumed:
            start_from(model, config.init)  # before the run begins, as this may fail
        check_loss(model, config.training)
        if not resumed:
            check_forward(model, dataset.train, config.training.bound_steps, processes.device)
        if resumed:
            continue_run(run, config, dataset, processes.is_main_process)
        elif processes.is_main_process:
            run.begin(config, args.overwrite)
    size = f"{model.num_parameters:,} parameters"
    console.print(f"{run.folder}: {size}, {dataset.name} {tuple(dataset.shape)}, on {device}")
    if dataset.schema is not None and not resumed:
        for line in dataset.schema.describe().splitlines():
            console.print(line)
        console.print(f"{dataset.release}; {config.training.steps} steps of {config.training.batch_size} rows")
    trained = run.train(dataset, device, resume=resumed, model=model)
    if trained.finished and dataset.schema is None:
        suffix = samples_suffix(dataset)
        drawn = run.folder / f"samples-{trained.step:08d}{suffix}"
        if not drawn.is_file():
            with progress_bar("drawing samples", None, visible=processes.is_main_process):
                run.draw_samples(trained.model, dataset, "samples", trained.step)
        elif processes.is_main_process:
            shutil.copyfile(drawn, run.folder / f"samples{suffix}")
    return trained


def continue_run(run: Run, config: Config, dataset: Dataset, write: bool) -> None:
    """Take over the settings that may differ when a run is resumed: ``data.path``, and a later ``training.steps``.

    Args:
        run: the run to resume.
        config: the settings that are asked for.
        dataset: the data at the path that is asked for.
        write: whether this process writes to the run's folder.

    Raises:
        InputError: if the run has other settings or other data.
    """
    changed = differences(run.config, config)
    moved, steps = changed.pop("data.path", None), changed.pop("training.steps", None)
    for key, (old, new) in changed.items():
        raise InputError(
            f"{key} is {old} in {run.folder} and {new} here, but a resumed run keeps its settings; leave the option "
            "out, or start a new run"
        )
    run.check_data(dataset)
    run.check_folders()
    if write and steps is not None:
        run.change_steps(config.training.steps)
    if write and moved is not None:
        run.save_config(config)
    run.config = config


COMMANDS.add("train", Command("train a recipe; options override its settings", parse, run))
