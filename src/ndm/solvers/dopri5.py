r"""Dormand-Prince 5(4) with separate steps for every row, and an integral along the path.

Each row has its own time, step size and error control. A step is accepted if the root mean square over the row of
:math:`e / (\mathrm{atol} + \mathrm{rtol}\,|z|)` is at most 1, where e is the difference of the embedded solutions. A
row leaves the batch when it reaches the end or fails. So a stiff row does not make other rows take more steps, and a
row's answer does not depend on the rest of the batch. :mod:`ndm.solvers.quadrature` describes the integral.

References:
    Hairer, Norsett, Wanner. Solving Ordinary Differential Equations I, section II.4.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import reduce

import torch
from torch import Tensor

from ..errors import InputError
from ..support.checks import require_count
from .checked import check_problem, checked_field, checked_quadrature
from .dormand_prince import STEP_NFE, DormandPrince, Step
from .methods import ODE_SOLVERS, Method
from .options import Solver
from .quadrature import PANEL_NFE, PATH_SHARE, integrate_panel, panel_steps
from .solution import NOT_FINITE, Failures, Quadrature, Solution, VectorField

_REASONS = (NOT_FINITE, "the step underflows", "the budget of evaluations is spent")


def dopri5(
    f: VectorField,
    z: Tensor,
    start: float,
    end: float,
    solver: Solver | str = "dopri5",
    max_nfe: int = 60_000,
    args: tuple[Tensor, ...] = (),
    quadrature: Quadrature | None = None,
) -> Solution:
    """Solve with adaptive steps for each row, six evaluations per step. Gradients hold the steps fixed.

    A row fails if the field is not finite, its step underflows, or ``max_nfe`` is reached. The other rows are finished,
    and the result lists the failed rows in ``failures``.

    Args:
        f: the vector field ``f(t, z, *args)``.
        z: states at ``start``, ``(B, *)``.
        start, end: the interval, in either direction.
        solver: gives the tolerances of a step.
        max_nfe: the largest number of evaluations for a row, to stop stiff rows.
        args: further inputs of ``f`` with one entry per row, ``(B, ...)`` each.
        quadrature: the field with an integrand, which is integrated along the path.

    Raises:
        InputError: if ``start`` or ``end`` is not finite, a shape would only broadcast, or the dtype of ``z`` cannot
            resolve the tolerances.
    """
    check_problem(z, start, end)
    require_count(max_nfe=max_nfe)
    if len(z) == 0 or start == end:
        zeros, none = z.new_zeros(len(z)), torch.zeros(len(z), dtype=torch.long, device=z.device)
        return Solution(z, zeros, none, none, Failures.none("dopri5", z))
    quadrature = None if quadrature is None else checked_quadrature(quadrature)
    problem = _Problem(checked_field(f), quadrature, start, end, z.shape)
    control = _Control(Solver.of(solver), problem, z, max_nfe)
    rows, nfe = _begin(problem, control, z.flatten(1), args), 1
    left: list[_Left] = []
    while True:
        leaving = rows.failed | (rows.remaining <= 0)
        if bool(leaving.any()):
            left.append(rows.leave(leaving, nfe))
            rows = rows.keep(~leaving)
            if len(rows.number) == 0:
                return _assemble(left, problem)
        nfe += STEP_NFE * control.panel
        rows = _advance(problem, control, rows, nfe)


@dataclass(frozen=True)
class _Problem:
    """The equation as a function of the time elapsed since the start, for states ``(B, D)``."""

    f: VectorField
    quadrature: Quadrature | None
    start: float
    end: float
    shape: torch.Size

    @property
    def direction(self) -> float:
        return 1.0 if self.end > self.start else -1.0

    @property
    def span(self) -> float:
        return abs(self.end - self.start)

    def time(self, elapsed: Tensor) -> Tensor:
        return self.end - self.direction * (self.span - elapsed)  # exact at the end

    def field(self, elapsed: Tensor, y: Tensor, args: tuple[Tensor, ...]) -> Tensor:
        return self.f(self.time(elapsed), y.view(-1, *self.shape[1:]), *args).flatten(1)

    def integrand(self, elapsed: Tensor, y: Tensor, args: tuple[Tensor, ...]) -> Tensor:
        """Zeros without a quadrature."""
        if self.quadrature is None:
            return y.new_zeros(len(y))
        return self.quadrature(self.time(elapsed), y.view(-1, *self.shape[1:]), *args)[1]


class _Control:
    """Decides which steps are accepted, and how long the next steps are."""

    def __init__(self, solver: Solver, problem: _Problem, z: Tensor, max_nfe: int) -> None:
        self.method, self.rtol, self.atol, self.max_nfe = DormandPrince(z), solver.rtol, solver.atol, max_nfe
        info = torch.finfo(z.dtype)
        if self.rtol < info.eps and self.atol < info.tiny:
            name = str(z.dtype).removeprefix("torch.")
            raise InputError(
                f"rtol={self.rtol:g} and atol={self.atol:g} are below the rounding of {name}; raise rtol to at "
                f"least {info.eps:.2g}, or atol"
            )
        self.atol = max(self.atol, info.tiny)  # an element that is 0 has a tolerance too
        self.smallest = 16 * torch.finfo(z.dtype).eps * max(abs(problem.start), abs(problem.end), 1.0)
        integrates = problem.quadrature is not None
        self.panel = panel_steps(problem.shape[1:].numel()) if integrates else 1
        self.path_share = PATH_SHARE if integrates else 1.0

    def tolerance(self, before: Tensor, after: Tensor) -> Tensor:
        return self.atol + self.rtol * torch.maximum(before.abs(), after.abs())

    @torch.no_grad()
    def ratio(self, steps: list[Step]) -> Tensor:
        """The largest error among the steps of each row, in units of the tolerance, ``(B,)``."""
        ratios = [_rms(step.error() / (self.path_share * self.tolerance(step.start, step.end))) for step in steps]
        return reduce(torch.maximum, ratios)

    @torch.no_grad()
    def first_step(self, y: Tensor, slope: Tensor) -> Tensor:
        """Hairer's first guess: a step that changes the state by about a hundredth of its size."""
        scale = self.tolerance(y, y)
        guess = 0.01 * _rms(y / scale).clamp(min=1e-5) / _rms(slope / scale).clamp(min=1e-5)
        # Without atol the scale of a small element is so small that the guess is 0 or no number.
        return torch.where(guess > self.smallest, guess, self.smallest)

    @torch.no_grad()
    def judge(self, rows: _Rows, h: Tensor, ratio: Tensor, nfe: int) -> tuple[Tensor, _Rows]:
        """Accept or reject steps of length ``h``: the accepted rows ``(B,)``, and all rows with their next step."""
        accepted = ratio <= 1
        # A row that reaches the end lands on it exactly, in spite of the rounding of its steps.
        remaining = torch.where(accepted, (rows.remaining - h).where(h < rows.remaining, 0.0), rows.remaining)
        # Proportional-integral control (Gustafsson) rejects few steps although a row's error estimate is noisy.
        growth = (0.9 * ratio.clamp(min=1e-10) ** -0.14 * rows.ratio**0.08).clamp(0.2, 10.0)
        finite = torch.isfinite(ratio)
        h = h * torch.where(finite, growth, 0.2)
        last_ratio = torch.where(accepted, ratio.clamp(min=1e-4), rows.ratio)
        underflow = (h < self.smallest) & (remaining > self.smallest)
        failed = underflow | (nfe + STEP_NFE * self.panel > self.max_nfe)
        reason = torch.where(underflow, finite.long(), 2)
        return accepted, replace(rows, h=h, remaining=remaining, ratio=last_ratio, failed=failed, reason=reason)


