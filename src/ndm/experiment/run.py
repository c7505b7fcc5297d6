"""A run is a folder: ``config.yaml``, ``data.json``, ``metrics.jsonl``, ``checkpoints/``, ``model/``, pictures."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..data import Dataset, load_dataset
from ..errors import InputError
from ..model import NDM
from ..support.checks import shown
from ..support.files import read_json, write_whole
from ..support.journal import append_line, read_lines
from ..support.processes import rank_and_count
from ..support.progress import console, progress_bar, training_news
from ..training import Checkpoints, Trainer
from ..training.state import check_weights, part_of
from ..version import __version__
from .build import make_model
from .recipe import read_config_file
from .settings import Config

OUTPUTS = (
    "config.yaml", "data.json", "metrics.jsonl", "checkpoints", "model", "evaluations.jsonl", "qualities.jsonl",
    "evaluation-*.partial.*.jsonl", "samples*.png", "doctor.png", "ndm",
)  # fmt: skip
"""Everything that commands write into a run's folder; ``ndm`` holds TensorBoard's events."""


class Trained(NamedTuple):
    """What a training leaves."""

    model: NDM
    """The average of the weights, in evaluation mode."""
    finished: bool
    """False if Ctrl-C or SIGTERM stopped it before its last step."""


class Run:
    """One run's folder.

    Args:
        folder: where it is, or will be.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config_file = self.folder / "config.yaml"
        self.data_file = self.folder / "data.json"
        self.metrics_file = self.folder / "metrics.jsonl"
        self.evaluations_file = self.folder / "evaluations.jsonl"
        self.qualities_file = self.folder / "qualities.jsonl"
        self.model_folder = self.folder / "model"

    @classmethod
    def create(cls, folder: str | Path, config: Config, overwrite: bool = False) -> Run:
        """Start a run: an empty metrics file and the resolved configuration.

        Raises:
            InputError: if the folder already holds a run (and ``overwrite`` is not given), or holds no run but files
                that a run would replace, or cannot be written.
        """
        run = cls(folder)
        if run.config_file.exists() and not overwrite:
            raise InputError(
                f"{run.folder} already holds a run; choose another --out, pass --overwrite, or go on with "
                f"ndm train --resume {run.folder}"
            )
        earlier = sorted(path for pattern in OUTPUTS for path in run.folder.glob(pattern))
        if earlier and not run.config_file.exists():
            raise InputError(
                f"{run.folder} is not a run's folder, and a run would replace {earlier[0].name} in it; choose another "
                "--out, or move that away"
            )
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            for path in earlier:  # nothing of an earlier run may stand under this one's configuration
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            run.save_config(config)
            run.metrics_file.write_text("")
        except OSError as error:
            raise InputError(f"cannot write to {run.folder}: {error.strerror}") from None
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """A run with a model.

        Raises:
            InputError: if the folder is not a run, or its training has not saved a model.
        """
        run = cls.started(folder)
        if not run.model_folder.is_dir():
            raise InputError(f"{run.folder} has no model yet: go on with ndm train --resume {run.folder}")
        return run

    @classmethod
    def started(cls, folder: str | Path) -> Run:
        """A run, whether or not it has a model yet.

        Raises:
            InputError: if the folder is not a run.
        """
        run = cls(folder)
        if not run.config_file.is_file():
            raise InputError(
                f"{run.folder} is not a run folder (no config.yaml); make one with: ndm train digits --out RUN"
            )
        return run

    @cached_property
    def config(self) -> Config:
        """The resolved configuration, read once."""
        return read_config_file(self.config_file)

    def save_config(self, config: Config) -> None:
        """Write ``config.yaml``."""
        config.save(self.config_file)
        self.config = config

    @property
    def sampling_steps(self) -> int:
        """Unless asked otherwise: as many as the model is trained for, 50 in continuous time."""
        return self.config.training.bound_steps or 50

    def load_dataset(self, path: str | None = None) -> Dataset:
        """The data that the run is trained on.

        Args:
            path: where they are now, if they have moved.

        Raises:
            InputError: if they cannot be read, or have changed since.
        """
        config = self.config.data
        if path is None and config.path is not None and not Path(config.path).exists():
            raise InputError(f"the data of {self.folder} are no longer at {config.path}: give --data.path")
        dataset = load_dataset(**asdict(config) | {"path": path or config.path})
        self.check_data(dataset)
        return dataset

    def check_data(self, dataset: Dataset) -> None:
        """Refuse other data than those that the run was trained on: their test rows may be its training rows.

        Raises:
            InputError: if they differ in number or in what is known of their origin.
        """
        if not self.data_file.exists():
            return  # nothing has been trained
        before, now = read_json(self.data_file), identity(dataset)
        if before != now:
            raise InputError(
                f"the data have changed since {self.folder} was trained on them: then {shown(before, 400)}, now {now}; "
                "bring them back as they were, or train a new run"
            )

    def train(
        self,
        dataset: Dataset,
        device: str = "cpu",
        title: str = "training",
        resume: bool = False,
        model: NDM | None = None,
    ) -> Trained:
        """Train with progress, metrics and checkpoints, and save the average of the weights.

        Args:
            dataset: the data to learn from.
            device: where to train.
            title: of the progress bar.
            resume: go on from the newest whole checkpoint, if there is one.
            model: the untrained model, if it has been built already.

        Returns:
            The model, and whether the training is finished. On Ctrl-C or SIGTERM a checkpoint and the average so far
            are saved.

        Raises:
            InputError: if the run was begun with other data.
        """
        self.check_data(dataset)
        config = self.config
        model = seeded_model(config, dataset) if model is None else model
        picture = lambda averaged, step: self.draw_samples(averaged, dataset, f"samples-{step:08d}.png")  # noqa: E731
        trainer = Trainer(model, dataset, config.training, config.seed, device, folder=self.folder, picture=picture)
        main = trainer.accelerator.is_main_process
        state = Checkpoints(self.folder / "checkpoints").latest(console.print, trainer.check) if resume else None
        if state is not None:
            trainer.load(state)
        if main and not self.data_file.is_file():
            write_whole(self.data_file, json.dumps(identity(dataset)))
        if main and resume:
            console.print(f"going on from step {trainer.step}")
            self._forget_after(trainer.step)
        with progress_bar(title, config.training.steps, visible=main) as bar:
            bar.update(bar.task_ids[0], completed=trainer.step)
            trainer.log = training_news(bar, self.log)
            average = trainer.run()
        if main:
            average.save_pretrained(self.model_folder)
        if not trainer.finished:
            console.print(f"stopped after step {trainer.step}; go on with: ndm train --resume {self.folder}")
        return Trained(average, trainer.finished)

    def _forget_after(self, step: int) -> None:
        """Drop the metrics of steps that will be made again."""
        kept = [json.dumps(record) + "\n" for record in self.metrics() if record["step"] <= step]
        write_whole(self.metrics_file, "".join(kept))

    def draw_samples(self, model: NDM, dataset: Dataset, name: str) -> None:
        """Draw 64 samples into the run's folder; of several processes all sample, and the first one writes."""
        from ..evaluation.pictures import write_samples
        from ..sampling import sample_in_batches

        generator = torch.Generator().manual_seed(self.config.seed)
        parts = list(sample_in_batches(model, dataset.shape, 64, self.sampling_steps, mode=True, generator=generator))
        if rank_and_count()[0] == 0:
            write_samples(model, torch.cat(parts), dataset.test, self.folder / name)

    def facts(self, dataset: Dataset) -> dict[str, Any]:
        """What every result of this run is recorded with."""
        return {"run": str(self.folder), "version": __version__, "data": dataset.name, "release": dataset.release}

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        append_line(self.metrics_file, record)

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of ``metrics.jsonl``."""
        return read_lines(self.metrics_file, lambda line: isinstance(line, dict) and isinstance(line.get("step"), int))

    def load_model(self, checkpoint: str | None = None, dataset: Dataset | None = None) -> NDM:
        """The trained model, in evaluation mode, or the average of weights in a checkpoint.

        Args:
            checkpoint: newest, best, or a step; None is the finished model.
            dataset: the run's, which a checkpoint's model is built for; loaded unless given.

        Raises:
            InputError: if there is no such model.
        """
        if checkpoint is None:
            return NDM.from_pretrained(self.model_folder)
        state = Checkpoints(self.folder / "checkpoints").find(checkpoint)
        weights = part_of(state.tensors, "average.")
        most = (2 * len(weights) + 64, 2 * sum(value.numel() for value in weights.values()) + 2**20)
        model = make_model(self.config, dataset or self.load_dataset(), most)
        check_weights(weights, model.state_dict(), f"the checkpoint of step {state.step} in {self.folder}")
        model.load_state_dict(weights)
        return model.eval().requires_grad_(False)


def seeded_model(config: Config, dataset: Dataset) -> NDM:
    """The untrained model of a config, whose weights are a function of its seed."""
    torch.manual_seed(config.seed)
    return make_model(config, dataset)


def identity(dataset: Dataset) -> dict[str, Any]:
    """What tells data apart without reading all of them."""
    rows = [len(split) for split in (dataset.train, dataset.validation, dataset.test)]
    return {"name": dataset.name, "release": dataset.release, "rows": rows}
