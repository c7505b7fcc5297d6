"""Folders of pictures, decoded once into a memory-mapped file of rows that later runs read as fast as memory."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .dataset import Dataset, OnBadFile, held_out, image_dataset

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm")
CELEBAHQ = (26_000, 1_000, 3_000)
BLOCK = 128  # pictures decoded at a time
LONG = 2_000  # rows from which a progress bar is shown
T = TypeVar("T")


class Rows(NamedTuple):
    """Memory-mapped rows ``(N, C, H, W)``, uint8, and a checksum of their content."""

    x: Tensor
    checksum: str


def cache_folder() -> Path:
    """Where downloads and decoded rows are kept: NDM_DATA if it is set, else ``ndm`` in the user's cache."""
    if folder := os.environ.get("NDM_DATA"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ndm"


def existing_folder(path: str | Path) -> Path:
    """The folder of a path.

    Raises:
        InputError: if there is none.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; set path to the one that holds the data")
    return folder


def fingerprint(folder: Path, names: Iterable[str]) -> str:
    """A key that changes with the folder, with its files' order, and with the name, length or time of any of them."""

    def describe(file: str) -> Any:
        try:
            stat = os.stat(file)
        except OSError:  # a broken link, say: whoever reads the file will complain
            return None
        return stat.st_size, stat.st_mtime_ns

    files = [(name, describe(os.path.join(folder, name))) for name in names]
    return hashlib.sha256(json.dumps([str(folder.resolve()), files]).encode()).hexdigest()[:16]


def find_rows(name: str, key: str) -> Rows | None:
    """The rows that :func:`write_rows` has kept under a name and a key, if it has."""
    for path in cache_folder().glob(f"{name}-{key}-*.npy"):
        try:
            rows = np.load(path, mmap_mode="r")
        except ValueError:  # cut short; whoever finds no rows writes them again
            continue
        with warnings.catch_warnings():
            # Nobody writes to rows. Mode "c" would not warn, but the system refuses it for files larger than memory.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return Rows(torch.from_numpy(rows), path.stem.rpartition("-")[2])
    return None


def write_rows(name: str, key: str, shape: Sequence[int], blocks: Iterable[np.ndarray], total: int) -> Rows:
    """Keep blocks of rows, each ``(n, *shape)``, in one file: whole, or not at all.

    Args:
        total: how many rows there are to go through, for the progress bar; ``blocks`` may hold fewer.

    Raises:
        InputError: if the file cannot be written; what ``blocks`` raises passes through.
    """
    header, checksum, count = {"descr": "|u1", "fortran_order": False}, hashlib.sha256(), 0
    # Processes that start together each write their own file; the last one to finish replaces an equal one.
    partial_file = cache_folder() / f"{name}-{key}-{os.getpid()}.tmp"
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with partial_file.open("wb") as file, counted(f"reading {name}", total) as advance:
            # The number of rows is known at the end only: numpy's header has room for it to grow in place.
            np.lib.format.write_array_header_1_0(file, header | {"shape": (0, *shape)})
            for block in blocks:
                content = np.ascontiguousarray(block).data
                checksum.update(content)
                file.write(content)
                count += len(block)
                advance(len(block))
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, header | {"shape": (count, *shape)})
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial_file, cache_folder() / f"{name}-{key}-{checksum.hexdigest()[:16]}.npy")
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write to {cache_folder()}: {reason}; set NDM_DATA to a folder with room") from None
    finally:
        if partial_file.exists():
            partial_file.unlink()
    rows = find_rows(name, key)
    assert rows is not None
    return rows


@contextmanager
def counted(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar, if there is much to do, and the function that moves it on."""
    if total < LONG:
        yield lambda _: None
        return
    from ..progress import progress_bar

    with progress_bar(title, total) as bar:
        yield lambda count: bar.advance(bar.task_ids[0], count)


def picture_names(folder: Path) -> list[str]:
    """Every picture below a folder, as a relative path, in the order of its name: 2.png before 10.png."""
    names: list[str] = []
    for parent, _, files in os.walk(folder):
        below = Path(parent).relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{below}/"
        # Hidden files are what file managers leave: macOS writes a ._name.png that is no picture.
        names += [prefix + file for file in files if file.lower().endswith(SUFFIXES) and not file.startswith(".")]
    if not names:
        raise InputError(f"no pictures ({' '.join(SUFFIXES)}) in {folder} or below it; set path to where they are")
    return sorted(names, key=lambda name: (_natural(name), name))


def _natural(name: str) -> list[Any]:
    return [int(part) if k % 2 else part for k, part in enumerate(re.split(r"(\d+)", name))]


def _mode(size: int, path: Path) -> str:
    """L or RGB, from the file's header alone."""
    from PIL import Image

    with Image.open(path) as picture:
        if min(picture.size) < size:
            raise InputError(f"{picture.width}x{picture.height}, smaller than {size}")
        if picture.mode[0] in "IF":  # Pillow would clip these to 255
            raise InputError("more than 8 bits a value")
        return "L" if picture.mode in ("1", "L", "LA", "La") else "RGB"


def _decode(size: int, mode: str, path: Path) -> np.ndarray:
    """The centre of a picture, ``(C, size, size)``."""
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side)).convert(mode)
        # A picture of the right size is returned as it is.
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.uint8).reshape(size, size, -1).transpose(2, 0, 1)


def _attempt(read: Callable[[Path], T], path: Path) -> T | Exception:
    try:
        return read(path)
    except Exception as error:  # Pillow raises a dozen kinds of error over damaged files
        return error


