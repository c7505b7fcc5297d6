"""Functions for several processes that share one computation.

They are the processes of ``torch.distributed``, if a launcher has started it. Otherwise there is one process.
"""

from __future__ import annotations

from typing import TypeVar

from torch import distributed

T = TypeVar("T")


def rank_and_count() -> tuple[int, int]:
    """The number of this process, from 0, and the number of all processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gathered(value: T) -> list[T]:
    """The values of all processes in order of rank. Every process waits here for the others."""
    _, count = rank_and_count()
    if count == 1:
        return [value]
    values: list[T] = [value] * count
    distributed.all_gather_object(values, value)
    return values
