r"""A model with everything in closed form: Gaussian data, linear F, and the exact posterior mean as predictor.

x ~ N(mu, C) and z_t = M_t x + sigma_t eps with M_t = alpha_t R diag(1 + t w_1 + t^2 w_2) R^T, so
E[x | z_t] = mu + K (z_t - M mu) with K = C M^T (M C M^T + sigma^2 I)^{-1}. It is written in plain matrices,
independently of the library.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import ndm


class LinearGaussian:
    """Data, transform and schedule of dimension ``dim``. The mean is not zero and the covariance is correlated."""

    def __init__(self, dim: int, gamma_min: float = -3.0, gamma_max: float = 5.0) -> None:
        generator = torch.Generator().manual_seed(dim)
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
        root = draw(dim, dim) / dim**0.5
        self.dim = dim
        self.mu = draw(dim)
        self.covariance = root @ root.T + 0.1 * torch.eye(dim, dtype=torch.float64)
        self.transform = ndm.Linear(dim, num_basis=2, rotation="fixed").double()
        with torch.no_grad():
            self.transform.fixed_rotation.copy_(torch.linalg.qr(draw(dim, dim))[0])
            self.transform.gains.copy_(torch.rand(2, dim, generator=generator, dtype=torch.float64))
        self.schedule = ndm.CosineSchedule(gamma_min, gamma_max)

    def matrix(self, t: Tensor) -> Tensor:
        """M_t, ``(..., D, D)`` for t of any shape."""
        w = self.transform.gains.detach()
        r = self.transform.fixed_rotation
        d = 1 + t[..., None] * w[0] + t[..., None] ** 2 * w[1]
        return self.schedule(t).alpha[..., None, None] * (r * d[..., None, :]) @ r.T

    def gain(self, t: Tensor) -> Tensor:
        """K, ``(..., D, D)`` for t of any shape."""
        m, sigma = self.matrix(t), self.schedule(t).sigma[..., None, None]
        total = m @ self.covariance @ m.mT + sigma**2 * torch.eye(self.dim, dtype=torch.float64)
        return self.covariance @ m.mT @ torch.linalg.inv(total)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        eps = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        return self.mu + eps @ torch.linalg.cholesky(self.covariance).T

    def model(self) -> ndm.NDM:
        """The model with the exact predictor."""
        process = ndm.ForwardProcess(self.schedule, self.transform)
        return ndm.NDM(process, ndm.Predictor(PosteriorMean(self), "x"), ndm.GaussianDecoder())


class PosteriorMean(nn.Module):
    """net(z, t) = E[x | z_t], for each row."""

    def __init__(self, oracle: LinearGaussian) -> None:
        super().__init__()
        self.oracle = oracle

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        mu = self.oracle.mu
        if bool((t == t[0]).all()):  # a sampler's rows share their time: one matrix serves all
            k, m = self.oracle.gain(t[0]), self.oracle.matrix(t[0])
            return mu + (z - m @ mu) @ k.T
        residual = z - torch.einsum("bij,j->bi", self.oracle.matrix(t), mu)
        return mu + torch.einsum("bij,bj->bi", self.oracle.gain(t), residual)
