r"""How straight the paths of the generative ODE are, and a penalty that makes them straighter.

Along a path :math:`\dot z = u(z, t)` the acceleration is

.. math:: \frac{Du}{Dt} = \partial_t u + (\nabla u)\, u

Where it is zero, paths are straight lines and one Euler step is exact. The penalty is its mean square at times and
latents of the forward process. With a learned F the forward process itself gives way to it; with the schedule
:class:`ndm.OTSchedule` noise and data already go on lines, each pair on its own.

References:
    Finlay, Jacobsen, Nurbekyan, Oberman. How to Train Your Neural ODE. ICML 2020.
    Bartosh, Vetrov, Naesseth. Neural Flow Diffusion Models. NeurIPS 2024 (the penalty in a diffusion model).
    Liu, Gong, Liu. Flow Straight and Fast. ICLR 2023 (the straightness of a path).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .model import NDM
from .sampling import velocity_field
from .solvers.fixed import heun
from .solvers.methods import uniform_grid
from .support.tensors import full_times, sum_rows
from .transform import prepare_forward_mode


def acceleration(model: NDM, z: Tensor, t: Tensor) -> Tensor:
    """Du/Dt at ``z``, ``(B, *)``, exact and differentiable in the model's parameters.

    Args:
        z: latents, ``(B, *)``.
        t: their times, ``(B,)``.

    Raises:
        InputError: if the model has no ODE.
    """
    prepare_forward_mode()
    field, t = velocity_field(model), t.contiguous()  # forward-mode AD refuses tensors whose elements share memory
    return torch.func.jvp(field, (t, z), (torch.ones_like(t), field(t, z)))[1]


def curvature(model: NDM, z: Tensor, t: Tensor) -> Tensor:
    """The mean square of the acceleration of each row, per element; ``(B,)``."""
    return sum_rows(acceleration(model, z, t).square()) / z[0].numel()


@torch.no_grad()
def straightness(model: NDM, z_1: Tensor, steps: int = 50) -> Tensor:
    r"""How far the paths from ``z_1`` are from straight lines; 0 if they are, ``(B,)``.

    .. math:: \int_0^1 \| u(z_t, t) - (z_1 - z_0) \|^2\, dt \;/\; \| z_1 - z_0 \|^2

    by Heun's method and the trapezoidal rule.

    Args:
        z_1: latents at t = 1, ``(B, *)``.
        steps: the number of steps.
    """
    field, grid, z, rates = velocity_field(model), uniform_grid(1.0, 0.0, steps), z_1, []
    for i in range(steps):
        rates.append(field(full_times(float(grid[i]), z), z))
        z = heun(field, z, grid[i : i + 2])
    rates.append(field(full_times(0.0, z), z))
    chord = z_1 - z
    off = torch.stack([sum_rows((rate - chord) ** 2) for rate in rates])
    return (off[1:] + off[:-1]).mean(0) / 2 / sum_rows(chord**2)
