r"""Off-the-shelf solvers behind the same interface: scipy, torchdiffeq, torchsde (``pip install "ndm[solvers]"``).

They see the batch as one system with one step size, so a row's answer depends on its batch mates, and a failure stops
all rows. They serve as references, and where a paper's protocol is to be repeated.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..tensors import expand
from .sde import NoiseRate
from .solution import Solution, SolverError, VectorField

SCIPY = ("RK23", "RK45", "DOP853")
TORCHDIFFEQ_FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams")
TORCHDIFFEQ = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun", *TORCHDIFFEQ_FIXED)
TORCHSDE = {
    "euler": "ito",
    "srk": "ito",
    "euler_heun": "stratonovich",
    "heun": "stratonovich",
    "midpoint": "stratonovich",
}


def require(library: str) -> Any:
    """Import an optional library.

    Raises:
        InputError: saying how to install it.
    """
    try:
        return importlib.import_module(library)
    except ImportError:
        raise InputError(f"this solver needs {library.split('.')[0]}: pip install 'ndm[solvers]'") from None


class _Recorder:
    """The field as a function of one time for all rows; remembers how often and where it was called last."""

    def __init__(self, f: VectorField, z: Tensor, start: float, args: tuple[Tensor, ...]) -> None:
        self.f, self.args, self.calls, self.t, self.z = f, args, 0, start, z

    def __call__(self, t: float | Tensor, z: Tensor) -> Tensor:
        # A tensor stays one: torchdiffeq's times depend on the state, and so does its gradient through them.
        t = torch.as_tensor(t, dtype=z.dtype, device=z.device)
        self.calls, self.t, self.z = self.calls + 1, float(t.detach()), z
        # Explicitly repeated: some fields (forward-mode AD) refuse expanded times.
        return self.f(t.expand(len(z)).clone(), z, *self.args)

    def solution(self, state: Tensor) -> Solution:
        calls = torch.full(state.shape[:1], self.calls, dtype=torch.long, device=state.device)
        return Solution(state, state.new_zeros(len(state)), calls, torch.zeros_like(calls))

    def error(self, name: str, reason: object, state: Tensor | None = None, t: float | None = None) -> SolverError:
        state, t = self.z if state is None else state, self.t if t is None else t
        times = torch.full(state.shape[:1], t, dtype=state.dtype)
        return SolverError(
            name, self.solution(state.detach()), torch.arange(len(state)), times, [str(reason)] * len(state)
        )


def scipy_ode(
    method: str, f: VectorField, z: Tensor, start: float, end: float, rtol: float, atol: float,
    args: tuple[Tensor, ...] = (),
) -> Solution:  # fmt: skip
    """``scipy.integrate.solve_ivp``: float64 on the CPU around a field of z's own dtype and device.

    Raises:
        InputError: if a gradient is asked for.
    """
    if z.requires_grad and torch.is_grad_enabled():
        raise InputError(f"scipy:{method} has no gradient; use dopri5, or torchdiffeq:dopri5")
    field = _Recorder(f, z, start, args)
    back: Callable[[Any], Tensor] = lambda y: torch.from_numpy(y).to(z).view_as(z)  # noqa: E731

    def flat(t: float, y: Any) -> Any:
        with torch.no_grad():
            value = field(t, back(y)).cpu().double()
        if not bool(torch.isfinite(value).all()):
            raise FloatingPointError  # scipy would shrink its step for ever
        return value.flatten().numpy()

    integrate = require("scipy.integrate")
    try:
        y = z.detach().cpu().double().flatten().numpy()
        result = integrate.solve_ivp(flat, (start, end), y, method=method, rtol=rtol, atol=atol)
    except FloatingPointError:
        raise field.error(f"scipy:{method}", "the field is not finite") from None
    if not result.success:
        raise field.error(f"scipy:{method}", result.message, back(result.y[:, -1].copy()), float(result.t[-1]))
    return field.solution(back(result.y[:, -1].copy()))


def torchdiffeq_ode(
    method: str, f: VectorField, z: Tensor, start: float, end: float, steps: int, rtol: float, atol: float,
    args: tuple[Tensor, ...] = (),
) -> Solution:  # fmt: skip
    """``torchdiffeq.odeint``; methods of fixed step take ``steps`` of them."""
    field = _Recorder(f, z, start, args)
    ends = torch.tensor([start, end], dtype=z.dtype, device=z.device)
    # step_t: land on the end. By default it steps beyond (where the field may not exist) and interpolates back.
    adaptive: dict[str, Any] = {"max_num_steps": 100_000, "step_t": ends[1:]}
    # Not step_size, of which torchdiffeq takes one more where the division rounds.
    grid = {"grid_constructor": lambda *_: torch.linspace(start, end, steps + 1, dtype=z.dtype, device=z.device)}
    options = grid if method in TORCHDIFFEQ_FIXED else adaptive
    try:
        state = require("torchdiffeq").odeint(field, z, ends, rtol=rtol, atol=atol, method=method, options=options)
    except AssertionError as error:
        raise field.error(f"torchdiffeq:{method}", error) from None
    return field.solution(state[-1])


@torch.no_grad()
def torchsde_sde(
    method: str, f: VectorField, g: NoiseRate, z: Tensor, start: float, end: float, steps: int,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """``torchsde.sdeint`` with ``steps`` equal steps, in the time elapsed since ``start``."""
    torchsde, direction, span = require("torchsde"), 1.0 if end >= start else -1.0, abs(end - start)

    class Elapsed(nn.Module):
        noise_type, sde_type = "diagonal", TORCHSDE[method]

        def times(self, r: Tensor, y: Tensor) -> Tensor:
            return torch.full(y.shape[:1], start + direction * float(r), dtype=y.dtype, device=y.device)

        def f(self, r: Tensor, y: Tensor) -> Tensor:
            return direction * f(self.times(r, y), y.view_as(z)).flatten(1)

        def g(self, r: Tensor, y: Tensor) -> Tensor:
            return expand(g(self.times(r, y)), y).expand_as(y)

    flat = z.flatten(1)
    device = z.device if generator is None else generator.device
    entropy = int(torch.randint(2**31 - 1, (), generator=generator, device=device))
    noise = torchsde.BrownianInterval(
        0.0, span, size=flat.shape, dtype=z.dtype, device=z.device, entropy=entropy,
        levy_area_approximation="space-time" if method == "srk" else "none",
    )  # fmt: skip
    ends = torch.tensor([0.0, span], dtype=z.dtype, device=z.device)
    return torchsde.sdeint(Elapsed(), flat, ends, bm=noise, method=method, dt=span / steps)[-1].view_as(z)
