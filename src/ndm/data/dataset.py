"""What training and evaluation read: a finite or an endless source of rows, held-out rows, and the data's units."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..support.streams import Stream
from ..tensors import seeded
from .toys import Checkerboard, GaussianMixture, moons, ring

Split = Literal["train", "validation", "test"]
OnBadFile = Literal["refuse", "skip"]


@dataclass(frozen=True)
class Dataset:
    """Rows in data units, ``(N, *)`` each; ``distribution`` is the exact one, where known, and an endless source."""

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor
    levels: int | None = None
    """The number K of values 0..K-1 that an element can take; None for real numbers."""
    mean: Tensor | None = None
    std: Tensor | None = None
    """Real numbers are standardised with this mean and standard deviation; None is 0 and 1."""
    distribution: GaussianMixture | Checkerboard | None = None
    release: str = ""
    """Where the rows come from and how they were split: part of every reported number."""
    flip: bool = False
    """Mirror each row of a training batch left to right with probability 1/2."""

    def __post_init__(self) -> None:
        if self.levels is not None and (self.mean is not None or self.std is not None):
            raise InputError(f"the data set {self.name} has either levels or a mean and std; give one of the two")

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
            return self.distribution.sample(size, seeded(seed, Stream.ROWS, step)).float()
        # index_select copies whole rows, where train[order] goes byte by byte: 6 times faster on images, mapped or not.
        x = self.train.index_select(0, self.rows(size, seed, step))
        if not self.flip:
            return x
        mirrored = torch.randint(2, (size,), generator=seeded(seed, Stream.FLIPS, step)).bool().numpy()
        pixels = x.numpy()  # the same memory; numpy reverses bytes four times as fast as torch
        pixels[mirrored] = pixels[mirrored][..., ::-1]
        return x

    def rows(self, size: int, seed: int, step: int) -> Tensor:
        """Which training rows a batch is made of, ``(size,)``; none where the source is endless."""
        if self.distribution is not None:
            return torch.empty(0, dtype=torch.long)
        n, start = len(self.train), step * size
        first, last = start // n, (start + size - 1) // n
        epochs = {epoch: _order(n, seed, epoch) for epoch in range(first, last + 1)}
        parts = [order[max(0, start - e * n) : start + size - e * n] for e, order in epochs.items()]
        return torch.cat(parts)


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=seeded(seed, Stream.ORDER, epoch))


def image_dataset(name: str, train: Tensor, validation: Tensor, test: Tensor, release: str) -> Dataset:
    """A set of 8-bit images, ``(N, C, H, W)`` each."""
    return Dataset(name, train, validation, test, levels=256, release=release)


def held_out(n: int, name: str) -> tuple[int, int]:
    """How many of n rows validate and test where nobody has split them: 5 % and 10 %, at most 5,000 and 10,000.

    Raises:
        InputError: if there are too few for one row each.
    """
    if n < 3:
        raise InputError(f"{name} has {n} rows; training, validation and test need one each")
    return min(5_000, max(1, n // 20)), min(10_000, max(1, n // 10))


def _digits_pixels() -> Tensor:
    from sklearn.datasets import load_digits

    images = load_digits().images[np.random.default_rng(0).permutation(1797)]
    return torch.from_numpy(images.astype(np.uint8))[:, None]


def digits() -> Dataset:
    """scikit-learn's 8x8 digits, 17 levels: 1350 rows train, 150 validate, 297 test, after a fixed permutation."""
    x = _digits_pixels()
    return Dataset(
        "digits", x[:1350], x[1350:1500], x[1500:], levels=17,
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
        name, rows[: 2 * n], rows[2 * n : 3 * n], rows[3 * n :], mean=mean, std=std,
        distribution=distribution, release="draws from the exact distribution, seed 2^31",
    )  # fmt: skip


# The package adds the sets of images, which are built on what is above.
DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "gmm-digits": gmm_digits,
    "ring": lambda: _from_distribution("ring", ring()),
    "moons": lambda: _from_distribution("moons", moons()),
    "checkerboard": lambda: _from_distribution("checkerboard", Checkerboard()),
}


def load_dataset(
    name: str,
    path: str | Path | None = None,
    size: int | None = None,
    flip: bool = False,
    on_bad_file: OnBadFile = "refuse",
) -> Dataset:
    """A data set by name.

    Args:
        path: where it is: a folder, or the file of ``array``. MNIST and CIFAR-10 are downloaded to it, or to the
            user's cache.
        size: side in pixels of ``images``.
        flip: mirror the images of training batches at random.
        on_bad_file: what to do about damaged or too small files of ``images``.

    Raises:
        InputError: if there is none of that name, if it lacks an option or has no use for one, or if it cannot be read.

    Example:
        >>> load_dataset("digits").shape
        (1, 8, 8)
    """
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; choose one of {', '.join(DATASETS)}")
    given = {"path": path, "size": size, "on_bad_file": None if on_bad_file == "refuse" else on_bad_file}
    options = {option: value for option, value in given.items() if value is not None}
    known = inspect.signature(DATASETS[name]).parameters
    for option in options:
        if option not in known:
            raise InputError(f"the data set {name} has no {option}; leave it out")
    for option in given:
        if option in known and known[option].default is inspect.Parameter.empty and option not in options:
            raise InputError(f"the data set {name} needs {option}; set it")
    dataset = DATASETS[name](**options)
    if flip and len(dataset.shape) != 3:
        raise InputError(f"the data set {name} holds no images to flip; leave flip out")
    return replace(dataset, flip=flip)
