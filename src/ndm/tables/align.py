"""Rows that come later, with the columns of the training rows in their order."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError
from .frame import Frame, numbered

ESTIMATOR = "NeuralDiffusionDensity"


def aligned(frame: Frame, names: Sequence[str], source: str) -> Frame:
    """The columns by name; by position if the rows or the training rows are an array, which has no names.

    A column of the rows that has the name of a training column is that column, also if the training rows are an array.

    Args:
        frame: the rows.
        names: the columns of the training rows.
        source: the kind of the training rows.

    Raises:
        InputError: if columns are missing or additional.
    """
    if frame.names == tuple(names):
        return frame
    nameless = frame.kind == "numpy" and frame.names == numbered(len(frame.names))
    learned = source == "numpy" and tuple(names) == numbered(len(names)) and not set(frame.names) & set(names)
    if nameless or learned:
        if len(frame.names) != len(names):
            raise InputError(
                f"X has {len(frame.names)} features, but {ESTIMATOR} is expecting {len(names)} features as input"
            )
        return Frame(tuple(names), frame.columns, frame.types, frame.kind)
    missing = [name for name in names if name not in frame.names]
    unseen = [name for name in frame.names if name not in names]
    if missing or unseen:
        said = [f"seen at fit time, yet now missing: {', '.join(missing[:20])}"] if missing else []
        said += [f"unseen at fit time: {', '.join(unseen[:20])}"] if unseen else []
        raise InputError(
            "The feature names should match those that were passed during fit. Feature names " + "; ".join(said)
        )
    places = [frame.names.index(name) for name in names]
    columns, types = tuple(frame.columns[i] for i in places), tuple(frame.types[i] for i in places)
    return Frame(tuple(names), columns, types, frame.kind)
