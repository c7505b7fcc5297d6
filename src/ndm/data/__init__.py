"""Data sets by name: digits, two-dimensional toys with an exact density, and a 64-dimensional mixture of known entropy."""

from .dataset import DATASETS, Dataset, load_dataset
from .toys import Checkerboard, GaussianMixture, moons, ring

__all__ = ["DATASETS", "Checkerboard", "Dataset", "GaussianMixture", "load_dataset", "moons", "ring"]
