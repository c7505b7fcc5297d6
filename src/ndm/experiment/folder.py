"""The folder of a run: ``config.yaml``, ``data.json``, ``metrics.jsonl``, ``checkpoints/``, ``model/`` and pictures."""

from __future__ import annotations

import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..support.journal import append_line, read_lines
from ..support.lock import Lock
from ..support.program import command
from ..support.progress import warn
from ..training import Checkpoints
from .recipe import read_config_file
from .results import keep_result, without_infinities
from .settings import Config

if TYPE_CHECKING:
    from typing_extensions import Self

OUTPUTS = (
    "config.yaml", "data.json", "schema.json", "metrics.jsonl", "checkpoints", "model", "evaluations.jsonl",
    "qualities.jsonl",
    "evaluation-*.partial.*.jsonl", "samples*.png", "samples*.txt", "doctor.png", "symbols.png", "ndm",
)  # fmt: skip
"""All files and folders that commands write into a run's folder; ``ndm`` holds TensorBoard's events.

The lock is not among them: it must outlive what ``--overwrite`` deletes.
"""


class RunFolder:
    """The files of one run, and who may write them.

    A run has one writer at a time. Whoever creates or trains it holds ``lock``; reading needs no lock.

    Args:
        folder: path of the folder. It need not exist yet.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config_file = self.folder / "config.yaml"
        self.data_file = self.folder / "data.json"
        self.metrics_file = self.folder / "metrics.jsonl"
        self.evaluations_file = self.folder / "evaluations.jsonl"
        self.qualities_file = self.folder / "qualities.jsonl"
        self.model_folder = self.folder / "model"
        self.checkpoints = Checkpoints(self.folder / "checkpoints")
        self.lock = Lock(self.folder / ".ndm-lock", "trained", "look at it with --checkpoint newest, or wait")

    @classmethod
    def create(cls, folder: str | Path, config: Config, overwrite: bool = False) -> Self:
        """Start a run: write the resolved configuration and an empty metrics file; see :meth:`begin`."""
        run = cls(folder)
        run.begin(config, overwrite)
        return run

    def begin(self, config: Config, overwrite: bool = False) -> None:
        """Start this run: write the resolved configuration and an empty metrics file.

        Raises:
            InputError: as :meth:`check_free`, or if the folder cannot be written, or if another process trains in it.
        """
        with self.lock:
            earlier = self.check_free(overwrite)
            try:
                for path in earlier:  # no file of an earlier run may be taken for one of this run
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                self.save_config(config)
                self.metrics_file.write_text("")
            except OSError as error:
                raise InputError(f"cannot write to {self.folder}: {error.strerror}") from None

    def check_free(self, overwrite: bool = False) -> list[Path]:
        """Refuse a folder in which a run cannot start, and return the files of an earlier run that it would replace.

        Raises:
            InputError: if the folder already holds a run and ``overwrite`` is False, or if it is no run's folder but
                holds files that a run would replace.
        """
        if self.config_file.exists() and not overwrite:
            raise InputError(
                f"{self.folder} already holds a run; choose another --out, pass --overwrite, or go on with "
                + command(f"train --resume {self.folder}")
            )
        earlier = sorted(path for pattern in OUTPUTS for path in self.folder.glob(pattern))
        if earlier and not self.config_file.exists():
            raise InputError(
                f"{self.folder} is not a run's folder, and a run would replace {earlier[0].name} in it; choose another "
                "--out, or move it away"
            )
        return earlier

    def check_folders(self) -> None:
        """Refuse a file in the place of a folder that a training writes.

        Raises:
            InputError: naming the first.
        """
        for path in (self.model_folder, self.checkpoints.folder, self.checkpoints.partial):
            if os.path.lexists(path) and not path.is_dir():
                raise InputError(f"{path} is in the place of a folder that the training writes; move it away")

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """A run that has a model.

        Raises:
            InputError: if the folder is not a run's, or if its training has not saved a model yet.
        """
        run = cls.started(folder)
        if not run.model_folder.is_dir():
            run.lock.check()
            raise InputError(f"{run.folder} has no model yet: go on with {command(f'train --resume {run.folder}')}")
        return run

    @classmethod
    def started(cls, folder: str | Path) -> Self:
        """A run, whether or not it has a model yet.

        Raises:
            InputError: if the folder is not a run's, or not at this moment because another process replaces it.
        """
        run = cls(folder)
        if not run.config_file.is_file():
            run.lock.check()  # another process may be replacing the run
            raise InputError(
                f"{run.folder} is not a run folder (no config.yaml); make one with: ndm train digits --out RUN"
            )
        return run

    @cached_property
    def config(self) -> Config:
        """The resolved configuration, read once."""
        return read_config_file(self.config_file, resolved=True)

    def save_config(self, config: Config) -> None:
        """Write ``config.yaml``."""
        config.save(self.config_file)
        self.config = config

    @property
    def sampling_steps(self) -> int:
        """The default number of sampling steps: the number that the model is trained for, or 50 in continuous time."""
        return self.config.training.bound_steps or 50

    @property
    def stamp(self) -> tuple[int, int] | None:
        """A mark that changes if another run takes the place of this one in its folder; None before the training."""
        try:
            found = self.data_file.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def keep(self, path: Path, result: dict[str, Any], stamp: tuple[int, int] | None) -> bool:
        """Append a result to a file of this run, or say why it is not kept; see :func:`.results.keep_result`.

        Args:
            path: the file.
            result: the result.
            stamp: the run's ``stamp`` before the result was computed.
        """
        if self.stamp != stamp:
            warn(f"another run has replaced {self.folder}, so the result is not kept there")
            return False
        return keep_result(path, result)

    def check_own(self, stamp: tuple[int, int] | None) -> None:
        """Refuse to train on in a folder that is no longer this run's. A lost ``config.yaml`` is written again.

        Args:
            stamp: the run's ``stamp`` when the training began.

        Raises:
            InputError: with what is left to do.
        """
        if self.stamp != stamp:
            raise InputError(
                f"{self.folder} was moved, deleted or replaced while the run was trained, so the training stops; if it "
                f"was moved, go on with {command('train --resume')} and its new path"
            )
        if not self.config_file.is_file():
            self.save_config(self.config)
            warn(f"{self.config_file} was removed while the run was trained; it is written again")

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        append_line(self.metrics_file, without_infinities(record))

    def metrics(self) -> list[dict[str, Any]]:
        """All records of ``metrics.jsonl``; a line without a step is not from a training."""
        return read_lines(self.metrics_file, lambda line: isinstance(line, dict) and isinstance(line.get("step"), int))
