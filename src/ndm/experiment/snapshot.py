"""A model from a run, with the step of training that its weights are from; and the start from another run's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import InputError
from ..model import NDM
from ..saving import SCHEMA_CHECKSUM, save
from ..support.files import read_json, write_whole
from ..training import Checkpoints, State

STEP_FILE = "training.json"
"""The file beside a run's model that holds the step of its weights."""
ATTEMPTS = 10


class Snapshot(NamedTuple):
    """A model of a run, in evaluation mode."""

    model: NDM
    step: int | None
    """The number of training steps behind the weights; None if an earlier version did not record it."""
    last_step: int
    """The number of steps of the whole training."""

    @property
    def finished(self) -> bool:
        """Whether these are the weights after the last step."""
        return self.step == self.last_step

    @property
    def facts(self) -> dict[str, Any]:
        """The step as it is recorded with every result."""
        return {"step": self.step, "last_step": self.last_step}

    @property
    def progress(self) -> str:
        """The step in words: ``step 474 of 2000``."""
        return f"step {'?' if self.step is None else self.step} of {self.last_step}"


def save_model(model: NDM, folder: Path, step: int, schema: str | None = None) -> None:
    """Save the model of a run, and the step beside it.

    Args:
        schema: the checksum of the schema in the folder, if the model is one of a table.

    Raises:
        InputError: if a weight is not finite. The model that was there is then left as it was.
    """
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(
                f"after step {step} the weights of {name} are not finite, so no model is saved; train again with a "
                "smaller training.learning_rate"
            )
    # While the weights are replaced there is no step: it could be that of the other weights.
    (folder / STEP_FILE).unlink(missing_ok=True)
    save(model, folder, {} if schema is None else {SCHEMA_CHECKSUM: schema})
    write_whole(folder / STEP_FILE, json.dumps({"step": step}))


def step_of_model(folder: Path, metrics: list[dict[str, Any]], last_step: int) -> int | None:
    """The step of the model in a folder. For a model without a record the metrics say it, if they end at a model."""
    try:
        step = read_json(folder / STEP_FILE)["step"]
        return step if type(step) is int and step >= 0 else None
    except (InputError, KeyError, TypeError):
        last = metrics[-1] if metrics else {}
        return last["step"] if last.get("step") == last_step or "interrupted" in last else None


def find_checkpoint(checkpoints: Checkpoints, which: str) -> State:
    """A checkpoint by its name; see :meth:`ndm.training.Checkpoints.find`.

    A run that trains replaces its checkpoints. If they have changed since they were listed, it is looked for again.

    Raises:
        InputError: if there is no such checkpoint, or if it is damaged.
    """
    for _ in range(ATTEMPTS):
        listed, failed = checkpoints.steps(), None
        try:
            found = checkpoints.find(which)
        except InputError as error:
            failed = error
        if checkpoints.steps() == listed:
            if failed is not None:
                raise failed
            return found
    return checkpoints.find(which)


def start_from(model: NDM, folder: str | Path) -> None:
    """Give an untrained model the weights of a saved model, such as the averaged weights of another run.

    Only parameters are taken. The units (levels, or mean and std) stay those of the new model's data.

    Args:
        model: the model that gets the weights.
        folder: a run's folder, or the folder of a saved model.

    Raises:
        InputError: if there is no model, or if its parameters have other names or shapes.
    """
    other = dict(NDM.from_pretrained(folder).named_parameters())
    own = dict(model.named_parameters())
    for name in [*own, *(name for name in other if name not in own)]:
        shapes = [tuple(part[name].shape) if name in part else "missing" for part in (other, own)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"the weights of {folder} do not fit these settings: {name} is {shapes[0]} there and {shapes[1]} here; "
                "take the settings model.* of that run, and data of the same shape"
            )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(other[name])
