"""Weights and optimiser moments as dictionaries of complete CPU tensors, even if the module is wrapped or sharded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as dcp

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
