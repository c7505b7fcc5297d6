"""Folders of pictures. They are decoded once into a file in the cache, which later runs map into memory."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import InputError, printable
from ..support.checks import require
from .cache import Rows, counted, find_rows, fingerprint, say, write_rows
from .dataset import Dataset, held_out, image_dataset
from .listing import existing_folder, list_files
from .names import register
from .picture import (
    SUFFIXES,
    Colour,
    Kind,
    decode_picture,
    examine_picture,
    hexadecimal,
    parse_colour,
    reason_against,
)
from .settings import BACKGROUND, OnBadFile

CELEBAHQ = (26_000, 1_000, 3_000)  # number of rows that train, validate and test
BLOCK = 128  # number of pictures that are decoded at a time
T = TypeVar("T")


def picture_names(folder: Path) -> tuple[list[str], str]:
    """The relative paths of all pictures in a folder and below it, in natural order, and in words what is not used.

    Raises:
        InputError: if there are no pictures.
    """
    listing = list_files(folder)
    names = [name for name in listing.files if name.lower().endswith(SUFFIXES)]
    unused = listing.unused(names)
    if not names:
        raise InputError(
            f"no pictures ({' '.join(SUFFIXES)}) in {folder} or below it, only {unused or 'nothing'}; set path to the "
            "folder that holds them"
        )
    return names, unused


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
                if isinstance(result, Exception):
                    bad[name] = reason_against(result, folder / name)
                else:
                    good.append(result)
            yield good


def _complaint(bad: dict[str, str], folder: Path, total: int) -> str:
    shown = ", ".join(f"{name} ({bad[name]})" for name in sorted(bad)[:20])
    more = f" and {len(bad) - 20} more" if len(bad) > 20 else ""
    return f"{len(bad)} of {total} pictures in {folder} cannot be used: {shown}{more}"


def _decode_all(
    decode: Callable[[Path], np.ndarray],
    folder: Path,
    names: Sequence[str],
    bad: dict[str, str],
    on_bad_file: OnBadFile,
) -> Iterator[np.ndarray]:
    for block in read_pictures(decode, folder, [n for n in names if n not in bad], bad):
        if block:
            yield np.stack(block)
    # The error is raised after all files have been read, so that one message names every bad file. The rows are not yet
    # in the cache at this point.
    if bad and (on_bad_file == "refuse" or len(names) - len(bad) < 3):
        advice = "remove them, or set on_bad_file to skip" if on_bad_file == "refuse" else "too few are left"
        raise InputError(f"{_complaint(bad, folder, len(names))}; {advice}")


def _background(text: str) -> Colour:
    try:
        importlib.import_module("PIL.Image")
    except ImportError:
        raise InputError('reading pictures needs Pillow: pip install "ndm[images]"') from None
    return parse_colour(text)


def picture_rows(
    name: str, folder: Path, names: Sequence[str], size: int, on_bad_file: OnBadFile, background: str = BACKGROUND
) -> Rows:
    """The pictures as rows in the order of ``names``; they are decoded only if the cache does not hold them.

    The notes of the rows are the numbers of pictures that are transparent (``alpha``) and of files that hold more
    pictures than the first (``several``).

    Args:
        name: name of the rows in the cache. Each size needs its own name.
        folder, names: the folder, and the paths of the pictures relative to it.
        size: height and width of the rows in pixels.
        on_bad_file: refuse pictures that cannot be used, or skip them.
        background: the colour behind transparent pictures.

    Raises:
        InputError: if there are bad pictures and they are not skipped, or if too few good ones remain; the message
            names the bad ones. Also if Pillow is not installed, or if there is no such colour.
    """
    colour = _background(background)
    key = fingerprint(folder, names, hexadecimal(colour))
    rows = find_rows(name, key)
    if rows is not None and rows.notes and (on_bad_file == "skip" or len(rows.x) == len(names)):
        return rows
    with warnings.catch_warnings():  # Pillow warns of what it mends or ignores, in several lines for each picture
        warnings.simplefilter("ignore")
        return _read_rows(name, key, folder, names, size, on_bad_file, colour)


def _read_rows(
    name: str, key: str, folder: Path, names: Sequence[str], size: int, on_bad_file: OnBadFile, background: Colour
) -> Rows:
    """:func:`picture_rows` if the cache does not hold the rows."""
    bad: dict[str, str] = {}
    kinds: dict[str, Kind] = {}
    with counted(f"examining {name}", len(names)) as advance:
        for block in read_pictures(lambda path: (path, examine_picture(size, path)), folder, names, bad):
            kinds.update({str(path): kind for path, kind in block})
            advance(len(block))
    red, green, blue = background
    coloured = any(not kind.grey or (kind.alpha and not red == green == blue) for kind in kinds.values())
    mode = "RGB" if coloured or not kinds else "L"
    blocks = _decode_all(partial(decode_picture, size, mode, background), folder, names, bad, on_bad_file)

    def notes() -> dict[str, Any]:
        good = [kinds[str(folder / name)] for name in names if name not in bad]
        return {"alpha": sum(kind.alpha for kind in good), "several": sum(kind.several for kind in good)}

    rows = write_rows(name, key, (1 if mode == "L" else 3, size, size), blocks, len(names), notes)
    if bad:
        say(f"skipped: {_complaint(bad, folder, len(names))}")
    return rows


def _remarks(folder: Path, rows: Rows, total: int, unused: str, background: str) -> str:
    """Say in one line what was left out or changed, and return it for the release, in parentheses."""
    remarks = []
    if alpha := rows.notes["alpha"]:
        remarks.append(f"{alpha} with an alpha channel on the background {hexadecimal(parse_colour(background))}")
    if several := rows.notes["several"]:
        remarks.append(f"only the first picture of each file that holds several ({several})")
    if unused:
        remarks.append(f"not used: {unused}")
    if remarks:
        say(f"read {len(rows.x):,} pictures in {folder}: {'; '.join(remarks)}")
    if len(rows.x) < total:
        remarks.insert(0, f"{total - len(rows.x)} unusable ones skipped")
    return f" ({'; '.join(remarks)})" if remarks else ""


@register("images", shape=(3, None, None))
def image_folder(
    path: str | Path, size: int, on_bad_file: OnBadFile = "refuse", background: str = BACKGROUND
) -> Dataset:
    """All pictures in a folder and in the folders below it, cropped to a centred square and resized.

    The rows have one channel if every picture is grey, and three otherwise. Transparent pictures are composited on a
    background. The pictures are sorted by name and then put in a fixed random order. Links are followed. Files that are
    not used are counted in one line and in the release.

    Args:
        path: the folder.
        size: height and width of the rows in pixels.
        on_bad_file: refuse the folder if it holds pictures that cannot be used, or skip them. These are pictures that
            are damaged, smaller than ``size``, of more than 8 bits per value, of more than 2^26 pixels, or of a format
            that the installed Pillow does not read.
        background: the colour behind transparent pictures: the name of a colour or ``#rrggbb``.

    Raises:
        InputError: if the folder does not exist or holds too few pictures; see also :func:`picture_rows`.
    """
    require(isinstance(size, int) and size >= 1, "size must be at least 1, a whole number", size)
    if on_bad_file not in ("refuse", "skip"):
        raise InputError(f"on_bad_file must be refuse or skip, got {on_bad_file!r}")
    folder = existing_folder(path)
    names, unused = picture_names(folder)
    held_out(len(names), str(folder))
    # The cache file is written in the permuted order, so that each split is a slice of it and needs no copy.
    names = [names[i] for i in np.random.default_rng(0).permutation(len(names))]
    rows = picture_rows(f"images{size}", folder, names, size, on_bad_file, background)
    remarks, x = _remarks(folder, rows, len(names), unused, background), rows.x
    validation, test = held_out(len(x), str(folder))
    train = len(x) - validation - test
    return image_dataset(
        "images", x[:train], x[train : train + validation], x[train + validation :],
        release=f"{len(x)} pictures of the folder {printable(folder.resolve().name)}"
        f"{remarks}, centre crop, Lanczos to "
        f"{size}x{size}, sha256 of the rows {rows.checksum}; "
        f"permutation seed 0 of the sorted names, split {train}/{validation}/{test}",
        checksum=rows.checksum,
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
    names, unused = picture_names(folder)
    train, validation, test = CELEBAHQ
    if len(names) != sum(CELEBAHQ):
        raise InputError(
            f"CelebA-HQ has {sum(CELEBAHQ)} pictures, but {folder} holds {len(names)}"
            f"{f' (not used: {unused})' if unused else ''}; for other pictures use the data set images with size 256"
        )
    rows = picture_rows("celebahq256", folder, names, 256, "refuse")
    remarks, x = _remarks(folder, rows, len(names), unused, BACKGROUND), rows.x
    return image_dataset(
        "celebahq256", x[:train], x[train : train + validation], x[train + validation :],
        release=f"CelebA-HQ{remarks}, centre crop, Lanczos where not 256x256, "
        f"all 8 bits, sha256 of the rows {rows.checksum}; sorted by name, split {train}/{validation}/{test}",
        checksum=rows.checksum,
    )  # fmt: skip
