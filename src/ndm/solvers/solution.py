"""What a solver takes, what it returns, and how it says which rows it could not finish.

Solvers never raise for a row that they cannot finish: its failure is part of what they return. Whoever wants an error
instead calls :meth:`Solution.checked`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..errors import InputError

VectorField = Callable[..., Tensor]
"""``f(t, z, *args)``: times ``(B,)``, states ``(B, *)`` and whatever else belongs to the rows, to ``(B, *)``."""

NoiseRate = Callable[[Tensor], Tensor]
"""``g(t)``: times ``(B,)`` to the rate of the noise ``(B,)``."""

Quadrature = Callable[..., tuple[Tensor, Tensor]]
"""``q(t, z, *args)``: the field, and an integrand ``(B,)`` to integrate along the path; the two often share work."""

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Failures:
    """The rows that a solver could not finish: where each of them stopped, and why. It is true if there are any.

    The tensors are on the CPU whatever the device of the states.
    """

    solver: str
    """The solver's name."""
    total: int
    """The number of all rows, those that were finished included."""
    rows: Tensor
    """The rows that failed, in increasing order, ``(R,)``."""
    times: Tensor
    """The time that each of them reached, ``(R,)``."""
    reasons: tuple[str, ...]
    """Why each of them failed."""

    @classmethod
    def none(cls, solver: str, z: Tensor) -> Failures:
        """No failure in the rows of ``z``."""
        return cls(solver, len(z), torch.arange(0), torch.zeros(0, dtype=z.dtype), ())

    @classmethod
    def concatenate(cls, blocks: Sequence[Failures]) -> Failures:
        """The failures of consecutive blocks of rows, numbered as in the whole."""
        starts, total = [], 0
        for block in blocks:
            starts.append(total)
            total += block.total
        rows = torch.cat([block.rows + start for block, start in zip(blocks, starts, strict=True)])
        times = torch.cat([block.times for block in blocks])
        return cls(blocks[0].solver, total, rows, times, tuple(why for block in blocks for why in block.reasons))

    @classmethod
    def first(cls, attempts: Iterable[Failures]) -> Failures:
        """The failures of several attempts at the same rows: of each row that failed in any of them, the first."""
        attempts = list(attempts)
        rows = torch.cat([attempt.rows for attempt in attempts]).tolist()
        places = sorted({row: rows.index(row) for row in rows}.items())
        times = torch.cat([attempt.times for attempt in attempts])
        reasons = [why for attempt in attempts for why in attempt.reasons]
        chosen = torch.tensor([place for _, place in places], dtype=torch.long)
        failed = torch.tensor([row for row, _ in places], dtype=torch.long)
        return cls(
            attempts[0].solver, attempts[0].total, failed, times[chosen], tuple(reasons[place] for _, place in places)
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        examples = [
            f"row {row} near t = {t:.4g}: {why}"
            for row, t, why in zip(self.rows.tolist()[:3], self.times.tolist(), self.reasons, strict=False)
        ]
        return (
            f"{self.solver} stopped in {len(self)} of {self.total} rows ({'; '.join(examples)}"
            f"{'; ...' if len(self) > 3 else ''}); loosen rtol and atol, use float64, or choose another solver"
        )

    def check(self, result: Result) -> Result:
        """Return ``result``.

        Raises:
            SolverError: if there are failures; the error carries them and ``result``.
        """
        if self:
            raise SolverError(self, result)
        return result


class Solution(NamedTuple):
    """Where a solver arrived. The state of a row that failed is where it stopped."""

    state: Tensor
    """``(B, *)``, at the end of the interval."""
    integral: Tensor
    """The integral of the quadrature's integrand along the path, ``(B,)``; zeros without a quadrature."""
    nfe: Tensor
    """Evaluations of the field spent on each row, ``(B,)``, integers."""
    quadrature_nfe: Tensor
    """Evaluations of the quadrature spent on each row, ``(B,)``, integers."""
    failures: Failures
    """The rows that could not be finished."""

    def checked(self) -> Solution:
        """This solution.

        Raises:
            SolverError: if some rows could not be finished; ``result`` is this solution.
        """
        return self.failures.check(self)


class SolverError(InputError):
    """A solver could not finish some rows; all others are done.

    Args:
        failures: which rows failed, where and why.
        result: what was computed all the same: a :class:`Solution`, in which the state of a failed row is where it
            stopped, or a :class:`ndm.Likelihood`, in which the log-density of a failed row is NaN.
    """

    def __init__(self, failures: Failures, result: Any) -> None:
        super().__init__(str(failures))
        self.failures = failures
        self.result = result
