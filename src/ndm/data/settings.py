"""The settings of the data: which data set to load, from where, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OnBadFile = Literal["refuse", "skip"]


@dataclass(frozen=True)
class DataConfig:
    """The data to learn from.

    Args:
        name: name of the data set, such as digits, mnist, images (a folder of pictures) or array (a .npy or .npz file);
            an unknown name is refused with a list of all names.
        path: file or folder that holds the data, for data sets that are read from disk.
        size: height and width in pixels to which the pictures of a folder are resized.
        flip: mirror each training image left to right with probability 1/2.
        on_bad_file: what to do if a folder holds damaged or too small pictures; refuse the folder, or skip them.
    """

    name: str = "digits"
    path: str | None = None
    size: int | None = None
    flip: bool = False
    on_bad_file: OnBadFile = "refuse"
