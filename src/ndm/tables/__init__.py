"""Tables: what columns hold, and how they become numbers and come back."""

from typing import TYPE_CHECKING

from ..support.lazy import lazy

if TYPE_CHECKING:
    from .cells import Type
    from .column import Column
    from .files import batches, read, write
    from .frame import Frame
    from .schema import Schema

__all__ = ["Column", "Frame", "Schema", "Type", "batches", "read", "write"]

HOMES = {
    "cells": "Type",
    "column": "Column",
    "files": "batches read write",
    "frame": "Frame",
    "schema": "Schema",
}
"""The modules, and the public names that each of them defines."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(__name__, HOMES)
