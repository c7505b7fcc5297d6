"""Evaluation of a trained model: likelihoods with standard errors, sample quality, a diagnosis, and pictures."""

from .estimate import Estimate, evaluate, evaluate_all
from .protocol import Protocol, choose_protocols

__all__ = ["Estimate", "Protocol", "choose_protocols", "evaluate", "evaluate_all"]
