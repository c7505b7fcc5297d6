"""Figures with axes: points beside the data, paths of the ODE, a diagnosis."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from ..data.dataset import Distribution
from ..model import NDM
from ..sampling import velocity_field
from ..solvers import heun, uniform_grid
from .canvas import FONT, LINE, TICKS, check_groups, drawing, put_bar, spread, wrapped
from .diagnosis import Diagnosis

MOST_POINTS = 20_000
"""The most points in a panel; more would only take longer to draw."""
PANEL = 520
"""Width and height of a panel in pixels."""
CONTOURS = (0.01, 0.1, 0.5)
"""The contours of an exact density, as shares of its peak."""


class Plane(NamedTuple):
    """The plane on which rows are drawn, and the part of it that is shown.

    One- and two-dimensional rows keep their coordinates. Others are projected on the first two principal directions of
    the reference rows.
    """

    centre: Tensor
    basis: Tensor
    """``(D, 2)``."""
    names: tuple[str, str]
    middle: np.ndarray
    half: float
    """The plane is shown from ``middle - half`` to ``middle + half`` in both directions."""

    @classmethod
    def of(cls, reference: Tensor, margin: float, units: str) -> Plane:
        """The plane of reference rows ``(N, *)``; the shown part extends beyond them by a share of their range."""
        x = reference.flatten(1).cpu().double()
        x = x[torch.isfinite(x).all(1)]
        dim = x.shape[1]
        centre, basis, names = torch.zeros(dim).double(), torch.eye(dim, 2).double(), ("x1", "x2")
        if dim > 2:
            names = ("first principal direction", "second principal direction")
            centre = x.mean(0) if len(x) else centre
            directions = torch.linalg.svd(x - centre, full_matrices=False)[2][:2].T
            basis[:, : directions.shape[1]] = directions
        points = ((x - centre) @ basis).numpy() if len(x) else np.zeros((1, 2))
        low, high = points.min(0), points.max(0)
        half = float((high - low).max()) * (0.5 + margin) or 1.0
        return cls(centre, basis, tuple(f"{name}, {units}" for name in names), (low + high) / 2, half)  # type: ignore[arg-type]

    def project(self, x: Tensor) -> np.ndarray:
        """Rows ``(*, D)`` as points ``(*, 2)``."""
        return ((x.cpu().double() - self.centre) @ self.basis).numpy()

    def inside(self, points: np.ndarray) -> np.ndarray:
        """Whether each point, ``(N, 2)``, is in the part of the plane that is shown."""
        return (np.abs(points - self.middle) <= self.half).all(1)

    def prepare(self, axes: Axes) -> None:
        """Set the limits, the aspect and the names of axes."""
        axes.set_xlim(self.middle[0] - self.half, self.middle[0] + self.half)
        axes.set_ylim(self.middle[1] - self.half, self.middle[1] + self.half)
        axes.set_aspect("equal")
        name_axes(axes, *self.names)


def draw_points(
    groups: dict[str, Tensor], path: Path, distribution: Distribution | None = None, title: str = ""
) -> None:
    """Draw the same number of rows ``(N, *)`` of each group, in data units, one panel per group.

    One-dimensional rows are drawn as histograms. The part of the plane that is shown follows the first group, so that a
    few stray points do not hide the rest; the number of points outside is given.

    Args:
        groups: the rows of each panel by its label. All rows have one shape.
        path: file of the picture.
        distribution: the exact distribution of rows of one or two elements; its density is drawn, too.
        title: title of the picture.

    Raises:
        InputError: if a group has no rows, or the groups' rows have different shapes.
    """
    check_groups(groups)
    plane = Plane.of(next(iter(groups.values())), 0.25, "data units")
    number, dim = min(MOST_POINTS, *(len(x) for x in groups.values())), len(plane.centre)
    note, density = "" if distribution is None or dim > 2 else "black: the exact density", None
    if distribution is not None and dim == 2:
        note += f" at {', '.join(f'{share:.0%}' for share in CONTOURS)} of its peak"
        density = density_on(plane, distribution)
    with drawing(path, title, PANEL * len(groups), PANEL + 2 * LINE, constrained=True) as figure:
        put_title(figure, title, note)
        panels = figure.subplots(1, len(groups), squeeze=False, sharex=True, sharey=True)[0]
        for axes, (label, x) in zip(panels, groups.items(), strict=True):
            points = plane.project(spread(x, number).flatten(1))
            outside = int((~plane.inside(points)).sum())
            label += f": {number} rows" + (f", {outside} of them not in the frame" if outside else "")
            axes.set_title("\n".join(wrapped(label, PANEL - 60)), **FONT)
            if dim == 1:
                draw_histogram(axes, plane, points[:, 0], distribution)
            else:
                draw_cloud(axes, plane, points, density)


def draw_cloud(axes: Axes, plane: Plane, points: np.ndarray, density: np.ndarray | None) -> None:
    """Draw points ``(N, 2)``, smaller and more transparent the more there are, and contours of a density."""
    root = math.sqrt(len(points))
    size, alpha = float(np.clip(120 / root, 2, 15)), float(np.clip(20 / root, 0.1, 0.8))
    x, y = points[plane.inside(points)].T
    axes.scatter(x, y, s=size, alpha=alpha, linewidths=0)
    plane.prepare(axes)
    if density is not None and density.max() > 0:
        x, y = (np.linspace(m - plane.half, m + plane.half, len(density)) for m in plane.middle)
        levels = [share * density.max() for share in CONTOURS]
        axes.contour(x, y, density, levels, colors="black", linewidths=0.6, alpha=0.7)


def density_on(plane: Plane, distribution: Distribution, n: int = 250) -> np.ndarray:
    """The density at ``(n, n)`` points of the part of a plane that is shown, one row for each x2."""
    x, y = (np.linspace(m - plane.half, m + plane.half, n) for m in plane.middle)
    grid = torch.from_numpy(np.stack(np.meshgrid(x, y), axis=-1)).reshape(-1, 2)
    return distribution.log_prob(grid).exp().reshape(n, n).cpu().numpy()


def draw_histogram(axes: Axes, plane: Plane, values: np.ndarray, distribution: Distribution | None) -> None:
    """Draw a histogram of numbers ``(N,)``, and the exact density."""
    low, high = plane.middle[0] - plane.half, plane.middle[0] + plane.half
    axes.hist(values, bins=60, range=(low, high), weights=np.full(len(values), 60 / (high - low) / len(values)))
    if distribution is not None:
        grid = torch.linspace(low, high, 500, dtype=torch.float64)
        axes.plot(grid.numpy(), distribution.log_prob(grid[:, None]).exp().cpu().numpy(), color="black", lw=0.8)
    name_axes(axes, plane.names[0], "density")


def put_title(figure: Figure, title: str, note: str = "") -> None:
    """Put the title over a figure, and a note below it, in as many lines as they need."""
    width = figure.get_figwidth() * figure.dpi - 40
    for text, put in ((title, figure.suptitle), (note, figure.supxlabel)):
        if text:
            put("\n".join(wrapped(text, width)), **FONT)


@torch.no_grad()
def ode_paths(model: NDM, z_1: Tensor, steps: int = 60) -> Tensor:
    """States of the model's ODE on its way from ``z_1`` at t = 1 to t = 0, ``(steps + 1, N, *)``."""
    grid, states = uniform_grid(1.0, 0.0, steps), [z_1]
    for i in range(steps):
        states.append(heun(velocity_field(model), states[-1], grid[i : i + 2]))
    return torch.stack(states)


