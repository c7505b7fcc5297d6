r"""Noise schedules: how much signal and noise there is at time t, and how fast both change.

.. math::
    \gamma_t = \log(\sigma_t^2 / \alpha_t^2) \text{ (increasing)}, \qquad
    \alpha_t^2 = \mathrm{sigmoid}(-\gamma_t), \quad \sigma_t^2 = \mathrm{sigmoid}(\gamma_t)

All schedules but those of :class:`PathSchedule` are variance preserving, so :math:`\gamma` and its derivative define
everything:

.. math:: \alpha_t' = -\tfrac12 \sigma_t^2 \gamma_t' \alpha_t, \qquad \sigma_t' = \tfrac12 \alpha_t^2 \gamma_t' \sigma_t

References:
    Kingma, Salimans, Poole, Ho. Variational Diffusion Models. NeurIPS 2021.
    Nichol, Dhariwal. Improved Denoising Diffusion Probabilistic Models. ICML 2021 (cosine).
    Lipman, Chen, Ben-Hamu, Nickel, Le. Flow Matching for Generative Modeling. ICLR 2023 (optimal transport).
    Bartosh, Vetrov, Naesseth. Neural Flow Diffusion Models. NeurIPS 2024 (geometric).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .errors import InputError
from .support.blueprint import Blueprint
from .support.checks import require, require_count, require_flag, require_number
from .support.registry import Registry
from .support.tensors import full_times

FAITHFUL_STEPS = 0.02
"""The largest number of steps T in units of 1 / eps: with more of them t - s has too few digits."""
FAITHFUL_STEP_NOISE = 0.25
"""The largest T in units of (gamma_max - gamma_min) e^(gamma_min / 2) / eps: with more steps, a step near t = 0 adds
less noise than rounding does."""


class NoiseLevel(NamedTuple):
    """Values and time derivatives at ``t``, each with the shape of ``t``; or ``(B, C)`` where channels differ, and
    ``(B, *)`` where elements do."""

    gamma: Tensor
    alpha: Tensor
    sigma: Tensor
    d_gamma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


class Schedule(nn.Module):
    """Base class of all schedules; a subclass only defines ``gamma_with_derivative``.

    Args:
        gamma_min: log noise-to-signal ratio at t = 0.
        gamma_max: log noise-to-signal ratio at t = 1.

    Raises:
        InputError: if the two are not finite numbers, or ``gamma_min`` is not below ``gamma_max``.
    """

    steps: int | None = None
    """The only number of steps that this schedule allows; None allows any number, and continuous time."""
    learned_end = False
    """Whether gamma at t = 1 is learned; ``gamma_max`` is then where it began."""
    per_channel = False
    """Whether the channels of z, or all its elements, have noise of their own."""

    def __init__(self, gamma_min: float, gamma_max: float) -> None:
        super().__init__()
        require_number(gamma_min=gamma_min, gamma_max=gamma_max)
        if not gamma_min < gamma_max:
            raise InputError(f"gamma_min must be below gamma_max, got {gamma_min} and {gamma_max}")
        self.gamma_min = gamma_min
        self.gamma_max = gamma_max

    @classmethod
    def build(cls, blueprint: Blueprint) -> Schedule:
        """Build the schedule from a recipe's settings."""
        return cls(blueprint.settings.gamma_min, blueprint.settings.gamma_max)

    def gamma_with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """gamma(t) and its time derivative, both with the shape of ``t``, or ``(B, C)`` for times ``(B,)``."""
        raise NotImplementedError

    def forward(self, t: Tensor) -> NoiseLevel:
        """The noise level at ``t`` in [0, 1], of any shape."""
        gamma, d_gamma = self.gamma_with_derivative(t)
        alpha2, sigma2 = torch.sigmoid(-gamma), torch.sigmoid(gamma)
        alpha, sigma = alpha2.sqrt(), sigma2.sqrt()
        d_alpha = -sigma2 * d_gamma * alpha / 2
        d_sigma = alpha2 * d_gamma * sigma / 2
        return NoiseLevel(gamma, alpha, sigma, d_gamma, d_alpha, d_sigma)

    def start(self, x: Tensor) -> NoiseLevel:
        """The noise level at t = 0 for each row of ``x``, each value ``(B,)``; no channel has another."""
        return self(full_times(0.0, x))

    def check_channels(self, z: Tensor) -> None:
        """Refuse latents ``(B, C, *)`` that have more or fewer channels than this schedule, if it is per channel.

        Raises:
            InputError: with both numbers.
        """

    def balance(self, t: Tensor) -> Tensor:
        """Weights of the diffusion term at ``t``, ``(B,)``, with which no time has a larger gradient because more
        channels get their noise then. Training may use them; the bound does not."""
        return torch.ones_like(t)

    def check_steps(self, steps: int | None) -> None:
        """Refuse a number of steps for which this schedule was not made (None means continuous time).

        Raises:
            InputError: with the number for which it was made.
        """
        if self.steps is not None and steps != self.steps:
            wanted = "continuous time" if steps is None else f"steps={steps}"
            raise InputError(
                f"{type(self).__name__} belongs to steps={self.steps} and does not allow {wanted}; "
                f"pass steps={self.steps}, or use LearnedSchedule, which allows any"
            )

    def check_precision(self, dtype: torch.dtype, steps: int | None = None) -> None:
        r"""Refuse a noise at t = 0, an end at t = 1 or a number of steps T that ``dtype`` cannot resolve.

        With eps the distance from 1 to the next number of ``dtype``, the standard deviation
        :math:`e^{\gamma_{\min}/2}` must be at least 2 eps (``gamma_min`` at least -30.5 in float32, -70.7 in
        float64), and :math:`e^{-\gamma_{\max}}` must be a normal number (``gamma_max`` at most 87 and 708). T must not
        be above 0.02 / eps, nor :math:`\tfrac14 (\gamma_{\max} - \gamma_{\min}) e^{\gamma_{\min}/2}` / eps: in
        float32 170,000 for gamma from -7 to 5, and 50,000 from -13.3. Measured on small models with either decoder,
        float32 then agrees with float64 to 10^-3 of the bound, and just beyond it does not.

        Raises:
            InputError: with what to change.
        """
        name, eps = str(dtype).removeprefix("torch."), torch.finfo(dtype).eps
        noise = math.exp(self.gamma_min / 2) if self.gamma_min < 0 else 1.0
        if noise < 2 * eps:
            raise InputError(
                f"gamma_min = {self.gamma_min:g} is too small for {name}: it cannot resolve noise of {noise:.1g}; "
                f"use float64, or raise gamma_min to at least {math.ceil(20 * math.log(2 * eps)) / 10:g}"
            )
        highest = -math.log(torch.finfo(dtype).tiny)
        if self.gamma_max > highest:
            raise InputError(
                f"gamma_max = {self.gamma_max:g} is too large for {name}: no signal is left at t = 1; "
                f"use float64, or lower gamma_max to at most {math.floor(highest):g}"
            )
        most = min(FAITHFUL_STEPS, FAITHFUL_STEP_NOISE * (self.gamma_max - self.gamma_min) * noise) / eps
        if steps is not None and steps > max(1, most):
            raise InputError(
                f"steps = {steps} are too many for {name}, which resolves {max(1, math.floor(most))} here; "
                "use float64, or continuous time (steps=None), which the bound tends to"
            )


