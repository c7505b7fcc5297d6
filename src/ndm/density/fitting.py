"""Training of the models of a table, of which the one with the best bound of the validation rows is kept."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..data import Dataset
from ..model import NDM
from ..support.progress import progress_bar, training_news
from ..training import TrainingConfig, train

History = list[dict[str, Any]]
"""What training reported."""
ENOUGH = 0.4
"""The share of its steps after which a model that is behind another one of the same rows is given up."""


class Behind(Exception):
    """A model in training is behind another one of the same rows."""


def fit_best(
    models: Sequence[NDM], dataset: Dataset, settings: TrainingConfig, seed: int, device: str, verbose: bool
) -> tuple[NDM, History]:
    """The best of several models of the same rows, trained, on the CPU.

    They share the time of ``settings.max_seconds``.

    Args:
        models: untrained models; if there are several, rows must validate.
        dataset: the rows.
        settings: the settings of training, the same for each.
        seed: seed of training.
        device: where it trains.
        verbose: whether a bar shows the progress.
    """
    limit = settings.max_seconds
    settings = replace(settings, max_seconds=limit and limit / len(models))
    fits: list[tuple[NDM, History]] = []
    for model in models:
        with suppress(Behind):
            fits.append(fit_one(model, dataset, settings, seed, device, verbose, fits[0][1] if fits else []))
    return min(fits, key=lambda fit: min(bounds(fit[1]).values(), default=math.inf))


def fit_one(
    model: NDM, dataset: Dataset, settings: TrainingConfig, seed: int, device: str, verbose: bool, rival: History
) -> tuple[NDM, History]:
    """A trained model, on the CPU, and what its training reported.

    Raises:
        Behind: if, after enough steps, its bound is worse than that of the rival at the same step.
        KeyboardInterrupt: if training was interrupted.
    """
    history: History = []
    known = bounds(rival)

    def record(news: dict[str, Any]) -> None:
        history.append(news)
        bound, other = news.get("validation_bpd", -math.inf), known.get(news["step"], math.inf)
        if bound > other and news["step"] >= ENOUGH * settings.steps:
            raise Behind

    title = "fitting a second model" if rival else "fitting"
    with progress_bar(title, settings.steps, visible=verbose, unit="step") as bar:
        log = training_news(bar, record, dataset.unit)
        model = train(model.train().requires_grad_(True), dataset, settings, seed, device, log).cpu()
    for name in (news["interrupted"] for news in history if "interrupted" in news):
        signal.raise_signal(signal.Signals[name])
    return model, history


def bounds(history: History) -> dict[int, float]:
    """The bounds of the validation rows by step, bits per element."""
    return {news["step"]: news["validation_bpd"] for news in history if "validation_bpd" in news}
