"""The ODE's likelihood of trained toys against the exact one, and the integral of the density over a grid.

    python benchmarks/toys.py --out FOLDER [--recipes ring checkerboard moons] [--seed 0]

The script trains each recipe, except for runs that are already in the folder. ``gap`` is the mean over the 2000
test rows of log p(x) - log p_ODE(x), an estimate of KL(data || model) in nats. ``NLL - entropy`` estimates the same
quantity, but also has the noise of the rows. The density is integrated by the trapezoidal rule on a 401 x 401 grid over
[-6, 6]^2. The script exits with 1 if the gap or ``NLL - entropy`` is outside [-3 s.e., limit], or if the integral
differs from 1 by more than half a percent.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import ndm
from ndm.cli import main as command
from ndm.data import load_dataset
from ndm.evaluation.tables import markdown_table
from ndm.experiment import Run

LIMITS = {"ring": 0.05, "checkerboard": 0.15, "moons": 0.15}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", default=["ring", "checkerboard"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows, bad = [], 0
    for recipe in args.recipes:
        folder = args.out / f"{recipe}-seed{args.seed}"
        # samples.png is written last; an interrupted training leaves a model too.
        if not (folder / "samples.png").exists() and command(
            ["train", recipe, "--out", str(folder), "--seed", str(args.seed), "--overwrite"]
        ):
            raise SystemExit(f"training {recipe} failed")
        model, dataset = Run.open(folder).load_model(), load_dataset(recipe)
        assert dataset.distribution is not None
        log_p = ndm.log_prob(model, dataset.test, dtype=torch.float64)
        gap = dataset.distribution.log_prob(dataset.test.double()) - log_p
        error, error_nll = (v.std().item() / len(v) ** 0.5 for v in (gap, log_p))
        axis = torch.linspace(-6, 6, 401)
        grid = torch.cartesian_prod(axis, axis)
        density = ndm.log_prob(model, grid, solver=ndm.Solver(rtol=1e-4, atol=1e-4), max_rows=20_000)
        density = density.exp().double().view(401, 401)
        integral = torch.trapezoid(torch.trapezoid(density, dx=0.03), dx=0.03).item()
        mean, limit = gap.mean().item(), LIMITS[recipe]
        excess = -log_p.mean().item() - dataset.distribution.entropy()
        good = -3 * error <= mean <= limit and -3 * error_nll <= excess <= limit and abs(integral - 1) <= 0.005
        bad += not good
        rows.append([
            recipe, f"{mean:.4f} ({error:.4f})", f"{excess:.4f} ({error_nll:.4f})", f"{limit:g}", f"{integral:.5f}",
            "ok" if good else "OUT OF BOUNDS",
        ])  # fmt: skip
        header = ["toy", "gap, nats (s.e.)", "NLL - entropy (s.e.)", "limit", "integral", ""]
        print(markdown_table(header, rows), flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
