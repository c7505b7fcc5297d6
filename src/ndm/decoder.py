r"""Decoders convert between data units and model units, and define :math:`p(x \mid z_0)`.

The latent at time 0 is :math:`z_0 = \alpha_0 x + \sigma_0 \epsilon`, with x in model units. There are two decoders:

* :class:`CategoricalDecoder` is for integers 0..K-1. Level k has the value :math:`v_k = (2k + 1)/K - 1`, and
  :math:`p(x_i = k \mid z_0) \propto \mathcal{N}(z_{0,i};\, \alpha_0 v_k, \sigma_0^2)`.
* :class:`GaussianDecoder` is for real numbers: :math:`p(x \mid z_0) = \mathcal{N}(z_0 / \alpha_0,\, e^{\gamma_0} I)`.
  Its expected negative log-likelihood is :math:`\tfrac{D}{2} (\log 2\pi + \gamma_0 + 1)`. This falls without limit as
  :math:`\gamma_0 \to -\infty`, so :math:`\gamma_0` is fixed; report it with every likelihood.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .errors import InputError
from .gaussian import Gaussian
from .schedule import NoiseLevel
from .support.registry import savable
from .support.tensors import expand, rand, randn_like, sum_rows


def check_data(x: Tensor) -> None:
    """Refuse data without a batch dimension or with a NaN or an infinity, naming the first bad row.

    Raises:
        InputError: if the data are refused; the message says what is wrong and in how many rows.
    """
    if x.ndim < 2 or x.numel() == 0:
        raise InputError(f"data must have shape (batch, ...) with at least one row, got {tuple(x.shape)}")
    bad = (~torch.isfinite(x)).flatten(1).any(1)
    if bad.any():
        raise InputError(
            f"data is not finite in {int(bad.sum())} of {len(x)} rows (first: row {int(bad.nonzero()[0])}); "
            "remove or impute them first"
        )


def level_values(levels: int, like: Tensor) -> Tensor:
    """v_k, the levels in model units, ``(levels,)``."""
    return (2 * torch.arange(levels, dtype=like.dtype, device=like.device) + 1) / levels - 1


def log_likelihoods(z: Tensor, noise: NoiseLevel, levels: int) -> Tensor:
    """log N(z_i; alpha v_k, sigma^2) of every level up to a constant, at any time, ``(B, *, levels)``."""
    # The division by sigma comes before the dimension of the levels, so that few operations run on the large tensor.
    # The square is not expanded: with little noise its terms are 10^5 times their difference.
    centre = expand(noise.alpha / noise.sigma, z)[..., None] * level_values(levels, z)
    return -0.5 * ((z / expand(noise.sigma, z))[..., None] - centre).square()


class Decoder(nn.Module):
    """Base class of all decoders."""

    levels: int | None = None
    """The number of values that an element can take; None for real numbers."""

    @property
    def discrete(self) -> bool:
        """Whether the data are integers."""
        return self.levels is not None

    def encode(self, x: Tensor) -> Tensor:
        """Convert data units to model units, ``(B, *) -> (B, *)``, and refuse data that it cannot represent."""
        raise NotImplementedError

    def nll(self, x: Tensor, z_0: Tensor, noise: NoiseLevel) -> Tensor:
        """-log p(x | z_0) in nats, or its expectation given x if that has a closed form; ``(B,)``."""
        raise NotImplementedError

    def decode(
        self, z_0: Tensor, noise: NoiseLevel, mode: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """A draw from p(x | z_0), or its mode, in data units."""
        raise NotImplementedError

    def draw_latent(
        self, x: Tensor, x_model: Tensor, q_0: Gaussian, noise: NoiseLevel, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw z_0 and the logarithm of the weight w such that w p(z_0) estimates p(x); ``(B, *)``, ``(B,)``.

        By default z_0 is drawn from ``q_0``, which is q(z_0 | x), and the weight is p(x | z_0) / q(z_0 | x).

        Args:
            x, x_model: the data in data units and in model units, ``(B, *)``.
        """
        z_0 = q_0.sample(generator)
        return z_0, -self.nll(x, z_0, noise) - q_0.log_prob(z_0)

    def dequantize(self, x_model: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, float]:
        """Add uniform noise over the cell of each level to encoded data; also give the log-volume of a row's cells.

        Raises:
            InputError: if the data are continuous.
        """
        raise InputError("uniform dequantisation is for discrete data; this model's data are continuous")


