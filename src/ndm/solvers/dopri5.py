r"""Dormand-Prince 5(4), every row on its own, with an integral along the path.

Each row has its own time, step size and error control: a step is accepted when the root mean square over the row of
:math:`e / (\mathrm{atol} + \mathrm{rtol}\,|z|)` is at most 1, e the difference of the embedded solutions. A row that
arrives, or fails, leaves the batch, so that a stiff row costs its own evaluations only, and a row's answer does not
depend on its batch mates.

An integral :math:`\int g(t, z_t)\,dt` does not feed back into the state, so it needs no integrand at the stages. Once
the state's error is accepted, five Lobatto points on the dense output integrate polynomials of degree 7, three of them
make Simpson's rule, and the difference of the two joins the error control, scaled to the error constant that the
embedded pair itself has for an integral. That is four new evaluations of g: the end point is the next start. Where g is
dear (a divergence in many dimensions) they serve a panel of two steps, and the path is held to a third of the
tolerance, for its evaluations are the cheap ones. Where calls are dear (few dimensions) the four are one call.

References:
    Hairer, Norsett, Wanner. Solving Ordinary Differential Equations I, sections II.4 to II.6.
    Hindmarsh et al. SUNDIALS. ACM TOMS 2005 (pure quadrature variables).
"""

from __future__ import annotations

from typing import NamedTuple

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
# Lobatto's points but the start; the weights of the end points, the outer two and the middle one. The last is the ratio
# of the constants of h^5 g''''/4!: sum_i e_i c_i^4 = 71/270000 for the pair, 1/120 for Simpson's rule.
_LOBATTO = (0.5 - (3 / 28) ** 0.5, 0.5, 0.5 + (3 / 28) ** 0.5, 1.0)
_END, _OUTER, _MIDDLE = 1 / 20, 49 / 180, 16 / 45
_SIMPSON_TO_PAIR = 71 / 2250
_FEW_DIMENSIONS = 16  # up to here a call's overhead outweighs its arithmetic
_REASONS = ("the field is not finite", "the step underflows", "the budget of evaluations is spent")


class _Step(NamedTuple):
    """One step of Dormand and Prince: from ``y`` to ``candidate``, with the slopes of its seven stages."""

    y: Tensor
    candidate: Tensor
    length: Tensor
    slopes: Tensor

    def path(self, p: float, rows: Tensor) -> Tensor:
        """The dense output at the fraction ``p``, to order 4."""
        y, k, h = self.y[rows], self.slopes[:, rows], self.length[rows]
        chord = self.candidate[rows] - y
        bend = h * k[0] - chord
        twist = chord - h * k[-1] - bend
        rest = h * _combine(y.new_tensor(_DENSE), k)
        return y + p * (chord + (1 - p) * (bend + p * (twist + (1 - p) * rest)))


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

    few = y.shape[1] <= _FEW_DIMENSIONS
    panel, path_share = (1, 1.0) if quadrature is None else (1 if few else 2, 1 / 3)  # steps; share of the tolerance
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
        elapsed, length = span - remaining, direction * h[:, None] / panel
        steps, candidate, slope, ratio = [], y, k1, torch.zeros_like(h)
        for i in range(panel):
            from_, slopes = candidate, slope[None]
            for node, weights in zip(_NODES, stages, strict=True):
                candidate = from_ + length * _combine(weights, slopes)
                slope = field(elapsed + (i + node) / panel * h, candidate)
                slopes = torch.cat([slopes, slope[None]])
            steps.append(_Step(from_, candidate, length, slopes))
            with torch.no_grad():
                error = length * _combine(error_weights, slopes)
                scale = path_share * (atol + rtol * torch.maximum(from_.abs(), candidate.abs()))
                ratio = ratio.maximum(_rms(error / scale))
        nfe += 6 * panel
        if quadrature is not None:
            chosen = (ratio <= 1).nonzero().flatten()
            times, path = [], []
            for p in _LOBATTO:
                i = min(int(panel * p), panel - 1)
                times.append((elapsed + p * h)[chosen])
                path.append(steps[i].path(panel * p - i, chosen))
            if few:
                new = integrand(torch.cat(times), torch.cat(path), chosen.repeat(4)).view(4, -1)
            else:
                new = torch.stack([integrand(t, z_p, chosen) for t, z_p in zip(times, path, strict=True)])
            ends, whole = g[chosen] + new[3], direction * h[chosen]
            gain = whole * (_END * ends + _OUTER * (new[0] + new[2]) + _MIDDLE * new[1])
            new_integral, new_g = integral.index_add(0, chosen, gain), g.index_copy(0, chosen, new[3])
            quadrature_nfe = quadrature_nfe.index_add(0, chosen, torch.full_like(chosen, 4))
            with torch.no_grad():
                # The pair's own error over n steps of a panel would be n (h / n)^5, a share of 1 / n^4; but five points
                # in n steps need a margin where g oscillates.
                error = _SIMPSON_TO_PAIR / panel**2 * (gain - whole * (ends + 4 * new[1]) / 6)
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
            failed = underflow | (nfe + 6 * panel > max_nfe)
            reason = torch.where(underflow, finite.long(), 2)
        y = torch.where(accepted[:, None], candidate, y)
        k1 = torch.where(accepted[:, None], slope, k1)
        if quadrature is not None:
            integral, g = torch.where(accepted, new_integral, integral), torch.where(accepted, new_g, g)
    return _assemble(left, shape, end, direction)


def _combine(weights: Tensor, slopes: Tensor) -> Tensor:
    """The weighted sum of the stages, elementwise: a matrix product would lose digits under autocast."""
    return (weights.view(-1, 1, 1) * slopes).sum(0)


def _rms(x: Tensor) -> Tensor:
    return x.square().mean(1).sqrt()


@torch.no_grad()
def _first_step(y: Tensor, slope: Tensor, rtol: float, atol: float) -> Tensor:
    """Hairer's first guess: a step that changes the state by about a hundredth of its size."""
    scale = atol + rtol * y.abs()
    return 0.01 * _rms(y / scale).clamp(min=1e-5) / _rms(slope / scale).clamp(min=1e-5)


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
