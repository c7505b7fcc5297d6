"""Tables of the user's own: rows of numbers, dates and categories in a .csv, .tsv, .parquet or .npz file.

The rows are split in a seeded random order. What the columns hold is found out from the training rows alone, so the
figures of the test rows are honest. Test and validation rows that no training row allows for (a new category, another
value in a constant column) have no density under a model of the training rows: they are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, printable
from ..support.files import sha256
from ..tables import Frame, Schema, read
from ..tables.detect import detect, strays
from ..tables.kinds import Kind, chosen_kinds
from ..tables.schema import refuse_missing
from .cache import say
from .dataset import Dataset, held_out
from .listing import absolute
from .names import register


@register("table")
def table(
    path: str | Path, columns: Mapping[str, str] | None = None, impute: bool = False, encoding: str = "utf-8"
) -> Dataset:
    """A table from one file, which is held in memory. The rows of all splits are numbers in float64, then codes.

    Args:
        path: the file; its name tells its format (:mod:`ndm.tables.files`).
        columns: the kinds of some columns by name: real, quantised, count, date or category.
        impute: use rows with missing numbers and say where these are, instead of refusing them.
        encoding: the encoding of a text file.

    Raises:
        InputError: if the file cannot be read or a column cannot be used; the message names it and says what to do.
    """
    file = Path(absolute(path))
    frame = None
    try:
        frame = read(file, encoding)
        if not impute:
            _refuse_missing(frame, chosen_kinds(columns or None, frame.names))
        validation, test = held_out(len(frame), str(file))
        order = np.random.default_rng(0).permutation(len(frame))
        ends = len(frame) - validation - test, len(frame) - test
        first, *rest = (frame.take(np.sort(part)) for part in np.split(order, ends))
        schema = Schema.fit(first, columns or None, impute)
        training = torch.from_numpy(schema.encode(first))
        (checking, lost), (testing, missed) = (_possible(schema, part) for part in rest)
    except InputError as error:  # the schema's own words are those of Python
        text = str(error).replace("impute=True", "--data.impute true")
        text = text if printable(str(file)) in text else f"{file}: {text}"
        hints = [] if frame is None else _stray_words(frame, columns)
        raise InputError("; column ".join([text, *hints])) from None
    told = {note.column for note in schema.notes}
    for hint in _stray_words(frame, [*told, *(columns or ())]):
        say(f"{file}: column {hint}")  # the training rows have only numbers there
    checksum = sha256(file)[:16]
    split = "/".join(str(len(x)) for x in (training, checking, testing))
    release = f"{printable(file.name)}, sha256 {checksum}; permutation seed 0, split {split}"
    left_out = [f"{count} {name}" for name, count in (("validation", lost), ("test", missed)) if count]
    if left_out:
        words = f"{' and '.join(left_out)} rows left out, which hold what no training row holds"
        say(f"{file}: {words}")
        release += f", {words}"
    return Dataset("table", training, checking, testing, release=release, checksum=checksum, schema=schema)


def _stray_words(frame: Frame, but: Iterable[str] | None) -> list[str]:
    """What is to be said of columns of text, but for some, of which all but a few values are numbers."""
    notes = [note for name, array, _ in frame if name not in (but or ()) for note in strays(name, array)]
    return [f"{note.column} {note.text}" for note in notes]


def _refuse_missing(frame: Frame, kinds: Mapping[str, Kind]) -> None:
    """Refuse missing numbers and dates anywhere in a file, whatever part the split puts them into."""
    missing = {}
    for name, array, type in frame:
        # Objects are text and truth values, which are categories unless the user says something else.
        lack = np.isnat(array) if array.dtype.kind == "M" else array != array
        if lack.any() or (array.dtype.kind == "O" and name in kinds):
            column, _ = detect(name, array, type, kinds.get(name))
            if column.numeric:
                missing[name] = np.isnan(column.encode(array))
    refuse_missing(missing, "fill them, leave these rows out, or set impute=True")


def _possible(schema: Schema, frame: Frame) -> tuple[Tensor, int]:
    """The rows that the training rows allow for, as numbers, and how many they do not."""
    broken = schema.violations(frame)
    if broken.all():
        raise InputError(
            f"all {len(frame)} rows of a part that is held out hold what no training row holds; give more rows, or "
            "merge rare categories"
        )
    return torch.from_numpy(schema.encode(frame.take(~broken))), int(broken.sum())
