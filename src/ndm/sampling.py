r"""Sampling: ancestral in discrete time, ODE and SDE in continuous time. Loops only.

======================================  ==========================================================================
solver                                  what it does
======================================  ==========================================================================
``ancestral``                           draws from p(z_s | z_t), step by step
``ddim``                                the same with eta = 0: deterministic given z_1
``euler``, ``heun``, ``rk4``            the ODE dz = u_p dt on a uniform grid
``dopri5``                              the same ODE, adaptive (``steps`` is not used)
``scipy:...``, ``torchdiffeq:...``      the same ODE by another library, e.g. ``scipy:RK45``
``euler_maruyama``, ``stochastic_heun`` the SDE dz = b_p dt + g dw on a uniform grid
``torchsde:...``                        the same SDE by another library, e.g. ``torchsde:srk``
======================================  ==========================================================================

For a non-linear F the ODE and the SDE are two different models with different densities.

References:
    Bartosh, Vetrov, Naesseth. Neural Diffusion Models. ICML 2024, Algorithm 2.
    Song, Meng, Ermon. Denoising Diffusion Implicit Models. ICLR 2021.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .errors import InputError
from .model import NDM
from .solvers import ODE_SOLVERS, SDE_SOLVERS, VectorField, check_solver, solve_ode, solve_sde
from .tensors import full_times, randn_like, rows_at_once

BATCH = 128

SOLVERS = ("ancestral", "ddim", *ODE_SOLVERS, *SDE_SOLVERS)


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
    r"""Draw from the model.

    Args:
        model: the model.
        shape: of the samples, batch included, ``(B, *)``.
        steps: number of steps of every solver that does not choose its own.
        solver: one of the table above.
        mode: take the decoder's mode instead of a draw. With an ODE solver and continuous data the mode is what
            :func:`ndm.log_prob` is the density of; a draw adds the decoder's noise, :math:`e^{\gamma_0 / 2}` wide.
        rtol, atol: tolerances of a solver that chooses its own.
        generator: seeds everything.

    Returns:
        Samples in data units, ``(B, *)``.

    Raises:
        InputError: if the solver is unknown or not installed, or the schedule does not serve ``steps``.
        SolverError: if the solver cannot finish.
    """
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")
    check_solver(solver, SOLVERS)
    model.process.schedule.check_steps(steps if solver in ("ancestral", "ddim") else None)
    z_1 = randn_like(model.reference.new_empty(shape), generator)
    if solver in ("ancestral", "ddim"):
        z_0 = ancestral(model, z_1, steps, deterministic=solver == "ddim", generator=generator)
    elif solver in ODE_SOLVERS:
        z_0 = solve_ode(velocity_field(model), z_1, 1.0, 0.0, solver, steps, rtol, atol).state
    else:
        drift: VectorField = lambda t, z: model(z, t).reverse_drift(z, t)  # noqa: E731
        z_0 = solve_sde(drift, model.process.noise_rate, z_1, 1.0, 0.0, solver, steps, generator)
    return model.decoder.decode(z_0, model.process.schedule(full_times(0.0, z_0)), mode, generator)


def sample_in_batches(
    model: NDM,
    shape: Sequence[int],
    num: int,
    steps: int = 50,
    solver: str = "ancestral",
    mode: bool = False,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """``num`` samples of ``shape`` in batches that fit, on the CPU; the arguments are those of :func:`sample`."""
    most = rows_at_once(shape, BATCH)
    for start in range(0, num, most):
        rows = (min(most, num - start), *shape)
        yield sample(model, rows, steps, solver, mode, generator=generator).cpu()


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
        posterior = model(z, t, eta=0.0 if deterministic else None).posterior(z, s, t)
        z = posterior.mean if deterministic else posterior.sample(generator)
    return z


def velocity_field(model: NDM) -> VectorField:
    """The model's ODE as a plain function ``f(t, z)``."""
    return lambda t, z: model(z, t).velocity(z, t)
