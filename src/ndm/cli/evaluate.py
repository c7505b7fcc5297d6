"""``ndm evaluate``: the bits per dimension of a model. An interrupted evaluation can be continued."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from ..errors import InputError, printable
from ..support.devices import select_device
from .commands import COMMANDS, Command, parsed_by
from .common import add_common, add_run, open_run, require_positive


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="ndm evaluate",
        exit_on_error=False,
        description="Compute the bits per dimension of a run's model by one or more estimators. bound: the variational "
        "bound and its terms, a mean of Monte-Carlo passes, at several numbers of steps and in continuous time. ode: "
        "the likelihood of the ODE, which for discrete data is a bound through the decoder. ode-uniform: the "
        "likelihood of the ODE by uniform dequantisation; many papers report it, for models trained on dequantised "
        "data. Each number is printed with its estimator, for tables in nats and bits per row too, and appended to "
        "RUN/evaluations.jsonl. If an evaluation was interrupted, the same command continues it. `accelerate launch -m "
        "ndm evaluate ...` uses several devices and "
        "gives the same figures.",
    )
    add_run(parser)
    parser.add_argument(
        "--estimator",
        type=Literal["all", "bound", "ode", "ode-uniform"],
        default="all",
        help="estimator of the likelihood; all means bound and ode",
    )
    parser.add_argument(
        "--steps",
        type=str,
        default=None,
        help="numbers of steps of the bound, separated by commas, where the word continuous means continuous time; the "
        "default is 10,50,continuous, or for a stepwise schedule its own number of steps",
    )
    parser.add_argument("--passes", type=int, default=30, help="number of Monte-Carlo passes over the rows per bound")
    add_ode(parser)
    parser.add_argument(
        "--dtype", type=Literal["float32", "float64"], default="float32", help="precision of the computation"
    )
    parser.add_argument(
        "--split", type=Literal["test", "validation", "train"], default="test", help="part of the data to evaluate"
    )
    parser.add_argument("--limit", type=int, default=None, help="number of rows, from the first; the default is all")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_common(parser)
    return parser


def add_ode(parser: ArgumentParser) -> None:
    """Add the options of the likelihood of the ODE."""
    parser.add_argument(
        "--samples",
        type=int,
        default=1,
        help="number of draws per row for the ODE: for discrete data with the exact divergence these are importance "
        "samples (more of them make the bound tighter), otherwise the results of the draws are averaged",
    )
    parser.add_argument(
        "--divergence",
        type=Literal["auto", "exact", "hutchinson", "hutchinson-gaussian"],
        default="auto",
        help="how the divergence of the ODE's field is computed: exact, or estimated with Rademacher (hutchinson) or "
        "Gaussian probes; auto means exact for rows of up to 256 elements and hutchinson for longer ones",
    )
    parser.add_argument(
        "--solver",
        type=str,
        default="dopri5",
        help="ODE solver: dopri5 (with a step size for every row), rk4, scipy:RK45, torchdiffeq:dopri5, ...",
    )
    parser.add_argument("--solver_steps", type=int, default=50, help="number of steps of a solver with equal steps")
    parser.add_argument("--rtol", type=float, default=1e-4, help="relative tolerance of an adaptive solver")
    parser.add_argument("--atol", type=float, default=1e-4, help="absolute tolerance of an adaptive solver")


def parse_steps(text: str) -> list[int | None]:
    """Parse ``"10,50,continuous"`` to ``[10, 50, None]``, each number once.

    Raises:
        InputError: if a word is neither a positive whole number nor ``continuous``.
    """
    steps: list[int | None] = []
    for word in text.split(","):
        if word.strip() == "continuous":
            steps.append(None)
        elif word.strip().isdecimal() and int(word) > 0:
            steps.append(int(word))
        else:
            raise InputError(
                f"--steps takes positive whole numbers and the word continuous, e.g. 10,50,continuous; got {word!r}"
            )
    return list(dict.fromkeys(steps))


def run(args: Namespace) -> None:
    import torch

    from ..evaluation import choose_protocols
    from ..evaluation.pieces import ROWS
    from ..evaluation.tables import estimates_table, rows_table
    from ..experiment.evaluation import evaluate_run, facts_of
    from ..experiment.results import as_json
    from ..likelihood import bits_per_dim
    from ..solvers import ODE_SOLVERS, Solver, find_solver
    from ..soundness import faults
    from ..support.processes import connected, first_process_first
    from ..support.progress import warn
    from ..support.room import check_memory

    require_positive(args, "passes", "samples", "limit", "solver_steps")
    solver = Solver(args.solver, args.solver_steps, args.rtol, args.atol)
    find_solver(solver.name, ODE_SOLVERS)
    steps = None if args.steps is None else parse_steps(args.steps)
    device = select_device(args.device)
    if device.startswith("mps") and args.dtype == "float64":
        device = "cpu"  # Apple's GPU has no float64
    processes = connected(device, timeout=timedelta(days=7))  # a process may have much stiffer rows
    with first_process_first():  # which decodes data that the others then find in the cache
        run, snapshot, dataset = open_run(args)
    model, x = snapshot.model, dataset.split(args.split)[: args.limit]
    protocols = choose_protocols(
        model, x, args.estimator, steps, args.divergence,
        passes=args.passes, samples=args.samples, solver=solver, seed=args.seed,
    )  # fmt: skip
    if any(protocol.estimator == "bound" for protocol in protocols):  # three terms of each row are kept for each pass
        check_memory(24 * args.passes * min(len(x), ROWS["bound"]), f"{args.passes:,} passes")
    facts = facts_of(run, dataset, snapshot, args.split, args.dtype, args.checkpoint) | {"rows": len(x)}
    for text in faults(model, x, model.process.schedule.steps):
        warn(text)
    model = model.to(device if processes.num_processes == 1 else processes.device, getattr(torch, args.dtype))
    estimates = evaluate_run(run, model, x, protocols, facts)
    if not processes.is_main_process:
        return
    if args.json:
        print(as_json({**facts, "estimates": [asdict(estimate) for estimate in estimates]}))
        return
    named = {printable(run.folder.name): estimates}
    print(estimates_table(named, dataset.unit) if dataset.schema is None else rows_table(named))
    weights = f"{facts['weights']} weights, {snapshot.progress}, {args.dtype}"
    print(f"{weights}; {dataset.name}, {args.split} rows: {dataset.release}")
    if dataset.schema is not None:
        print("densities of real columns are in the columns' own units; other columns have probabilities")
    if (entropy := facts["entropy_nats"]) is not None:
        print(f"entropy of the data: {bits_per_dim(entropy, x):.3f} bits/dim ({entropy:.3f} nats)")


COMMANDS.add("evaluate", Command("compute the bits per dimension of a trained model", parsed_by(make_parser), run))
