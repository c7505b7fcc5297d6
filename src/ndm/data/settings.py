"""The settings of the data: which data set is loaded, from where, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OnBadFile = Literal["refuse", "skip"]
BACKGROUND = "white"
"""The default colour behind transparent pictures."""


@dataclass(frozen=True)
class DataConfig:
    """The data to learn from.

    Args:
        name: name of the data set, such as digits, mnist, images (a folder of pictures) or array (a .npy or .npz file);
            the error message for an unknown name lists all names.
        path: file or folder that holds the data, for data sets that are read from disk; null means the user's cache for
            mnist and cifar10.
        size: for images, the height and width in pixels to which the pictures are resized; other data sets take none.
        flip: mirror each training image left to right with probability 1/2.
        on_bad_file: for images, what to do with pictures that cannot be used, such as damaged or too small ones: refuse
            the whole folder, or skip those pictures.
        background: for images, the colour behind transparent pictures: the name of a colour or #rrggbb.
    """

    name: str = "digits"
    path: str | None = None
    size: int | None = None
    flip: bool = False
    on_bad_file: OnBadFile = "refuse"
    background: str = BACKGROUND
