"""``ndm train``: train a recipe. Options override its settings."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from ..errors import InputError
from ..experiment.recipe import find_recipe, read_settings
from ..experiment.settings import GROUPS, Config, add_settings, differences, make_config, merged, named_settings
from .commands import COMMANDS, Command
from .common import INTERRUPTED, add_common, select_device
from .options import parse as parse_with

if TYPE_CHECKING:
    from ..data import Dataset
    from ..experiment import Run


def make_parser(settings: dict[str, Any] | None = None) -> ArgumentParser:
    parser = ArgumentParser(
        prog="ndm train",
        exit_on_error=False,
        description="Train a model. RECIPE is a name from `ndm recipes` or a YAML file. Options override its settings, "
        "e.g. `ndm train digits --out runs/digits --seed 0 --training.steps 300 --model.width 128`. "
        "On Ctrl-C or SIGTERM the run writes a checkpoint and stops; `ndm train --resume RUN` continues exactly from "
        "the newest one. `accelerate launch -m ndm train ...` trains on several devices. "
        + (
            "The defaults below are the recipe's." if settings else "`ndm train RECIPE --help` shows a recipe's values."
        ),
    )
    parser.add_argument("recipe", type=str, nargs="?", default=None, help="name of a recipe, or a YAML file")
    parser.add_argument("--resume", type=Path, default=None, metavar="RUN", help="continue this run; give no recipe")
    parser.add_argument("--out", type=Path, default=None, help="folder of the run; the default is runs/RECIPE-seedN")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is already in that folder")
    add_common(parser, seed=False)
    add_settings(parser)
    parser.set_defaults(named_settings(settings or {}))
    return parser


def settings_of(args: Namespace) -> dict[str, Any]:
    """The settings that options override: those of the recipe, or of the run that is resumed.

    Raises:
        InputError: if neither or both are given, or if the settings cannot be read.
    """
    if (args.recipe is None) == (args.resume is None):
        raise InputError("give a recipe (ndm train digits), or a run to go on with (ndm train --resume RUN)")
    if args.resume is None:
        return read_settings(find_recipe(args.recipe))
    if args.out is not None or args.overwrite:
        raise InputError("--resume continues in the run's own folder; leave out --out and --overwrite")
    from ..experiment import Run

    return read_settings(Run.started(args.resume).config_file)


def parse(arguments: list[str]) -> Namespace:
    """The parsed arguments. Their attribute ``config`` is the resolved configuration.

    Raises:
        InputError: if there is neither a recipe nor a run, or if a setting has a wrong value.
    """
    asked = [a for a in arguments if a not in ("-h", "--help")]
    if arguments and not asked:
        return parse_with(make_parser(), arguments)  # prints the help and exits
    parser = make_parser()
    given = parse_with(parser, asked, defaults=False).as_dict()
    args = parse_with(parser, asked)
    settings = settings_of(args)
    if asked != arguments:
        parse_with(make_parser(settings), arguments)  # prints the help with the recipe's values and exits
    options: dict[str, Any] = {key: given[key] for key in ("seed", "description") if key in given}
    for group in given.keys() & GROUPS.keys():  # without keys that the parser adds, such as __path__
        options[group] = {key: value for key, value in given[group].items() if not key.startswith("__")}
    path = options.get("data", {}).get("path")
    if path is not None:  # the path must hold from any directory
        options["data"]["path"] = str(Path(path).expanduser().resolve())
    args.config = make_config(merged(settings, options))
    return args


def run(args: Namespace) -> int:
    from accelerate import PartialState

    from ..data import load_dataset
    from ..experiment.run import seeded_model
    from ..support.progress import console, progress_bar
    from ..training.optimization import check_start

    config = args.config
    device = select_device(args.device)
    # If there are several processes, the first one makes the folders and caches, and the others then find them.
    processes = PartialState(cpu=device == "cpu")
    console.quiet |= not processes.is_main_process
    with processes.main_process_first():
        dataset = load_dataset(**asdict(config.data))
        model = seeded_model(config, dataset)  # before the folder is made, as this may fail
        check_start(config.training, processes.num_processes)
        run = open_folder(args, config, dataset)
    size = f"{model.num_parameters:,} parameters"
    console.print(f"{run.folder}: {size}, {dataset.name} {tuple(dataset.shape)}, on {device}")
    trained = run.train(dataset, device, resume=args.resume is not None, model=model)
    if not trained.finished:
        return INTERRUPTED
    last = run.folder / f"samples-{config.training.steps:08d}.png"
    if not last.is_file():
        with progress_bar("drawing samples", None, visible=processes.is_main_process):
            run.draw_samples(trained.model, dataset, "samples.png")
    elif processes.is_main_process:
        shutil.copyfile(last, run.folder / "samples.png")
    processes.wait_for_everyone()  # a process that exits early closes its connections, and the others would abort
    console.print(f"done: {run.folder} (samples.png, metrics.jsonl, model/). Next: ndm evaluate {run.folder}")
    return 0


def open_folder(args: Namespace, config: Config, dataset: Dataset) -> Run:
    """Create a new run, or open the one to resume.

    Raises:
        InputError: if the run to resume has other settings or other data; only ``data.path`` may differ.
    """
    from accelerate import PartialState

    from ..experiment import Run

    if args.resume is None:
        folder = args.out or Path("runs") / f"{Path(args.recipe).stem}-seed{config.seed}"
        return Run.create(folder, config, args.overwrite) if PartialState().is_main_process else Run(folder)
    run = Run.started(args.resume)
    changed = differences(run.config, config)
    moved = changed.pop("data.path", None)
    for key, (old, new) in changed.items():
        raise InputError(
            f"{key} is {old} in {run.folder} and {new} here, but a resumed run keeps its settings; leave the option "
            "out, or start a new run"
        )
    if moved:
        run.check_data(dataset)
        if PartialState().is_main_process:
            run.save_config(config)
    return run


COMMANDS.add("train", Command("train a recipe; options override its settings", parse, run))
