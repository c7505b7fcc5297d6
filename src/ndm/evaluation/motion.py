r"""Does F move? Its distance from where it starts, and its part of the gradient.

.. math:: d(t) = \Big( \mathrm{E}\, \frac{\alpha_t^2}{\sigma_t^2} (F(x, t)_i - x_i)^2 \Big)^{1/2}

is in standard deviations of the noise, a mean over rows and elements. Where d is far below 1, noise hides that F moves,
and the model is as good as a conventional one.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from ..embedding import Embedding
from ..model import NDM
from ..objective import bound
from ..support.tensors import expand, full_times
from ..transform import Identity, Network, TimeBasis

TIMES = 11
FAINT = 0.05
"""F that stays within so many standard deviations of the noise is said not to move."""


@dataclass(frozen=True)
class Motion:
    """How far F moves, and how much of the training it gets."""

    distance: list[float]
    """d at t = 0, 0.1, ..., 1."""
    gradient: float | None
    """The norm of the gradient of F's parameters over that of all; None if F has no parameters."""

    @property
    def faint(self) -> bool:
        """Whether F moves so little that noise hides it."""
        return max(self.distance) < FAINT


def motion_of(model: NDM, x: Tensor, generator: torch.Generator | None = None) -> Motion | None:
    """How F moves rows ``x`` in data units; None if F is the identity.

    Args:
        model: the model, in evaluation mode.
        generator: seeds the draws of the bound, whose gradient is taken.
    """
    if isinstance(model.process.transform, Identity):
        return None
    with torch.no_grad():
        q = model.process(model.encode(x))
        start, distance = q.curve.x, []
        for i in range(TIMES):
            t = full_times(i / (TIMES - 1), start)
            noise = q.noise(t)
            moved = q.moved(t) - start
            distance.append((moved * expand(noise.alpha / noise.sigma, start)).square().mean().sqrt().item())
    own = copy.deepcopy(model).requires_grad_(True)
    parameters = list(own.process.transform.parameters())
    if not parameters:
        return Motion(distance, None)
    with torch.enable_grad():
        bound(own, x, model.process.schedule.steps, generator=generator).total.mean().backward()
    return Motion(distance, norm(parameters) / max(norm(list(own.parameters())), 1e-30))


def norm(parameters: list[torch.nn.Parameter]) -> float:
    """The norm of all gradients together."""
    return sum(p.grad.double().square().sum().item() for p in parameters if p.grad is not None) ** 0.5


def report_motion(found: Motion) -> list[str]:
    """Lines of text: a bar for each time."""
    top = max(*found.distance, 1e-12)
    lines = ["how far F moves, in standard deviations of the noise"]
    lines += [
        f"  t = {i / (TIMES - 1):.1f}  {d:10.3g}  {'#' * round(40 * d / top)}" for i, d in enumerate(found.distance)
    ]
    if found.gradient is not None:
        lines.append(f"  F has {found.gradient:.1%} of the norm of the gradient")
    return lines


def advice_on_motion(found: Motion, model: NDM) -> list[str]:
    """What to do if F does not move. An embedding is no identity, and neither is an F that scales the noise."""
    transform = model.process.transform
    if not found.faint or transform.scales or isinstance(transform, Embedding):
        return []
    wider = ", or give it more model.transform_width" if isinstance(transform, (Network, TimeBasis)) else ""
    return [
        f"F stays within {max(found.distance):.2g} standard deviations of the noise, so this is as good as a "
        f"conventional model: leave F out (model.transform identity){wider}"
    ]
