"""Images of the user's own, in a ``.npz`` or ``.npy`` file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..support.files import sha256
from .dataset import Dataset, held_out, image_dataset
from .names import register

ARRAYS = ("x_train", "x_validation", "x_test")
# The errors that are raised if a .npy or .npz file is damaged or of another kind.
READ_ERRORS = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


@register("array")
def array(path: str | Path) -> Dataset:
    """Images from one file, which is held in memory.

    A ``.npz`` file holds the array x_train, and may hold x_validation and x_test. A ``.npy`` file holds one array, and
    it is read as x_train. If a split has no array, its rows are drawn from x_train with a fixed seed.

    Args:
        path: the file. Its arrays are uint8 of shape ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``, where C is 1
            or 3.

    Raises:
        InputError: if the file cannot be read, if x_train is missing, or if an array has another type or shape.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"{file} is not a file; set path to a .npz or .npy file")
    try:
        loaded: Any = np.load(file, mmap_mode="r", allow_pickle=False)
        arrays = {"x_train": loaded}
        if not isinstance(loaded, np.ndarray):
            with loaded:
                arrays = {name: loaded[name] for name in loaded.files if name in ARRAYS}
                if "x_train" not in arrays:
                    raise InputError(
                        f"{file} has no x_train, only {', '.join(loaded.files)}; give the training images that name"
                    )
    except InputError:
        raise
    except READ_ERRORS:
        raise InputError(f"{file} is damaged or not plain .npz or .npy; save uint8 arrays with numpy.savez") from None
    x = {name: _channels_first(a, f"{name} of {file}") for name, a in arrays.items()}
    for name, a in x.items():
        if a.shape[1:] != x["x_train"].shape[1:]:
            raise InputError(
                f"{name} of {file} is {a.shape}, but x_train is {x['x_train'].shape}; all images must be of one shape"
            )
    n, start = len(x["x_train"]), len(x["x_train"])
    counts = dict(zip(ARRAYS[1:], held_out(n, str(file)), strict=True))
    missing = [name for name in counts if name not in x]
    order = np.random.default_rng(0).permutation(n) if missing else np.arange(n)
    for name in missing:
        start, end = start - counts[name], start
        x[name] = x["x_train"][order[start:end]]
    x["x_train"] = x["x_train"][order[:start]]
    train, validation, test = (torch.from_numpy(np.ascontiguousarray(x[name])) for name in ARRAYS)
    how = f"{' and '.join(missing)} by permutation seed 0 of x_train" if missing else "as in the file"
    release = f"{file.name}, sha256 {sha256(file)[:16]}; {how}, split {len(train)}/{len(validation)}/{len(test)}"
    return image_dataset("array", train, validation, test, release)


def _channels_first(x: np.ndarray, what: str) -> np.ndarray:
    """Check images and return them as ``(N, C, H, W)``; ``what`` is their name in error messages."""
    wanted = "uint8 values 0..255 of shape (N, H, W), (N, H, W, C) or (N, C, H, W), where C is 1 or 3"
    if x.dtype != np.uint8:
        raise InputError(f"{what} is {x.dtype}; convert it to {wanted}")
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim != 4 or not {x.shape[1], x.shape[3]} & {1, 3}:
        raise InputError(f"{what} has shape {x.shape}; bring it to {wanted}")
    elif x.shape[1] in (1, 3) and x.shape[3] in (1, 3):
        raise InputError(
            f"{what} has shape {x.shape}, whose channels may come first or last; crop or pad the side that is not the "
            "channels"
        )
    elif x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.size == 0:
        raise InputError(f"{what} has shape {x.shape}, which holds no pixels; save it again")
    return x
