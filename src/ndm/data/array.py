"""Images of the user's own, in a ``.npz`` or ``.npy`` file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError, printable
from ..support.files import reading, sha256
from ..support.npy import opened_archive, read_member, read_npy
from .cache import say
from .dataset import Dataset, held_out, image_dataset
from .listing import absolute
from .names import register

ARRAYS = ("x_train", "x_validation", "x_test")
OTHER_NAMES = {"x_val": "x_validation"}
WANTED = "uint8 values 0..255 of shape (N, H, W), (N, H, W, C) or (N, C, H, W), where C is 1 or 3"
CHUNK = 1 << 24  # number of elements that are checked at a time


@register("array")
def array(path: str | Path) -> Dataset:
    """Images from one file, which is held in memory.

    A ``.npz`` file holds the array x_train, and may hold x_validation (or x_val) and x_test. A ``.npy`` file holds one
    array, and it is read as x_train. If a split has no array, its rows are drawn from x_train with a fixed seed.

    Args:
        path: the file. Its arrays are of shape ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``, where C is 1 or 3.
            Their elements are integers 0..255 of any integer type.

    Raises:
        InputError: if the file cannot be read, if x_train is missing, or if an array has another type, shape or range;
            also if the file holds an array of another name that starts with x. Arrays of other names, such as labels,
            are not used, and this is said.
    """
    file = absolute(path)
    if not os.path.isfile(file):
        raise InputError(f"{file} is not a file; set path to a .npz or .npy file")
    with reading(file, "is damaged or not plain .npz or .npy; save uint8 arrays with numpy.savez"):
        arrays, unused = _arrays(file)
        x = {name: _channels_first(a, f"{name} of {file}") for name, a in arrays.items()}
        checksum = sha256(file)[:16]
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
    if unused:
        say(f"{file}: not used: {', '.join(unused)}")
        how += f", not used: {', '.join(map(printable, unused))}"
    release = f"{printable(file.name)}, sha256 {checksum}; {how}, split {len(train)}/{len(validation)}/{len(test)}"
    return image_dataset("array", train, validation, test, release, checksum)


def _arrays(file: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of a file by their names, and the names of what else it holds."""
    with file.open("rb") as opened:
        packed = opened.read(2) == b"PK"
    if not packed:
        return {"x_train": read_npy(file)}, []
    with opened_archive(file) as archive:
        members = archive.namelist()
        found = [name.removesuffix(".npy") for name in members]
        if "x_train.npy" not in members:
            only = ", ".join(found[:20]) or "nothing"
            raise InputError(f"{file} has no x_train, only {only}; give the training images that name")
        wanted = {name: OTHER_NAMES.get(name, name) for name in found if name in (*ARRAYS, *OTHER_NAMES)}
        unused = [name for name in found if name not in wanted]
        known = f"the arrays that are read are {', '.join(ARRAYS)} (or {', '.join(OTHER_NAMES)})"
        for name in unused:
            if name.lower().startswith("x"):
                raise InputError(f"{file} holds {name}, but {known}; rename it or leave it out")
        if len(set(wanted.values())) < len(wanted):
            raise InputError(f"{file} holds both x_val and x_validation; leave one out")
        arrays = {role: read_member(archive, name, f"{name} of {file}") for name, role in wanted.items()}
    return arrays, unused


def _channels_first(x: np.ndarray, what: str) -> np.ndarray:
    """Check images and return them as ``(N, C, H, W)``, uint8; ``what`` is their name in error messages."""
    if x.dtype.kind not in "iufc":
        raise InputError(f"{what} is {x.dtype}; convert it to {WANTED}")
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim != 4 or not {x.shape[1], x.shape[3]} & {1, 3}:
        raise InputError(f"{what} has shape {x.shape}; bring it to {WANTED}")
    elif x.shape[1] in (1, 3) and x.shape[3] in (1, 3):
        raise InputError(
            f"{what} has shape {x.shape}, whose channels may come first or last; crop or pad the side that is not the "
            "channels"
        )
    elif x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.size == 0:
        raise InputError(f"{what} has shape {x.shape}, which holds no pixels; save it again")
    return _eight_bits(x, what)


def _eight_bits(x: np.ndarray, what: str) -> np.ndarray:
    """Integers of any type as uint8. Other types, and integers that are not in 0..255, are refused with the first."""
    if x.dtype == np.uint8:
        return x
    whole = x.dtype.kind in "iu"
    step = max(1, CHUNK // x[:1].size)
    for start in range(0, len(x), step):
        block = x[start : start + step]
        bad = (block < 0) | (block > 255) if whole else np.isnan(block)
        if bad.any():
            row = start + int(np.flatnonzero(bad.reshape(len(block), -1).any(1))[0])
            value = block[bad][0] if whole else "NaN"
            raise InputError(f"{what} is {x.dtype}, and row {row} holds {value}; convert it to {WANTED}")
    if not whole:
        raise InputError(f"{what} is {x.dtype}; convert it to {WANTED}")
    return x.astype(np.uint8)
