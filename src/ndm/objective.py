r"""The variational bound: what is trained, and the first number to report.

.. math::
    -\log p(x) \le
    \underbrace{\mathrm{KL}(q(z_1 \mid x) \,\|\, \mathcal{N}(0, I))}_{\text{prior}} +
    \underbrace{T\, \mathrm{E}_i\, \mathrm{KL}(q(z_s \mid z_t, x) \,\|\, p(z_s \mid z_t))}_{\text{diffusion}} +
    \underbrace{\mathrm{E}[-\log p(x \mid z_0)]}_{\text{reconstruction}}

with :math:`s = i/T,\ t = (i+1)/T`; as T grows the diffusion term tends to

.. math:: \mathrm{E}_t\, \|b_q(z_t, t) - b_p(z_t, t)\|^2 / (2 g_t^2)

where b are the reverse drifts. All three terms depend on F and are trained: without the prior, F collapses or explodes.

References:
    Bartosh, Vetrov, Naesseth. Neural Diffusion Models. ICML 2024, Algorithm 1.
    Kingma, Salimans, Poole, Ho. Variational Diffusion Models. NeurIPS 2021.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .errors import InputError
from .gaussian import Gaussian
from .model import NDM
from .process import ConditionalProcess
from .tensors import expand, full_times, sum_rows
from .times import LowDiscrepancyTimes


class Bound(NamedTuple):
    """The three terms of the bound, each ``(B,)``, nats."""

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor

    @property
    def total(self) -> Tensor:
        """The bound on -log p(x), ``(B,)``, nats."""
        return self.prior + self.diffusion + self.reconstruction


def bound(
    model: NDM,
    x: Tensor,
    steps: int | None = None,
    times: LowDiscrepancyTimes | None = None,
    generator: torch.Generator | None = None,
    eta: Tensor | None = None,
) -> Bound:
    """An unbiased estimate of the bound on -log p(x), differentiable in all parameters.

    Args:
        model: the model.
        x: data in its own units, ``(B, *)``.
        steps: number of steps T; None is continuous time.
        times: where the diffusion term is evaluated; low-discrepancy uniform times unless told otherwise.
        generator: seeds the times and the noise.
        eta: noise of the reverse process, one per row ``(B,)``, instead of the process's own. Each eta has its own
            reverse process and its own bound; at small eta the bound is about the ODE's velocity.

    Returns:
        The three terms per row, in nats.

    Raises:
        InputError: if x is out of the decoder's range or not finite, or the schedule does not serve ``steps``.
    """
    if steps is not None and steps < 1:
        raise InputError(f"steps must be at least 1 (or None for continuous time), got {steps}")
    model.process.schedule.check_steps(steps)
    times = LowDiscrepancyTimes() if times is None else times

    x_model = model.encode(x)
    q = model.process(x_model)
    start, end = full_times(0.0, x_model), full_times(1.0, x_model)

    z_1 = q.marginal(end)
    prior = z_1.kl(Gaussian.standard(z_1.mean))

    z_0 = q.marginal(start).sample(generator)
    reconstruction = model.decoder.nll(x, z_0, model.process.schedule(start))

    t, weight = times(x_model, generator)
    if steps is None:
        diffusion = continuous_diffusion(model, q, t, generator, eta)
    else:
        diffusion = discrete_diffusion(model, q, t, steps, generator, eta)
    times.observe(t, diffusion.detach())
    return Bound(prior, weight * diffusion, reconstruction)


def discrete_diffusion(
    model: NDM, q: ConditionalProcess, u: Tensor, steps: int, generator: torch.Generator | None = None,
    eta: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """T KL(q(z_s | z_t, x) || p(z_s | z_t)) of the step that contains ``u``, ``(B,)``, nats."""
    i = (u * steps).floor().clamp(max=steps - 1)
    s, t = i / steps, (i + 1) / steps
    z_t = q.marginal(t).sample(generator)
    p = model(z_t, t)
    return steps * q.posterior(z_t, s, t, eta).kl(p.posterior(z_t, s, t, eta))


def continuous_diffusion(
    model: NDM, q: ConditionalProcess, t: Tensor, generator: torch.Generator | None = None, eta: Tensor | None = None
) -> Tensor:
    """The diffusion term's density at ``t``, ``(B,)``, nats per unit of time."""
    z_t = q.marginal(t).sample(generator)
    p = model(z_t, t)
    g = model.process.noise_rate(t, eta)
    return sum_rows(((q.reverse_drift(z_t, t, eta) - p.reverse_drift(z_t, t, eta)) / expand(g, z_t)) ** 2) / 2
