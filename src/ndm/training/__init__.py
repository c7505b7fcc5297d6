"""Training: the loop, the average of the weights and checkpoints. This package knows no recipes and no run folders."""

from .checkpoint import Checkpoints, State
from .loop import Trainer, train
from .optimization import learning_rate
from .settings import TrainingConfig

__all__ = ["Checkpoints", "State", "Trainer", "TrainingConfig", "learning_rate", "train"]
