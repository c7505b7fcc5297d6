"""Shapes and random numbers: times have shape ``(B,)``, data have shape ``(B, *)``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .checks import require, require_number


@contextmanager
def gradients() -> Iterator[None]:
    """Gradients are computed, also inside of a caller's ``torch.no_grad`` or ``torch.inference_mode``."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Tensors keep their precision, and new ones are on the CPU, whatever the caller's autocast and default device."""
    with ExitStack() as stack:
        if torch.get_default_device().type != "cpu":  # the context makes each operation slower
            stack.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def expand(t: Tensor, x: Tensor) -> Tensor:
    """View ``t``, one value per row or ``(B, C)`` per channel, so that it broadcasts against ``x``, ``(B, C, *)``."""
    return t.view(*t.shape, *[1] * (x.ndim - t.ndim))


def sum_rows(x: Tensor) -> Tensor:
    """Sum over all dimensions except the batch: ``(B, *) -> (B,)``."""
    return x.flatten(1).sum(1)


def is_dense(x: Tensor) -> bool:
    """Whether a tensor holds real numbers, and is not sparse."""
    return x.layout is torch.strided and not x.is_complex()


def check_times(x: Tensor, **times: Tensor) -> None:
    """Refuse times unless there is one per row of ``x``. Values are not checked: that would wait for the device.

    Raises:
        InputError: naming the time, the shape that it must have and the shape that it has.
    """
    for name, t in times.items():
        if not isinstance(t, Tensor) or t.shape != x.shape[:1]:
            got = tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
            raise InputError(f"{name} must have shape ({x.shape[0]},), got {got}: pass a tensor with one time per row")
        if not is_dense(t) or t.device != x.device:
            kind = f"{t.dtype} in the layout {t.layout} on {t.device}"
            raise InputError(f"{name} must be a dense tensor of real numbers on {x.device}, got {kind}")


def check_clock(eta: Any, x: Tensor) -> None:
    """Refuse what is no rate of a clock for the rows of ``x``.

    Raises:
        InputError: if eta is negative or no number, or a tensor that is not one number per row.
    """
    if not isinstance(eta, Tensor):
        require_number(eta=eta)
        require(eta >= 0, "eta must not be negative", eta)
        return
    require(is_dense(eta), "eta must be a dense tensor of real numbers", f"{eta.dtype} in the layout {eta.layout}")
    if eta.ndim:
        check_times(x, eta=eta)


def require_generator(generator: Any) -> None:
    """Refuse a seed, or anything else that is not a generator.

    Raises:
        InputError: with the call that makes a generator.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise InputError(
            f"generator must be a torch.Generator or None, got {generator!r}; "
            "pass torch.Generator().manual_seed(seed) for a seed"
        )


def require_shape(name: str, value: Any, like: Tensor, of: str = "z") -> None:
    """Refuse what is no tensor or would only broadcast to the shape of ``like``. Shapes are compared, nothing else.

    Raises:
        InputError: with both shapes.
    """
    if not isinstance(value, Tensor) or value.shape != like.shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"{name} must have shape {tuple(like.shape)} like {of}, got {got}")


def require_table(name: str, rows: Any, columns: int) -> None:
    """Refuse what is no dense tensor of real numbers with rows of so many columns.

    Raises:
        InputError: with what was given.
    """
    if not (isinstance(rows, Tensor) and is_dense(rows) and rows.ndim == 2 and rows.shape[1] == columns):
        got = f"{rows.dtype} {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
        raise InputError(f"{name} must be a tensor of real numbers of shape (B, {columns}), got {got}")


def full_times(value: float, x: Tensor) -> Tensor:
    """The same time for every row of ``x``: shape ``(B,)``, in the dtype and on the device of ``x``."""
    return torch.full(x.shape[:1], value, dtype=x.dtype, device=x.device)


def randn_like(x: Tensor, generator: torch.Generator | None = None, rank: int = 0, count: int = 1) -> Tensor:
    """Standard normal noise of the shape of ``x``.

    It is drawn on the generator's device, so that a seed gives the same noise whatever the device of ``x``.

    Args:
        rank, count: ``x`` is part number ``rank`` of ``count`` equal parts of a batch. Noise is drawn for the whole
            batch and this part of it is returned, so that the parts together hold the same draws as one process.
    """
    return _draw(torch.randn, tuple(x.shape), x, generator, rank, count)


def rand(
    shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None = None, rank: int = 0, count: int = 1
) -> Tensor:
    """Uniform numbers in ``[0, 1)`` with the dtype and device of ``like``. For shape ``()``, all parts get the same.

    ``rank`` and ``count`` are those of :func:`randn_like`.
    """
    return _draw(torch.rand, shape, like, generator, rank, count)


def _draw(
    sampler: Callable[..., Tensor], shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None,
    rank: int, count: int,
) -> Tensor:  # fmt: skip
    require_generator(generator)
    device = like.device if generator is None else generator.device
    if count == 1 or not shape:
        return sampler(shape, generator=generator, dtype=like.dtype, device=device).to(like.device)
    rows, *rest = shape
    whole = sampler((count * rows, *rest), generator=generator, dtype=like.dtype, device=device)
    return whole[rank * rows :][:rows].to(like.device)


def rows_at_once(shape: Sequence[int], most: int) -> int:
    """The number of rows of ``shape`` that go through a model together where the caller cannot choose it.

    It is at least 1 and at most ``most``, and these rows have at most 2^19 elements. A distribution over 256 levels for
    each of 2^19 elements takes half a gigabyte in float32.
    """
    return max(1, min(most, 2**19 // math.prod(shape)))


def seeded(*key: int) -> torch.Generator:
    """A CPU generator for a key such as (seed, purpose, step). Different keys give independent streams."""
    return torch.Generator().manual_seed(hashed(*key))


def hashed(*key: int) -> int:
    """A 63-bit seed for a key."""
    # The length is included because SeedSequence treats (5,) and (5, 0) as equal.
    state = np.random.SeedSequence((len(key), *key)).generate_state(2)
    return int(state[0]) << 31 | int(state[1]) >> 1


def seed_dropout(seed: int) -> None:
    """Seed PyTorch's global random numbers of all devices, from which dropout draws.

    ``torch.manual_seed`` does the same, but as long as CUDA is not in use it remembers every call with its traceback.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def stratified(draws: int, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Uniform numbers ``(draws, count)`` in float64 on the CPU, in each column one in every ``draws``-th of (0, 1).

    A mean over the draws is the more accurate, the more it is a sum of functions of one column each.

    References:
        McKay, Beckman, Conover. A Comparison of Three Methods for Selecting Values of Input Variables. 1979.
    """
    like = torch.empty(0, dtype=torch.float64, device="cpu")
    order = rand((draws, count), like, generator).argsort(0)
    return (order + rand((draws, count), like, generator).clamp(min=1e-15)) / draws
