"""Toy distributions. Their density and entropy are known, so a model's likelihood can be checked against the truth."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .dataset import Dataset, endless_dataset
from .mixture import GaussianMixture
from .names import register


def _isotropic(means: Tensor, std: float) -> GaussianMixture:
    k, d = means.shape
    covariances = std**2 * torch.eye(d, dtype=means.dtype).expand(k, d, d)
    return GaussianMixture(torch.full((k,), 1 / k, dtype=means.dtype), means, covariances)


def ring(modes: int = 8, radius: float = 2.0, std: float = 0.2) -> GaussianMixture:
    """Equal Gaussians whose means lie at equal distances on a circle."""
    angles = torch.arange(modes, dtype=torch.float64) * 2 * math.pi / modes
    return _isotropic(radius * torch.stack([angles.cos(), angles.sin()], dim=1), std)


def moons(points: int = 40, std: float = 0.1) -> GaussianMixture:
    """Two interleaved half circles. Each is a chain of narrow Gaussians, so that the density is exact."""
    angles = torch.linspace(0, math.pi, points, dtype=torch.float64)
    upper = torch.stack([angles.cos() - 0.5, angles.sin() - 0.25], dim=1)
    return _isotropic(2 * torch.cat([upper, -upper]), 2 * std)


class Checkerboard:
    """The uniform distribution on the eight dark squares of a 4 x 4 board over [-2, 2]^2."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``(n, 2)`` draws."""
        cell = torch.randint(8, (n,), generator=generator)
        row = cell // 2
        corner = torch.stack([2 * (cell % 2) + row % 2, row], dim=1) - 2
        return corner + torch.rand(n, 2, generator=generator, dtype=torch.float64)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, ``(n, 2) -> (n,)``; -inf outside the dark squares."""
        cell = x.floor()
        inside = (cell.abs() <= 2).all(1) & (cell < 2).all(1) & (cell.sum(1) % 2 == 0)
        return torch.where(inside, -math.log(8.0), -math.inf)

    def entropy(self) -> float:
        """Entropy in nats, which is log 8."""
        return math.log(8.0)


@register("ring", shape=(2,))
def ring_dataset() -> Dataset:
    """Endless draws from :func:`ring`."""
    return endless_dataset("ring", ring())


@register("moons", shape=(2,))
def moons_dataset() -> Dataset:
    """Endless draws from :func:`moons`."""
    return endless_dataset("moons", moons())


@register("checkerboard", shape=(2,))
def checkerboard_dataset() -> Dataset:
    """Endless draws from :class:`Checkerboard`."""
    return endless_dataset("checkerboard", Checkerboard())
