"""The settings of the data: which data set is loaded, from where, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..support.checks import require_types

OnBadFile = Literal["refuse", "skip"]
BACKGROUND = "white"
"""The default colour behind transparent pictures."""
ENCODING = "utf-8"
"""The default encoding of a table in text."""


@dataclass(frozen=True)
class DataConfig:
    """The data to learn from.

    Args:
        name: name of the data set, such as digits, mnist, images (a folder of pictures), array (pictures in a .npy or
            .npz file), table (a .csv, .tsv, .parquet or .npz file) or text (a text file); the error message for an
            unknown name lists all names.
        path: file or folder that holds the data, for data sets that are read from disk; null means the user's cache for
            mnist and cifar10.
        size: for images, the height and width in pixels to which the pictures are resized; for text, the number of
            characters of a window; other data sets take none.
        flip: mirror each training image left to right with probability 1/2.
        on_bad_file: for images, what to do with pictures that cannot be used, such as damaged or too small ones: refuse
            the whole folder, or skip those pictures.
        background: for images, the colour behind transparent pictures: the name of a colour or #rrggbb.
        columns: for a table, the kinds of some columns by name, e.g. {age: quantised}; they are real, quantised, count,
            date and category. The kinds of the other columns are found out and printed.
        impute: for a table, use rows with missing numbers and tell the model where these are; otherwise refuse them.
        encoding: for text, or a table in text, the encoding of the file, such as utf-8, latin-1 or utf-16.
    """

    name: str = "digits"
    path: str | None = None
    size: int | None = None
    flip: bool = False
    on_bad_file: OnBadFile = "refuse"
    background: str = BACKGROUND
    columns: dict[str, str] = field(default_factory=dict)
    impute: bool = False
    encoding: str = ENCODING

    def __post_init__(self) -> None:
        require_types(self, "data.")
