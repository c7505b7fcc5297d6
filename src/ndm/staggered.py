"""A schedule in which the channels of z get their noise one after another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .errors import InputError
from .schedule import NoiseLevel, Schedule
from .support.checks import require, require_kind, require_number
from .support.registry import savable
from .support.tensors import full_times

REST = 0.02
"""The share of a channel's noise that :class:`StaggeredSchedule` spreads over all times: gamma always increases."""
SHARPNESS = 80.0
"""The inverse of the time that a corner of :class:`StaggeredSchedule` takes."""
SHORTEST = 1e-3
"""The shortest duration of :class:`StaggeredSchedule`: the rounding of float32 is 10^-4 of its ramp. The corners alone
take ten times longer."""


@savable
class StaggeredSchedule(Schedule):
    r"""The channels get their noise one after another.

    .. math::
        \gamma_j(t) = \gamma_{\min} + (\gamma_{\max} - \gamma_{\min}) \big[\rho t + (1 - \rho)\,
            \mathrm{ramp}((t - a_j) / w)\big], \qquad \rho = 0.02

    where the ramp goes from 0 to 1 while t goes from :math:`a_j` to :math:`a_j + w`, with rounded corners. Outside of
    it a channel hardly changes: while one gets its noise, the others are data or pure noise. So the reverse process
    first makes the channels that start late, and then the others given these, which is the chain rule
    :math:`p(x) = p(x_{\text{late}})\, p(x_{\text{early}} \mid x_{\text{late}})` with learned conditional densities.

    All channels have :math:`\gamma_{\min}` at t = 0 and :math:`\gamma_{\max}` at t = 1. With equal starts this is a
    schedule like any other. The bound depends on the order, though not on the shape of the schedules within it.

    Args:
        starts: the time :math:`a_j` at which each channel starts to get its noise.
        duration: the time w that it takes, at least 0.001.

    Raises:
        InputError: if a channel would start before 0 or end after 1, or the duration is too short for float32; in
            ``check_channels``, if latents have another number of channels.
    """

    per_channel = True
    begin: Tensor

    def __init__(self, gamma_min: float, gamma_max: float, starts: Sequence[float], duration: float) -> None:
        super().__init__(gamma_min, gamma_max)
        require_kind(starts=(starts, Sequence))
        require_number(duration=duration, **{f"starts[{j}]": start for j, start in enumerate(starts)})
        fits = 0 < duration <= 1 and all(0 <= start <= 1 - duration + 1e-9 for start in starts) and len(starts) > 0
        require(fits, "every channel must start and end in [0, 1]", (starts, duration))
        require(duration >= SHORTEST, f"duration must be at least {SHORTEST}", duration)
        self.duration = float(duration)
        self.register_buffer("begin", torch.tensor([float(start) for start in starts]))

    @property
    def starts(self) -> list[float]:
        """The starts of all channels. They are saved with the weights, so a run goes on with those it began with."""
        return list(self.begin.tolist())

    def check_channels(self, z: Tensor) -> None:
        if z.shape[1] != len(self.begin):
            raise InputError(
                f"StaggeredSchedule has starts for {len(self.begin)} channels, but the latents have {z.shape[1]}; give "
                "one start per channel"
            )

    def start(self, x: Tensor) -> NoiseLevel:
        return NoiseLevel(*(value[:, 0] for value in self(full_times(0.0, x))))

    def _ramp(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The difference of two softplus functions is a ramp with rounded corners; ``(B,)`` to ``(B, C)``."""
        u = SHARPNESS * (t[:, None] - self.begin.to(t))
        v = u - SHARPNESS * self.duration
        height = SHARPNESS * self.duration
        # softplus(u) = -logsigmoid(-u), but functional.softplus has a jump at its threshold.
        ramp = (functional.logsigmoid(-v) - functional.logsigmoid(-u)) / height
        return ramp, (u.sigmoid() - v.sigmoid()) / self.duration

    def gamma_with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        value, derivative = self._ramp(t)
        first, last = self._ramp(torch.tensor([0.0, 1.0], dtype=t.dtype, device=t.device))[0]
        span = self.gamma_max - self.gamma_min
        fraction = REST * t[:, None] + (1 - REST) * (value - first) / (last - first)
        return self.gamma_min + span * fraction, span * (REST + (1 - REST) * derivative / (last - first))

    def balance(self, t: Tensor) -> Tensor:
        rate = self.gamma_with_derivative(t)[1]
        return (self.gamma_max - self.gamma_min) / rate.mean(1)
