"""A learned schedule for each element of z."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .errors import InputError
from .schedule import SCHEDULES, NoiseLevel, Schedule
from .support.blueprint import Blueprint
from .support.checks import row_shape
from .support.tensors import full_times

FLOOR = 1e-3
"""The least slope of gamma, in units of that of a line."""
GAUSS = tuple((0.5 + side * math.sqrt(0.15), weight / 18) for side, weight in ((-1, 5), (0, 8), (1, 5)))
"""The nodes and weights of Gauss's rule on [0, 1], which is exact for polynomials of degree five."""
SPEED = 10.0
"""How much faster the coefficients change than the parameters, which an optimiser moves as slowly as all others."""


@SCHEDULES.register("elementwise")
class ElementwiseSchedule(Schedule):
    r"""Each element has noise of its own, with a learned polynomial for gamma.

    .. math::
        \gamma_i(t) = \gamma_{\min} + (\gamma_{\max} - \gamma_{\min}) \Big[ (1 - \epsilon) \frac{P_i(t)}{P_i(1)}
            + \epsilon t \Big], \qquad P_i'(t) = (a_i t^2 + b_i t + c_i)^2, \quad \epsilon = 10^{-3}

    The square and the second term keep gamma increasing. Before training gamma is a line. This is the schedule of MuLAN
    without its auxiliary latent: the bound depends on the order in which elements get their noise, and so it can be
    learned.

    Args:
        shape: the shape of a row of z, without the batch.

    Raises:
        InputError: in ``check_channels``, if latents have another shape.

    References:
        Sahoo, Gokaslan, De Sa, Kuleshov. Diffusion Models With Learned Adaptive Noise. NeurIPS 2024.
    """

    per_channel = True

    def __init__(self, gamma_min: float, gamma_max: float, shape: Sequence[int]) -> None:
        super().__init__(gamma_min, gamma_max)
        self.shape = row_shape(shape)
        self.raw = nn.Parameter(torch.zeros(3, *self.shape))

    @classmethod
    def build(cls, blueprint: Blueprint) -> Schedule:
        return cls(blueprint.settings.gamma_min, blueprint.settings.gamma_max, blueprint.shape)

    def check_channels(self, z: Tensor) -> None:
        if z.shape[1:] != self.shape:
            raise InputError(
                f"this ElementwiseSchedule is for latents of shape {self.shape}, but a row has {tuple(z.shape[1:])}"
            )

    def start(self, x: Tensor) -> NoiseLevel:
        return NoiseLevel(*(value.flatten(1)[:, 0] for value in self(full_times(0.0, x))))

    def coefficients(self) -> tuple[Tensor, Tensor, Tensor]:
        """a, b and c, each ``shape``; a subclass may give other ones for each row, ``(B, *shape)``."""
        a, b, c = SPEED * self.raw
        return a, b, 1 + c

    def gamma_with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # In float64 where there is one, and by Gauss's rule, which is exact here and a sum of squares: the powers of t
        # have both signs, and rounding would make gamma fall where it is nearly flat.
        exact = t.dtype if t.device.type == "mps" else torch.float64
        a, b, c = (coefficient.to(exact) for coefficient in self.coefficients())
        squares = lambda t: (a * t**2 + b * t + c) ** 2  # noqa: E731
        integral = lambda t: t * sum(weight * squares(node * t) for node, weight in GAUSS)  # noqa: E731
        time = t.to(exact).view(-1, *[1] * len(self.shape))
        span, total = self.gamma_max - self.gamma_min, integral(torch.ones_like(time[:1]))
        fraction = (1 - FLOOR) * integral(time) / total + FLOOR * time
        slope = (1 - FLOOR) * squares(time) / total + FLOOR
        return (self.gamma_min + span * fraction).to(t.dtype), (span * slope).to(t.dtype)

    def check_precision(self, dtype: torch.dtype, steps: int | None = None) -> None:
        super().check_precision(dtype, steps)
        largest = max(abs(self.gamma_min), abs(self.gamma_max))
        most = int(FLOOR * (self.gamma_max - self.gamma_min) / (largest * torch.finfo(dtype).eps))
        if steps is not None and steps > most:
            name = str(dtype).removeprefix("torch.")
            raise InputError(
                f"{steps} steps are more than the {most} at which gamma still rises from each step to the next in "
                f"{name}, where this schedule is flat; take fewer steps, or float64"
            )
