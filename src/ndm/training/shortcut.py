"""Training in one call, for a model and data in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..data import Dataset
from ..model import NDM
from .loop import Trainer
from .settings import TrainingConfig


def train(
    model: NDM,
    dataset: Dataset,
    settings: TrainingConfig,
    seed: int = 0,
    device: torch.device | str = "cpu",
    log: Callable[[dict[str, Any]], None] = lambda _: None,
) -> NDM:
    """Train ``model`` in place and return the average of its weights, which is the model to use.

    No checkpoints are written; :class:`ndm.experiment.Run` does that. The arguments are those of :class:`Trainer`.

    Returns:
        The averaged model, in evaluation mode. After Ctrl-C or SIGTERM it is the average up to that step.

    Raises:
        InputError: after ``max_skipped`` steps in a row without a finite gradient.
    """
    return Trainer(model, dataset, settings, seed, device, log).run()
