"""Data sets by name: digits, 2-D toys with an exact density, a 64-D mixture of known entropy, images and arrays."""

from typing import TYPE_CHECKING

from ..support.lazy import lazy

if TYPE_CHECKING:
    from .comparison import identity, same_data
    from .dataset import Dataset
    from .mixture import GaussianMixture
    from .sets import DATASETS, load_dataset, register, shape_of
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

HOMES = {
    "dataset": "Dataset",
    "comparison": "identity same_data",
    "mixture": "GaussianMixture",
    "sets": "DATASETS load_dataset register shape_of",
    "settings": "DataConfig",
    "toys": "Checkerboard moons ring",
}
"""The modules, and the public names that each of them defines."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(__name__, HOMES)
