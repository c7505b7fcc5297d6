"""The time to fetch a batch as a share of a training step, for MNIST and for a folder of 10,000 pictures.

    python benchmarks/loading.py --mnist FOLDER [--files 10000] [--steps 10] [--limit 0.03]

FOLDER holds MNIST. The script makes the pictures and brings them into the cache before it starts the clock. It times
batches and steps in the training loop itself, with the recipes' models and batch sizes. It exits with 1 if a share is
above the limit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ndm.data import load_dataset
from ndm.evaluation.tables import markdown_table
from ndm.experiment import Config, make_model, read_config
from ndm.training import Trainer


def measure(config: Config, steps: int) -> tuple[int, float, float]:
    """The number of training rows, and the milliseconds of a batch and of a whole step, without the first step."""
    dataset = load_dataset(**asdict(config.data))
    spent = 0.0
    fetch = dataset.batch

    def timed(size: int, seed: int, step: int) -> torch.Tensor:
        nonlocal spent
        start = time.perf_counter()
        rows = fetch(size, seed, step)
        spent += time.perf_counter() - start
        return rows

    object.__setattr__(dataset, "batch", timed)
    trainer = Trainer(make_model(config, dataset), dataset, config.training, config.seed)
    trainer.update(*trainer.gradient())
    spent, start = 0.0, time.perf_counter()
    for trainer.step in range(1, steps + 1):
        trainer.update(*trainer.gradient())
    return len(dataset.train), 1000 * spent / steps, 1000 * (time.perf_counter() - start) / steps


def make_pictures(folder: Path, count: int) -> None:
    """Write ``count`` PNG files of 40 x 32 noise."""
    random = np.random.default_rng(0)
    for k in range(count):
        Image.fromarray(random.integers(256, size=(40, 32, 3), dtype=np.uint8)).save(folder / f"{k:06d}.png")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--limit", type=float, default=0.03)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table, worst = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        make_pictures(Path(folder), args.files)
        for recipe, path in (("mnist-small", args.mnist), ("images", Path(folder))):
            config = read_config(recipe)
            config = replace(config, data=replace(config.data, path=str(path)))
            rows, batch, step = measure(config, args.steps)
            worst = max(worst, batch / step)
            size = str(config.training.batch_size)
            table.append([recipe, f"{rows:,}", size, f"{batch:.2f}", f"{step:.0f}", f"{batch / step:.2%}"])
    print(markdown_table(["recipe", "training rows", "batch", "ms a batch", "ms a step", "share"], table))
    return int(worst > args.limit)


if __name__ == "__main__":
    sys.exit(main())
