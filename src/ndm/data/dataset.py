"""A data set in memory: training, validation and test rows, the units of the data, and training batches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from ..batch import as_batch
from ..errors import InputError
from ..support.checks import require_count, require_seed
from ..support.streams import Stream
from ..support.tensors import seeded

if TYPE_CHECKING:
    from ..tables import Schema

Split = Literal["train", "validation", "test"]


class Distribution(Protocol):
    """A distribution whose density is known exactly."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``(n, *)`` draws."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, ``(n, *) -> (n,)``."""

    def entropy(self) -> float:
        """Entropy in nats."""


@dataclass(frozen=True)
class Dataset:
    """Rows of data in the data's own units, and a description of these units.

    Each split is one tensor of shape ``(N, *)``. If the elements are integers 0..K-1, ``levels`` is K. If they are real
    numbers, ``levels`` is None.

    The rows of NumPy are copied into tensors.

    Raises:
        InputError: if ``levels`` is given together with ``mean`` or ``std``, a split is no batch of rows, or there are
            no training rows.
    """

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor
    levels: int | None = None
    """The number K of values that an element can take; None for real numbers."""
    mean: Tensor | None = None
    """The mean with which real numbers are standardised; None means 0."""
    std: Tensor | None = None
    """The standard deviation with which real numbers are standardised; None means 1."""
    distribution: Distribution | None = None
    """The exact distribution of the data, if it is known. Training batches are then fresh draws from it."""
    release: str = ""
    """Where the rows come from and how they were split. It is recorded with every reported number."""
    flip: bool = False
    """Whether each row of a training batch is mirrored left to right with probability 1/2."""
    checksum: str = ""
    """The first 16 digits of the SHA-256 of the file or of the rows. Equal digits mean the same data, whatever the
    names of the files. If it is empty, ``release`` tells the data from others."""
    schema: Schema | None = None
    """For a table, what its columns hold. The rows are then those of :meth:`ndm.tables.Schema.encode`."""
    alphabet: str = ""
    """For text, the characters that the codes stand for."""

    def __post_init__(self) -> None:
        if self.alphabet and len(self.alphabet) != self.levels:
            raise InputError(f"the alphabet of the data set {self.name} must have as many characters as levels")
        if self.levels is not None and (self.mean is not None or self.std is not None):
            raise InputError(f"the data set {self.name} has either levels or a mean and std; give one of the two")
        for split in ("train", "validation", "test"):
            rows = getattr(self, split)
            if split != "train" and isinstance(rows, Tensor) and rows.shape[:1] == (0,):
                continue  # a trainer that validates refuses it
            try:
                object.__setattr__(self, split, as_batch(rows))
            except InputError as error:
                raise InputError(f"the {split} rows of the data set {self.name}: {error}") from None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(self.train.shape[1:])

    @property
    def unit(self) -> str:
        """The unit of likelihoods: bits for each element of a row."""
        return "bits/column" if self.schema is not None else "bits/character" if self.alphabet else "bits/dim"

    def split(self, name: Split) -> Tensor:
        """The rows of one split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def batch(self, size: int, seed: int, step: int) -> Tensor:
        """The training batch of a step, ``(size, *)``.

        It depends only on the size, the seed and the step. Each epoch visits the rows in a new order.

        Raises:
            InputError: if the size is no whole number of at least 1, or the seed or the step is none of at least 0.
        """
        require_count(size=size)
        require_count(0, step=step)
        require_seed(seed)
        if self.distribution is not None:
            return self.distribution.sample(size, seeded(seed, Stream.ROWS, step)).float()
        # index_select copies whole rows, and train[order] copies single bytes. On images, memory-mapped or not,
        # index_select is 6 times faster.
        x = self.train.index_select(0, self.rows(size, seed, step))
        if not self.flip:
            return x
        mirrored = torch.randint(2, (size,), generator=seeded(seed, Stream.FLIPS, step), device="cpu").bool().numpy()
        pixels = x.numpy()  # this shares the memory of x; numpy reverses bytes four times as fast as torch
        pixels[mirrored] = pixels[mirrored][..., ::-1]
        return x

    def rows(self, size: int, seed: int, step: int) -> Tensor:
        """The indices of a batch's training rows, ``(size,)``; empty if batches are fresh draws."""
        if self.distribution is not None:
            return torch.empty(0, dtype=torch.long, device="cpu")
        n, start = len(self.train), step * size
        first, last = start // n, (start + size - 1) // n
        epochs = {epoch: _order(n, seed, epoch) for epoch in range(first, last + 1)}
        parts = [order[max(0, start - e * n) : start + size - e * n] for e, order in epochs.items()]
        return torch.cat(parts)


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=seeded(seed, Stream.ORDER, epoch), device="cpu")


def image_dataset(
    name: str, train: Tensor, validation: Tensor, test: Tensor, release: str, checksum: str = ""
) -> Dataset:
    """A data set of 8-bit images, each split ``(N, C, H, W)``."""
    return Dataset(name, train, validation, test, levels=256, release=release, checksum=checksum)


def endless_dataset(name: str, distribution: Distribution, n: int = 2000) -> Dataset:
    """A data set of draws from a distribution: every batch is drawn anew, and n rows each validate and test.

    All dimensions are divided by one standard deviation, so that the data keep their geometry.
    """
    rows = distribution.sample(4 * n, torch.Generator().manual_seed(2**31)).float()
    return Dataset(
        name, rows[: 2 * n], rows[2 * n : 3 * n], rows[3 * n :], mean=rows.mean(0), std=rows.std(),
        distribution=distribution, release="draws from the exact distribution, seed 2^31",
    )  # fmt: skip


def held_out(n: int, name: str) -> tuple[int, int]:
    """How many of n rows to hold out for validation and for test if the data come without splits.

    These are 5 % and 10 % of the rows, but at most 5,000 and 10,000.

    Args:
        n: number of rows.
        name: the name of the data in error messages.

    Raises:
        InputError: if there are too few rows to give each split one.
    """
    if n < 3:
        raise InputError(f"{name} has {n} rows; training, validation and test need at least one each")
    return min(5_000, max(1, n // 20)), min(10_000, max(1, n // 10))
