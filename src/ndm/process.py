r"""The forward process of a neural diffusion model, and the process given x.

.. math::
    q(z_t \mid x) = \mathcal{N}(m_t, s_t^2 I), \qquad m_t = \alpha_t F_\phi(x, t), \quad s_t = \sigma_t\, S_\phi(x, t)

where S = 1, except in neural flow diffusion models (:class:`ndm.GaussianFlow`).

``process(x)`` is the process given x. The reverse process uses a prediction in its place: ``process(x_hat)``. Both are
a :class:`ConditionalProcess`, and no sampler, bound or likelihood repeats its algebra. A prediction may also be a whole
curve, ``process.along(curve)``, or a target, ``process.toward(target)``, and then F is evaluated on data alone. Where
it holds probabilities of symbols, a step of the reverse process is a mixture (:mod:`ndm.mixture`).

In discrete time, for a clock :math:`\Gamma` with :math:`d\Gamma = \eta\, d\gamma` and
:math:`\rho = e^{(\Gamma_s - \Gamma_t)/2}`:

.. math::
    q(z_s \mid z_t, x) = \mathcal{N}\big(m_s + \kappa (z_t - m_t),\; s_s^2 (1 - \rho^2) I\big),
    \qquad \kappa = \rho\, s_s / s_t

In continuous time:

.. math::
    u &= \dot m + (\dot s / s)(z - m)       && \text{velocity: } dz = u\,dt \\
    \nabla \log q(z) &= (m - z) / s^2       && \text{score} \\
    b &= u - \tfrac12 g^2 \nabla \log q(z)  && \text{reverse drift: } dz = b\,dt + g\,d\bar w,
    \quad g^2 = \sigma^2 \dot\Gamma

The diffusion coefficient g must not depend on x. Where S is not 1, g is still that of :math:`\sigma`, and the model of
continuous time is another one than the limit of many steps: their divergence grows without bound unless S is predicted
exactly.

References:
    Bartosh, Vetrov, Naesseth. Neural Diffusion Models. ICML 2024.
    Song, Meng, Ermon. Denoising Diffusion Implicit Models. ICLR 2021 (eta = 0).
    Bartosh, Vetrov, Naesseth. Neural Flow Diffusion Models. NeurIPS 2024 (S, and g of its own).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from .errors import InputError
from .gaussian import Gaussian
from .schedule import LearnedSchedule, NoiseLevel, Schedule
from .support.checks import check_eta, require, require_choice, require_kind
from .support.recent import Recent
from .support.registry import savable
from .support.tensors import check_clock, check_times, expand, require_shape
from .transform import Curve, Identity, Transform

if TYPE_CHECKING:
    from .target import TargetProcess

TiedTo = Literal["time", "noise"]
Affine = tuple[Tensor, Tensor, Tensor, Tensor]
"""m, s and their time derivatives."""


@savable
class ForwardProcess(nn.Module):
    r"""q(z_t | x) = N(alpha_t F(x, t), sigma_t^2 I).

    Args:
        schedule: the noise schedule.
        transform: F; the identity is conventional diffusion.
        eta: how much noise the posterior injects, a number between 1e-12 and 1e12. DDPM and the usual bound use 1; the
            limit 0 is DDIM.
        tied_to: the time variable of F. ``"time"`` is t. ``"noise"`` is
            :math:`u(t) = \sigma_t^2 - \sigma_0^2`: F then changes where noise hides the change, and the continuous
            bound no longer depends on the shape of the schedule.
        clock: learns eta at each time. It is made with the end points of the schedule, and its value at
            :math:`(\gamma_t - \gamma_{\min}) / (\gamma_{\max} - \gamma_{\min})` takes the place of :math:`\gamma_t` in
            :math:`\Gamma`. Before training eta is within a tenth of 1.

    Raises:
        InputError: if ``eta`` or ``tied_to`` is wrong, F has one time where the schedule has several, or a part is of
            another kind.

    Example:
        >>> process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), ndm.Identity())
        >>> q = process(torch.randn(3, 2))
        >>> s, t = torch.full((3,), 0.4), torch.full((3,), 0.5)
        >>> z_t = q.marginal(t).sample()
        >>> q.posterior(z_t, s, t).mean.shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        schedule: Schedule,
        transform: Transform | None = None,
        eta: float = 1.0,
        tied_to: TiedTo = "time",
        clock: LearnedSchedule | None = None,
    ) -> None:
        super().__init__()
        require_choice(("time", "noise"), tied_to=tied_to)
        transform = Identity() if transform is None else transform
        require_kind(schedule=(schedule, Schedule), transform=(transform, Transform))
        require(not schedule.per_channel or tied_to == "time", "F has one time: tied_to must be 'time'", tied_to)
        check_eta(eta)
        if clock is not None:
            require_kind(clock=(clock, LearnedSchedule))
            ends = (clock.gamma_min, clock.gamma_max) == (schedule.gamma_min, schedule.gamma_max)
            require(ends, "clock must have the end points of the schedule", (clock.gamma_min, clock.gamma_max))
        self.schedule = schedule
        self.transform = transform
        self.eta = eta
        self.tied_to = tied_to
        self.clock = clock

    def forward(
        self, x: Tensor, variance: Tensor | None = None, eta: float | Tensor | None = None
    ) -> ConditionalProcess:
        """The process given x, or given a prediction of it.

        Args:
            x: data or a prediction in model units, ``(B, *)``.
            variance: elementwise variance of a prediction.
            eta: replaces the eta of the process, a number or one per row, ``(B,)``; at 0 the posterior's mean is
                DDIM's step.
        """
        return self.along(self.transform(x), variance, eta)

    def along(
        self, curve: Curve, variance: Tensor | None = None, eta: float | Tensor | None = None
    ) -> ConditionalProcess:
        """The process given a (predicted) curve, without evaluating the transform."""
        return ConditionalProcess(self, curve, variance, self.eta if eta is None else eta)

    def toward(
        self,
        target: Tensor,
        value: Tensor | None = None,
        variance: Tensor | None = None,
        eta: float | Tensor | None = None,
    ) -> TargetProcess:
        """The reverse process given a predicted target, without evaluating the transform.

        See :class:`ndm.target.TargetProcess`.

        Args:
            target: the predicted target, ``(B, *)``.
            value: the predicted F(x, t), ``(B, *)``; without it the process has no ODE, unless F is the identity.
            variance, eta: those of :meth:`forward`.

        Raises:
            InputError: if ``eta`` is not that of the process, and there is no ``value``; or if eta is learned, and F is
                not the identity.
        """
        if value is None and isinstance(self.transform, Identity):
            value = target
        if value is None and eta is not None and (isinstance(eta, Tensor) or eta != self.eta):
            raise InputError(
                f"the target is predicted for eta = {self.eta:g} alone; for other values, DDIM and the ODE, predict "
                "F(x, t), too: Predictor(..., value=True), or training.eta_range above 1"
            )
        if self.clock is not None and not isinstance(self.transform, Identity):
            raise InputError("a target is predicted for a fixed eta: do not learn eta, or predict x")
        from .target import TargetProcess

        return TargetProcess(self, target, value, variance, self.eta if eta is None else eta)

    def curve_time(self, t: Tensor, noise: NoiseLevel) -> tuple[Tensor, Tensor]:
        """The time variable of F at ``t``, and its derivative with respect to ``t``."""
        if self.tied_to == "time":
            return t, torch.ones_like(t)
        start = self.schedule(torch.zeros_like(t)).sigma
        return noise.sigma**2 - start**2, 2 * noise.sigma * noise.d_sigma

    def clock_with_derivative(self, noise: NoiseLevel, eta: float | Tensor) -> tuple[Tensor, Tensor]:
        """Gamma and its time derivative at the times of ``noise``, with the shape of its values.

        Args:
            eta: a number, or one per row, ``(B,)``.
        """
        eta = expand(eta, noise.gamma) if isinstance(eta, Tensor) and eta.ndim else eta
        if self.clock is None:
            return eta * noise.gamma, eta * noise.d_gamma
        start, span = self.schedule.gamma_min, self.schedule.gamma_max - self.schedule.gamma_min
        value, slope = self.clock.gamma_with_derivative((noise.gamma - start) / span)
        return eta * value, eta * slope * noise.d_gamma / span

    def noise_rate(self, t: Tensor) -> Tensor:
        """The diffusion coefficient g of the reverse SDE at ``t``, with the shape of the schedule's values. It does not
        depend on x."""
        return self.rate_at(self.schedule(t), self.eta)

    def rate_at(self, noise: NoiseLevel, eta: float | Tensor) -> Tensor:
        """g = sigma (dGamma/dt)^(1/2) at the times of ``noise``, with the shape of its values."""
        return noise.sigma * self.clock_with_derivative(noise, eta)[1] ** 0.5


