"""A U-Net for likelihoods: it keeps the full resolution, and Fourier features show it the last bits of each pixel.

References:
    Kingma, Salimans, Poole, Ho. Variational Diffusion Models. NeurIPS 2021, appendix B.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..support.checks import listed, require, require_count, require_flag, require_rate
from .blocks import Head, ResidualBlock, image_shape
from .embedding import FourierFeatures, TimeEmbedding, embed, embedding_size
from .names import NETWORKS


@NETWORKS.register("flat_unet")
class FlatUNet(nn.Module):
    """U-Net of one resolution: ``(z, t)`` or ``(z,)`` to ``(B, multiplier * C, H, W)``. Its output starts at zero.

    Args:
        shape: shape of one sample, ``(C, H, W)``.
        multiplier: the number of outputs per input channel, concatenated along dimension 1.
        channels: the number of channels of every feature map.
        depth: the number of residual blocks on the way down. There is one more on the way up, where each block also
            gets a skip connection.
        attention: whether the blocks have attention; the middle always has it.
        heads: the number of attention heads.
        dropout: the dropout rate of the blocks.
        embedding: size of the time embedding; True is ``4 * channels``, 0 makes a network of z alone.
        fourier: exponents of the :class:`FourierFeatures` of the input. For 256 levels VDM uses (7, 8): their
            periods are two level spacings and one level spacing.

    Raises:
        InputError: if a size is not a positive whole number, the dropout is not in [0, 1), ``heads`` does
            not divide ``channels``, or ``forward`` gets no t.

    Example:
        >>> net = ndm.nn.FlatUNet((3, 32, 32), channels=128, depth=32, dropout=0.1, fourier=(7, 8))  # of VDM
    """

    reads: ClassVar[tuple[str, ...]] = ("attention", "heads", "fourier")

    @classmethod
    def build(
        cls, settings: Any, shape: Sequence[int], multiplier: int, width: int, depth: int,
        dropout: float = 0.0, fourier: Sequence[int] = (), timed: bool = True,
    ) -> FlatUNet:  # fmt: skip
        """Build the network from a recipe's settings, see :mod:`ndm.nn.names`."""
        require(set(settings.attention) <= {shape[1]}, f"a flat_unet attends at height {shape[1]}", settings.attention)
        attention, embedding = bool(settings.attention), 4 * width if timed else 0
        return cls(shape, multiplier, width, depth, attention, settings.heads, dropout, embedding, fourier)

    def __init__(
        self,
        shape: Sequence[int],
        multiplier: int = 1,
        channels: int = 64,
        depth: int = 4,
        attention: bool = False,
        heads: int = 1,
        dropout: float = 0.0,
        embedding: int | bool = True,
        fourier: Sequence[int] = (),
    ) -> None:
        super().__init__()
        require_count(multiplier=multiplier, channels=channels, depth=depth, heads=heads)
        require_rate(dropout=dropout)
        require_flag(attention=attention)
        self.shape = image_shape(shape)
        self.multiplier = multiplier
        self.channels = channels
        self.depth = depth
        self.attention = attention
        self.heads = heads
        self.dropout = dropout
        self.embedding = embedding
        self.fourier = listed("fourier", fourier)
        size = embedding_size(embedding, channels)
        pixels = self.shape[0]
        attends = heads if attention else 0
        self.features = FourierFeatures(self.fourier)
        self.time = TimeEmbedding(size) if size else None
        self.stem = nn.Conv2d(pixels * (1 + 2 * len(self.fourier)), channels, 3, padding=1)
        self.down = nn.ModuleList(ResidualBlock(channels, channels, size, dropout, attends) for _ in range(depth))
        self.middle = nn.ModuleList(ResidualBlock(channels, channels, size, dropout, h) for h in (heads, 0))
        self.up = nn.ModuleList(ResidualBlock(2 * channels, channels, size, dropout, attends) for _ in range(depth + 1))
        self.head = Head(channels, pixels * multiplier)

    def forward(self, z: Tensor, t: Tensor | None = None) -> Tensor:
        embedding = embed(self.time, t)
        h = self.stem(self.features(z))
        skips = [h]
        for block in self.down:
            h = block(h, embedding)
            skips.append(h)
        for block in self.middle:
            h = block(h, embedding)
        for block in self.up:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        return self.head(h)
