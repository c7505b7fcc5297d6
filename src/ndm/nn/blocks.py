"""What the two U-Nets share: group norm, attention, the residual block, the head.

Everything here can be differentiated in forward mode and compiled around it, as the time derivative of a transform
asks: PyTorch's fused attention and its norms with affine parameters cannot.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError


def image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """``shape`` as ``(C, H, W)``.

    Raises:
        InputError: if it is not three positive sizes.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"shape must be (channels, height, width), got {tuple(shape)}; for vectors there is the MLP")
    return (shape[0], shape[1], shape[2])


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with weights of zero, so that what it ends starts as the identity, or as zero."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


def num_groups(channels: int) -> int:
    """Groups of a norm: the most, up to 32, that divide the channels into four or more.

    Always 32 would leave narrow networks with groups of one channel, which lose its mean over the image.
    """
    return max(g for g in range(1, 33) if channels % g == 0 and (g == 1 or channels >= 4 * g))


class GroupNorm(nn.Module):
    """norm(h) (1 + scale) + shift over ``(B, C, H, W)``; scale and shift are learned, or given by the time embedding.

    Args:
        channels: C.
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
        scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)
        # Normalised in float32 at least, for the statistics; kept in the type of h, for the memory. Affine parameters
        # inside would break torch.compile around forward-mode AD.
        wide = torch.promote_types(h.dtype, torch.float32)
        y = functional.group_norm(h.to(wide), self.groups).to(h.dtype)
        return torch.addcmul(shift.to(h.dtype), y, 1 + scale.to(h.dtype))  # one pass, no intermediate result


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    r""":math:`v\, \mathrm{softmax}(q^\top k / \sqrt{d})^\top`: N positions attend to each other; all ``(*, d, N)``."""
    # Channels first, as the convolutions leave them: nothing is transposed in memory. Scaling q is d/N of the work of
    # scaling the weights.
    weights = (q.mT * q.shape[-2] ** -0.5 @ k).softmax(dim=-1)
    return v @ weights.mT


class Attention(nn.Module):
    """h + W attend(norm(h)) over the positions of ``(B, C, H, W)``; it starts as the identity.

    Args:
        channels: C.
        heads: the channels are divided among them.

    Raises:
        InputError: if the heads do not divide the channels.
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
    """skip(h) + conv(silu(norm_t(conv(silu(norm(h)))))), then attention if it has heads; it starts as the skip.

    Args:
        inputs, outputs: channels.
        embedding: size of the time embedding, which scales and shifts the second norm (FiLM); 0 for none.
        dropout: before the second convolution.
        heads: of the attention that follows; 0 for none.

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
    """conv(silu(norm(h))) from the last features to the output, which starts at zero."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels)
        self.conv = zeroed(nn.Conv2d(channels, outputs, 3, padding=1))

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(functional.silu(self.norm(h)))
