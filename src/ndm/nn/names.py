"""The registry of the networks that a recipe can name. Each network is registered where it is defined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from torch import nn

from ..support.registry import Registry


class NetworkClass(Protocol):
    """A class of networks that can be built from a recipe's settings."""

    reads: ClassVar[tuple[str, ...]]
    """The settings ``model.*`` that this network reads and some other networks do not."""

    def build(
        self, settings: Any, shape: Sequence[int], multiplier: int, width: int, depth: int,
        dropout: float = 0.0, fourier: Sequence[int] = (), timed: bool = True,
    ) -> nn.Module:  # fmt: skip
        """Build a network of (z, t), or of z alone if not ``timed``, with ``multiplier`` outputs per channel.

        Networks of sequences also take ``outputs``, the number of output channels in place of ``multiplier``. They may
        take ``beliefs``, see :class:`~ndm.nn.conv1d.Conv1d`.

        Raises:
            InputError: if the network does not fit samples of that shape.
        """


NETWORKS = Registry[NetworkClass]("network")
