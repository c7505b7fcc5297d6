"""Checkpoints: the state of a training run after a step. If the run is killed, only the steps since then are lost.

A checkpoint is a folder ``step-00001000`` with ``state.safetensors`` (every tensor) and ``state.json`` (the step, plain
values, and the SHA-256 of the other file). It is written under a temporary name, flushed to disk, and then renamed, so
a folder with the final name is always complete. Loading a checkpoint unpickles nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import InputError
from ..support.files import BadFile, read_json, reading, sha256
from ..support.weights import read_header, read_tensors, write_tensors

FILES = ("state.json", "state.safetensors")
KEEP = 2  # number of the newest checkpoints that are kept besides the best


class State(NamedTuple):
    """What a checkpoint holds."""

    step: int
    """The number of steps done."""
    tensors: dict[str, Tensor]
    values: dict[str, Any]
    """Values that JSON can hold."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: the folder that holds the checkpoints. It need not exist yet, but the folder that it is in must.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.partial = folder, folder / ".partial"
        self.check: Callable[[], None] = lambda: None
        """It is called before a checkpoint is written, and raises an error if the folder is another run's by then."""

    def save(self, state: State) -> None:
        """Write a checkpoint, then remove all others except the one before it, and the best of each.

        Checkpoints of later steps are removed too: training has gone back to an earlier step only if they were damaged.
        The step of the best checkpoint is ``state.values["best_step"]``, or None.

        Raises:
            InputError: if it cannot be written. The earlier checkpoints, if there are any, are left as they are.
        """
        self.check()
        partial = self.partial
        try:
            shutil.rmtree(partial, ignore_errors=True)
            self.folder.mkdir(exist_ok=True)  # not its parents: a run's folder that is gone is not made again
            partial.mkdir()
            weights = partial / "state.safetensors"
            write_tensors(weights, state.tensors)
            record = {"step": state.step, "values": state.values, "sha256": sha256(weights)}
            (partial / "state.json").write_text(json.dumps(record))
            for path in (weights, partial / "state.json", partial):
                _flush(path)
            final = self._path(state.step)
            shutil.rmtree(final, ignore_errors=True)  # a damaged checkpoint of this step
            partial.rename(final)
            _flush(self.folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            reason = error.strerror or str(error)
            earlier = "; the earlier checkpoints are intact" if self.folder.is_dir() and self.steps() else ""
            raise InputError(f"cannot write to {self.folder}: {reason}{earlier}") from None
        kept = [step for step in self.steps() if step <= state.step][-KEEP:]
        best = {self._best_of(step) for step in kept}  # each needs its own, as the newest may be damaged later
        for step in self.steps():
            if step not in (*kept, *best):
                shutil.rmtree(self._path(step), ignore_errors=True)

    def _best_of(self, step: int) -> Any:
        """The step of the best checkpoint by the record of one; None if it has none, or is damaged."""
        try:
            return read_json(self._path(step) / "state.json")["values"].get("best_step")
        except (BadFile, InputError, TypeError, KeyError, AttributeError):
            return None

    def latest(
        self, warn: Callable[[str], None] = lambda _: None, check: Callable[[State], None] = lambda _: None
    ) -> State | None:
        """The newest intact checkpoint, or None. ``warn`` gets a message for each damaged one that is skipped.

        Args:
            check: raises a :class:`~ndm.support.files.BadFile` if an intact checkpoint is not one of this training.

        Raises:
            InputError: if a checkpoint cannot be examined, e.g. because it may not be read.
        """
        for step in reversed(self.steps()):
            try:
                state = self.load(step)
                check(state)
                return state
            except BadFile as error:
                warn(f"{error}; it is passed over")
        return None

    def find(self, which: str) -> State:
        """The ``newest`` intact checkpoint, the ``best`` by validation bound, or that of a step, given by its number.

        Raises:
            InputError: if it does not exist (the message lists those that do), or if it is damaged.
        """
        newest = self.latest()
        names: dict[str, Any] = {str(step): step for step in self.steps()}
        if newest is not None:
            names |= {"newest": newest.step, "best": newest.values.get("best_step")}
        if names.get(which) not in self.steps():
            there = ", ".join(name for name in names if names[name] in self.steps()) or "none"
            raise InputError(f"no checkpoint {which!r} in {self.folder}; there are: {there}")
        return self.load(names[which])

    def load(self, step: int) -> State:
        """The checkpoint of a step, after its checksum has been verified.

        Raises:
            BadFile: if a file is missing, cut short or altered.
            InputError: if it may not be read.
        """
        path = self._path(step)
        weights = path / "state.safetensors"
        try:
            record = read_json(path / "state.json")
            if not isinstance(record, dict) or not isinstance(record.get("values"), dict) or record.get("step") != step:
                raise BadFile("its state.json is not that of this step")
            read_header(weights)  # which is quick, and refuses a file of another length
            if sha256(weights) != record.get("sha256"):
                raise BadFile("its checksum does not match")
            return State(step, read_tensors(weights), record["values"])
        except BadFile as error:
            raise BadFile(f"checkpoint {path} is damaged ({error})") from None

    def steps(self) -> list[int]:
        """The steps of all checkpoints, intact or damaged, in increasing order; other folders are ignored.

        Raises:
            InputError: if the folder may not be read.
        """
        try:
            with reading(self.folder):
                names = [entry.name for entry in os.scandir(self.folder) if entry.is_dir()]
        except BadFile:  # there is no folder yet
            return []
        steps = (int(match[1]) for match in (re.fullmatch("step-([0-9]{8,18})", name) for name in names) if match)
        return sorted(step for step in steps if self._path(step).name in names and self._has_files(step))

    def _has_files(self, step: int) -> bool:
        """Whether a folder holds a file of a checkpoint. One that holds none is empty or foreign."""
        return any(os.path.lexists(self._path(step) / name) for name in FILES)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def _flush(path: Path) -> None:
    """Wait until the content of a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
