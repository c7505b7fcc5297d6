"""Tables: what columns hold, and how they become numbers and come back."""

from typing import TYPE_CHECKING

from ..support.lazy import lazy

if TYPE_CHECKING:
    from .cells import Type
    from .column import Column
    from .files import batches, read, write
    from .frame import Frame
    from .kept import KeptSchema, keep_schema, kept_schema
    from .layout import Layout
    from .schema import Schema

__all__ = [
    "Column", "Frame", "KeptSchema", "Layout", "Schema", "Type",
    "batches", "keep_schema", "kept_schema", "read", "write",
]  # fmt: skip

HOMES = {
    "cells": "Type",
    "column": "Column",
    "files": "batches read write",
    "frame": "Frame",
    "kept": "KeptSchema keep_schema kept_schema",
    "layout": "Layout",
    "schema": "Schema",
}
"""The modules, and the public names that each of them defines."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy(__name__, HOMES)
