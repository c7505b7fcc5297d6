"""The settings of training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..support.checks import require


@dataclass(frozen=True)
class TrainingConfig:
    """The optimisation.

    Args:
        steps: optimiser steps.
        batch_size: rows per step, of all processes together.
        accumulate: parts in which each batch is computed, to bound memory.
        learning_rate: its peak, after the warm-up; it rises from 1e-8 and falls to it, linearly.
        warmup: steps of rise, at most half of all.
        optimizer: adamw or adam.
        beta2: forgetting factor of the squared gradients.
        weight_decay: AdamW's.
        clip: largest norm of the gradient.
        precision: of the networks; the process around them stays in fp32.
        compile: compile the loss with torch.compile; the first steps then take minutes.
        ema_decay: of the averaged weights, which are the model that is saved.
        bound_steps: number of steps T of the bound that is trained; null is continuous time.
        uniform_times: share of the times drawn uniformly; the others fall where the loss is large. The larger it is,
            the better the noisy end is learned, which has few of the bits and decides what a sample depicts.
        eta_range: largest eta; each row's eta is drawn log-uniformly between its inverse and it, which brings the
            densities of the ODE and the SDE together where F is not linear. 1 is the bound itself.
        evaluate_every: steps between validation bounds; 0 for none.
        sample_every: steps between sample grids; 0 for none.
        checkpoint_every: steps between checkpoints, of which the last two and the best are kept.
        max_skipped: steps in a row without a finite gradient, which are skipped, before the run stops.
        trackers: where metrics go besides metrics.jsonl: [tensorboard], [wandb] or both.
    """

    steps: int = 4000
    batch_size: int = 256
    accumulate: int = 1
    learning_rate: float = 2e-3
    warmup: int = 300
    optimizer: Literal["adamw", "adam"] = "adamw"
    beta2: float = 0.99
    weight_decay: float = 0.01
    clip: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    ema_decay: float = 0.999
    bound_steps: int | None = None
    uniform_times: float = 0.1
    eta_range: float = 1.0
    evaluate_every: int = 1000
    sample_every: int = 0
    checkpoint_every: int = 1000
    max_skipped: int = 10
    trackers: list[Literal["tensorboard", "wandb"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "checkpoint_every", "max_skipped"):
            require(getattr(self, name) >= 1, f"training.{name} must be at least 1", getattr(self, name))
        for name in ("warmup", "learning_rate", "weight_decay", "evaluate_every", "sample_every"):
            require(getattr(self, name) >= 0, f"training.{name} must not be negative", getattr(self, name))
        require(self.clip > 0, "training.clip must be positive", self.clip)
        require(0 <= self.beta2 < 1, "training.beta2 must be in [0, 1)", self.beta2)
        steps = self.bound_steps
        require(steps is None or steps >= 1, "training.bound_steps must be at least 1, or null", steps)
        require(self.eta_range >= 1, "training.eta_range must be at least 1", self.eta_range)
        require(0 < self.uniform_times <= 1, "training.uniform_times must be in (0, 1]", self.uniform_times)
        require(0 <= self.ema_decay < 1, "training.ema_decay must be in [0, 1)", self.ema_decay)
