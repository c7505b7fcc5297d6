"""Several processes that work on one thing: which of them this one is, and what the others have found.

The processes are those of ``torch.distributed``, where a launcher has started them; otherwise there is one.
"""

from __future__ import annotations

from typing import TypeVar

from torch import distributed

T = TypeVar("T")


def rank_and_count() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gathered(value: T) -> list[T]:
    """The values of all processes, in their order; every process waits here for the others."""
    _, count = rank_and_count()
    if count == 1:
        return [value]
    values: list[T] = [value] * count
    distributed.all_gather_object(values, value)
    return values
