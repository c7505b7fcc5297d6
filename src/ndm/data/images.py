"""Published image sets and arrays: MNIST, CIFAR-10, downsampled ImageNet, ``.npz`` and ``.npy`` files of one's own.

Files with a published checksum are read straight from their archives, so a folder that cannot be written to will do.

References:
    Chrabaszcz, Loshchilov, Hutter. A Downsampled Variant of ImageNet as an Alternative to the CIFAR datasets. 2017.
    van den Oord, Kalchbrenner, Kavukcuoglu. Pixel Recurrent Neural Networks. ICML 2016.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import pickle
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import sha256
from .dataset import Dataset, held_out, image_dataset
from .folder import cache_folder, existing_folder, find_rows, fingerprint, write_rows

MNIST = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",  # MD5 of the .gz
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
}
CIFAR10 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
# Last rows of the training part, for validation.
HELD_OUT = {"mnist": 5_000, "cifar10": 5_000, "imagenet32": 10_000, "imagenet64": 10_000}
RESAMPLINGS = re.compile("(?<![a-z])(box|lanczos|bicubic|bilinear|hamming|nearest)(?![a-z])")
ARRAYS = ("x_train", "x_validation", "x_test")
BLOCK = 10_000
READ_ERRORS = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


def _download(kind: str, folder: Path, advice: str) -> None:
    try:
        datasets = importlib.import_module("torchvision.datasets")
    except ImportError:
        raise InputError(
            f'{kind} is not in {folder}, and downloading it needs torchvision: pip install "ndm[images]"; or {advice}'
        ) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        getattr(datasets, kind)(str(folder), download=True)
    except (OSError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise InputError(f"{kind} is not in {folder} and cannot be downloaded ({reason}); {advice}") from None


def _verified(path: Path, content: bytes, md5: str) -> bytes:
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise InputError(f"{path} is not the published file (MD5 {md5}); delete it, and the next run downloads it")
    return content


def _idx(path: Path, content: bytes) -> Tensor:
    """Grey images ``(N, 1, H, W)`` of an IDX file."""
    magic, n, height, width = struct.unpack(">4I", content[:16].ljust(16, b"\0"))
    if magic != 0x803 or len(content) != 16 + n * height * width:
        raise InputError(f"{path} is not a whole IDX file of images; delete it, and the next run downloads it")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=16).view(n, 1, height, width)


def mnist(path: str | Path | None = None) -> Dataset:
    """MNIST: the last 5,000 of the 60,000 training images validate, the official 10,000 test.

    Args:
        path: the folder of ``MNIST/raw`` (torchvision's layout, packed or not), where it is downloaded if need be.

    Raises:
        InputError: if a file is damaged, or missing and not to be had.
    """
    folder = cache_folder() if path is None else Path(path).expanduser()
    raw = folder / "MNIST" / "raw"
    if not all((raw / f"{name}.gz").is_file() or (raw / name).is_file() for name in MNIST):
        files = " and ".join(f"{name}.gz" for name in MNIST)
        _download("MNIST", folder, f"put {files} in {raw}, or set path to the folder that holds MNIST/raw")
    source, parts = "MNIST, published archives", []
    for name, md5 in MNIST.items():
        packed = raw / f"{name}.gz"
        if packed.is_file():
            parts.append(_idx(packed, gzip.decompress(_verified(packed, packed.read_bytes(), md5))))
        else:
            source = "MNIST, unpacked files, not verified"
            parts.append(_idx(raw / name, (raw / name).read_bytes()))
    return _official("mnist", parts[0], parts[1], source)


def cifar10(path: str | Path | None = None) -> Dataset:
    """CIFAR-10: the last 5,000 of the 50,000 training images validate, the official 10,000 test.

    Args:
        path: the folder of ``cifar-10-python.tar.gz`` or of ``cifar-10-batches-py``, downloaded if need be.

    Raises:
        InputError: if a file is damaged, or missing and not to be had.
    """
    folder = cache_folder() if path is None else Path(path).expanduser()
    archive, unpacked = folder / "cifar-10-python.tar.gz", folder / "cifar-10-batches-py"
    if not archive.is_file() and not all((unpacked / name).is_file() for name in CIFAR10):
        _download("CIFAR10", folder, f"put {archive.name} in {folder}, or set path to the folder that holds it")
    if all((unpacked / name).is_file() for name in CIFAR10):
        place, contents = unpacked, {name: (unpacked / name).read_bytes() for name in CIFAR10}
    else:
        try:
            with tarfile.open(archive) as tar:
                place, contents = archive, {name: _member(tar, f"{unpacked.name}/{name}") for name in CIFAR10}
        except (*READ_ERRORS, tarfile.TarError):
            raise InputError(f"{archive} is damaged; delete it, and the next run downloads it") from None
    parts = []
    for name, md5 in CIFAR10.items():
        # Unpickling runs code, so it waits until the file is known to be the published one.
        batch = pickle.loads(_verified(place / name, contents[name], md5), encoding="latin1")
        parts.append(torch.from_numpy(batch["data"]).view(-1, 3, 32, 32))
    return _official("cifar10", torch.cat(parts[:-1]), parts[-1], "CIFAR-10, official python version")


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    return b"" if file is None else file.read()


def _official(name: str, x: Tensor, test: Tensor, source: str) -> Dataset:
    validation = HELD_OUT[name]
    train = len(x) - validation
    if train < 1:
        raise InputError(f"{name} has {len(x)} training rows of which {validation} validate; get the whole set")
    release = f"{source}; official order, last {validation} of train validate, split {train}/{validation}/{len(test)}"
    return image_dataset(name, x[:train], x[train:], test, release)


def imagenet32(path: str | Path) -> Dataset:
    """ImageNet at 32x32, see :func:`imagenet`."""
    return imagenet(path, 32)


def imagenet64(path: str | Path) -> Dataset:
    """ImageNet at 64x64, see :func:`imagenet`."""
    return imagenet(path, 64)


def imagenet(path: str | Path, size: int) -> Dataset:
    """Downsampled ImageNet, the npz batches of image-net.org: its validation part tests, its last 10,000 rows validate.

    There are two releases, and the same model scores about 0.25 bits/dim differently on them. This is the newer one
    (Chrabaszcz et al.); the older one (van den Oord et al.), folders of PNG files, can be read by ``images``.

    Args:
        path: the folder of ``train_data_batch_1.npz`` to ``_10.npz`` and ``val_data.npz``, or one above it.

    Raises:
        InputError: if a file is missing, there twice, damaged or of another size.
    """
    folder, name = existing_folder(path), f"imagenet{size}"
    wanted = [*(f"train_data_batch_{k}.npz" for k in range(1, 11)), "val_data.npz"]
    found = {file: sorted(folder.rglob(file)) for file in wanted}
    if missing := [file for file, places in found.items() if not places]:
        raise InputError(f"{name} needs the npz batches of image-net.org; {folder} lacks {', '.join(missing)}")
    if twice := [places for places in found.values() if len(places) > 1]:
        raise InputError(f"both {twice[0][0]} and {twice[0][1]} are in {folder}; set path to the folder of one release")
    files = [places[0] for places in found.values()]
    counts = [_count(file, size) for file in files]
    key = fingerprint(folder, [str(file.relative_to(folder)) for file in files])
    rows = find_rows(name, key) or write_rows(name, key, (3, size, size), _batches(files, size), sum(counts))
    train = sum(counts[:-1])
    named = RESAMPLINGS.search(str(files[0].relative_to(folder.parent)).lower())
    source = (
        f"ImageNet {size}x{size}, npz batches of image-net.org (Chrabaszcz et al.; about 0.25 bits/dim from the older "
        f"release of van den Oord et al.), resampling {named[0] if named else 'not named (box is the usual one)'}, "
        f"sha256 of the rows {rows.checksum}"
    )
    return _official(name, rows.x[:train], rows.x[train:], source)


def _count(file: Path, size: int) -> int:
    """The number of rows of one batch, from its header alone."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open("data.npy") as member:
            np.lib.format.read_magic(member)
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    except READ_ERRORS:
        raise InputError(f"{file} is damaged or holds no array named data; get it again from image-net.org") from None
    if dtype != np.uint8 or shape[1:] != (3 * size * size,):
        raise InputError(f"{file} holds {dtype} {shape}; {size}x{size} needs uint8 (N, {3 * size * size})")
    return shape[0]


def _batches(files: list[Path], size: int) -> Iterator[np.ndarray]:
    for file in files:
        try:
            with np.load(file, allow_pickle=False) as archive:
                x = archive["data"].reshape(-1, 3, size, size)
        except READ_ERRORS:
            raise InputError(f"{file} is damaged; get it again from image-net.org") from None
        for start in range(0, len(x), BLOCK):
            yield x[start : start + BLOCK]


def array(path: str | Path) -> Dataset:
    """Images of one's own, uint8: ``.npz`` with x_train and optionally x_validation and x_test, or ``.npy``.

    A split without an array is taken from x_train (or from the one array of a ``.npy``) by a fixed permutation. All
    rows are held in memory.

    Args:
        path: the file; its arrays are ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``, C being 1 or 3.

    Raises:
        InputError: if the file cannot be read, or an array is missing or of another kind.
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
                    raise InputError(f"{file} holds no x_train but {', '.join(loaded.files)}; save it with that name")
    except InputError:
        raise
    except READ_ERRORS:
        raise InputError(f"{file} is damaged or not plain .npz or .npy; save uint8 arrays with numpy.savez") from None
    x = {name: _channels_first(a, f"{name} of {file}") for name, a in arrays.items()}
    for name, a in x.items():
        if a.shape[1:] != x["x_train"].shape[1:]:
            raise InputError(
                f"{name} of {file} is {a.shape}, x_train {x['x_train'].shape}; images must be of one shape"
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
    wanted = "uint8 values 0..255 of shape (N, H, W), (N, H, W, C) or (N, C, H, W), where C is 1 or 3"
    if x.dtype != np.uint8:
        raise InputError(f"{what} is {x.dtype}; convert it to {wanted}")
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim != 4 or not {x.shape[1], x.shape[3]} & {1, 3}:
        raise InputError(f"{what} has shape {x.shape}; bring it to {wanted}")
    elif x.shape[1] in (1, 3) and x.shape[3] in (1, 3):
        raise InputError(
            f"{what} has shape {x.shape}, whose channels may come first or last; crop or pad the other side"
        )
    elif x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.size == 0:
        raise InputError(f"{what} has shape {x.shape} and so no pixels; save it again")
    return x
