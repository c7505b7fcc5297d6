"""Pictures with a time slider: strips of images, and points in the plane with their paths and contours.

All frames are in the page. A strip is one picture with the frames side by side, of which one is seen. Points have their
places in a block of JSON. The slider is an ``input`` of HTML, so it is moved by mouse, touch and keyboard.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..evaluation import backend  # noqa: F401  # isort: skip  # before anything imports matplotlib
from matplotlib.figure import Figure

from .html import Html, element, figure
from .images import png_address

SIDE = 360
"""Width and height of a picture of points, in units of SVG."""
SHARES = (0.03, 0.15, 0.5)
"""The contours of a density, as shares of its peak."""


class Frame(NamedTuple):
    """The part of the plane that a picture shows: ``middle - half`` to ``middle + half`` in both directions."""

    middle: np.ndarray
    half: float

    @classmethod
    def of(cls, points: np.ndarray, margin: float = 0.1) -> Frame:
        """The frame of points ``(N, 2)``, with a margin as a share of their range."""
        low, high = np.quantile(points, [0.002, 0.998], axis=0)
        return cls((low + high) / 2, float((high - low).max()) * (0.5 + margin) or 1.0)

    def places(self, points: np.ndarray) -> np.ndarray:
        """Points ``(*, 2)`` in units of SVG, whose second axis points down."""
        share = (points - self.middle) / (2 * self.half) * np.array([1, -1]) + 0.5
        return share * SIDE

    def grid(self, count: int) -> np.ndarray:
        """``(count, count, 2)`` points of the frame, one row for each second coordinate."""
        first, second = (np.linspace(m - self.half, m + self.half, count) for m in self.middle)
        return np.stack(np.meshgrid(first, second), axis=-1)


def contours(frame: Frame, density: np.ndarray) -> list[str]:
    """The paths of the contours of a density on ``frame.grid``, one for each of ``SHARES``."""
    grid = frame.grid(len(density))
    levels = [share * float(density.max()) for share in SHARES]
    if not density.max() > 0:
        return [""] * len(levels)
    drawn = Figure().subplots().contour(grid[..., 0], grid[..., 1], density, levels)
    return ["".join(map(lambda line: _path(frame.places(line)), lines)) for lines in drawn.allsegs]  # noqa: C417


def _path(places: np.ndarray) -> str:
    return "M" + "L".join(f"{a:.0f} {b:.0f}" for a, b in places)


def moving_points(
    points: np.ndarray, frame: Frame, times: Sequence[float], caption: str, label: str, start: int = 0,
    trails: bool = False, densities: Sequence[np.ndarray] = (), names: Sequence[str] = (),
) -> Html:  # fmt: skip
    """Points that move with a slider.

    Args:
        points: their places, ``(T, N, 2)``.
        frame: the part of the plane that is shown.
        times: the time of each place, ``(T,)``.
        caption: the text below.
        label: what the picture shows, for screen readers.
        start: the place of the slider at first.
        trails: whether the path from the first place on is drawn.
        densities: a density on a grid for each time, whose contours are drawn.
        names: what is written in the place of a dot at each point.
    """
    places = frame.places(np.nan_to_num(points)).round(1)
    lines = [contours(frame, density) for density in densities]
    shown = [element("path", d=path, class_="contour") for path in (lines[start] if lines else ())]
    if trails:
        paths = (places[: start + 1, k].flatten() for k in range(places.shape[1]))
        shown += [element("polyline", points=" ".join(map(_number, path)), class_="trail") for path in paths]
    for k, (a, b) in enumerate(places[start]):
        at = {"x": _number(a), "y": _number(b)} if names else {"cx": _number(a), "cy": _number(b)}
        shown.append(
            element("text", names[k], class_="symbol", **at) if names
            else element("circle", r=2.6, class_="point", **at)
        )  # fmt: skip
    picture = element(
        "svg", *shown, viewBox=f"0 0 {SIDE} {SIDE}", role="img", aria_label=label, style="overflow:hidden"
    )
    data = {"points": [[_float(v) for v in places[:, k].flatten()] for k in range(places.shape[1])], "contours": lines}
    block = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    script = element("script", Html(block), type="application/json")
    return figure(Html(slider(times, start, label) + picture + script), caption, class_="moving points")


def _float(value: float) -> float:
    return int(value) if value == int(value) else float(value)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def moving_images(
    rows: Sequence[tuple[str, np.ndarray]], times: Sequence[float], caption: str, label: str, start: int = 0
) -> Html:
    """Images that change with a slider, in rows.

    Args:
        rows: the name of each row, and its images as 8-bit colours, ``(T, N, H, W, 3)``.
        times: the time of each image, ``(T,)``.
        caption, label, start: as in :func:`moving_points`.
    """
    parts: list[Html] = []
    for name, frames in rows:
        count, columns, height, width, _ = frames.shape
        parts.append(element("span", name))
        for k in range(columns):
            sheet = frames[:, k].transpose(1, 0, 2, 3).reshape(height, count * width, 3)
            image = element("img", src=png_address(sheet), alt=f"{name}, image {k + 1}")
            parts.append(element("div", image, class_="strip", style=f"--ratio:{width}/{height}"))
    grid = element("div", *parts, class_="strips", style=f"--columns:{columns};--frames:{len(times)}")
    whole = Html(slider(times, start, label) + grid)
    return figure(whole, caption, class_="moving", style=f"--frame:{start}")


def slider(times: Sequence[float], start: int, label: str) -> Html:
    """An input that chooses one of the times."""
    texts = [f"{time:.2f}" for time in times]
    control = element(
        "input", type="range", min=0, max=len(times) - 1, value=start, step=1, data_times=" ".join(texts),
        aria_label=f"time t: {label}",
    )  # fmt: skip
    return element("div", control, element("output", f"t = {texts[start]}"), class_="slider")
