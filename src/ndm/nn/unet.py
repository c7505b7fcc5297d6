"""A U-Net for images: residual blocks at several resolutions, with skip connections and optional attention.

References:
    Dhariwal, Nichol. Diffusion Models Beat GANs on Image Synthesis. NeurIPS 2021 (the network, known as ADM).
    Lipman, Chen, Ben-Hamu, Nickel, Le. Flow Matching for Generative Modeling. ICLR 2023 (its sizes for small images).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..support.checks import listed, require, require_count, require_rate
from .blocks import Head, ResidualBlock, image_shape
from .embedding import FourierFeatures, TimeEmbedding, embed, embedding_size
from .names import NETWORKS


@NETWORKS.register("unet")
class UNet(nn.Module):
    """U-Net: ``(z, t)`` or ``(z,)`` to ``(B, multiplier * C, H, W)``. Its output starts at zero.

    Args:
        shape: shape of one sample, ``(C, H, W)``.
        multiplier: the number of outputs per input channel, concatenated along dimension 1.
        channels: the number of channels at the first resolution.
        depth: the number of residual blocks per resolution on the way down; there is one more on the way up.
        multipliers: the number of channels at each resolution, in units of ``channels``. From one to the next, the
            height and the width are halved.
        attention: heights of the feature maps whose blocks have attention (the middle always has it).
        heads: the number of attention heads.
        dropout: the dropout rate of the blocks.
        embedding: size of the time embedding; True is ``4 * channels``, 0 makes a network of z alone.
        fourier: exponents of the :class:`FourierFeatures` of the input.
        patch: side of the squares that become channels before the network and squares again after it. The cost falls
            with the square of ``patch``.

    Raises:
        InputError: if a size is not a positive whole number, the dropout is not in [0, 1), the resolutions
            do not divide the image, ``heads`` does not divide the channels, or no resolution has a height of
            ``attention``; in ``forward``, if t is missing.

    Example:
        >>> net = ndm.nn.UNet((3, 32, 32), channels=64, multipliers=(1, 2, 2), attention=(16,), heads=4)
        >>> net(torch.randn(8, 3, 32, 32), torch.rand(8)).shape
        torch.Size([8, 3, 32, 32])
    """

    reads: ClassVar[tuple[str, ...]] = ("multipliers", "patch", "attention", "heads", "fourier")

    @classmethod
    def build(
        cls, settings: Any, shape: Sequence[int], multiplier: int, width: int, depth: int,
        dropout: float = 0.0, fourier: Sequence[int] = (), timed: bool = True,
    ) -> UNet:  # fmt: skip
        """Build the network from a recipe's settings, see :mod:`ndm.nn.names`."""
        return cls(
            shape, multiplier, width, depth, settings.multipliers, settings.attention, settings.heads, dropout,
            4 * width if timed else 0, fourier, settings.patch,
        )  # fmt: skip

    def __init__(
        self,
        shape: Sequence[int],
        multiplier: int = 1,
        channels: int = 64,
        depth: int = 2,
        multipliers: Sequence[int] = (1, 2, 2),
        attention: Sequence[int] = (),
        heads: int = 1,
        dropout: float = 0.0,
        embedding: int | bool = True,
        fourier: Sequence[int] = (),
        patch: int = 1,
    ) -> None:
        super().__init__()
        require_count(multiplier=multiplier, channels=channels, depth=depth, heads=heads, patch=patch)
        multipliers = listed("multipliers", multipliers)
        require_count(**{f"multipliers[{i}]": m for i, m in enumerate(multipliers)})
        require(len(multipliers) > 0, "multipliers must have at least one entry", multipliers)
        require_rate(dropout=dropout)
        self.shape = image_shape(shape)
        self.multiplier = multiplier
        self.channels = channels
        self.depth = depth
        self.multipliers = multipliers
        self.attention = listed("attention", attention)
        self.heads = heads
        self.dropout = dropout
        self.embedding = embedding
        self.fourier = listed("fourier", fourier)
        self.patch = patch
        heights = self._heights()

        size = embedding_size(embedding, channels)
        pixels = self.shape[0] * patch**2
        widths = [channels * m for m in self.multipliers]
        attends = [heads if height in self.attention else 0 for height in heights]
        last = len(widths) - 1

        self.features = FourierFeatures(self.fourier)
        self.time = TimeEmbedding(size) if size else None
        self.stem = nn.Conv2d(pixels * (1 + 2 * len(self.fourier)), channels, 3, padding=1)
        self.down, self.middle, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        width = channels
        skips = [width]
        for i, outputs in enumerate(widths):
            for _ in range(depth):
                self.down.append(ResidualBlock(width, outputs, size, dropout, attends[i]))
                width = outputs
                skips.append(width)
            if i < last:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
        self.middle.append(ResidualBlock(width, width, size, dropout, heads))
        self.middle.append(ResidualBlock(width, width, size, dropout))
        for i, outputs in reversed(list(enumerate(widths))):
            for _ in range(depth + 1):
                self.up.append(ResidualBlock(width + skips.pop(), outputs, size, dropout, attends[i]))
                width = outputs
            if i > 0:
                self.up.append(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1)))
        self.head = Head(width, pixels * multiplier)

    def _heights(self) -> list[int]:
        """The height of the feature maps at each resolution."""
        _, height, width = self.shape
        factor = self.patch * 2 ** (len(self.multipliers) - 1)
        if height % factor or width % factor:
            raise InputError(
                f"{height} x {width} images cannot be divided by {factor} (patch {self.patch}, then halved "
                f"{len(self.multipliers) - 1} times); choose another patch or fewer multipliers"
            )
        heights = [height // self.patch // 2**i for i in range(len(self.multipliers))]
        for asked in self.attention:
            if asked not in heights:
                raise InputError(f"attention at height {asked}, but the feature maps have heights {heights}")
        return heights

    def forward(self, z: Tensor, t: Tensor | None = None) -> Tensor:
        embedding = embed(self.time, t)
        h = self.stem(functional.pixel_unshuffle(self.features(z), self.patch))
        skips = [h]
        for layer in self.down:
            h = layer(h, embedding) if isinstance(layer, ResidualBlock) else layer(h)
            skips.append(h)
        for block in self.middle:
            h = block(h, embedding)
        for layer in self.up:
            if isinstance(layer, ResidualBlock):
                h = torch.cat([h, skips.pop()], dim=1)
                h = layer(h, embedding)
            else:
                h = layer(h)
        return functional.pixel_shuffle(self.head(h), self.patch)
