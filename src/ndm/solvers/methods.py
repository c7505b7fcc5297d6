"""The registries of solvers. Each solver is registered where it is defined::

    @ode_on_grid("midpoint", evaluations=2)
    def midpoint(f, z, grid):
        for t, h in grid_steps(grid, z):
            z = z + h * f(t + h / 2, z + h / 2 * f(t, z))
        return z

After this, sampling, likelihoods and the command line accept the name ``midpoint``. Register a solver that chooses its
own steps by ``ODE_SOLVERS.add(name, Method(solve, takes_steps=False))``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import InputError
from ..support.registry import Registry, unknown
from ..support.room import check_memory
from .checked import checked_field, checked_rate
from .options import Solver
from .solution import Failures, NoiseRate, Solution, VectorField

Step = TypeVar("Step", bound=Callable[..., Tensor])


@dataclass(frozen=True)
class Method:
    """A registered solver.

    Args:
        solve: the function that solves; :data:`ODE_SOLVERS` and :data:`SDE_SOLVERS` give its signature.
        takes_steps: whether it takes ``Solver.steps`` equal steps; otherwise ``rtol`` and ``atol`` control its steps.
        library: the library that must be installed, if any.
        by_row: whether it is an ODE solver that lets finished rows leave the batch and integrates along the path
            itself. Its ``solve`` also takes ``args`` and ``quadrature``, see :func:`ndm.solvers.solve_ode`.
    """

    solve: Callable[..., Any]
    takes_steps: bool
    library: str | None = None
    by_row: bool = False


ODE_SOLVERS: Registry[Method] = Registry("solver")
"""ODE solvers: ``solve(f, z, start, end, solver)`` takes a :class:`Solver` and returns a :class:`Solution`."""

SDE_SOLVERS: Registry[Method] = Registry("solver")
"""SDE solvers: ``solve(f, g, z, start, end, solver, generator)`` returns the state at ``end``."""


def uniform_grid(start: float, end: float, steps: int) -> Tensor:
    """The ends of ``steps`` equal steps, in float64."""
    check_memory(8 * (steps + 1), f"the times of {steps:,} steps")
    return torch.linspace(start, end, steps + 1, dtype=torch.float64, device="cpu")


def check_distinct(steps: int, dtype: torch.dtype) -> None:
    """Refuse a number of steps whose times a dtype does not tell apart.

    Raises:
        InputError: with the largest number.
    """
    most = round(1 / torch.finfo(dtype).eps)
    if steps > most:
        name = str(dtype).removeprefix("torch.")
        raise InputError(f"steps = {steps} are too many for {name}, which tells at most {most:,} times apart")


def ode_on_grid(name: str, evaluations: int) -> Callable[[Step], Step]:
    """A decorator that registers an ODE solver ``step(f, z, grid) -> z`` and its number of evaluations per step."""

    def join(step: Step) -> Step:
        @wraps(step)
        def checked(f: VectorField, z: Tensor, grid: Tensor) -> Tensor:
            return step(checked_field(f), z, grid)

        def solve(f: VectorField, z: Tensor, start: float, end: float, solver: Solver) -> Solution:
            check_distinct(solver.steps, z.dtype)
            state = step(f, z, uniform_grid(start, end, solver.steps))
            nfe = torch.full((len(z),), evaluations * solver.steps, device=z.device)
            return Solution(state, z.new_zeros(len(z)), nfe, torch.zeros_like(nfe), Failures.none(name, z))

        ODE_SOLVERS.add(name, Method(solve, takes_steps=True))
        return checked  # type: ignore[return-value]

    return join


def sde_on_grid(name: str) -> Callable[[Step], Step]:
    """A decorator that registers an SDE solver ``step(f, g, z, grid, generator) -> z``."""

    def join(step: Step) -> Step:
        @wraps(step)
        def checked(
            f: VectorField, g: NoiseRate, z: Tensor, grid: Tensor, generator: torch.Generator | None = None
        ) -> Tensor:
            return step(checked_field(f), checked_rate(g, z), z, grid, generator)

        def solve(
            f: VectorField, g: NoiseRate, z: Tensor, start: float, end: float,
            solver: Solver, generator: torch.Generator | None,
        ) -> Tensor:  # fmt: skip
            check_distinct(solver.steps, z.dtype)
            return step(f, g, z, uniform_grid(start, end, solver.steps), generator)

        SDE_SOLVERS.add(name, Method(solve, takes_steps=True))
        return checked  # type: ignore[return-value]

    return join


def find_solver(name: str, known: Mapping[str, Method]) -> Method:
    """The solver of that name among ``known``.

    Raises:
        InputError: if the name is unknown or the solver's library is not installed.
    """
    if name not in known:
        raise unknown("solver", name, known)
    method = known[name]
    if method.library is not None:
        require(method.library)
    return method


def require(library: str) -> Any:
    """Import an optional library.

    Raises:
        InputError: if it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(library)
    except ImportError:
        raise InputError(f"this solver needs {library.split('.')[0]}: pip install 'ndm[solvers]'") from None
