"""Training: the loop, the average of the weights and checkpoints. This package knows no recipes and no run folders."""

from typing import TYPE_CHECKING

from ..support.lazy import lazy

if TYPE_CHECKING:
    from .checkpoint import Checkpoints, State
    from .loop import Trainer
    from .optimization import learning_rate
    from .settings import TrainingConfig
    from .shortcut import train

__all__ = ["Checkpoints", "State", "Trainer", "TrainingConfig", "learning_rate", "train"]

HOMES = {
    "checkpoint": "Checkpoints State",
    "loop": "Trainer",
    "optimization": "learning_rate",
    "settings": "TrainingConfig",
    "shortcut": "train",
}
"""The modules, and the public names that each of them defines."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(__name__, HOMES)
