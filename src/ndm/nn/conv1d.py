"""A convolutional network for sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from ..support.checks import require, require_count, require_rate
from .blocks import GroupNorm, sequence_shape, zeroed
from .embedding import TimeEmbedding, embed, with_beliefs
from .names import NETWORKS

DILATIONS = (1, 2, 4, 8)


class Block(nn.Module):
    """h + conv(dropout(silu(norm_t(conv(silu(norm(h))))))) with a dilated first convolution; starts as the identity."""

    def __init__(self, width: int, kernel: int, dilation: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = GroupNorm(width)
        self.conv_in = nn.Conv1d(width, width, kernel, padding=dilation * (kernel // 2), dilation=dilation)
        self.norm_out = GroupNorm(width, embedding)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zeroed(nn.Conv1d(width, width, kernel, padding=kernel // 2))

    def forward(self, h: Tensor, embedding: Tensor | None) -> Tensor:
        y = self.conv_in(functional.silu(self.norm_in(h)))
        return h + self.conv_out(self.dropout(functional.silu(self.norm_out(y, embedding))))


@NETWORKS.register("conv1d")
class Conv1d(nn.Module):
    """Residual convolutions over N places: ``(z, t)`` or ``(z,)`` to ``(B, outputs, N)``. Its output starts at zero.

    The dilation of the blocks goes round 1, 2, 4 and 8. The network sees what lies beyond the ends as zeros.

    Args:
        shape: shape of one sample, ``(C, N)``.
        outputs: the number of output channels.
        width: the number of channels of the residual stream.
        depth: the number of residual blocks.
        kernel: the number of places that a convolution spans, an odd number.
        embedding: size of the time embedding; 0 makes a network of z alone.
        dropout: the dropout rate of the blocks.
        beliefs: the number of channels that ``forward`` takes beside z: the probabilities of the symbols at a place,
            as far as z at this place tells them.

    Raises:
        InputError: if a size is too small, the kernel is even, or the dropout is not in [0, 1); in ``forward``, if
            beliefs are missing.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def build(
        cls, settings: Any, shape: Sequence[int], multiplier: int, width: int, depth: int,
        dropout: float = 0.0, fourier: Sequence[int] = (), timed: bool = True, outputs: int | None = None,
        beliefs: int = 0,
    ) -> Conv1d:  # fmt: skip
        """Build the network from a recipe's settings, see :mod:`ndm.nn.names`."""
        outputs = multiplier * sequence_shape(shape)[0] if outputs is None else outputs
        return cls(shape, outputs, width, depth, embedding=64 if timed else 0, dropout=dropout, beliefs=beliefs)

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        width: int = 128,
        depth: int = 6,
        kernel: int = 5,
        embedding: int = 64,
        dropout: float = 0.0,
        beliefs: int = 0,
    ) -> None:
        super().__init__()
        require_count(outputs=outputs, width=width, kernel=kernel)
        require_count(0, depth=depth, embedding=embedding, beliefs=beliefs)
        require_rate(dropout=dropout)
        require(kernel % 2 == 1, "kernel must be odd", kernel)
        self.shape = sequence_shape(shape)
        self.outputs = outputs
        self.width = width
        self.depth = depth
        self.kernel = kernel
        self.embedding = embedding
        self.dropout = dropout
        self.beliefs = beliefs
        self.time = TimeEmbedding(embedding) if embedding else None
        self.stem = nn.Conv1d(self.shape[0] + beliefs, width, kernel, padding=kernel // 2)
        dilations = [DILATIONS[i % len(DILATIONS)] for i in range(depth)]
        self.blocks = nn.ModuleList(Block(width, kernel, dilation, embedding, dropout) for dilation in dilations)
        self.norm = GroupNorm(width)
        self.head = zeroed(nn.Conv1d(width, outputs, 1))

    def forward(self, z: Tensor, t: Tensor | None = None, beliefs: Tensor | None = None) -> Tensor:
        embedding = embed(self.time, t)
        h = self.stem(with_beliefs(z, self.beliefs, beliefs))
        for block in self.blocks:
            h = block(h, embedding)
        return self.head(functional.silu(self.norm(h)))
