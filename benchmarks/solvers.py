"""Time, evaluations and accuracy of three ODE solvers on log p(x), compared in one run.

    python benchmarks/solvers.py [RUN] [--rows 200] [--threads 1]

With the folder of a run, the script uses that model and its test rows. Without one it uses a toy: the exact predictor
of a ring of eight narrow Gaussians. One in forty of the toy's rows lies between two modes, where the path is stiff.

For each solver and tolerance the script prints the seconds (for the toy the best of three), the evaluations of the
field and of the divergence, and the error of log p per row against scipy's DOP853 at 1e-10 in float64. It then prints

    * the time that each solver needs for equal accuracy, interpolated between tolerances
    * how far apart the three solvers are at tolerance 1e-5, in nats and in units of one step's tolerance
    * how much a row's log p differs between the row alone and the row in the batch
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import ndm
from ndm.data import load_dataset, ring
from ndm.evaluation.tables import markdown_table
from ndm.experiment import Run
from ndm.gaussian import Gaussian
from ndm.likelihood import draw_latent, ode_log_prob
from ndm.sampling import velocity_field
from ndm.solvers import solve_ode

SOLVERS = ("dopri5", "torchdiffeq:dopri5", "scipy:RK45")
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)


class RingMean(nn.Module):
    """E[x | z_t] for equal Gaussians of standard deviation ``std`` around the modes of the ring."""

    def __init__(self, schedule: ndm.Schedule, std: float) -> None:
        super().__init__()
        self.schedule, self.variance = schedule, std**2
        self.register_buffer("means", ring().means)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        level = self.schedule(t)
        alpha, total = level.alpha[:, None], (level.alpha**2 * self.variance + level.sigma**2)[:, None]
        gap = z[:, None] - alpha[:, None] * self.means  # (B, K, D)
        weight = (-gap.square().sum(2) / 2 / total).softmax(1)
        means = self.means + (alpha * self.variance / total)[:, None] * gap
        return (weight[:, :, None] * means).sum(1)


def toy(rows: int) -> tuple[ndm.NDM, Tensor]:
    """A model with the exact predictor, and rows of which one in forty is stiff."""
    schedule, generator, std = ndm.LinearSchedule(-9.0, 12.0), torch.Generator().manual_seed(0), 0.1
    process = ndm.ForwardProcess(schedule)
    model = ndm.NDM(process, ndm.Predictor(RingMean(schedule, std), "x"), ndm.GaussianDecoder()).double()
    means = ring().means
    noise = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    x = means[torch.randint(8, (rows,), generator=generator)] + std * noise
    x[::40] = ((means + means.roll(1, 0)) / 2)[torch.arange(len(x[::40])) % 8] + 0.02 * noise[::40]
    return model, x


def time_for(error: float, points: list[tuple[float, float]]) -> float:
    """The seconds for a given error, interpolated between the logarithms; NaN outside the measured range."""
    seconds, errors = (np.log(v) for v in zip(*points, strict=True))
    order = np.argsort(errors)
    return float(np.exp(np.interp(np.log(error), errors[order], seconds[order], np.nan, np.nan)))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=None)
    parser.add_argument("--rows", type=int, default=None, help="default: 200 of a run, 2000 of the toy")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.run:
        run = Run.open(args.run)
        model, x = run.load_model().double(), load_dataset(**asdict(run.config.data)).test[: args.rows or 200]
        x = x.double() if x.is_floating_point() else x
    else:
        model, x = toy(args.rows or 2000)
    z_0, _ = draw_latent(model, x, generator=torch.Generator().manual_seed(0))
    field = velocity_field(model)
    solve = lambda z, name, tol: ode_log_prob(field, z, None, ndm.Solver(name, rtol=tol, atol=tol)).checked()  # noqa: E731
    truth = solve(z_0, "scipy:DOP853", 1e-10).log_prob
    table, curves, answers = [], {}, {}
    for solver in SOLVERS:
        for tolerance in TOLERANCES:
            seconds = float("inf")
            for _ in range(1 if args.run else 3):
                start = time.perf_counter()
                result = solve(z_0, solver, tolerance)
                seconds = min(seconds, time.perf_counter() - start)
            error = (result.log_prob - truth).abs()
            mean, largest = error.mean().item(), error.max().item()
            curves.setdefault(solver, []).append((seconds, mean, largest))
            answers[solver, tolerance] = result
            nfe = f"{result.nfe.mean():.0f} ({result.nfe.max():.0f}), {result.divergence_nfe.mean():.0f}"
            table.append([solver, f"{tolerance:g}", f"{seconds:.2f}", nfe, f"{mean:.1e}", f"{largest:.1e}"])
    header = ["solver", "tolerance", "seconds", "NFE mean (largest), divergences", "mean error, nats", "largest error"]
    print(markdown_table(header, table))

    rows = []
    for column, name in ((1, "mean"), (2, "largest")):
        for accuracy in (1e-1, 1e-2, 1e-3, 1e-4):
            times = [time_for(accuracy, [(c[0], c[column]) for c in curves[solver]]) for solver in SOLVERS]
            rows.append([f"{name} error {accuracy:g}", *(f"{t:.2f}" for t in times), f"{times[0] / times[1]:.2f}"])
    print(markdown_table(["seconds for", *SOLVERS, "ratio of the first two"], rows))

    at = [answers[solver, 1e-5].log_prob for solver in SOLVERS]
    apart = torch.stack(at).amax(0) - torch.stack(at).amin(0)
    end = solve_ode(field, z_0, 0.0, 1.0, ndm.Solver(rtol=1e-7, atol=1e-7)).checked().state.flatten(1).abs()
    integral = (truth - Gaussian.standard(end).log_prob(end)).abs()
    worth = 1e-5 * ((end * (1 + end)).sum(1) + 1 + integral)  # of errors atol + rtol |.| in z_1 and in the integral
    fewest = min(answers[solver, 1e-5].nfe.min().item() for solver in SOLVERS) / 6
    print(
        f"the three at tolerance 1e-5 are apart by at most {apart.max():.1e} nats of {truth.abs().mean():.1f}, "
        f"mean {apart.mean():.1e}; in units of one step's tolerance {(apart / worth).max():.1f}, "
        f"mean {(apart / worth).mean():.1f}; they took {fewest:.0f} steps or more"
    )
    chosen = torch.arange(0, len(z_0), max(1, len(z_0) // 8))
    for dtype in (torch.float32, torch.float64):
        model.to(dtype)
        for solver in SOLVERS[:2]:
            whole = solve(z_0.to(dtype), solver, 1e-5).log_prob[chosen]
            alone = torch.cat([solve(z_0[i : i + 1].to(dtype), solver, 1e-5).log_prob for i in chosen.tolist()])
            moved = ((alone - whole) / whole).abs().max()
            print(f"a row alone against the batch, {solver}, {dtype}: {moved:.1e} relative")


if __name__ == "__main__":
    main()
