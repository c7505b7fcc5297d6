r"""Sampling: ancestral in discrete time, by the ODE or the SDE in continuous time.

=======================================  ==========================================================================
solver                                   what it does
=======================================  ==========================================================================
``ancestral``                            draws from p(z_s | z_t), step by step
``ddim``                                 the same with eta = 0: deterministic given z_1
``euler``, ``heun``, ``rk4``             the ODE dz = u_p dt on a uniform grid
``dopri5``                               the same ODE, adaptive (``steps`` is not used)
``scipy:...``, ``torchdiffeq:...``       the same ODE by another library, e.g. ``scipy:RK45``
``euler_maruyama``, ``stochastic_heun``  the SDE dz = b_p dt + g dw on a uniform grid
``torchsde:...``                         the same SDE by another library, e.g. ``torchsde:srk``
=======================================  ==========================================================================

For a non-linear F the ODE and the SDE are two different models with different densities.

References:
    Bartosh, Vetrov, Naesseth. Neural Diffusion Models. ICML 2024, Algorithm 2.
    Song, Meng, Ermon. Denoising Diffusion Implicit Models. ICLR 2021.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral

import torch
from torch import Tensor

from .errors import InputError
from .model import NDM, check_model, check_not_random
from .solvers import (
    ODE_SOLVERS,
    SDE_SOLVERS,
    Method,
    Solver,
    VectorField,
    check_distinct,
    find_solver,
    solve_ode,
    solve_sde,
)
from .support.checks import require_count, require_flag, row_shape
from .support.tensors import full_times, randn_like, require_generator, rows_at_once

BATCH = 128


@torch.no_grad()
def sample(
    model: NDM,
    shape: int | Sequence[int],
    steps: int | None = None,
    solver: Solver | str = "ancestral",
    mode: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draw from the model.

    Args:
        model: the model, in evaluation mode if it has dropout or batch norm.
        shape: the number of samples, if the model knows the shape of one (``model.shape``); or the shape of all of them
            with the batch dimension, ``(B, *)``.
        steps: the number of steps, 50 by default; a solver that chooses its own steps ignores it. An
            :class:`ndm.Solver` already has a number of steps.
        solver: a name in the table of this module, or an :class:`ndm.Solver`.
        mode: take the decoder's mode instead of a draw. With an ODE solver and continuous data, :func:`ndm.log_prob` is
            then the density of the samples; a draw adds the decoder's noise, with standard deviation
            :math:`e^{\gamma_0 / 2}` in model units.
        generator: seeds all draws.

    Returns:
        Samples in data units, ``(B, *)``.

    Raises:
        InputError: if the solver is unknown or not installed, the schedule does not allow the number of steps or the
            dtype tells fewer times apart, ``steps`` contradicts the steps of the :class:`ndm.Solver`, ``shape`` is not
            the model's, the model is random because it is in training mode, its dtype cannot resolve the schedule (see
            :meth:`ndm.Schedule.check_precision`), or a sample is not finite.
        SolverError: if an ODE solver could not finish some rows; ``result`` is the :class:`ndm.Solution`.

    Example:
        >>> process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
        >>> model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,))), ndm.GaussianDecoder())
        >>> x = ndm.sample(model, 16, steps=10)
        >>> x = ndm.sample(model, (16, 2), solver=ndm.Solver("dopri5", rtol=1e-3, atol=1e-3))
    """
    check_model(model)
    shape = batch_shape(model, shape)
    require_generator(generator)
    require_flag(mode=mode)
    solver = Solver.of(solver, steps)
    discrete = check_sampler(model, solver.name, solver.steps)
    latents = model.latent_shape(shape[1:])
    try:
        z_1 = randn_like(model.reference.new_empty((shape[0], *latents)), generator)
    except (RuntimeError, MemoryError):
        raise InputError(f"{shape[0]:,} samples at once do not fit into the memory; draw fewer at a time") from None
    if discrete:
        z_0 = ancestral(model, z_1, solver.steps, deterministic=solver.name == "ddim", generator=generator)
    elif solver.name in ODE_SOLVERS:
        z_0 = solve_ode(velocity_field(model), z_1, 1.0, 0.0, solver).checked().state
    else:
        drift: VectorField = lambda t, z: model(z, t).reverse_drift(z, t)  # noqa: E731
        z_0 = solve_sde(drift, model.process.noise_rate, z_1, 1.0, 0.0, solver, generator)
    check_finite(model, z_0)
    x = model.decoder.decode(z_0, model.process, mode, generator)
    check_finite(model, x)
    return x


