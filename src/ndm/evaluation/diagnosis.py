r"""A diagnosis of a trained model: which parts of the bound cost how many bits, and what to change.

* The bits of each term of the bound, and the part of the diffusion term that comes from each tenth of time.
* The prior gap :math:`\mathrm{KL}(q(z_1 \mid x) \,\|\, \mathcal{N}(0, I))`, which falls like :math:`e^{-\gamma_1}`.
* Whether :math:`\gamma_0` fits the data's levels. The measure is the distance between neighbouring levels in standard
  deviations of the noise at t = 0.
* The cost of the ODE: the number of evaluations of its field, and the norm L of the field's Jacobian at eleven times.
  An explicit method of order 5 is stable for steps up to about 3.3 / L.
* The ODE's likelihood beside the bound. For a non-linear F they belong to two different models.
* How far F moves; see :mod:`.motion`.
* What is wrong with F, if anything, which comes first in the advice; see :mod:`ndm.soundness`.

The likelihoods are those of :func:`ndm.evaluation.evaluate` with the same rows, seed and passes. Each figure that is a
mean over rows has a standard error, and advice is given only where a figure is beyond two of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..decoder import CategoricalDecoder
from ..likelihood import affordable_divergence, bits_per_dim
from ..model import NDM
from ..objective import continuous_diffusion, discrete_diffusion, step_around
from ..sampling import velocity_field
from ..solvers import VectorField
from ..soundness import faults
from ..support.journal import Journal
from ..support.tensors import full_times, seeded, sum_rows
from ..times import LowDiscrepancyTimes
from .estimate import summarise
from .motion import Motion, advice_on_motion, motion_of, report_motion
from .pieces import Piece, as_likelihood, column, make_pieces, nats_of_rows
from .protocol import SOLVER, Protocol, latents_like

BINS = 10
NOTHING = "nothing stands out"
EXACT_UP_TO = 64
"""The most latents of a row whose divergence is exact here: a diagnosis compares the ODE with the bound, and an
estimate suffices. ``ndm evaluate`` has it exact for more."""
CERTAIN = 2.0  # a figure is beyond a limit if it is so by this number of standard errors


class Figure(NamedTuple):
    """A mean over rows, and its standard error; None for a single row."""

    value: float
    error: float | None

    @classmethod
    def of(cls, values: Tensor) -> Figure:
        """The mean of one value per row."""
        error = values.std().item() / len(values) ** 0.5 if len(values) > 1 else None
        return cls(values.mean().item(), error)

    def above(self, limit: float) -> bool:
        """Whether the figure is certainly larger than a limit. A figure without an error never is."""
        return self.error is not None and self.value - CERTAIN * self.error > limit

    def __str__(self) -> str:
        return f"{self.value:.4f}" if self.error is None else f"{self.value:.4f} ± {self.error:.4f}"


@dataclass
class Diagnosis:
    """The result of :func:`diagnose`. Numbers are in ``unit`` unless a field says otherwise.

    A field ``*_error`` is the standard error of the field without this ending; None if there is only one row.
    """

    rows: int
    """The number of rows that the bound and its terms are means over."""
    bound: float
    bound_error: float | None
    prior: float
    prior_error: float | None
    diffusion: float
    diffusion_error: float | None
    reconstruction: float
    reconstruction_error: float | None
    profile: list[float]
    """The part of the diffusion term that comes from each tenth of time."""
    profile_error: list[float | None]
    level_distance: float | None
    """Distance between neighbouring levels at t = 0, in standard deviations of the noise; None for continuous data."""
    noise_std: float
    """Standard deviation of the noise at t = 0, sigma / alpha, in the units of the encoded data."""
    passes: int
    """The number of Monte-Carlo passes of the bound over the rows."""
    ode_rows: int = 0
    """The number of rows whose ODE is solved."""
    nfe: float | None = None
    """Evaluations of the field in one ODE solve, mean over rows; None if the model has no ODE."""
    nfe_max: float | None = None
    """The largest number of evaluations of any row."""
    lipschitz: list[float] = field(default_factory=list)
    """Largest norm over the first rows of the field's Jacobian, at t = 0, 0.1, ..., 1."""
    ode: float | None = None
    """The ODE's negative log-likelihood on the rows whose ODE is solved."""
    ode_error: float | None = None
    ode_bound: float | None = None
    """The bound on the same rows."""
    ode_bound_error: float | None = None
    gap: float | None = None
    """The ODE's negative log-likelihood minus the bound."""
    gap_error: float | None = None
    """It is over the differences of the rows, and thus smaller than the errors of the two."""
    motion: Motion | None = None
    """How far F moves; None if it is the identity."""
    advice: list[str] = field(default_factory=list)
    """What to change, a sentence each."""
    unit: str = "bits/dim"
    """The word for the unit: bits/dim, or bits/column for a table."""


