"""A comparison of variants of a recipe: a run for each variant and seed, the same estimates of all, and differences.

Every run is a folder ``VARIANT-seedN`` that the other commands read. A run is trained once: an interrupted one goes on
from its newest checkpoint, and a finished one is not trained again. Its figures are a record in ``cells.jsonl``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..data import Dataset, load_dataset
from ..errors import InputError
from ..evaluation import choose_protocols
from ..evaluation.motion import motion_of
from ..evaluation.planar import share_inside, total_variation
from ..evaluation.quality import check_sizes, sliced_wasserstein
from ..likelihood import bits_per_dim
from ..model import NDM
from ..parts import TRANSFORMS
from ..sampling import sample_in_batches
from ..solvers import ODE_SOLVERS
from ..soundness import check_forward
from ..straightness import straightness
from ..support.arguments import is_own
from ..support.files import make_folder
from ..support.journal import append_line, read_lines
from ..support.progress import console
from ..training.loss import check_loss
from .build import make_model, outlined_model, seeded_model, told_fourier
from .evaluation import evaluate_run, facts_of
from .matching import Match, Matched, flops, match, parameters
from .plan import planned_for
from .results import check_finite
from .run import Run
from .settings import Config, differences
from .variants import Variant

ODE, SAME_ROWS = "likelihood by the ODE", "bound, continuous time, rows of the ODE"
QUALITY, STRAIGHTNESS = "sliced Wasserstein-2", "straightness of the ODE"
"""The metric of samples in few steps, and the median of :func:`ndm.straightness.straightness`."""
DEFAULT_SOLVERS = ("ancestral", "euler")
MOVED = 256
"""The number of rows whose distances :func:`ndm.evaluation.motion.motion_of` averages."""


@dataclass(frozen=True)
class Question:
    """What is compared.

    Args:
        config: the settings that all variants share.
        variants: the variants; the others are compared to the first one.
        seeds: a run for each.
        matching: what the variants have in common with the first one: ``params``, ``compute`` or nothing.
        steps: the numbers of steps of the bound; None is continuous time.
        sampling: the numbers of steps of samples; none for data whose samples have no metrics.
        solvers: the samplers; those of the ODE are left out for models without one.
        samples: the number of samples.
        split: the part of the data on which all are evaluated.
        limit: the largest number of rows of it.
        passes: the number of passes of the bound over the rows.
        ode_rows: the number of rows whose likelihood by the ODE is computed.
        given: the full names of the settings that the recipe or the user gives; those of a table otherwise follow from
            the data.
    """

    config: Config
    variants: Sequence[Variant]
    seeds: Sequence[int] = (0, 1, 2)
    matching: Match = "none"
    steps: Sequence[int | None] = (2, 5, 10, 50, 200, None)
    sampling: Sequence[int] = (2, 4, 8, 50)
    solvers: Sequence[str] = DEFAULT_SOLVERS
    samples: int = 1000
    split: Literal["test", "validation"] = "test"
    limit: int | None = None
    passes: int = 30
    ode_rows: int = 256
    given: Collection[str] = ()

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names) or len(set(self.seeds)) < len(self.seeds):
            raise InputError("a variant or a seed is given twice; give each once")

    @cached_property
    def dataset(self) -> Dataset:
        """The data.

        Raises:
            InputError: if there are too few rows for the metrics of samples.
        """
        dataset = load_dataset(**asdict(self.config.data))
        if self.sampling and not dataset.alphabet and dataset.schema is None:
            try:
                check_sizes(self.samples, len(dataset.train), len(dataset.split(self.split)))
            except InputError as error:
                raise InputError(f"{error}; --sampling_steps none leaves the metrics of samples out") from None
        return dataset

    @cached_property
    def shared(self) -> Config:
        """The settings that all variants share, with the sizes of a table's model from the data."""
        config = planned_for(self.config, self.given, self.dataset)
        if self.dataset.schema is None:
            return config
        first = self.variants[0].applied(config, self.seeds[0])
        return told_fourier(config, make_model(first, self.dataset), "model.fourier" in self.given)

    @cached_property
    def matched(self) -> dict[str, Matched]:
        """The config of each variant with the first seed, and how well it is matched."""
        first = self.variants[0].applied(self.shared, self.seeds[0])
        measure = {"none": None, "params": parameters, "compute": flops}[self.matching]
        goal = 1.0 if measure is None else measure(first, self.dataset)
        found = {self.variants[0].name: Matched(first, 1.0)}
        for variant in self.variants[1:]:
            with naming(variant.name):
                own = variant.applied(self.shared, self.seeds[0])
                found[variant.name] = match(own, self.dataset, self.matching, goal)
        return found

    def config_of(self, variant: str, seed: int) -> Config:
        """The config of a run."""
        return replace(self.matched[variant].config, seed=seed)

    def protocol(self) -> dict[str, Any]:
        """What decides the figures of a run besides its settings."""
        return {
            "matching": self.matching, "steps": list(self.steps), "sampling": list(self.sampling),
            "solvers": list(self.solvers), "samples": self.samples, "split": self.split, "limit": self.limit,
            "passes": self.passes, "ode_rows": self.ode_rows,
        }  # fmt: skip


