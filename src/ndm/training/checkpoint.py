"""Checkpoints: the state of a training run after a step. If the run is killed, only the steps since then are lost.

A checkpoint is a folder ``step-00001000`` with ``state.safetensors`` (every tensor) and ``state.json`` (the step, plain
values, and the SHA-256 of the other file). It is written under a temporary name, flushed to disk, and then renamed, so
a folder with the final name is always complete. Loading a checkpoint unpickles nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError
from ..support.files import sha256

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
        folder: the folder that holds the checkpoints. It need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: State) -> None:
        """Write a checkpoint, then remove all others except the one before it and the best.

        Checkpoints of later steps are removed too: training has gone back to an earlier step only if they were damaged.
        The step of the best checkpoint is ``state.values["best_step"]``, or None.

        Raises:
            InputError: if it cannot be written. The earlier checkpoints are then left as they are.
        """
        partial = self.folder / ".partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            weights = partial / "state.safetensors"
            # The tensors are copied because safetensors refuses tensors that share memory.
            copies = {name: value.detach().cpu().contiguous().clone() for name, value in state.tensors.items()}
            save_file(copies, weights)
            record = {"step": state.step, "values": state.values, "sha256": sha256(weights)}
            (partial / "state.json").write_text(json.dumps(record))
            for path in (weights, partial / "state.json", partial):
                _flush(path)
            final = self._path(state.step)
            shutil.rmtree(final, ignore_errors=True)  # a damaged checkpoint of this step
            partial.rename(final)
            _flush(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"cannot write to {self.folder}: {reason}; the earlier checkpoints are intact") from None
        kept = [step for step in self.steps() if step <= state.step][-KEEP:]
        for step in self.steps():
            if step not in (*kept, state.values.get("best_step")):
                shutil.rmtree(self._path(step), ignore_errors=True)

    def latest(self, warn: Callable[[str], None] = lambda _: None) -> State | None:
        """The newest intact checkpoint, or None. ``warn`` gets a message for each damaged one that is skipped."""
        for step in reversed(self.steps()):
            try:
                return self.load(step)
            except InputError as error:
                warn(f"{error}; trying the previous one")
        return None

    def find(self, which: str) -> State:
        """The ``newest`` intact checkpoint, the ``best`` by validation bound, or that of a step, given by its number.

        Raises:
            InputError: if it does not exist (the message lists those that do), or if it is damaged.
        """
        newest = self.latest()
        names: dict[str, Any] = {str(step): step for step in self.steps()}
        if newest is not None:
            names |= {"newest": newest.step, "best": newest.values["best_step"]}
        if names.get(which) not in self.steps():
            there = ", ".join(name for name in names if names[name] in self.steps()) or "none"
            raise InputError(f"no checkpoint {which!r} in {self.folder}; there are: {there}")
        return self.load(names[which])

    def load(self, step: int) -> State:
        """The checkpoint of a step, after its checksum has been verified.

        Raises:
            InputError: if a file is missing, cut short or altered.
        """
        path = self._path(step)
        weights = path / "state.safetensors"
        try:
            record = json.loads((path / "state.json").read_text())
            if sha256(weights) != record["sha256"]:
                raise ValueError("its checksum does not match")
            return State(record["step"], load_file(weights), record["values"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise InputError(f"checkpoint {path} is damaged ({error})") from None

    def steps(self) -> list[int]:
        """The steps of all checkpoints, intact or damaged, in increasing order."""
        names = [path.name.removeprefix("step-") for path in self.folder.glob("step-*")]
        return sorted(int(name) for name in names if name.isdigit())

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def _flush(path: Path) -> None:
    """Wait until the content of a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
