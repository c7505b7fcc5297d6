"""Imports matplotlib, also if the variable MPLBACKEND names no backend of its: the pictures here need none."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

if "matplotlib" not in sys.modules:
    wanted = os.environ.pop("MPLBACKEND", None)
    import matplotlib

    if wanted is not None:
        os.environ["MPLBACKEND"] = wanted
    if wanted:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = wanted  # as matplotlib does itself
