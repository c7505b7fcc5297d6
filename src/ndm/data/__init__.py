"""Data sets by name: digits, 2-D toys with an exact density, a 64-D mixture of known entropy, and images."""

from .dataset import DATASETS, Dataset, load_dataset
from .folder import celebahq256, image_folder
from .images import array, cifar10, imagenet32, imagenet64, mnist
from .toys import Checkerboard, GaussianMixture, moons, ring

DATASETS |= {
    "mnist": mnist,
    "cifar10": cifar10,
    "imagenet32": imagenet32,
    "imagenet64": imagenet64,
    "celebahq256": celebahq256,
    "images": image_folder,
    "array": array,
}

__all__ = ["DATASETS", "Checkerboard", "Dataset", "GaussianMixture", "load_dataset", "moons", "ring"]
