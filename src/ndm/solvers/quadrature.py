r"""An integral :math:`\int g(t, z_t)\,dt` along the path of an ODE solver, with an estimate of its error.

The state does not depend on the integral, so the integrand g is not needed at the stages of a step. Once the state's
error is accepted, the integral over a panel of steps uses five Lobatto points on the dense output, which are exact for
polynomials of degree 7. Three of the points give Simpson's rule. The difference of the two rules, scaled to the error
constant that the embedded pair would have for an integral, enters the error control. A panel needs four new evaluations
of g, because its end point is the start of the next panel.

g may be a divergence, which is expensive. So a panel has two steps, and the path has a fifth of the tolerance, because
evaluations of the field are cheap compared to those of g. In a few dimensions they are not, and the overhead of a call
counts, so a panel has one step there, and its four evaluations are one call.

The tolerance of a step is for the root mean square over the D elements of the state. A divergence is a sum over the
elements. So the tolerance of the integral is :math:`\sqrt D` times larger, that of the norm of the state.

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

# The Lobatto points without the start, and the weights of the end points, of the two points next to the middle and of
# the middle.
_POINTS = (0.5 - (3 / 28) ** 0.5, 0.5, 0.5 + (3 / 28) ** 0.5, 1.0)
_END, _OUTER, _MIDDLE = 1 / 20, 49 / 180, 16 / 45
# The ratio of the error constants, in units of h^5 g''''/4!: sum_i e_i c_i^4 = 71/270000 for the embedded pair, 1/120
# for Simpson's rule.
_SIMPSON_TO_PAIR = 71 / 2250
PANEL_NFE = len(_POINTS)
"""Evaluations of the integrand in a panel."""
FEW_DIMENSIONS = 4
"""The most dimensions for panels of one step whose evaluations are one call."""
PATH_SHARE = 1 / 5
"""The path's share of the tolerance if there is an integral along it."""

Integrand = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``g(elapsed, y, rows)``: the integrand ``(R,)`` of the given rows at elapsed times ``(R,)`` and states ``(R, D)``."""


class Gain(NamedTuple):
    """The contribution of one panel to the integrals of R rows; all ``(R,)``."""

    value: Tensor
    last: Tensor
    """The integrand at the panel's end."""
    error: Tensor
    """The estimated error of ``value``."""


def panel_steps(dimensions: int) -> int:
    """The number of solver steps in a panel."""
    return 1 if dimensions <= FEW_DIMENSIONS else 2


def integrate_panel(
    g: Integrand, first: Tensor, steps: Sequence[Step], elapsed: Tensor, length: Tensor, rows: Tensor
) -> Gain:
    """The integral over a panel of steps.

    Args:
        g: the integrand.
        first: the integrand at the panel's start, ``(R,)``.
        steps: the steps of the panel, for all rows.
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
        # The error of the embedded pair over the n steps of a panel would be smaller by 1 / n^4. The factor 1 / n^2
        # leaves a margin for integrands that oscillate, because five points are few for n steps.
        error = _SIMPSON_TO_PAIR / panel**2 * (gain - length * (ends + 4 * middle) / 6)
    return Gain(gain, last, error)
