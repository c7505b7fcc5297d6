"""ODE solvers on a given grid, which is the same for all rows.

References:
    Hairer, Norsett, Wanner. Solving Ordinary Differential Equations I, section II.1.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from ..support.tensors import full_times
from .methods import ode_on_grid
from .solution import VectorField


def grid_steps(grid: Tensor, z: Tensor) -> list[tuple[Tensor, float]]:
    """The start time ``(B,)``, repeated for every row of ``z``, and the length of each step of a 1-D grid."""
    return [(full_times(start, z), end - start) for start, end in pairwise(grid.tolist())]


@ode_on_grid("euler", evaluations=1)
def euler(f: VectorField, z: Tensor, grid: Tensor) -> Tensor:
    """Order 1, one evaluation per step."""
    for t, h in grid_steps(grid, z):
        z = z + h * f(t, z)
    return z


@ode_on_grid("heun", evaluations=2)
def heun(f: VectorField, z: Tensor, grid: Tensor) -> Tensor:
    """Order 2, two evaluations per step."""
    for t, h in grid_steps(grid, z):
        k1 = f(t, z)
        k2 = f(t + h, z + h * k1)
        z = z + h / 2 * (k1 + k2)
    return z


@ode_on_grid("rk4", evaluations=4)
def rk4(f: VectorField, z: Tensor, grid: Tensor) -> Tensor:
    """Order 4, four evaluations per step."""
    for t, h in grid_steps(grid, z):
        k1 = f(t, z)
        k2 = f(t + h / 2, z + h / 2 * k1)
        k3 = f(t + h / 2, z + h / 2 * k2)
        k4 = f(t + h, z + h * k3)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return z