_Left = tuple[Tensor, ...]
"""The rows that left: number, state, integral, quadrature evaluations, remaining time, failed, reason, nfe."""


@dataclass(frozen=True)
class _Rows:
    """The rows that are not finished; every field has one entry per row."""

    number: Tensor
    """The index of the row in the batch."""
    y: Tensor
    slope: Tensor
    """The field at ``y``."""
    h: Tensor
    """The length of the next step, or of the next panel of steps."""
    remaining: Tensor
    """The time that remains."""
    ratio: Tensor
    """The error of the last accepted step in units of its tolerance."""
    failed: Tensor
    reason: Tensor
    """Why the row failed, an index into ``_REASONS``."""
    integral: Tensor
    integrand: Tensor
    """The integrand at ``y``."""
    quadrature_nfe: Tensor
    args: tuple[Tensor, ...]

    def keep(self, mask: Tensor) -> _Rows:
        """The rows that ``mask`` selects."""
        tensors = {field.name: getattr(self, field.name)[mask] for field in fields(self) if field.name != "args"}
        return _Rows(**tensors, args=tuple(a[mask] for a in self.args))

    def leave(self, mask: Tensor, nfe: int) -> _Left:
        """The results of the rows that ``mask`` selects, after ``nfe`` evaluations."""
        known = (self.number, self.y, self.integral, self.quadrature_nfe, self.remaining, self.failed, self.reason)
        number, *others = (a[mask] for a in known)
        return number, *others, torch.full_like(number, nfe)


