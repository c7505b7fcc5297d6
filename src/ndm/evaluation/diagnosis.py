r"""A diagnosis of a trained model: which parts of the bound cost how many bits, and what to change.

* The bits of each term of the bound, and the part of the diffusion term that comes from each tenth of time.
* The prior gap :math:`\mathrm{KL}(q(z_1 \mid x) \,\|\, \mathcal{N}(0, I))`, which falls like :math:`e^{-\gamma_1}`.
* Whether :math:`\gamma_0` fits the data's levels. The measure is the distance between neighbouring levels in standard
  deviations of the noise at t = 0.
* The cost of the ODE: the number of evaluations of its field, and the norm L of the field's Jacobian at eleven times.
  An explicit method of order 5 is stable for steps up to about 3.3 / L.
* The ODE's likelihood beside the bound. For a non-linear F they belong to two different models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..likelihood import affordable_divergence, bits_per_dim, ode_likelihood
from ..model import NDM
from ..objective import bound, continuous_diffusion, discrete_diffusion, step_around
from ..sampling import velocity_field
from ..solvers import VectorField
from ..support.tensors import full_times, seeded, sum_rows
from ..times import LowDiscrepancyTimes
from .protocol import SOLVER

BINS = 10


@dataclass
class Diagnosis:
    """The result of :func:`diagnose`. Numbers are in bits/dim unless a field says otherwise."""

    prior: float
    diffusion: float
    reconstruction: float
    profile: list[float]
    """The part of the diffusion term that comes from each tenth of time."""
    level_distance: float | None
    """Distance between neighbouring levels at t = 0, in standard deviations of the noise; None for continuous data."""
    noise_std: float
    """Standard deviation of the noise at t = 0, sigma / alpha, in the units of the encoded data."""
    nfe: float | None = None
    """Evaluations of the field in one ODE solve, mean over rows; None if the schedule has no continuous time."""
    nfe_max: float | None = None
    """The largest number of evaluations of any row."""
    lipschitz: list[float] = field(default_factory=list)
    """Largest norm over rows of the field's Jacobian, at t = 0, 0.1, ..., 1."""
    ode: float | None = None
    """The ODE's negative log-likelihood on the rows whose ODE is solved."""
    ode_bound: float | None = None
    """The bound on the same rows."""
    advice: list[str] = field(default_factory=list)
    """What to change, a sentence each."""


def diagnose(model: NDM, x: Tensor, seed: int = 0, passes: int = 20, solves: int = 32) -> Diagnosis:
    """Examine a model on rows ``x`` in data units.

    Args:
        passes: number of Monte-Carlo passes over the rows.
        solves: number of rows whose ODE is solved.
    """
    steps, generator = model.process.schedule.steps, seeded(seed)
    bpd = lambda nats: bits_per_dim(nats, x)  # noqa: E731
    with torch.no_grad():
        terms = torch.stack([torch.stack(bound(model, x, steps, generator=generator)) for _ in range(passes)]).mean(0)
        prior, diffusion, reconstruction = bpd(terms.mean(1)).tolist()
        profile = _profile(model, x, steps, passes, generator)
    noise = model.process.schedule(full_times(0.0, model.encode(x[:1])))
    noise_std = (noise.gamma / 2).exp().item()
    distance = None if model.decoder.levels is None else 2 / model.decoder.levels / noise_std
    found = Diagnosis(prior, diffusion, reconstruction, profile, distance, noise_std)
    if steps is None:
        rows = x[:solves]
        divergence = affordable_divergence(rows)
        draws = [bound(model, rows, generator=generator).total.detach() for _ in range(passes)]
        found.ode_bound = bpd(torch.stack(draws).mean()).item()
        result = ode_likelihood(
            model, rows, SOLVER, divergence=divergence, samples=1 if divergence == "exact" else 4, max_rows=16,
            generator=generator,
        )  # fmt: skip
        if result.failures:
            found.advice.append(f"the ODE cannot be solved: {result.failures}")
        else:
            found.nfe, found.nfe_max = result.nfe.mean().item(), result.nfe.max().item()
            found.ode = bpd(-result.log_prob.mean()).item()
        q = model.process(model.encode(x[:8]))
        for i in range(11):
            t = full_times(i / 10, q.curve.x)
            z = q.marginal(t).sample(generator).detach()
            found.lipschitz.append(jacobian_norm(velocity_field(model), t, z, generator=generator).max().item())
    found.advice += advise(found, model)
    return found


