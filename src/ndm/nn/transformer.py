r"""A transformer for sequences, in which every place sees all others.

Queries and keys are turned by angles in proportion to their places (rotary positions), so that their product depends on
the distance of two places alone.

References:
    Su et al. RoFormer: Enhanced Transformer with Rotary Position Embedding. 2021.
    Peebles, Xie. Scalable Diffusion Models with Transformers. ICCV 2023 (modulation by the time).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..support.checks import require, require_count, require_rate
from .blocks import attend, sequence_shape, zeroed
from .embedding import TimeEmbedding, embed, with_beliefs
from .names import NETWORKS

SLOWEST = 10_000.0
"""The ratio of the fastest angle to the slowest."""


def rotate(x: Tensor) -> Tensor:
    """Turn the pairs of channels ``(i, i + d/2)`` of ``(*, d, N)`` by their place times the pair's frequency."""
    half, places = x.shape[-2] // 2, x.shape[-1]
    dtype = torch.promote_types(x.dtype, torch.float32)  # bf16 has too few digits for an angle
    frequencies = SLOWEST ** (-torch.arange(half, dtype=dtype, device=x.device) / half)
    angles = frequencies[:, None] * torch.arange(places, dtype=dtype, device=x.device)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.split(half, dim=-2)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-2)


class Modulated(nn.Module):
    """norm(h) (1 + scale) + shift for h ``(B, N, width)``; the embedding of the time gives scale and shift, if any."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(embedding, 2 * width)) if embedding else None

    def forward(self, h: Tensor, embedding: Tensor | None) -> Tensor:
        y = functional.layer_norm(h, h.shape[-1:])
        if self.modulation is None:
            return y
        scale, shift = self.modulation(embedding)[:, None].chunk(2, dim=-1)
        return y * (1 + scale) + shift


class Block(nn.Module):
    """Attention and then two layers at each place, each added to h; the block starts as the identity."""

    def __init__(self, width: int, heads: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in, self.norm_out = Modulated(width, embedding), Modulated(width, embedding)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = zeroed(nn.Linear(width, width))
        self.up, self.down = nn.Linear(width, 4 * width), zeroed(nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, embedding: Tensor | None) -> Tensor:
        qkv = self.qkv(self.norm_in(h, embedding)).mT.unflatten(1, (3, self.heads, -1))
        q, k, v = qkv.unbind(1)
        h = h + self.out(self.dropout(attend(rotate(q), rotate(k), v).flatten(1, 2).mT))
        return h + self.down(self.dropout(functional.silu(self.up(self.norm_out(h, embedding)))))


@NETWORKS.register("transformer")
class Transformer(nn.Module):
    """A transformer over N places: ``(z, t)`` or ``(z,)`` to ``(B, outputs, N)``. Its output starts at zero.

    Args:
        shape: shape of one sample, ``(C, N)``.
        outputs: the number of output channels.
        width: the number of channels of the residual stream.
        depth: the number of blocks.
        heads: the number of attention heads; each has an even number of channels.
        embedding: size of the time embedding; 0 makes a network of z alone.
        dropout: the dropout rate of the blocks.
        beliefs: as of :class:`~ndm.nn.conv1d.Conv1d`.

    Raises:
        InputError: if a size is too small, the heads do not divide the width into even parts, or the dropout is not in
            [0, 1); in ``forward``, if beliefs are missing.
    """

    reads: ClassVar[tuple[str, ...]] = ("heads",)

    @classmethod
    def build(
        cls, settings: Any, shape: Sequence[int], multiplier: int, width: int, depth: int,
        dropout: float = 0.0, fourier: Sequence[int] = (), timed: bool = True, outputs: int | None = None,
        beliefs: int = 0,
    ) -> Transformer:  # fmt: skip
        """Build the network from a recipe's settings, see :mod:`ndm.nn.names`."""
        outputs = multiplier * sequence_shape(shape)[0] if outputs is None else outputs
        size = 64 if timed else 0
        return cls(shape, outputs, width, depth, settings.heads, embedding=size, dropout=dropout, beliefs=beliefs)

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        embedding: int = 64,
        dropout: float = 0.0,
        beliefs: int = 0,
    ) -> None:
        super().__init__()
        require_count(outputs=outputs, width=width, heads=heads)
        require_count(0, depth=depth, embedding=embedding, beliefs=beliefs)
        require_rate(dropout=dropout)
        require(width % (2 * heads) == 0, f"heads must divide the width {width} into even parts", heads)
        self.shape = sequence_shape(shape)
        self.outputs = outputs
        self.width = width
        self.depth = depth
        self.heads = heads
        self.embedding = embedding
        self.dropout = dropout
        self.beliefs = beliefs
        self.time = TimeEmbedding(embedding) if embedding else None
        self.stem = nn.Linear(self.shape[0] + beliefs, width)
        self.blocks = nn.ModuleList(Block(width, heads, embedding, dropout) for _ in range(depth))
        self.norm = Modulated(width, embedding)
        self.head = zeroed(nn.Linear(width, outputs))

    def forward(self, z: Tensor, t: Tensor | None = None, beliefs: Tensor | None = None) -> Tensor:
        embedding = embed(self.time, t)
        h = self.stem(with_beliefs(z, self.beliefs, beliefs).mT)
        for block in self.blocks:
            h = block(h, embedding)
        return self.head(self.norm(h, embedding)).mT
