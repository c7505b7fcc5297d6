r"""Sampling: ancestral in discrete time, ODE and SDE in continuous time. Loops only.

======================================  ==========================================================================
solver                                  what it does
======================================  ==========================================================================
``ancestral``                           draws from p(z_s | z_t), step by step
``ddim``                                the same with eta = 0: deterministic given z_1
``euler``, ``heun``, ``rk4``            the ODE dz = u_p dt on a uniform grid
``dopri5``                              the same ODE, adaptive (``steps`` is not used)
``euler_maruyama``, ``stochastic_heun`` the SDE dz = b_p dt + g dw on a uniform grid
======================================  ==========================================================================

For a non-linear F the ODE and the SDE are two different models with different densities.

References:
    Bartosh, Vetrov, Naesseth. Neural Diffusion Models. ICML 2024, Algorithm 2.
    Song, Meng, Ermon. Denoising Diffusion Implicit Models. ICLR 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import InputError
from .model import NDM
from .solvers import ODE_SOLVERS, SDE_SOLVERS, VectorField, dopri5
from .tensors import full_times, randn_like

SOLVERS = ("ancestral", "ddim", *ODE_SOLVERS, "dopri5", *SDE_SOLVERS)


@torch.no_grad()
def sample(
    model: NDM,
    shape: tuple[int, ...],
    steps: int = 50,
    solver: str = "ancestral",
    mode: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw from the model.

    Args:
        model: the model.
        shape: of the samples, batch included, ``(B, *)``.
        steps: number of steps of every solver but ``dopri5``.
        solver: one of the table above.
        mode: take the decoder's mode instead of a draw.
        rtol, atol: tolerances of ``dopri5``.
        generator: seeds everything.

    Returns:
        Samples in data units, ``(B, *)``.

    Raises:
        InputError: if the solver is unknown, or the schedule does not serve ``steps``.
    """
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")
    if solver not in SOLVERS:
        raise InputError(f"unknown solver {solver!r}; choose one of {', '.join(SOLVERS)}")
    model.process.schedule.check_steps(steps if solver in ("ancestral", "ddim") else None)
    z_1 = randn_like(model.reference.new_empty(shape), generator)
    if solver in ("ancestral", "ddim"):
        z_0 = ancestral(model, z_1, steps, deterministic=solver == "ddim", generator=generator)
    elif solver == "dopri5":
        z_0 = dopri5(velocity_field(model), z_1, 1.0, 0.0, rtol, atol)
    elif solver in ODE_SOLVERS:
        z_0 = ODE_SOLVERS[solver](velocity_field(model), z_1, uniform_grid(steps))
    else:
        z_0 = SDE_SOLVERS[solver](
            lambda t, z: model(z, t).reverse_drift(z, t),
            model.process.noise_rate,
            z_1,
            uniform_grid(steps),
            generator,
        )
    return model.decoder.decode(z_0, model.process.schedule(full_times(0.0, z_0)), mode, generator)


def ancestral(
    model: NDM,
    z_1: Tensor,
    steps: int,
    deterministic: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """From ``z_1`` to ``z_0`` through p(z_s | z_t), or through its DDIM mean when ``deterministic``."""
    z = z_1
    for i in reversed(range(steps)):
        s, t = full_times(i / steps, z), full_times((i + 1) / steps, z)
        p = model(z, t)
        z = p.posterior(z, s, t, eta=0.0).mean if deterministic else p.posterior(z, s, t).sample(generator)
    return z


def velocity_field(model: NDM) -> VectorField:
    """The model's ODE as a plain function ``f(t, z)``."""
    return lambda t, z: model(z, t).velocity(z, t)


def uniform_grid(steps: int) -> Tensor:
    """Times 1 = t_0 > ... > t_steps = 0."""
    return torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
