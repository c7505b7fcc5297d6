"""Samples of text as files for people."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..errors import InputError
from ..model import NDM
from ..support.files import write_whole
from ..symbols import SymbolDecoder


def write_texts(model: NDM, x: Tensor, path: Path, title: str = "") -> None:
    """Write samples one after the other, each under a line with its number.

    Args:
        model: a model of text.
        x: the samples as codes, ``(B, N)``.
        path: the file, written whole or not at all.
        title: the first line.

    Raises:
        InputError: if the model is not of text.
    """
    if not isinstance(model.decoder, SymbolDecoder):
        raise InputError(f"these samples are no text: the model has a {type(model.decoder).__name__}")
    parts = [f"--- sample {number} ---\n{text}\n" for number, text in enumerate(model.decoder.texts(x), 1)]
    write_whole(path, "".join([f"{title}\n" if title else "", *parts]))
