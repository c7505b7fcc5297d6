"""Training: the loop, the average of the weights, and the run folder."""

from .loop import learning_rate, train
from .run import Run

__all__ = ["Run", "learning_rate", "train"]
