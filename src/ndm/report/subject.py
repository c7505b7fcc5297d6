"""What a report is about: a run with its model and its data, and what is computed once for several sections."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data import Dataset
from ..errors import InputError, printable
from ..evaluation.canvas import spread
from ..evaluation.diagnosis import Diagnosis, diagnose
from ..evaluation.protocol import latents_like
from ..experiment import Run, Snapshot
from ..likelihood import affordable_divergence
from ..model import NDM
from ..objective import bound
from ..sampling import sample_in_batches
from ..saving import weights_checksum
from ..support.operations import operations
from ..support.tensors import seeded
from .images import is_image
from .kept import Kept, Metrics, kept_estimates, kept_metrics

BUDGETS = {"bound": 5e10, "ode": 1e12, "samples": 2e11}
"""The floating-point operations that the diagnosis of the bound, that of the ODE and the samples may take, so that a
report takes about a minute of one core."""
EVALUATIONS = 450
"""Evaluations of the network in the solution of an ODE without its divergence, forward and backward."""
NUMBERS = {"image": 24, "points": 600, "table": 1000, "text": 6}
"""The number of samples that are drawn of each kind of data."""


class Work(NamedTuple):
    """How much is computed. For small models the first three are those of ``ndm doctor``."""

    rows: int
    """The validation rows of the diagnosis."""
    passes: int
    """The passes of the bound over them."""
    solves: int
    """The rows whose ODE is solved; 0 if the model is too large."""
    samples: int


@dataclass(frozen=True)
class Subject:
    """A run that is reported on."""

    run: Run
    snapshot: Snapshot
    dataset: Dataset
    model: NDM
    """The model of the snapshot, on the device that computes."""
    seed: int
    """The seed of all random draws."""
    made: dict[str, float] = field(default_factory=dict)
    """The estimates that the report makes, by their names."""

    @property
    def name(self) -> str:
        """The name of the run's folder; what does not print in it is escaped, and so are bytes that are no UTF-8."""
        return printable(self.run.folder.resolve().name)

    @cached_property
    def kind(self) -> str:
        """What the rows are: table, text, image or points."""
        if self.dataset.schema is not None:
            return "table"
        return "text" if self.dataset.alphabet else "image" if is_image(self.dataset.train) else "points"

    @cached_property
    def estimates(self) -> list[Kept]:
        """The estimates of the likelihood that the run's folder has."""
        return kept_estimates(self.run)

    @cached_property
    def weights(self) -> str:
        """The SHA-256 of the weights."""
        return weights_checksum(self.model)

    @property
    def own_estimates(self) -> list[Kept]:
        """The estimates of exactly these weights. Those that do not say whose they are never count."""
        return [kept for kept in self.estimates if kept.facts.get("weights_sha256") == self.weights]

    @cached_property
    def metrics(self) -> list[Metrics]:
        """The metrics of samples that the run's folder has."""
        return kept_metrics(self.run)

    @cached_property
    def training(self) -> list[dict[str, Any]]:
        """The figures of training by steps."""
        return self.run.metrics()

    @property
    def examined(self) -> bool:
        """Whether the diagnosis has been made."""
        return "diagnosis" in self.__dict__

    @cached_property
    def work(self) -> Work:
        """How much is computed, by what one row costs. Models of similar costs have the same rows, to be compared."""
        cost = operations_of_bound(self.model, self.dataset.train[:1])
        share = min(1.0, BUDGETS["bound"] / (cost * 27_000)) ** 0.5  # the evaluations of 256 rows and 30 passes
        latents = math.prod(self.model.latent_shape(self.dataset.shape))
        divergences = latents if affordable_divergence(latents_like(self.model, self.dataset.train)) == "exact" else 4
        solves = int(BUDGETS["ode"] / (EVALUATIONS * cost * (1 + divergences)))
        samples = int(BUDGETS["samples"] / (cost * self.run.sampling_steps))
        return Work(
            2 ** int(math.log2(max(16, 256 * share))), max(4, round(30 * share)), min(32, solves) if solves > 1 else 0,
            max(4, min(NUMBERS[self.kind], samples)),
        )  # fmt: skip

    @cached_property
    def validation(self) -> Tensor:
        """The validation rows that are examined, on the device.

        Raises:
            InputError: if there are none.
        """
        rows = self.dataset.validation[: self.work.rows]
        if not len(rows):
            raise InputError(f"{self.dataset.name} has no validation rows")
        return rows.to(self.model.reference.device)

    def test(self, count: int) -> Tensor:
        """At most ``count`` test rows, evenly spread, on the CPU.

        Raises:
            InputError: if there are none.
        """
        if not len(self.dataset.test):
            raise InputError(f"{self.dataset.name} has no test rows")
        return spread(self.dataset.test, count)

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """What ``ndm doctor`` finds, with fewer rows if the model is large."""
        work = self.work
        return diagnose(self.model, self.validation, self.seed, work.passes, work.solves, self.dataset.unit)

    @cached_property
    def samples(self) -> Tensor:
        """Ancestral samples in data units, on the CPU."""
        parts = sample_in_batches(
            self.model, self.dataset.shape, self.work.samples, self.run.sampling_steps, generator=seeded(self.seed)
        )
        return torch.cat(list(parts))

    @property
    def how_sampled(self) -> str:
        """How the samples were drawn."""
        return f"ancestral sampling in {self.run.sampling_steps} steps, seed {self.seed}"


@torch.no_grad()
def operations_of_bound(model: NDM, x: Tensor) -> int:
    """The floating-point operations of the bound of one row in data units, ``(1, *)``, as PyTorch counts them."""
    row, steps = x.to(model.reference.device), model.process.schedule.steps
    return max(1, operations(lambda: bound(model, row, steps, generator=seeded(0))))
