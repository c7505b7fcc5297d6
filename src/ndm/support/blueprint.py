"""What a part is built from when a recipe names it: ``part.build(blueprint)``."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn


class Blueprint(Protocol):
    """A recipe's settings of the model, what is known of the data, and a way to make networks."""

    @property
    def settings(self) -> Any:
        """The settings ``model.*`` as attributes, e.g. ``settings.gamma_min``."""

    @property
    def bound_steps(self) -> int | None:
        """The number of steps of the bound that is trained; None is continuous time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a row, ``(C, *)``."""

    @property
    def levels(self) -> int | None:
        """The number of values that an element can take; None for real numbers."""

    def predictor_network(self, outputs: int) -> nn.Module:
        """A network (z, t) of the predictor's size, with ``outputs`` channels for each channel of z."""

    def transform_network(self, outputs: int, timed: bool) -> nn.Module:
        """A network (x, t), or of x alone, of F's size."""
