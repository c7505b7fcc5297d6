r"""Solvers for ODEs and SDEs. They know nothing of diffusion.

* ODE, :math:`dz = f(t, z)\,dt`: :func:`euler`, :func:`heun`, :func:`rk4` on a given grid; :func:`dopri5` adaptive,
  with a step size for every row.
* SDE with additive noise, :math:`dz = f(t, z)\,dt + g(t)\,dw`: :func:`euler_maruyama`, :func:`stochastic_heun`.
* :func:`solve_ode` and :func:`solve_sde` take any of these by name, those of scipy, torchdiffeq and torchsde, and any
  that joins them (:mod:`ndm.solvers.methods`). A :class:`Solver` is a name with its options.

``f(t, z)`` takes times of shape ``(B,)`` and states of shape ``(B, *)``. Intervals and grids may run either way: for
one that decreases, ``f`` and ``g`` are those of the equation in the original time, dw the noise of the reversed one.

No solver raises for rows that it cannot finish: a :class:`Solution` says which they are.
"""

# isort: off
# Solvers join their registry in the order of these imports, and are listed in it.
from .fixed import euler, grid_steps, heun, rk4
from .dopri5 import dopri5
from .sde import euler_maruyama, stochastic_heun
from . import external

# isort: on
from .by_name import solve_ode, solve_sde
from .methods import ODE_SOLVERS, SDE_SOLVERS, Method, find_solver, ode_on_grid, sde_on_grid, uniform_grid
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