@contextmanager
def naming(variant: str) -> Iterator[None]:
    """Put the name of a variant before an error."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{variant}: {error}") from None


class Comparison:
    """The folder of a comparison.

    Args:
        folder: its path.
        question: what is compared.

    Raises:
        InputError: if it cannot be written.
    """

    def __init__(self, folder: Path, question: Question) -> None:
        make_folder(folder)
        self.folder = folder
        self.question = question
        self.file = folder / "cells.jsonl"

    def records(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The records of finished cells of this question.

        Raises:
            InputError: if a record answers another question, or is of a run with other settings.
        """
        found, asked = {}, self.question.protocol()
        for record in read_lines(self.file, lambda line: isinstance(line, dict) and "protocol" in line):
            record["protocol"].setdefault("solvers", list(DEFAULT_SOLVERS))  # which all had once
            if record["protocol"] != asked:
                changed = [key for key in asked if record["protocol"].get(key) != asked[key]]
                raise InputError(
                    f"{self.file} has figures with another {changed[0]}, {record['protocol'].get(changed[0])}; choose "
                    "another --out, or give the same options"
                )
            found[record["variant"], record["seed"]] = record
        ordered = {}
        for variant in self.question.variants:
            for seed in self.question.seeds:
                if (record := found.get((variant.name, seed))) is not None:
                    if record["module"] != variant.checksum:
                        raise InputError(
                            f"the file of {variant.name} has changed since {self.file}; choose another --out"
                        )
                    ordered[variant.name, seed] = record
                self.check(variant.name, seed)
        return ordered

    def run(self, variant: str, seed: int) -> Run:
        """The run of a cell."""
        return Run(self.folder / f"{variant}-seed{seed}")

    def check(self, variant: str, seed: int) -> None:
        """Refuse a run that has other settings or other data than this question.

        Raises:
            InputError: naming the first setting that differs, or both data sets.
        """
        run, config = self.run(variant, seed), self.question.config_of(variant, seed)
        if run.config_file.is_file() and (changed := differences(run.config, config)):
            name, (old, new) = next(iter(changed.items()))
            raise InputError(f"{run.folder} has {name} {old}, and this comparison has {new}; choose another --out")
        if run.data_file.is_file():
            run.check_data(self.question.dataset)

    def check_variants(self) -> None:
        """Refuse variants that cannot be trained, before any is.

        Raises:
            InputError: naming the first, and what is wrong.
        """
        for variant, matched in self.question.matched.items():
            with naming(variant):
                config, dataset = matched.config, self.question.dataset
                check_loss(outlined_model(config, dataset), config.training)
                if not is_own(TRANSFORMS[config.model.transform]):
                    check_forward(seeded_model(config, dataset), dataset.train, config.training.bound_steps)

    def cells(self) -> list[tuple[str, int]]:
        """The variants and seeds that are not finished, one seed after the other."""
        names, done = [variant.name for variant in self.question.variants], self.records()
        return [(name, seed) for seed in self.question.seeds for name in names if (name, seed) not in done]

    def finish(self, variant: str, seed: int, device: str = "cpu") -> bool:
        """Train and evaluate a run, and keep its figures.

        Returns:
            Whether it is finished; False if Ctrl-C or SIGTERM stopped the training.

        Raises:
            InputError: if the folder of the run has other settings.
        """
        config, dataset = self.question.config_of(variant, seed), self.question.dataset
        run = self.run(variant, seed)
        self.check(variant, seed)
        begun = run.config_file.is_file()
        if not begun:
            run.begin(config)
        if not run.model_folder.is_dir() or not run.snapshot().finished:
            trained = run.train(dataset, device, f"{variant}, seed {seed}", resume=begun)
            if not trained.finished:
                return False
        snapshot = run.snapshot()
        model = snapshot.model.to(device)
        record = {
            "variant": variant, "seed": seed, "protocol": self.question.protocol(),
            "module": next(v.checksum for v in self.question.variants if v.name == variant),
            "parameters": model.num_parameters, "width": config.model.width, "flops": flops(config, dataset),
            "train_seconds": max((line["seconds"] for line in run.metrics() if "seconds" in line), default=0.0),
            **self._figures(model, run, facts_of(run, dataset, snapshot, self.question.split)),
        }  # fmt: skip
        check_finite(record)
        append_line(self.file, record)
        return True

    def _figures(self, model: NDM, run: Run, facts: dict[str, Any]) -> dict[str, Any]:
        """The estimates of a model, and the metric of its samples."""
        question, dataset = self.question, self.question.dataset
        x = dataset.split(question.split)[: question.limit].to(model.reference.device)
        steps = question.steps if model.process.schedule.steps is None else None
        bounds = choose_protocols(model, x, "bound", steps, passes=question.passes)
        estimates = evaluate_run(run, model, x, bounds, facts)
        bits = {e.estimator: e.bpd for e in estimates}
        if question.ode_rows and model.has_ode:
            rows = x[: question.ode_rows]
            if len(rows) < len(x):
                beside = choose_protocols(model, rows, "bound", [None], passes=question.passes)
                bits[SAME_ROWS] = evaluate_run(run, model, rows, beside, facts)[0].bpd
            estimates += evaluate_run(run, model, rows, choose_protocols(model, rows, "ode"), facts)
            # Few latents have an exact divergence, many an estimated one: both are in one row of the table.
            bits[ODE] = estimates[-1].bpd
        entropy = facts["entropy_nats"]
        names = [e.estimator for e in estimates]
        moved = motion_of(model, x[:MOVED])
        return {
            "bits": bits, "estimators": names, "quality": self._qualities(model, run), "unit": dataset.unit,
            "motion": moved.distance if moved else [],
            "ode_rows": min(question.ode_rows, len(x)), "entropy": entropy and bits_per_dim(entropy, x),
        }  # fmt: skip

    def _qualities(self, model: NDM, run: Run) -> dict[str, float]:
        """The metrics of samples in few steps, and how straight the paths of the ODE are."""
        question, dataset = self.question, self.question.dataset
        found: dict[str, float] = {}
        if not question.sampling or dataset.alphabet or dataset.schema is not None:
            return found
        rows = dataset.split(question.split)
        for solver in question.solvers if model.has_ode else without_ode(question.solvers):
            for count in question.sampling if model.process.schedule.steps is None else [model.process.schedule.steps]:
                console.print(f"{run.folder.name}: {question.samples} samples by {solver} in {count} steps")
                generator = torch.Generator().manual_seed(0)
                parts = sample_in_batches(model, dataset.shape, question.samples, count, solver, generator=generator)
                metrics = metrics_of(torch.cat(list(parts)), rows, dataset)
                found |= {f"{name}, {solver}, {count} steps": value for name, value in metrics.items()}
        if model.has_ode:
            z_1 = torch.randn((100, *model.latent_shape(dataset.shape)), generator=torch.Generator().manual_seed(0))
            found[STRAIGHTNESS] = straightness(model, z_1.to(model.reference)).median().item()
        return found

    def curve(self, variant: str, seed: int) -> list[tuple[float, float]]:
        """The seconds of training of a run, and its validation bounds."""
        lines = self.run(variant, seed).metrics()
        return [(line["seconds"], line["validation_bpd"]) for line in lines if "validation_bpd" in line]


