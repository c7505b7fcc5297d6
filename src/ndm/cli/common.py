"""Arguments and functions that several commands share."""

from __future__ import annotations

import math
import re
from argparse import ArgumentTypeError
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from ..errors import InputError
from ..hub import PREFIX, is_borrowed, located

if TYPE_CHECKING:
    from torch import Tensor

    from ..data import Dataset
    from ..experiment import Run, Snapshot
    from ..model import NDM
    from ..solvers import Solver


INTERRUPTED = 130
"""The exit status of a command that Ctrl-C or SIGTERM stopped."""


def add_common(parser: ArgumentParser, seed: bool = True) -> None:
    """Add the options ``--seed``, ``--device`` and ``--quiet``."""
    if seed:
        parser.add_argument("--seed", type=seed_number, default=0, help="seed of all random draws")
    parser.add_argument(
        "--device", type=str, default="auto",
        help="device to compute on: cpu, cuda, cuda:1, mps, ...; auto takes a GPU if there is one",
    )  # fmt: skip
    parser.add_argument(
        "--quiet", action="store_true", help="show no progress and no messages, only warnings and errors"
    )


def seed_number(value: str | int) -> int:
    """The number of an option ``--seed``.

    Raises:
        ArgumentTypeError: if it is not a whole number, is negative, or does not fit into 63 bits.
    """
    if not re.fullmatch(r"-?[0-9]+", str(value)):
        raise ArgumentTypeError(f"seed must be a whole number, got {value!r}")
    if not 0 <= int(str(value)[:40]) < 2**63:
        raise ArgumentTypeError(f"seed must not be negative and must be below 2^63, got {str(value)[:40]}")
    return int(value)


def add_run(parser: ArgumentParser) -> None:
    """Add the arguments that name a run, its data and its checkpoint."""
    parser.add_argument("run", type=Path, help="folder of the run")
    add_source(parser)


def add_source(parser: ArgumentParser) -> None:
    """Add the options that choose the data and the checkpoint of a run."""
    parser.add_argument("--data.path", type=str, default=None, help="new path of the run's data, if they were moved")
    parser.add_argument(
        "--checkpoint", type=str, default=None,
        help="use the averaged weights of a checkpoint, also while the run still trains: newest, best (by validation "
        "bound) or a step number; the default is the finished model",
    )  # fmt: skip


def folder_of(name: Path, quiet: bool, file: str) -> Path:
    """The folder that a name stands for; see :func:`ndm.hub.located`. Its download has a bar on a terminal alone.

    Args:
        file: a file of runs that the command needs.

    Raises:
        InputError: if a repository cannot be downloaded, or if it has no such file.
    """
    if not is_borrowed(name):
        return name
    hide_bars(quiet)
    folder = located(name)
    if not (folder / file).is_file():
        kind = "a run of a table" if file == "schema.json" else "a run that ndm push has uploaded"
        raise InputError(
            f"{name} has no {file}: this command needs {kind}; load this one in Python by ndm.NDM.from_pretrained"
        )
    return folder


def hide_bars(quiet: bool) -> None:
    """Let huggingface_hub draw no bars in this process if the user asked for quiet, or where there is no terminal."""
    from ..support.progress import console

    if quiet or not console.animated:
        with suppress(ImportError):
            import_module("huggingface_hub.utils").disable_progress_bars()


def check_own(folder: Path) -> None:
    """Refuse the name of a model of the package or on the Hub where a command needs a run of the user's own.

    Raises:
        InputError: with the way to such a run.
    """
    if not is_borrowed(folder):
        return
    name = str(folder)
    own = f"hf download {name.removeprefix(PREFIX)} --local-dir RUN" if name.startswith(PREFIX) else f"ndm train {name}"
    raise InputError(
        f"{name} is no run of yours, which this command needs; only ndm sample, ndm score and ndm report take such a "
        f"name. Get a run by {own}"
    )


def open_run(args: Namespace, folder: Path | None = None) -> tuple[Run, Snapshot, Dataset]:
    """The run, model and data that the arguments of :func:`add_run` name. The model is on the CPU.

    Args:
        folder: the folder of the run, where the arguments name several.

    Raises:
        InputError: if one of them does not exist or cannot be read.
    """
    from ..experiment import Run

    folder = args.run if folder is None else folder
    check_own(folder)
    run = Run.open(folder) if args.checkpoint is None else Run.started(folder)
    dataset = run.load_dataset(args.data.path)
    return run, run.snapshot(args.checkpoint, dataset), dataset


def add_sampling(parser: ArgumentParser) -> None:
    """Add the options of a sampler."""
    parser.add_argument(
        "--steps",
        type=int,
        default=None,
        help="number of sampling steps; the default is the T of the trained bound, or 50 for continuous time",
    )
    parser.add_argument(
        "--solver", type=str, default="ancestral",
        help="sampler: ancestral, ddim, an ODE solver such as heun or dopri5 (which chooses its own steps), or an SDE "
        "solver such as euler_maruyama",
    )  # fmt: skip


def chosen_solver(args: Namespace, run: Run) -> Solver:
    """The solver that the options of :func:`add_sampling` choose. The default number of steps is the run's."""
    from ..sampling import SOLVERS
    from ..solvers import Solver, find_solver
    from ..support.progress import warn

    if not find_solver(args.solver, SOLVERS).takes_steps and args.steps is not None:
        warn(f"--steps {args.steps} is not used, because {args.solver} chooses its own steps")
    return Solver(args.solver, args.steps or run.sampling_steps)


def require_positive(args: Namespace, *names: str) -> None:
    """Refuse options with a number below one. None means that an option is not set.

    Raises:
        InputError: naming the first such option.
    """
    for name in names:
        if args[name] is not None and args[name] < 1:
            raise InputError(f"--{name} must be at least 1, got {args[name]}")


def draw(
    model: NDM, shape: Sequence[int], num: int, solver: Solver, seed: int, mode: bool = False,
    parts: list[Tensor] | None = None, given: tuple[Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """``num`` samples of ``shape``, returned on the CPU and drawn from ``seed``, with a progress bar.

    Finished batches are also appended to ``parts``, where they are kept if Ctrl-C ends the drawing. With ``given``,
    codes and which of them are known, the samples have these (:func:`ndm.infill`).

    Raises:
        InputError: before the first is drawn, if they do not fit into the memory.
    """
    import torch

    from ..filling import infill_in_batches
    from ..sampling import sample_in_batches
    from ..support.progress import progress_bar
    from ..support.room import check_memory

    element = model.reference.element_size()
    check_memory(2 * num * math.prod(shape) * element, f"{num:,} samples")  # in parts, and joined
    generator = torch.Generator().manual_seed(seed)
    parts = [] if parts is None else parts
    with progress_bar("sampling", num) as bar:
        if given is None:
            drawing = sample_in_batches(model, shape, num, solver=solver, mode=mode, generator=generator)
        else:
            drawing = infill_in_batches(model, *given, num, solver.steps, mode, generator)
        for part in drawing:
            parts.append(part)
            bar.advance(bar.task_ids[0], len(part))
    return torch.cat(parts)
