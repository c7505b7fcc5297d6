"""The bound on the validation rows, shared among processes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..model import NDM
from ..objective import bound
from ..support.tensors import rows_at_once, seeded

VALIDATION_ROWS = 2000
PIECE = 256


@torch.no_grad()
def validation_nats(model: NDM, x: Tensor, steps: int | None, rank: int = 0, count: int = 1) -> Tensor:
    """The bound summed over this process's pieces of the rows ``x``, nats; a piece's noise is its own, whoever has it.

    Few rows are passed over several times, and the mean of the passes counts.
    """
    pieces, passes = x.split(rows_at_once(x.shape[1:], PIECE)), min(8, max(1, VALIDATION_ROWS // 2 // len(x)))
    total = torch.zeros((), dtype=torch.float64)
    for turn in range(-(-len(pieces) // count)):
        k = turn * count + rank
        # A process without a piece of its own in the last turn goes along, for shards need every process.
        rows = pieces[min(k, len(pieces) - 1)].to(model.reference.device)
        generator = seeded(0, min(k, len(pieces) - 1))
        for _ in range(passes):
            nats = bound(model, rows, steps, None, generator).total.cpu().double().sum() / passes
            total += nats if k < len(pieces) else 0
    return total
