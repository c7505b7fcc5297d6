"""A run is a folder: ``config.yaml``, ``metrics.jsonl``, ``model/``, pictures."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import torch

from ..config import Config, make_config, make_model, read_settings
from ..data import Dataset
from ..errors import InputError
from ..journal import append_line, read_lines
from ..model import NDM
from ..progress import console, progress_bar, training_news
from .loop import train


class Run:
    """One run's folder.

    Args:
        folder: where it is, or will be.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config_file = self.folder / "config.yaml"
        self.metrics_file = self.folder / "metrics.jsonl"
        self.model_folder = self.folder / "model"

    @classmethod
    def create(cls, folder: str | Path, config: Config, overwrite: bool = False) -> Run:
        """Start a run: an empty metrics file and the resolved configuration.

        Raises:
            InputError: if the folder already holds a run (and ``overwrite`` is not given), or cannot be written.
        """
        run = cls(folder)
        if run.config_file.exists() and not overwrite:
            raise InputError(f"{run.folder} already holds a run; choose another --out, or pass --overwrite")
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            # Nothing of an earlier run may stand under this one's configuration.
            shutil.rmtree(run.model_folder, ignore_errors=True)
            for pattern in ("evaluations.jsonl", "evaluation-*.partial.jsonl", "samples.png", "doctor.png"):
                for path in run.folder.glob(pattern):
                    path.unlink()
            config.save(run.config_file)
            run.metrics_file.write_text("")
        except OSError as error:
            raise InputError(f"cannot write to {run.folder}: {error.strerror}") from None
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """A finished run.

        Raises:
            InputError: if the folder is not a run, or its training has not saved a model.
        """
        run = cls(folder)
        if not run.config_file.is_file():
            raise InputError(
                f"{run.folder} is not a run folder (no config.yaml); make one with: ndm train digits --out RUN"
            )
        if not run.model_folder.is_dir():
            raise InputError(f"{run.folder} has no model yet: its training did not finish")
        return run

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        return make_config(read_settings(self.config_file))

    def train(self, dataset: Dataset, device: str = "cpu", title: str = "training") -> NDM:
        """Build the configuration's model, train it with progress and metrics, and save its average.

        Raises:
            KeyboardInterrupt: after saving the average so far, if training was interrupted.
        """
        config = self.config
        torch.manual_seed(config.seed)
        model = make_model(config, dataset)
        with progress_bar(title, config.training.steps) as bar:
            average = train(model, dataset, config, device, training_news(bar, self.log))
        average.save_pretrained(self.model_folder)
        if self.metrics()[-1].get("interrupted"):
            console.print(f"interrupted; the average so far is saved in {self.model_folder}")
            raise KeyboardInterrupt
        return average

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        append_line(self.metrics_file, record)

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of ``metrics.jsonl``."""
        return read_lines(self.metrics_file)

    @property
    def weights_checksum(self) -> str:
        """SHA-256 of the model's weights file."""
        return hashlib.sha256((self.model_folder / "model.safetensors").read_bytes()).hexdigest()

    def load_model(self) -> NDM:
        """The trained model, in evaluation mode."""
        return NDM.from_pretrained(self.model_folder)
