"""What a solver takes, what it returns, and what it raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import InputError

VectorField = Callable[..., Tensor]
"""``f(t, z, *args)``: times ``(B,)``, states ``(B, *)`` and whatever else belongs to the rows, to ``(B, *)``."""

Quadrature = Callable[..., tuple[Tensor, Tensor]]
"""``q(t, z, *args)``: the field, and an integrand ``(B,)`` to integrate along the path; the two often share work."""


class Solution(NamedTuple):
    """Where a solver arrived."""

    state: Tensor
    """``(B, *)``, at the end of the interval."""
    integral: Tensor
    """Of the quadrature's integrand along the path, ``(B,)``; zeros without one."""
    nfe: Tensor
    """Evaluations of the field spent on each row, ``(B,)``, integers."""
    quadrature_nfe: Tensor
    """Evaluations of the quadrature spent on each row, ``(B,)``, integers."""


class SolverError(InputError):
    """A solver could not finish some rows; the others are done.

    Args:
        solver: its name.
        partial: what would have been returned, as far as it came: a :class:`Solution` (a failed row's is where it
            stopped), or a likelihood's values (a failed row's is NaN).
        rows: the rows that failed, ``(R,)``.
        times: the time each of them reached, ``(R,)``.
        reasons: why, for each of them.
    """

    def __init__(self, solver: str, partial: Any, rows: Tensor, times: Tensor, reasons: list[str]) -> None:
        total = len(partial.state if isinstance(partial, Solution) else partial)
        examples = [
            f"row {row} near t = {t:.4g}: {why}"
            for row, t, why in zip(rows.tolist()[:3], times.tolist(), reasons, strict=False)
        ]
        super().__init__(
            f"{solver} stopped in {len(rows)} of {total} rows ({'; '.join(examples)}"
            f"{'; ...' if len(rows) > 3 else ''}); loosen rtol and atol, use float64, or choose another solver"
        )
        self.solver = solver
        self.partial = partial
        self.rows = rows
        self.times = times
        self.reasons = reasons

    def with_partial(self, partial: Any) -> SolverError:
        """The same failure of the same rows, of a function that returns something else."""
        return SolverError(self.solver, partial, self.rows, self.times, self.reasons)
