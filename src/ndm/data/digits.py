"""The handwritten digits that come with scikit-learn, and a Gaussian mixture that is fitted to them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset, endless_dataset
from .mixture import GaussianMixture
from .names import register


def _pixels() -> Tensor:
    """All digits in a fixed random order, ``(1797, 1, 8, 8)``, integers 0..16.

    The file is read by its place in scikit-learn, whose import takes longer than all of a short training. Where it has
    another place, scikit-learn is asked.
    """
    folder = Path(next(iter(getattr(find_spec("sklearn"), "submodule_search_locations", None) or ["."])))
    file = folder / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        images = np.loadtxt(file, delimiter=",")[:, :64].reshape(-1, 8, 8)
    else:
        from sklearn.datasets import load_digits

        images = load_digits().images
    return torch.from_numpy(images[np.random.default_rng(0).permutation(1797)].astype(np.uint8))[:, None]


LEVELS = 17


@register("digits", shape=(1, 8, 8), levels=LEVELS)
def digits() -> Dataset:
    """The 8x8 digits with 17 levels, in a fixed random order: 1350 rows train, 150 validate and 297 test."""
    x = _pixels()
    return Dataset(
        "digits", x[:1350], x[1350:1500], x[1500:], levels=LEVELS,
        release="UCI optical digits, test part, as in scikit-learn; permutation seed 0, split 1350/150/297",
    )  # fmt: skip


@register("gmm-digits", shape=(64,))
def gmm_digits(components: int = 10, noise: float = 0.1) -> Dataset:
    """Endless 64-dimensional rows from a Gaussian mixture that is fitted to the training digits, scaled to [-1, 1].

    Args:
        components: number of Gaussians.
        noise: its square is added to the variance of each pixel.
    """
    from sklearn.mixture import GaussianMixture as Fit

    x = _pixels()[:1350].flatten(1).double().numpy() / 8 - 1
    fit = Fit(components, covariance_type="full", reg_covar=noise**2, random_state=0).fit(x)
    parts = (torch.from_numpy(a) for a in (fit.weights_, fit.means_, fit.covariances_))
    return endless_dataset("gmm-digits", GaussianMixture(*parts))
