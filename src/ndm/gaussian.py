r"""Diagonal Gaussians. Every marginal, posterior and prior of the model is one.

.. math::
    \mathrm{KL}(q \,\|\, p) = \tfrac12 \sum_i \Big[ \frac{\delta_i^2}{\mathrm{var}_p}
        - \frac{r_i}{1 + r_i} + \log(1 + r_i) \Big],
    \qquad r = \frac{\mathrm{var}_p}{\mathrm{var}_q} - 1, \quad \delta = \mu_q - \mu_p
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .support.tensors import randn_like, sum_rows


@dataclass(frozen=True)
class Gaussian:
    """Independent normals: ``mean`` of shape ``(B, *)``, ``std`` of a shape that broadcasts against it."""

    mean: Tensor
    std: Tensor

    @classmethod
    def standard(cls, like: Tensor) -> Gaussian:
        """N(0, I) with the shape, dtype and device of ``like``."""
        return cls(torch.zeros_like(like), torch.ones_like(like))

    def at(self, eps: Tensor) -> Tensor:
        """mean + std eps: the draw that belongs to the standard normal noise ``eps``, ``(B, *)``."""
        return self.mean + self.std * eps

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One reparameterised draw, shape ``(B, *)``."""
        return self.at(randn_like(self.mean, generator))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of ``z`` in nats, shape ``(B,)``."""
        log_std = self.std.log().expand_as(self.mean)
        return -sum_rows(((z - self.mean) / self.std) ** 2 / 2 + log_std + math.log(2 * math.pi) / 2)

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other) in nats, shape ``(B,)``."""
        delta = (self.mean - other.mean) / other.std
        # r is exactly 0 for equal variances, so the small terms of many steps keep their precision.
        r = (other.std / self.std) ** 2 - 1
        return sum_rows(delta**2 - r / (1 + r) + r.log1p()) / 2