@torch.no_grad()
def draw_trajectories(
    models: dict[str, NDM], x: Tensor, path: Path, paths: int = 40, seed: int = 0, title: str = ""
) -> None:
    """Draw ODE paths that start from the same noise over the data, one panel per model, in model units.

    Beyond 2-D, paths and data are projected on the first two principal directions of the data. The colour of a path is
    the time t.

    Args:
        models: the models by the title of their panel.
        x: rows in data units, which are drawn in the background.
        path: file of the picture.
        paths: number of paths per panel.
        seed: seed of the noise.
        title: title of the picture.
    """
    with drawing(path, title, PANEL * len(models) + 80, PANEL + 4 * LINE, constrained=True) as figure:
        put_title(figure, title)
        panels = figure.subplots(1, len(models), squeeze=False, sharex=True, sharey=True)[0]
        for axes, (label, model) in zip(panels, models.items(), strict=True):
            data = model.encode(x.to(model.reference.device)).flatten(1)
            noise = torch.randn(paths, *x.shape[1:], generator=torch.Generator().manual_seed(seed))
            states = ode_paths(model, noise.to(model.reference)).flatten(2)
            plane = Plane.of(data, 0.25, "model units")
            points, background = plane.project(states), plane.project(data)
            axes.scatter(background[:, 0], background[:, 1], s=4, color="0.75", linewidths=0, label="data")
            segments = np.stack([points[:-1], points[1:]], axis=2).swapaxes(0, 1).reshape(-1, 2, 2)
            lines = LineCollection(segments.tolist(), linewidths=0.7, cmap="viridis", clim=(0, 1))
            lines.set_array(np.tile(np.linspace(1, 0, len(points))[:-1], paths))
            axes.add_collection(lines)
            axes.scatter(points[0, :, 0], points[0, :, 1], s=8, color="tab:red", label="noise, t = 1", zorder=3)
            axes.scatter(points[-1, :, 0], points[-1, :, 1], s=8, color="black", label="sample, t = 0", zorder=3)
            plane.prepare(axes)
            axes.set_title("\n".join(wrapped(label, PANEL - 60)), **FONT)
        put_bar(figure, lines, "t along a path", ax=list(panels), shrink=0.8)
        names = {"family": FONT["family"], "size": FONT["size"]}
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, prop=names)


