r"""An integral :math:`\int g(t, z_t)\,dt` along the path of an ODE solver, with an estimate of its error.

The integral does not feed back into the state, so it needs no integrand at the stages of a step. Once the state's error
is accepted, five Lobatto points on the dense output integrate polynomials of degree 7, three of them make Simpson's
rule, and the difference of the two, scaled to the error constant that the embedded pair itself has for an integral,
joins the error control. That is four new evaluations of g, because the end point is the next start. Where g is dear (a
divergence in many dimensions) they serve a panel of two steps, and the path is held to a third of the tolerance, for
its evaluations are the cheap ones. Where calls are dear (few dimensions) the four are one call.

References:
    Hairer, Norsett, Wanner. Solving Ordinary Differential Equations I, section II.6 (dense output).
    Hindmarsh et al. SUNDIALS. ACM TOMS 2005 (pure quadrature variables).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .dormand_prince import Step

# Lobatto's points but the start; the weights of the end points, the outer two and the middle one.
_POINTS = (0.5 - (3 / 28) ** 0.5, 0.5, 0.5 + (3 / 28) ** 0.5, 1.0)
_END, _OUTER, _MIDDLE = 1 / 20, 49 / 180, 16 / 45
# The ratio of the constants of h^5 g''''/4!: sum_i e_i c_i^4 = 71/270000 for the pair, 1/120 for Simpson's rule.
_SIMPSON_TO_PAIR = 71 / 2250
PANEL_NFE = len(_POINTS)
"""Evaluations of the integrand in a panel."""
FEW_DIMENSIONS = 16
"""Up to so many dimensions a call's overhead outweighs its arithmetic."""
PATH_SHARE = 1 / 3
"""The share of the tolerance to which the path is held where something is integrated along it."""

Integrand = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``g(elapsed, y, rows)``: the integrand of the given rows, ``(R,)``, at the time elapsed and the states ``(R, D)``."""


class Gain(NamedTuple):
    """What one panel adds to the integral of some rows, ``(R,)`` each."""

    value: Tensor
    last: Tensor
    """The integrand at the panel's end."""
    error: Tensor
    """The estimated error of ``value``."""


def panel_steps(dimensions: int) -> int:
    """How many steps of the solver one panel spans."""
    return 1 if dimensions <= FEW_DIMENSIONS else 2


def integrate_panel(
    g: Integrand, first: Tensor, steps: Sequence[Step], elapsed: Tensor, length: Tensor, rows: Tensor
) -> Gain:
    """The integral over a panel of steps.

    Args:
        g: the integrand.
        first: its values at the panel's start, ``(R,)``.
        steps: the steps that make up the panel, of all rows.
        elapsed: the time elapsed at the panel's start, ``(R,)``.
        length: the panel's signed length, ``(R,)``.
        rows: the rows that are integrated, ``(R,)``.
    """
    panel, span, times, path = len(steps), length.abs(), [], []
    for p in _POINTS:
        i = min(int(panel * p), panel - 1)
        times.append(elapsed + p * span)
        path.append(steps[i].path(panel * p - i, rows))
    if steps[0].start.shape[1] <= FEW_DIMENSIONS:
        values = g(torch.cat(times), torch.cat(path), rows.repeat(PANEL_NFE)).view(PANEL_NFE, -1)
    else:
        values = torch.stack([g(t, y, rows) for t, y in zip(times, path, strict=True)])
    left, middle, right, last = values
    ends = first + last
    gain = length * (_END * ends + _OUTER * (left + right) + _MIDDLE * middle)
    with torch.no_grad():
        # The pair's own error over n steps of a panel would be n (h / n)^5, a share of 1 / n^4; but five points in n
        # steps need a margin where g oscillates.
        error = _SIMPSON_TO_PAIR / panel**2 * (gain - length * (ends + 4 * middle) / 6)
    return Gain(gain, last, error)
