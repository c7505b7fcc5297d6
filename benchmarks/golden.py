"""Record what the library computes, to the last bit. Run it before and after a change that should change nothing.

The script trains three recipes for 50 steps and records the loss of every step. It resumes one of the runs from its
first checkpoint. It evaluates, diagnoses and samples the trained model. All of this goes through the command line.

    python benchmarks/golden.py --out before.json          # then make the change
    python benchmarks/golden.py --out after.json --compare before.json

Compare only records from the same machine, because other processors round differently. A run takes about three minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

import ndm.training.loop
from ndm.cli import main as ndm_command

TIMINGS = ("seconds", "run", "version", "weights_sha256")
SAMPLERS = ("ancestral", "ddim", "rk4", "dopri5", "euler_maruyama", "stochastic_heun")


def command(*arguments: object) -> str:
    """What a command prints on standard output; it must succeed."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = ndm_command([str(a) for a in arguments])
    if code:
        raise SystemExit(f"ndm {' '.join(map(str, arguments))} exited with {code}")
    return out.getvalue()


def without_timings(record: Any) -> Any:
    """The record without the values that depend on the clock, the folder or the version."""
    if isinstance(record, dict):
        return {k: without_timings(v) for k, v in record.items() if k not in TIMINGS}
    return [without_timings(v) for v in record] if isinstance(record, list) else record


def without_steps(record: Any) -> Any:
    """A result without the step of its model."""
    return {k: v for k, v in record.items() if k not in ("step", "last_step")} if isinstance(record, dict) else record


def checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + str(arrays[name].dtype).encode() + arrays[name].tobytes())
    return digest.hexdigest()[:16]


def training(run: Path) -> dict[str, Any]:
    """Every step's record, and the checksum of the averaged weights."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {"steps": without_timings(lines), "weights": checksum(load_file(run / "model" / "model.safetensors"))}


def record(folder: Path) -> dict[str, Any]:
    """The whole record, computed in a temporary folder."""
    images = np.random.default_rng(0).integers(0, 256, (300, 28, 28)).astype(np.uint8)
    images[:, 6:20, 6:20] //= 8  # dark inside, so that there is something to learn
    np.savez(folder / "images.npz", x_train=images)
    common = (
        "--training.steps",
        50,
        "--training.checkpoint_every",
        20,
        "--training.evaluate_every",
        25,
        "--device",
        "cpu",
    )
    found: dict[str, Any] = {}
    for recipe in ("digits", "digits-t10"):
        command("train", recipe, "--out", folder / recipe, *common)
        found[recipe] = training(folder / recipe)
    command(
        "train", "mnist-small", "--data.name", "array", "--data.path", folder / "images.npz",
        "--training.sample_every", 0, "--out", folder / "mnist-small", *common,
    )  # fmt: skip
    found["mnist-small"] = training(folder / "mnist-small")

    for step in (40, 50):
        shutil.rmtree(folder / "digits" / "checkpoints" / f"step-{step:08d}", ignore_errors=True)
    shutil.rmtree(folder / "digits" / "model")
    command("train", "--resume", folder / "digits", "--device", "cpu")
    found["resumed"] = training(folder / "digits")

    common = ("--device", "cpu", "--json", "--limit", 24)
    for name, options in {
        "evaluate": ("--passes", 3),
        "evaluate-uniform": ("--estimator", "ode-uniform", "--divergence", "hutchinson", "--samples", 2),
        "evaluate-rk4": ("--estimator", "ode", "--solver", "rk4", "--solver_steps", 5),
    }.items():
        found[name] = without_timings(json.loads(command("evaluate", folder / "digits", *options, *common)))
    found["doctor"] = without_timings(json.loads(command("doctor", folder / "digits", *common)))
    for solver in SAMPLERS:
        file = folder / f"{solver}.npz"
        command(
            "sample",
            folder / "digits",
            "--solver",
            solver,
            "--steps",
            10,
            "--num",
            16,
            "--out",
            file,
            "--device",
            "cpu",
        )
        found[f"sample-{solver}"] = checksum({"x": np.load(file)["x"]})
    options = ("--num", 120, "--steps", 5, "--device", "cpu", "--json")
    found["quality"] = without_timings(json.loads(command("quality", folder / "digits", *options)))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where to write the record")
    parser.add_argument("--compare", type=Path, help="an earlier record")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ndm.training.loop.LOG_EVERY = 1
    with tempfile.TemporaryDirectory() as folder:
        found = record(Path(folder))
    args.out.write_text(json.dumps(found, indent=1))
    if args.compare is None:
        return 0
    before = json.loads(args.compare.read_text())
    found = json.loads(args.out.read_text())
    # Results say the step of their model; those of 0.1.0 do not.
    text = lambda record, name: json.dumps(without_steps(record.get(name)), sort_keys=True)  # noqa: E731
    differing = [name for name in {**before, **found} if text(before, name) != text(found, name)]
    for name in {**before, **found}:
        print(f"{'differs  ' if name in differing else 'the same '} {name}")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
