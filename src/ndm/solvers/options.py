"""A solver's name and options as one value."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from ..support.checks import require_count, require_number


@dataclass(frozen=True)
class Solver:
    """A solver's name and options.

    The options are checked here. The name and its library are checked where the solver is used, because sampling and
    likelihoods accept different solvers.

    Args:
        name: a name of ``ndm.ODE_SOLVERS``, ``ndm.SDE_SOLVERS`` or, for sampling, ``ndm.SOLVERS``.
        steps: the number of equal steps, for solvers that take a given number.
        rtol, atol: the tolerances of one step, for solvers that choose their steps; the error of an element is measured
            in units of ``atol + rtol * |z|``.

    Raises:
        InputError: if ``steps`` is not a whole number of at least 1, or the tolerances are not finite, are negative, or
            are both 0.

    Example:
        >>> accurate = ndm.Solver("dopri5", rtol=1e-7, atol=1e-7)
    """

    name: str = "dopri5"
    steps: int = 50
    rtol: float = 1e-5
    atol: float = 1e-5

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InputError(f"a solver is a name or an ndm.Solver, got {self.name!r}")
        require_count(steps=self.steps)
        require_number(rtol=self.rtol, atol=self.atol)
        if not (self.rtol >= 0 and self.atol >= 0 and self.rtol + self.atol > 0):
            raise InputError(f"rtol and atol must not be negative, nor both 0; got {self.rtol} and {self.atol}")

    @classmethod
    def of(cls, solver: Solver | str, steps: int | None = None) -> Solver:
        """A Solver with the given name and number of steps, or the given Solver unchanged.

        Raises:
            InputError: if a Solver and a different number of steps are given.
        """
        if not isinstance(solver, Solver):
            return cls(solver) if steps is None else cls(solver, steps)
        if steps is not None and steps != solver.steps:
            raise InputError(f"steps={steps} contradicts the solver's own steps={solver.steps}; leave one of them out")
        return solver
