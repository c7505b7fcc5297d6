"""Every solver by its name: ours by a bare one, others as ``library:method``."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from .dopri5 import dopri5
from .external import SCIPY, TORCHDIFFEQ, TORCHDIFFEQ_FIXED, TORCHSDE, require, scipy_ode, torchdiffeq_ode, torchsde_sde
from .fixed import euler, heun, rk4
from .sde import NoiseRate, euler_maruyama, stochastic_heun
from .solution import Quadrature, Solution, SolverError, VectorField

_FIXED = {"euler": (euler, 1), "heun": (heun, 2), "rk4": (rk4, 4)}
_STOCHASTIC = {"euler_maruyama": euler_maruyama, "stochastic_heun": stochastic_heun}

ODE_SOLVERS = (
    *_FIXED,
    "dopri5",
    *(f"scipy:{method}" for method in SCIPY),
    *(f"torchdiffeq:{method}" for method in TORCHDIFFEQ),
)
FIXED_STEP = (*_FIXED, *(f"torchdiffeq:{method}" for method in TORCHDIFFEQ_FIXED))
SDE_SOLVERS = (*_STOCHASTIC, *(f"torchsde:{method}" for method in TORCHSDE))


def check_solver(name: str, known: tuple[str, ...]) -> None:
    """Refuse a name that is not among ``known``, or whose library is not installed.

    Raises:
        InputError: listing the names, or saying what to install.
    """
    if name not in known:
        raise InputError(f"unknown solver {name!r}; choose one of {', '.join(known)}")
    library, _, method = name.partition(":")
    if method:
        require(library)


def solve_ode(
    f: VectorField,
    z: Tensor,
    start: float,
    end: float,
    solver: str = "dopri5",
    steps: int = 50,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    args: tuple[Tensor, ...] = (),
    quadrature: Quadrature | None = None,
) -> Solution:
    """Carry ``z`` along dz = f dt from ``start`` to ``end``, and integrate along the path.

    Args:
        f: the vector field ``f(t, z, *args)``.
        z: states at ``start``, ``(B, *)``.
        solver: one of ``ODE_SOLVERS``.
        steps: number of equal steps of a solver that does not choose its own.
        rtol, atol: tolerances of one that does.
        args: what else belongs to the rows, ``(B, ...)`` each.
        quadrature: what is integrated along the path; all solvers but ``dopri5`` carry the integral as one more element
            of the state.

    Raises:
        InputError: if the solver is unknown, its library is missing, it has no gradient but one is asked for, or the
            tolerances are negative.
        SolverError: if it cannot finish.
    """
    check_solver(solver, ODE_SOLVERS)
    if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise InputError(f"rtol and atol must not be negative, nor both 0; got {rtol} and {atol}")
    library, _, method = solver.partition(":")
    if solver == "dopri5":
        return dopri5(f, z, start, end, rtol, atol, args=args, quadrature=quadrature)
    if quadrature is not None:
        return _augmented(quadrature, z, start, end, solver, steps, rtol, atol, args)
    if library == "scipy":
        return scipy_ode(method, f, z, start, end, rtol, atol, args)
    if library == "torchdiffeq":
        return torchdiffeq_ode(method, f, z, start, end, steps, rtol, atol, args)
    step, evaluations = _FIXED[solver]
    state = step(lambda t, y: f(t, y, *args), z, uniform_grid(start, end, steps))
    nfe = torch.full((len(z),), evaluations * steps, device=z.device)
    return Solution(state, z.new_zeros(len(z)), nfe, torch.zeros_like(nfe))


def _augmented(
    quadrature: Quadrature, z: Tensor, start: float, end: float,
    solver: str, steps: int, rtol: float, atol: float, args: tuple[Tensor, ...],
) -> Solution:  # fmt: skip
    """:func:`solve_ode` of the state with its integral as one more element."""
    shape = z.shape

    def field(t: Tensor, state: Tensor, *args: Tensor) -> Tensor:
        value, integrand = quadrature(t, state[:, :-1].reshape(-1, *shape[1:]), *args)
        return torch.cat([value.flatten(1), integrand[:, None]], dim=1)

    def split(solution: Solution) -> Solution:
        state, nfe = solution.state, solution.nfe
        return Solution(state[:, :-1].reshape(shape), state[:, -1], nfe, nfe)

    initial = torch.cat([z.flatten(1), z.new_zeros(len(z), 1)], dim=1)
    try:
        return split(solve_ode(field, initial, start, end, solver, steps, rtol, atol, args))
    except SolverError as error:
        raise error.with_partial(split(error.partial)) from None


def solve_sde(
    f: VectorField,
    g: NoiseRate,
    z: Tensor,
    start: float,
    end: float,
    solver: str = "stochastic_heun",
    steps: int = 50,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Carry ``z`` along dz = f dt + g dw from ``start`` to ``end`` in ``steps`` equal steps.

    Raises:
        InputError: if the solver is unknown or its library is missing.
    """
    check_solver(solver, SDE_SOLVERS)
    if solver in _STOCHASTIC:
        return _STOCHASTIC[solver](f, g, z, uniform_grid(start, end, steps), generator)
    return torchsde_sde(solver.partition(":")[2], f, g, z, start, end, steps, generator)


def uniform_grid(start: float, end: float, steps: int) -> Tensor:
    """``steps`` equal steps, in float64."""
    return torch.linspace(start, end, steps + 1, dtype=torch.float64)
