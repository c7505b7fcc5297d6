"""A run: a model that is trained with its settings on its data, in a folder of its own."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..data import Dataset, identity, load_dataset, same_data
from ..errors import InputError
from ..model import NDM
from ..support.checks import shown
from ..support.files import read_json, write_whole
from ..support.processes import failing_together, rank_and_count
from ..support.program import command
from ..support.progress import console, phase, progress_bar, training_news, warn
from ..tables import keep_schema
from ..training import State, Trainer, learning_rate
from ..training.state import check_weights, part_of
from ..training.stop import ended_early
from ..version import __version__
from .build import make_model, seeded_model
from .folder import RunFolder
from .snapshot import Snapshot, find_checkpoint, save_model, start_from, step_of_model


class Trained(NamedTuple):
    """The result of a training."""

    model: NDM
    """The average of the weights, in evaluation mode."""
    finished: bool
    """False if Ctrl-C or SIGTERM stopped the training before its last step."""
    step: int
    """The step of these weights; with ``training.patience`` that of the best validation."""


class Run(RunFolder):
    """A run: its data, its training, and the models that the training has saved. Its folder need not exist yet."""

    def load_dataset(self, path: str | None = None) -> Dataset:
        """The data that the run is trained on.

        Args:
            path: their present path, if they have been moved.

        Raises:
            InputError: if the data cannot be read, or if they have changed since the run was trained.
        """
        config = self.config.data
        if path is None and config.path is not None and not Path(config.path).exists():
            raise InputError(f"the data of {self.folder} are no longer at {config.path}; set --data.path")
        dataset = load_dataset(**asdict(config) | {"path": config.path if path is None else path})
        self.check_data(dataset)
        return dataset

    def check_data(self, dataset: Dataset) -> None:
        """Refuse data that differ from those that the run was trained on, as their test rows may be its training rows.

        Raises:
            InputError: if the data differ in the sense of :func:`ndm.data.same_data`, or if nothing tells whether they
                do.
        """
        if not self.data_file.exists():
            if self.checkpoints.steps() or self.model_folder.is_dir():  # the training has written it before these
                raise InputError(
                    f"{self.data_file} is missing, so nothing tells whether the data are those that {self.folder} was "
                    "trained on; restore this file, or train a new run"
                )
            return  # the run has not been trained yet
        before, now = read_json(self.data_file), identity(dataset)
        if not isinstance(before, dict) or not same_data(before, now):
            raise InputError(
                f"the data have changed since {self.folder} was trained on them: they were "
                f"{shown(before, 400)} and are {now}; restore them, or train a new run"
            )

    def change_steps(self, steps: int) -> None:
        """Let the run end at another step. The learning rate then follows the new number of steps.

        Raises:
            InputError: if the run has done as many steps already.
        """
        newest = self.checkpoints.latest()  # by its record: a folder may have any name
        if newest is None and self.checkpoints.steps():
            raise self._no_checkpoint()
        done, before = 0 if newest is None else newest.step, self.config.training.steps
        if newest is not None and (reason := ended_early(self.config.training, newest)):
            raise InputError(
                f"training.{reason} has ended {self.folder} at step {done}, so more steps would train nothing; start "
                f"another run from it, with --init {self.folder}"
            )
        if steps <= done:
            raise InputError(
                f"training.steps {steps} is not larger than the {done} steps that {self.folder} has done; choose a "
                "larger number, or leave the option out"
            )
        training = replace(self.config.training, steps=steps)
        self.save_config(replace(self.config, training=training))
        self.log({"step": done, "steps_before": before, "steps": steps})
        console.print(
            f"the last step is now {steps} instead of {before}: at step {done + 1} the learning rate is "
            f"{learning_rate(done, training):.3g}, and it falls to 1e-8 at step {steps}"
        )

    def train(
        self,
        dataset: Dataset,
        device: str = "cpu",
        title: str = "training",
        resume: bool = False,
        model: NDM | None = None,
    ) -> Trained:
        """Train with a progress bar, metrics and checkpoints, and save the average of the weights.

        Args:
            dataset: the data to learn from.
            device: device to train on.
            title: title of the progress bar.
            resume: continue from the newest intact checkpoint, if there is one.
            model: the untrained model, if it has been built already.

        Returns:
            The model, and whether the training is finished. After Ctrl-C or SIGTERM the average so far is saved, and a
            checkpoint.

        Raises:
            InputError: if the run was begun with other data, if another process trains it, or if its folder is moved,
                deleted or replaced meanwhile.
        """
        from accelerate import PartialState

        # Of several processes that share the training, the first one writes.
        with self.lock if PartialState(cpu=device == "cpu").is_main_process else nullcontext():
            self.check_data(dataset)
            self.check_folders()
            trainer, state = self._trainer(dataset, device, model, resume)
            main = trainer.accelerator.is_main_process
            if main and not self.data_file.is_file():
                write_whole(self.data_file, json.dumps(identity(dataset)))
            if main and dataset.schema is not None:
                keep_schema(dataset.schema, len(dataset.train), self.folder)
            if main and resume:
                console.print(f"going on from step {trainer.step}")
                self._forget_after(trainer.step)
            if state is None and self.config.init is not None:
                trainer.save()  # whoever resumes the run needs the other run no more
            check_own = partial(self.check_own, self.stamp)
            if trainer.checkpoints is not None:
                trainer.checkpoints.check = check_own

            def log(record: dict[str, Any]) -> None:
                check_own()
                self.log(record)

            with progress_bar(title, self.config.training.steps, main, "step", done=trainer.step) as bar:
                trainer.log = training_news(bar, log, dataset.unit)
                average = trainer.run()
            with failing_together():
                if main:
                    check_own()
                    schema = None
                    if dataset.schema is not None:
                        schema = keep_schema(dataset.schema, len(dataset.train), self.model_folder)
                    save_model(average, self.model_folder, trainer.averaged_step, schema)
            if trainer.averaged_step != trainer.step:
                console.print(
                    f"the model has the average of step {trainer.averaged_step}, whose bound on validation rows is the "
                    f"best, {trainer.best:.3f} {dataset.unit}"
                )
            if trainer.skipped:
                warn(f"{trainer.skipped} of {trainer.step} steps were skipped: they had no finite gradient")
            if not trainer.finished:
                follows = command(f"train --resume {self.folder}")
                console.print(f"stopped after step {trainer.step}; go on with: {follows}")
            return Trained(average, trainer.finished, trainer.averaged_step)

    def _trainer(self, dataset: Dataset, device: str, model: NDM | None, resume: bool) -> tuple[Trainer, State | None]:
        """The trainer, and the state from which it continues; None if it starts at the first step."""
        config, continued = self.config, resume and bool(self.checkpoints.steps())
        model = seeded_model(config, dataset) if model is None else model
        if config.init is not None and not continued:
            start_from(model, config.init)

        @phase("drawing samples")
        def picture(averaged: NDM, step: int) -> None:
            self.draw_samples(averaged, dataset, f"samples-{step:08d}", step)

        trainer = Trainer(model, dataset, config.training, config.seed, device, folder=self.folder, picture=picture)
        state = self.checkpoints.latest(warn, trainer.check) if continued else None
        if state is not None:
            trainer.load(state)
        elif continued:  # from the first step, the training would replace what there is
            raise self._no_checkpoint()
        return trainer, state

    def _no_checkpoint(self) -> InputError:
        again = "its --init" if self.config.init is not None else "the beginning, in another folder"
        return InputError(
            f"no checkpoint of {self.folder} fits its config.yaml and is intact; restore one of these, or start again "
            f"from {again}"
        )

    def _forget_after(self, step: int) -> None:
        """Drop the metrics of steps after ``step``, which will be made again."""
        kept = [json.dumps(record) + "\n" for record in self.metrics() if record["step"] <= step]
        write_whole(self.metrics_file, "".join(kept))

    def draw_samples(self, model: NDM, dataset: Dataset, name: str, step: int) -> None:
        """Write 64 samples as a picture or as text into the run's folder. All processes sample, the first one writes.

        Args:
            name: the name of the file without its ending.
            step: the step of the model, for the title.
        """
        from ..evaluation.pictures import write_samples
        from ..evaluation.texts import write_texts
        from ..sampling import sample_in_batches

        generator = torch.Generator().manual_seed(self.config.seed)
        parts = list(sample_in_batches(model, dataset.shape, 64, self.sampling_steps, mode=True, generator=generator))
        if rank_and_count()[0] == 0:
            last, steps = self.config.training.steps, self.sampling_steps
            title = f"{self.folder.name}, step {step} of {last}, ancestral {steps} steps"
            path = self.folder / f"{name}{samples_suffix(dataset)}"
            if dataset.alphabet:
                write_texts(model, torch.cat(parts), path, title)
            else:
                write_samples(model, torch.cat(parts), dataset.test, path, title, dataset.distribution)

    def facts(self, dataset: Dataset, snapshot: Snapshot) -> dict[str, Any]:
        """The facts that are recorded with every result of this run."""
        data = {"data": dataset.name, "release": dataset.release}
        return {"run": str(self.folder), "version": __version__, **data, **snapshot.facts}

    def load_model(self, checkpoint: str | None = None, dataset: Dataset | None = None) -> NDM:
        """The model of :meth:`snapshot`."""
        return self.snapshot(checkpoint, dataset).model

    def snapshot(self, checkpoint: str | None = None, dataset: Dataset | None = None) -> Snapshot:
        """The finished model, or a model with the averaged weights of a checkpoint, and the step of its weights.

        Args:
            checkpoint: ``newest``, ``best`` or a step number; None is the finished model.
            dataset: the run's data set, which sets the shape and decoder of a checkpoint's model; None loads it.

        Raises:
            InputError: if there is no such model or checkpoint.
        """
        last = self.config.training.steps
        if checkpoint is None:
            step = step_of_model(self.model_folder, self.metrics(), last)
            return Snapshot(NDM.from_pretrained(self.model_folder), step, last)
        state = find_checkpoint(self.checkpoints, checkpoint)
        weights = part_of(state.tensors, "average.")
        most = (2 * len(weights) + 64, 2 * sum(value.numel() for value in weights.values()) + 2**20)
        model = make_model(self.config, dataset or self.load_dataset(), most)
        check_weights(weights, model.state_dict(), f"the checkpoint of step {state.step} in {self.folder}")
        model.load_state_dict(weights)
        return Snapshot(model.eval().requires_grad_(False), state.step, last)


def samples_suffix(dataset: Dataset) -> str:
    """The ending of the file of a run's samples."""
    return ".txt" if dataset.alphabet else ".png"
