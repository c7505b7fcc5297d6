"""The training loop: the bound of a seeded batch, an average of the weights, and nothing lost when it stops.

A step is a function of the state before it and of (seed, step): batches, times, noise and dropout are drawn from
streams keyed by them, so a run that goes on from a checkpoint makes the very steps it would have made.
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
from ..support.checks import shown
from ..support.files import BadFile
from .average import Average
from .checkpoint import Checkpoints, State
from .loss import Loss
from .optimization import learning_rate, make_accelerator, make_optimizer
from .settings import TrainingConfig
from .state import check_moments, check_weights, get_moments, get_weights, part_of, set_moments, set_weights
from .stop import StopRequest
from .validation import VALIDATION_ROWS, validation_nats

LOG_EVERY = 50


class Trainer:
    """A model in training, on one device or a share of several.

    Args:
        model: an untrained model, which is trained in place.
        dataset: where batches come from.
        settings: the settings of training.
        seed: seeds everything that is drawn.
        device: where to train; under ``accelerate launch`` or ``torchrun`` each process has its own.
        log: called, by the main process, with a dictionary every fifty steps, at every validation, at every skipped
            step, and at the end.
        folder: where ``checkpoints/`` and the trackers' files go; None keeps nothing.
        picture: called with the averaged model every ``sample_every`` steps, on every process.
    """

    def __init__(
        self,
        model: NDM,
        dataset: Dataset,
        settings: TrainingConfig,
        seed: int = 0,
        device: torch.device | str = "cpu",
        log: Callable[[dict[str, Any]], None] = lambda _: None,
        folder: Path | None = None,
        picture: Callable[[NDM, int], None] = lambda _model, _step: None,
    ) -> None:
        self.settings, self.seed, self.dataset = settings, seed, dataset
        self.checkpoints = None if folder is None else Checkpoints(folder / "checkpoints")
        self.picture = picture
        self.plain = copy.deepcopy(model).cpu()  # what is handed out in the end, whatever wraps or shards the other
        self.accelerator = accelerator = make_accelerator(str(device), self.settings, folder)
        rank, count = accelerator.process_index, accelerator.num_processes
        self.log = log
        self.loss, self.optimizer = self.prepare(Loss(model, settings, seed, rank, count))
        self.module: Loss = accelerator.unwrap_model(self.loss)
        self.average = Average(self.module.model, self.settings.ema_decay)
        self.step = self.skipped = self.skipped_in_a_row = 0
        self.best_step: int | None = None
        self.best = math.inf
        self.seconds = 0.0

    def prepare(self, loss: Loss) -> tuple[Any, Any]:
        """The loss wrapped or sharded as the launcher asks, and its optimiser."""
        wrapped, optimizer = self.accelerator.prepare(loss, make_optimizer(loss.model, self.settings))
        return wrapped, optimizer

    def _tell(self, record: dict[str, Any]) -> None:
        """Tell ``log`` and the trackers, from the main process only."""
        if self.accelerator.is_main_process:
            self.log(record)
        if self.settings.trackers:
            numbers = {k: v for k, v in record.items() if isinstance(v, (int, float)) and k != "step"}
            self.accelerator.log(numbers, step=record["step"])

    def run(self) -> NDM:
        """Train to the last step, or until Ctrl-C or SIGTERM, and return the averaged model.

        Raises:
            InputError: after ``max_skipped`` steps in a row without a finite gradient; the state before them is kept.
        """
        settings, start = self.settings, time.perf_counter() - self.seconds
        self.loss.train()
        with StopRequest() as stop:
            while self.step < settings.steps:
                terms, norm = self.gradient()
                self.update(terms, norm)
                self.step += 1
                self.seconds = time.perf_counter() - start
                if self.step % LOG_EVERY == 0 or self.step == settings.steps:
                    self._tell(self._record(terms, norm))
                self._at_intervals()
                if self._any(stop.signal is not None):
                    self._tell({"step": self.step, "interrupted": stop.signal, "seconds": self.seconds})
                    break
        if self.checkpoints is not None and self.step not in self.checkpoints.steps():
            self.save()
        for tracker in self.accelerator.trackers:
            tracker.finish()
        return self.averaged()

    @property
    def finished(self) -> bool:
        """Whether the last step has been made; a training that is interrupted stops before it."""
        return self.step >= self.settings.steps

    def gradient(self) -> tuple[Tensor, Tensor]:
        """Gradients of the step's batch, in ``accumulate`` parts; the bound's terms, and the norm before clipping."""
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
        """One step of the optimiser and of the average, unless the gradient is not finite."""
        if not bool(torch.isfinite(norm)):
            self._skip(terms)
            return
        self.skipped_in_a_row = 0
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.settings)
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
            self.skipped -= 1  # whoever resumes makes this step again
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
            "learning_rate": learning_rate(self.step - 1, self.settings),
            "seconds": self.seconds,
        }

    def _at_intervals(self) -> None:
        """Validation, samples and checkpoints, where they are due."""
        last = self.step == self.settings.steps
        due = lambda every: every > 0 and (self.step % every == 0 or last)  # noqa: E731
        improved = False
        if due(self.settings.evaluate_every):
            value = self.validate()
            improved = value < self.best
            if improved:
                self.best, self.best_step = value, self.step
            self._tell({"step": self.step, "validation_bpd": value, "seconds": self.seconds})
        if due(self.settings.sample_every):
            with self._evaluating() as model:
                self.picture(model, self.step)
        if self.checkpoints is not None and (improved or due(self.settings.checkpoint_every)):
            self.save()

    def validate(self) -> float:
        """The averaged model's bound on the validation rows, bits/dim, each counted once whatever the processes."""
        x = self.dataset.validation[:VALIDATION_ROWS]
        with self._evaluating() as model:
            total = validation_nats(model, x, self.settings.bound_steps, self.module.rank, self.module.count)
        if self.module.count > 1:  # not otherwise: a device such as Apple's may have no float64
            total = self.accelerator.reduce(total.to(self.accelerator.device), "sum")
        value = bits_per_dim(total.item() / len(x), x)
        return value if math.isfinite(value) else math.inf

    @contextmanager
    def _evaluating(self) -> Iterator[NDM]:
        """The model with averaged weights, in evaluation mode, to be called without what wraps it."""
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

    def state(self) -> State:
        """Everything the next step depends on."""
        model = self.module.model
        tensors = {f"model.{name}": value for name, value in get_weights(model).items()}
        with self.average.swapped():
            tensors |= {f"average.{name}": value for name, value in get_weights(model).items()}
        moments = get_moments(model, self.optimizer.optimizer)
        tensors |= {f"optimizer.{name}": value for name, value in moments.items()}
        tensors |= {f"times.{name}": value for name, value in self.module.times.state_dict().items()}
        values = {
            "skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row,
            "best": self.best, "best_step": self.best_step, "seconds": self.seconds,
        }  # fmt: skip
        return State(self.step, tensors, values)

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            InputError: if it cannot be written.
        """
        state = self.state()
        if self.checkpoints is not None and self.accelerator.is_main_process:
            self.checkpoints.save(state)
        self.accelerator.wait_for_everyone()

    def check(self, state: State) -> None:
        """Refuse a state that is not one of a training with this model.

        Raises:
            BadFile: saying what does not fit.
        """
        kinds: dict[str, Any] = {
            "skipped": int, "skipped_in_a_row": int, "best": (int, float), "best_step": (int, type(None)),
            "seconds": (int, float),
        }  # fmt: skip
        for name, kind in kinds.items():
            if not isinstance(state.values.get(name, "nothing"), kind):
                raise BadFile(f"its {name} is {shown(state.values.get(name))}")
        own = self.plain.state_dict()
        parameters = {name: value for name, value in self.module.model.named_parameters() if value.requires_grad}
        check_weights(part_of(state.tensors, "model."), own, "its model")
        check_weights(part_of(state.tensors, "average."), own, "its average")
        check_weights(part_of(state.tensors, "times."), self.module.times.state_dict(), "its times")
        check_moments(part_of(state.tensors, "optimizer."), parameters, state.step > state.values["skipped"])

    def load(self, state: State) -> None:
        """Go on from a state.

        Raises:
            InputError: if it is not one of a training with this model.
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

    def averaged(self) -> NDM:
        """The averaged model, whole, in evaluation mode, on this process's device."""
        with self.average.swapped():
            weights = get_weights(self.module.model)
        if weights:
            self.plain.load_state_dict(weights)
        plain = self.plain.to(self.accelerator.device).eval().requires_grad_(False)
        if self.module.count > 1:  # shards are gathered on the first process only
            for value in plain.state_dict().values():
                torch.distributed.broadcast(value, 0)
        return plain


def train(
    model: NDM,
    dataset: Dataset,
    settings: TrainingConfig,
    seed: int = 0,
    device: torch.device | str = "cpu",
    log: Callable[[dict[str, Any]], None] = lambda _: None,
) -> NDM:
    """Train ``model`` in place and return the average of its weights, which is the model to use.

    Nothing is written; :class:`ndm.experiment.Run` keeps checkpoints. The arguments are those of :class:`Trainer`.

    Returns:
        The averaged model, in evaluation mode. On Ctrl-C it is the average so far.

    Raises:
        InputError: if the gradient stays non-finite.
    """
    return Trainer(model, dataset, settings, seed, device, log).run()
