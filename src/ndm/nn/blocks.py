"""The parts that networks share: shapes, group norm, attention, the residual block and the head of U-Nets.

The time derivative of a transform needs forward-mode AD, also under ``torch.compile``. All parts here support it;
PyTorch's fused attention and its norms with affine parameters do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..support.checks import row_shape


def image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """``shape`` as ``(C, H, W)``.

    Raises:
        InputError: if ``shape`` does not consist of three positive sizes.
    """
    sizes = row_shape(shape)
    if len(sizes) != 3:
        raise InputError(f"shape must be (channels, height, width), got {sizes}; use the MLP for vectors")
    return (sizes[0], sizes[1], sizes[2])


def sequence_shape(shape: Sequence[int]) -> tuple[int, int]:
    """``shape`` as ``(C, N)``.

    Raises:
        InputError: if ``shape`` does not consist of two positive sizes.
    """
    sizes = row_shape(shape)
    if len(sizes) != 2:
        raise InputError(f"shape must be (channels, places), got {sizes}; use a U-Net for images, the MLP for vectors")
    return (sizes[0], sizes[1])


Layer = TypeVar("Layer", bound=nn.Module)


def zeroed(layer: Layer) -> Layer:
    """Set a block's last layer to zero, so that the block starts as the identity or as zero. Return the layer."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


def num_groups(channels: int) -> int:
    """Number of groups of a norm: the largest divisor of ``channels`` up to 32 with four or more channels in a group.

    With 32 groups, narrow networks would have groups of one channel, and the norm would remove that channel's mean.
    """
    return max(g for g in range(1, 33) if channels % g == 0 and (g == 1 or channels >= 4 * g))


class GroupNorm(nn.Module):
    """norm(h) (1 + scale) + shift for h ``(B, C, *)``; scale and shift are parameters or come from the embedding.

    Args:
        channels: the number C of channels.
        embedding: size E of the embedding that gives scale and shift; 0 makes them parameters.
    """

    def __init__(self, channels: int, embedding: int = 0) -> None:
        super().__init__()
        self.groups = num_groups(channels)
        self.modulation = nn.Linear(embedding, 2 * channels) if embedding else None
        if not embedding:
            self.affine = nn.Parameter(torch.zeros(1, 2 * channels))

    def forward(self, h: Tensor, embedding: Tensor | None = None) -> Tensor:
        scale_shift = self.affine if self.modulation is None else self.modulation(embedding)
        scale, shift = scale_shift.view(*scale_shift.shape, *[1] * (h.ndim - 2)).chunk(2, dim=1)
        # At least float32 for accurate statistics, then the dtype of h again to save memory. Affine parameters inside
        # group_norm would break torch.compile around forward-mode AD.
        wide = torch.promote_types(h.dtype, torch.float32)
        y = functional.group_norm(h.to(wide), self.groups).to(h.dtype)
        return torch.addcmul(shift.to(h.dtype), y, 1 + scale.to(h.dtype))  # one pass, no intermediate result


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    r"""Attention among N positions, :math:`v\, \mathrm{softmax}(q^\top k / \sqrt{d})^\top`; all are ``(*, d, N)``."""
    # The channels stay first, as in the convolutions, so nothing is transposed in memory. Scaling q costs d/N of
    # scaling the weights.
    weights = (q.mT * q.shape[-2] ** -0.5 @ k).softmax(dim=-1)
    return v @ weights.mT


class Attention(nn.Module):
    """h + W attend(norm(h)) over the positions of ``(B, C, H, W)``; it starts as the identity.

    Args:
        channels: the number C of channels.
        heads: the number of heads, among which the channels are divided.

    Raises:
        InputError: if the number of heads does not divide the number of channels.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise InputError(f"heads must divide the {channels} channels that attend, got {heads}")
        self.heads = heads
        self.norm = GroupNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        batch, channels, height, width = h.shape
        qkv = self.qkv(self.norm(h)).view(batch, 3, self.heads, channels // self.heads, height * width)
        return h + self.out(attend(*qkv.unbind(1)).reshape(h.shape))


class ResidualBlock(nn.Module):
    """skip(h) + conv(silu(norm_t(conv(silu(norm(h)))))), then attention if ``heads > 0``; it starts as skip(h).

    Args:
        inputs, outputs: the numbers of channels.
        embedding: size of the time embedding, which scales and shifts the second norm (FiLM); 0 for none.
        dropout: the rate of the dropout before the second convolution.
        heads: the number of heads of the attention; 0 for no attention.

    References:
        Dhariwal, Nichol. Diffusion Models Beat GANs on Image Synthesis. NeurIPS 2021 (adaptive group norm).
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float, heads: int = 0) -> None:
        super().__init__()
        self.norm_in = GroupNorm(inputs)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm_out = GroupNorm(outputs, embedding)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attention = Attention(outputs, heads) if heads else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor | None) -> Tensor:
        y = self.conv_in(functional.silu(self.norm_in(h)))
        y = self.conv_out(self.dropout(functional.silu(self.norm_out(y, embedding))))
        return self.attention(self.skip(h) + y)


class Head(nn.Module):
    """conv(silu(norm(h))), which maps the last features to the output; the output starts at zero."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels)
        self.conv = zeroed(nn.Conv2d(channels, outputs, 3, padding=1))

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(functional.silu(self.norm(h)))
