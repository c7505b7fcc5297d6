"""What several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from ..errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from ..data import Dataset
    from ..experiment import Run
    from ..model import NDM
    from ..solvers import Solver


INTERRUPTED = 130
"""The exit status of a command that Ctrl-C or SIGTERM stopped."""


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


def add_run(parser: ArgumentParser) -> None:
    """The run that a command is about."""
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--data.path", type=str, default=None, help="where the run's data are now, if they have moved")
    parser.add_argument(
        "--checkpoint", type=str, default=None,
        help="newest, best (by validation) or a step: its average instead of the finished model, also while it trains",
    )  # fmt: skip


def open_run(args: Namespace) -> tuple[Run, NDM, Dataset]:
    """The run of :func:`add_run`, the model that is asked for, on the CPU, and the data.

    Raises:
        InputError: if one of them is not there.
    """
    from ..experiment import Run

    run = Run.open(args.run) if args.checkpoint is None else Run.started(args.run)
    dataset = run.load_dataset(args.data.path)
    return run, run.load_model(args.checkpoint, dataset), dataset


def add_sampling(parser: ArgumentParser) -> None:
    """The options of what draws samples."""
    parser.add_argument(
        "--steps", type=int, default=None, help="of the sampler (as many as the model is trained for, or 50)"
    )
    parser.add_argument(
        "--solver", type=str, default="ancestral",
        help="ancestral or ddim, an ODE solver (dopri5 chooses its own steps) or an SDE solver",
    )  # fmt: skip


def chosen_solver(args: Namespace, run: Run) -> Solver:
    """The solver of :func:`add_sampling`, with the run's number of steps unless another is given."""
    from ..solvers import Solver

    return Solver(args.solver, args.steps or run.sampling_steps)


def require_positive(args: Namespace, *names: str) -> None:
    """Refuse counts below one; None is no count.

    Raises:
        InputError: naming the first.
    """
    for name in names:
        if args[name] is not None and args[name] < 1:
            raise InputError(f"--{name} must be at least 1, got {args[name]}")


def draw(model: NDM, shape: Sequence[int], num: int, solver: Solver, seed: int, mode: bool = False) -> Tensor:
    """``num`` samples of ``shape`` on the CPU, with progress; a function of ``seed``."""
    import torch

    from ..sampling import sample_in_batches
    from ..support.progress import progress_bar

    generator = torch.Generator().manual_seed(seed)
    parts: list[Tensor] = []
    with progress_bar("sampling", num) as bar:
        for part in sample_in_batches(model, shape, num, solver=solver, mode=mode, generator=generator):
            parts.append(part)
            bar.advance(bar.task_ids[0], len(part))
    return torch.cat(parts)
