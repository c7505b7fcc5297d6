r"""Off-the-shelf solvers behind the same interface: scipy, torchdiffeq, torchsde (``pip install "ndm[solvers]"``).

They treat the batch as one system with one step size, so a row's answer depends on the rest of the batch, and a failure
stops all rows. Use them as references, or to repeat a paper's protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..support.tensors import expand
from .methods import ODE_SOLVERS, SDE_SOLVERS, Method, require
from .options import Solver
from .solution import NOT_FINITE, Failures, NoiseRate, Solution, VectorField

_SCIPY = ("RK23", "RK45", "DOP853")
_TORCHDIFFEQ = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
_TORCHDIFFEQ_FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams")
_TORCHSDE = {
    "euler": "ito",
    "srk": "ito",
    "euler_heun": "stratonovich",
    "heun": "stratonovich",
    "midpoint": "stratonovich",
}


class _Recorder:
    """The field as a function of one time for all rows; it records the number of calls and the last time and state."""

    def __init__(self, f: VectorField, z: Tensor, start: float) -> None:
        self.f, self.calls, self.t, self.z = f, 0, start, z

    def __call__(self, t: float | Tensor, z: Tensor) -> Tensor:
        # A tensor keeps its graph: torchdiffeq's times can depend on the state, and gradients flow through them.
        t = torch.as_tensor(t, dtype=z.dtype, device=z.device)
        self.calls, self.t, self.z = self.calls + 1, float(t.detach()), z
        # Cloned, because forward-mode AD in a field refuses expanded times.
        return self.f(t.expand(len(z)).clone(), z)

    def solution(self, name: str, state: Tensor, failures: Failures | None = None) -> Solution:
        calls = torch.full(state.shape[:1], self.calls, dtype=torch.long, device=state.device)
        failures = Failures.none(name, state) if failures is None else failures
        return Solution(state, state.new_zeros(len(state)), calls, torch.zeros_like(calls), failures)

    def failure(self, name: str, reason: object, state: Tensor | None = None, t: float | None = None) -> Solution:
        """The solution if all rows failed, at the given state and time or at those of the last call."""
        state, t = (self.z if state is None else state).detach(), self.t if t is None else t
        rows = torch.arange(len(state), device="cpu")
        times = torch.full(state.shape[:1], t, dtype=state.dtype, device="cpu")
        return self.solution(name, state, Failures(name, len(state), rows, times, (str(reason),) * len(state)))


def scipy_ode(method: str, f: VectorField, z: Tensor, start: float, end: float, solver: Solver) -> Solution:
    """``scipy.integrate.solve_ivp``, in float64 on the CPU; the field runs in the dtype and on the device of ``z``.

    Raises:
        InputError: if ``z`` requires a gradient.
    """
    if z.requires_grad and torch.is_grad_enabled():
        raise InputError(f"scipy:{method} has no gradient; use dopri5, or torchdiffeq:dopri5")
    name, field = f"scipy:{method}", _Recorder(f, z, start)
    back: Callable[[Any], Tensor] = lambda y: torch.from_numpy(y).to(z).view_as(z)  # noqa: E731

    def flat(t: float, y: Any) -> Any:
        with torch.no_grad():
            value = field(t, back(y)).cpu().double()
        if not bool(torch.isfinite(value).all()):
            raise FloatingPointError  # scipy would shrink its step forever
        return value.flatten().numpy()

    integrate = require("scipy.integrate")
    try:
        y = z.detach().cpu().double().flatten().numpy()
        result = integrate.solve_ivp(flat, (start, end), y, method=method, rtol=solver.rtol, atol=solver.atol)
    except FloatingPointError:
        return field.failure(name, NOT_FINITE)
    state = back(result.y[:, -1].copy())
    if not result.success:
        return field.failure(name, result.message, state, float(result.t[-1]))
    return field.solution(name, state)


def torchdiffeq_ode(method: str, f: VectorField, z: Tensor, start: float, end: float, solver: Solver) -> Solution:
    """``torchdiffeq.odeint``; methods with a fixed step take ``Solver.steps`` equal steps."""
    name, field = f"torchdiffeq:{method}", _Recorder(f, z, start)
    ends = torch.tensor([start, end], dtype=z.dtype, device=z.device)
    options: dict[str, Any]
    if method in _TORCHDIFFEQ_FIXED:
        grid = torch.linspace(start, end, solver.steps + 1, dtype=z.dtype, device=z.device)
        # A grid, not step_size: with step_size torchdiffeq may take one more step, because a division rounds.
        options = {"grid_constructor": lambda *_: grid}
    else:
        # step_t makes a step land on the end. By default torchdiffeq steps beyond the end, where the field may not
        # exist, and interpolates back.
        options = {"max_num_steps": 100_000, "step_t": ends[1:]}
    odeint = require("torchdiffeq").odeint
    try:
        state = odeint(field, z, ends, rtol=solver.rtol, atol=solver.atol, method=method, options=options)[-1]
    except AssertionError as error:
        return field.failure(name, error)
    return field.solution(name, state)


@torch.no_grad()
def torchsde_sde(
    method: str, f: VectorField, g: NoiseRate, z: Tensor, start: float, end: float, solver: Solver,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """``torchsde.sdeint`` with ``Solver.steps`` equal steps, in the time elapsed since ``start``."""
    torchsde, direction, span = require("torchsde"), 1.0 if end >= start else -1.0, abs(end - start)

    class Elapsed(nn.Module):
        noise_type, sde_type = "diagonal", _TORCHSDE[method]

        def times(self, r: Tensor, y: Tensor) -> Tensor:
            return torch.full(y.shape[:1], start + direction * float(r), dtype=y.dtype, device=y.device)

        def f(self, r: Tensor, y: Tensor) -> Tensor:
            return direction * f(self.times(r, y), y.view_as(z)).flatten(1)

        def g(self, r: Tensor, y: Tensor) -> Tensor:
            return expand(g(self.times(r, y)), z).expand_as(z).flatten(1)

    flat = z.flatten(1)
    device = z.device if generator is None else generator.device
    entropy = int(torch.randint(2**31 - 1, (), generator=generator, device=device))
    noise = torchsde.BrownianInterval(
        0.0, span, size=flat.shape, dtype=z.dtype, device=z.device, entropy=entropy,
        levy_area_approximation="space-time" if method == "srk" else "none",
    )  # fmt: skip
    ends = torch.tensor([0.0, span], dtype=z.dtype, device=z.device)
    return torchsde.sdeint(Elapsed(), flat, ends, bm=noise, method=method, dt=span / solver.steps)[-1].view_as(z)


for _name in _SCIPY:
    ODE_SOLVERS.add(f"scipy:{_name}", Method(partial(scipy_ode, _name), takes_steps=False, library="scipy"))
for _name in (*_TORCHDIFFEQ, *_TORCHDIFFEQ_FIXED):
    _fixed = _name in _TORCHDIFFEQ_FIXED
    ODE_SOLVERS.add(f"torchdiffeq:{_name}", Method(partial(torchdiffeq_ode, _name), _fixed, library="torchdiffeq"))
for _name in _TORCHSDE:
    SDE_SOLVERS.add(f"torchsde:{_name}", Method(partial(torchsde_sde, _name), takes_steps=True, library="torchsde"))
