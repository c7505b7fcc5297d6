"""Published sets of images: MNIST, CIFAR-10 and downsampled ImageNet.

MNIST and CIFAR-10 are read from the published archives without unpacking them, so the folder may be read-only.

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
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..support.files import reading
from ..support.npy import opened_archive, read_member, read_member_header
from .cache import cache_folder, find_rows, fingerprint, write_rows
from .dataset import Dataset, image_dataset
from .listing import absolute, existing_folder, list_files
from .names import register

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
# The number of rows at the end of the training part that validate.
HELD_OUT = {"mnist": 5_000, "cifar10": 5_000, "imagenet32": 10_000, "imagenet64": 10_000}
RESAMPLINGS = re.compile("(?<![a-z])(box|lanczos|bicubic|bilinear|hamming|nearest)(?![a-z])")
BLOCK = 10_000  # number of rows that are converted at a time


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


def _content(path: Path) -> bytes:
    with reading(path, "is damaged"):
        return path.read_bytes()


def _verified(path: Path, content: bytes, md5: str) -> bytes:
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise InputError(f"{path} is not the published file (MD5 {md5}); delete it, and the next run downloads it")
    return content


def _idx(path: Path, content: bytes) -> Tensor:
    """The grey images of an IDX file, ``(N, 1, H, W)``."""
    magic, n, height, width = struct.unpack(">4I", content[:16].ljust(16, b"\0"))
    if magic != 0x803 or (height, width) != (28, 28) or len(content) != 16 + n * height * width:
        raise InputError(f"{path} is not a whole IDX file of 28x28 images; delete it, and the next run downloads it")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=16).view(n, 1, height, width)


@register("mnist", shape=(1, 28, 28))
def mnist(path: str | Path | None = None) -> Dataset:
    """MNIST. The last 5,000 of the 60,000 training images validate; the official 10,000 test images test.

    Args:
        path: the folder that holds ``MNIST/raw`` (torchvision's layout, packed or unpacked). Missing files are
            downloaded to it.

    Raises:
        InputError: if a file is damaged, or if it is missing and cannot be downloaded.
    """
    folder = cache_folder() if path is None else absolute(path)
    raw = folder / "MNIST" / "raw"
    if not all((raw / f"{name}.gz").is_file() or (raw / name).is_file() for name in MNIST):
        files = " and ".join(f"{name}.gz" for name in MNIST)
        _download("MNIST", folder, f"put {files} in {raw}, or set path to the folder that holds MNIST/raw")
    source, parts = "MNIST, published archives", []
    for name, md5 in MNIST.items():
        packed = raw / f"{name}.gz"
        if packed.is_file():
            parts.append(_idx(packed, gzip.decompress(_verified(packed, _content(packed), md5))))
        else:
            source = "MNIST, unpacked files, not verified"
            parts.append(_idx(raw / name, _content(raw / name)))
    return _official("mnist", parts[0], parts[1], source)


@register("cifar10", shape=(3, 32, 32))
def cifar10(path: str | Path | None = None) -> Dataset:
    """CIFAR-10. The last 5,000 of the 50,000 training images validate; the official 10,000 test images test.

    Args:
        path: the folder that holds ``cifar-10-python.tar.gz`` or ``cifar-10-batches-py``. If both are missing, the
            archive is downloaded to it.

    Raises:
        InputError: if a file is damaged, or if it is missing and cannot be downloaded.
    """
    folder = cache_folder() if path is None else absolute(path)
    archive, unpacked = folder / "cifar-10-python.tar.gz", folder / "cifar-10-batches-py"
    if not archive.is_file() and not all((unpacked / name).is_file() for name in CIFAR10):
        _download("CIFAR10", folder, f"put {archive.name} in {folder}, or set path to the folder that holds it")
    if all((unpacked / name).is_file() for name in CIFAR10):
        place, contents = unpacked, {name: _content(unpacked / name) for name in CIFAR10}
    else:
        with reading(archive, "is damaged; delete it, and the next run downloads it"), tarfile.open(archive) as tar:
            place, contents = archive, {name: _member(tar, f"{unpacked.name}/{name}") for name in CIFAR10}
    parts = []
    for name, md5 in CIFAR10.items():
        # Unpickling runs code, so the checksum is compared before.
        batch = pickle.loads(_verified(place / name, contents[name], md5), encoding="latin1")
        parts.append(torch.from_numpy(batch["data"]).view(-1, 3, 32, 32))
    return _official("cifar10", torch.cat(parts[:-1]), parts[-1], "CIFAR-10, official python version")


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    return b"" if file is None else file.read()


def _official(name: str, x: Tensor, test: Tensor, source: str, checksum: str = "") -> Dataset:
    validation = HELD_OUT[name]
    train = len(x) - validation
    if train < 1:
        raise InputError(f"{name} has {len(x)} training rows and {validation} of them validate; get the complete set")
    release = f"{source}; official order, last {validation} of train validate, split {train}/{validation}/{len(test)}"
    return image_dataset(name, x[:train], x[train:], test, release, checksum or _checksum(x, test))


def _checksum(*parts: Tensor) -> str:
    """The first 16 digits of the SHA-256 of rows."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.numpy().data)
    return digest.hexdigest()[:16]


@register("imagenet32", shape=(3, 32, 32))
def imagenet32(path: str | Path) -> Dataset:
    """ImageNet at 32x32; see :func:`imagenet`."""
    return imagenet(path, 32)


@register("imagenet64", shape=(3, 64, 64))
def imagenet64(path: str | Path) -> Dataset:
    """ImageNet at 64x64; see :func:`imagenet`."""
    return imagenet(path, 64)


def imagenet(path: str | Path, size: int) -> Dataset:
    """Downsampled ImageNet from the npz batches of image-net.org.

    The last 10,000 rows of the training part validate. The official validation part tests.

    There are two releases of downsampled ImageNet, and the scores of one model on them differ by about 0.25 bits/dim.
    This function reads the newer release (Chrabaszcz et al.). The older release (van den Oord et al.) consists of
    folders of PNG files, which the data set ``images`` reads.

    Args:
        path: the folder that holds ``train_data_batch_1.npz`` to ``_10.npz`` and ``val_data.npz``, or a folder above
            it.
        size: height and width of the images in pixels, 32 or 64.

    Raises:
        InputError: if a file is missing, found twice, damaged, or of another size.
    """
    folder, name = existing_folder(path), f"imagenet{size}"
    wanted = [*(f"train_data_batch_{k}.npz" for k in range(1, 11)), "val_data.npz"]
    files = [Path(name) for name in list_files(folder).files]
    found = {name: [folder / file for file in files if file.name == name] for name in wanted}
    if missing := [file for file, places in found.items() if not places]:
        raise InputError(f"{name} needs the npz batches of image-net.org; {folder} lacks {', '.join(missing)}")
    if twice := [places for places in found.values() if len(places) > 1]:
        raise InputError(f"both {twice[0][0]} and {twice[0][1]} are in {folder}; set path to the folder of one release")
    files = [places[0] for places in found.values()]
    counts = [_count(file, size) for file in files]
    key = fingerprint(folder, [str(file.relative_to(folder)) for file in files])
    rows = find_rows(name, key) or write_rows(name, key, (3, size, size), imagenet_blocks(files, size), sum(counts))
    train = sum(counts[:-1])
    named = RESAMPLINGS.search(str(files[0].relative_to(folder.parent)).lower())
    source = (
        f"ImageNet {size}x{size}, npz batches of image-net.org (Chrabaszcz et al.; about 0.25 bits/dim from the older "
        f"release of van den Oord et al.), resampling {named[0] if named else 'not named (box is the usual one)'}, "
        f"sha256 of the rows {rows.checksum}"
    )
    return _official(name, rows.x[:train], rows.x[train:], source, rows.checksum)


def _count(file: Path, size: int) -> int:
    """The number of rows in one file; only its header is read."""
    damaged = "is damaged or holds no array named data; get it again from image-net.org"
    with reading(file, damaged), opened_archive(file) as archive:
        shape, _, dtype, _ = read_member_header(archive, "data", f"data of {file}")
    if dtype != np.uint8 or shape[1:] != (3 * size * size,):
        raise InputError(f"{file} holds {dtype} {shape}; {size}x{size} needs uint8 (N, {3 * size * size})")
    return shape[0]


def imagenet_blocks(files: list[Path], size: int) -> Iterator[np.ndarray]:
    """The rows of all files in blocks ``(n, 3, size, size)``."""
    for file in files:
        with reading(file, "is damaged; get it again from image-net.org"), opened_archive(file) as archive:
            x = read_member(archive, "data", f"data of {file}").reshape(-1, 3, size, size)
        for start in range(0, len(x), BLOCK):
            yield x[start : start + BLOCK]
