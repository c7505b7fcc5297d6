r"""Embeddings of times and of values by sines and cosines of several frequencies."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..support.checks import require, require_count, require_number


class TimeEmbedding(nn.Module):
    """Maps t in [0, 1], ``(B,)``, to ``(B, dim)`` by log-spaced frequencies and a two-layer network.

    Args:
        dim: size of the embedding.
        num_frequencies: the number of sines, and of cosines.
        max_frequency: the number of periods in [0, 1] of the highest frequency.
    """

    def __init__(self, dim: int, num_frequencies: int = 16, max_frequency: float = 16.0) -> None:
        super().__init__()
        require_count(dim=dim)
        require_count(2, num_frequencies=num_frequencies)
        require_number(max_frequency=max_frequency)
        ratio = (4 * max_frequency) ** (1 / (num_frequencies - 1))
        # Python floats, so that no precision is lost when the module changes its dtype.
        self.frequencies = [2 * math.pi * 0.25 * ratio**k for k in range(num_frequencies)]
        self.hidden = nn.Linear(2 * num_frequencies, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.tensor(self.frequencies, dtype=t.dtype, device=t.device)
        features = torch.cat([angles.sin(), angles.cos()], dim=1)
        return functional.silu(self.out(functional.silu(self.hidden(features))))


class FourierFeatures(nn.Module):
    r"""Appends :math:`\sin(2^k \pi z), \cos(2^k \pi z)` to z along dimension 1, to show fine detail of the data.

    Given the noise level :math:`\sigma` of z, the feature of frequency :math:`\omega` is multiplied by
    :math:`e^{-\omega^2 \sigma^2 / 2}`. The mean of :math:`\sin(\omega (m + \sigma \epsilon))` is this factor times
    :math:`\sin(\omega m)`, and where m spreads over many periods, these are the best linear estimates of the features
    without noise. A feature that noise has wiped out is 0, instead of a rough function of z that says nothing.

    Args:
        exponents: the exponents k.

    References:
        Kingma, Salimans, Poole, Ho. Variational Diffusion Models. NeurIPS 2021, appendix C.
        Barron et al. Mip-NeRF. ICCV 2021 (features that are integrated over a normal distribution).
    """

    def __init__(self, exponents: tuple[int, ...]) -> None:
        super().__init__()
        require_number(**{f"fourier[{i}]": k for i, k in enumerate(exponents)})
        self.exponents = tuple(exponents)

    def forward(self, z: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The features of z, ``(B, C, *)``; ``sigma`` broadcasts with it, and None is no noise."""
        frequencies = [2.0**k * math.pi for k in self.exponents]
        waves = [(w * z).sin() for w in frequencies] + [(w * z).cos() for w in frequencies]
        if sigma is not None:
            damping = [(-((w * sigma) ** 2) / 2).exp() for w in frequencies]
            waves = [wave * factor for wave, factor in zip(waves, damping * 2, strict=True)]
        return torch.cat([z, *waves], dim=1)


class UniformFeatures(nn.Module):
    r"""Appends :math:`u = \mathrm{erf}(z / \sqrt 2)` and :math:`\sin(2^k \pi u / 2), \cos(2^k \pi u / 2)` to z.

    For normal z, u is uniform in [-1, 1]. Frequencies in u resolve equal shares of the data everywhere, also where many
    values crowd in a small interval of z.

    Args:
        exponents: the exponents k; without any, z is left as it is.
    """

    def __init__(self, exponents: tuple[int, ...]) -> None:
        super().__init__()
        require_number(**{f"uniform[{i}]": k for i, k in enumerate(exponents)})
        self.exponents = tuple(exponents)

    @property
    def per_element(self) -> int:
        """The number of features of an element, besides itself."""
        return 1 + 2 * len(self.exponents) if self.exponents else 0

    def forward(self, z: Tensor) -> Tensor:
        if not self.exponents:
            return z
        u = torch.erf(z / math.sqrt(2))
        angles = [2.0**k * math.pi / 2 * u for k in self.exponents]
        return torch.cat([z, math.sqrt(3) * u, *(a.sin() for a in angles), *(a.cos() for a in angles)], dim=1)


def embedding_size(embedding: int | bool, channels: int) -> int:
    """The size of a U-Net's time embedding: True is ``4 * channels``, and 0 or False no embedding.

    Raises:
        InputError: if it is negative or not a whole number.
    """
    if isinstance(embedding, bool):
        return 4 * channels if embedding else 0
    require_count(0, embedding=embedding)
    return embedding


def embed(time: TimeEmbedding | None, t: Tensor | None) -> Tensor | None:
    """The embedding ``(B, E)`` of t, ``(B,)``; None if the network has no time embedding, and t is then ignored.

    Raises:
        InputError: if the network depends on t and t is missing.
    """
    if time is None:
        return None
    if t is None:
        raise InputError("this network depends on t: call it as net(z, t), or build it with embedding=0")
    return time(t)


def with_beliefs(z: Tensor, count: int, beliefs: Tensor | None) -> Tensor:
    """What the first layer of a network reads: z, and ``count`` channels of beliefs behind it.

    Raises:
        InputError: if the network reads beliefs, and they are missing or of another number.
    """
    if not count:
        return z
    if beliefs is None:
        raise InputError("this network reads beliefs: it is for SymbolPredictor or MixedPredictor")
    require(beliefs.shape[1] == count, f"a network with beliefs={count} is told so many", beliefs.shape[1])
    return torch.cat([z, beliefs.to(z.dtype)], dim=1)
