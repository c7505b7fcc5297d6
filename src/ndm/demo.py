"""``ndm demo``: train a conventional and a neural diffusion model of the same size on digits, and compare them."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch

from .data import Dataset, load_dataset
from .evaluation import Estimate, Protocol
from .evaluation.pictures import draw_samples, draw_trajectories, draw_transform
from .evaluation.tables import estimates_table, markdown_table
from .experiment import Config, Run, read_config
from .experiment.evaluation import evaluate_run, facts_of
from .experiment.run import Trained
from .experiment.settings import differences
from .model import NDM
from .report import Subject, write_report
from .sampling import sample
from .support.files import write_whole
from .support.lock import Lock
from .support.progress import console, progress_bar

SUMMARY = "summary.md"
MODELS = {"conventional": "digits-quick-conventional", "NDM": "digits-quick"}
PASSES, ODE_ROWS, STEPS = 8, 64, 100
"""The passes of the bound, the test rows whose ODE is solved, and the steps of the samples."""


def demo(out: Path, steps: int = 500, seed: int = 0, device: str = "cpu") -> bool:
    """Train both models, evaluate them on test data, and write pictures and a summary.

    Args:
        out: folder for the results, with one run folder per model in it.
        steps: training steps of each model, at most.
        seed: seed of both models.
        device: device to compute on.

    Returns:
        False if Ctrl-C or SIGTERM stopped the training of a model, which ends the demo.

    Raises:
        InputError: if ``out`` cannot be written, if another demo writes to it, or if ``steps`` is not positive.
    """
    for recipe in MODELS.values():
        demo_config(recipe, seed, steps)  # a wrong value is refused before a folder is made
    with Lock(out / ".ndm-lock", "written", "choose another --out, or wait"):
        return make_demo(out, steps, seed, device)


def make_demo(out: Path, steps: int, seed: int, device: str) -> bool:
    """What :func:`demo` does in a folder that it has for itself."""
    start = time.perf_counter()
    dataset = load_dataset("digits")
    models: dict[str, NDM] = {}
    runs: dict[str, Run] = {}
    facts: list[list[str]] = []
    for title, recipe in MODELS.items():
        began = time.perf_counter()
        run = runs[title] = Run(out / title.lower())
        models[title], finished, _ = trained(run, demo_config(recipe, seed, steps), dataset, device, title)
        if not finished:
            console.print("the same command goes on there, and finishes the demo")
            return False
        seconds, size = time.perf_counter() - began, models[title].num_parameters
        facts.append([title, run.config.description, f"{size:,}", str(steps), f"{seconds:.0f}"])

    subjects = [Subject(run, run.snapshot(), dataset, models[title], seed) for title, run in runs.items()]
    estimates = {title: estimates_of(s) for title, s in zip(runs, subjects, strict=True)}
    with progress_bar("drawing samples, the transform and ODE paths", None):
        draw_pictures(models, dataset, out, steps, seed)
    write_report(subjects, out / "report.html")
    write_whole(out / SUMMARY, summarise(facts, estimates, seed))  # last: with it the demo is finished
    console.print()
    console.print(headline(estimates))
    console.print(
        f"Open {out}/report.html in a browser, or look at {out}/samples.png, {out}/transform.png (what F does to a "
        f"digit), {out}/trajectories.png and the numbers in {out}/{SUMMARY}. "
        f"({time.perf_counter() - start:.0f} s in all)"
    )
    return True


def trained(run: Run, config: Config, dataset: Dataset, device: str, title: str) -> Trained:
    """Train a model, or go on with what a demo that was stopped has left. A demo that was finished begins anew."""
    begun = run.config_file.is_file() and not (run.folder.parent / SUMMARY).exists()
    if begun and not differences(run.config, config):
        if run.model_folder.is_dir() and (snapshot := run.snapshot()).finished:
            return Trained(snapshot.model, True, snapshot.step or config.training.steps)
        return run.train(dataset, device, f"training {title}", resume=True)
    with run.lock:
        run.begin(config, overwrite=True)
        return run.train(dataset, device, f"training {title}")


def estimates_of(subject: Subject) -> list[Estimate]:
    """The bound of all test rows in ten and fifty steps and in continuous time, and the ODE's likelihood of some.

    They are kept in the run's folder.
    """
    run, model, seed, x = subject.run, subject.model, subject.seed, subject.dataset.test
    facts = facts_of(run, subject.dataset, subject.snapshot, "test")
    bounds = [Protocol("bound", t, passes=PASSES, seed=seed) for t in (10, 50, None)]
    ode, rows = Protocol("ode", divergence="hutchinson", seed=seed), x[:ODE_ROWS]
    return [
        *evaluate_run(run, model, x, bounds, facts),
        *evaluate_run(run, model, rows, [ode], facts),
    ]


def draw_pictures(models: dict[str, NDM], dataset: Dataset, out: Path, steps: int, seed: int) -> None:
    """Draw samples, the transform of test digits, and paths of the ODE."""
    groups = {"test digits": dataset.test[:64]}
    for name, model in models.items():
        generator = torch.Generator().manual_seed(seed)
        groups[name] = sample(model, (64, *dataset.shape), STEPS, mode=True, generator=generator)
    title = f"ndm demo: digits, {steps} training steps, seed {seed}"
    draw_samples(groups, out / "samples.png", 17, f"{title}; the decoder's mode after {STEPS} ancestral steps")
    draw_transform(models["NDM"], dataset.test[:8], out / "transform.png", title=f"{title}; F(x, t) of test digits")
    draw_trajectories(models, dataset.test, out / "trajectories.png", seed=seed, title=f"{title}; paths of the ODE")


def demo_config(recipe: str, seed: int, steps: int) -> Config:
    """A recipe with the demo's seed and number of steps."""
    config = replace(read_config(recipe), seed=seed)
    return replace(config, training=replace(config.training, steps=steps))


