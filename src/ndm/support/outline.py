"""Building a module without memory for its weights, to see what it would hold before it is built for real."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from ..errors import InputError


@contextmanager
def outline(tensors: int, elements: int) -> Iterator[None]:
    """What is built inside is on PyTorch's meta device: it has shapes and no memory, and no random number is drawn.

    Args:
        tensors, elements: the largest number of parameters and buffers, and of elements in all of them. A constructor
            stops where it exceeds them, so a depth of 10^9 takes no longer than the depth that is allowed.

    Raises:
        InputError: from the constructor that exceeds them.
    """
    here, count, total = threading.get_ident(), 0, 0

    def measure(_module: nn.Module, _name: str, value: Tensor | None) -> None:
        nonlocal count, total
        if value is None or threading.get_ident() != here:
            return
        count, total = count + 1, total + value.numel()
        if count > tensors or total > elements:
            raise InputError(
                f"these settings describe a model of more than {tensors:,} tensors or {elements:,} numbers in them; "
                "choose smaller sizes"
            )

    hooks = [
        register_module_parameter_registration_hook(measure),
        register_module_buffer_registration_hook(measure),
    ]
    try:
        with torch.device("meta"):
            yield
    finally:
        for hook in hooks:
            hook.remove()
