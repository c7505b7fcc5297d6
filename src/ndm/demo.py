"""``ndm demo``: a conventional diffusion model and a neural one of the same size, on real data, in minutes."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch

from .data import Dataset, load_dataset
from .evaluation import Estimate, Protocol, evaluate_all
from .evaluation.pictures import draw_samples, draw_trajectories, draw_transform
from .evaluation.tables import estimates_table, markdown_table
from .experiment import Config, Run, read_config
from .model import NDM
from .sampling import sample
from .support.files import write_whole
from .support.progress import console

MODELS = {"conventional": "digits-conventional", "NDM": "digits"}


def demo(out: Path, steps: int = 3000, seed: int = 0, device: str = "cpu") -> bool:
    """Train, evaluate, draw.

    Args:
        out: folder for the results; one run folder per model inside.
        steps: training steps of each model (the recipes' own numbers give slightly better models).
        seed: of both models.
        device: where to compute.

    Returns:
        False if Ctrl-C or SIGTERM stopped a training, and with it the demo.

    Raises:
        InputError: if ``out`` cannot be written or ``steps`` is not positive.
    """
    start = time.perf_counter()
    dataset = load_dataset("digits")
    models: dict[str, NDM] = {}
    facts: list[list[str]] = []
    for title, recipe in MODELS.items():
        began = time.perf_counter()
        run = Run.create(out / f"run-{title.lower()}", demo_config(recipe, seed, steps), overwrite=True)
        models[title], finished = run.train(dataset, device, f"training {title}")
        if not finished:
            return False
        seconds, size = time.perf_counter() - began, models[title].num_parameters
        facts.append([title, run.config.description, f"{size:,}", str(steps), f"{seconds:.0f}"])

    protocols = [Protocol("bound", t, seed=seed) for t in (10, 50, None)] + [Protocol("ode", seed=seed)]
    estimates = {
        title: evaluate_all(model, dataset.test, protocols, title=f"evaluating {title}")
        for title, model in models.items()
    }
    console.print("drawing samples, the transform and ODE paths")
    draw_pictures(models, dataset, out, seed)
    write_whole(out / "summary.md", summarise(facts, estimates, seed))
    console.print(f"\n{headline(estimates)}")
    console.print(
        f"Look at {out}/samples.png first, then {out}/transform.png (what F does to a digit), "
        f"{out}/trajectories.png and the numbers in {out}/summary.md. ({time.perf_counter() - start:.0f} s in all)"
    )
    return True


def draw_pictures(models: dict[str, NDM], dataset: Dataset, out: Path, seed: int) -> None:
    """Draw samples, the transform of test digits, and paths of the ODE."""
    groups = {"test digits": dataset.test[:64]}
    for title, model in models.items():
        generator = torch.Generator().manual_seed(seed)
        groups[f"{title}, 250 steps"] = sample(model, (64, *dataset.shape), 250, mode=True, generator=generator)
    draw_samples(groups, out / "samples.png", levels=17)
    draw_transform(models["NDM"], dataset.test[:8], out / "transform.png")
    draw_trajectories(models, dataset.test, out / "trajectories.png", seed=seed)


def demo_config(recipe: str, seed: int, steps: int) -> Config:
    """A recipe with the demo's seed and number of steps."""
    config = replace(read_config(recipe), seed=seed)
    return replace(config, training=replace(config.training, steps=steps))


def headline(estimates: dict[str, list[Estimate]]) -> str:
    """One honest sentence."""
    a, b = ((title, items[2]) for title, items in estimates.items())
    gap = b[1].bpd - a[1].bpd
    noise = ((a[1].standard_error or 0.0) ** 2 + (b[1].standard_error or 0.0) ** 2) ** 0.5
    verdict = "better" if gap < 0 else "worse"
    size = "within" if abs(gap) < 2 * noise else "beyond"
    return (
        f"Test bound in continuous time: {a[0]} {a[1].bpd:.3f}, {b[0]} {b[1].bpd:.3f} bits/dim; the NDM is "
        f"{abs(gap):.3f} {verdict}, {size} two standard errors over test rows ({noise:.3f}); one seed."
    )


def summarise(facts: list[list[str]], estimates: dict[str, list[Estimate]], seed: int) -> str:
    """The text of summary.md."""
    return f"""# Two diffusion models on 8x8 digits

{headline(estimates)}

Both models were trained on the continuous-time bound, on the same 1350 images, with the same batches (seed {seed}). The
numbers are means over the 297 test images, in bits/dim, of the averaged (EMA) weights; s.e. is over images, not seeds.

{estimates_table(estimates)}
`bound, T=...` is the variational bound of the ancestral sampler with T steps (mean of 30 Monte-Carlo passes), the
sum of its three terms. `ODE` belongs to a different model, the ODE; for discrete data it is itself a bound. Few
steps cost these models much: recipe `digits-t10` learns its schedule and its reverse variance for that.

{markdown_table(["model", "what", "parameters", "steps", "training seconds"], facts)}
- `samples.png`: test digits, and 64 ancestral samples of each model.
- `transform.png`: rows are test digits, columns F(x, t) from t = 0 to 1, and the difference at the right.
- `trajectories.png`: paths of each model's ODE from noise to samples, in the data's first two principal directions.
"""
