r"""Distributions with an exact density and a known entropy: the truth that a model's likelihood is held against."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class GaussianMixture:
    """sum_k w_k N(mu_k, C_k).

    Args:
        weights: ``(K,)``, summing to one.
        means: ``(K, D)``.
        covariances: ``(K, D, D)``.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        self.weights = weights
        self.means = means
        self.factors = torch.linalg.cholesky(covariances)
        self.whiteners = torch.linalg.inv(self.factors).mT

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``(n, D)`` draws."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        eps = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.means[k] + torch.einsum("nij,nj->ni", self.factors[k], eps)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, ``(n, D) -> (n,)``."""
        constant = self.weights.log() - self.factors.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = constant - x.shape[1] * math.log(2 * math.pi) / 2
        rows = []
        for chunk in x.to(self.means).split(4096):
            white = (chunk - self.means[:, None]) @ self.whiteners  # (K, n, D)
            rows.append(torch.logsumexp(constant[:, None] - white.pow(2).sum(2) / 2, dim=0))
        return torch.cat(rows)

    def entropy(self, n: int = 50_000) -> float:
        """Entropy in nats, from ``n`` seeded draws."""
        generator = torch.Generator().manual_seed(0)
        return -self.log_prob(self.sample(n, generator)).mean().item()


def _isotropic(means: Tensor, std: float) -> GaussianMixture:
    k, d = means.shape
    covariances = std**2 * torch.eye(d, dtype=means.dtype).expand(k, d, d)
    return GaussianMixture(torch.full((k,), 1 / k, dtype=means.dtype), means, covariances)


def ring(modes: int = 8, radius: float = 2.0, std: float = 0.2) -> GaussianMixture:
    """Equal Gaussians on a circle."""
    angles = torch.arange(modes, dtype=torch.float64) * 2 * math.pi / modes
    return _isotropic(radius * torch.stack([angles.cos(), angles.sin()], dim=1), std)


def moons(points: int = 40, std: float = 0.1) -> GaussianMixture:
    """Two interleaved half circles, each a chain of narrow Gaussians (so that the density is exact)."""
    angles = torch.linspace(0, math.pi, points, dtype=torch.float64)
    upper = torch.stack([angles.cos() - 0.5, angles.sin() - 0.25], dim=1)
    return _isotropic(2 * torch.cat([upper, -upper]), 2 * std)


class Checkerboard:
    """Uniform on the eight dark squares of a 4 x 4 board over [-2, 2]^2."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``(n, 2)`` draws."""
        cell = torch.randint(8, (n,), generator=generator)
        row = cell // 2
        corner = torch.stack([2 * (cell % 2) + row % 2, row], dim=1) - 2
        return corner + torch.rand(n, 2, generator=generator, dtype=torch.float64)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, -inf on the light squares."""
        cell = x.floor()
        inside = (cell.abs() <= 2).all(1) & (cell < 2).all(1) & (cell.sum(1) % 2 == 0)
        return torch.where(inside, -math.log(8.0), -math.inf)

    def entropy(self) -> float:
        """log 8 nats."""
        return math.log(8.0)
