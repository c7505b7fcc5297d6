"""What a report is about: a run with its model and its data, and what is computed once for several sections."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..data import Dataset
from ..errors import InputError
from ..evaluation.canvas import spread
from ..evaluation.diagnosis import Diagnosis, diagnose
from ..experiment import Run, Snapshot
from ..model import NDM
from ..sampling import sample_in_batches
from ..support.tensors import seeded
from .images import is_image

SMALL = 10**8
"""The largest number of parameters times elements of a row for which nothing is left out to save time."""
EXAMINED = {True: (256, 30, 32), False: (32, 4, 4)}
"""The rows, passes and solved ODEs of the diagnosis of a small model, as in ``ndm doctor``, and of a large one."""
NUMBERS = {"image": 24, "points": 600, "table": 1000, "text": 6}
"""The number of samples that are drawn of each kind of data."""


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
        """The name of the run's folder."""
        return self.run.folder.resolve().name

    @cached_property
    def kind(self) -> str:
        """What the rows are: table, text, image or points."""
        if self.dataset.schema is not None:
            return "table"
        return "text" if self.dataset.alphabet else "image" if is_image(self.dataset.train) else "points"

    @cached_property
    def small(self) -> bool:
        """Whether the model is small enough that nothing is left out to save time."""
        return self.model.num_parameters * math.prod(self.dataset.shape) <= SMALL

    @cached_property
    def validation(self) -> Tensor:
        """The validation rows that are examined, on the device.

        Raises:
            InputError: if there are none.
        """
        rows = self.dataset.validation[: EXAMINED[self.small][0]]
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
        _, passes, solves = EXAMINED[self.small]
        return diagnose(self.model, self.validation, self.seed, passes, solves, self.dataset.unit)

    @cached_property
    def samples(self) -> Tensor:
        """Ancestral samples in data units, on the CPU."""
        number = NUMBERS[self.kind] if self.small else 8
        parts = sample_in_batches(
            self.model, self.dataset.shape, number, self.run.sampling_steps, generator=seeded(self.seed)
        )
        return torch.cat(list(parts))

    @property
    def how_sampled(self) -> str:
        """How the samples were drawn."""
        return f"ancestral sampling in {self.run.sampling_steps} steps, seed {self.seed}"
