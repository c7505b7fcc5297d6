"""The blueprint: the information from which a part that a recipe names is built, by ``part.build(blueprint)``."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn


class Blueprint(Protocol):
    """The model settings of a recipe, the shape and levels of the data, and methods that make networks."""

    @property
    def settings(self) -> Any:
        """The settings ``model.*`` as attributes, e.g. ``settings.gamma_min``."""

    @property
    def bound_steps(self) -> int | None:
        """The number of steps of the bound that is trained; None means continuous time."""

    @property
    def any_eta(self) -> bool:
        """Whether the model is trained at several eta, so that its ODE is learned, too."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a row, ``(C, *)``."""

    @property
    def levels(self) -> int | None:
        """The number of values that an element can take; None for real numbers."""

    @property
    def sequence(self) -> bool:
        """Whether a row is a sequence of symbols, ``(d, length)`` as points; otherwise it is ``(C, *)``."""

    def predictor_network(self, outputs: int) -> nn.Module:
        """A network of (z, t) with the predictor's size and ``outputs`` channels for each channel of z."""

    def symbol_network(self, outputs: int) -> nn.Module:
        """A network of (z, t) for sequences with the predictor's size and logits for ``outputs`` symbols."""

    def transform_network(self, outputs: int, timed: bool) -> nn.Module:
        """A network of (x, t), or of x if not ``timed``, with F's size and ``outputs`` channels per channel of x."""
