"""Charts as SVG, drawn from plain numbers: curves, bars, histograms and scatter plots.

A chart is 360 units wide, about as wide as a telephone, so that its text can be read there. Its colours are variables
of the page's style.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .html import Html, element, joined

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 12, 34
"""The margins around the part of a chart in which the data are."""
COLOURS = 8
MOST_POINTS = 250
"""The most points of a curve; of a longer one, every so many-th is drawn."""
LARGEST = 1e300
"""The largest end of an axis, so that the length of an axis is a number, too."""
NARROWEST = 1e-9
"""The least length of an axis, as a share of its larger end, so that floats between its ends differ."""


class Curve(NamedTuple):
    """A curve of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False


class Axis:
    """An axis: it maps values to places, and chooses where the numbers are.

    Args:
        low, high: the ends in values; ends that are equal, or nearly so, are moved apart.
        start, end: their places in units of the chart.
        log: whether equal ratios are equal distances.
    """

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False) -> None:
        self.low, self.high = apart(low, high, log)
        self.start, self.end, self.log = start, end, log

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(max(value, 1e-300))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """The values at which numbers are drawn: round ones, and powers of ten where they suffice."""
        if self.log and self.high / self.low >= 4:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            factors = (1, 2, 5) if last - first <= 2 else (1,)
            every = max(1, -(-(last - first - 1) // most))
            found = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
            return [value for value in found if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]
        raw = (self.high - self.low) / most
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [step * k for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def apart(low: float, high: float, log: bool = False) -> tuple[float, float]:
    """Two ends of an axis within ±:data:`LARGEST`, moved apart if they are equal or nearly so.

    Numbers below 1e-12 are 0 at a linear axis, so its ends are moved apart if they are nearer than that.
    """
    low, high = (min(max(end, 1 / LARGEST if log else -LARGEST), LARGEST) for end in (low, high))
    size = max(abs(low), abs(high))
    if high - low > max(NARROWEST * size, 0.0 if log else 1e-12):
        return low, high
    return (low / 2, high * 2) if log else (low - max(0.5, 0.1 * size), high + max(0.5, 0.1 * size))


def line_chart(
    curves: Sequence[Curve], x: str, y: str, label: str, log: bool = False, log_x: bool = False,
    y_range: tuple[float, float] | None = None,
) -> Html:  # fmt: skip
    """Curves with their legend.

    Args:
        curves: the curves; points that are not finite, or not positive on a logarithmic axis, are left out.
        x, y: the names of the axes.
        label: what the chart shows, for screen readers.
        log, log_x: whether the axes are logarithmic.
        y_range: the smallest range of y; the default is that of the points.
    """
    drawn = [curve._replace(points=_drawable(curve.points, log, log_x)) for curve in curves]
    drawn = [curve for curve in drawn if curve.points]
    if not drawn:
        return element("p", f"{label}: there are no finite numbers to draw.", class_="note")
    xs, ys = ([point[i] for curve in drawn for point in curve.points] for i in (0, 1))
    ys += list(y_range or ())
    low, high = min(ys), max(ys)
    pad = 0.0 if log or y_range else 0.05 * (high - low)
    across = Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, log_x)
    up = Axis(low - pad, high + pad, HEIGHT - BOTTOM, TOP, log)
    lines = [_polyline(curve, across, up) for curve in drawn]
    legend = [(curve.name, f"k{curve.colour % COLOURS}") for curve in drawn if curve.name]
    return joined([_legend(legend), _svg(label, axes(across, up, x, y), *lines)])


def _drawable(points: Sequence[tuple[float, float]], log: bool, log_x: bool) -> list[tuple[float, float]]:
    good = [
        (a, b) for a, b in points
        if math.isfinite(a) and math.isfinite(b) and (b > 0 or not log) and (a > 0 or not log_x)
    ]  # fmt: skip
    every = -(-len(good) // MOST_POINTS)
    return good if every < 2 else [*good[::every], good[-1]]


def _polyline(curve: Curve, across: Axis, up: Axis) -> Html:
    points = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in curve.points)
    colour = f"k{curve.colour % COLOURS}"
    if len(curve.points) == 1:
        a, b = curve.points[0]
        return element("circle", cx=across(a), cy=up(b), r=3, class_=f"fill {colour}")
    return element("polyline", points=points, class_=f"curve {colour}{' dashed' if curve.dashed else ''}")


def bar_chart(
    bars: Sequence[tuple[str, float, float | None]], x: str, y: str, label: str
) -> Html:  # fmt: skip
    """Upright bars with their standard errors.

    Args:
        bars: the name, the height and the error of each; a height or an error that is not finite is drawn as 0.
        x, y, label: as in :func:`line_chart`.
    """
    heights = [(_finite(value), _finite(error)) for _, value, error in bars]
    up = Axis(min(0.0, *(v - e for v, e in heights)), max(0.0, *(v + e for v, e in heights)), HEIGHT - BOTTOM, TOP)
    across = Axis(0, len(bars), LEFT, WIDTH - RIGHT)
    width, parts = across(1) - across(0), [axes(across, up, "", y, ticks_x=False)]
    for place, ((name, value, _), (height, error)) in enumerate(zip(bars, heights, strict=True)):
        top, zero, middle = up(height), up(0.0), across(place + 0.5)
        bar = element(
            "rect", x=across(place) + 0.1 * width, y=min(top, zero), width=0.8 * width, height=abs(top - zero),
            class_="fill k0",
        )  # fmt: skip
        parts.append(element("g", element("title", f"{name}: {value:.4g}"), bar))
        if error:
            parts.append(element("line", x1=middle, x2=middle, y1=up(height - error), y2=up(height + error),
                                 class_="error"))  # fmt: skip
        parts.append(element("text", name, x=middle, y=HEIGHT - BOTTOM + 13, text_anchor="middle"))
        if len(bars) <= 4:  # where there is room
            top = min(zero, up(height + error)) - 4
            parts.append(element("text", short(value), x=middle, y=top, text_anchor="middle", class_="name"))
    parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=up(0.0), y2=up(0.0), class_="zero"))
    parts.append(element("text", x, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 4, text_anchor="middle"))
    return _svg(label, *parts)


