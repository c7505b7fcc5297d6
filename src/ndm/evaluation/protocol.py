"""Protocols: everything besides the model and the rows that decides a likelihood, and the name of the number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from ..draws import Divergence
from ..errors import InputError
from ..likelihood import affordable_divergence
from ..model import NDM
from ..solvers import ODE_SOLVERS, Solver
from ..support.checks import require_choice, require_count, require_kind, require_seed

Estimator = Literal["bound", "ode", "ode-uniform"]
SOLVER = Solver(rtol=1e-4, atol=1e-4)
"""The default solver of an evaluation."""


@dataclass(frozen=True)
class Protocol:
    """Everything besides the model and the rows that decides an estimate of the likelihood.

    Args:
        estimator: ``bound`` (the variational bound), ``ode`` (the ODE, for discrete data through the decoder) or
            ``ode-uniform`` (the ODE, for discrete data by uniform dequantisation).
        steps: number of steps T of the bound; None means continuous time.
        passes: number of Monte-Carlo passes of the bound over the rows.
        samples, divergence, solver: options of the ODE; see :func:`ndm.ode_likelihood`.
        seed: seed of all random draws.

    Raises:
        InputError: if an option is of another kind.
    """

    estimator: Estimator
    steps: int | None = None
    passes: int = 30
    samples: int = 1
    divergence: Divergence = "exact"
    solver: Solver = SOLVER
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice(get_args(Estimator), estimator=self.estimator)
        require_choice(get_args(Divergence), divergence=self.divergence)
        require_count(passes=self.passes, samples=self.samples, steps=1 if self.steps is None else self.steps)
        require_kind(solver=(self.solver, Solver))
        require_seed(self.seed)

    def draws(self, drawn: bool) -> int:
        """The number of draws per row. It is 1 for an ODE with the exact divergence and z_0 a function of x.

        Args:
            drawn: whether z_0 is drawn given x, as :attr:`ndm.Decoder.drawn` says.
        """
        if self.estimator == "bound":
            return self.passes
        return self.samples if drawn or self.divergence != "exact" else 1

    def name(self, drawn: bool) -> str:
        """The name under which the number is reported; ``drawn`` as in :meth:`draws`."""
        if self.estimator == "bound":
            return "bound, continuous time" if self.steps is None else f"bound, T={self.steps}"
        kind = {"ode": "ODE through the decoder", "ode-uniform": "ODE, uniform dequantisation"}[self.estimator]
        draws = "importance samples" if self.divergence == "exact" else "draws averaged"
        if not drawn:
            kind, draws = "ODE", "probes averaged"
        solver = self.solver
        if ODE_SOLVERS.find(solver.name).takes_steps:
            accuracy = f"{solver.steps} steps"
        else:
            accuracy = f"rtol {solver.rtol:g}" + (f", atol {solver.atol:g}" if solver.atol != solver.rtol else "")
        several = f", {self.draws(drawn)} {draws}" if self.draws(drawn) > 1 else ""
        return f"{kind} ({self.divergence} divergence, {solver.name} {accuracy}{several})"


def choose_protocols(
    model: NDM,
    x: Tensor,
    estimator: Estimator | Literal["all"] = "all",
    steps: Sequence[int | None] | None = None,
    divergence: Divergence | Literal["auto"] = "auto",
    **options: Any,
) -> list[Protocol]:
    """The protocols that an evaluation of ``model`` on rows ``x`` follows.

    Args:
        estimator: the estimator. ``all`` means the bound and, if the model has an ODE, the ODE.
        steps: the bound's numbers of steps, where None means continuous time. The default is T = 10, T = 50 and
            continuous time, or the one number of steps that a stepwise schedule has.
        divergence: the divergence of the ODE. ``auto`` is exact for small rows; see
            :func:`ndm.likelihood.affordable_divergence`.
        options: ``passes``, ``samples``, ``solver`` and ``seed`` of the :class:`Protocol` that they matter to.

    Raises:
        InputError: if ``steps`` is given and the estimator is ``ode`` or ``ode-uniform``.
    """
    if steps and estimator.startswith("ode"):
        raise InputError(
            f"steps is for the bound, but the estimator is {estimator}; an ODE solver takes --solver_steps, or --rtol "
            "and --atol"
        )
    only = model.process.schedule.steps
    chosen: list[Protocol] = []
    if estimator in ("all", "bound"):
        numbers = steps or ([10, 50, None] if only is None else [only])
        for_bound = {name: value for name, value in options.items() if name in ("passes", "seed")}
        chosen += [Protocol("bound", number, **for_bound) for number in numbers]
    if estimator in ("ode", "ode-uniform") or (estimator == "all" and model.has_ode):
        kind: Estimator = "ode" if estimator in ("all", "ode") else "ode-uniform"
        exact = affordable_divergence(latents_like(model, x)) if divergence == "auto" else divergence
        for_ode = {name: value for name, value in options.items() if name != "passes"}
        chosen.append(Protocol(kind, divergence=exact, **for_ode))
    return chosen


def latents_like(model: NDM, x: Tensor) -> Tensor:
    """A latent of the shape that rows like those of ``x`` have, without memory. The divergence is over latents."""
    return x.new_empty((1, *model.latent_shape(tuple(x.shape[1:]))), device="meta")
