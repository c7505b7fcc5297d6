"""``NeuralDiffusionDetector``: odd rows of a table, as an outlier detector of scikit-learn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from .estimator import NeuralDiffusionDensity
from .oddness import Oddness, combined


class NeuralDiffusionDetector(NeuralDiffusionDensity):
    """Finds odd rows in a table, after training on ordinary ones.

    It is a :class:`NeuralDiffusionDensity` whose scores are made for comparing rows: how far out a row lies by the
    diffusion model and by two kernel densities, in nats (:mod:`ndm.density.oddness`). Unlike a log-density they do
    not depend on the units of the columns.

    The arguments, ``fit``, ``decision_function``, ``predict`` and ``sample`` are those of
    :class:`NeuralDiffusionDensity`. Detectors are trained on rows that are ordinary, or nearly all ordinary. Where rows
    come several times, as in resampled data, a copy of a training row counts as ordinary.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(100, 2))
        >>> detector = ndm.NeuralDiffusionDetector(max_steps=20, random_state=0).fit(x)
        >>> detector.predict([[8.0, -8.0]]).tolist()
        [-1]
    """

    oddness_: Oddness
    _quick = True  # its scores compare rows, for which the time of a fit matters more than the last tenths of a nat

    def score_samples(self, X: Any) -> np.ndarray:
        """How ordinary each row is: minus its oddness in nats, ``(N,)``.

        A row that breaks what all training rows have in common is odder by log(N + 2) nats.
        """
        return super().score_samples(X)

    def _compare(self, rows: torch.Tensor, held_out: torch.Tensor) -> None:
        self.oddness_ = Oddness(self.model_, rows, held_out, self.seed_)

    def _score_rows(self, rows: torch.Tensor, broken: np.ndarray) -> np.ndarray:
        return -combined(self.oddness_(self.model_, rows)) - broken * math.log(self.n_rows_ + 2)
