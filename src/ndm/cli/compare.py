"""``ndm compare``: train variants of a recipe with several seeds, and say whether they differ."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace

from ..errors import InputError
from ..experiment.recipe import find_recipe, read_settings
from ..experiment.settings import add_settings, config_of, make_config, named_settings
from ..experiment.variants import VARIANTS
from ..support.devices import select_device
from .commands import COMMANDS, Command
from .common import INTERRUPTED, add_common, require_positive
from .evaluate import parse_steps
from .options import parse as parse_with

DONE, STOPPED, FAILED = "done", "stopped", "failed"

if TYPE_CHECKING:
    from ..experiment.comparison import Comparison, Question

DESCRIPTION = (
    "Train variants of a recipe, each with the same seeds, data and steps, and print a table of their differences to "
    "the first variant with intervals of 95 %, e.g. `ndm compare digits --variants conventional,network,network-target "
    f"--seeds 3 --match params --out runs/comparison`. Variants: {', '.join(VARIANTS)}; or a YAML "
    "file of settings, or a Python file that registers parts and has a dictionary `settings`. Each run is a folder in "
    "--out that other commands read. Finished work is kept: the same command goes on where it stopped. --out gets "
    "cells.jsonl, table.md, table.tex and comparison.png. Other options override settings of the recipe for all "
    "variants."
)


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="ndm compare", exit_on_error=False, description=DESCRIPTION)
    parser.add_argument("recipe", type=str, help="name of a recipe, or a YAML file")
    parser.add_argument("--variants", type=str, required=True, help="names or files, separated by commas")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from --seed on")
    parser.add_argument(
        "--match", type=Literal["none", "params", "compute"], default="params",
        help="what the variants have in common with the first one, by the width of the predictor: the number of "
        "parameters, the operations of a training step, or none",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=None, help="folder; the default is runs/RECIPE-comparison")
    parser.add_argument(
        "--steps",
        type=str,
        default="2,5,10,50,200,continuous",
        help="numbers of steps of the bound, as of ndm evaluate",
    )
    parser.add_argument("--passes", type=int, default=30, help="number of passes of the bound over the rows")
    parser.add_argument(
        "--sampling_steps", type=str, default="2,4,8,50", help="numbers of steps of samples; none leaves them out"
    )
    parser.add_argument(
        "--solvers", type=str, default="ancestral,euler",
        help="samplers of these samples; those of an ODE are left out for variants without one",
    )  # fmt: skip
    parser.add_argument("--samples", type=int, default=1000, help="number of samples in so many steps")
    parser.add_argument("--ode_rows", type=int, default=256, help="number of rows for the ODE's likelihood; 0 for none")
    parser.add_argument(
        "--split", type=Literal["test", "validation"], default="test", help="part of the data to evaluate"
    )
    parser.add_argument("--limit", type=int, default=None, help="number of rows, from the first; the default is all")
    parser.add_argument("--jobs", type=int, default=1, help="number of runs at the same time, by joblib")
    add_common(parser, seed=False)
    add_settings(parser)
    return parser


def parse(arguments: list[str]) -> Namespace:
    """The parsed arguments. Their attribute ``config`` has the settings that all variants share.

    Raises:
        InputError: if there is no such recipe, or an option has a wrong value.
    """
    parser = make_parser()
    asked = [a for a in arguments if a not in ("-h", "--help")]
    given: set[str] = set()
    if asked == arguments and arguments and not arguments[0].startswith("-"):
        settings = read_settings(find_recipe(arguments[0]))
        make_config(settings)  # a mistake in the recipe is told as such
        given = {*named_settings(settings), *parse_with(parser, asked, defaults=False).keys()}
        parser.set_defaults(named_settings(settings))
    args = parse_with(parser, arguments)
    args.config, args.given = config_of(args), given
    if args.config.init is not None:
        raise InputError("--init is the start of one run; leave it out")
    return args


def question_of(args: Namespace) -> Question:
    """The question that the arguments ask."""
    from ..experiment.comparison import Question
    from ..experiment.variants import find_variant

    require_positive(args, "seeds", "passes", "samples", "limit", "jobs")
    if args.ode_rows < 0:
        raise InputError(f"--ode_rows must not be negative, got {args.ode_rows}")
    words = [] if args.sampling_steps == "none" else args.sampling_steps.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise InputError(f"--sampling_steps takes positive whole numbers, e.g. 2,8, or none; got {args.sampling_steps}")
    counts = list(dict.fromkeys(map(int, words)))
    return Question(
        args.config, [find_variant(name.strip()) for name in args.variants.split(",")],
        range(args.config.seed, args.config.seed + args.seeds), args.match, tuple(parse_steps(args.steps)),
        tuple(counts), solvers_of(args.solvers), args.samples, args.split, args.limit, args.passes, args.ode_rows,
        args.given,
    )  # fmt: skip


def solvers_of(text: str) -> tuple[str, ...]:
    """The names of samplers that are separated by commas, each once.

    Raises:
        InputError: if one is unknown or chooses its own steps.
    """
    from ..sampling import SOLVERS
    from ..solvers import find_solver

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if not find_solver(name, SOLVERS).takes_steps:
            raise InputError(f"--solvers takes samplers with a given number of steps, and {name} chooses its own")
    return names


def run(args: Namespace) -> int:
    from ..experiment.comparison import Comparison
    from ..experiment.matching import CLOSE
    from ..support.progress import console, warn

    device = select_device(args.device)
    question = question_of(args)
    comparison = Comparison(args.out or Path("runs") / f"{Path(args.recipe).stem}-comparison", question)
    cells = comparison.cells()
    for name, matched in question.matched.items() if cells else ():
        share = "" if question.matching == "none" else f", {question.matching} {matched.ratio:.3f} of the first"
        console.print(f"{name}: width {matched.config.model.width}{share}")
        if abs(matched.ratio - 1) > CLOSE:
            warn(f"no width of {name} comes closer to the first variant than {matched.ratio:.3f} of its {args.match}")
    comparison.check_variants()
    try:
        finished = finish_all(comparison, cells, device, args.jobs)
    finally:
        report(comparison)
    if FAILED in finished:
        raise InputError("some runs have no figures, as said above; the same command tries them again")
    return INTERRUPTED if STOPPED in finished else 0


def finish_all(comparison: Comparison, cells: list[tuple[str, int]], device: str, jobs: int) -> list[str]:
    """Train and evaluate all cells, several at a time: done, stopped or failed. One that fails does not stop others."""
    if jobs == 1:
        results = []
        for cell in cells:
            results.append(finish(comparison, *cell, device))
            if results[-1] == STOPPED:
                break
        return results
    from joblib import Parallel, delayed

    return list(Parallel(n_jobs=jobs)(delayed(finish_quietly)(comparison, *cell, device) for cell in cells))


def finish(comparison: Comparison, variant: str, seed: int, device: str) -> str:
    """Train and evaluate a cell: done, stopped by Ctrl-C or SIGTERM, or failed, with a warning that says why."""
    from ..solvers import SolverError
    from ..support.progress import warn

    try:
        return DONE if comparison.finish(variant, seed, device) else STOPPED
    except (InputError, SolverError) as error:
        warn(f"{variant}, seed {seed}: {error}")
        return FAILED


def finish_quietly(comparison: Comparison, variant: str, seed: int, device: str) -> str:
    """Train and evaluate a cell in a process of its own, with one line at its end."""
    from ..experiment.variants import settings_of_module
    from ..support.progress import console

    console.quiet = True
    for other in comparison.question.variants:
        if other.module is not None:
            settings_of_module(other.module)  # its parts must be registered in this process, too
    found = finish(comparison, variant, seed, device)
    print(f"{variant}, seed {seed}: {found}", file=sys.stderr, flush=True)
    return found


def report(comparison: Comparison) -> None:
    """Write and print what is known so far."""
    from ..experiment.differences import draw_comparison, write_tables
    from ..support.progress import console

    records = comparison.records()
    if not records:
        return
    question, first = comparison.question, comparison.question.variants[0].name
    unit = next(iter(records.values()))["unit"]
    curves = {v.name: [comparison.curve(v.name, seed) for seed in question.seeds] for v in question.variants}
    title = f"{comparison.folder.name}: {question.config.description or question.dataset.name}"
    print(write_tables(records, first, unit, comparison.folder))
    draw_comparison(records, curves, unit, comparison.folder / "comparison.png", title)
    console.print(f"{comparison.folder}: cells.jsonl, table.md, table.tex, comparison.png")


COMMANDS.add("compare", Command("train variants of a recipe, and say whether they differ", parse, run))
