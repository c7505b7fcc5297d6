"""What a density of a table is made of, by the number of rows and columns: nobody has to choose.

The values were chosen on validation rows of public tables (power_plant, kin8nm, pumadyn32nm, wine_red, adult, airfoil,
magic.gamma, mushrooms, parkinsons, elevators, skillcraft). Few rows need dropout. Dependent numbers have fine
structure, so the network gets Fourier features, the more the fewer columns there are. Rows of few columns and of
categories need more steps, and rows of categories a wider network.
"""

from __future__ import annotations

from dataclasses import dataclass

BATCH = 512
EPOCHS, MORE_EPOCHS, QUICK_EPOCHS = 200, 300, 100
"""Passes over the training rows, those of tables with few columns or with categories, and those of a quick training."""
FEWEST_STEPS, FEWEST_STEPS_OF_FEW_ROWS, MOST_STEPS = 2_500, 1_000, 10_000
FEW_ROWS, FEW_COLUMNS = 2_000, 6
SMALLEST, STEPS_OF_SMALLEST = 100, 50
"""Fewer rows than this have a tenth of their square as steps, and at least ``STEPS_OF_SMALLEST``. No rows are left over
to stop training, and a network that sees 20 rows a thousand times learns them by heart."""
WAVES, WAVES_OF_FEW_COLUMNS = (0, 1, 2, 3), (0, 1, 2, 3, 4, 5, 6)
"""Exponents of the Fourier features of numbers, and of all columns if these are few. :mod:`ndm.density.build` leaves
them out where they may only overfit."""
WIDE = 256
"""The width of the network of a table with categories, unless there are few rows."""
FEWEST_VALIDATED = 200
"""The least number of rows of which some validate, and decide when training stops."""
PATIENCE = 10
"""The number of validations in a row without a better bound after which training stops."""


@dataclass(frozen=True)
class Plan:
    """The sizes of a model of a table and of its training."""

    steps: int
    batch_size: int
    evaluate_every: int
    width: int = 128
    dropout: float = 0.1
    fourier: tuple[int, ...] = ()
    uniform: tuple[int, ...] = (0, 1)
    gamma_min: float = -10.0
    gamma_max: float = 5.0
    depth: int = 3
    dim: int = 4
    learning_rate: float = 2e-3


def plan_for(rows: int, columns: int, steps: int | None = None, categories: bool = False, quick: bool = False) -> Plan:
    """The plan for a table.

    Args:
        rows: the number of training rows.
        columns: the number of columns of the model.
        steps: the number of training steps, if it is given.
        categories: whether some of the columns are categories.
        quick: whether time matters more than the last tenths of a nat, as for a detector.
    """
    if steps is None:
        usual, fewest = (QUICK_EPOCHS, FEWEST_STEPS_OF_FEW_ROWS) if quick else (EPOCHS, FEWEST_STEPS)
        epochs = MORE_EPOCHS if columns <= FEW_COLUMNS or categories else usual
        fewest = FEWEST_STEPS_OF_FEW_ROWS if rows < FEW_ROWS else fewest
        steps = min(MOST_STEPS, max(fewest, epochs * rows // BATCH))
        steps = max(STEPS_OF_SMALLEST, rows**2 // 10) if rows < SMALLEST else steps
    batch, every = min(BATCH, max(32, rows // 4)), max(40, steps // 25)
    waves = WAVES_OF_FEW_COLUMNS if columns <= FEW_COLUMNS else () if categories else WAVES
    if rows < FEW_ROWS:
        return Plan(steps, batch, every, dropout=0.3, fourier=waves, uniform=(0,))
    if columns <= FEW_COLUMNS:
        return Plan(steps, batch, every, dropout=0.0, fourier=waves, uniform=(0, 1, 2), gamma_min=-11.0)
    width = WIDE if categories else Plan.width
    return Plan(steps, batch, every, width=width, fourier=waves)
