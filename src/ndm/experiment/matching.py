"""Matching: the width with which a variant has the parameters, or the compute, of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Literal, NamedTuple, get_args

from ..data import Dataset
from ..errors import InputError
from ..support.checks import require_choice
from ..support.operations import operations
from ..training.loss import PRIOR_EVERY, Loss
from .build import outlined_model, seeded_model
from .settings import Config

Match = Literal["none", "params", "compute"]
CLOSE = 0.02
"""A match is told as a poor one if the ratio is off by more than this."""
WORST = 1.25
"""A ratio that is off by more than this factor is refused."""
ROWS = PRIOR_EVERY
"""The rows whose operations are counted: of these, one has its prior evaluated, as in a large batch."""


class Matched(NamedTuple):
    """A config with the width that fits best."""

    config: Config
    ratio: float
    """Its parameters or its compute over those that it was to have; 1 if nothing was matched."""


def parameters(config: Config, dataset: Dataset) -> int:
    """The number of parameters of a config's model."""
    return outlined_model(config, dataset).num_parameters


def flops(config: Config, dataset: Dataset) -> float:
    """The floating-point operations of a training step, forward and backward, for a row, as PyTorch counts them.

    They are those of the loss that is trained, with the penalty of ``training.straightness``.
    """
    model, x = seeded_model(config, dataset), dataset.train[:ROWS]
    loss = Loss(model, replace(config.training, compile=False), config.seed)
    return operations(lambda: loss(x, step=0).sum().backward()) / ROWS


def match(config: Config, dataset: Dataset, how: Match, goal: float) -> Matched:
    """The config with the width of the predictor that comes closest to a number of parameters or of operations.

    The width of F stays as it is. Widths that the network refuses are left out.

    Args:
        how: ``params`` or ``compute``; with ``none`` the config stays as it is.
        goal: the number to reach.

    Raises:
        InputError: if no width comes within a factor of 1.25.
    """
    require_choice(get_args(Match), match=how)
    if how == "none":
        return Matched(config, 1.0)
    measure: Callable[[Config, Dataset], float] = parameters if how == "params" else flops

    def at(width: int) -> Config:
        return replace(config, model=replace(config.model, width=width))

    @cache
    def ratio(width: int) -> float | None:
        try:
            return measure(at(width), dataset) / goal
        except InputError:
            return None

    width = config.model.width
    if ratio(width) is None:
        measure(config, dataset)  # which says why
    # The numbers grow with the width. The grid of widths that the network accepts is found from its neighbours.
    step = next((k for k in range(1, width + 1) if ratio(width + k) is not None), width)
    low, high = width % step or step, width
    while (found := ratio(high)) is not None and found < 1 and high < 64 * width:
        low, high = high, high + step * max(1, high // step // 2)
    while high - low > step:
        middle = low + (high - low) // step // 2 * step
        found = ratio(middle)
        low, high = (middle, high) if found is None or found < 1 else (low, middle)
    known = {w: r for w in (low, high) if (r := ratio(w)) is not None}
    best = min(known, key=lambda w: abs(known[w] - 1)) if known else width
    if not known or not 1 / WORST < known[best] < WORST:
        raise InputError(
            f"no model.width gives this variant the {'parameters' if how == 'params' else 'compute'} of the first one; "
            "make F smaller with model.transform_width, or do not match"
        )
    return Matched(at(best), known[best])
