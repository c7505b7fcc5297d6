"""``ndm train``: a recipe, any setting overridden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..config import GROUPS, add_settings, fields_of, make_config, make_model
from ..data import load_dataset
from .common import add_common, select_device


def make_parser(settings: dict[str, Any] | None = None) -> ArgumentParser:
    parser = ArgumentParser(
        prog="ndm train",
        exit_on_error=False,
        description="Train a model. RECIPE is a name from `ndm recipes` or a YAML file; every setting overrides it, "
        "e.g. `ndm train digits --out runs/digits --seed 0 --training.steps 300 --model.width 128`. "
        "The defaults below are those of settings that the recipe leaves out.",
    )
    parser.add_argument("recipe", type=str, help="a recipe's name or a YAML file")
    parser.add_argument("--out", type=Path, default=None, help="the run's folder (runs/RECIPE-seedN unless given)")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is already there")
    add_common(parser, seed=False)
    add_settings(parser)
    parser.set_defaults(settings or {})
    return parser


def run(args: Namespace) -> None:
    import torch

    from ..pictures import write_samples
    from ..progress import console
    from ..sampling import sample
    from ..training import Run

    settings = {"seed": args.seed, "description": args.description}
    settings |= {f"{group}.{k}": args[group][k] for group in GROUPS for k in fields_of(group)}
    config = make_config(settings)
    device = select_device(args.device)
    dataset = load_dataset(config.data.name)
    parameters = make_model(config, dataset).num_parameters  # what cannot be built leaves no folder behind
    run = Run.create(args.out or Path("runs") / f"{Path(args.recipe).stem}-seed{config.seed}", config, args.overwrite)
    console.print(f"{args.recipe}: {parameters:,} parameters, {dataset.name} {tuple(dataset.shape)}, on {device}")
    model = run.train(dataset, device)
    generator = torch.Generator().manual_seed(config.seed)
    x = sample(model, (64, *dataset.shape), steps=config.training.bound_steps or 50, mode=True, generator=generator)
    write_samples(model, x.cpu(), dataset.test, run.folder / "samples.png")
    console.print(f"done: {run.folder} (samples.png, metrics.jsonl, model/). Next: ndm evaluate {run.folder}")
