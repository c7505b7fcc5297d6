"""How far apart the ODE and the reverse process are if F is non-linear, and what training with random eta changes.

    python benchmarks/two_models.py --out FOLDER [--seeds 3]

The script trains the recipe ``digits`` with ``training.eta_range`` 1 and 4, and ``digits-conventional`` unchanged,
except for runs that are already in the folder. It prints the test bound (continuous time, 30 passes) and the ODE's NLL
(through the decoder, exact divergence, rtol 1e-4) in bits/dim: the mean and the standard deviation over seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev

import torch

from ndm.cli import main as ndm
from ndm.data import load_dataset
from ndm.evaluation import Protocol, evaluate
from ndm.evaluation.tables import markdown_table
from ndm.experiment import Run

MODELS = {
    "digits-conventional": ("digits-conventional", 1),
    "digits, eta 1": ("digits", 1),
    "digits, eta in [1/4, 4]": ("digits", 4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    x, rows = load_dataset("digits").test, []
    for title, (recipe, eta) in MODELS.items():
        figures: list[tuple[float, float]] = []
        for seed in range(args.seeds):
            folder = args.out / f"{recipe}-eta{eta}-seed{seed}"
            # samples.png is written last; an interrupted training leaves a model too.
            if not (folder / "samples.png").exists() and ndm(
                ["train", recipe, "--out", str(folder), "--seed", str(seed), "--overwrite",
                 "--training.eta_range", str(eta)]
            ):  # fmt: skip
                raise SystemExit(f"training {folder.name} failed")
            model = Run.open(folder).load_model()
            figures.append((evaluate(model, x, Protocol("bound")).bpd, evaluate(model, x, Protocol("ode")).bpd))
        text = [
            f"{mean(v):.3f}" + (f" ({stdev(v):.3f})" if len(v) > 1 else "")
            for v in map(list, zip(*figures, strict=True))
        ]
        gap = [ode - bound for bound, ode in figures]
        rows.append([title, *text, f"{mean(gap):+.3f}" + (f" ({stdev(gap):.3f})" if len(gap) > 1 else "")])
        print(markdown_table(["model", "bound", "ODE", "ODE - bound"], rows), flush=True)


if __name__ == "__main__":
    main()