SCHEDULES = Registry[type[Schedule]]("schedule")


@SCHEDULES.register("linear")
class LinearSchedule(Schedule):
    """gamma is linear in t."""

    def gamma_with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        span = self.gamma_max - self.gamma_min
        return self.gamma_min + span * t, torch.full_like(t, span)


@SCHEDULES.register("cosine")
class CosineSchedule(Schedule):
    """alpha = cos(y) and sigma = sin(y), with an angle y that is linear in t between its values at the end points."""

    def gamma_with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        start, end = (math.atan(math.exp(g / 2)) for g in (self.gamma_min, self.gamma_max))
        # The complement is computed separately: near the end, pi/2 - angle has no correct digits in float32.
        angle = start + (end - start) * t
        complement = math.atan(math.exp(-self.gamma_max / 2)) + (end - start) * (1 - t)
        sine, cosine = torch.sin(angle), torch.sin(complement)
        return 2 * torch.log(sine / cosine), 2 * (end - start) / (sine * cosine)


class PathSchedule(Schedule):
    """Base class of schedules that define alpha and sigma themselves; they are not variance preserving."""

    def path(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """alpha, sigma and their time derivatives, each with the shape of ``t``."""
        raise NotImplementedError

    def gamma_with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        noise = self(t)
        return noise.gamma, noise.d_gamma

    def forward(self, t: Tensor) -> NoiseLevel:
        alpha, sigma, d_alpha, d_sigma = self.path(t)
        gamma, d_gamma = 2 * torch.log(sigma / alpha), 2 * (d_sigma / sigma - d_alpha / alpha)
        return NoiseLevel(gamma, alpha, sigma, d_gamma, d_alpha, d_sigma)

    def signal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""alpha on a line from 1 to :math:`e^{-\gamma_{\max}/2}`, and its slope."""
        slope = math.expm1(-self.gamma_max / 2)
        return math.exp(-self.gamma_max / 2) - slope * (1 - t), torch.full_like(t, slope)


@SCHEDULES.register("ot")
class OTSchedule(PathSchedule):
    r"""The conditional optimal-transport path of flow matching: signal and noise are linear in t.

    .. math:: \alpha_t = 1 - (1 - e^{-\gamma_{\max}/2})\, t, \qquad
        \sigma_t = e^{\gamma_{\min}/2} + (1 - e^{\gamma_{\min}/2})\, t

    so that with the identity each noise goes to its datum on a straight line. ``gamma_max`` is large but finite: a
    little of the data is left at t = 1, and the bound has no infinite term.
    """

    def path(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        alpha, d_alpha = self.signal(t)
        slope = -math.expm1(self.gamma_min / 2)
        return alpha, math.exp(self.gamma_min / 2) + slope * t, d_alpha, torch.full_like(t, slope)


@SCHEDULES.register("geometric")
class GeometricSchedule(PathSchedule):
    r"""The path of neural flow diffusion models: the signal is linear in t, and so is the logarithm of the noise.

    .. math:: \alpha_t = 1 - (1 - e^{-\gamma_{\max}/2})\, t, \qquad \sigma_t = e^{(1 - t)\, \gamma_{\min}/2}

    with their :math:`\delta = e^{\gamma_{\min}/2}`. They have no signal at t = 1, and here a little of it is left.

    Raises:
        InputError: if ``gamma_min`` is not negative, or ``gamma_max`` is.
    """

    def __init__(self, gamma_min: float, gamma_max: float) -> None:
        super().__init__(gamma_min, gamma_max)
        require(gamma_min < 0, "gamma_min must be negative: the noise grows to a standard deviation of 1", gamma_min)
        require(gamma_max >= 0, "gamma_max must not be negative: the ratio of noise to signal would fall", gamma_max)

    def path(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        alpha, d_alpha = self.signal(t)
        sigma = torch.exp((1 - t) * self.gamma_min / 2)
        return alpha, sigma, d_alpha, -self.gamma_min / 2 * sigma


class TrainedSchedule(Schedule):
    """Base class of learned schedules.

    Args:
        learned_end: whether gamma at t = 1 is learned, too, from ``gamma_max`` on. With few steps it decides how much
            of the data is left for the last one.
    """

    def __init__(self, gamma_min: float, gamma_max: float, learned_end: bool = False) -> None:
        super().__init__(gamma_min, gamma_max)
        require_flag(learned_end=learned_end)
        self.learned_end = learned_end
        self.raw_end = nn.Parameter(torch.zeros(1)) if learned_end else None

    def span(self) -> Tensor | float:
        """The difference of gamma at t = 1 and at t = 0."""
        span = self.gamma_max - self.gamma_min
        return span if self.raw_end is None else span * self.raw_end[0].exp()


@SCHEDULES.register("learned")
class LearnedSchedule(TrainedSchedule):
    r"""A learned increasing gamma between two end points.

    .. math:: \gamma(t) = \gamma_{\min} + (\gamma_{\max} - \gamma_{\min}) \frac{r(t) - r(0)}{r(1) - r(0)}, \qquad
        r(t) = w t + \sum_j a_j \,\mathrm{sigmoid}(b_j (t - c_j)), \quad w, a_j, b_j > 0

    Before training it is linear to within a few percent.

    Args:
        num_bumps: the number of sigmoids in the sum.
        learned_end: that of :class:`TrainedSchedule`.
    """

    def __init__(self, gamma_min: float, gamma_max: float, num_bumps: int = 16, learned_end: bool = False) -> None:
        super().__init__(gamma_min, gamma_max, learned_end)
        require_count(num_bumps=num_bumps)
        self.num_bumps = num_bumps
        self.raw_slope = nn.Parameter(torch.tensor([0.5413]))  # softplus^-1(1); FSDP cannot shard scalars
        self.raw_heights = nn.Parameter(torch.full((num_bumps,), -4.0))
        self.raw_steepness = nn.Parameter(torch.full((num_bumps,), float(num_bumps)))
        self.centres = nn.Parameter((torch.arange(num_bumps) + 0.5) / num_bumps)

    @classmethod
    def build(cls, blueprint: Blueprint) -> Schedule:
        m = blueprint.settings
        return cls(m.gamma_min, m.gamma_max, learned_end=m.learned_end)

    def _ramp(self, t: Tensor) -> tuple[Tensor, Tensor]:
        slope, heights, steepness = (
            functional.softplus(p) for p in (self.raw_slope, self.raw_heights, self.raw_steepness)
        )
        bumps = torch.sigmoid(steepness * (t[..., None] - self.centres))
        value = slope[0] * t + (heights * bumps).sum(-1)
        return value, slope[0] + (heights * steepness * bumps * (1 - bumps)).sum(-1)

    def gamma_with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        value, derivative = self._ramp(t)
        start, end = self._ramp(torch.tensor([0.0, 1.0], dtype=t.dtype, device=t.device))[0]
        scale = self.span() / (end - start)
        return self.gamma_min + scale * (value - start), scale * derivative


@SCHEDULES.register("stepwise")
class StepwiseSchedule(TrainedSchedule):
    """A learned increment of gamma for each step: the most flexible schedule for one number of steps.

    Between the knots gamma is linear, but only the knots are trained, so any other number of steps is refused.

    Args:
        steps: the number of steps T.
        learned_end: that of :class:`TrainedSchedule`.
    """

    def __init__(self, gamma_min: float, gamma_max: float, steps: int, learned_end: bool = False) -> None:
        super().__init__(gamma_min, gamma_max, learned_end)
        require_count(steps=steps)
        self.steps = steps
        self.logits = nn.Parameter(torch.zeros(steps))

    @classmethod
    def build(cls, blueprint: Blueprint) -> Schedule:
        if blueprint.bound_steps is None:
            raise InputError("model.schedule stepwise needs training.bound_steps, its number of steps")
        m = blueprint.settings
        return cls(m.gamma_min, m.gamma_max, blueprint.bound_steps, m.learned_end)

    def gamma_with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        steps = self.logits.numel()
        # Each increment is at least a thousandth of a uniform one, so that no two knots coincide.
        increments = 0.999 * self.logits.softmax(0) + 0.001 / steps
        knots = torch.cat([increments.new_zeros(1), increments.cumsum(0)[:-1], increments.new_ones(1)])
        position = (t * steps).clamp(0, steps)
        index = position.floor().long().clamp(max=steps - 1)
        low, high = knots[index], knots[index + 1]
        span = self.span()
        fraction = low + (high - low) * (position - index)
        return self.gamma_min + span * fraction, span * steps * (high - low)