def _read_all(read: Callable[[Path], T], folder: Path, names: Sequence[str], bad: dict[str, str]) -> Iterator[list[T]]:
    """What ``read`` makes of the files, in blocks and in order; those that it fails on go to ``bad``, with why."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), BLOCK):
            block = names[start : start + BLOCK]
            good: list[T] = []
            for name, result in zip(block, pool.map(partial(_attempt, read), [folder / n for n in block]), strict=True):
                if not isinstance(result, Exception):
                    good.append(result)
                elif isinstance(result, InputError):
                    bad[name] = str(result)
                else:
                    bad[name] = getattr(result, "strerror", None) or "damaged"
            yield good


def _complaint(bad: dict[str, str], folder: Path, total: int) -> str:
    shown = ", ".join(f"{name} ({bad[name]})" for name in sorted(bad)[:20])
    more = f" and {len(bad) - 20} more" if len(bad) > 20 else ""
    return f"{len(bad)} of {total} pictures in {folder} cannot be used: {shown}{more}"


def _decode_all(
    folder: Path, names: Sequence[str], size: int, mode: str, bad: dict[str, str], on_bad_file: OnBadFile
) -> Iterator[np.ndarray]:
    for block in _read_all(partial(_decode, size, mode), folder, [n for n in names if n not in bad], bad):
        if block:
            yield np.stack(block)
    # Only now, so that one message names every bad file; raised before the rows are kept.
    if bad and (on_bad_file == "refuse" or len(names) - len(bad) < 3):
        advice = "remove them, or set on_bad_file to skip" if on_bad_file == "refuse" else "too few are left"
        raise InputError(f"{_complaint(bad, folder, len(names))}; {advice}")


def picture_rows(name: str, folder: Path, names: Sequence[str], size: int, on_bad_file: OnBadFile) -> Rows:
    """The pictures as rows in the order of ``names``, from the cache if they are there.

    Args:
        name: of the rows in the cache; it must tell apart what is made of the same pictures in different sizes.

    Raises:
        InputError: naming the pictures that are damaged or smaller than ``size``, unless they are to be skipped.
    """
    key = fingerprint(folder, names)
    rows = find_rows(name, key)
    if rows is not None and (on_bad_file == "skip" or len(rows.x) == len(names)):
        return rows
    try:
        importlib.import_module("PIL.Image")
    except ImportError:
        raise InputError('reading pictures needs Pillow: pip install "ndm[images]"') from None
    bad: dict[str, str] = {}
    modes: set[str] = set()
    with counted(f"examining {name}", len(names)) as advance:
        for block in _read_all(partial(_mode, size), folder, names, bad):
            modes.update(block)
            advance(len(block))
    mode = "L" if modes == {"L"} else "RGB"
    blocks = _decode_all(folder, names, size, mode, bad, on_bad_file)
    rows = write_rows(name, key, (1 if mode == "L" else 3, size, size), blocks, len(names))
    if bad:
        from ..progress import console

        console.print(f"skipped: {_complaint(bad, folder, len(names))}", markup=False, highlight=False, soft_wrap=True)
    return rows


def image_folder(path: str | Path, size: int, on_bad_file: OnBadFile = "refuse") -> Dataset:
    """Any folder of pictures, and of folders of them: centre-cropped, resized to ``size``, transparency dropped.

    Grey ones have one channel if all are grey. The rows are a fixed permutation of the pictures sorted by name.

    Raises:
        InputError: see :func:`picture_rows`.
    """
    if size < 1:
        raise InputError(f"size must be at least 1, got {size}")
    if on_bad_file not in ("refuse", "skip"):
        raise InputError(f"on_bad_file must be refuse or skip, got {on_bad_file!r}")
    folder = existing_folder(path)
    names = picture_names(folder)
    held_out(len(names), str(folder))
    # The file is written in the permuted order, so that the splits are slices of it and none is copied into memory.
    names = [names[i] for i in np.random.default_rng(0).permutation(len(names))]
    x, checksum = picture_rows(f"images{size}", folder, names, size, on_bad_file)
    validation, test = held_out(len(x), str(folder))
    train = len(x) - validation - test
    skipped = f" ({len(names) - len(x)} unusable ones skipped)" if len(x) < len(names) else ""
    return image_dataset(
        "images", x[:train], x[train : train + validation], x[train + validation :],
        release=f"{len(x)} pictures of the folder {folder.resolve().name}{skipped}, centre crop, Lanczos to "
        f"{size}x{size}, sha256 of the rows {checksum}; "
        f"permutation seed 0 of the sorted names, split {train}/{validation}/{test}",
    )  # fmt: skip


def celebahq256(path: str | Path) -> Dataset:
    """CelebA-HQ at 256x256: of its 30,000 pictures by name the last 3,000 test; the 1,000 before them validate.

    Raises:
        InputError: if the folder does not hold 30,000 good pictures; see :func:`picture_rows`.
    """
    folder = existing_folder(path)
    names = picture_names(folder)
    train, validation, test = CELEBAHQ
    if len(names) != sum(CELEBAHQ):
        raise InputError(
            f"CelebA-HQ has {sum(CELEBAHQ)} pictures, {folder} holds {len(names)}; for other sets use images, size 256"
        )
    x, checksum = picture_rows("celebahq256", folder, names, 256, "refuse")
    return image_dataset(
        "celebahq256", x[:train], x[train : train + validation], x[train + validation :],
        release="CelebA-HQ, centre crop, Lanczos where not 256x256, all 8 bits, "
        f"sha256 of the rows {checksum}; sorted by name, split {train}/{validation}/{test}",
    )  # fmt: skip
