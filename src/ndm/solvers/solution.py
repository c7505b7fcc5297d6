"""The types that a solver takes and returns.

ODE solvers raise no error for a row that they cannot finish; the failure is part of the :class:`Solution`.
:meth:`Solution.checked` raises an error for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..errors import InputError

NOT_FINITE = "the field is not finite"
"""The reason of a row whose field has a NaN or an infinity."""

VectorField = Callable[..., Tensor]
"""``f(t, z, *args)`` maps times ``(B,)``, states ``(B, *)`` and further inputs ``(B, ...)`` to ``(B, *)``."""

NoiseRate = Callable[[Tensor], Tensor]
"""``g(t)`` maps times ``(B,)`` to the diffusion coefficient, ``(B,)``, ``(B, C)`` or ``(B, *)``."""

Quadrature = Callable[..., tuple[Tensor, Tensor]]
"""``q(t, z, *args)`` returns the field and an integrand ``(B,)`` along the path; the two often share work."""

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Failures:
    """The rows that a solver could not finish, with the time and the reason of each. It is true if any row failed.

    The tensors are on the CPU, on whatever device the states are.
    """

    solver: str
    """The solver's name."""
    total: int
    """The number of all rows, failed or not."""
    rows: Tensor
    """The rows that failed, in increasing order, ``(R,)``."""
    times: Tensor
    """The time at which each failed row stopped, ``(R,)``."""
    reasons: tuple[str, ...]
    """The reason of each failure."""

    @classmethod
    def none(cls, solver: str, z: Tensor) -> Failures:
        """No failure in the rows of ``z``."""
        return cls(solver, len(z), torch.arange(0, device="cpu"), torch.zeros(0, dtype=z.dtype, device="cpu"), ())

    @classmethod
    def where(cls, solver: str, bad: Tensor, time: float, reason: str) -> Failures:
        """The rows that ``bad``, ``(B,)``, selects, all at one time and for one reason."""
        rows = bad.detach().nonzero().flatten().cpu()
        return cls(solver, len(bad), rows, torch.full(rows.shape, time, device="cpu"), (reason,) * len(rows))

    @classmethod
    def concatenate(cls, blocks: Sequence[Failures]) -> Failures:
        """Join the failures of consecutive blocks of rows, and number the rows accordingly."""
        starts, total = [], 0
        for block in blocks:
            starts.append(total)
            total += block.total
        rows = torch.cat([block.rows + start for block, start in zip(blocks, starts, strict=True)])
        times = torch.cat([block.times for block in blocks])
        return cls(blocks[0].solver, total, rows, times, tuple(why for block in blocks for why in block.reasons))

    def split(self, rows: int) -> list[Failures]:
        """The failures of consecutive blocks of ``rows`` rows; :meth:`concatenate` joins them."""
        blocks = []
        for start in range(0, self.total, rows):
            total = min(rows, self.total - start)
            chosen = ((self.rows >= start) & (self.rows < start + total)).nonzero().flatten()
            reasons = tuple(self.reasons[place] for place in chosen.tolist())
            blocks.append(Failures(self.solver, total, self.rows[chosen] - start, self.times[chosen], reasons))
        return blocks

    @classmethod
    def first(cls, attempts: Iterable[Failures]) -> Failures:
        """The first failure of each row that failed in any of several attempts at the same rows."""
        attempts = list(attempts)
        rows = torch.cat([attempt.rows for attempt in attempts]).tolist()
        places = sorted({row: rows.index(row) for row in rows}.items())
        times = torch.cat([attempt.times for attempt in attempts])
        reasons = [why for attempt in attempts for why in attempt.reasons]
        chosen = torch.tensor([place for _, place in places], dtype=torch.long, device="cpu")
        failed = torch.tensor([row for row, _ in places], dtype=torch.long, device="cpu")
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
            f"{'; ...' if len(self) > 3 else ''}); {self.advice}"
        )

    @property
    def advice(self) -> str:
        """What to do. Tolerances do not help against a NaN, and a solver other than dopri5 may have made it itself."""
        if set(self.reasons) != {NOT_FINITE}:
            return "loosen rtol and atol, use float64, or choose another solver"
        if self.solver == "dopri5":
            return "tolerances do not change that: look at the weights and the network there, or use float64"
        return "take more or smaller steps, or use dopri5, which tells whether the field itself is at fault"

    def check(self, result: Result) -> Result:
        """Return ``result``.

        Raises:
            SolverError: if there are failures; the error carries them and ``result``.
        """
        if self:
            raise SolverError(self, result)
        return result


class Solution(NamedTuple):
    """The result of an ODE solver. The state of a failed row is the state at which it stopped."""

    state: Tensor
    """The state at the end of the interval, ``(B, *)``."""
    integral: Tensor
    """The integral of the quadrature's integrand along the path, ``(B,)``; zeros without a quadrature."""
    nfe: Tensor
    """Evaluations of the field spent on each row, ``(B,)``, integers."""
    quadrature_nfe: Tensor
    """Evaluations of the quadrature spent on each row, ``(B,)``, integers."""
    failures: Failures
    """The rows that could not be finished."""

    def checked(self) -> Solution:
        """Return this solution.

        Raises:
            SolverError: if some rows could not be finished; ``result`` is this solution.
        """
        return self.failures.check(self)


class SolverError(InputError):
    """A solver could not finish some rows; the other rows are finished.

    Args:
        failures: the failed rows.
        result: the result for all rows: a :class:`Solution`, in which a failed row has the state at which it stopped,
            or a :class:`ndm.Likelihood`, in which the log-density of a failed row is NaN.
    """

    def __init__(self, failures: Failures, result: Any) -> None:
        super().__init__(str(failures))
        self.failures = failures
        self.result = result
