"""SDE solvers for additive noise, on a given grid.

References:
    Kloeden, Platen. Numerical Solution of Stochastic Differential Equations, chapters 10, 14 and 15.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..support.tensors import expand, randn_like
from .fixed import grid_steps
from .methods import sde_on_grid
from .solution import NoiseRate, VectorField


@sde_on_grid("euler_maruyama")
def euler_maruyama(
    f: VectorField, g: NoiseRate, z: Tensor, grid: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Strong and weak order 1, one evaluation per step."""
    for t, h in grid_steps(grid, z):
        noise = abs(h) ** 0.5 * randn_like(z, generator)
        z = z + h * f(t, z) + expand(g(t), z) * noise
    return z


@sde_on_grid("stochastic_heun")
def stochastic_heun(
    f: VectorField, g: NoiseRate, z: Tensor, grid: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Weak order 2, strong order 1: the trapezoidal rule in the drift and in the noise's variance; two evaluations."""
    for t, h in grid_steps(grid, z):
        rate = ((g(t) ** 2 + g(t + h) ** 2) / 2) ** 0.5
        noise = abs(h) ** 0.5 * expand(rate, z) * randn_like(z, generator)
        k1 = f(t, z)
        k2 = f(t + h, z + h * k1 + noise)
        z = z + h / 2 * (k1 + k2) + noise
    return z
