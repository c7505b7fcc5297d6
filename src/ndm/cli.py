"""The command line: ``ndm demo | train | evaluate | sample | recipes``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from .config import GROUPS, add_settings, fields_of, find_recipe, make_config, make_model, read_settings, recipes
from .data import load_dataset
from .errors import InputError

Solver = Literal[
    "ancestral", "ddim", "euler", "heun", "rk4", "dopri5", "euler_maruyama", "stochastic_heun"
]  # ndm.SOLVERS, checked by the tests


def select_device(name: str) -> str:
    """``auto`` is CUDA, then Apple's GPU, then the CPU.

    Raises:
        InputError: if the device is not there.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device {name!r} is not available ({str(error).splitlines()[0]}); use --device auto"
        ) from None
    return name


def add_common(parser: ArgumentParser, seed: bool = True) -> None:
    """Arguments that several commands share."""
    if seed:
        parser.add_argument("--seed", type=int, default=0, help="seeds everything that is drawn")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")


def demo_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="ndm demo",
        exit_on_error=False,
        description="Train a conventional diffusion model and a neural diffusion model of the same size on 8x8 digits, "
        "evaluate both on test data, and leave pictures and a summary. About four minutes on two CPU cores.",
    )
    parser.add_argument("--out", type=Path, default=Path("ndm-demo"), help="folder for the results")
    parser.add_argument("--steps", type=int, default=3000, help="training steps of each model")
    add_common(parser)
    return parser


def train_parser(settings: dict[str, Any] | None = None) -> ArgumentParser:
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


def evaluate_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="ndm evaluate",
        exit_on_error=False,
        description="Bits per dimension of a run's model: the variational bound (mean of Monte-Carlo passes, by term) "
        "at several numbers of steps and in continuous time, and the ODE's likelihood. Every number names "
        "its estimator. The result is also appended to RUN/evaluations.jsonl.",
    )
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--estimator", type=Literal["all", "bound", "ode"], default="all", help="which estimators")
    parser.add_argument(
        "--steps",
        type=str,
        default=None,
        help="comma-separated: numbers of steps of the bound, or the word continuous (10,50,continuous unless given)",
    )
    parser.add_argument("--passes", type=int, default=30, help="Monte-Carlo passes over the rows for each bound")
    parser.add_argument(
        "--samples", type=int, default=1, help="importance samples of the ODE's bound for discrete data"
    )
    parser.add_argument("--rtol", type=float, default=1e-4, help="relative tolerance of the ODE solver")
    parser.add_argument("--atol", type=float, default=1e-4, help="absolute tolerance of the ODE solver")
    parser.add_argument("--split", type=Literal["test", "validation", "train"], default="test", help="which rows")
    parser.add_argument("--limit", type=int, default=None, help="only the first so many rows")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_common(parser)
    return parser


def sample_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="ndm sample",
        exit_on_error=False,
        description="Draw samples from a run's model, as a picture or as an array.",
    )
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--num", type=int, default=64, help="how many")
    parser.add_argument("--steps", type=int, default=None, help="steps of the sampler (50; dopri5 chooses its own)")
    parser.add_argument(
        "--solver", type=Solver, default="ancestral", help="ancestral or DDIM steps, an ODE or an SDE solver"
    )
    parser.add_argument("--mode", action="store_true", help="take the decoder's mode instead of a draw")
    parser.add_argument(
        "--out", type=Path, default=Path("samples.png"), help="a .png picture, or an .npz with the array x"
    )
    add_common(parser)
    return parser


def recipes_parser() -> ArgumentParser:
    return ArgumentParser(
        prog="ndm recipes", exit_on_error=False, description="List the recipes that come with the package."
    )


def run_demo(args: Namespace) -> None:
    from .demo import demo

    demo(args.out, args.steps, seed=args.seed, device=select_device(args.device))


def run_train(args: Namespace) -> None:
    import torch

    from .pictures import write_samples
    from .progress import console
    from .sampling import sample
    from .training import Run

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


def require_positive(args: Namespace, *names: str) -> None:
    """Refuse counts below one; None is no count.

    Raises:
        InputError: naming the first.
    """
    for name in names:
        if args[name] is not None and args[name] < 1:
            raise InputError(f"--{name} must be at least 1, got {args[name]}")


def parse_steps(text: str) -> list[int | None]:
    """``"10,50,continuous"`` to ``[10, 50, None]``."""
    steps: list[int | None] = []
    for word in text.split(","):
        if word.strip() == "continuous":
            steps.append(None)
        elif word.strip().isdigit() and int(word) > 0:
            steps.append(int(word))
        else:
            raise InputError(
                f"--steps takes whole numbers and the word continuous, e.g. 10,50,continuous; got {word!r}"
            )
    return steps


