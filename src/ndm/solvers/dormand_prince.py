"""The Dormand-Prince step: seven stages, embedded solutions of orders 5 and 4, and dense output.

References:
    Hairer, Norsett, Wanner. Solving Ordinary Differential Equations I, sections II.5 and II.6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

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
STEP_NFE = len(_NODES)
"""Evaluations of the field in a step; the first slope is already known from the step before."""


class DormandPrince:
    """The coefficients in the dtype and on the device of ``z``."""

    def __init__(self, z: Tensor) -> None:
        self.stages = [z.new_tensor(weights) for weights in _STAGES]
        self.error, self.dense = z.new_tensor(_ERROR), z.new_tensor(_DENSE)

    def step(self, field: Callable[[float, Tensor], Tensor], y: Tensor, slope: Tensor, length: Tensor) -> Step:
        """A step from ``y``; ``slope`` is the field there, ``field(p, y)`` the field at fraction ``p`` of the step."""
        end, slopes = y, slope[None]
        for node, weights in zip(_NODES, self.stages, strict=True):
            end = y + length * _combine(weights, slopes)
            slopes = torch.cat([slopes, field(node, end)[None]])
        return Step(self, y, end, length, slopes)


class Step(NamedTuple):
    """One step of every row: ``(B, D)`` states, ``(B, 1)`` signed lengths, ``(7, B, D)`` slopes of the stages."""

    method: DormandPrince
    start: Tensor
    end: Tensor
    length: Tensor
    slopes: Tensor

    def path(self, p: float, rows: Tensor) -> Tensor:
        """The state of the given rows at the fraction ``p`` of the step, to order 4 (the dense output)."""
        y, k, h = self.start[rows], self.slopes[:, rows], self.length[rows]
        chord = self.end[rows] - y
        bend = h * k[0] - chord
        twist = chord - h * k[-1] - bend
        rest = h * _combine(self.method.dense, k)
        return y + p * (chord + (1 - p) * (bend + p * (twist + (1 - p) * rest)))

    def error(self) -> Tensor:
        """The difference of the two embedded solutions, ``(B, D)``."""
        return self.length * _combine(self.method.error, self.slopes)


def _combine(weights: Tensor, slopes: Tensor) -> Tensor:
    """The weighted sum of the stages, elementwise because a matrix product would lose digits under autocast."""
    return (weights.view(-1, 1, 1) * slopes).sum(0)
