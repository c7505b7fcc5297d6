"""The optimiser, the learning rate, and the devices on which training runs."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy

from ..data import Dataset
from ..decoder import check_data
from ..errors import InputError
from ..model import NDM, check_gradients, check_model
from ..support.checks import require, require_kind, require_seed, shown
from .settings import TrainingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

FLOOR = 1e-8


def learning_rate(step: int, config: TrainingConfig, seconds: float = 0.0) -> float:
    """The learning rate rises linearly from 1e-8 at step 0 to its peak at step ``warmup``, then falls linearly to 1e-8.

    It reaches 1e-8 at the last step. A warm-up of more than half of the steps is cut to half of them. With a limit of
    time, the fall follows the share of the ``seconds`` that have passed where this is larger than that of the steps.
    The rise does not know the time: a training that is stopped during its warm-up has a large rate until its end.
    """
    warmup = min(config.warmup, config.steps // 2)
    rise, fall = step / max(1, warmup), 1 - (step - warmup) / max(1, config.steps - 1 - warmup)
    if config.max_seconds is not None:
        fall = min(fall, max(0.0, 1 - seconds / config.max_seconds))
    done = rise if step < warmup else fall
    return FLOOR + (config.learning_rate - FLOOR) * done


def check_arguments(model: Any, dataset: Any, settings: Any, seed: Any, *calls: Any) -> None:
    """Refuse arguments of a trainer that are of another kind, weights that do not train, and rows that are not finite.

    Raises:
        InputError: naming the first.
    """
    check_model(model)
    check_gradients(model)
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError("the model has no weights that train; call model.requires_grad_(True), or give it a network")
    require_kind(dataset=(dataset, Dataset), settings=(settings, TrainingConfig))
    require_seed(seed)
    for call in calls:
        require(callable(call), "log and picture must be functions", shown(repr(call)))
    if dataset.distribution is None and dataset.train.is_floating_point():
        try:
            check_data(dataset.train)
        except InputError as error:
            raise InputError(f"the training rows of the data set {dataset.name}: {error}") from None
    if settings.evaluate_every and not len(dataset.validation):
        raise InputError(f"the data set {dataset.name} has no validation rows; set training.evaluate_every to 0")


def check_start(settings: TrainingConfig, count: int) -> None:
    """Refuse settings with which training cannot start on ``count`` processes.

    Raises:
        InputError: if the batch cannot be divided among the processes, or a tracker is not installed.
    """
    if settings.batch_size % (settings.accumulate * count):
        raise InputError(
            f"training.batch_size {settings.batch_size} cannot be divided among {count} processes in "
            f"{settings.accumulate} parts (training.accumulate); choose a multiple of their product"
        )
    for tracker in settings.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise InputError(f"training.trackers: {tracker} is not installed (pip install {tracker})")


def make_accelerator(device: str, settings: TrainingConfig, folder: Path | None = None) -> Accelerator:
    """The accelerator that moves the model to its device, wraps it, synchronises gradients and casts to bf16.

    It reads the number of processes from the environment, which a launcher such as ``accelerate launch`` has set.

    Raises:
        InputError: if training cannot start with these settings; see :func:`check_start`.
    """
    if settings.precision == "bf16" and device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        warnings.warn("this CPU emulates bf16, which is many times slower than --training.precision fp32", stacklevel=2)
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState

    check_start(settings, PartialState(cpu=device == "cpu").num_processes)

    if AcceleratorState._shared_state:  # all runs of a process share it, and this run may need another precision
        AcceleratorState._reset_state()
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    precision = {"fp32": "no", "bf16": "bf16"}[settings.precision]
    accelerator = Accelerator(
        mixed_precision=precision, cpu=device == "cpu",
        log_with=list(settings.trackers) or None, project_dir=folder,
    )  # fmt: skip
    suit_sharding(getattr(accelerator.state, "fsdp_plugin", None))
    if settings.trackers:
        accelerator.init_trackers("ndm", config={k: str(v) for k, v in asdict(settings).items()})
    return accelerator


def suit_sharding(plugin: Any) -> None:
    """Make FSDP shard float32 parameters without casting them: autocast casts the networks and nothing else.

    Args:
        plugin: accelerate's FSDP settings, or None without FSDP.

    Raises:
        InputError: if they choose version 1 of FSDP.
    """
    if plugin is None:
        return
    if plugin.fsdp_version != 2:
        raise InputError("FSDP version 1 is not supported; use accelerate launch --use_fsdp --fsdp_version 2 ...")
    plugin.mixed_precision_policy = MixedPrecisionPolicy()


def make_optimizer(model: NDM, settings: TrainingConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over all parameters. The training loop sets the learning rate at every step."""
    betas = (0.9, settings.beta2)
    fused = all(p.device.type in ("cpu", "cuda") for p in model.parameters())
    if settings.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=1.0, betas=betas, fused=fused)
    return torch.optim.AdamW(model.parameters(), lr=1.0, betas=betas, weight_decay=settings.weight_decay, fused=fused)
