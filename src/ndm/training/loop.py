"""The training loop: it minimises the bound on batches of data, averages the weights, and writes checkpoints.

A step depends only on the state before it and on (seed, step): this key seeds its batch, times, noise and dropout. So a
run that is resumed from a checkpoint makes the same steps as a run that never stopped.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from ..data import Dataset
from ..errors import InputError
from ..likelihood import bits_per_dim
from ..model import NDM
from ..soundness import check_forward
from ..support.devices import select_device
from ..support.files import BadFile, make_folder
from ..support.processes import failing_together
from ..support.progress import phase, reached, warn
from ..support.tensors import gradients
from .average import Average
from .checkpoint import Checkpoints, State
from .loss import Loss
from .optimization import check_arguments, learning_rate, make_accelerator, make_optimizer
from .settings import TrainingConfig
from .state import (
    check_moments,
    check_values,
    check_weights,
    get_moments,
    get_weights,
    part_of,
    set_moments,
    set_weights,
)  # fmt: skip
from .stop import StopRequest, out_of_time, stalled
from .validation import DECIDING_DRAWS, DRAWS, VALIDATION_ROWS, validation_nats

LOG_EVERY = 50


class Trainer:
    """The training of a model on one device, or this process's share of training on several.

    Args:
        model: an untrained model, which is trained in place.
        dataset: the data set that batches are taken from.
        settings: the settings of training.
        seed: seed of all random draws.
        device: device to train on. Under ``accelerate launch`` or ``torchrun`` each process has its own.
        log: the main process calls it with a dictionary: every 50 steps, at validations, skipped steps and the end.
        folder: folder for ``checkpoints/`` and the trackers' files. None writes no checkpoints.
        picture: every process calls it with the averaged model and the step, every ``sample_every`` steps.

    Raises:
        InputError: if an argument is of another kind, the device is not available, or F allows no bound.
    """

    @gradients()
    def __init__(
        self,
        model: NDM,
        dataset: Dataset,
        settings: TrainingConfig,
        seed: int = 0,
        device: torch.device | str = "cpu",
        log: Callable[[dict[str, Any]], None] = lambda _: None,
        folder: Path | str | None = None,
        picture: Callable[[NDM, int], None] = lambda _model, _step: None,
    ) -> None:
        check_arguments(model, dataset, settings, seed, log, picture)
        device, folder = select_device(str(device)), None if folder is None else make_folder(folder)
        self.settings, self.seed, self.dataset = settings, seed, dataset
        self.checkpoints = None if folder is None else Checkpoints(folder / "checkpoints")
        self.plain = copy.deepcopy(model).cpu()  # receives the average in the end; it is never wrapped or sharded
        self.accelerator = accelerator = make_accelerator(device, self.settings, folder)
        for text in check_forward(model, dataset.train, settings.bound_steps, accelerator.device):
            warn(text)
        loss = Loss(model, settings, seed, accelerator.process_index, accelerator.num_processes)
        self.log, self.picture = log, picture
        self.loss, self.optimizer = self.prepare(loss)
        self.module: Loss = accelerator.unwrap_model(self.loss)
        self.average = Average(self.module.model, self.settings.ema_decay)
        self.step = self.skipped = self.skipped_in_a_row = 0
        self.best_step: int | None = None
        self.best, self.seconds = math.inf, 0.0
        self.best_weights: dict[str, Tensor] | None = None

    def prepare(self, loss: Loss) -> tuple[Any, Any]:
        """The loss, wrapped or sharded as the launcher demands, and the optimiser."""
        wrapped, optimizer = self.accelerator.prepare(loss, make_optimizer(loss.model, self.settings))
        return wrapped, optimizer

    def _tell(self, record: dict[str, Any]) -> None:
        """Pass a record to ``log`` and to the trackers; only the main process does so, and all fail if it fails."""
        with failing_together():
            if self.accelerator.is_main_process:
                self.log(record)
        if self.settings.trackers:
            numbers = {k: v for k, v in record.items() if isinstance(v, (int, float)) and k != "step"}
            self.accelerator.log(numbers, step=record["step"])

    @gradients()
    def run(self) -> NDM:
        """Train to the last step, or until Ctrl-C or SIGTERM, and return the averaged model.

        Raises:
            InputError: if no step, or none of the last ``max_skipped``, had a finite gradient; a checkpoint is written.
        """
        start = time.perf_counter() - self.seconds
        self.loss.train()
        with StopRequest() as stop:
            while not self.finished:
                terms, norm = self.gradient()
                self.update(terms, norm)
                self.step += 1
                reached(self.step)
                self.seconds = self._agreed(time.perf_counter() - start)
                if self.step % LOG_EVERY == 0 or self.finished:
                    self._tell(self._record(terms, norm))
                self._at_intervals()
                if self._any(stop.signal is not None):
                    self._tell({"step": self.step, "interrupted": stop.signal, "seconds": self.seconds})
                    break
        if self.checkpoints is not None and self.step not in self.checkpoints.steps():
            self.save()
        for tracker in self.accelerator.trackers:
            tracker.finish()
        if self.skipped and self.skipped == self.step:
            raise InputError(
                f"none of the {self.step} steps had a finite gradient, so nothing was learned; lower "
                "training.learning_rate, or look at the data"
            )
        return self.averaged()

    @property
    def finished(self) -> bool:
        """Whether training is over: at the last step, after the limit of time, or without progress for too long."""
        return self.step >= self.settings.steps or self.out_of_time or self.stalled

    @property
    def out_of_time(self) -> bool:
        """Whether the limit of time is reached."""
        return out_of_time(self.settings, self.seconds)

    @property
    def stalled(self) -> bool:
        """Whether the bound has not become better in the last ``patience`` validations."""
        return stalled(self.settings, self.step, self.best_step)

    def gradient(self) -> tuple[Tensor, Tensor]:
        """Compute the gradients of the step's batch in ``accumulate`` parts, and clip them.

        Returns:
            The three terms of the bound in bits/dim, ``(3,)``, and the norm of the gradient before clipping.
        """
        rank, count, parts = self.module.rank, self.module.count, self.settings.accumulate
        size = self.settings.batch_size // parts
        total = torch.zeros(3, device=self.accelerator.device)
        self.optimizer.zero_grad()
        for part in range(parts):
            rows = self.dataset.batch(size, self.seed, self.step * parts + part)
            x = rows[rank * size // count :][: size // count].to(self.accelerator.device)
            last = part == parts - 1
            with nullcontext() if last else self.accelerator.no_sync(self.loss):
                terms = self.loss(x, self.step, part)
                self.accelerator.backward(terms.sum() / parts)
            total += terms.detach() / parts
        norm = self.accelerator.clip_grad_norm_(self.loss.parameters(), self.settings.clip)
        return self.accelerator.reduce(total, "mean"), norm

    def update(self, terms: Tensor, norm: Tensor) -> None:
        """Update the weights and their average, or skip the step if the gradient is not finite."""
        if not bool(torch.isfinite(norm)):
            self._skip(terms)
            return
        self.skipped_in_a_row = 0
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.settings, self.seconds)
        self.optimizer.step()
        self.average.update(self.step)
        times = self.module.times
        if times.observed is not None:
            times.observed = self.accelerator.reduce(times.observed, "sum")
        times.update()

    def _skip(self, terms: Tensor) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        rows = self.dataset.rows(self.settings.batch_size, self.seed, self.step).tolist()
        self._tell({"step": self.step + 1, "skipped": self.skipped, "loss": str(terms.sum().item()), "rows": rows})
        self.module.times.observed = None
        if self.skipped_in_a_row >= self.settings.max_skipped:
            in_a_row, self.skipped_in_a_row = self.skipped_in_a_row, 0
            self.skipped -= 1  # a resumed run makes this step again
            self.save()
            raise InputError(
                f"{in_a_row} steps in a row had no finite gradient (the last is step {self.step + 1}; "
                "their rows are in metrics.jsonl); lower training.learning_rate or training.clip, or look at the data"
            )

    def _record(self, terms: Tensor, norm: Tensor) -> dict[str, Any]:
        names = ("prior_bpd", "diffusion_bpd", "reconstruction_bpd")
        return {
            "step": self.step,
            "bpd": terms.sum().item(),
            **dict(zip(names, terms.tolist(), strict=True)),
            "gradient_norm": float(norm),
            "learning_rate": learning_rate(self.step - 1, self.settings, self.seconds),
            "seconds": self.seconds,
        }

    def _at_intervals(self) -> None:
        """Validate, draw samples and write a checkpoint if the step is one at which this is due."""
        last = self.step == self.settings.steps or self.out_of_time
        due = lambda every: every > 0 and (self.step % every == 0 or last)  # noqa: E731
        improved = False
        if due(self.settings.evaluate_every):
            value = self.validate()
            improved = value < self.best
            if improved:
                self.best, self.best_step = value, self.step
                if self.settings.patience:
                    with self.average.swapped():
                        self.best_weights = {k: v.clone() for k, v in get_weights(self.module.model).items()}
            self._tell({"step": self.step, "validation_bpd": value, "seconds": self.seconds})
        if due(self.settings.sample_every):
            with self._evaluating() as model:
                self.picture(model, self.step)
        if self.checkpoints is not None and (improved or due(self.settings.checkpoint_every)):
            self.save()

    @phase("validating")
    def validate(self) -> float:
        """The averaged model's bound on the validation rows, in bits/dim. The processes share the rows."""
        x, rank, count = self.dataset.validation[:VALIDATION_ROWS], self.module.rank, self.module.count
        draws = DECIDING_DRAWS if self.settings.patience else DRAWS
        with self._evaluating() as model:
            total = validation_nats(model, x, self.settings.bound_steps, rank, count, draws)
        if count > 1:  # one process skips this, as its device may have no float64 (Apple's GPUs)
            total = self.accelerator.reduce(total.to(self.accelerator.device), "sum")
        value = bits_per_dim(total.item() / len(x), x)
        return value if math.isfinite(value) else math.inf

    @contextmanager
    def _evaluating(self) -> Iterator[NDM]:
        """Yields the model itself, not what wraps it, with averaged weights and in evaluation mode."""
        self.loss.eval()
        shards = [module for module in self.loss.modules() if isinstance(module, FSDPModule)]
        with self.average.swapped():
            for module in shards:
                module.unshard()
            yield self.module.model
            for module in shards:
                module.reshard()
        self.loss.train()

    def _any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.module.count == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device), "sum") > 0)

    def _agreed(self, seconds: float) -> float:
        """Seconds that are the same in all processes, as the learning rate may depend on them: the mean of theirs."""
        if self.module.count == 1 or self.settings.max_seconds is None:
            return seconds
        return float(self.accelerator.reduce(torch.tensor(seconds, device=self.accelerator.device), "mean"))

    def state(self) -> State:
        """Everything that the next step depends on."""
        model = self.module.model
        tensors = {f"model.{name}": value for name, value in get_weights(model).items()}
        with self.average.swapped():
            tensors |= {f"average.{name}": value for name, value in get_weights(model).items()}
        optimizer = self.optimizer.optimizer
        moments = get_moments(model, optimizer) if optimizer.state else {}  # before its first step it has none
        tensors |= {f"optimizer.{name}": value for name, value in moments.items()}
        tensors |= {f"times.{name}": value for name, value in self.module.times.state_dict().items()}
        values = {
            "skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row,
            "best": self.best, "best_step": self.best_step, "seconds": self.seconds,
        }  # fmt: skip
        return State(self.step, tensors, values)

    @phase("writing a checkpoint")
    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            InputError: if it cannot be written.
        """
        state = self.state()
        with failing_together():
            if self.checkpoints is not None and self.accelerator.is_main_process:
                self.checkpoints.save(state)

    def check(self, state: State) -> None:
        """Refuse a state that is not one of a training with this model.

        Raises:
            BadFile: saying what does not fit.
        """
        check_values(state.values)
        own = self.plain.state_dict()
        parameters = {name: value for name, value in self.module.model.named_parameters() if value.requires_grad}
        check_weights(part_of(state.tensors, "model."), own, "its model")
        check_weights(part_of(state.tensors, "average."), own, "its average")
        check_weights(part_of(state.tensors, "times."), self.module.times.state_dict(), "its times")
        check_moments(part_of(state.tensors, "optimizer."), parameters, state.step > state.values["skipped"])

    def load(self, state: State) -> None:
        """Continue from a state.

        Raises:
            InputError: if it is not a state of a training with this model.
        """
        self.check(state)
        model = self.module.model
        set_weights(model, part_of(state.tensors, "average."))
        self.average = Average(model, self.settings.ema_decay)
        set_weights(model, part_of(state.tensors, "model."))
        set_moments(model, self.optimizer.optimizer, part_of(state.tensors, "optimizer."))
        self.module.times.load_state_dict(part_of(state.tensors, "times."))
        self.step = state.step
        self.skipped, self.skipped_in_a_row, self.best, self.best_step, self.seconds = (
            state.values[k] for k in ("skipped", "skipped_in_a_row", "best", "best_step", "seconds")
        )
        if self.settings.patience and self.best_step is not None and self.checkpoints is not None:
            try:
                best = state if self.best_step == self.step else self.checkpoints.load(self.best_step)
                self.best_weights = part_of(best.tensors, "average.")
            except BadFile as error:
                warn(f"{error}; it had the best bound, and the best of the later steps takes its place")
                self.best, self.best_step = math.inf, None

    @property
    def averaged_step(self) -> int:
        """The step of the weights of :meth:`averaged`."""
        return self.best_step if self.best_weights and self.best_step is not None else self.step

    def averaged(self) -> NDM:
        """The averaged model with complete (not sharded) weights, in evaluation mode, on this process's device.

        With ``patience``, it is that of the best validation, if there was one.
        """
        with self.average.swapped():
            weights = get_weights(self.module.model)
        weights = self.best_weights or weights
        if weights:
            self.plain.load_state_dict(weights)
        plain = self.plain.to(self.accelerator.device).eval().requires_grad_(False)
        if self.module.count > 1:  # shards are gathered on the first process only
            for value in plain.state_dict().values():
                torch.distributed.broadcast(value, 0)
        return plain
