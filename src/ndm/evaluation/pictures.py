"""Pictures: grids of samples, the transform over time, points, paths of the ODE, a diagnosis."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from . import backend  # noqa: F401  # isort: skip  # before anything imports matplotlib
from ..data.dataset import Distribution
from ..model import NDM
from .canvas import spread
from .figures import draw_diagnosis, draw_points, draw_trajectories, ode_paths
from .grids import draw_samples, draw_transform, fits

__all__ = [
    "draw_diagnosis", "draw_points", "draw_samples", "draw_trajectories", "draw_transform", "ode_paths",
    "write_samples",
]  # fmt: skip


def write_samples(
    model: NDM, x: Tensor, test: Tensor, path: Path, title: str = "", distribution: Distribution | None = None
) -> None:
    """Draw samples beside test rows: images in grids, other rows as points.

    Args:
        model: the model, whose decoder knows the number of levels.
        x: samples in data units, ``(N, *)``.
        test: test rows in data units; there may be none.
        path: file of the picture.
        title: title of the picture: the run, its step, the solver and its steps.
        distribution: the exact distribution of the data, if it is known.

    Raises:
        InputError: if there are no samples.
    """
    images = fits(x)
    beside = spread(test, max(4, -(-len(x) // 4))) if images else test
    groups = ({"test data": beside} if len(test) else {}) | {"samples": x}
    if images:
        draw_samples(groups, path, model.decoder.levels, title)
    else:
        draw_points(groups, path, distribution, title)
