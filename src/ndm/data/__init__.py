"""Data sets by name: digits, 2-D toys with an exact density, and a 64-D mixture of known entropy."""

from .dataset import DATASETS, Dataset, load_dataset
from .toys import Checkerboard, GaussianMixture, moons, ring

__all__ = ["DATASETS", "Checkerboard", "Dataset", "GaussianMixture", "load_dataset", "moons", "ring"]