class ConditionalProcess:
    """The process given x, or given a prediction of it: ``z_t = m(t) + s(t) eps``.

    Times have shape ``(B,)``, everything else ``(B, *)``. All methods follow from m, s and the clock.

    Args:
        process: the forward process.
        curve: t -> F(x, t).
        variance: elementwise variance v of the prediction. It adds (alpha_s - kappa alpha_t)^2 v to the posterior's
            variance. For the identity this is exact for x ~ N(x_hat, v), and for any F it has the right order in the
            step size.
        eta: the rate of the clock, dGamma = eta dgamma; a number, or one per row, ``(B,)``.

    Raises:
        InputError: if the variance or an eta per row has another shape, which might broadcast, or eta is negative or no
            number.
    """

    def __init__(
        self, process: ForwardProcess, curve: Curve, variance: Tensor | None = None, eta: float | Tensor = 1.0
    ) -> None:
        if variance is not None:
            require_shape("variance", variance, curve.x, "x")
        check_clock(eta, curve.x)
        process.schedule.check_channels(curve.x)
        self.process = process
        self.curve = curve
        self.variance = variance
        self.eta = eta
        self._noise: Recent[NoiseLevel] = Recent()
        self._affine: Recent[tuple[Tensor, Tensor]] = Recent()
        self._moving: Recent[Affine] = Recent()
        self._keeps = False

    def noise(self, t: Tensor) -> NoiseLevel:
        """The noise level at ``t``, which is computed once for the same tensor."""
        return self._noise.at(t, self.process.schedule)

    def keeping(self) -> ConditionalProcess:
        """This process, which from now on keeps m and s at the last times: for one evaluation of a loss, where neither
        the parameters of F change nor is there a second backward pass."""
        self._keeps = True
        return self

    def check(self, z: Tensor, **times: Tensor) -> None:
        """Refuse latents that are not shaped like x, and times that are not one per row.

        Raises:
            InputError: with both shapes.
        """
        require_shape("z", z, self.curve.x, "x")
        check_times(z, **times)

    def clock(self, t: Tensor) -> Tensor:
        """Gamma at ``t``, with the shape of the schedule's values."""
        return self.process.clock_with_derivative(self.noise(t), self.eta)[0]

    def noise_rate(self, t: Tensor) -> Tensor:
        """The diffusion coefficient g of the reverse SDE at ``t``, with the shape of the schedule's values."""
        return self.process.rate_at(self.noise(t), self.eta)

    def moved(self, t: Tensor) -> Tensor:
        """F(x, t), ``(B, *)``."""
        return self.curve(self.process.curve_time(t, self.noise(t))[0])

    def affine(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """m and s at ``t``; s broadcasts against m."""
        if self._moving.knows(t):
            return self._moving.at(t, self._find_moving)[:2]
        return self._affine.at(t, self._find) if self._keeps else self._find(t)

    def _find(self, t: Tensor) -> tuple[Tensor, Tensor]:
        noise = self.noise(t)
        value, log_scale = self.curve.scaled(self.process.curve_time(t, noise)[0])
        require_shape("F(x, t)", value, self.curve.x, "x")
        s = expand(noise.sigma, value)
        return expand(noise.alpha, value) * value, s if log_scale is None else s * log_scale.exp()

    def affine_with_derivative(self, t: Tensor) -> Affine:
        """m, s and their time derivatives at ``t``."""
        return self._moving.at(t, self._find_moving) if self._keeps else self._find_moving(t)

    def _find_moving(self, t: Tensor) -> Affine:
        noise = self.noise(t)
        tau, d_tau = self.process.curve_time(t, noise)
        value, slope, log_scale, d_log_scale = self.curve.scaled_with_derivative(tau)
        require_shape("F(x, t)", value, self.curve.x, "x")
        require_shape("dF/dt", slope, self.curve.x, "x")
        alpha, s, d_alpha, d_s = (expand(a, value) for a in (noise.alpha, noise.sigma, noise.d_alpha, noise.d_sigma))
        d_tau = expand(d_tau, value)
        if log_scale is not None and d_log_scale is not None:
            scale = log_scale.exp()
            s, d_s = s * scale, (d_s + s * d_tau * d_log_scale) * scale
        return alpha * value, s, d_alpha * value + alpha * d_tau * slope, d_s

    def start(self) -> Gaussian:
        """q(z_0 | x). F(x, 0) = x and S(x, 0) = 1, so F is not evaluated."""
        noise = self.process.schedule.start(self.curve.x)
        return Gaussian(expand(noise.alpha, self.curve.x) * self.curve.x, expand(noise.sigma, self.curve.x))

    def marginal(self, t: Tensor) -> Gaussian:
        """q(z_t | x) at times ``t`` of shape ``(B,)``.

        Raises:
            InputError: if ``t`` is not of shape ``(B,)``.
        """
        check_times(self.curve.x, t=t)
        return Gaussian(*self.affine(t))

    def posterior(self, z_t: Tensor, s: Tensor, t: Tensor) -> Gaussian:
        """q(z_s | z_t, x) for ``s < t``; at eta = 0 its mean is DDIM's step, and its std comes from ``variance`` alone.

        Args:
            z_t: latents, ``(B, *)``.
            s, t: times in [0, 1], ``(B,)``.

        Raises:
            InputError: if ``z_t`` is not shaped like x, or ``s`` or ``t`` is not of shape ``(B,)``.
        """
        self.check(z_t, s=s, t=t)
        (m_t, s_t), (m_s, s_s) = self.affine(t), self.affine(s)  # F(x, t) may be known
        log_rho = expand(self.clock(s) - self.clock(t), z_t) / 2
        kappa = log_rho.exp() * s_s / s_t
        # expm1, because log_rho is tiny with many steps. kappa is not sqrt(s_s^2 - var) / s_t, which is 0 in float32
        # for large steps.
        variance = -(s_s**2) * torch.expm1(2 * log_rho)
        if self.variance is not None:
            # alpha_s - kappa alpha_t, the weight of the prediction in the mean, computed without cancellation.
            at_s, at_t = self.process.schedule(s), self.noise(t)
            exponent = log_rho + expand(at_s.gamma - at_t.gamma, z_t) / 2
            if self.process.transform.scales:
                exponent = exponent + (s_s / expand(at_s.sigma, z_t)).log() - (s_t / expand(at_t.sigma, z_t)).log()
            weight = -expand(at_s.alpha, z_t) * torch.expm1(exponent)
            variance = variance + weight**2 * self.variance
        return Gaussian(m_s + kappa * (z_t - m_t), variance.sqrt())

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """Velocity u of the ODE dz = u dt that has these marginals."""
        self.check(z, t=t)
        m, s, d_m, d_s = self.affine_with_derivative(t)
        return d_m + d_s / s * (z - m)

    def score(self, z: Tensor, t: Tensor) -> Tensor:
        """Gradient of log q(z_t | x) with respect to z_t."""
        self.check(z, t=t)
        m, s = self.affine(t)
        return (m - z) / s**2

    def reverse_drift(self, z: Tensor, t: Tensor) -> Tensor:
        """Drift b of the SDE dz = b dt + g dw that runs from t = 1 to 0 and has these marginals."""
        self.check(z, t=t)
        m, s, d_m, d_s = self.affine_with_derivative(t)
        velocity, score = d_m + d_s / s * (z - m), (m - z) / s**2
        return velocity - expand(self.noise_rate(t), z) ** 2 / 2 * score