def diagnose(
    model: NDM, x: Tensor, seed: int = 0, passes: int = 30, solves: int = 32, unit: str = "bits/dim"
) -> Diagnosis:
    """Examine a model on rows ``x`` in data units.

    Args:
        model: the model, in evaluation mode.
        seed: seed of all random draws.
        passes: number of Monte-Carlo passes over the rows.
        solves: number of rows whose ODE is solved; 0 leaves the ODE out.
        unit: the word for the unit in the report and the advice.
    """
    steps, generator = model.process.schedule.steps, seeded(seed)
    protocol = Protocol("bound", steps, passes, seed=seed)
    pieces = _pieces(model, x, protocol)
    whole = summarise(model, x, protocol, pieces)
    prior, diffusion, reconstruction = (Figure.of(term) for term in bits_per_dim(column(pieces, "nats").T, x))
    profile = _profile(model, x, steps, passes, generator)
    noise = model.process.schedule.start(model.encode(x[:1]))
    noise_std = (noise.gamma / 2).exp().item()
    level_distance = model.decoder.cell / noise_std if isinstance(model.decoder, CategoricalDecoder) else None
    bins = [Figure.of(values) for values in profile]
    found = Diagnosis(
        len(x), whole.bpd, whole.standard_error, *prior, *diffusion, *reconstruction,
        [b.value for b in bins], [b.error for b in bins],
        level_distance, noise_std, passes, unit=unit,
    )  # fmt: skip
    if model.has_ode and solves:
        _examine_ode(found, model, x[:solves], seed, generator)
    found.motion = motion_of(model, x, generator)
    wrong = faults(model, x, steps)
    advice = found.advice + advise(found, model, _largest_share(profile))
    found.advice = wrong + (advice if not wrong or advice != [NOTHING] else [])
    return found


def _pieces(model: NDM, x: Tensor, protocol: Protocol) -> list[Piece]:
    return list(make_pieces(model, x, protocol, Journal()).values())


def _examine_ode(found: Diagnosis, model: NDM, rows: Tensor, seed: int, generator: torch.Generator) -> None:
    """Add the ODE's likelihood, its distance from the bound on the same rows, its cost and its steepness."""
    divergence = affordable_divergence(latents_like(model, rows), EXACT_UP_TO)
    bound = Protocol("bound", passes=found.passes, seed=seed)
    ode = Protocol("ode", samples=1 if divergence == "exact" else 4, divergence=divergence, solver=SOLVER, seed=seed)
    bounds, odes = _pieces(model, rows, bound), _pieces(model, rows, ode)
    of_bound = summarise(model, rows, bound, bounds)
    found.ode_rows, found.ode_bound, found.ode_bound_error = len(rows), of_bound.bpd, of_bound.standard_error
    if failures := as_likelihood(odes, ode.solver.name).failures:
        found.advice.append(f"the ODE cannot be solved: {failures}")
    else:
        of_ode = summarise(model, rows, ode, odes)
        found.nfe, found.nfe_max = of_ode.nfe, column(odes, "nfe").max().item()
        found.ode, found.ode_error = of_ode.bpd, of_ode.standard_error
        found.gap, found.gap_error = Figure.of(bits_per_dim(nats_of_rows(odes) - nats_of_rows(bounds), rows))
    q = model.process(model.encode(rows[:8]))
    for i in range(11):
        t = full_times(i / 10, q.curve.x)
        z = q.marginal(t).sample(generator).detach()
        found.lipschitz.append(jacobian_norm(velocity_field(model), t, z, generator=generator).max().item())


