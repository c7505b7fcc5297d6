"""The settings of training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..support.checks import LARGEST_ETA, require, require_types

LARGEST_BATCH = 2**20
"""The largest number of rows per step."""


@dataclass(frozen=True)
class TrainingConfig:
    """The optimisation.

    Args:
        steps: number of optimiser steps.
        batch_size: number of rows per step, over all processes together.
        accumulate: number of parts in which the gradient of a batch is computed one after another; more parts need less
            memory.
        learning_rate: peak of the learning rate, which rises linearly from 1e-8 during the warm-up and then falls
            linearly to 1e-8 at the last step.
        warmup: number of steps of the warm-up; it is cut to half of all steps if it is longer.
        optimizer: the optimiser, adamw or adam.
        beta2: decay rate of the optimiser's average of squared gradients, in [0, 1).
        weight_decay: weight decay of adamw; adam has none.
        clip: largest allowed norm of the gradient; a longer gradient is scaled down to this norm.
        precision: precision of the networks, fp32 or bf16; the diffusion process around them is computed in fp32.
        compile: compile the loss with torch.compile; the first steps then take minutes.
        ema_decay: decay per step of the exponential moving average of the weights, in [0, 1); the averaged weights are
            the model that is evaluated and saved.
        bound_steps: number of steps T of the bound that is trained; null means continuous time.
        weighting: weight of the diffusion term at each time: that of the bound, or that of flow_matching, which makes
            it the squared error of the ODE's velocity. The second is for conventional diffusion with a schedule without
            parameters, in continuous time. With cross_entropy, for symbols, the predictor learns by the cross-entropy
            of its probabilities, and the forward process by the bound. On text this took fewer steps, and a step takes
            a third longer. The figures of training are those of the bound.
        uniform_times: share of the times that are drawn uniformly, in (0, 1]; the others are drawn more often where the
            loss is large. With a larger share the model learns the noisy end of time better, which holds few of the
            bits but decides what a sample depicts.
        eta_range: upper limit of eta, at least 1; each row's eta is drawn log-uniformly between 1 / eta_range and
            eta_range, which brings the densities of the ODE and the SDE closer together if F is not linear. 1 trains
            the bound itself.
        straightness: weight of a penalty on the acceleration along the paths of the ODE, so that few Euler steps
            suffice; a training step then takes three to five times the operations. 0 is no penalty.
        evaluate_every: number of steps between evaluations of the bound on validation rows; 0 turns them off.
        patience: number of validations in a row without a better bound after which training stops. The model is then
            the one with the best bound, also if training reaches its last step. 0 never stops early, and the model is
            that of the last step.
        max_seconds: training stops after this many seconds; the learning rate falls to its end by then, unless the
            warm-up still lasts. null means no limit.
        sample_every: number of steps between pictures of samples; 0 turns them off.
        checkpoint_every: number of steps between checkpoints; the last two and the best are kept.
        max_skipped: a step without a finite gradient is skipped, and the run stops after this many such steps in a row.
        trackers: where metrics are sent besides metrics.jsonl, [tensorboard], [wandb] or both; [] means nowhere else.
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
    weighting: Literal["bound", "flow_matching", "cross_entropy"] = "bound"
    uniform_times: float = 0.1
    eta_range: float = 1.0
    straightness: float = 0.0
    evaluate_every: int = 1000
    patience: int = 0
    max_seconds: float | None = None
    sample_every: int = 0
    checkpoint_every: int = 1000
    max_skipped: int = 10
    trackers: list[Literal["tensorboard", "wandb"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_types(self, "training.")
        for name in ("steps", "batch_size", "accumulate", "checkpoint_every", "max_skipped"):
            require(getattr(self, name) >= 1, f"training.{name} must be at least 1", getattr(self, name))
        size = self.batch_size  # the rows of a batch are gathered in memory, whatever the size of the data set
        require(size <= LARGEST_BATCH, f"training.batch_size must be at most {LARGEST_BATCH:,}", size)
        for name in ("warmup", "learning_rate", "weight_decay", "evaluate_every", "sample_every", "patience"):
            require(getattr(self, name) >= 0, f"training.{name} must not be negative", getattr(self, name))
        for name in ("learning_rate", "weight_decay"):  # an optimiser refuses a step beyond the range of float32
            require(getattr(self, name) < 1e37, f"training.{name} must be below 1e37", getattr(self, name))
        rate = self.learning_rate * self.weight_decay
        require(rate < 1e37, "training.learning_rate times training.weight_decay must be below 1e37", rate)
        require(0 <= self.straightness < 1e37, "training.straightness must be in [0, 1e37)", self.straightness)
        require(self.clip > 0, "training.clip must be positive", self.clip)
        require(0 <= self.beta2 < 1, "training.beta2 must be in [0, 1)", self.beta2)
        seconds = self.max_seconds
        require(seconds is None or seconds > 0, "training.max_seconds must be positive, or null", seconds)
        stops = self.patience == 0 or self.evaluate_every > 0
        require(stops, "training.patience needs training.evaluate_every", self.evaluate_every)
        steps = self.bound_steps
        require(steps is None or steps >= 1, "training.bound_steps must be at least 1, or null", steps)
        require(self.eta_range >= 1, "training.eta_range must be at least 1", self.eta_range)
        require(self.eta_range <= LARGEST_ETA, f"training.eta_range must be at most {LARGEST_ETA:g}", self.eta_range)
        require(0 < self.uniform_times <= 1, "training.uniform_times must be in (0, 1]", self.uniform_times)
        require(0 <= self.ema_decay < 1, "training.ema_decay must be in [0, 1)", self.ema_decay)
