"""Text of the user's own, as windows of a fixed number of characters.

The first 90 % of the characters train, the next 5 % validate and the last 5 % test. A training batch takes windows that
begin anywhere; validation and test take one window after the other. The alphabet is that of the whole file.
"""

from __future__ import annotations

import codecs
import hashlib
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError, printable
from ..support.checks import require_count
from ..support.files import reading
from ..tables.delimited import MAGIC
from .dataset import Dataset
from .listing import absolute
from .names import register

LARGEST_ALPHABET = 20_000
"""The most different characters of a text."""


MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@register("text")
def text(path: str | Path, size: int = 64, encoding: str = "utf-8") -> Dataset:
    """Windows of the characters of a text file, as codes in the order of the characters.

    Args:
        path: the file.
        size: the number of characters of a window.
        encoding: the encoding of the file.

    Raises:
        InputError: if the file cannot be read as text, has fewer than two different characters or too many, or is too
            short for a window in each part.
    """
    require_count(size=size)
    file = Path(absolute(path))
    if not file.is_file():
        raise InputError(f"{file} is not a file; set path to a text file")
    with reading(file, "cannot be read"):
        data = file.read_bytes()
    if known_kind := next((kind for magic, kind in MAGIC.items() if data.startswith(magic)), None):
        raise InputError(f"{file} is {known_kind} by its first bytes, and no text; unpack it, or give a file of text")
    if encoding.lower().replace("_", "-") in ("utf-16", "utf16") and data[:2] not in MARKS:
        raise InputError(f"{file} does not begin as text in UTF-16 does; set --data.encoding utf-8 or utf-16-le")
    try:
        characters = np.array([data.decode(encoding)]).view(np.uint32)
    except (UnicodeDecodeError, LookupError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{file} is no text in {encoding} ({reason}); give its --data.encoding") from None
    known = np.flatnonzero(np.bincount(characters))  # without a sort, and with little memory
    if not 2 <= len(known) <= LARGEST_ALPHABET:
        raise InputError(f"{file} has {len(known):,} different characters; a text needs 2 to {LARGEST_ALPHABET:,}")
    ends = len(characters) * 90 // 100, len(characters) * 95 // 100
    shortest = min(ends[0], ends[1] - ends[0], len(characters) - ends[1])
    if shortest < size:
        raise InputError(
            f"{file} has {len(characters):,} characters, of which {shortest:,} are held out at a time, and a window "
            f"has {size}; give more text, or a smaller --data.size"
        )
    code = np.zeros(known[-1] + 1, np.uint8 if len(known) <= 256 else np.int32)
    code[known] = np.arange(len(known))
    codes = code[characters]
    train, validation, test = (torch.from_numpy(part) for part in np.split(codes, ends))
    checking, testing = (part[: len(part) // size * size].view(-1, size) for part in (validation, test))
    checksum = hashlib.sha256(data).hexdigest()[:16]
    release = (
        f"{printable(file.name)}, sha256 {checksum}; {len(known)} different characters, {len(train):,} to train in "
        f"windows of {size} at any place, then {len(validation):,} and {len(test):,} in windows side by side"
    )
    return Dataset(
        "text", train.unfold(0, size, 1), checking, testing, levels=len(known), release=release, checksum=checksum,
        alphabet="".join(map(chr, known)),
    )  # fmt: skip
