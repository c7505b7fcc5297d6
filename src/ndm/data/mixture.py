"""A Gaussian mixture with its exact density."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class GaussianMixture:
    r"""A mixture of K Gaussians, with density :math:`\sum_k w_k \mathcal{N}(x;\, \mu_k, C_k)`.

    Args:
        weights: the weights w, ``(K,)``; their sum is one.
        means: the means, ``(K, D)``.
        covariances: the covariance matrices, ``(K, D, D)``.
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
        """Entropy in nats, estimated from ``n`` draws with a fixed seed."""
        generator = torch.Generator().manual_seed(0)
        return -self.log_prob(self.sample(n, generator)).mean().item()
