r"""How the points of symbols move, and in which order noise makes them one.

Two symbols k and l can be told apart at time t as far as noise lets one: the share of wrong guesses is
:math:`\Phi(-r_{kl}(t))` with

.. math:: r_{kl}(t) = \frac{\alpha_t\, |e_k(t) - e_l(t)|}{2 \sigma_t}

They have merged at the first t from which on r is below 1, where about one guess in six is wrong. Groups of symbols
merge when the first of their pairs does (single linkage). What merges last is decided first when samples are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import backend  # noqa: F401  # isort: skip  # before anything imports matplotlib
from ..embedding import Embedding
from ..errors import InputError
from ..model import NDM
from .canvas import FONT, LINE, TICKS, drawing, printable

TIMES, MOST = 201, 80
"""The number of times that are looked at, and the most symbols of a picture."""
PANEL = 620
"""Width and height of a panel in pixels."""


class Merger(NamedTuple):
    """Two groups of symbols that become one."""

    time: float
    """The time; 1 if they never do."""
    first: tuple[int, ...]
    second: tuple[int, ...]


class Moves(NamedTuple):
    """The paths of the symbols of one alphabet."""

    times: Tensor
    """``(T,)``, from 0 to 1."""
    means: Tensor
    """:math:`\\alpha_t e_k(t)`, ``(T, V, dim)``."""
    mergers: list[Merger]
    """In the order of time, ``V - 1``."""


@torch.no_grad()
def moves(model: NDM) -> Moves:
    """The paths of the symbols of a model with one alphabet, and when they merge.

    Raises:
        InputError: if the model has no embedding, or several alphabets.
    """
    embedding = model.process.transform
    if not isinstance(embedding, Embedding) or len(embedding.levels) != 1:
        raise InputError("only models with an embedding of one alphabet have symbols that move")
    times = torch.linspace(0, 1, TIMES, dtype=model.reference.dtype, device=model.reference.device)
    noise = model.process.schedule(times)
    means = noise.alpha[:, None, None] * embedding.points_at(model.process.curve_time(times, noise)[0])
    apart = torch.stack([torch.cdist(e, e) for e in means]) / (2 * noise.sigma[:, None, None])
    told = (apart >= 1).flip(0).int().argmax(0)  # how many times before the last one, from the end
    last = torch.where((apart >= 1).any(0), TIMES - told, 0)  # the first time from which on r is below 1
    merged = (last / (TIMES - 1)).clamp(max=1).cpu().double().numpy()
    return Moves(times.cpu(), means.cpu(), single_linkage(merged))


def single_linkage(times: np.ndarray) -> list[Merger]:
    """The mergers of groups, given when each pair merges, ``(V, V)``."""
    groups: dict[int, tuple[int, ...]] = {symbol: (symbol,) for symbol in range(len(times))}
    found = []
    first, second = np.triu_indices(len(times), 1)
    for pair in np.argsort(times[first, second], kind="stable"):
        a, b = groups[int(first[pair])], groups[int(second[pair])]
        if a is b:
            continue
        found.append(Merger(float(times[first[pair], second[pair]]), a, b))
        both = (*a, *b)
        groups.update(dict.fromkeys(both, both))
    return found


def names_of(model: NDM) -> list[str]:
    """How reports and pictures show each symbol: its character, or its code."""
    count = model.decoder.levels or 0
    alphabet = getattr(model.decoder, "alphabet", "") or [str(code) for code in range(count)]
    special = {" ": "space", "\n": "newline", "\t": "tab"}
    return [special.get(name, printable(name)) for name in alphabet]


def report_moves(found: Moves, names: Sequence[str], most: int = 8) -> str:
    """The first and the last mergers as text."""
    line = lambda m: f"  {m.time:.3f}  {_group(m.first, names)} + {_group(m.second, names)}"  # noqa: E731
    few = found.mergers[:most], found.mergers[most:][-most:]
    lines = ["symbols that noise makes one, first to last, at time t", *map(line, few[0])]
    if few[1]:
        lines += ["  ...", *map(line, few[1])]
    return "\n".join(lines)


def _group(symbols: Sequence[int], names: Sequence[str]) -> str:
    shown = " ".join(names[symbol] for symbol in sorted(symbols)[:12])
    return shown if len(symbols) <= 12 else f"{shown} ... ({len(symbols)})"


def draw_moves(found: Moves, names: Sequence[str], path: Path, title: str) -> None:
    """Draw the paths in the first two principal directions of all points, and the order of the mergers.

    Of a large alphabet the first symbols are drawn.

    Args:
        found: the paths.
        names: how each symbol is shown.
        path: file of the picture.
        title: its title.
    """
    count = min(MOST, found.means.shape[1])
    flat = found.means.double().flatten(0, 1)
    directions = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:2]
    plane = ((found.means[:, :count].double() - flat.mean(0)) @ directions.T).numpy()
    if plane.shape[2] == 1:
        plane = np.concatenate([plane, np.broadcast_to(found.times.numpy()[:, None, None], plane.shape)], 2)
    size = {**FONT, "size": TICKS}
    with drawing(path, title, 2 * PANEL, PANEL + 2 * LINE, constrained=True) as figure:
        figure.suptitle(printable(title), **FONT)
        paths, tree = figure.subplots(1, 2)
        for k in range(count):
            paths.plot(plane[:, k, 0], plane[:, k, 1], color="0.75", linewidth=0.6)
            paths.text(plane[0, k, 0], plane[0, k, 1], names[k], ha="center", va="center", **size)
        paths.set_title("paths of the symbols' means from t = 0 (names) to 1", **FONT)
        order, heights = leaves(found.mergers, found.means.shape[1]), dict.fromkeys(range(len(names)), 0.0)
        place = {symbol: float(rank) for rank, symbol in enumerate(s for s in order if s < count)}
        for time, first, second in found.mergers:
            ends = [[s for s in group if s in place] for group in (first, second)]
            if not all(ends):
                continue
            at = [float(np.mean([place[s] for s in group])) for group in ends]
            tree.plot([heights[ends[0][0]], time, time, heights[ends[1][0]]], [at[0], *at, at[1]], "k-", linewidth=0.7)
            heights.update(dict.fromkeys((*first, *second), time))
        tree.set_yticks(list(place.values()), [names[s] for s in place], fontsize=TICKS * 0.8, family="monospace")
        tree.set_xlabel("t from which on noise makes them one", **FONT)
        tree.set_xlim(0, 1.02)
        for axes in (paths, tree):
            axes.tick_params(labelsize=TICKS)


def leaves(mergers: Sequence[Merger], count: int) -> list[int]:
    """The symbols in an order in which every group is in one piece."""
    return [*mergers[-1].first, *mergers[-1].second] if mergers else list(range(count))
