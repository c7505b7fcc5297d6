"""``ndm evaluate``: bits per dimension, each number with its estimator; what is done is kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from datetime import timedelta
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from ..errors import InputError
from ..version import __version__
from .commands import COMMANDS, Command, parsed_by
from .common import add_common, add_run, open_run, require_positive, select_device

EXACT_UP_TO = 256  # elements of a row, for --divergence auto


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="ndm evaluate",
        exit_on_error=False,
        description="Bits per dimension of a run's model. bound: the variational bound (mean of Monte-Carlo passes, by "
        "term) at several numbers of steps and in continuous time. ode: the likelihood of the ODE, for discrete data a "
        "bound through the decoder. ode-uniform: the same by uniform dequantisation, the protocol of many papers, for "
        "models trained on dequantised data. Every number names its estimator. An interrupted evaluation goes on from "
        "where it was when the same command is given again; the result is appended to RUN/evaluations.jsonl. "
        "On several devices: `accelerate launch -m ndm evaluate ...`; the figures are the same.",
    )
    add_run(parser)
    parser.add_argument(
        "--estimator",
        type=Literal["all", "bound", "ode", "ode-uniform"],
        default="all",
        help="which estimator; all is bound and ode",
    )
    parser.add_argument(
        "--steps",
        type=str,
        default=None,
        help="comma-separated: numbers of steps of the bound, or the word continuous (10,50,continuous unless given)",
    )
    parser.add_argument("--passes", type=int, default=30, help="Monte-Carlo passes over the rows for each bound")
    parser.add_argument(
        "--samples",
        type=int,
        default=1,
        help="draws per row for the ODE: importance samples (discrete data, exact divergence), otherwise averaged",
    )
    parser.add_argument(
        "--divergence",
        type=Literal["auto", "exact", "hutchinson", "hutchinson-gaussian"],
        default="auto",
        help=f"of the ODE's field; auto is exact up to {EXACT_UP_TO} elements a row, then hutchinson (Rademacher)",
    )
    parser.add_argument(
        "--solver", type=str, default="dopri5", help="dopri5 (row by row), rk4, scipy:RK45, torchdiffeq:dopri5, ..."
    )
    parser.add_argument("--solver_steps", type=int, default=50, help="steps of an ODE solver that does not adapt")
    parser.add_argument("--rtol", type=float, default=1e-4, help="relative tolerance of the ODE solver")
    parser.add_argument("--atol", type=float, default=1e-4, help="absolute tolerance of the ODE solver")
    parser.add_argument("--dtype", type=Literal["float32", "float64"], default="float32", help="precision")
    parser.add_argument("--split", type=Literal["test", "validation", "train"], default="test", help="which rows")
    parser.add_argument("--limit", type=int, default=None, help="only the first so many rows")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_common(parser)
    return parser


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


def run(args: Namespace) -> None:
    import torch
    from accelerate import PartialState

    from ..evaluation import Protocol, count_pieces, estimates_table, evaluate, make_pieces
    from ..likelihood import Divergence, bits_per_dim
    from ..saving import weights_checksum
    from ..solvers import ODE_SOLVERS, Solver, SolverError, find_solver
    from ..support.journal import Journal, append_line
    from ..support.progress import console, progress_bar

    require_positive(args, "passes", "samples", "limit", "solver_steps")
    solver = Solver(args.solver, args.solver_steps, args.rtol, args.atol)
    find_solver(solver.name, ODE_SOLVERS)
    if args.steps and args.estimator.startswith("ode"):
        raise InputError("--steps is of the bound; an ODE solver has --solver_steps, or --rtol and --atol")
    wanted = parse_steps(args.steps) if args.steps else None
    run, model, dataset = open_run(args)
    weights = "EMA" if args.checkpoint is None else f"EMA (checkpoint {args.checkpoint})"
    checksum = weights_checksum(model)
    device = select_device(args.device)
    if device.startswith("mps") and args.dtype == "float64":
        device = "cpu"  # Apple's GPU has no float64
    processes = PartialState(cpu=device == "cpu", timeout=timedelta(days=7))  # one may have much stiffer rows
    rank, count = processes.process_index, processes.num_processes
    device = device if count == 1 else str(processes.device)
    model = model.to(device, getattr(torch, args.dtype))
    x = dataset.split(args.split)[: args.limit]
    only = model.process.schedule.steps  # a stepwise schedule has one number of steps, and no ODE
    ode = {"all": ["ode"] if only is None else [], "bound": []}.get(args.estimator, [args.estimator])
    steps = [] if args.estimator.startswith("ode") else wanted or ([10, 50, None] if only is None else [only])
    exact = x[0].numel() <= EXACT_UP_TO
    automatic: Divergence = "exact" if exact else "hutchinson"
    divergence: Divergence = automatic if args.divergence == "auto" else args.divergence
    protocols = [Protocol("bound", t, passes=args.passes, seed=args.seed) for t in steps]
    protocols += [
        Protocol(kind, samples=args.samples, divergence=divergence, solver=solver, seed=args.seed) for kind in ode
    ]
    facts = {
        "run": str(run.folder), "version": __version__, "data": dataset.name, "release": dataset.release,
        "split": args.split, "rows": len(x), "weights": weights, "weights_sha256": checksum,
        "dtype": args.dtype, "parameters": model.num_parameters,
    }  # fmt: skip
    key = json.dumps([{**facts, "run": ""}, [asdict(p) for p in protocols]])
    name = hashlib.sha256(key.encode()).hexdigest()[:12]
    journal = Journal(run.folder / f"evaluation-{name}.partial.jsonl", rank)
    total, kept = sum(count_pieces(p, x) for p in protocols), len(journal.pieces)
    if kept and rank == 0:
        console.print(f"going on from an earlier attempt: {kept} of {total} pieces are done")
    estimates = []
    try:
        if count > 1:
            with progress_bar("evaluating", -(-total // count), visible=rank == 0) as bar:
                for protocol in protocols:
                    bar.update(bar.task_ids[0], news=protocol.name(model.decoder.discrete))
                    make_pieces(model, x, protocol, journal, lambda: bar.advance(bar.task_ids[0]), rank, count)
            processes.wait_for_everyone()
            if rank > 0:
                return
            journal.read()
        with progress_bar("evaluating", total) as bar:
            for protocol in protocols:
                bar.update(bar.task_ids[0], news=protocol.name(model.decoder.discrete))
                estimates.append(evaluate(model, x, protocol, journal, lambda: bar.advance(bar.task_ids[0])))
    except KeyboardInterrupt:
        console.print(f"interrupted: {len(journal.pieces)} of {total} pieces are kept; the same command goes on")
        raise
    except SolverError:
        console.print(f"{len(journal.pieces)} of {total} pieces are done and kept")
        raise
    entropy = dataset.distribution.entropy() if dataset.distribution else None
    result = {**facts, "entropy_nats": entropy, "estimates": [asdict(e) for e in estimates]}
    append_line(run.folder / "evaluations.jsonl", result)
    journal.remove()
    if args.json:
        print(json.dumps(result, indent=2))
        return
    print(estimates_table({run.folder.name: estimates}))
    print(f"{facts['weights']} weights, {args.dtype}; {dataset.name}, {args.split} rows: {dataset.release}")
    if entropy is not None:
        print(f"entropy of the data: {bits_per_dim(entropy, x):.3f} bits/dim ({entropy:.3f} nats)")


COMMANDS.add("evaluate", Command("bits per dimension of a trained model", parsed_by(make_parser), run))
