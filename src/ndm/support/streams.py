"""Streams of random numbers. Every purpose has its own stream, so a further draw for one purpose changes no other."""

from __future__ import annotations

from enum import IntEnum, unique


@unique
class Stream(IntEnum):
    """The purposes for which random numbers are drawn in training.

    A member is part of the key that seeds its draws, e.g. ``seeded(seed, Stream.ROWS, step)``. Its value must not
    change, because a resumed run would then draw other numbers than before.
    """

    NOISE = 0
    """The times and the noise of the bound."""
    ORDER = 1
    """The order of the training rows in an epoch."""
    ROWS = 2
    """The rows of a batch that is drawn from a distribution."""
    ETA = 3
    """The eta of each row."""
    DROPOUT = 4
    """The units that dropout sets to zero."""
    FLIPS = 11
    """Which images of a batch are mirrored."""
    CELLS = 12
    """The places of rounded numbers in their cells."""


@unique
class QualityStream(IntEnum):
    """The purposes for which random numbers are drawn to measure sample quality; used like :class:`Stream`."""

    SAMPLES = 0
    """The samples that are compared."""
    TEST = 1
    """The test rows that are compared."""
    TRAIN = 2
    """The training rows that take the place of samples in the baseline."""
    DIRECTIONS = 3
    """The directions of the sliced Wasserstein distance."""
    PCA = 4
    """The training rows to which principal components are fitted."""
