"""Grids of images, pixel for pixel: a pixel of an image becomes a square of k x k pixels, with a whole number k."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from torch import Tensor

from ..errors import InputError
from ..model import NDM
from ..support.tensors import full_times
from .canvas import LETTER, LINE, axes_at, check_groups, drawing, put_bar, wrapped, write_lines

SMALLEST = 48
"""The number k is the smallest for which the longer side of an image has this many pixels."""
LARGEST = 6000
"""The most pixels of a panel in each direction; only as many images are drawn as fit."""
NARROWEST = 420
"""The smallest width of a picture, which leaves room for its title."""
MARGIN, GAP = 12, 2
FRAME = 176
"""The grey of the frame around each image, which separates black images and white ones alike."""
BAR = 96
"""The width of a colour bar with its numbers and its label."""


class Panel(NamedTuple):
    """Images under a label."""

    label: list[str]
    pixels: np.ndarray
    """``(height, width, 3)``, 8 bits."""

    @property
    def width(self) -> int:
        """The width of the images or of the label, whichever is wider."""
        return max(self.pixels.shape[1], *(math.ceil(LETTER * len(line)) for line in self.label), 1)


def draw_samples(groups: dict[str, Tensor], path: Path, levels: int | None = None, title: str = "") -> None:
    """Draw images ``(N, C, H, W)`` in data units, each group in its own panel.

    Args:
        groups: the images of each panel by its label. All have one shape, and no group is empty.
        path: file of the picture.
        levels: number of values that an element can take. None stands for real numbers; then the grey scale covers the
            values of the first group.
        title: title of the picture.

    Raises:
        InputError: if the shapes are others, a group is empty, or a single image is too large for a picture.
    """
    check_groups(groups)
    first = next(iter(groups.values()))
    if not fits(first):
        raise InputError(
            f"a grid shows at least one image, (N, C, H, W), of at most {LARGEST} pixels, got {tuple(first.shape)}"
        )
    low, high = finite_range(first) if levels is None else (0.0, float(levels - 1))
    scale, most = scale_of(first), max(len(x) for x in groups.values())
    height, width = size_of(first)
    columns = min(max(8, math.isqrt(most - 1) + 1), LARGEST // width)
    rows = min(-(-most // columns), LARGEST // height)
    panels = []
    for label, x in groups.items():
        shown = x[: rows * columns]
        pixels = tile(to_bytes(shown, low, high), rows, scale)
        panels.append(Panel(wrapped(label + remarks(x, shown), max(pixels.shape[1], 14 * LETTER)), pixels))
    note = f"{low:.4g} is black and {high:.4g} is white"
    if levels is None:
        note += f", the range of the {next(iter(groups))}; values beyond are cut"
    if first.shape[1] not in (1, 3):
        note += f"; the {first.shape[1]} channels of an image stand side by side"
    draw_panels(panels, path, title, note)


def fits(x: Tensor) -> bool:
    """Whether rows are images that :func:`draw_samples` can draw."""
    return x.ndim == 4 and x.numel() > 0 and max(size_of(x)) <= LARGEST


def size_of(x: Tensor) -> tuple[int, int]:
    """Height and width of an image in the picture, with its frame."""
    _, channels, height, width = x.shape
    return scale_of(x) * height + GAP, scale_of(x) * width * (1 if channels == 3 else channels) + GAP


def scale_of(x: Tensor) -> int:
    """The number k: one pixel of the images becomes k x k pixels."""
    return -(-SMALLEST // max(x.shape[2:]))


def remarks(x: Tensor, shown: Tensor) -> str:
    """What a label says about images that are not shown, or not finite."""
    found = [f"the first {len(shown)} of {len(x)}"] if len(shown) < len(x) else []
    broken = int((~torch.isfinite(shown)).flatten(1).any(1).sum())
    found += [f"{broken} not finite"] if broken else []
    return f" ({', '.join(found)})" if found else ""


def finite_range(x: Tensor) -> tuple[float, float]:
    """The smallest and the largest of the finite values; (0, 1) if there is none."""
    values = x[torch.isfinite(x)]
    return (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)


def to_bytes(x: Tensor, low: float, high: float) -> np.ndarray:
    """Images ``(N, C, H, W)`` as 8-bit colours ``(N, H, W, 3)``: ``low`` is black, and ``high`` white.

    If the images have neither one channel nor three, their channels stand side by side in grey.
    """
    share = (x.cpu().double() - low) / ((high - low) or 1.0)
    grey = torch.nan_to_num(share, nan=0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    n, channels, height, width = grey.shape
    if channels == 3:
        return grey.permute(0, 2, 3, 1).numpy()
    side_by_side = grey.permute(0, 2, 1, 3).reshape(n, height, channels * width)
    return side_by_side[..., None].expand(-1, -1, -1, 3).numpy()


def tile(images: np.ndarray, rows: int, scale: int) -> np.ndarray:
    """One array ``(height, width, 3)`` of images ``(N, H, W, 3)``, in at most that many rows, each in a grey frame."""
    images = images.repeat(scale, 1).repeat(scale, 2)
    n, height, width, _ = images.shape
    columns = max(1, -(-n // rows))
    down, across = height + GAP, width + GAP
    sheet = np.full((min(rows, -(-n // columns)) * down + GAP, columns * across + GAP, 3), 255, np.uint8)
    for k, image in enumerate(images):
        top, left = (k // columns) * down, (k % columns) * across
        sheet[top : top + down + GAP, left : left + across + GAP] = FRAME
        sheet[top + GAP : top + down, left + GAP : left + across] = image
    return sheet


def draw_panels(
    panels: list[Panel], path: Path, title: str, note: str, bar: ScalarMappable | None = None, unit: str = ""
) -> None:
    """Draw panels side by side, with the title above, the note below and perhaps a colour bar and its unit."""
    inner = sum(panel.width for panel in panels) + MARGIN * (len(panels) - 1) + (BAR if bar else 0)
    width = max(NARROWEST, inner + 2 * MARGIN)
    head, foot = wrapped(title, width - 2 * MARGIN), wrapped(note, width - 2 * MARGIN)
    labels = max(len(panel.label) for panel in panels)
    sheets = MARGIN + LINE * (len(head) + labels) + (MARGIN if head else 0)
    tallest = max(panel.pixels.shape[0] for panel in panels)
    height = sheets + tallest + MARGIN // 2 + LINE * len(foot) + MARGIN
    with drawing(path, title, width, height) as figure:
        write_lines(figure, head, MARGIN, MARGIN)
        write_lines(figure, foot, MARGIN, sheets + tallest + MARGIN // 2, color="0.35")
        left = MARGIN
        for panel in panels:
            write_lines(figure, panel.label, left, sheets - LINE * len(panel.label))
            figure.figimage(panel.pixels, left, height - sheets - panel.pixels.shape[0], origin="upper")
            left += panel.width + MARGIN
        if bar:
            write_lines(figure, [unit], left, sheets - LINE)
            put_bar(figure, bar, cax=axes_at(figure, left, sheets, 12, tallest))


@torch.no_grad()
def draw_transform(model: NDM, x: Tensor, path: Path, columns: int = 9, title: str = "") -> None:
    """Draw one row per image, with F(x, t) from t = 0 to 1 and, at the right, the difference F(x, 1) - x.

    Args:
        model: the model.
        x: images in data units, ``(N, C, H, W)``.
        path: file of the picture.
        columns: number of times t, at least 2.
        title: title of the picture.

    Raises:
        InputError: if the rows are no images, or there are too few times.
    """
    if not fits(x) or columns < 2:
        raise InputError(
            f"the transform is drawn for images (N, C, H, W) at two times or more, got {tuple(x.shape)} and {columns}"
        )
    shown = x[: LARGEST // size_of(x)[0]]
    process, encoded = model.process, model.encode(shown.to(model.reference.device))
    q = process(encoded)
    times, frames = [i / (columns - 1) for i in range(columns)], []
    for time in times:
        frames.append(q.moved(full_times(time, encoded)).cpu())
    low, high = finite_range(torch.stack(frames))
    scale, rows = scale_of(x), len(shown)
    panels = [
        Panel([f"t={t:.4g}"], tile(to_bytes(f, low, high), rows, scale)) for t, f in zip(times, frames, strict=True)
    ]
    change = (frames[-1] - frames[0]).mean(1)
    limit = float(torch.nan_to_num(change).abs().max()) or 1.0
    colours = ScalarMappable(Normalize(-limit, limit), colormaps["coolwarm"])
    pixels = colours.to_rgba(change.flatten().numpy(), bytes=True)[:, :3].reshape(*change.shape, 3)
    panels.append(Panel(["F(x,1)-x"], tile(pixels, rows, scale)))
    note = f"F(x, t) in model units: {low:.4g} is black and {high:.4g} is white{remarks(x, shown)}"
    if x.shape[1] > 1:
        note += "; F(x, 1) - x is the mean over the channels"
    draw_panels(panels, path, title, note, colours, "model units")
