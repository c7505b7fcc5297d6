"""A residual MLP, with or without time, for vectors and for small images, which it flattens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..support.checks import listed, require_count, require_flag, require_rate, row_shape
from .embedding import FourierFeatures, TimeEmbedding, UniformFeatures, embed, with_beliefs
from .names import NETWORKS


class Block(nn.Module):
    """h + W2 silu(W1 (norm(h) (1 + scale) + shift)), with scale and shift from the time embedding."""

    def __init__(self, width: int, hidden: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.modulation = nn.Linear(embedding, 2 * width) if embedding else None
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, h: Tensor, embedding: Tensor | None) -> Tensor:
        # No affine parameters here: they break torch.compile around forward-mode AD.
        y = functional.layer_norm(h, h.shape[-1:])
        if self.modulation is not None:
            scale, shift = self.modulation(embedding).chunk(2, dim=1)
            y = y * (1 + scale) + shift
        return h + self.down(self.dropout(functional.silu(self.up(y))))


@NETWORKS.register("mlp")
class MLP(nn.Module):
    """Residual MLP: ``(z, t)`` or ``(z,)`` to ``(B, multiplier * C, *)``. Its output starts at zero.

    Args:
        shape: shape of one sample, ``(C, *)``.
        multiplier: the number of outputs per input channel, concatenated along dimension 1.
        width: width of the residual stream.
        depth: the number of residual blocks.
        hidden: width of the hidden layer in a block; ``width`` by default.
        embedding: size of the time embedding; 0 makes a network of z alone.
        dropout: the dropout rate of the blocks.
        fourier: exponents of the :class:`FourierFeatures` of the input.
        outputs: the number of output channels, if it is not ``multiplier * C``.
        uniform: exponents of the :class:`UniformFeatures` of the input.
        damped: whether the Fourier features are damped by the noise of the input, which ``forward`` then needs.
        beliefs: the number of values that ``forward`` takes beside z: the probabilities of all symbols in a row, as far
            as the point of each tells them.

    Raises:
        InputError: if a size is not a whole number, negative or (but for ``depth`` and ``embedding``) 0, or the
            dropout is not in [0, 1); in ``forward``, if t, sigma or beliefs are missing.
    """

    reads: ClassVar[tuple[str, ...]] = ("fourier",)

    @classmethod
    def build(
        cls, settings: Any, shape: Sequence[int], multiplier: int, width: int, depth: int,
        dropout: float = 0.0, fourier: Sequence[int] = (), timed: bool = True,
    ) -> MLP:  # fmt: skip
        """Build the network from a recipe's settings, see :mod:`ndm.nn.names`."""
        return cls(shape, multiplier, width, depth, embedding=64 if timed else 0, dropout=dropout, fourier=fourier)

    def __init__(
        self,
        shape: Sequence[int],
        multiplier: int = 1,
        width: int = 128,
        depth: int = 3,
        hidden: int | None = None,
        embedding: int = 64,
        dropout: float = 0.0,
        fourier: Sequence[int] = (),
        outputs: int | None = None,
        uniform: Sequence[int] = (),
        damped: bool = False,
        beliefs: int = 0,
    ) -> None:
        super().__init__()
        require_count(outputs=1 if outputs is None else outputs)
        require_count(multiplier=multiplier, width=width, hidden=width if hidden is None else hidden)
        require_count(0, depth=depth, embedding=embedding, beliefs=beliefs)
        require_rate(dropout=dropout)
        require_flag(damped=damped)
        self.shape = row_shape(shape)
        self.multiplier = multiplier
        self.width = width
        self.depth = depth
        self.hidden = hidden
        self.embedding = embedding
        self.dropout = dropout
        self.fourier = listed("fourier", fourier)
        self.outputs = outputs
        self.uniform = listed("uniform", uniform)
        self.damped = damped
        self.beliefs = beliefs
        dim = math.prod(self.shape)
        self.features, self.scores = FourierFeatures(self.fourier), UniformFeatures(self.uniform)
        self.time = TimeEmbedding(embedding) if embedding else None
        self.stem = nn.Linear(dim * (1 + 2 * len(self.fourier) + self.scores.per_element) + beliefs, width)
        self.blocks = nn.ModuleList(Block(width, hidden or width, embedding, dropout) for _ in range(depth))
        channels, *self.rest = self.shape
        self.channels = channels * multiplier if outputs is None else outputs
        self.head = nn.Linear(width, self.channels * math.prod(self.rest))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, z: Tensor, t: Tensor | None = None, sigma: Tensor | None = None, beliefs: Tensor | None = None
    ) -> Tensor:
        """The output for z, ``(B, C, *)``, at times t, ``(B,)``; ``sigma`` is the standard deviation of z's noise.

        It broadcasts with z, and only a ``damped`` network reads it. Only a network with beliefs reads theirs.
        """
        if self.damped and sigma is None:
            raise InputError("this network depends on the noise of z: call it as net(z, t, sigma)")
        embedding = embed(self.time, t)
        flat = z.flatten(1)
        noise = sigma.expand_as(z).flatten(1) if self.damped and sigma is not None else None
        read = torch.cat([self.features(flat, noise), self.scores(flat)[:, flat.shape[1] :]], dim=1)
        h = self.stem(with_beliefs(read, self.beliefs, beliefs))
        for block in self.blocks:
            h = block(h, embedding)
        out = self.head(functional.layer_norm(h, h.shape[-1:]))
        return out.view(len(z), self.channels, *self.rest)
