r"""Solvers for ODEs and SDEs. They do not depend on the diffusion model.

* ODE, :math:`dz = f(t, z)\,dt`: :func:`euler`, :func:`heun` and :func:`rk4` use a given grid; :func:`dopri5` is
  adaptive, with a step size for every row.
* SDE with additive noise, :math:`dz = f(t, z)\,dt + g(t)\,dw`: :func:`euler_maruyama`, :func:`stochastic_heun`.
* :func:`solve_ode` and :func:`solve_sde` find a solver by name: one of these, one of scipy, torchdiffeq or torchsde, or
  one that you registered (:mod:`ndm.solvers.methods`). A :class:`Solver` is a name with options.

``f(t, z)`` takes times of shape ``(B,)`` and states of shape ``(B, *)``. Intervals and grids may increase or decrease.
If they decrease, ``f`` and ``g`` are still functions of the original time, and dw is the noise in reversed time.

No ODE solver raises an error for rows that it cannot finish: the :class:`Solution` lists them.
"""

# isort: off
# Solvers are registered, and later listed, in the order of these imports.
from .fixed import euler, grid_steps, heun, rk4
from .dopri5 import dopri5
from .sde import euler_maruyama, stochastic_heun
from . import external

# isort: on
from .by_name import solve_ode, solve_sde
from .methods import (
    ODE_SOLVERS,
    SDE_SOLVERS,
    Method,
    check_distinct,
    find_solver,
    ode_on_grid,
    sde_on_grid,
    uniform_grid,
)
from .options import Solver
from .solution import Failures, Solution, SolverError, VectorField

__all__ = [
    "ODE_SOLVERS",
    "SDE_SOLVERS",
    "Failures",
    "Method",
    "Solution",
    "Solver",
    "SolverError",
    "VectorField",
    "check_distinct",
    "dopri5",
    "euler",
    "euler_maruyama",
    "external",
    "find_solver",
    "grid_steps",
    "heun",
    "ode_on_grid",
    "rk4",
    "sde_on_grid",
    "solve_ode",
    "solve_sde",
    "stochastic_heun",
    "uniform_grid",
]