def _finite(value: float | None) -> float:
    return 0.0 if value is None or not math.isfinite(value) else value


def steps_chart(
    shares: Sequence[Sequence[float]], edges: Sequence[float], names: Sequence[str], x: str, label: str
) -> Html:  # fmt: skip
    """Histograms over each other: the first one as an area, the others as lines.

    Args:
        shares: the heights of each, one fewer than ``edges``.
        edges: the edges of the bins, rising.
        names: the names of the histograms.
        x, label: as in :func:`line_chart`.
    """
    across = Axis(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    up = Axis(0.0, max(max(part) for part in shares) * 1.05, HEIGHT - BOTTOM, TOP)
    parts = []
    for number, heights in enumerate(shares):
        corners = [f"M{across(edges[0]):.1f} {up(0):.1f}"]
        for k, height in enumerate(heights):
            corners.append(f"V{up(height):.1f}H{across(edges[k + 1]):.1f}")
        corners.append(f"V{up(0):.1f}")
        parts.append(element("path", d="".join(corners), class_="area" if number == 0 else f"curve k{number - 1}"))
    legend = [(name, "data" if number == 0 else f"k{number - 1}") for number, name in enumerate(names)]
    return joined([_legend(legend), _svg(label, *parts, axes(across, up, x, "share"))])


def shares_chart(
    values: Sequence[str], shares: Sequence[Sequence[float]], names: Sequence[str], label: str
) -> Html:  # fmt: skip
    """Lying bars of the shares of categories, one group of bars for each category.

    Args:
        values: the categories.
        shares: the shares of each group, each as long as ``values``.
        names: the names of the groups; the first has the colour of data.
        label: as in :func:`line_chart`.
    """
    left, line = 110, 11
    pitch = line * len(shares) + 8
    height = TOP + pitch * len(values) + BOTTOM
    across = Axis(0.0, max(max(part) for part in shares) or 1.0, left, WIDTH - RIGHT - 8)
    parts = []
    for place, value in enumerate(values):
        top = TOP + place * pitch
        cut = value if len(value) <= 16 else f"{value[:15]}…"
        middle = top + line * len(shares) / 2 + 4
        parts.append(
            element("text", element("title", value), cut, x=left - 6, y=middle, text_anchor="end", class_="name")
        )
        for number, part in enumerate(shares):
            bar = element("rect", x=left, y=top + number * line, width=across(part[place]) - left, height=line - 1,
                          class_=f"fill {'data' if number == 0 else f'k{number - 1}'}")  # fmt: skip
            parts.append(element("g", element("title", f"{value}, {names[number]}: {part[place]:.1%}"), bar))
    for tick in across.ticks():
        parts.append(element("text", f"{tick:.3g}", x=across(tick), y=height - BOTTOM + 13, text_anchor="middle"))
    parts.append(element("text", "share", x=(left + WIDTH) / 2, y=height - 4, text_anchor="middle"))
    parts.append(element("line", x1=left, x2=left, y1=TOP - 2, y2=height - BOTTOM, class_="zero"))
    legend = [(name, "data" if number == 0 else f"k{number - 1}") for number, name in enumerate(names)]
    return joined([_legend(legend), _svg(label, *parts, height=height)])


def scatter_chart(
    groups: Sequence[np.ndarray], names: Sequence[str], x: str, y: str, label: str, square: bool = False,
    like: np.ndarray | None = None,
) -> Html:  # fmt: skip
    """Points of several groups; the axes show where the middle 99 % of the first group are, and a little more.

    Args:
        groups: points ``(N, 2)``; the first group is drawn below the others.
        names: the names of the groups.
        x, y, label: as in :func:`line_chart`.
        square: whether both axes have one scale.
        like: points that the axes follow in the place of the first group.
    """
    ends = [frame_of(values) for values in (groups[0] if like is None else like).T]
    height = HEIGHT + 60
    if square:
        half = max(high - low for low, high in ends) / 2
        ends = [((low + high) / 2 - half, (low + high) / 2 + half) for low, high in ends]
        height = WIDTH - LEFT - RIGHT + TOP + BOTTOM
    across, up = Axis(*ends[0], LEFT, WIDTH - RIGHT), Axis(*ends[1], height - BOTTOM, TOP)
    parts = [axes(across, up, x, y, height=height)]
    for number, points in enumerate(groups):
        colour = "data" if number == 0 else f"k{number - 1}"
        inside = [p for p in points if across.low <= p[0] <= across.high and up.low <= p[1] <= up.high]
        dots = "".join(f"M{across(a):.1f} {up(b):.1f}h0" for a, b in inside)
        parts.append(element("path", d=dots, class_=f"stroke {colour}", fill="none", stroke_width=3.2,
                             stroke_linecap="round", opacity=0.75 if number == 0 else 0.55))  # fmt: skip
    legend = [(name, "data" if number == 0 else f"k{number - 1}") for number, name in enumerate(names) if name]
    return joined([_legend(legend), _svg(label, *parts, height=height)])


def frame_of(values: np.ndarray) -> tuple[float, float]:
    """The range of the middle 99 % of numbers, a tenth wider on both sides."""
    finite = np.clip(values[np.isfinite(values)], -LARGEST, LARGEST)
    if not len(finite):
        return 0.0, 1.0
    low, high = np.quantile(finite, [0.005, 0.995]).tolist()
    pad = 0.1 * (high - low)
    return apart(low - pad, high + pad)


def axes(across: Axis, up: Axis, x: str, y: str, height: int = HEIGHT, ticks_x: bool = True) -> Html:
    """Lines at round numbers, these numbers, and the names of the axes."""
    parts = []
    for value in up.ticks():
        parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=up(value), y2=up(value), class_="axis"))
        parts.append(element("text", short(value), x=LEFT - 5, y=up(value) + 4, text_anchor="end"))
    for value in across.ticks() if ticks_x else ():
        parts.append(element("text", short(value), x=across(value), y=height - BOTTOM + 13, text_anchor="middle"))
        parts.append(
            element("line", x1=across(value), x2=across(value), y1=height - BOTTOM, y2=height - BOTTOM + 3,
                    class_="zero")
        )  # fmt: skip
    parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=height - BOTTOM, y2=height - BOTTOM, class_="zero"))
    if x:
        parts.append(element("text", x, x=(LEFT + WIDTH - RIGHT) / 2, y=height - 4, text_anchor="middle"))
    if y:
        middle = (TOP + height - BOTTOM) / 2
        parts.append(element("text", y, x=9, y=middle, text_anchor="middle", transform=f"rotate(-90 9 {middle:.1f})"))
    return joined(parts)


def short(value: float) -> str:
    """A number at an axis in a few letters."""
    if value == 0 or abs(value) < 1e-12:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _legend(entries: Sequence[tuple[str, str]]) -> Html:
    if not entries:
        return Html()
    return element("ul", *(element("li", name, class_=colour) for name, colour in entries), class_="legend")


def _svg(label: str, *parts: Html, height: int = HEIGHT) -> Html:
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=label)
