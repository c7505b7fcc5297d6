r"""Dormand-Prince 5(4), every row on its own, with an integral along the path.

Each row has its own time, step size and error control: a step is accepted when the root mean square over the row of
:math:`e / (\mathrm{atol} + \mathrm{rtol}\,|z|)` is at most 1, e the difference of the embedded solutions. A row that
arrives, or fails, leaves the batch, so that a stiff row costs its own evaluations only, and a row's answer does not
depend on its batch mates.

An integral :math:`\int g(t, z_t)\,dt` does not feed back into the state, so it needs no integrand at the six stages:
once the state's error is accepted, five Lobatto points on the dense output integrate polynomials of degree 7, three of
them make Simpson's rule, and the difference of the two joins the error control, scaled to the error constant that the
embedded pair itself has for an integral. That is four new evaluations of g a step: the end point is the next start.

References:
    Hairer, Norsett, Wanner. Solving Ordinary Differential Equations I, sections II.4 to II.6.
    Hindmarsh et al. SUNDIALS. ACM TOMS 2005 (pure quadrature variables).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .solution import Quadrature, Solution, SolverError, VectorField

# Dormand and Prince's coefficients: stages, the difference of the two embedded solutions, and the dense output.
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
_DENSE = (
    -12715105075 / 11282082432, 0.0, 87487479700 / 32700410799, -10690763975 / 1880347072,
    701980252875 / 199316789632, -1453857185 / 822651844, 69997945 / 29380423,
)  # fmt: skip
# Lobatto's interior points, and the weights of the end points, the outer two and the middle one. The last is the ratio
# of the constants of h^5 g''''/4!: sum_i e_i c_i^4 = 71/270000 for the pair, 1/120 for Simpson's rule.
_LOBATTO = (0.5 - (3 / 28) ** 0.5, 0.5, 0.5 + (3 / 28) ** 0.5)
_END, _OUTER, _MIDDLE = 1 / 20, 49 / 180, 16 / 45
_SIMPSON_TO_PAIR = 71 / 2250
_REASONS = ("the field is not finite", "the step underflows", "the budget of evaluations is spent")


def dopri5(
    f: VectorField,
    z: Tensor,
    start: float,
    end: float,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_nfe: int = 60_000,
    args: tuple[Tensor, ...] = (),
    quadrature: Quadrature | None = None,
) -> Solution:
    """Adaptive, each row with its own steps; six evaluations per step. Differentiable, the steps held fixed.

    Args:
        f: the vector field ``f(t, z, *args)``.
        z: states at ``start``, ``(B, *)``.
        start, end: the interval, in either direction.
        rtol, atol: tolerances of a row's step.
        max_nfe: largest number of evaluations of a row, a guard against stiffness.
        args: what else belongs to the rows, ``(B, ...)`` each; it leaves the batch with them.
        quadrature: what is integrated along the path.

    Raises:
        SolverError: if for some row the field is not finite, the step underflows, or ``max_nfe`` is reached. The other
            rows are finished first.
    """
    y, rows = z.flatten(1), torch.arange(len(z), device=z.device)
    zeros, none = torch.zeros_like(y[:, 0]), torch.zeros_like(rows)
    if len(z) == 0 or start == end:
        return Solution(z, zeros, none, none)
    shape, direction, span = z.shape, 1.0 if end > start else -1.0, abs(end - start)
    smallest = 16 * torch.finfo(z.dtype).eps * max(abs(start), abs(end), 1.0)
    stages, error_weights = [z.new_tensor(w) for w in _STAGES], z.new_tensor(_ERROR)

    def time(elapsed: Tensor) -> Tensor:
        return end - direction * (span - elapsed)  # exactly the end at the end

    def field(elapsed: Tensor, y: Tensor) -> Tensor:
        return f(time(elapsed), y.view(-1, *shape[1:]), *args).flatten(1)

    def integrand(elapsed: Tensor, y: Tensor, chosen: Tensor) -> Tensor:
        if quadrature is None or len(chosen) == 0:
            return y.new_zeros(len(chosen))
        return quadrature(time(elapsed), y.view(-1, *shape[1:]), *(a[chosen] for a in args))[1]

    remaining = torch.full_like(zeros, span)
    k1, nfe = field(zeros, y), 1
    integral, g = zeros, integrand(zeros, y, rows)
    quadrature_nfe = none if quadrature is None else none + 1
    h, previous = _first_step(y, k1, rtol, atol).minimum(remaining), torch.ones_like(zeros)
    failed, reason = ~torch.isfinite(k1).all(1), none
    left: list[tuple[Tensor, ...]] = []
    while True:
        leaving = failed | (remaining <= 0)
        if bool(leaving.any()):
            calls = torch.full_like(rows, nfe)
            out = (rows, y, integral, calls, quadrature_nfe, remaining, failed, reason)
            left.append(tuple(a[leaving] for a in out))
            rows, y, k1, integral, g, h, previous, remaining, failed, reason, quadrature_nfe, *rest = (
                a[~leaving]
                for a in (rows, y, k1, integral, g, h, previous, remaining, failed, reason, quadrature_nfe, *args)
            )
            args = tuple(rest)
            if len(rows) == 0:
                break
        h = h.minimum(remaining)
        step, elapsed, k = (direction * h)[:, None], span - remaining, [k1]
        for node, weights in zip(_NODES, stages, strict=True):
            candidate = y + step * torch.tensordot(weights, torch.stack(k), dims=1)
            k.append(field(elapsed + node * h, candidate))
        nfe += 6
        with torch.no_grad():
            error = step * torch.tensordot(error_weights, torch.stack(k), dims=1)
            ratio = _rms(error / (atol + rtol * torch.maximum(y.abs(), candidate.abs())))
        if quadrature is not None:
            chosen = (ratio <= 1).nonzero().flatten()
            from_, length = elapsed[chosen], h[chosen]
            path = (_dense(y[chosen], candidate[chosen], step[chosen], [s[chosen] for s in k], p) for p in _LOBATTO)
            inner = [integrand(from_ + p * length, z_p, chosen) for p, z_p in zip(_LOBATTO, path, strict=True)]
            last = integrand(from_ + length, candidate[chosen], chosen)
            ends, length = g[chosen] + last, direction * length
            gain = length * (_END * ends + _OUTER * (inner[0] + inner[2]) + _MIDDLE * inner[1])
            new_integral, new_g = integral.index_add(0, chosen, gain), g.index_copy(0, chosen, last)
            quadrature_nfe = quadrature_nfe.index_add(0, chosen, torch.full_like(chosen, 4))
            with torch.no_grad():
                error = _SIMPSON_TO_PAIR * (gain - length * (ends + 4 * inner[1]) / 6)
                scale = atol + rtol * torch.maximum(integral.abs(), new_integral.abs())[chosen]
                ratio = ratio.index_copy(0, chosen, ratio[chosen].maximum(error.abs() / scale))
        with torch.no_grad():
            accepted = ratio <= 1
            # A row that reaches the end lands on it exactly, whatever the rounding of its sum of steps.
            remaining = torch.where(accepted, (remaining - h).where(h < remaining, 0.0), remaining)
            # Proportional-integral control (Gustafsson): few rejections, though a row's error estimate is noisy.
            growth = (0.9 * ratio.clamp(min=1e-10) ** -0.14 * previous**0.08).clamp(0.2, 10.0)
            finite = torch.isfinite(ratio)
            h = h * torch.where(finite, growth, 0.2)
            previous = torch.where(accepted, ratio.clamp(min=1e-4), previous)
            underflow = (h < smallest) & (remaining > smallest)
            failed = underflow | (nfe + 6 > max_nfe)
            reason = torch.where(underflow, finite.long(), 2)
        y = torch.where(accepted[:, None], candidate, y)
        k1 = torch.where(accepted[:, None], k[-1], k1)
        if quadrature is not None:
            integral, g = torch.where(accepted, new_integral, integral), torch.where(accepted, new_g, g)
    return _assemble(left, shape, end, direction)


def _rms(x: Tensor) -> Tensor:
    return x.square().mean(1).sqrt()


@torch.no_grad()
def _first_step(y: Tensor, slope: Tensor, rtol: float, atol: float) -> Tensor:
    """Hairer's first guess: a step that changes the state by about a hundredth of its size."""
    scale = atol + rtol * y.abs()
    return 0.01 * _rms(y / scale).clamp(min=1e-5) / _rms(slope / scale).clamp(min=1e-5)


