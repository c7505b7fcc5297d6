r"""Blurring: details of an image fade before noise hides it.

.. math::
    F(x, t) = V \,\mathrm{diag}(d_t)\, V^\top x, \qquad
    d_t = (1 - d_{\min})\, e^{-\lambda \tau_t} + d_{\min}, \qquad
    \tau_t = \tfrac12 \big( w \sin^2(\tfrac{\pi}{2} t) \big)^2

where :math:`V^\top` is the discrete cosine transform and :math:`\lambda_{ij} = \pi^2 (i^2 / H^2 + j^2 / W^2)`. This is
the heat equation, which blurs with a standard deviation of :math:`w \sin^2(\pi t / 2)` pixels. Nothing is learned. The
marginals, and so the score and the ODE, are those of the paper. Its posteriors are those of a Markov chain with a clock
for each frequency; here all frequencies have one clock.

References:
    Hoogeboom, Salimans. Blurring Diffusion Models. ICLR 2023.
    Rissanen, Heinonen, Solin. Generative Modelling With Inverse Heat Dissipation. ICLR 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from .errors import InputError
from .support.blueprint import Blueprint
from .support.checks import require, require_number, row_shape
from .support.tensors import expand
from .transform import TRANSFORMS, Curve, Transform

LEAST = 1e-3
"""What is left of the finest details."""
WIDTH = 0.6
"""The blur at t = 1 that recipes take, in units of the height of an image: 20 pixels of 32."""


class BlurCurve(Curve):
    """The images ``x``, and their cosine transform, of which each frequency fades at its own rate."""

    def __init__(self, transform: Blur, x: Tensor) -> None:
        self.transform = transform
        self.x = x
        self.frequencies = transform.cosine(x)

    def __call__(self, t: Tensor) -> Tensor:
        return self.with_derivative(t)[0]

    def with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        lost, rate = self.transform.lost_with_derivative(expand(t, self.x))
        back = self.transform.inverse_cosine
        return self.x - back(lost * self.frequencies), -back(rate * self.frequencies)


@TRANSFORMS.register("blur")
class Blur(Transform):
    """The heat equation on images.

    Args:
        shape: the shape of an image, ``(C, H, W)``.
        width: the standard deviation of the blur at t = 1, in pixels.

    Raises:
        InputError: if the shape is not that of an image, the width is not positive, or data have another shape.
    """

    linear = True

    def __init__(self, shape: Sequence[int], width: float) -> None:
        super().__init__()
        self.shape = row_shape(shape)
        require(len(self.shape) == 3, "the shape of images must be (C, H, W)", self.shape)
        require_number(width=width)
        require(width > 0, "the width of the blur must be positive", width)
        self.width = width

    @classmethod
    def build(cls, blueprint: Blueprint) -> Blur:
        if len(blueprint.shape) != 3:
            raise InputError("model.transform blur is for images; choose another")
        return cls(blueprint.shape, WIDTH * blueprint.shape[1])

    def cosine(self, x: Tensor) -> Tensor:
        """The orthonormal discrete cosine transform of images, ``(B, C, H, W)``."""
        columns, lines = (cosine_matrix(count).to(x) for count in self.shape[1:])
        with torch.autocast(x.device.type, enabled=False):
            return columns @ x @ lines.T

    def inverse_cosine(self, frequencies: Tensor) -> Tensor:
        """The images with this cosine transform, ``(B, C, H, W)``."""
        columns, lines = (cosine_matrix(count).to(frequencies) for count in self.shape[1:])
        with torch.autocast(frequencies.device.type, enabled=False):
            return columns.T @ frequencies @ lines

    def lost_with_derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """1 - d and its time derivative, of each frequency; ``(B, 1, 1, 1)`` to ``(B, 1, H, W)``."""
        blur = self.width * torch.sin(math.pi / 2 * t) ** 2
        d_blur = self.width * math.pi / 2 * torch.sin(math.pi * t)
        rates = decay_rates(*self.shape[1:]).to(t)
        exponent = rates * blur**2 / 2
        # expm1, because almost nothing is lost at first.
        return -(1 - LEAST) * torch.expm1(-exponent), (1 - LEAST) * (-exponent).exp() * rates * blur * d_blur

    def forward(self, x: Tensor) -> BlurCurve:
        if x.shape[1:] != self.shape:
            raise InputError(f"Blur was made for images of shape {self.shape}, got {tuple(x.shape[1:])}")
        return BlurCurve(self, x)


# They are no buffers: so they keep their precision whatever becomes of the model's dtype, and take no room in a file.
@cache
@torch.inference_mode(False)
def cosine_matrix(count: int) -> Tensor:
    """The orthonormal discrete cosine transform of ``count`` values (type II), ``(count, count)``, in float64."""
    numbers = torch.arange(count, dtype=torch.float64, device="cpu")
    matrix = torch.cos(math.pi / count * (numbers + 0.5) * numbers[:, None]) * math.sqrt(2 / count)
    matrix[0] /= math.sqrt(2)
    return matrix


@cache
@torch.inference_mode(False)
def decay_rates(height: int, width: int) -> Tensor:
    """lambda of each frequency, ``(height, width)``, in float64."""
    i, j = (torch.arange(count, dtype=torch.float64, device="cpu") / count for count in (height, width))
    return math.pi**2 * (i[:, None] ** 2 + j**2)