def without_ode(solvers: Sequence[str]) -> list[str]:
    """Those solvers that need no ODE; DDIM's steps need F(x, t), as the ODE does."""
    return [name for name in solvers if name not in ODE_SOLVERS and name != "ddim"]


def metrics_of(samples: Tensor, rows: Tensor, dataset: Dataset) -> dict[str, float]:
    """The metrics of samples beside rows of the data."""
    count = min(len(samples), len(rows))
    found = {QUALITY: sliced_wasserstein(samples[:count].double(), rows[:count].double())}
    if dataset.distribution is not None and dataset.shape == (2,):
        found["inside of the support"] = share_inside(samples, dataset.distribution)
        found["total variation"] = total_variation(samples, rows)
    return found


def figures_of(record: dict[str, Any]) -> dict[str, float]:
    """All figures of a record by the names of their columns."""
    return {**record["bits"], **record["quality"]}


def interval(differences: Sequence[float]) -> tuple[float, float | None]:
    """The mean of paired differences, and the half-width of its interval of 95 % by Student's t; None for one pair."""
    n = len(differences)
    mean = sum(differences) / n
    if n < 2:
        return mean, None
    from scipy.stats import t

    spread = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1))
    return mean, float(t.ppf(0.975, n - 1)) * spread / math.sqrt(n)
