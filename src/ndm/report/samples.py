"""Samples beside test rows: images with their nearest training rows, points in the plane, windows of text."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..evaluation.canvas import spread
from ..evaluation.figures import Plane
from ..symbols import SymbolDecoder
from .charts import frame_of, scatter_chart, steps_chart
from .html import Html, element, figure, head, joined, note, side_by_side
from .images import colours, png_address, shown_range
from .subject import Subject

COMPARED = 60_000
"""The most training rows among which the nearest is looked for."""
BLOCK = 2**23
"""The most numbers of training rows that are looked at together."""


class Nearest(NamedTuple):
    """The nearest training rows of N rows."""

    distance: Tensor
    """``(N,)``, Euclidean, in data units."""
    rows: Tensor
    """``(N, *)``."""


def samples(subject: Subject) -> Html:
    """The samples of a run beside its test rows."""
    if subject.kind == "image":
        return images(subject)
    return texts(subject) if subject.kind == "text" else points(subject)


def nearest(x: Tensor, train: Tensor) -> Nearest:
    """The training rows that are nearest to rows ``x``, ``(N, *)``."""
    flat = x.flatten(1).double()
    best, index = torch.full((len(x),), torch.inf, dtype=torch.float64), torch.zeros(len(x), dtype=torch.long)
    size, start = max(1, BLOCK // flat.shape[1]), 0
    for block in train.split(size):
        distance, place = torch.cdist(flat, block.flatten(1).double()).min(1)
        index = torch.where(distance < best, start + place, index)
        best, start = torch.minimum(best, distance), start + len(block)
    return Nearest(best, train[index])


def images(subject: Subject) -> Html:
    """Images with the nearest training row of each below it."""
    drawn, train, parts = subject.samples, spread(subject.dataset.train, COMPARED), []
    low, high = shown_range(spread(subject.dataset.train, 256), subject.model.decoder.levels)
    among = f"the nearest of {len(train):,} training rows"
    medians = {}
    groups = {"samples": drawn}
    if len(subject.dataset.test):
        groups = {"test rows": subject.test(len(drawn))} | groups
    for name, rows in groups.items():
        found = nearest(rows, train)
        medians[name] = found.distance.median().item()
        word = "sample" if name == "samples" else "test row"
        pairs = [
            element(
                "div", _image(a, f"{word} {k + 1}"),
                _image(b, f"nearest training row of {word} {k + 1}"), f"{distance:.3g}", class_="pair",
            )
            for k, (a, b, distance) in enumerate(
                zip(colours(rows, low, high), colours(found.rows, low, high), found.distance.tolist(), strict=True)
            )
        ]  # fmt: skip
        title = f"Samples, and below each {among}" if name == "samples" else f"Test rows, and below each {among}"
        parts += [head(title), element("div", *pairs, class_="grid")]
    texts = [f"The median distance of the {name} is {value:.3g}." for name, value in medians.items()]
    if len(medians) < 2:
        texts.append("The data have no test rows to compare with.")
    words = (
        f"The samples were drawn by {subject.how_sampled}. The number below is the Euclidean distance in data units. "
        f"{' '.join(texts)} Copies of training rows would be much nearer than test rows are."
    )
    return joined([*parts, note(words)])


def _image(pixels: np.ndarray, alt: str) -> Html:
    return element("img", src=png_address(pixels), alt=alt, class_="smooth" if pixels.shape[0] > 40 else None)


def points(subject: Subject) -> Html:
    """Rows of numbers as a scatter plot, or as histograms if there is one number in a row."""
    drawn, test = subject.samples.flatten(1), subject.test(len(subject.samples)).flatten(1)
    names, words = ["test rows", "samples"], f"The samples were drawn by {subject.how_sampled}."
    if drawn.shape[1] == 1:
        edges = np.linspace(*frame_of(test.double().numpy()), 41)
        shares = [(np.histogram(x.double().numpy(), edges)[0] / len(x)).tolist() for x in (test, drawn)]
        return figure(steps_chart(shares, list(edges), names, "x", "test rows and samples"), words)
    plane = Plane.of(test, 0.1, "data units")
    both = [plane.project(test), plane.project(drawn)]
    charts = [
        figure(scatter_chart(both[:1], names[:1], *plane.names, "test rows", square=True), f"{len(test)} test rows."),
        figure(scatter_chart(both, names, *plane.names, "samples over test rows", square=True),
               f"{len(drawn)} samples over the same test rows. {words}"),
    ]  # fmt: skip
    return side_by_side(*charts)


def texts(subject: Subject) -> Html:
    """Windows of sampled text beside windows of test text."""
    decoder = subject.model.decoder
    assert isinstance(decoder, SymbolDecoder)
    groups = {"sampled windows": subject.samples}
    if len(subject.dataset.test):
        groups["test windows"] = subject.test(len(subject.samples))
    columns = []
    for name, rows in groups.items():
        windows = [element("pre", window, class_="wrap") for window in decoder.texts(rows)]
        columns.append(element("div", head(name.capitalize()), *windows))
    return joined(
        [element("div", *columns, class_="windows"), note(f"The samples were drawn by {subject.how_sampled}.")]
    )