@torch.no_grad()
def _profile(model: NDM, x: Tensor, steps: int | None, passes: int, generator: torch.Generator) -> Tensor:
    """The part of every row's diffusion term that comes from each tenth of time, ``(10, rows)``, in bits/dim."""
    q = model.process(model.encode(x))
    profile = []
    for k in range(BINS):
        total = torch.zeros(len(x), dtype=torch.float64)
        for _ in range(max(1, passes // 4)):
            offset, _ = LowDiscrepancyTimes()(q.curve.x, generator)
            t = (k + offset) / BINS
            if steps is None:
                z_t = q.marginal(t).sample(generator)
                loss = continuous_diffusion(model, q, z_t, t)
            else:
                s, t = step_around(t, steps)
                z_t = q.marginal(t).sample(generator)
                loss = steps * discrete_diffusion(model, q, z_t, s, t, generator)
            total += bits_per_dim(loss, x).cpu().double() / BINS / max(1, passes // 4)
        profile.append(total)
    return torch.stack(profile)


def _largest_share(profile: Tensor) -> tuple[int, Figure]:
    """The tenth of time from which the largest share of the diffusion term comes, and this share."""
    means = profile.mean(1)
    worst = int(means.argmax())
    if means.sum() == 0:
        return worst, Figure(0.0, None)
    share = (means[worst] / means.sum()).item()
    # The error of a ratio of means is that of the mean of these residuals (the delta method).
    residuals = (profile[worst] - share * profile.sum(0)) / means.sum()
    return worst, Figure(share, Figure.of(residuals).error)


def jacobian_norm(
    f: VectorField, t: Tensor, z: Tensor, iterations: int = 15, generator: torch.Generator | None = None
) -> Tensor:
    """Largest singular value of df/dz for each row, ``(B,)``, by power iteration. It is approached from below."""
    v = torch.randn(z.shape, generator=generator, dtype=z.dtype).to(z.device)
    norm = torch.zeros_like(t)
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        value = f(t, z)
        u = torch.zeros_like(value, requires_grad=True)
        # J^T u is linear in u, so its derivative along v with respect to u is J v.
        (transposed,) = torch.autograd.grad(value, z, u, create_graph=True)
        for _ in range(iterations):
            v = v / sum_rows(v**2).sqrt().clamp(min=1e-30).view(-1, *[1] * (z.ndim - 1))
            (forward,) = torch.autograd.grad(transposed, u, v, retain_graph=True)
            norm = sum_rows(forward**2).sqrt()
            (v,) = torch.autograd.grad(value, z, forward, retain_graph=True)
    return norm.detach()


def advise(d: Diagnosis, model: NDM, share: tuple[int, Figure]) -> list[str]:
    """What to change, in the order: prior, levels, times, cost of the ODE, likelihood of the ODE, F.

    Args:
        d: the diagnosis.
        model: the model.
        share: the tenth of time from which the largest share of the diffusion term comes, and this share.
    """
    schedule, advice = model.process.schedule, []
    prior = Figure(d.prior, d.prior_error)
    if prior.above(0.005) and not schedule.learned_end:
        target = schedule.gamma_max + math.log(d.prior / 0.001)
        advice.append(
            f"the prior gap costs {prior} {d.unit}: raise model.gamma_max from {schedule.gamma_max:g} to {target:.1f}"
        )
    if d.level_distance is not None and d.level_distance < 3:
        target = schedule.gamma_min - 2 * math.log(4 / d.level_distance)
        advice.append(
            f"at t = 0 the levels are only {d.level_distance:.1f} standard deviations apart, and it costs "
            f"{d.reconstruction:.3f} {d.unit} to distinguish them: "
            f"lower model.gamma_min from {schedule.gamma_min:g} to about {target:.1f}"
        )
    if d.level_distance is not None and d.level_distance > 12:
        target = schedule.gamma_min + 2 * math.log(d.level_distance / 6)
        advice.append(
            f"at t = 0 the levels are {d.level_distance:.0f} standard deviations apart, so early times teach "
            f"nothing new: raise model.gamma_min from {schedule.gamma_min:g} to about {target:.1f}"
        )
    worst, part = share
    if part.above(0.4):
        advice.append(
            f"{part.value:.0%} ± {part.error:.0%} of the diffusion term comes from t in [{worst / BINS:.1f}, "
            f"{(worst + 1) / BINS:.1f}]: keep training.uniform_times small, or set model.schedule to learned (in "
            "continuous time it changes only the variance of the loss, in few steps the bound itself)"
        )
    on_motion = [] if d.motion is None else advice_on_motion(d.motion, model)
    return [*advice, *_advise_on_ode(d, model), *on_motion] or [NOTHING]


def _advise_on_ode(d: Diagnosis, model: NDM) -> list[str]:
    advice = []
    if d.nfe_max is not None and d.lipschitz:
        stable = sum((a + b) / 2 for a, b in zip(d.lipschitz, d.lipschitz[1:], strict=False)) / 10 / 3.3
        if 6 * stable > 0.5 * d.nfe_max and d.nfe_max > 200:
            advice.append(
                f"the ODE is stiff: stability alone needs {6 * stable:.0f} evaluations; the field is steepest near t = "
                f"{max(range(11), key=lambda i: d.lipschitz[i]) / 10:g}: expect slow likelihoods"
            )
    if d.gap is None or d.ode_bound is None:
        return advice
    gap = Figure(d.gap, d.gap_error)
    if gap.above(0.0) and gap.value > max(0.03, 0.01 * abs(d.ode_bound)):
        advice.append(
            f"the ODE's NLL is {gap} above the bound"
            + (
                "; with this F they belong to two models: train with training.eta_range 4 to bring them closer together"
                if not model.process.transform.linear
                else "; with this F they agree if the predictor is exact: train longer, or use smaller tolerances"
            )
        )
    return advice


def report(d: Diagnosis) -> str:
    """The diagnosis as text. An error is one standard error over the rows."""
    lines = [f"bound {Figure(d.bound, d.bound_error)} {d.unit} on {d.rows} rows, {d.passes} passes"]
    terms = {"prior": d.prior_error, "diffusion": d.diffusion_error, "reconstruction": d.reconstruction_error}
    for name, error in terms.items():
        value = getattr(d, name)
        share = f"  {value / d.bound:6.1%}" if d.level_distance is not None else ""
        lines.append(f"  {name:15s}{Figure(value, error)!s:>17s}{share}")
    lines += ["", "diffusion by time"]
    top = max(max(d.profile), 1e-12)
    lines += [
        f"  {k / BINS:.1f}-{(k + 1) / BINS:.1f}  {Figure(value, error)!s:>17s}  {'#' * max(0, round(40 * value / top))}"
        for k, (value, error) in enumerate(zip(d.profile, d.profile_error, strict=True))
    ]
    lines += ["", *report_motion(d.motion)] if d.motion is not None else []
    return "\n".join([*lines, "", *_report_on_times(d), "", "what to change", *(f"  - {a}" for a in d.advice)])


def _report_on_times(d: Diagnosis) -> Sequence[str]:
    noise = f"noise at t = 0: standard deviation {d.noise_std:.4g} in units of the encoded data"
    if d.level_distance is not None:
        wrong = math.erfc(d.level_distance / 2 / 2**0.5)
        noise += f"; levels are {d.level_distance:.2f} deviations apart ({wrong:.2%} would be taken for a neighbour)"
    lines = [noise]
    if d.nfe is not None and d.ode is not None and d.ode_bound is not None and d.gap is not None:
        lines += [
            f"ODE at rtol {SOLVER.rtol:g} on the first {d.ode_rows} rows: {d.nfe:.0f} evaluations per row, at most "
            f"{d.nfe_max:.0f}",
            f"  NLL {Figure(d.ode, d.ode_error)}, bound on the same rows {Figure(d.ode_bound, d.ode_bound_error)}, "
            f"difference {Figure(d.gap, d.gap_error)}",
        ]
    if d.lipschitz:
        norms = " ".join(f"{v:.0f}" for v in d.lipschitz)
        lines += [f"norm of the field's Jacobian at t = 0, 0.1, ..., 1: {norms}"]
    return lines
