"""Imports matplotlib even if the variable MPLBACKEND names an unknown backend: pictures in files need none of them."""

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