def headline(estimates: dict[str, list[Estimate]]) -> str:
    """A sentence that compares the test bounds of the two models and says how certain the difference is."""
    a, b = ((title, items[2]) for title, items in estimates.items())
    gap = b[1].bpd - a[1].bpd
    noise = ((a[1].standard_error or 0.0) ** 2 + (b[1].standard_error or 0.0) ** 2) ** 0.5
    verdict = "better" if gap < 0 else "worse"
    size = "within" if abs(gap) < 2 * noise else "beyond"
    return (
        f"Test bound in continuous time: {a[0]} {a[1].bpd:.3f}, {b[0]} {b[1].bpd:.3f} bits/dim; the NDM is "
        f"{abs(gap):.3f} {verdict}, which is {size} two standard errors over test rows (each {noise:.3f}); one seed."
    )


def summarise(facts: list[list[str]], estimates: dict[str, list[Estimate]], seed: int) -> str:
    """The text of ``summary.md``."""
    return f"""# Two diffusion models on 8x8 digits

{headline(estimates)}

Both models were trained on the continuous-time bound, on the same 1350 images, with the same batches (seed {seed}).
They have the weights of the best validation bound, averaged over steps (EMA). The numbers are in bits/dim. They are
means over the 297 test images, and over the first {ODE_ROWS} for the ODE. The standard error (s.e.) is over images, not
over seeds.

{estimates_table(estimates)}
`bound, T=...` is the variational bound of the ancestral sampler with T steps. It is the sum of its three terms, and the
mean of {PASSES} Monte-Carlo passes. `ODE` is the likelihood of the ODE, which is a different model; for discrete data
this number is itself a bound. These models lose many bits if they take few steps. For ten steps there is the recipe
`digits-t10`, which learns its schedule and its reverse variance.

{markdown_table(["model", "what", "parameters", "steps", "training seconds"], facts)}
- `report.html`: a page about both models, which opens in a browser.
- `samples.png`: test digits, and 64 ancestral samples of each model.
- `transform.png`: each row is a test digit; its columns show F(x, t) from t = 0 to 1, then the difference F(x, 1) - x.
- `trajectories.png`: paths of each model's ODE from noise to samples, in the data's first two principal directions.
"""
