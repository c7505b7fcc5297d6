"""Data sets by name: digits, 2-D toys with an exact density, a 64-D mixture of known entropy, images and arrays."""

# Each of these modules registers its data sets when it is imported. Error messages list them in this order.
from . import digits, toys, published, folder, array  # noqa: F401, I001
from .dataset import Dataset
from .identity import identity, same_data
from .mixture import GaussianMixture
from .names import DATASETS, load_dataset, register, shape_of
from .settings import DataConfig
from .toys import Checkerboard, moons, ring

__all__ = [
    "DATASETS",
    "Checkerboard",
    "DataConfig",
    "Dataset",
    "GaussianMixture",
    "identity",
    "load_dataset",
    "moons",
    "register",
    "ring",
    "same_data",
    "shape_of",
]
