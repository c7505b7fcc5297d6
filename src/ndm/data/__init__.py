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

_SHAPES = {
    "digits": (1, 8, 8), "gmm-digits": (64,), "ring": (2,), "moons": (2,), "checkerboard": (2,),
    "mnist": (1, 28, 28), "cifar10": (3, 32, 32), "imagenet32": (3, 32, 32), "imagenet64": (3, 64, 64),
    "celebahq256": (3, 256, 256),
}  # fmt: skip


def shape_of(name: str, size: int | None = None) -> tuple[int, ...] | None:
    """Of one row, without loading anything (pictures are taken to be coloured); None where only the file tells."""
    return (3, size, size) if name == "images" and size else _SHAPES.get(name)


__all__ = ["DATASETS", "Checkerboard", "Dataset", "GaussianMixture", "load_dataset", "moons", "ring", "shape_of"]
