"""The table of networks that a recipe can name; a network joins it where it is defined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from torch import nn

from ..support.registry import Registry


class NetworkClass(Protocol):
    """A class of networks that can be built from a recipe's settings."""

    reads: ClassVar[tuple[str, ...]]
    """The settings ``model.*`` that only some networks read, and that this one does."""

    def build(
        self, settings: Any, shape: Sequence[int], multiplier: int, width: int, depth: int,
        dropout: float = 0.0, fourier: Sequence[int] = (), timed: bool = True,
    ) -> nn.Module:  # fmt: skip
        """A network (z, t), or of z alone if it is not ``timed``, with ``multiplier`` outputs per channel.

        Raises:
            InputError: if the network does not fit rows of that shape.
        """


NETWORKS = Registry[NetworkClass]("network")