def _dense(y: Tensor, candidate: Tensor, step: Tensor, k: list[Tensor], p: float) -> Tensor:
    """The path at the fraction ``p`` of a step, to order 4."""
    chord = candidate - y
    bend = step * k[0] - chord
    twist = chord - step * k[-1] - bend
    rest = step * torch.tensordot(y.new_tensor(_DENSE), torch.stack(k), dims=1)
    return y + p * (chord + (1 - p) * (bend + p * (twist + (1 - p) * rest)))


def _assemble(left: list[tuple[Tensor, ...]], shape: torch.Size, end: float, direction: float) -> Solution:
    """The rows in their original order, or the error that says which of them failed."""
    order = torch.cat([part[0] for part in left]).argsort()
    _, state, integral, nfe, quadrature_nfe, remaining, failed, reason = (
        torch.cat(column)[order] for column in zip(*left, strict=True)
    )
    solution = Solution(state.view(shape), integral, nfe, quadrature_nfe)
    # A row may spend its budget on the very step that arrives.
    rows = (failed & (remaining > 0)).nonzero().flatten()
    if len(rows) == 0:
        return solution
    reasons = [_REASONS[why] for why in reason[rows].tolist()]
    raise SolverError("dopri5", solution, rows, end - direction * remaining[rows], reasons)
