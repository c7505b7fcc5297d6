"""What makes a CPU learn MNIST fast: variants of one recipe, each given the same processor time.

    python benchmarks/cpu.py --mnist FOLDER --out FOLDER [--seconds 240] [--variants v "batch 64" ...]

The script first times a variant's steps. The variant then trains for as many steps as fit into ``--seconds`` of
processor time on one thread, and the learning rate's schedule is shortened accordingly. The script prints the
validation bound. It does not train a variant again whose run is already in the folder.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ndm.data import Dataset, load_dataset
from ndm.evaluation.tables import markdown_table
from ndm.experiment import Config, Run, make_config, make_model
from ndm.experiment.recipe import find_recipe, read_settings
from ndm.experiment.settings import merged
from ndm.training import Trainer

BASE = "mnist-small-conventional"
FINE = {"model": {"patch": 1, "width": 24, "multipliers": [1, 2, 4], "attention": []}}
VARIANTS = {
    "base": {},
    "patch 1": {**FINE, "training": {"batch_size": 16}},
    "patch 4": {"model": {"patch": 4, "width": 96, "depth": 2, "multipliers": [1]}},
    "no Fourier features": {"model": {"fourier": []}},
    "width 32": {"model": {"width": 32}},
    "width 48": {"model": {"width": 48}},
    "width 64": {"model": {"width": 64}},
    "depth 2": {"model": {"width": 48, "depth": 2}},
    "batch 16": {"training": {"batch_size": 16}},
    "batch 64": {"training": {"batch_size": 64}},
    "learning rate 2e-3": {"training": {"learning_rate": 0.002}},
    "times by importance": {"training": {"uniform_times": 0.1}},
    "uniform times": {"training": {"uniform_times": 1.0}},
    "v": {"model": {"parameterization": "v"}},
    "bf16": {"training": {"precision": "bf16"}},
}


def time_steps(config: Config, dataset: Dataset, seconds: float = 10) -> float:
    """Processor seconds per step, without the first step."""
    torch.manual_seed(0)
    trainer = Trainer(make_model(config, dataset), dataset, config.training, config.seed)
    trainer.update(*trainer.gradient())
    start = time.process_time()
    while time.process_time() - start < seconds:
        trainer.step += 1
        trainer.update(*trainer.gradient())
    return (time.process_time() - start) / trainer.step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in args.variants:
        settings = merged(merged(read_settings(find_recipe(BASE)), {"data": {"path": str(args.mnist)}}), VARIANTS[name])
        config = make_config(settings)
        dataset = load_dataset(**asdict(config.data))
        folder = args.out / name.replace(" ", "-")
        if not any("validation_bpd" in record for record in Run(folder).metrics()):  # missing, or interrupted
            steps = max(2, int(args.seconds / time_steps(config, dataset)))
            training = replace(config.training, steps=steps, warmup=min(100, steps // 4), ema_decay=0.99)
            training = replace(training, evaluate_every=steps, sample_every=0, checkpoint_every=steps)
            run = Run.create(folder, replace(config, training=training), overwrite=True)
            if not run.train(dataset, title=name).finished:
                raise SystemExit("interrupted; the same command goes on with the other variants")
        run = Run.open(folder)
        *_, last = (record for record in run.metrics() if "validation_bpd" in record)
        size = f"{run.load_model().num_parameters:,}"
        rows.append([name, size, str(run.config.training.steps), f"{last['validation_bpd']:.3f}"])
        print(markdown_table(["variant", "parameters", "steps", "validation bits/dim"], rows), flush=True)


if __name__ == "__main__":
    main()
