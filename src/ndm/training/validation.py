"""The bound on the validation rows, which several processes compute together."""

from __future__ import annotations

import torch
from torch import Tensor

from ..model import NDM
from ..objective import bound
from ..support.tensors import rows_at_once, seeded

VALIDATION_ROWS = 2000
DRAWS, DECIDING_DRAWS = 1_000, 8_000
"""The draws of a validation, over all rows together: usually, and where they decide when training stops. With a single
draw of each row, training may stop long before its best step."""
MOST_PASSES = 8
PIECE = 256


@torch.no_grad()
def validation_nats(
    model: NDM, x: Tensor, steps: int | None, rank: int = 0, count: int = 1, draws: int = DRAWS
) -> Tensor:
    """The bound in nats, summed over those pieces of the rows ``x`` that this process computes.

    The noise of a piece depends on its number and not on the process. If there are few rows, the bound is the mean of
    several passes.
    """
    pieces, passes = x.split(rows_at_once(x.shape[1:], PIECE)), min(MOST_PASSES, max(1, draws // len(x)))
    total = torch.zeros((), dtype=torch.float64)
    for turn in range(-(-len(pieces) // count)):
        k = turn * count + rank
        # A process without a piece in the last turn computes one too, because sharded weights need every process.
        rows = pieces[min(k, len(pieces) - 1)].to(model.reference.device)
        generator = seeded(0, min(k, len(pieces) - 1))
        for _ in range(passes):
            nats = bound(model, rows, steps, None, generator).total.cpu().double().sum() / passes
            total += nats if k < len(pieces) else 0
    return total