def _profile(model: NDM, x: Tensor, steps: int | None, passes: int, generator: torch.Generator) -> list[float]:
    """The part of the diffusion term that comes from each tenth of time, in bits/dim."""
    q = model.process(model.encode(x))
    profile = []
    for k in range(BINS):
        total = 0.0
        for _ in range(max(1, passes // 4)):
            offset, _ = LowDiscrepancyTimes()(q.curve.x, generator)
            t = (k + offset) / BINS
            if steps is None:
                z_t = q.marginal(t).sample(generator)
                loss = continuous_diffusion(model, q, z_t, t)
            else:
                s, t = step_around(t, steps)
                z_t = q.marginal(t).sample(generator)
                loss = steps * discrete_diffusion(model, q, z_t, s, t)
            total += bits_per_dim(loss, x).mean().item() / BINS / max(1, passes // 4)
        profile.append(total)
    return profile


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


def advise(d: Diagnosis, model: NDM) -> list[str]:
    """What to change, in the order: prior, levels, times, cost of the ODE, likelihood of the ODE."""
    schedule, advice = model.process.schedule, []
    total = d.prior + d.diffusion + d.reconstruction
    if d.prior > 0.005:
        target = schedule.gamma_max + math.log(d.prior / 0.001)
        advice.append(
            f"the prior gap costs {d.prior:.4f} bits/dim: "
            f"raise model.gamma_max from {schedule.gamma_max:g} to {target:.1f}"
        )
    if d.level_distance is not None and d.level_distance < 3:
        target = schedule.gamma_min - 2 * math.log(4 / d.level_distance)
        advice.append(
            f"at t = 0 the levels are only {d.level_distance:.1f} standard deviations apart, and it costs "
            f"{d.reconstruction:.3f} bits/dim to distinguish them: "
            f"lower model.gamma_min from {schedule.gamma_min:g} to about {target:.1f}"
        )
    if d.level_distance is not None and d.level_distance > 12:
        target = schedule.gamma_min + 2 * math.log(d.level_distance / 6)
        advice.append(
            f"at t = 0 the levels are {d.level_distance:.0f} standard deviations apart, so early times teach "
            f"nothing new: raise model.gamma_min from {schedule.gamma_min:g} to about {target:.1f}"
        )
    worst = max(range(BINS), key=lambda k: d.profile[k])
    if d.profile[worst] > 0.4 * sum(d.profile):
        advice.append(
            f"{d.profile[worst] / sum(d.profile):.0%} of the diffusion term comes from t in [{worst / BINS:.1f}, "
            f"{(worst + 1) / BINS:.1f}]: keep training.uniform_times small, or set model.schedule to learned (in "
            "continuous time it changes only the variance of the loss, in few steps the bound itself)"
        )
    if d.nfe_max is not None and d.lipschitz:
        stable = sum((a + b) / 2 for a, b in zip(d.lipschitz, d.lipschitz[1:], strict=False)) / 10 / 3.3
        if 6 * stable > 0.5 * d.nfe_max and d.nfe_max > 200:
            advice.append(
                f"the ODE is stiff: stability alone needs {6 * stable:.0f} evaluations; the field is steepest near t = "
                f"{max(range(11), key=lambda i: d.lipschitz[i]) / 10:g}: expect slow likelihoods"
            )
    if d.ode is not None and d.ode_bound is not None and d.ode > d.ode_bound + max(0.03, 0.01 * abs(total)):
        advice.append(
            f"the ODE's NLL is {d.ode - d.ode_bound:.3f} above the bound"
            + (
                "; with this F they belong to two models: train with training.eta_range 4 to bring them closer together"
                if not model.process.transform.linear
                else "; with this F they agree if the predictor is exact: train longer, or use smaller tolerances"
            )
        )
    return advice or ["nothing stands out"]


def report(d: Diagnosis) -> str:
    """The diagnosis as text."""
    total = d.prior + d.diffusion + d.reconstruction
    lines = [f"bound {total:.4f} bits/dim"]
    lines += [
        f"  {name:15s}{value:8.4f}" + (f"  {value / total:6.1%}" if d.level_distance is not None else "")
        for name, value in (("prior", d.prior), ("diffusion", d.diffusion), ("reconstruction", d.reconstruction))
    ]
    lines += ["", "diffusion by time"]
    top = max(max(d.profile), 1e-12)
    lines += [
        f"  {k / BINS:.1f}-{(k + 1) / BINS:.1f}{v:9.4f}  {'#' * max(0, round(40 * v / top))}"
        for k, v in enumerate(d.profile)
    ]
    noise = f"noise at t = 0: standard deviation {d.noise_std:.4g} in units of the encoded data"
    if d.level_distance is not None:
        wrong = math.erfc(d.level_distance / 2 / 2**0.5)
        noise += f"; levels are {d.level_distance:.2f} deviations apart ({wrong:.2%} would be taken for a neighbour)"
    lines += ["", noise]
    if d.nfe is not None and d.ode is not None:
        lines += [
            f"ODE at rtol {SOLVER.rtol:g}: {d.nfe:.0f} evaluations per row, at most {d.nfe_max:.0f}; NLL {d.ode:.3f}, "
            f"bound on the same rows {d.ode_bound:.3f}"
        ]
    if d.lipschitz:
        norms = " ".join(f"{v:.0f}" for v in d.lipschitz)
        lines += [f"norm of the field's Jacobian at t = 0, 0.1, ..., 1: {norms}"]
    return "\n".join([*lines, "", "what to change", *(f"  - {a}" for a in d.advice)])
