"""What a trained model is worth: likelihoods with their errors, the quality of samples, a diagnosis, pictures."""

from .estimate import Estimate, evaluate, evaluate_all
from .protocol import Protocol, choose_protocols

__all__ = ["Estimate", "Protocol", "choose_protocols", "evaluate", "evaluate_all"]
