"""The floating-point operations of a piece of work, as PyTorch counts them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any


def operations(work: Callable[[], Any]) -> int:
    """Do the work, and count its floating-point operations."""
    with warnings.catch_warnings():  # importing it uses a part of PyTorch that PyTorch warns of
        warnings.simplefilter("ignore", FutureWarning)
        from torch.utils.flop_counter import FlopCounterMode
    counter = FlopCounterMode(display=False)
    with counter:
        work()
    return counter.get_total_flops()
