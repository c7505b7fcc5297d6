r"""The times in [0, 1] at which the bound is evaluated, one per row, with weights that keep the estimate unbiased.

* :class:`LowDiscrepancyTimes`: :math:`t_i = (u + i/B) \bmod 1` with one uniform u per batch. Every row's time is
  uniform, and together the times cover [0, 1] evenly.
* :class:`ImportanceTimes`: these times, mapped through the inverse cumulative distribution function of a density
  :math:`p(t) \propto \sqrt{\mathrm{E}[\ell(t)^2]}`. The density is learned during training; the weight is
  :math:`1/p(t)`.

References:
    Kingma, Salimans, Poole, Ho. Variational Diffusion Models. NeurIPS 2021, section I.1.
    Nichol, Dhariwal. Improved Denoising Diffusion Probabilistic Models. ICML 2021, section 3.3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .support.checks import require, require_count, require_number
from .support.tensors import rand


class LowDiscrepancyTimes(nn.Module):
    """Uniform times that cover [0, 1] evenly; every weight is 1."""

    observed: Tensor | None = None
    """The sums over rows from which ``update`` learns. Processes that share a batch add theirs first."""

    def forward(
        self, x: Tensor, generator: torch.Generator | None = None, rank: int = 0, count: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Times and weights, both ``(B,)``, for the rows of ``x``.

        Args:
            rank, count: ``x`` is part ``rank`` of ``count`` equal parts of a batch. The times of all parts together
                cover [0, 1] evenly.
        """
        slots = torch.arange(rank * len(x), (rank + 1) * len(x), dtype=x.dtype, device=x.device)
        t = (rand((), x, generator) + slots / (count * len(x))) % 1
        return t, torch.ones_like(t)

    def observe(self, t: Tensor, loss: Tensor) -> None:
        """Record the loss at each time. Uniform times do not use it."""

    def update(self) -> None:
        """Learn from the losses observed since the last update."""


class ImportanceTimes(LowDiscrepancyTimes):
    """More times where the loss is larger. The estimate is always unbiased.

    It observes losses only in training mode, and learns from them when ``update`` is called. Until every bin has been
    observed the times are uniform, because a partly observed density would give noisy weights.

    Args:
        bins: the number of bins of the piecewise constant density.
        decay: the decay of a bin's moving average of squared losses, applied in each update that observed the bin.
        uniform: the share of uniform times; no weight is larger than its inverse.

    Raises:
        InputError: if there is no bin, or ``decay`` or ``uniform`` is out of its range.
    """

    second_moment: Tensor
    seen: Tensor

    def __init__(self, bins: int = 64, decay: float = 0.99, uniform: float = 0.1) -> None:
        super().__init__()
        require_count(bins=bins)
        require_number(decay=decay, uniform=uniform)
        require(0 <= decay < 1, "decay must be in [0, 1)", decay)
        require(0 < uniform <= 1, "uniform must be in (0, 1]", uniform)
        self.decay = decay
        self.uniform = uniform
        self.register_buffer("second_moment", torch.ones(bins))
        self.register_buffer("seen", torch.zeros(bins, dtype=torch.bool))

    def density(self) -> Tensor:
        """p(t) in each bin; its mean is 1."""
        root = torch.where(self.seen.all(), self.second_moment, 1.0).sqrt()
        return (1 - self.uniform) * root / root.mean() + self.uniform

    def forward(
        self, x: Tensor, generator: torch.Generator | None = None, rank: int = 0, count: int = 1
    ) -> tuple[Tensor, Tensor]:
        u, _ = super().forward(x, generator, rank, count)
        density = self.density().to(x)
        bins = len(density)
        edges = torch.cat([density.new_zeros(1), density.cumsum(0) / bins])
        index = torch.searchsorted(edges, u * edges[-1], right=True).clamp(1, bins) - 1
        within = (u * edges[-1] - edges[index]) / (edges[index + 1] - edges[index])
        return ((index + within) / bins).clamp(0, 1 - 1e-6), 1 / density[index]

    @torch.no_grad()
    def observe(self, t: Tensor, loss: Tensor) -> None:
        if not self.training:
            return
        bins = len(self.second_moment)
        index = (t * bins).long().clamp(max=bins - 1)
        hits = torch.stack([torch.ones_like(loss), loss**2]).to(self.second_moment)
        seen = hits.new_zeros(2, bins).index_add_(1, index, hits)  # number of losses in each bin, sum of their squares
        # Not a buffer, because it belongs to one process and one step.
        self.observed = seen if self.observed is None else self.observed + seen

    @torch.no_grad()
    def update(self) -> None:
        if self.observed is None:
            return
        count, total = self.observed
        updated = self.decay * self.second_moment + (1 - self.decay) * total / count.clamp(min=1)
        self.second_moment.copy_(torch.where(count > 0, updated, self.second_moment))
        self.seen |= count > 0
        self.observed = None
