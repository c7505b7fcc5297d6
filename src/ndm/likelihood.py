r"""Likelihood through the model's ODE.

.. math:: \log p_{\mathrm{ODE}}(z_0) = \log \mathcal{N}(z_1; 0, I) + \int_0^1 \nabla \cdot u_p(z_t, t)\, dt

For continuous data this is deterministic:
:math:`\log p(x) = \log p_{\mathrm{ODE}}(\alpha_0 x) + D \log \alpha_0` (less the log-scale of the decoder's
standardisation). For discrete data it is a lower bound, tighter with more importance samples K:

.. math:: \log p(x) \ge \mathrm{E} \log \frac1K \sum_{k=1}^K
    \frac{p(x \mid z_0^k)\, p_{\mathrm{ODE}}(z_0^k)}{q(z_0^k \mid x)}, \qquad z_0^k \sim q(z_0 \mid x)

Bits per dimension are nats / (D ln 2); there is no other constant.

References:
    Chen, Rubanova, Bettencourt, Duvenaud. Neural Ordinary Differential Equations. NeurIPS 2018.
    Grathwohl et al. FFJORD. ICLR 2019 (Hutchinson's estimator).
"""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import torch
from torch import Tensor

from .decoder import GaussianDecoder
from .errors import InputError
from .gaussian import Gaussian
from .model import NDM
from .sampling import velocity_field
from .solvers import VectorField, dopri5
from .tensors import expand, full_times, rand, sum_rows

Divergence = Literal["exact", "hutchinson"]


Nats = TypeVar("Nats", Tensor, float)


def bits_per_dim(nats: Nats, x: Tensor) -> Nats:
    """Nats per row, a tensor or a number, to bits per element of a row of ``x``: nats / (D ln 2)."""
    return nats / (x[0].numel() * math.log(2))


@torch.no_grad()
def log_prob(
    model: NDM,
    x: Tensor,
    divergence: Divergence = "exact",
    samples: int = 1,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """log p(x) by the model's ODE: exact up to the solver for continuous data, a lower bound for discrete data.

    Args:
        model: the model.
        x: data in its own units, ``(B, *)``.
        divergence: ``"exact"`` (D backward passes per evaluation) or ``"hutchinson"`` (one, unbiased, noisy).
        samples: K. For discrete data and exact divergence, importance samples; with Hutchinson's estimator the K bounds
            are averaged instead, because the logarithm of an average of noisy weights is no bound. For continuous data,
            the probes that are averaged.
        rtol, atol: tolerances of the adaptive solver, which controls each row on its own.
        generator: seeds the latents and the probes.

    Returns:
        ``(B,)``, nats.

    Raises:
        InputError: if x is out of the decoder's range or not finite, or the solver fails.
    """
    if divergence not in ("exact", "hutchinson"):
        raise InputError(f"divergence must be 'exact' or 'hutchinson', got {divergence!r}")
    if samples < 1:
        raise InputError(f"samples must be at least 1, got {samples}")
    model.process.schedule.check_steps(None)
    decoder = model.decoder
    x_model = model.encode(x)
    level = model.process.schedule(full_times(0.0, x_model))

    def log_p_ode(z_0: Tensor) -> Tensor:
        return ode_log_prob(velocity_field(model), z_0, divergence, rtol, atol, generator)

    if isinstance(decoder, GaussianDecoder):
        z_0 = expand(level.alpha, x_model) * x_model
        jacobian = z_0[0].numel() * level.alpha.log() - decoder.log_scale(z_0)
        probes = 1 if divergence == "exact" else samples
        return torch.stack([log_p_ode(z_0) for _ in range(probes)]).mean(0) + jacobian

    q_0 = model.process(x_model).marginal(full_times(0.0, x_model))
    draws = []
    for _ in range(samples):
        z_0 = q_0.sample(generator)
        draws.append(log_p_ode(z_0) - decoder.nll(x, z_0, level) - q_0.log_prob(z_0))
    if divergence == "hutchinson":
        return torch.stack(draws).mean(0)
    return torch.stack(draws).logsumexp(0) - math.log(samples)


def ode_log_prob(
    f: VectorField,
    z_0: Tensor,
    divergence: Divergence = "exact",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """log-density at ``z_0`` of the variable that dz = f dt carries to N(0, I) at t = 1; ``(B,)``, nats."""
    shape = z_0.shape
    probe = 2 * (rand(tuple(shape), z_0, generator) < 0.5).to(z_0) - 1 if divergence == "hutchinson" else None

    def augmented(t: Tensor, state: Tensor) -> Tensor:
        z = state[:, :-1].view(shape)
        value, trace = value_and_divergence(f, t, z, probe)
        return torch.cat([value.flatten(1), trace[:, None]], dim=1)

    state = torch.cat([z_0.flatten(1), z_0.new_zeros(len(z_0), 1)], dim=1)
    state = dopri5(augmented, state, 0.0, 1.0, rtol, atol)
    z_1 = state[:, :-1]
    return Gaussian.standard(z_1).log_prob(z_1) + state[:, -1]


def value_and_divergence(f: VectorField, t: Tensor, z: Tensor, probe: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""f and its divergence in z: exact, or :math:`\epsilon^\top J \epsilon` for a probe; ``(B, *)``, ``(B,)``."""
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        value = f(t, z)
        if probe is not None:
            (vjp,) = torch.autograd.grad(value, z, probe)
            return value.detach(), sum_rows(vjp * probe)
        dim = z[0].numel()
        # Row d of the batch of cotangents picks output d; rows of z do not interact, so one batch serves all.
        cotangents = torch.eye(dim, dtype=z.dtype, device=z.device).view(dim, 1, *z.shape[1:])
        (jacobian,) = torch.autograd.grad(value, z, cotangents.expand(dim, *z.shape), is_grads_batched=True)
    diagonal = jacobian.reshape(dim, len(z), dim).diagonal(dim1=0, dim2=2)
    return value.detach(), diagonal.sum(1)
