"""The solvers by name. Each joins where it is defined, with what the rest of the package needs to know about it.

    @ode_on_grid("midpoint", evaluations=2)
    def midpoint(f, z, grid):
        for t, h in grid_steps(grid, z):
            z = z + h * f(t + h / 2, z + h / 2 * f(t, z))
        return z

is all it takes: ``midpoint`` is now a name for sampling, likelihoods and the command line. A solver that chooses its
own steps joins by ``ODE_SOLVERS.add(name, Method(solve, takes_steps=False))``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import InputError
from ..support.registry import Registry, unknown
from .options import Solver
from .solution import Failures, NoiseRate, Solution, VectorField

Step = TypeVar("Step", bound=Callable[..., Tensor])


@dataclass(frozen=True)
class Method:
    """A solver, and what is known about it.

    Args:
        solve: how to call it, see :data:`ODE_SOLVERS` and :data:`SDE_SOLVERS`.
        takes_steps: it takes ``Solver.steps`` equal steps; otherwise it chooses its own, by ``rtol`` and ``atol``.
        library: the library that must be installed, if any.
        by_row: an ODE solver that lets finished rows leave the batch, and integrates along the path itself. It also
            takes ``args`` and ``quadrature``, see :func:`ndm.solvers.solve_ode`.
    """

    solve: Callable[..., Any]
    takes_steps: bool
    library: str | None = None
    by_row: bool = False


ODE_SOLVERS: Registry[Method] = Registry("solver")
"""ODE solvers: ``solve(f, z, start, end, solver)``, with a :class:`Solver`, returns a :class:`Solution`."""

SDE_SOLVERS: Registry[Method] = Registry("solver")
"""SDE solvers: ``solve(f, g, z, start, end, solver, generator)`` returns the state at ``end``."""


def uniform_grid(start: float, end: float, steps: int) -> Tensor:
    """The ends of ``steps`` equal steps, in float64."""
    return torch.linspace(start, end, steps + 1, dtype=torch.float64)


def ode_on_grid(name: str, evaluations: int) -> Callable[[Step], Step]:
    """A decorator that registers an ODE solver ``step(f, z, grid) -> z`` with so many evaluations per step."""

    def join(step: Step) -> Step:
        def solve(f: VectorField, z: Tensor, start: float, end: float, solver: Solver) -> Solution:
            state = step(f, z, uniform_grid(start, end, solver.steps))
            nfe = torch.full((len(z),), evaluations * solver.steps, device=z.device)
            return Solution(state, z.new_zeros(len(z)), nfe, torch.zeros_like(nfe), Failures.none(name, z))

        ODE_SOLVERS.add(name, Method(solve, takes_steps=True))
        return step

    return join


def sde_on_grid(name: str) -> Callable[[Step], Step]:
    """A decorator that registers an SDE solver ``step(f, g, z, grid, generator) -> z``."""

    def join(step: Step) -> Step:
        def solve(
            f: VectorField, g: NoiseRate, z: Tensor, start: float, end: float,
            solver: Solver, generator: torch.Generator | None,
        ) -> Tensor:  # fmt: skip
            return step(f, g, z, uniform_grid(start, end, solver.steps), generator)

        SDE_SOLVERS.add(name, Method(solve, takes_steps=True))
        return step

    return join


def find_solver(name: str, known: Mapping[str, Method]) -> Method:
    """The solver of that name among ``known``.

    Raises:
        InputError: if there is none, or its library is not installed.
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
        InputError: saying how to install it.
    """
    try:
        return importlib.import_module(library)
    except ImportError:
        raise InputError(f"this solver needs {library.split('.')[0]}: pip install 'ndm[solvers]'") from None
