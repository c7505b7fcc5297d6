"""What training and evaluation read: a finite or an endless source of rows, held-out rows, and the data's units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..decoder import CategoricalDecoder, Decoder, GaussianDecoder
from ..errors import InputError
from ..tensors import seeded
from .toys import Checkerboard, GaussianMixture, moons, ring

Split = Literal["train", "validation", "test"]
_ORDER, _ROWS = 1, 2  # purposes of the seeded streams; training has its own


@dataclass(frozen=True)
class Dataset:
    """Rows in data units, ``(N, *)`` each; ``distribution`` is the exact one, where known, and an endless source."""

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor
    decoder: Callable[[], Decoder]
    distribution: GaussianMixture | Checkerboard | None = None
    release: str = ""
    """Where the rows come from and how they were split: part of every reported number."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return tuple(self.train.shape[1:])

    def split(self, name: Split) -> Tensor:
        """The rows of one split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def batch(self, size: int, seed: int, step: int) -> Tensor:
        """The training batch of a step: a function of (seed, step) alone, epoch after epoch in a new order."""
        if self.distribution is not None:
            return self.distribution.sample(size, seeded(seed, _ROWS, step)).float()
        n, start = len(self.train), step * size
        first, last = start // n, (start + size - 1) // n
        order = torch.cat([_order(n, seed, epoch) for epoch in range(first, last + 1)])
        return self.train[order[start - first * n :][:size]]


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=seeded(seed, _ORDER, epoch))


def _digits_pixels() -> Tensor:
    from sklearn.datasets import load_digits

    images = load_digits().images[np.random.default_rng(0).permutation(1797)]
    return torch.from_numpy(images.astype(np.uint8))[:, None]


def digits() -> Dataset:
    """scikit-learn's 8x8 digits, 17 levels: 1350 rows train, 150 validate, 297 test, after a fixed permutation."""
    x = _digits_pixels()
    return Dataset(
        "digits", x[:1350], x[1350:1500], x[1500:], lambda: CategoricalDecoder(levels=17),
        release="UCI optical digits, test part, as in scikit-learn; permutation seed 0, split 1350/150/297",
    )  # fmt: skip


def gmm_digits(components: int = 10, noise: float = 0.1) -> Dataset:
    """Endless 64-dimensional rows from a Gaussian mixture fitted to the training digits, scaled to [-1, 1]."""
    from sklearn.mixture import GaussianMixture as Fit

    x = _digits_pixels()[:1350].flatten(1).double().numpy() / 8 - 1
    fit = Fit(components, covariance_type="full", reg_covar=noise**2, random_state=0).fit(x)
    parts = (torch.from_numpy(a) for a in (fit.weights_, fit.means_, fit.covariances_))
    return _from_distribution("gmm-digits", GaussianMixture(*parts))


def _from_distribution(name: str, distribution: GaussianMixture | Checkerboard, n: int = 2000) -> Dataset:
    rows = distribution.sample(4 * n, torch.Generator().manual_seed(2**31)).float()
    # One scale for all dimensions, so that the data's geometry is kept.
    mean, std = rows.mean(0), rows.std()
    return Dataset(
        name, rows[: 2 * n], rows[2 * n : 3 * n], rows[3 * n :], lambda: GaussianDecoder(mean, std), distribution,
        release="draws from the exact distribution, seed 2^31",
    )  # fmt: skip


DATASETS: dict[str, Callable[[], Dataset]] = {
    "digits": digits,
    "gmm-digits": gmm_digits,
    "ring": lambda: _from_distribution("ring", ring()),
    "moons": lambda: _from_distribution("moons", moons()),
    "checkerboard": lambda: _from_distribution("checkerboard", Checkerboard()),
}


def load_dataset(name: str) -> Dataset:
    """A data set by name.

    Raises:
        InputError: if there is none of that name.
    """
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; choose one of {', '.join(DATASETS)}")
    return DATASETS[name]()
