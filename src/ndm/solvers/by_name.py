"""Solve an ODE or an SDE with a solver that is given by name."""

from __future__ import annotations

import torch
from torch import Tensor

from ..support.tensors import require_generator
from .checked import check_problem, checked_field, checked_quadrature, checked_rate
from .methods import ODE_SOLVERS, SDE_SOLVERS, Method, find_solver
from .options import Solver
from .solution import NOT_FINITE, Failures, NoiseRate, Quadrature, Solution, VectorField


def solve_ode(
    f: VectorField,
    z: Tensor,
    start: float,
    end: float,
    solver: Solver | str = "dopri5",
    args: tuple[Tensor, ...] = (),
    quadrature: Quadrature | None = None,
) -> Solution:
    """Solve dz = f dt from ``z`` at ``start`` to ``end``, and integrate along the path.

    Rows that cannot be finished raise no error: the result lists them in ``failures``, and :meth:`Solution.checked`
    raises an error for them.

    Args:
        f: the vector field ``f(t, z, *args)``.
        z: states at ``start``, ``(B, *)``.
        solver: a name of ``ODE_SOLVERS``, or a :class:`Solver`.
        args: further inputs of ``f`` with one entry per row, ``(B, ...)`` each.
        quadrature: the field with an integrand, which is integrated along the path. All solvers but ``dopri5`` append
            the integral to the state as one more element.

    Raises:
        InputError: if the solver is unknown, its library is missing, ``z`` requires a gradient that the solver does
            not have, ``start`` or ``end`` is not finite, or a shape would only broadcast.
    """
    solver = Solver.of(solver)
    method = find_solver(solver.name, ODE_SOLVERS)
    check_problem(z, start, end)
    f = checked_field(f)
    quadrature = None if quadrature is None else checked_quadrature(quadrature)
    if method.by_row:
        return method.solve(f, z, start, end, solver, args=args, quadrature=quadrature)
    if quadrature is not None:
        return _finite(_augmented(method, quadrature, z, start, end, solver, args), end)
    return _finite(method.solve(lambda t, y: f(t, y, *args), z, start, end, solver), end)


def _finite(solution: Solution, end: float) -> Solution:
    """The solution, in which a row that arrived at ``end`` with a NaN or an infinity has failed."""
    state, integral, *_ = solution
    bad = ~(torch.isfinite(state).flatten(1).all(1) & torch.isfinite(integral))
    if not bad.any():
        return solution
    late = Failures.where(solution.failures.solver, bad, end, NOT_FINITE)
    return solution._replace(failures=Failures.first([solution.failures, late]))


def _augmented(
    method: Method, quadrature: Quadrature, z: Tensor, start: float, end: float,
    solver: Solver, args: tuple[Tensor, ...],
) -> Solution:  # fmt: skip
    """:func:`solve_ode` with the integral as one more element of the state."""
    shape = z.shape

    def field(t: Tensor, state: Tensor) -> Tensor:
        value, integrand = quadrature(t, state[:, :-1].reshape(-1, *shape[1:]), *args)
        return torch.cat([value.flatten(1), integrand[:, None]], dim=1)

    initial = torch.cat([z.flatten(1), z.new_zeros(len(z), 1)], dim=1)
    state, _, nfe, _, failures = method.solve(field, initial, start, end, solver)
    return Solution(state[:, :-1].reshape(shape), state[:, -1], nfe, nfe, failures)


def solve_sde(
    f: VectorField,
    g: NoiseRate,
    z: Tensor,
    start: float,
    end: float,
    solver: Solver | str = "stochastic_heun",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Solve dz = f dt + g dw from ``z`` at ``start`` to ``end`` in ``Solver.steps`` equal steps.

    Raises:
        InputError: if the solver is unknown, its library is missing, ``start`` or ``end`` is not finite, or a shape
            would only broadcast.
    """
    solver = Solver.of(solver)
    method = find_solver(solver.name, SDE_SOLVERS)
    check_problem(z, start, end)
    require_generator(generator)
    return method.solve(checked_field(f), checked_rate(g, z), z, start, end, solver, generator)
