"""Folders of pictures. They are decoded once into a file in the cache, which later runs map into memory."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import InputError
from .cache import Rows, counted, find_rows, fingerprint, write_rows
from .dataset import Dataset, held_out, image_dataset
from .names import register
from .settings import OnBadFile

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm")
CELEBAHQ = (26_000, 1_000, 3_000)  # number of rows that train, validate and test
BLOCK = 128  # number of pictures that are decoded at a time
T = TypeVar("T")


def existing_folder(path: str | Path) -> Path:
    """The path as a folder that exists.

    Raises:
        InputError: if it is not an existing folder.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; set path to the folder that holds the data")
    return folder


def picture_names(folder: Path) -> list[str]:
    """The relative paths of all pictures in a folder and below it, in natural order: 2.png comes before 10.png.

    Raises:
        InputError: if there are no pictures.
    """
    names: list[str] = []
    for parent, _, files in os.walk(folder):
        below = Path(parent).relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{below}/"
        # File managers leave hidden files that are not pictures, such as macOS's ._name.png.
        names += [prefix + file for file in files if file.lower().endswith(SUFFIXES) and not file.startswith(".")]
    if not names:
        raise InputError(
            f"no pictures ({' '.join(SUFFIXES)}) in {folder} or below it; set path to the folder that holds them"
        )
    return sorted(names, key=lambda name: (_natural(name), name))


def _natural(name: str) -> list[Any]:
    return [int(part) if k % 2 else part for k, part in enumerate(re.split(r"(\d+)", name))]


def _mode(size: int, path: Path) -> str:
    """The Pillow mode in which a picture is kept, L or RGB. Only the file's header is read."""
    from PIL import Image

    with Image.open(path) as picture:
        if min(picture.size) < size:
            raise InputError(f"{picture.width}x{picture.height}, smaller than {size}")
        if picture.mode[0] in "IF":  # Pillow would clip these to 255
            raise InputError("more than 8 bits per value")
        return "L" if picture.mode in ("1", "L", "LA", "La") else "RGB"


def decode_picture(size: int, mode: str, path: Path) -> np.ndarray:
    """The largest centred square of a picture, resized to ``(C, size, size)``, uint8."""
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side)).convert(mode)
        # If the picture already has this size, Pillow returns it unchanged.
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.uint8).reshape(size, size, -1).transpose(2, 0, 1)


def _attempt(read: Callable[[Path], T], path: Path) -> T | Exception:
    try:
        return read(path)
    except Exception as error:  # Pillow raises many kinds of errors on damaged files
        return error


def read_pictures(
    read: Callable[[Path], T], folder: Path, names: Sequence[str], bad: dict[str, str]
) -> Iterator[list[T]]:
    """Apply a function to every file of a folder, in parallel.

    Args:
        read: the function, which takes a path.
        folder, names: the folder, and the paths of the files relative to it.
        bad: a dictionary to which the names of the files on which ``read`` fails are added, with the reasons.

    Yields:
        Blocks of results in the order of the names. Bad files have no result.
    """
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
    for block in read_pictures(partial(decode_picture, size, mode), folder, [n for n in names if n not in bad], bad):
        if block:
            yield np.stack(block)
    # The error is raised after all files have been read, so that one message names every bad file. The rows are not yet
    # in the cache at this point.
    if bad and (on_bad_file == "refuse" or len(names) - len(bad) < 3):
        advice = "remove them, or set on_bad_file to skip" if on_bad_file == "refuse" else "too few are left"
        raise InputError(f"{_complaint(bad, folder, len(names))}; {advice}")


def picture_rows(name: str, folder: Path, names: Sequence[str], size: int, on_bad_file: OnBadFile) -> Rows:
    """The pictures as rows in the order of ``names``; they are decoded only if the cache does not hold them.

    Args:
        name: name of the rows in the cache. Each size needs its own name.
        folder, names: the folder, and the paths of the pictures relative to it.
        size: height and width of the rows in pixels.
        on_bad_file: refuse pictures that are damaged or smaller than ``size``, or skip them.

    Raises:
        InputError: if there are bad pictures and they are not skipped, or if too few good ones remain; the message
            names the bad ones. Also if Pillow is not installed.
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
        for block in read_pictures(partial(_mode, size), folder, names, bad):
            modes.update(block)
            advance(len(block))
    mode = "L" if modes == {"L"} else "RGB"
    blocks = _decode_all(folder, names, size, mode, bad, on_bad_file)
    rows = write_rows(name, key, (1 if mode == "L" else 3, size, size), blocks, len(names))
    if bad:
        from ..support.progress import warn

        warn(f"skipped: {_complaint(bad, folder, len(names))}")
    return rows


@register("images", shape=(3, None, None))
def image_folder(path: str | Path, size: int, on_bad_file: OnBadFile = "refuse") -> Dataset:
    """All pictures in a folder and in the folders below it, cropped to a centred square and resized.

    The rows have one channel if every picture is grey, and three otherwise. Transparency is dropped. The pictures are
    sorted by name and then put in a fixed random order.

    Args:
        path: the folder.
        size: height and width of the rows in pixels.
        on_bad_file: refuse pictures that are damaged or smaller than ``size``, or skip them.

    Raises:
        InputError: if the folder does not exist or holds too few pictures; see also :func:`picture_rows`.
    """
    if size < 1:
        raise InputError(f"size must be at least 1, got {size}")
    if on_bad_file not in ("refuse", "skip"):
        raise InputError(f"on_bad_file must be refuse or skip, got {on_bad_file!r}")
    folder = existing_folder(path)
    names = picture_names(folder)
    held_out(len(names), str(folder))
    # The cache file is written in the permuted order, so that each split is a slice of it and needs no copy.
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


@register("celebahq256", shape=(3, 256, 256))
def celebahq256(path: str | Path) -> Dataset:
    """CelebA-HQ at 256x256, 30,000 pictures sorted by name: the last 3,000 test, and the 1,000 before them validate.

    Args:
        path: the folder that holds the pictures.

    Raises:
        InputError: if the folder does not hold 30,000 good pictures.
    """
    folder = existing_folder(path)
    names = picture_names(folder)
    train, validation, test = CELEBAHQ
    if len(names) != sum(CELEBAHQ):
        raise InputError(
            f"CelebA-HQ has {sum(CELEBAHQ)} pictures, but {folder} holds {len(names)}; for other pictures use the "
            "data set images with size 256"
        )
    x, checksum = picture_rows("celebahq256", folder, names, 256, "refuse")
    return image_dataset(
        "celebahq256", x[:train], x[train : train + validation], x[train + validation :],
        release="CelebA-HQ, centre crop, Lanczos where not 256x256, all 8 bits, "
        f"sha256 of the rows {checksum}; sorted by name, split {train}/{validation}/{test}",
    )  # fmt: skip
