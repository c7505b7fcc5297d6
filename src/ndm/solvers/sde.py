r"""Solvers for ODEs and SDEs. They know nothing of diffusion.

* ODE, :math:`dz = f(t, z)\,dt`: :func:`euler`, :func:`heun`, :func:`rk4` on a given grid, :func:`dopri5` adaptive.
* SDE with additive noise, :math:`dz = f(t, z)\,dt + g(t)\,dw`: :func:`euler_maruyama`, :func:`stochastic_heun`.

``f(t, z)`` takes times of shape ``(B,)`` and states of shape ``(B, *)``. Grids are 1-D and may run either way: for a
grid that decreases, ``f`` and ``g`` are those of the equation in the original time, dw the noise of the reversed one.
In :func:`dopri5` every row has its own step size and error control.

References:
    Hairer, Norsett, Wanner. Solving Ordinary Differential Equations I, sections II.4 and II.5.
    Kloeden, Platen. Numerical Solution of Stochastic Differential Equations.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from .errors import InputError
from .tensors import expand, full_times, randn_like, sum_rows

VectorField = Callable[[Tensor, Tensor], Tensor]


def euler(f: VectorField, z: Tensor, grid: Tensor) -> Tensor:
    """Order 1, one evaluation per step."""
    for t, h in _steps(grid, z):
        z = z + h * f(t, z)
    return z


def heun(f: VectorField, z: Tensor, grid: Tensor) -> Tensor:
    """Order 2, two evaluations per step."""
    for t, h in _steps(grid, z):
        k1 = f(t, z)
        k2 = f(t + h, z + h * k1)
        z = z + h / 2 * (k1 + k2)
    return z


def rk4(f: VectorField, z: Tensor, grid: Tensor) -> Tensor:
    """Order 4, four evaluations per step."""
    for t, h in _steps(grid, z):
        k1 = f(t, z)
        k2 = f(t + h / 2, z + h / 2 * k1)
        k3 = f(t + h / 2, z + h / 2 * k2)
        k4 = f(t + h, z + h * k3)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return z


def euler_maruyama(
    f: VectorField,
    g: Callable[[Tensor], Tensor],
    z: Tensor,
    grid: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Strong and weak order 1 for additive noise."""
    for t, h in _steps(grid, z):
        noise = abs(h) ** 0.5 * randn_like(z, generator)
        z = z + h * f(t, z) + expand(g(t), z) * noise
    return z


def stochastic_heun(
    f: VectorField,
    g: Callable[[Tensor], Tensor],
    z: Tensor,
    grid: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Weak order 2 for additive noise: the trapezoidal rule in the drift and in the variance of the noise."""
    for t, h in _steps(grid, z):
        rate = ((g(t) ** 2 + g(t + h) ** 2) / 2) ** 0.5
        noise = abs(h) ** 0.5 * expand(rate, z) * randn_like(z, generator)
        k1 = f(t, z)
        k2 = f(t + h, z + h * k1 + noise)
        z = z + h / 2 * (k1 + k2) + noise
    return z


def _steps(grid: Tensor, z: Tensor) -> list[tuple[Tensor, float]]:
    """Start, one per row, and length of every step of the grid."""
    points = grid.tolist()
    return [(full_times(start, z), end - start) for start, end in pairwise(points)]


# Dormand and Prince's coefficients: stages, and the difference of the two embedded solutions.
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def dopri5(
    f: VectorField,
    z: Tensor,
    start: float,
    end: float,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 10_000,
) -> Tensor:
    """Dormand-Prince 5(4), adaptive, each row with its own steps: six evaluations per step.

    Args:
        f: the vector field.
        z: states at ``start``, ``(B, *)``.
        start, end: the interval, in either direction.
        rtol, atol: a step is accepted when the root mean square over a row of error / (atol + rtol |z|) is at most 1.
        max_steps: a guard against stiffness.

    Raises:
        InputError: if the field is not finite, a row's step underflows, or ``max_steps`` is reached; it names the time.
    """
    shape, direction = z.shape, 1.0 if end >= start else -1.0
    z = z.flatten(1)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return f(t, y.view(shape)).flatten(1)

    def norm(error: Tensor, scale: Tensor) -> Tensor:
        return (sum_rows((error / scale) ** 2) / error.shape[1]).sqrt()

    t = torch.full_like(z[:, 0], start)
    k1 = field(t, z)
    remaining = torch.full_like(t, abs(end - start))
    # Hairer's first guess: a step that changes the state by about a hundredth of its size.
    scale = atol + rtol * z.abs()
    h = (0.01 * norm(z, scale).clamp(min=1e-5) / norm(k1, scale).clamp(min=1e-5)).minimum(remaining)
    smallest = 16 * torch.finfo(z.dtype).eps * max(abs(start), abs(end), 1.0)
    for _ in range(max_steps):
        if not bool((remaining > 0).any()):
            return z.view(shape)
        h = h.minimum(remaining)
        step = (direction * h)[:, None]
        k = [k1]
        for node, weights in zip(_NODES, _STAGES, strict=True):
            increment = torch.stack([w * k_i for w, k_i in zip(weights, k, strict=True)]).sum(0)
            candidate = z + step * increment
            k.append(field(t + node * direction * h, candidate))
        error = step * torch.stack([w * k_i for w, k_i in zip(_ERROR, k, strict=True)]).sum(0)
        ratio = norm(error, atol + rtol * torch.maximum(z.abs(), candidate.abs()))
        if not bool(torch.isfinite(ratio).all()):
            row = int((~torch.isfinite(ratio)).nonzero()[0])
            raise InputError(f"dopri5: the field is not finite in row {row} near t = {float(t[row]):.4g}")
        accepted = (ratio <= 1) & (remaining > 0)
        # A row that reaches the end lands on it exactly, whatever the rounding of its sum of steps.
        left = torch.where(accepted, remaining - h, remaining)
        left = torch.where(accepted & (h >= remaining), torch.zeros_like(left), left)
        remaining = left.clamp(min=0)
        t = torch.where(accepted, end - direction * remaining, t)
        z = torch.where(accepted[:, None], candidate, z)
        k1 = torch.where(accepted[:, None], k[-1], k1)
        h = h * (0.9 * ratio.clamp(min=1e-10) ** -0.2).clamp(0.2, 10.0)
        if bool(((h < smallest) & (remaining > smallest)).any()):
            row = int(((h < smallest) & (remaining > smallest)).nonzero()[0])
            raise InputError(
                f"dopri5: the step underflows in row {row} near t = {float(t[row]):.4g}; "
                "loosen rtol and atol, or use float64"
            )
    raise InputError(f"dopri5: {max_steps} steps were not enough; loosen rtol and atol (now {rtol:g}, {atol:g})")


ODE_SOLVERS = {"euler": euler, "heun": heun, "rk4": rk4}
SDE_SOLVERS = {"euler_maruyama": euler_maruyama, "stochastic_heun": stochastic_heun}
