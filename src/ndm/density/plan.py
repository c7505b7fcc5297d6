"""What a density of a table is made of, by the number of rows and columns: nobody has to choose."""

from __future__ import annotations

from dataclasses import dataclass

BATCH = 256
EPOCHS = 200
FEWEST_STEPS, MOST_STEPS = 2_500, 20_000
FEW_ROWS, FEW_COLUMNS = 2_000, 6


@dataclass(frozen=True)
class Plan:
    """The sizes of a model of a table and of its training."""

    width: int
    depth: int
    dropout: float
    uniform: tuple[int, ...]
    dim: int
    gamma_min: float
    gamma_max: float
    steps: int
    batch_size: int
    learning_rate: float
    evaluate_every: int


def plan_for(rows: int, columns: int, steps: int | None = None) -> Plan:
    """The plan for a table.

    Args:
        rows: the number of training rows.
        columns: the number of columns of the model.
        steps: the number of training steps, if it is given.
    """
    batch = min(BATCH, max(32, rows // 8))
    wanted = min(MOST_STEPS, max(FEWEST_STEPS, EPOCHS * rows // BATCH)) if steps is None else steps
    few = rows < FEW_ROWS
    uniform: tuple[int, ...]
    if few:
        dropout, uniform = 0.3, (0,)
    else:
        dropout, uniform = 0.05, (0, 1, 2, 3, 4) if columns <= FEW_COLUMNS else (0, 1, 2)
    return Plan(
        width=128 if few else 256,
        depth=3,
        dropout=dropout,
        uniform=uniform,
        dim=4,
        gamma_min=-10.0,
        gamma_max=5.0,
        steps=wanted,
        batch_size=batch,
        learning_rate=2e-3,
        evaluate_every=max(50, wanted // 25),
    )
