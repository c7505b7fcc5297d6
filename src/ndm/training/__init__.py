"""Training: the loop, the average of the weights, checkpoints, and the run folder."""

from .checkpoint import Checkpoints, State
from .loop import Trainer, train
from .optimization import learning_rate
from .run import Run

__all__ = ["Checkpoints", "Run", "State", "Trainer", "learning_rate", "train"]