def draw_diagnosis(d: Diagnosis, path: Path, title: str = "") -> None:
    """Draw the bound by term, the diffusion term by time, and the norm of the ODE's Jacobian by time.

    Args:
        d: the diagnosis.
        path: file of the picture.
        title: title of the picture, such as the name of the run.
    """
    with drawing(path, title, 1500, 420, constrained=True) as figure:
        put_title(figure, title)
        terms, time, ode = figure.subplots(1, 3)
        parts = {"prior": d.prior, "diffusion": d.diffusion, "reconstruction": d.reconstruction}
        bars = terms.barh(list(parts), [v if math.isfinite(v) else 0.0 for v in parts.values()])
        terms.bar_label(bars, [f"{v:.4f}" for v in parts.values()], padding=3, fontsize=TICKS)
        terms.axvline(0, color="black", lw=0.6)
        terms.margins(x=0.3)
        terms.invert_yaxis()
        terms.set_title(f"bound: {sum(parts.values()):.4f} {d.unit}", **FONT)
        name_axes(terms, d.unit)
        bins = len(d.profile)
        heights = [v if math.isfinite(v) else 0.0 for v in d.profile]
        time.bar([(k + 0.5) / bins for k in range(bins)], heights, width=0.9 / bins)
        time.set_title("diffusion term by time", **FONT)
        name_axes(time, "t", f"{d.unit} from each 1/{bins} of time")
        norms = [(k / 10, v) for k, v in enumerate(d.lipschitz) if 0 < v < math.inf]
        if norms:
            ode.semilogy(*zip(*norms, strict=True), marker=".")
            cost = "" if d.nfe is None else f"\n{d.nfe:.0f} evaluations per row in a solve"
            ode.set_title(f"ODE: largest norm of the field's Jacobian{cost}", **FONT)
            name_axes(ode, "t", "norm, 1 / unit of time")
            ode.yaxis.set_major_formatter("{x:g}")
        else:
            ode.text(0.5, 0.5, "no ODE to show", ha="center", va="center", **FONT)
            ode.set_axis_off()


def name_axes(axes: Axes, x: str, y: str = "") -> None:
    """Set the names of axes."""
    axes.set_xlabel(x, **FONT)
    axes.set_ylabel(y, **FONT)
    axes.tick_params(which="both", labelsize=TICKS)
