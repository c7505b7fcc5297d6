"""Pictures drawn with matplotlib: grids of samples, the transform over time, paths of the ODE, a diagnosis."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..model import NDM
from ..sampling import velocity_field
from ..solvers import heun, uniform_grid
from ..support.files import whole_file
from ..support.tensors import full_times
from .diagnosis import Diagnosis


def _save(figure: Figure, path: Path) -> None:
    try:
        with whole_file(path) as partial_file:
            figure.savefig(partial_file, dpi=130, bbox_inches="tight")
    finally:
        plt.close(figure)


def _tile(images: Tensor, columns: int, background: float = math.nan) -> np.ndarray:
    """One array ``(height, width[, C])`` of images ``(N, C, H, W)``, with one blank pixel between neighbours."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    sheet = torch.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), background)
    for k, image in enumerate(images):
        top, left = (k // columns) * (height + 1), (k % columns) * (width + 1)
        sheet[top : top + height, left : left + width] = image.permute(1, 2, 0)
    return sheet.squeeze(-1).numpy()


def _show(axes: Axes, sheet: np.ndarray, title: str = "", **kwargs: Any) -> None:
    axes.imshow(sheet, interpolation="nearest", **kwargs)
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)


def draw_samples(groups: dict[str, Tensor], path: Path, levels: int, columns: int = 8) -> None:
    """Draw images ``(N, C, H, W)`` in data units, each group in its own panel.

    Args:
        groups: the images of each panel by its title.
        path: file of the picture.
        levels: number of values that an element can take, which sets the grey scale.
        columns: number of images in a row of a panel.
    """
    rows = max(-(-len(x) // columns) for x in groups.values())
    size = (0.5 * columns * len(groups), 0.5 * rows + 0.3)
    figure, panels = plt.subplots(1, len(groups), figsize=size, squeeze=False)
    for axes, (title, x) in zip(panels[0], groups.items(), strict=True):
        sheet = _tile(x.cpu().float() / (levels - 1), columns, background=1.0)
        _show(axes, sheet, title, cmap="gray", vmin=0, vmax=1)
    _save(figure, path)


def draw_points(groups: dict[str, Tensor], path: Path) -> None:
    """Draw points ``(N, *)``, one panel per group. Beyond 2-D, they are projected on two principal directions."""
    reference = next(iter(groups.values())).flatten(1).cpu().double()
    centre, basis = _principal(reference)
    figure, panels = plt.subplots(1, len(groups), figsize=(4 * len(groups), 4), squeeze=False, sharex=True, sharey=True)
    for axes, (title, x) in zip(panels[0], groups.items(), strict=True):
        points = ((x.flatten(1).cpu().double() - centre) @ basis).numpy()
        axes.scatter(points[:, 0], points[:, 1], s=2, alpha=0.5, linewidths=0)
        axes.set_title(title, fontsize=9)
        axes.set_aspect("equal")
    _save(figure, path)


def _principal(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of rows ``(N, D)``, and their first two principal directions; for D = 2, zero and the axes."""
    if x.shape[1] == 2:
        return torch.zeros(2, dtype=x.dtype), torch.eye(2, dtype=x.dtype)
    centre = x.mean(0)
    return centre, torch.linalg.svd(x - centre, full_matrices=False)[2][:2].T


@torch.no_grad()
def draw_transform(model: NDM, x: Tensor, path: Path, columns: int = 9) -> None:
    """Draw one row per image, with F(x, t) from t = 0 to 1 and, at the right, the difference F(x, 1) - x.

    Args:
        model: the model.
        x: images in data units, ``(N, C, H, W)``.
        path: file of the picture.
        columns: number of times t.
    """
    process, encoded = model.process, model.decoder.encode(x.to(model.reference.device))
    curve = process.transform(encoded)
    times = torch.linspace(0, 1, columns).tolist()
    frames = []
    for time in times:
        t = full_times(time, encoded)
        frames.append(curve(process.curve_time(t, process.schedule(t))[0]).cpu())
    low, high = min(float(f.min()) for f in frames), max(float(f.max()) for f in frames)
    figure, panels = plt.subplots(1, columns + 1, figsize=(0.8 * (columns + 1), 0.75 * len(x) + 0.4))
    for axes, time, frame in zip(panels[:-1], times, frames, strict=True):
        _show(
            axes, _tile((frame - low) / (high - low), 1, background=1.0), f"t = {time:.2g}", cmap="gray", vmin=0, vmax=1
        )
    change = (frames[-1] - frames[0]).mean(1, keepdim=True)
    limit = max(float(change.abs().max()), 1e-6)
    title = f"F(x,1) - x\n(±{limit:.2g})"
    _show(panels[-1], _tile(change, 1), title, cmap="coolwarm", vmin=-limit, vmax=limit)
    _save(figure, path)


@torch.no_grad()
def ode_paths(model: NDM, z_1: Tensor, steps: int = 60) -> Tensor:
    """States of the model's ODE on its way from ``z_1`` at t = 1 to t = 0, ``(steps + 1, N, *)``."""
    grid, states = uniform_grid(1.0, 0.0, steps), [z_1]
    for i in range(steps):
        states.append(heun(velocity_field(model), states[-1], grid[i : i + 2]))
    return torch.stack(states)


@torch.no_grad()
def draw_trajectories(models: dict[str, NDM], x: Tensor, path: Path, paths: int = 40, seed: int = 0) -> None:
    """Draw ODE paths that start from the same noise over the data, one panel per model.

    Beyond 2-D, paths and data are projected on the first two principal directions of the data.

    Args:
        models: the models by the title of their panel.
        x: rows in data units, which are drawn in the background.
        path: file of the picture.
        paths: number of paths per panel.
        seed: seed of the noise.
    """
    figure, panels = plt.subplots(
        1, len(models), figsize=(4.2 * len(models), 4.2), squeeze=False, sharex=True, sharey=True
    )
    for axes, (title, model) in zip(panels[0], models.items(), strict=True):
        device, generator = model.reference.device, torch.Generator().manual_seed(seed)
        data = model.decoder.encode(x.to(device)).flatten(1).cpu().double()
        centre, basis = _principal(data)
        z_1 = torch.randn(paths, *x.shape[1:], generator=generator).to(model.reference)
        states = ((ode_paths(model, z_1).flatten(2).cpu().double() - centre) @ basis).numpy()
        background = ((data - centre) @ basis).numpy()
        axes.scatter(background[:, 0], background[:, 1], s=4, color="0.75", linewidths=0, label="data")
        for k in range(paths):
            axes.plot(states[:, k, 0], states[:, k, 1], lw=0.7, color=plt.get_cmap("viridis")(k / paths))
        axes.scatter(states[0, :, 0], states[0, :, 1], s=8, color="tab:red", label="noise, t = 1", zorder=3)
        axes.scatter(states[-1, :, 0], states[-1, :, 1], s=8, color="k", label="sample, t = 0", zorder=3)
        axes.set_title(title, fontsize=9)
        axes.legend(fontsize=7, loc="upper right")
    _save(figure, path)


def draw_diagnosis(d: Diagnosis, path: Path) -> None:
    """Draw the bound by term, the diffusion term by time, and the norm of the ODE's Jacobian by time."""
    figure, (terms, time, ode) = plt.subplots(1, 3, figsize=(11, 3))
    parts = {"prior": d.prior, "diffusion": d.diffusion, "reconstruction": d.reconstruction}
    bars = terms.barh(list(parts), list(parts.values()))
    terms.bar_label(bars, fmt="%.4f", padding=3, fontsize=8)
    terms.margins(x=0.25)
    terms.invert_yaxis()
    terms.set_title(f"bound: {sum(parts.values()):.3f} bits/dim", fontsize=9)
    bins = len(d.profile)
    time.bar([(k + 0.5) / bins for k in range(bins)], d.profile, width=0.9 / bins)
    time.set_xlabel("t")
    time.set_title("diffusion term, by time", fontsize=9)
    if d.lipschitz:
        ode.semilogy([k / (len(d.lipschitz) - 1) for k in range(len(d.lipschitz))], d.lipschitz, marker=".")
        ode.set_xlabel("t")
        nfe = "" if d.nfe is None else f" ({d.nfe:.0f} evaluations per row)"
        ode.set_title(f"norm of the ODE's Jacobian{nfe}", fontsize=9)
    else:
        ode.set_axis_off()
    _save(figure, path)


def write_samples(model: NDM, x: Tensor, test: Tensor, path: Path) -> None:
    """Draw samples ``x``: images in a grid, other rows as points beside the test data."""
    if model.decoder.levels is not None and x.ndim == 4:
        draw_samples({"samples": x}, path, model.decoder.levels)
    else:
        draw_points({"test data": test, "samples": x}, path)
