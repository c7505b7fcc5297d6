r"""Detectors of anomalies to compare with: neighbours, isolation trees, support vectors, and two densities.

A detector is fitted on standardised training rows, shape ``(N, D)``, and gives a function from rows, shape ``(M, D)``,
to scores, shape ``(M,)``, that are higher for rows that are less normal. The settings of the first four are those of
the published figures (PyOD's defaults). A density's score is its negative logarithm.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from density_rivals import gaussian_mixture, kernel_density

Score = Callable[[np.ndarray], np.ndarray]


def knn(train: np.ndarray, seed: int) -> Score:
    """The distance to the fifth nearest training row."""
    from sklearn.neighbors import NearestNeighbors

    model = NearestNeighbors(n_neighbors=5).fit(train)
    return lambda x: model.kneighbors(x)[0][:, -1]


def lof(train: np.ndarray, seed: int) -> Score:
    """Local outlier factor with 20 neighbours."""
    from sklearn.neighbors import LocalOutlierFactor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # equal rows
        model = LocalOutlierFactor(n_neighbors=20, novelty=True).fit(train)
    return lambda x: -model.score_samples(x)


def iforest(train: np.ndarray, seed: int) -> Score:
    """A forest of 100 isolation trees."""
    from sklearn.ensemble import IsolationForest

    model = IsolationForest(n_estimators=100, random_state=seed).fit(train)
    return lambda x: -model.score_samples(x)


def ocsvm(train: np.ndarray, seed: int) -> Score:
    """A one-class support vector machine with a Gaussian kernel of width sqrt(D / 2) and nu = 0.5."""
    from sklearn.svm import OneClassSVM

    model = OneClassSVM(gamma="auto", nu=0.5).fit(train)
    return lambda x: -model.score_samples(x)


def held_out(train: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Nine tenths and one tenth of the rows, by chance."""
    order = np.random.default_rng(seed).permutation(len(train))
    count = max(1, len(train) // 10)
    return train[order[count:]], train[order[:count]]


def gmm(train: np.ndarray, seed: int) -> Score:
    """A mixture of up to 32 Gaussians; the number is chosen by a tenth of the training rows."""
    fitted = gaussian_mixture(*held_out(train, seed), seed, sizes=(1, 2, 4, 8, 16, 32), initialisations=1)
    return lambda x: -fitted.score(x)


def kde(train: np.ndarray, seed: int) -> Score:
    """A Gaussian kernel on every row; its width is chosen by a tenth of the training rows."""
    fitted = kernel_density(*held_out(train, seed), seed)
    return lambda x: -fitted.score(x)
