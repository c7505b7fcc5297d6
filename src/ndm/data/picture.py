"""One picture: what its header says, and its pixels on a square of a given size.

A transparent picture is composited on a background: x = a c + (1 - a) b with the colour c, the share a, the
background b. This comes before the picture is resized, so hidden colours never mix with visible ones.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".apng", ".avif", ".dib",
    ".heic", ".heif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpf", ".jpx", ".jxl", ".pbm", ".pcx", ".pnm",
    ".qoi", ".tga",
)  # fmt: skip
"""The files that claim to be pictures. Which of them can be read depends on the installed Pillow."""
LARGEST = 1 << 26  # number of pixels above which a picture is refused before it is decoded
NOT_READ = ("EPS",)  # Pillow starts another program for this format
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
READ = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", *WITH_ALPHA)
Colour = tuple[int, int, int]


class Kind(NamedTuple):
    """What a picture's header says."""

    grey: bool
    alpha: bool
    """Whether the picture has an alpha channel or a transparent colour."""
    several: bool
    """Whether the file holds more pictures than the first, as an animation does."""


def parse_colour(text: str) -> Colour:
    """A colour's red, green and blue, 0..255.

    Raises:
        InputError: if the text is neither a colour's name nor ``#rrggbb``.
    """
    from PIL import ImageColor

    name = str(text).strip().lower()
    if name in ImageColor.colormap or re.fullmatch("#[0-9a-f]{6}", name):
        red, green, blue = ImageColor.getrgb(name)[:3]
        return red, green, blue
    raise InputError(f"background must be the name of a colour or #rrggbb, got {text!r}")


def hexadecimal(colour: Colour) -> str:
    """A colour as ``#rrggbb``."""
    return f"#{bytes(colour).hex()}"


def examine_picture(size: int, path: Path) -> Kind:
    """Read a picture's header and check that the picture can be read exactly.

    Raises:
        InputError: with the cause, if it cannot. Pillow raises errors of many kinds if a file is damaged.
    """
    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):  # opening a pipe would wait for ever
        raise InputError("not a regular file")
    if facts.st_size == 0:
        raise InputError("empty")
    with _opened(path) as picture:
        if picture.width * picture.height > LARGEST:
            raise InputError(f"{picture.width}x{picture.height}, more than {LARGEST:,} pixels")
        if min(picture.size) < size:
            raise InputError(f"{picture.width}x{picture.height}, smaller than {size}")
        if _is_deep(picture, path):  # Pillow would cut or clip these
            raise InputError("more than 8 bits per value")
        if picture.mode not in READ:
            raise InputError(f"its colours are {picture.mode}; convert it to RGB")
        grey = picture.mode in ("1", "L", "LA", "La")
        return Kind(grey, _has_alpha(picture), _holds_several(picture))


def decode_picture(size: int, mode: str, background: Colour, path: Path) -> np.ndarray:
    """The largest centred square of a picture, resized to ``(C, size, size)``, uint8.

    Args:
        size: height and width in pixels.
        mode: Pillow's mode of the result, L or RGB.
        background: the colour behind a transparent picture.
        path: a file that :func:`examine_picture` accepts.
    """
    from PIL import Image, ImageOps

    with _opened(path) as file:
        picture = ImageOps.exif_transpose(file)
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
        if _has_alpha(picture):
            coloured = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, (*background, 255)), coloured)
            picture = picture.convert("RGB")
        picture = picture.convert(mode)
        # If the picture already has this size, Pillow returns it unchanged.
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.uint8).reshape(size, size, -1).transpose(2, 0, 1)


def reason_against(error: Exception, path: Path) -> str:
    """Why a picture cannot be used, from the error that reading it raised."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {LARGEST:,} pixels"
    if isinstance(error, MemoryError):
        return "too large for the memory"
    suffix = path.suffix.lower()
    if isinstance(error, UnidentifiedImageError) and Image.registered_extensions().get(suffix) not in Image.OPEN:
        return f"the installed Pillow does not read {suffix}"
    return getattr(error, "strerror", None) or "damaged"


def _opened(path: Path) -> Image.Image:
    from PIL import Image

    Image.init()
    return Image.open(path, formats=[name for name in Image.ID if name not in NOT_READ])


def _has_alpha(picture: Image.Image) -> bool:
    return picture.mode in WITH_ALPHA or "transparency" in picture.info


def _holds_several(picture: Image.Image) -> bool:
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception:  # only what follows the first picture is damaged
        return True


def _is_deep(picture: Image.Image, path: Path) -> bool:
    """Whether the file has more than 8 bits per value. Pillow's mode tells this of grey pictures only."""
    if picture.mode[0] in "IF":
        return True
    if picture.format == "TIFF":
        return any(bits > 8 for bits in picture.tag_v2.get(258, ()))  # type: ignore[attr-defined]
    if picture.format in ("JPEG2000", "AVIF"):
        with path.open("rb") as file:
            head = file.read(1 << 16)
        if picture.format == "AVIF":  # the third byte of the decoder's configuration has a bit for high depth
            at = head.find(b"av1C")
            return at >= 0 and any(flags & 0x40 for flags in head[at + 6 : at + 7])
        at = head.find(b"\xff\x4f\xff\x51")  # the size of an image starts here, and each band's depth follows
        depths = head[at + 42 : at + 42 + 3 * len(picture.getbands()) : 3]
        return at >= 0 and any((depth & 0x7F) > 7 for depth in depths)
    for decoder, *_, arguments in picture.tile:  # type: ignore[attr-defined]
        if decoder.startswith("ppm") and isinstance(arguments, tuple):
            return bool(arguments[-1] > 255)
        if re.search(r"\b(L|LA|P|RGB|RGBA|RGBX|CMYK);16", str(arguments)):
            return True
    return False