@savable
class CategoricalDecoder(Decoder):
    """Integers 0..levels-1: images (256 levels) and any other quantised data.

    Args:
        levels: the number K of values that an element can take.
    """

    levels: int

    def __init__(self, levels: int) -> None:
        super().__init__()
        if levels < 2:
            raise InputError(f"levels must be at least 2, got {levels}")
        self.levels = levels

    def encode(self, x: Tensor) -> Tensor:
        check_data(x)
        if x.min() < 0 or x.max() >= self.levels or (x.is_floating_point() and (x != x.round()).any()):
            raise InputError(
                f"data must be integers 0..{self.levels - 1} for CategoricalDecoder(levels={self.levels}), "
                f"got values in [{x.min().item():g}, {x.max().item():g}]; quantise them, or use GaussianDecoder"
            )
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        return (2 * x + 1) / self.levels - 1

    @property
    def cell(self) -> float:
        """Width of a level's cell in model units: the cells of all levels fill [-1, 1]."""
        return 2 / self.levels

    def dequantize(self, x_model: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, float]:
        noise = self.cell * (rand(tuple(x_model.shape), x_model, generator) - 0.5)
        return x_model + noise, x_model[0].numel() * math.log(self.cell)

    def log_probs(self, z_0: Tensor, noise: NoiseLevel) -> Tensor:
        """log p(x_i = k | z_0) of every level, ``(B, *, K)``."""
        return functional.log_softmax(log_likelihoods(z_0, noise, self.levels), dim=-1)

    def nll(self, x: Tensor, z_0: Tensor, noise: NoiseLevel) -> Tensor:
        alpha, sigma = expand(noise.alpha, z_0), expand(noise.sigma, z_0)
        # Relative to the nearest level, a level d steps away has a weight of at most
        # exp(-d (d - 1) (cell alpha / sigma)^2 / 2). Weights below e^-40 change no digit and are left out; with little
        # noise those are nearly all levels.
        sharpness = self.cell * (noise.alpha / noise.sigma).min().item()
        reach = math.ceil(0.5 + (0.25 + 80 / sharpness**2) ** 0.5)
        count = min(self.levels, 2 * reach + 1)
        nearest = ((z_0.detach() / alpha + 1) / self.cell - 0.5).round()
        first = (nearest - reach).clamp(0, self.levels - count)
        k = first[..., None] + torch.arange(count, dtype=z_0.dtype, device=z_0.device)
        distance = lambda k, z, a, s: (z - a * ((k + 0.5) * self.cell - 1)) / s  # noqa: E731
        own = distance(x.to(z_0.dtype), z_0, alpha, sigma)
        near = distance(k, z_0[..., None], alpha[..., None], sigma[..., None])
        return sum_rows(0.5 * own**2 + torch.logsumexp(-0.5 * near**2, dim=-1))

    def decode(
        self, z_0: Tensor, noise: NoiseLevel, mode: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        log_probs = self.log_probs(z_0, noise)
        if mode:
            return log_probs.argmax(-1)
        flat = log_probs.exp().reshape(-1, self.levels)
        device = flat.device if generator is None else generator.device
        draws = torch.multinomial(flat.to(device), 1, generator=generator)
        return draws.to(z_0.device).reshape(z_0.shape)


@savable
class GaussianDecoder(Decoder):
    """Real-valued data, which are standardised by ``encode`` and restored by ``decode``.

    Args:
        mean, std: the mean to subtract and the standard deviation to divide by; numbers, or lists or tensors with one
            value per element of a sample.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float | list[float] | Tensor = 0.0, std: float | list[float] | Tensor = 1.0) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            value = torch.as_tensor(value, dtype=torch.get_default_dtype())
            # A copy, because loading a model writes into the buffer.
            self.register_buffer(name, value.detach().clone(memory_format=torch.contiguous_format))
        if not (self.std > 0).all():
            raise InputError("std must be positive everywhere; drop constant columns first")

    def encode(self, x: Tensor) -> Tensor:
        check_data(x)
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        return (x - self.mean.to(x.dtype)) / self.std.to(x.dtype)

    def log_scale(self, x: Tensor) -> Tensor:
        """log |d(data units) / d(model units)| of each row of ``x``, ``(B,)``."""
        return sum_rows(self.std.to(x.dtype).log().expand_as(x))

    def draw_latent(
        self, x: Tensor, x_model: Tensor, q_0: Gaussian, noise: NoiseLevel, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """z_0 = alpha_0 x_model, and the log-determinant of the map from x to z_0; nothing is drawn."""
        z_0 = expand(noise.alpha, x_model) * x_model
        return z_0, x[0].numel() * noise.alpha.log() - self.log_scale(z_0)

    def nll(self, x: Tensor, z_0: Tensor, noise: NoiseLevel) -> Tensor:
        per_element = (math.log(2 * math.pi) + noise.gamma + 1) / 2
        return x[0].numel() * per_element + self.log_scale(z_0)

    def decode(
        self, z_0: Tensor, noise: NoiseLevel, mode: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        x = z_0 / expand(noise.alpha, z_0)
        if not mode:
            x = x + expand((noise.gamma / 2).exp(), z_0) * randn_like(z_0, generator)
        return x * self.std.to(x.dtype) + self.mean.to(x.dtype)
