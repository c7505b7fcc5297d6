"""The training loop: the bound of a seeded batch, AdamW, an average of the weights, metrics as it goes."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..config import Config, TrainingConfig
from ..data import Dataset
from ..errors import InputError
from ..likelihood import bits_per_dim
from ..model import NDM
from ..objective import bound
from ..tensors import seeded
from ..times import ImportanceTimes, LowDiscrepancyTimes

LOG_EVERY = 50
_NOISE, _ETA = 0, 3  # purposes of the seeded streams of times and noise, and of eta, apart from those of the data


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear from zero to the peak over the warm-up, then linear to zero at the last step."""
    rise = min(1.0, (step + 1) / max(1, config.warmup))
    return config.learning_rate * rise * (1 - step / config.steps)


def random_eta(x: Tensor, largest: float, generator: torch.Generator) -> Tensor | None:
    """One eta per row of ``x``, log-uniform between ``1 / largest`` and ``largest``; None (the process's own) for 1."""
    if largest == 1:
        return None
    u = torch.rand(len(x), generator=generator, dtype=torch.get_default_dtype())
    return (math.log(largest) * (2 * u - 1)).exp().to(x.device)


def train(
    model: NDM,
    dataset: Dataset,
    config: Config,
    device: torch.device | str = "cpu",
    log: Callable[[dict[str, Any]], None] = lambda _: None,
) -> NDM:
    """Train ``model`` in place and return the average of its weights, which is the model to use.

    Args:
        model: untrained, as of ``make_model``.
        dataset: where batches come from; the batch, the times and the noise of a step depend on (seed, step) only.
        config: the run's settings.
        device: where to train.
        log: called with a dictionary every fifty steps, at every validation, and at the end.

    Returns:
        The averaged model, in evaluation mode. On Ctrl-C it is the average so far, and the log says ``interrupted``.

    Raises:
        InputError: if the loss stops being finite.
    """
    settings, seed = config.training, config.seed
    model.to(device).train()
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.99), weight_decay=settings.weight_decay)
    times = ImportanceTimes().to(device) if settings.importance_times else LowDiscrepancyTimes()
    torch.manual_seed(seed)  # dropout
    start = time.perf_counter()
    step = 0
    try:
        for step in range(settings.steps):
            x = dataset.batch(settings.batch_size, seed, step).to(device)
            eta = random_eta(x, settings.eta_range, seeded(seed, _ETA, step))
            terms = bound(model, x, settings.bound_steps, times, seeded(seed, _NOISE, step), eta)
            loss = bits_per_dim(terms.total, x).mean()
            if not torch.isfinite(loss):
                raise InputError(
                    f"the loss is {loss.item()} at step {step}; lower training.learning_rate or training.clip"
                )
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, settings)
            optimizer.step()
            _move_average(average, model, min(settings.ema_decay, (1 + step) / (10 + step)))
            done = step + 1
            if done % LOG_EVERY == 0 or done == settings.steps:
                log({
                    "step": done,
                    "bpd": loss.item(),
                    **{f"{k}_bpd": bits_per_dim(v, x).mean().item() for k, v in terms._asdict().items()},
                    "gradient_norm": norm.item(),
                    "learning_rate": learning_rate(step, settings),
                    "seconds": time.perf_counter() - start,
                })  # fmt: skip
            if settings.evaluate_every and (done % settings.evaluate_every == 0 or done == settings.steps):
                value = validation_bpd(average, dataset, settings.bound_steps)
                log({"step": done, "validation_bpd": value, "seconds": time.perf_counter() - start})
    except KeyboardInterrupt:
        log({"step": step, "interrupted": True, "seconds": time.perf_counter() - start})
    return average


@torch.no_grad()
def _move_average(average: NDM, model: NDM, decay: float) -> None:
    old: list[torch.Tensor] = list(average.parameters())
    new: list[torch.Tensor] = list(model.parameters())
    if old:
        torch._foreach_lerp_(old, new, 1 - decay)


@torch.no_grad()
def validation_bpd(model: NDM, dataset: Dataset, steps: int | None, passes: int = 5) -> float:
    """The bound on the validation rows in bits/dim: mean of ``passes`` seeded passes."""
    x = dataset.validation.to(model.reference.device)
    generator = torch.Generator().manual_seed(0)
    total = sum(bits_per_dim(bound(model, x, steps, None, generator).total, x).mean().item() for _ in range(passes))
    return total / passes if math.isfinite(total) else math.inf
