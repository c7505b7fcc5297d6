r"""Densities on :math:`\mathbb{R}^D` to compare with: zuko's flows, mixtures of Gaussians, and kernels.

A method is fitted on training rows, and its size is chosen, or its training stopped, by validation rows:

.. math:: \frac{1}{M} \sum_{m=1}^{M} \log p(x_m) \quad \text{nats per row}

The flows need ``pip install "zuko>=1.3"``, which the library itself does not use.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ndm.errors import InputError

Score = Callable[[np.ndarray], np.ndarray]
"""Log-densities in nats, shape ``(N,)``, of rows of shape ``(N, D)``."""


@dataclass
class Fitted:
    """A fitted density.

    Args:
        score: its log-densities.
        valid: mean log-density of the validation rows, in nats; None if the method saw none.
        facts: what was chosen, for the record.
    """

    score: Score
    valid: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def flow(name: str, transforms: int, width: int) -> Callable[[np.ndarray, np.ndarray, int], Fitted]:
    """A method that fits a flow of zuko with two hidden layers: Adam 1e-3, batches of 256, the best epoch is kept.

    Training ends when 30 epochs in a row have brought no better validation, or after 1,000.
    """

    def fit(train: np.ndarray, valid: np.ndarray, seed: int, patience: int = 30, most: int = 1000) -> Fitted:
        try:
            import zuko
        except ImportError:
            raise InputError(f'{name} needs zuko: pip install "zuko>=1.3"') from None
        import torch

        torch.manual_seed(seed)
        model = getattr(zuko.flows, name)(train.shape[1], transforms=transforms, hidden_features=(width, width))
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        rows = torch.from_numpy(train.astype(np.float32))

        def score(x: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                parts = torch.from_numpy(x.astype(np.float32)).split(2048)
                return torch.cat([model().log_prob(part) for part in parts]).double().numpy()

        best, best_epoch, weights = -np.inf, 0, copy.deepcopy(model.state_dict())
        for epoch in range(1, most + 1):
            for batch in torch.randperm(len(rows)).split(256):
                loss = -model().log_prob(rows[batch]).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            now = score(valid).mean()
            if now > best:
                best, best_epoch, weights = float(now), epoch, copy.deepcopy(model.state_dict())
            if epoch - best_epoch >= patience or not np.isfinite(now):
                break
        model.load_state_dict(weights)
        parameters = sum(p.numel() for p in model.parameters())
        return Fitted(score, best, {"best_epoch": best_epoch, "epochs": epoch, "parameters": parameters})

    return fit


def gaussian_mixture(
    train: np.ndarray,
    valid: np.ndarray,
    seed: int,
    sizes: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64),
    initialisations: int = 2,
) -> Fitted:
    """A mixture of Gaussians with full covariances; the number of components is the best of ``sizes``."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    best, value, chosen = None, -np.inf, 0
    for size in (s for s in sizes if s <= len(train)):
        model = GaussianMixture(size, n_init=initialisations, max_iter=200, random_state=seed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                now = float(model.fit(train).score(valid))
        except ValueError:  # a covariance that is not positive definite
            continue
        if now > value:
            best, value, chosen = model, now, size
    if best is None:
        raise InputError("no mixture of Gaussians could be fitted: leave the method out for this data set")
    return Fitted(best.score_samples, value, {"components": chosen})


def kernel_density(train: np.ndarray, valid: np.ndarray, seed: int) -> Fitted:
    """A Gaussian kernel on every training row; the bandwidth is the best of a grid with steps of 5 %.

    The grid is first searched in steps of 40 % from 0.01 to 3, then finely around the best.
    """
    from sklearn.neighbors import KernelDensity

    def value(bandwidth: float) -> float:
        return float(KernelDensity(bandwidth=bandwidth).fit(train).score(valid)) / len(valid)

    coarse = np.geomspace(0.01, 3.0, 18)
    centre = max(coarse, key=value)
    fine = centre * 1.05 ** np.arange(-6, 7)
    values = [value(bandwidth) for bandwidth in fine]
    chosen = float(fine[int(np.argmax(values))])
    model = KernelDensity(bandwidth=chosen).fit(train)
    return Fitted(model.score_samples, max(values), {"bandwidth": chosen})
