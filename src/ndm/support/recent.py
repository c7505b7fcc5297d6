"""The last result of a function of times, so that what is asked for twice is computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


class Recent(Generic[Result]):
    """The result at the last tensor. A result without gradients is not used where there are gradients."""

    def __init__(self) -> None:
        self._kept: tuple[Tensor, int, bool, Result] | None = None

    def knows(self, t: Tensor) -> bool:
        """Whether the result at this very tensor is there."""
        if self._kept is None or self._kept[0] is not t:
            return False
        return self._kept[1] == version_of(t) and self._kept[2] >= torch.is_grad_enabled()

    def at(self, t: Tensor, function: Callable[[Tensor], Result]) -> Result:
        """The result at ``t``, from ``function`` if it is not there."""
        if self._kept is None or not self.knows(t):
            self._kept = t, version_of(t), torch.is_grad_enabled(), function(t)
        return self._kept[3]


def version_of(t: Tensor) -> int:
    """How often a tensor was changed in place. One made in inference mode does not count, and torch.compile, which sees
    changes in place by itself, cannot ask."""
    return 0 if torch.compiler.is_compiling() or t.is_inference() else t._version
