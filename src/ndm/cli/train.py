"""``ndm train``: a recipe, any setting overridden."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..config import (
    GROUPS,
    Config,
    add_settings,
    differences,
    fields_of,
    find_recipe,
    make_config,
    make_model,
    read_settings,
)
from ..data import Dataset, load_dataset
from ..errors import InputError
from ..training import Run
from ..training.optimization import check_start
from .common import add_common, select_device


def make_parser(settings: dict[str, Any] | None = None) -> ArgumentParser:
    parser = ArgumentParser(
        prog="ndm train",
        exit_on_error=False,
        description="Train a model. RECIPE is a name from `ndm recipes` or a YAML file; every setting overrides it, "
        "e.g. `ndm train digits --out runs/digits --seed 0 --training.steps 300 --model.width 128`. "
        "Ctrl-C or SIGTERM writes a checkpoint first; `ndm train --resume RUN` goes on exactly from the newest one. "
        "On several devices: `accelerate launch -m ndm train ...` (batch_size is that of all together). "
        + (
            "The defaults below are the recipe's." if settings else "`ndm train RECIPE --help` shows a recipe's values."
        ),
    )
    parser.add_argument("recipe", type=str, nargs="?", default=None, help="a recipe's name or a YAML file")
    parser.add_argument("--resume", type=Path, default=None, metavar="RUN", help="go on with this run, no recipe given")
    parser.add_argument("--out", type=Path, default=None, help="the run's folder (runs/RECIPE-seedN unless given)")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is already there")
    add_common(parser, seed=False)
    add_settings(parser)
    parser.set_defaults(settings or {})
    return parser


def defaults(args: Namespace) -> dict[str, Any]:
    """The settings that options override: those of the recipe, or of the run that goes on.

    Raises:
        InputError: if there is neither or both, or they cannot be read.
    """
    if (args.recipe is None) == (args.resume is None):
        raise InputError("give a recipe (ndm train digits), or a run to go on with (ndm train --resume RUN)")
    if args.resume is None:
        return read_settings(find_recipe(args.recipe))
    if args.out is not None or args.overwrite:
        raise InputError("--resume goes on in the run's own folder: leave out --out and --overwrite")
    return read_settings(Run.started(args.resume).config_file)


def run(args: Namespace) -> None:
    from accelerate import PartialState

    from ..progress import console

    settings = {"seed": args.seed, "description": args.description}
    settings |= {f"{group}.{k}": args[group][k] for group in GROUPS for k in fields_of(group)}
    if settings["data.path"] is not None:  # the run is to be found from any directory
        settings["data.path"] = str(Path(settings["data.path"]).expanduser().resolve())
    config = make_config(settings)
    device = select_device(args.device)
    # Of several processes the first one makes the folders and caches that the others then find.
    processes = PartialState(cpu=device == "cpu")
    console.quiet = not processes.is_main_process
    with processes.main_process_first():
        dataset = load_dataset(**asdict(config.data))
        parameters = make_model(config, dataset).num_parameters  # what cannot be built leaves no folder behind
        check_start(config.training, processes.num_processes)
        run = _folder(args, config, dataset)
    console.print(f"{run.folder}: {parameters:,} parameters, {dataset.name} {tuple(dataset.shape)}, on {device}")
    model = run.train(dataset, device, resume=args.resume is not None)
    last = run.folder / f"samples-{config.training.steps:08d}.png"
    if not last.is_file():
        run.draw_samples(model, dataset, "samples.png")
    elif processes.is_main_process:
        shutil.copyfile(last, run.folder / "samples.png")
    processes.wait_for_everyone()  # one that leaves early takes its connections with it, and the others abort
    console.print(f"done: {run.folder} (samples.png, metrics.jsonl, model/). Next: ndm evaluate {run.folder}")


def _folder(args: Namespace, config: Config, dataset: Dataset) -> Run:
    """The run's folder: a new one, or the one that goes on, whose configuration must be this one (data may move)."""
    from accelerate import PartialState

    if args.resume is None:
        folder = args.out or Path("runs") / f"{Path(args.recipe).stem}-seed{config.seed}"
        return Run.create(folder, config, args.overwrite) if PartialState().is_main_process else Run(folder)
    run = Run.started(args.resume)
    changed = differences(run.config, config)
    moved = changed.pop("data.path", None)
    for key, (old, new) in changed.items():
        raise InputError(
            f"{key} is {old} in {run.folder} and {new} here: a run goes on as it began; leave the option out, or start "
            "a new run"
        )
    if moved:
        run.check_data(dataset)
        if PartialState().is_main_process:
            config.save(run.config_file)
    return run
