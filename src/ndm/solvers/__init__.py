r"""Solvers for ODEs and SDEs. They know nothing of diffusion.

* ODE, :math:`dz = f(t, z)\,dt`: :func:`euler`, :func:`heun`, :func:`rk4` on a given grid; :func:`dopri5` adaptive,
  with a step size for every row.
* SDE with additive noise, :math:`dz = f(t, z)\,dt + g(t)\,dw`: :func:`euler_maruyama`, :func:`stochastic_heun`.
* :func:`solve_ode` and :func:`solve_sde` take any of these by name, and those of scipy, torchdiffeq and torchsde.

``f(t, z)`` takes times of shape ``(B,)`` and states of shape ``(B, *)``. Intervals and grids may run either way: for
one that decreases, ``f`` and ``g`` are those of the equation in the original time, dw the noise of the reversed one.
"""

from .by_name import FIXED_STEP, ODE_SOLVERS, SDE_SOLVERS, check_solver, solve_ode, solve_sde, uniform_grid
from .dopri5 import dopri5
from .fixed import euler, heun, rk4
from .sde import euler_maruyama, stochastic_heun
from .solution import Solution, SolverError, VectorField

__all__ = [
    "FIXED_STEP",
    "ODE_SOLVERS",
    "SDE_SOLVERS",
    "Solution",
    "SolverError",
    "VectorField",
    "check_solver",
    "dopri5",
    "euler",
    "euler_maruyama",
    "heun",
    "rk4",
    "solve_ode",
    "solve_sde",
    "stochastic_heun",
    "uniform_grid",
]
