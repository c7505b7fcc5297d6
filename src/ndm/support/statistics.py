"""The mean and the standard deviation with which data are standardised: what they may be, and which rows they fit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .checks import shown


def exact_statistic(name: str, given: Any) -> Tensor:
    """A decoder's mean or std in a tensor that holds it exactly: its own dtype, or float64 for numbers and integers.

    Raises:
        InputError: if it is not made of finite real numbers, or a standard deviation is not positive, with the cause.
    """
    try:
        value = given.detach() if isinstance(given, Tensor) else torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InputError(
            f"{name} must be a number, or numbers with one value per element, got {shown(repr(given))}"
        ) from None
    if value.layout is not torch.strided or value.is_meta:
        what = "is on the device meta" if value.is_meta else f"has the layout {value.layout}"
        raise InputError(f"{name} must be a plain tensor that holds its values, but it {what}")
    if value.is_complex() or value.dtype == torch.bool or isinstance(given, bool) or not value.numel():
        kind = str(value.dtype).removeprefix("torch.") + " values" if value.numel() else "none"
        raise InputError(f"{name} must consist of real numbers, got {'bool' if isinstance(given, bool) else kind}")
    value = value if value.is_floating_point() else value.double()
    bad = (~torch.isfinite(value)).flatten().nonzero().flatten()
    if len(bad):
        raise InputError(
            f"{name} is not finite in {len(bad)} of {value.numel()} elements (first: element {int(bad[0])}): the data "
            "have a NaN or an infinity there" + (", or only one row" if name == "std" else "") + "; mend the data first"
        )
    bad = (value <= 0).flatten().nonzero().flatten()
    if name == "std" and len(bad):
        cause = "constant columns have no standard deviation, drop them first"
        raise InputError(
            f"std must be positive everywhere, but element {int(bad[0])} is {value.flatten()[bad[0]].item():g}"
            + (f": {cause}" if value.flatten()[bad[0]] == 0 else "")
        )
    # A copy, because loading a model writes into the buffer.
    return value.clone(memory_format=torch.contiguous_format)


def check_statistic(name: str, statistic: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a mean or std that would only broadcast to rows of ``shape``, such as one per channel along the width.

    Raises:
        InputError: with both shapes.
    """
    own = tuple(statistic.shape)
    fits = len(own) == len(shape) and all(size in (1, whole) for size, whole in zip(own, shape, strict=True))
    if statistic.numel() != 1 and not fits:
        raise InputError(
            f"GaussianDecoder's {name} has shape {own} and does not fit rows of shape {shape}: give a number, or one "
            f"value per element (a size of 1 serves a whole dimension, e.g. {(shape[0], *[1] * (len(shape) - 1))})"
        )
