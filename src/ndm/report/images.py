"""Images of rows as small PNG files inside of the page."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..evaluation import backend  # noqa: F401  # isort: skip  # before anything imports matplotlib
from matplotlib import colormaps
from matplotlib.image import imsave

from ..evaluation.grids import finite_range, to_bytes

LARGEST_SIDE, LARGEST_FRAME = 40, 32
"""The most pixels of a side of an image, and of one that moves; larger ones are made smaller to keep the page small."""


def is_image(x: Tensor) -> bool:
    """Whether rows are images, ``(N, C, H, W)``."""
    return x.ndim == 4 and min(x.shape[1:]) > 0


def smaller(x: Tensor, side: int) -> Tensor:
    """Images ``(N, C, H, W)`` of at most ``side`` pixels on each side; squares of pixels are averaged."""
    factor = -(-max(x.shape[2:]) // side)
    x = x.cpu().double()
    return functional.avg_pool2d(x, factor, ceil_mode=True) if factor > 1 else x


def shown_range(x: Tensor, levels: int | None) -> tuple[float, float]:
    """The values that are black and white: the first and the last level, or the smallest and largest value."""
    return finite_range(x) if levels is None else (0.0, float(levels - 1))


def colours(x: Tensor, low: float, high: float, side: int = LARGEST_SIDE) -> np.ndarray:
    """Images ``(N, C, H, W)`` as 8-bit colours ``(N, H, W, 3)`` of at most ``side`` pixels on each side."""
    return to_bytes(smaller(x, side), low, high)


def signed_colours(x: Tensor, limit: float) -> np.ndarray:
    """Signed images ``(N, C, H, W)`` as colours from blue at ``-limit`` to red; a mean over the channels."""
    values = smaller(torch.nan_to_num(x), LARGEST_FRAME).mean(1).numpy()
    return colormaps["coolwarm"]((values / (limit or 1.0) + 1) / 2, bytes=True)[..., :3]


def png_address(pixels: np.ndarray) -> str:
    """An image of 8-bit colours ``(H, W, 3)`` as the address of a PNG inside of the page."""
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(pixels), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
