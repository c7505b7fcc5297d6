"""All data sets of the package: importing this module registers them. Error messages list them in this order."""

from . import digits, toys, published, folder, array, table, text  # noqa: F401, I001
from .names import DATASETS, load_dataset, register, shape_of

__all__ = ["DATASETS", "load_dataset", "register", "shape_of"]
