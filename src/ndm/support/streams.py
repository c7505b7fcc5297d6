"""Streams of random numbers: every purpose has its own, so that one more draw for one of them changes no other."""

from __future__ import annotations

from enum import IntEnum, unique


@unique
class Stream(IntEnum):
    """What random numbers are drawn for in training.

    A member is part of the key that seeds its draws, e.g. ``seeded(seed, Stream.ROWS, step)``. Its value must not
    change: a resumed run would then draw other numbers than the run that it continues.
    """

    NOISE = 0
    """The times and the noise of the bound."""
    ORDER = 1
    """The order of the training rows in an epoch."""
    ROWS = 2
    """The rows of a batch that comes from an endless source."""
    ETA = 3
    """The eta of each row."""
    DROPOUT = 4
    """The units that dropout sets to zero."""
    FLIPS = 11
    """Which images of a batch are mirrored."""


@unique
class QualityStream(IntEnum):
    """What random numbers are drawn for in a comparison of samples with data; as :class:`Stream`, of its own keys."""

    SAMPLES = 0
    """The samples that are compared."""
    TEST = 1
    """The test rows that are compared."""
    TRAIN = 2
    """The training rows that stand in for samples."""
    DIRECTIONS = 3
    """The directions of the sliced Wasserstein distance."""
    PCA = 4
    """The training rows that principal components are fitted on."""
