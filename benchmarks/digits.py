"""The figures of the README's table: conventional diffusion against an NDM of the same size, over several seeds.

    python benchmarks/digits.py --out FOLDER [--seeds 3] [--recipes digits digits-conventional ...]

The script trains every recipe with every seed by ``ndm train``, except for runs that are already in the folder. It then
evaluates the test bound with 30 Monte-Carlo passes, and prints the mean and the standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import mean, stdev

from ndm.cli import main as ndm
from ndm.evaluation.tables import markdown_table
from ndm.experiment import Run

RECIPES = ["digits-conventional", "digits", "digits-linear", "digits-t10-conventional", "digits-t10"]


def evaluate(folder: Path) -> dict:
    """Evaluate a run's test bound and return the record of the evaluation."""
    out = StringIO()
    steps = Run.open(folder).config.training.bound_steps or "continuous"
    with redirect_stdout(out):
        code = ndm(["evaluate", str(folder), "--json", "--estimator", "bound", "--passes", "30", "--steps", str(steps)])
    if code:
        raise SystemExit(code)
    return json.loads(out.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    rows = []
    for recipe in args.recipes:
        figures, seconds, result = [], [], {}
        for seed in range(args.seeds):
            folder = args.out / f"{recipe}-seed{seed}"
            # samples.png is written last; an interrupted training leaves a model too.
            if not (folder / "samples.png").exists() and ndm(
                ["train", recipe, "--out", str(folder), "--seed", str(seed), "--overwrite"]
            ):
                raise SystemExit(f"training {recipe} failed")
            result = evaluate(folder)
            figures.append(result["estimates"][0]["bpd"])
            seconds.append(Run.open(folder).metrics()[-1]["seconds"])
        spread = f"{stdev(figures):.3f}" if len(figures) > 1 else ""
        each = ", ".join(f"{f:.3f}" for f in figures)
        name, size = result["estimates"][0]["estimator"], f"{result['parameters']:,}"
        rows.append([recipe, name, f"{mean(figures):.3f}", spread, each, size, f"{mean(seconds):.0f}"])
        print(markdown_table(["recipe", "estimator", "bits/dim", "s.d.", "seeds", "parameters", "seconds"], rows))


if __name__ == "__main__":
    main()