def _begin(problem: _Problem, control: _Control, y: Tensor, args: tuple[Tensor, ...]) -> _Rows:
    """All rows at the start, with the field and the integrand at the start."""
    number, zeros = torch.arange(len(y), device=y.device), torch.zeros_like(y[:, 0])
    none, remaining = torch.zeros_like(number), torch.full_like(zeros, problem.span)
    slope = problem.field(zeros, y, args)
    return _Rows(
        number,
        y,
        slope,
        h=control.first_step(y, slope).minimum(remaining),
        remaining=remaining,
        ratio=torch.ones_like(zeros),
        failed=~torch.isfinite(slope).all(1),
        reason=none,
        integral=zeros,
        integrand=problem.integrand(zeros, y, args),
        quadrature_nfe=none if problem.quadrature is None else none + 1,
        args=args,
    )


def _advance(problem: _Problem, control: _Control, rows: _Rows, nfe: int) -> _Rows:
    """Advance the rows whose panel of steps is accepted; ``nfe`` counts the evaluations with this panel."""
    h, panel = rows.h.minimum(rows.remaining), control.panel
    elapsed, length = problem.span - rows.remaining, problem.direction * h[:, None] / panel
    steps: list[Step] = []
    y, slope = rows.y, rows.slope
    for i in range(panel):
        field = lambda p, y, i=i: problem.field(elapsed + (i + p) / panel * h, y, rows.args)  # noqa: E731
        steps.append(control.method.step(field, y, slope, length))
        y, slope = steps[-1].end, steps[-1].slopes[-1]
    ratio, moved = control.ratio(steps), rows
    if problem.quadrature is not None:
        moved, ratio = _integrate(problem, control, rows, steps, h, ratio)
    accepted, judged = control.judge(rows, h, ratio, nfe)
    return replace(
        judged,
        y=torch.where(accepted[:, None], y, rows.y),
        slope=torch.where(accepted[:, None], slope, rows.slope),
        integral=torch.where(accepted, moved.integral, rows.integral),
        integrand=torch.where(accepted, moved.integrand, rows.integrand),
        quadrature_nfe=moved.quadrature_nfe,
    )


def _integrate(
    problem: _Problem, control: _Control, rows: _Rows, steps: list[Step], h: Tensor, ratio: Tensor
) -> tuple[_Rows, Tensor]:
    """Add the panel to the integral of the rows whose path is accepted; also the larger of the two error ratios."""
    chosen = (ratio <= 1).nonzero().flatten()
    if len(chosen) == 0:
        return rows, ratio

    def integrand(elapsed: Tensor, y: Tensor, which: Tensor) -> Tensor:
        return problem.integrand(elapsed, y, tuple(a[which] for a in rows.args))

    elapsed, length = (problem.span - rows.remaining)[chosen], problem.direction * h[chosen]
    gain = integrate_panel(integrand, rows.integrand[chosen], steps, elapsed, length, chosen)
    integral = rows.integral.index_add(0, chosen, gain.value)
    with torch.no_grad():
        scale = rows.y.shape[1] ** 0.5 * control.tolerance(rows.integral, integral)[chosen]
        ratio = ratio.index_copy(0, chosen, ratio[chosen].maximum(gain.error.abs() / scale))
    last = rows.integrand.index_copy(0, chosen, gain.last)
    calls = rows.quadrature_nfe.index_add(0, chosen, torch.full_like(chosen, PANEL_NFE))
    return replace(rows, integral=integral, integrand=last, quadrature_nfe=calls), ratio


def _rms(x: Tensor) -> Tensor:
    return x.square().mean(1).sqrt()


def _assemble(left: list[_Left], problem: _Problem) -> Solution:
    """Join the results of all rows in their original order."""
    order = torch.cat([part[0] for part in left]).argsort()
    _, state, integral, quadrature_nfe, remaining, failed, reason, nfe = (
        torch.cat(column)[order] for column in zip(*left, strict=True)
    )
    # A row that spends its budget on the step that reaches the end has not failed.
    rows = (failed & (remaining > 0)).nonzero().flatten()
    times = problem.end - problem.direction * remaining[rows]
    reasons = tuple(_REASONS[why] for why in reason[rows].tolist())
    failures = Failures("dopri5", len(state), rows.cpu(), times.detach().cpu(), reasons)
    return Solution(state.view(problem.shape), integral, nfe, quadrature_nfe, failures)


ODE_SOLVERS.add("dopri5", Method(dopri5, takes_steps=False, by_row=True))
