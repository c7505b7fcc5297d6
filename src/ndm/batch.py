r"""The door for data: what a batch may be, checked once before a model computes with it.

A batch is a torch tensor or a NumPy array of real numbers, :math:`(B, *)`, with at least one row. Integers of any width
and floats of any precision are welcome; what could only be guessed at (complex numbers, truth values, objects, masked
entries, rows of another shape) is refused. The decoder then checks the values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.masked import MaskedTensor

from .errors import InputError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
"""Integers that torch can hardly compute with, and those that hold their values."""


def as_batch(x: Any, shape: tuple[int, ...] | None = None) -> Tensor:
    """``x`` as a tensor of real numbers, ``(B, *shape)``; the values are not looked at, but for unsigned 64-bit ones.

    Args:
        x: a torch tensor or a NumPy array, which is copied.
        shape: the shape of a row; None allows any.

    Raises:
        InputError: if ``x`` is of another kind or shape, with its kind or both shapes.
    """
    if isinstance(x, np.ndarray):
        x = _from_numpy(x)
    if not isinstance(x, Tensor):
        raise InputError(f"data must be a torch tensor or a NumPy array, got {type(x).__name__}")
    if isinstance(x, MaskedTensor):
        raise InputError("data must not be a masked tensor: the mask would be lost; fill or remove the masked entries")
    names = getattr(x, "names", ())
    if any(name is not None for name in names):
        raise InputError(f"data must not have named dimensions, got {names}; pass x.rename(None)")
    if x.layout is not torch.strided or x.is_nested or x.dtype not in (*FLOATS, *INTEGERS, *WIDER):
        kind = str(x.dtype).removeprefix("torch.") if x.layout is torch.strided and not x.is_nested else "no plain"
        raise InputError(f"data must be a plain tensor of integers or of floats of 16 to 64 bits, got {kind} values")
    wanted = "*" if shape is None else ", ".join(map(str, shape))
    if x.ndim < 2 or x.numel() == 0 or (shape is not None and tuple(x.shape[1:]) != shape):
        raise InputError(f"data must have shape (batch, {wanted}) with at least one row, got {tuple(x.shape)}")
    if x.is_meta:
        raise InputError("the data must hold values, but they are on the device meta")
    return _signed(x)


def _from_numpy(x: np.ndarray[Any, Any]) -> Tensor:
    if isinstance(x, np.ma.MaskedArray):
        raise InputError("data must not be a masked array: the mask would be lost; fill or remove the masked entries")
    if x.dtype.kind not in "iuf":
        raise InputError(f"data must be integers or floats, got a NumPy array of {x.dtype}")
    # NumPy has several names for one such type and either byte order; torch knows one of them.
    native = np.empty(x.shape, f"{x.dtype.kind}{min(x.dtype.itemsize, 8)}")
    with np.errstate(over="ignore"):  # an infinity is refused later
        native[...] = x
    return torch.from_numpy(native)


def _signed(x: Tensor) -> Tensor:
    """Wide unsigned integers as signed ones of the same values."""
    if x.dtype not in WIDER:
        return x
    signed = x.to(WIDER[x.dtype])
    if x.dtype == torch.uint64 and bool((signed < 0).any()):
        raise InputError("data must not have integers above 2^63 - 1; divide them, or convert them to floats first")
    return signed


def as_float(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` in ``dtype``, or in its own precision where that is higher; large integers become float64.

    Args:
        x: real numbers as of :func:`as_batch`.
        dtype: the precision to compute in.
    """
    if x.is_floating_point():
        return x.to(torch.promote_types(x.dtype, dtype))
    exact = 2 / torch.finfo(dtype).eps  # up to here dtype has every integer
    info = torch.iinfo(x.dtype)
    fits = info.max <= exact or max(-x.min().item(), x.max().item()) <= exact
    return x.to(dtype if fits else torch.float64)


def check_magnitude(x_model: Tensor) -> None:
    """Refuse encoded data whose squares, divided by the variance of the noise, might overflow.

    Raises:
        InputError: with the row and what to look at.
    """
    largest = x_model.detach().abs().flatten(1).amax(1)
    worst = int(largest.argmax())
    limit = torch.finfo(x_model.dtype).max ** 0.25
    if not largest[worst].item() <= limit:
        name = str(x_model.dtype).removeprefix("torch.")
        raise InputError(
            f"data are as far as {largest[worst].item():.2g} standard deviations from the mean (row {worst}), too far "
            f"for {name}; remove that row, or give the decoder the mean and std of the data"
        )