def run_evaluate(args: Namespace) -> None:
    from .evaluation import count_chunks, estimates_table, evaluate_bound, evaluate_ode
    from .likelihood import bits_per_dim
    from .progress import progress_bar
    from .training import Run

    require_positive(args, "passes", "samples", "limit")
    wanted = parse_steps(args.steps) if args.steps else None
    run = Run.open(args.run)
    model = run.load_model().to(select_device(args.device))
    dataset = load_dataset(run.config.data.name)
    x = dataset.split(args.split)[: args.limit]
    only = model.process.schedule.steps  # a stepwise schedule has one number of steps, and no ODE
    steps = wanted or ([10, 50, None] if only is None else [only])
    if args.estimator == "ode":
        steps = []
    ode = args.estimator == "ode" or (args.estimator == "all" and only is None)
    estimates = []
    with progress_bar("evaluating", args.passes * len(steps) + ode * count_chunks(x)) as bar:
        advance = lambda: bar.advance(bar.task_ids[0])  # noqa: E731
        for t in steps:
            estimates.append(evaluate_bound(model, x, t, args.passes, args.seed, advance))
        if ode:
            bar.update(bar.task_ids[0], news="solving the ODE")
            estimates.append(evaluate_ode(model, x, args.samples, args.rtol, args.atol, args.seed, advance))
    entropy = dataset.distribution.entropy() if dataset.distribution else None
    result = {
        "run": str(run.folder), "data": dataset.name, "split": args.split, "weights": "ema",
        "parameters": model.num_parameters,
        "entropy_nats": entropy,
        "estimates": [asdict(e) for e in estimates],
    }  # fmt: skip
    print(json.dumps(result, indent=2) if args.json else estimates_table({run.folder.name: estimates}))
    if entropy is not None and not args.json:
        print(f"entropy of the data: {bits_per_dim(entropy, x):.3f} bits/dim ({entropy:.3f} nats)")
    with (run.folder / "evaluations.jsonl").open("a") as file:
        file.write(json.dumps(result) + "\n")


def run_sample(args: Namespace) -> None:
    import numpy as np
    import torch

    from .pictures import write_samples
    from .progress import console
    from .sampling import sample
    from .training import Run

    if args.out.suffix not in (".png", ".npz"):
        raise InputError(f"--out must end in .png or .npz, got {args.out}")
    require_positive(args, "num", "steps")
    if args.out.is_dir():
        raise InputError(f"--out {args.out} is a folder; give a file name")
    run = Run.open(args.run)
    model = run.load_model().to(select_device(args.device))
    dataset = load_dataset(run.config.data.name)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    steps = args.steps or model.process.schedule.steps or 50
    generator = torch.Generator().manual_seed(args.seed)
    x = sample(model, (args.num, *dataset.shape), steps, args.solver, args.mode, generator=generator).cpu()
    partial = args.out.with_name(f".{args.out.stem}.partial{args.out.suffix}")
    try:
        if args.out.suffix == ".npz":
            np.savez_compressed(partial, x=x.numpy())
        else:
            write_samples(model, x, dataset.test, partial)
        os.replace(partial, args.out)
    finally:
        partial.unlink(missing_ok=True)
    console.print(f"{args.num} samples in {args.out}")


def run_recipes(_: Namespace) -> None:
    for name, path in recipes().items():
        print(f"{name:22s} {read_settings(path).get('description', '')}")


COMMANDS: dict[str, tuple[Callable[[], ArgumentParser], Callable[[Namespace], None], str]] = {
    "demo": (demo_parser, run_demo, "train, evaluate and picture two models on digits; start here"),
    "train": (train_parser, run_train, "train a recipe, any setting overridden"),
    "evaluate": (evaluate_parser, run_evaluate, "bits per dimension of a trained model"),
    "sample": (sample_parser, run_sample, "draw samples from a trained model"),
    "recipes": (recipes_parser, run_recipes, "list the recipes"),
}
USAGE = "usage: ndm COMMAND ...   (ndm COMMAND --help explains each)\n\n" + "\n".join(
    f"  {name:10s} {text}" for name, (_, _, text) in COMMANDS.items()
)


def parse(arguments: list[str]) -> tuple[Callable[[Namespace], None], Namespace]:
    """The command to run, and its arguments.

    Raises:
        InputError: on an unknown command, recipe, option or value.
    """
    name, *rest = arguments
    if name not in COMMANDS:
        raise InputError(f"unknown command {name!r}; choose one of {', '.join(COMMANDS)}")
    make_parser, command, _ = COMMANDS[name]
    try:
        args = make_parser().parse_args(rest)
        if name == "train":  # again, with the recipe's settings as defaults
            args = train_parser(read_settings(find_recipe(args.recipe))).parse_args(rest)
    except InputError:
        raise
    except (ArgumentError, TypeError, ValueError) as error:
        raise InputError(f"{' '.join(str(error).split())} (see: ndm {name} --help)") from None
    return command, args


def main(arguments: list[str] | None = None) -> int:
    """Run a command; exit code 0, 2 for bad input (one line on the error stream), 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if arguments[0] == "--version":
        from . import __version__

        print(f"ndm {__version__}")
        return 0
    try:
        command, args = parse(arguments)
        command(args)
    except InputError as error:
        print(f"ndm: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"ndm: error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
