"""Weights and optimiser moments as dictionaries of whole CPU tensors, however the module is wrapped or sharded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as dcp

_WHOLE = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)


def get_weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters and buffers by name; empty but on the first process, where they are sharded."""
    weights: dict[str, Any] = dcp.get_model_state_dict(module, options=_WHOLE)
    return {name: value.clone() for name, value in weights.items()}


def set_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """The inverse of :func:`get_weights`; every process passes all of them."""
    whole: dict[str, Any] = dict(weights)
    dcp.set_model_state_dict(module, whole, options=_WHOLE)


def get_moments(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as ``parameter/moment``; empty but on the first of several processes."""
    state: Any = dcp.get_optimizer_state_dict(module, optimizer, options=_WHOLE).get("state", {})
    return {f"{name}/{moment}": value for name, parts in state.items() for moment, value in parts.items()}


def set_moments(module: nn.Module, optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    """The inverse of :func:`get_moments`; every process passes all of them."""
    if not moments:  # no step has been made; torch would make one to have moments to replace
        return
    groups: Any = dcp.get_optimizer_state_dict(module, optimizer)["param_groups"]
    parts: dict[str, Any] = {}
    for key, value in moments.items():
        name, _, moment = key.rpartition("/")
        parts.setdefault(name, {})[moment] = value
    dcp.set_optimizer_state_dict(module, optimizer, {"state": parts, "param_groups": groups}, options=_WHOLE)
