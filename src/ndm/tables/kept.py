"""The schema of a model's table in a file beside the model, so that the model can score and write rows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..support.files import BadFile, read_json, write_whole
from .schema import Schema

FILE = "schema.json"
CHECKSUM = "sha256"
LARGEST = 1 << 28
"""Bytes of the largest file; that of a table of a thousand columns is about a megabyte."""


class KeptSchema(NamedTuple):
    """What is known of the training rows."""

    schema: Schema
    rows: int
    """The number of training rows."""
    checksum: str = ""
    """SHA-256 of the values in the file."""


def keep_schema(schema: Schema, rows: int, folder: Path) -> str:
    """Write a schema into a folder, whole or not at all.

    Args:
        rows: the number of training rows.

    Returns:
        The checksum of the schema, which the file of the weights names too.
    """
    value = {"rows": rows, **schema.to_json()}
    checksum = _checksum(value)
    text = json.dumps({**value, CHECKSUM: checksum}, allow_nan=False, ensure_ascii=False, indent=1)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / FILE, text + "\n")
    return checksum


def kept_schema(folder: Path) -> KeptSchema:
    """The schema that :func:`keep_schema` wrote.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    file = folder / FILE
    try:
        value = read_json(file, LARGEST)
    except BadFile as error:
        if file.exists():
            raise
        raise InputError(
            f"{folder} is no model of a table: {error}; make one with: ndm train table --out RUN"
        ) from None
    if isinstance(value, dict) and CHECKSUM in value:  # the first versions wrote none
        told = value.pop(CHECKSUM)
        if told != _checksum(value):
            raise BadFile(f"{file} is damaged (its checksum does not match); restore it or train again")
    rows = value.get("rows") if isinstance(value, dict) else None
    if type(rows) is not int or rows < 1:
        raise BadFile(f"{file} is damaged: it does not say the number of training rows; restore it or train again")
    try:
        return KeptSchema(Schema.from_json(value), rows, _checksum(value))
    except InputError as error:
        raise BadFile(f"{file}: {error}") from None


def _checksum(value: dict[str, Any]) -> str:
    """SHA-256 of the values of a file, however it is laid out."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
