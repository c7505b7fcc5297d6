"""Weights and optimiser moments as dictionaries of complete CPU tensors, even if the module is wrapped or sharded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as dcp

from ..support.checks import shown
from ..support.files import BadFile
from ..support.weights import FLOATS, forms_of, misfit, not_finite

VALUES: dict[str, Any] = {
    "skipped": int, "skipped_in_a_row": int, "best": (int, float), "best_step": (int, type(None)),
    "seconds": (int, float),
}  # fmt: skip
"""The plain values of a state of training, with their types."""
_WHOLE = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)


def get_weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters and buffers by name. If they are sharded, it is empty on all processes but the first."""
    weights: dict[str, Any] = dcp.get_model_state_dict(module, options=_WHOLE)
    return {name: value.clone() for name, value in weights.items()}


def set_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Set the parameters and buffers. Every process must pass the complete dictionary."""
    whole: dict[str, Any] = dict(weights)
    dcp.set_model_state_dict(module, whole, options=_WHOLE)


def get_moments(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state under names ``parameter/moment``. It is empty on all processes but the first."""
    state: Any = dcp.get_optimizer_state_dict(module, optimizer, options=_WHOLE).get("state", {})
    return {f"{name}/{moment}": value for name, parts in state.items() for moment, value in parts.items()}


def set_moments(module: nn.Module, optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    """Set the optimiser's state. Every process must pass the complete dictionary."""
    if not moments:  # before the first step; torch would make a step to create moments that it can replace
        return
    groups: Any = dcp.get_optimizer_state_dict(module, optimizer)["param_groups"]
    parts: dict[str, Any] = {}
    for key, value in moments.items():
        name, _, moment = key.rpartition("/")
        parts.setdefault(name, {})[moment] = value
    dcp.set_optimizer_state_dict(module, optimizer, {"state": parts, "param_groups": groups}, options=_WHOLE)


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def check_values(values: Mapping[str, Any]) -> None:
    """Refuse the plain values of a state if one is missing or of another kind.

    Raises:
        BadFile: naming it.
    """
    for name, kind in VALUES.items():
        if not isinstance(values.get(name, "nothing"), kind):
            raise BadFile(f"its {name} is {shown(values.get(name))}")


def check_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights that are not those of a module with the state dictionary ``expected``, or are not finite.

    Raises:
        BadFile: saying what does not fit.
    """
    forms, wanted = forms_of(found), forms_of(expected)
    missing = [name for name in wanted if name not in forms]
    problem = misfit(forms, wanted) or (f"{missing[0]} is missing" if missing else "")
    if problem:
        raise BadFile(f"{what} does not fit the model: {problem}")
    if problem := not_finite(found):
        raise BadFile(f"{what} has {problem}")


def check_moments(moments: Mapping[str, Tensor], parameters: Mapping[str, Tensor], begun: bool) -> None:
    """Refuse moments of the optimiser that are not those of the parameters.

    Args:
        parameters: those that are trained.
        begun: whether the optimiser has made a step; before it, there are no moments.

    Raises:
        BadFile: saying what does not fit.
    """
    kinds: dict[str, set[str]] = {}
    for key, value in moments.items():
        name, _, kind = key.rpartition("/")
        kinds.setdefault(name, set()).add(kind)
        if name not in parameters or value.dtype not in FLOATS or value.shape not in ((), parameters[name].shape):
            raise BadFile(f"the optimiser's {shown(key)} does not fit the model")
    wanted = set(parameters) if begun else set()
    if set(kinds) != wanted or len({frozenset(kind) for kind in kinds.values()}) > 1:
        name = min(set(kinds) ^ wanted, default=min(kinds, default=""))
        raise BadFile(f"the optimiser's moments are not those of every parameter (first: {shown(name)})")
