"""Checkpoints: the state of a training after a step, written so that a kill at any moment loses only what came since.

A checkpoint is a folder ``step-00001000`` with ``state.safetensors`` (every tensor) and ``state.json`` (the step, plain
values, and the SHA-256 of the other file). It is written under a temporary name, flushed to disk, and renamed: under
its own name it is whole or not there. Nothing is unpickled.
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

KEEP = 2  # besides the best


class State(NamedTuple):
    """What a checkpoint holds."""

    step: int
    """Steps done."""
    tensors: dict[str, Tensor]
    values: dict[str, Any]
    """Plain values: JSON."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they are, or will be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: State) -> None:
        """Write a checkpoint, then remove the older ones but the last two and the best.

        Newer ones go too: they were found damaged, or this training would not have begun before them. The best is
        named by ``state.values["best_step"]``, if there is one.

        Raises:
            InputError: if it cannot be written; the earlier ones are untouched.
        """
        partial = self.folder / ".partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            weights = partial / "state.safetensors"
            write_tensors(weights, state.tensors)
            record = {"step": state.step, "values": state.values, "sha256": sha256(weights)}
            (partial / "state.json").write_text(json.dumps(record))
            for path in (weights, partial / "state.json", partial):
                _flush(path)
            final = self._path(state.step)
            shutil.rmtree(final, ignore_errors=True)  # one that was found damaged
            partial.rename(final)
            _flush(self.folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise InputError(
                f"cannot write to {self.folder}: {error.strerror or error}; the checkpoints before are whole"
            ) from None
        kept = [step for step in self.steps() if step <= state.step][-KEEP:]
        for step in self.steps():
            if step not in (*kept, state.values.get("best_step")):
                shutil.rmtree(self._path(step), ignore_errors=True)

    def latest(
        self, warn: Callable[[str], None] = lambda _: None, check: Callable[[State], None] = lambda _: None
    ) -> State | None:
        """The newest whole checkpoint, or None; damaged ones are passed over, and ``warn`` is told of each.

        Args:
            check: raises a :class:`~ndm.support.files.BadFile` if a checkpoint is whole but not what is looked for.

        Raises:
            InputError: if one cannot be looked into, e.g. because it may not be read.
        """
        for step in reversed(self.steps()):
            try:
                state = self.load(step)
                check(state)
                return state
            except BadFile as error:
                warn(f"{error}; trying the one before")
        return None

    def find(self, which: str) -> State:
        """The ``newest`` whole checkpoint, the ``best`` by validation, or that of a step, given by its number.

        Raises:
            InputError: if there is none, saying which there are, or it is damaged.
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
        """One checkpoint, verified.

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
        """The steps of all checkpoints, whole or not, in order; folders of other names are not looked at.

        Raises:
            InputError: if the folder may not be read.
        """
        try:
            with reading(self.folder):
                names = [entry.name for entry in os.scandir(self.folder) if entry.is_dir()]
        except BadFile:  # there is no folder yet
            return []
        steps = (int(match[1]) for match in (re.fullmatch("step-([0-9]{8,18})", name) for name in names) if match)
        return sorted(step for step in steps if self._path(step).name in names)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