def check_sampler(model: NDM, solver: str, steps: int) -> bool:
    """Refuse a solver or a number of steps that is not for this model. True if the solver takes steps in discrete time.

    Raises:
        InputError: as :func:`sample` says.
    """
    find_solver(solver, SOLVERS)
    discrete = solver in _DISCRETE
    model.process.schedule.check_steps(steps if discrete else None)
    model.process.schedule.check_precision(model.reference.dtype)
    if discrete:
        check_distinct(steps, model.reference.dtype)
    check_not_random(model)
    return discrete


def check_finite(model: NDM, z: Tensor) -> None:
    """Refuse to give samples, or the latents from which they are decoded, with a NaN or an infinity.

    Raises:
        InputError: with the number of rows, and with the cause if it is a weight.
    """
    bad = (~torch.isfinite(z)).flatten(1).any(1)
    if bad.any():
        from .support.weights import not_finite  # which reads files, and no sampling needs it

        weights = not_finite(model.state_dict())
        cause = f"the model has {weights}; load or train it again" if weights else "its field or its data are too large"
        raise InputError(f"{int(bad.sum())} of {len(z)} samples of this model are not finite: {cause}")


def batch_shape(model: NDM, shape: int | Sequence[int]) -> tuple[int, ...]:
    """The shape of samples ``(B, *)`` from their number, or from their shape if it is one of the model's.

    Raises:
        InputError: if it is not, or there is only a number and the model does not know the shape of a sample.
    """
    if isinstance(shape, Integral):
        require_count(shape=shape)
        if model.shape is None:
            raise InputError(
                f"this model does not know the shape of a sample: pass ({shape}, *shape), or make it with "
                "NDM(..., shape=shape)"
            )
        return (int(shape), *model.shape)
    full = row_shape(shape)
    if len(full) < 2 or model.shape not in (None, full[1:]):
        wanted = "*" if model.shape is None else ", ".join(map(str, model.shape))
        raise InputError(f"shape must be (batch, {wanted}) for this model, got {full}")
    return full


def sample_in_batches(
    model: NDM,
    shape: Sequence[int],
    num: int,
    steps: int | None = None,
    solver: Solver | str = "ancestral",
    mode: bool = False,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Yield ``num`` samples of ``shape`` in batches of limited size, on the CPU; the rest is as in :func:`sample`."""
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
    """Carry ``z_1`` to ``z_0`` by draws from p(z_s | z_t), or by its DDIM mean if ``deterministic``."""
    z = z_1
    for i in reversed(range(steps)):
        s, t = full_times(i / steps, z), full_times((i + 1) / steps, z)
        posterior = model(z, t, eta=0.0 if deterministic else None).posterior(z, s, t)
        z = posterior.mean if deterministic else posterior.sample(generator)
    return z


def velocity_field(model: NDM) -> VectorField:
    """The model's ODE as a plain function ``f(t, z)``."""
    return lambda t, z: model(z, t).velocity(z, t)


_DISCRETE = {name: Method(ancestral, takes_steps=True) for name in ("ancestral", "ddim")}
# A ChainMap lists its last map first, and includes solvers that are registered later.
SOLVERS: Mapping[str, Method] = ChainMap(SDE_SOLVERS, ODE_SOLVERS, _DISCRETE)  # type: ignore[arg-type]
"""Every solver that :func:`sample` takes, by name."""
