"""Figures that do not depend on the user's matplotlib: own style, no pyplot, no backend chosen, files written whole.

Text is set in a monospaced font, so that its width in pixels is known before it is drawn.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from torch import Tensor

from ..errors import InputError
from ..support.files import whole_file

DPI = 128
"""A power of two: a number of pixels divided by it and multiplied by it again is exactly the same number."""
LETTER, LINE = 7.3, 16
"""Width of a letter and height of a line of text, in pixels."""
FONT: dict[str, Any] = {"family": "monospace", "size": LETTER / 0.602 * 72 / DPI, "parse_math": False}
"""The font of all text; 0.602 is the width of a letter of DejaVu Sans Mono at size one."""
TICKS = 7
"""Size of the numbers at an axis."""
MOST_LINES = 12
"""The largest number of lines of a title."""


@contextmanager
def drawing(path: Path, title: str, width: float, height: float, constrained: bool = False) -> Iterator[Figure]:
    """A white figure of ``width`` x ``height`` pixels, which is written to a PNG at the end.

    The file holds the title as text, too. It is never half written.

    Args:
        path: the file.
        title: the title that the file records.
        constrained: arrange axes so that no text is cut.
    """
    with style.context("default"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # names in any script are drawn as boxes
        layout: Any = "constrained" if constrained else None
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white", layout=layout)
        FigureCanvasAgg(figure)
        yield figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Title": printable(title) or "ndm", "Software": "ndm"})
    with whole_file(path) as partial_file:
        partial_file.write_bytes(buffer.getvalue())


def printable(text: str) -> str:
    """The text with a question mark for every character that cannot be drawn, such as a control character."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def wrapped(text: str, width: float) -> list[str]:
    """The lines of a text that is ``width`` pixels wide; the middle of a text of very many lines is left out."""
    letters = max(8, int(width / LETTER))
    lines = textwrap.wrap(printable(text), letters, break_on_hyphens=False)
    if len(lines) > MOST_LINES:
        half = MOST_LINES // 2
        lines = [*lines[:half], "...", *lines[-half:]]
    return lines


def write_lines(figure: Figure, lines: list[str], left: float, top: float, **options: Any) -> None:
    """Write lines of text, the first at ``top`` pixels below the upper edge."""
    width, height = figure.get_size_inches() * DPI
    for k, line in enumerate(lines):
        figure.text(left / width, 1 - (top + k * LINE) / height, line, va="top", **FONT | options)


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes that cover a rectangle in pixels; ``top`` is counted from the upper edge."""
    across, down = figure.get_size_inches() * DPI
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def put_bar(figure: Figure, colours: ScalarMappable, label: str = "", **place: Any) -> None:
    """Add a colour bar; ``place`` is as in matplotlib's ``Figure.colorbar``."""
    bar = figure.colorbar(colours, **place)
    bar.ax.tick_params(labelsize=TICKS)
    bar.set_label(label, **FONT)


def check_groups(groups: dict[str, Tensor]) -> None:
    """Refuse groups without rows, or whose rows have different shapes.

    Raises:
        InputError: naming the group.
    """
    (first, like), *others = groups.items()
    for label, x in groups.items():
        if len(x) == 0:
            raise InputError(f"there are no rows to draw in {label!r}")
    for label, x in others:
        if x.shape[1:] != like.shape[1:]:
            shapes = f"{tuple(like.shape[1:])} and {tuple(x.shape[1:])}"
            raise InputError(f"the rows of {first!r} and {label!r} must have one shape, got {shapes}")


def spread(x: Tensor, n: int) -> Tensor:
    """At most ``n`` rows of ``x``, evenly spread, because rows may be sorted by class."""
    n = min(n, len(x))
    return x[torch.arange(n) * len(x) // max(n, 1)]
