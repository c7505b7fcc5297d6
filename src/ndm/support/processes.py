"""Functions for several processes that share one computation.

They are the processes of ``torch.distributed``, if a launcher has started it. Otherwise there is one process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from torch import distributed

from ..errors import InputError
from .checks import shown

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")
SECONDS_TO_DROP = 0.2
"""How long gloo's threads have to drop the tensors of the last collective. They take microseconds."""


def connected(device: str, **options: Any) -> PartialState:
    """The processes that a launcher has started, connected; on its own this process is the only one.

    Raises:
        InputError: if the variables that a launcher sets do not fit each other.
    """
    from accelerate import PartialState

    try:
        return PartialState(cpu=device == "cpu", **options)
    except (ValueError, KeyError) as error:
        reason = shown(" ".join(str(error).split()), 200)
        raise InputError(
            f"the variables of a launcher, such as WORLD_SIZE, RANK and LOCAL_RANK, do not fit each other ({reason}); "
            "use accelerate launch, or unset them"
        ) from None


def rank_and_count() -> tuple[int, int]:
    """The number of this process, from 0, and the number of all processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def leave(failed: bool) -> None:
    """End the connections to the other processes. It is called while Python still runs, at the end of a command.

    Without it the threads of gloo may abort a process that has done its work. They need Python's global lock to drop
    the tensors of the last collective, and the end of the connections waits for them with that lock held. So they get
    time before. NCCL would wait for processes that are in a collective, so a process that failed leaves them to the
    launcher.
    """
    connected = distributed.is_available() and distributed.is_initialized()
    if connected and (not failed or distributed.get_backend() == distributed.Backend.GLOO):
        time.sleep(SECONDS_TO_DROP)
        distributed.destroy_process_group()


def gathered(value: T) -> list[T]:
    """The values of all processes in order of rank. Every process waits here for the others."""
    _, count = rank_and_count()
    if count == 1:
        return [value]
    values: list[T] = [value] * count
    distributed.all_gather_object(values, value)
    return values


@contextmanager
def failing_together() -> Iterator[None]:
    """What every process does inside fails in all of them if it fails in one, so that none waits for one that is gone.

    Raises:
        Exception: the error of this process, if it has one.
        InputError: if another process failed, with its number and its error.
    """
    error = None
    try:
        yield
    except Exception as own:
        error = own
    failures = gathered(None if error is None else str(error) or type(error).__name__)
    if error is not None:
        raise error
    for rank, failure in enumerate(failures):
        if failure is not None:
            raise InputError(f"process {rank} failed: {failure}")


@contextmanager
def first_process_first() -> Iterator[None]:
    """What every process does inside, the first process does before the others start. They also fail together.

    Raises:
        Exception: see :func:`failing_together`.
    """
    is_first = rank_and_count()[0] == 0
    if not is_first:
        with failing_together():  # the part of the first process
            pass
    with failing_together():
        yield
    if is_first:
        with failing_together():  # the part of the others
            pass
