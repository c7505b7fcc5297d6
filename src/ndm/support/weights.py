"""Files of tensors (safetensors): what one holds is read from its header, before anything is allocated for it."""

from __future__ import annotations

import hashlib
import io
import json
import math
import operator
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor

from .checks import shown
from .files import LARGEST_TEXT, BadFile, file_size, parse_json, reading, writing

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""The precisions that weights may have."""
TYPES = {
    "F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "BOOL": torch.bool,
    "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


class Form(NamedTuple):
    """What is known of a tensor without its values."""

    dtype: torch.dtype | str
    """A name that is not one of ``TYPES`` is kept as it is."""
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Form:
        return cls(tensor.dtype, tuple(tensor.shape))

    @classmethod
    def read(cls, entry: dict[str, Any]) -> Form:
        """From the header of a file.

        Raises:
            ValueError: if a size is negative; other errors if the entry is malformed otherwise.
        """
        shape = tuple(operator.index(size) for size in entry["shape"])
        if min(shape, default=0) < 0:
            raise ValueError(shape)
        return cls(TYPES.get(entry["dtype"], shown(entry["dtype"])), shape)

    @property
    def bytes(self) -> int | None:
        """The size in a file; None if the type is unknown."""
        return math.prod(self.shape) * self.dtype.itemsize if isinstance(self.dtype, torch.dtype) else None

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {self.shape}"


def forms_of(tensors: Mapping[str, Tensor]) -> dict[str, Form]:
    """The forms of tensors by name."""
    return {name: Form.of(value) for name, value in tensors.items()}


class Header(NamedTuple):
    """What a file of tensors says of itself."""

    forms: dict[str, Form]
    metadata: dict[str, str]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a file of tensors, with the permissions that the user's umask gives. After an error there is no file.

    Raises:
        OSError: with ``path`` as its ``filename``.
    """
    own = _unshared(tensors)
    with writing(path):
        path.touch()
        permissions = stat.S_IMODE(path.stat().st_mode)
        if not own:  # some versions of the library write a header that nobody can read
            header = json.dumps({"__metadata__": metadata or {}}).encode()
            path.write_bytes(len(header).to_bytes(8, "little") + header)
            return
        try:
            save_file(own, path, metadata)
        except SafetensorError as error:
            path.unlink(missing_ok=True)
            number = re.search(r"os error (\d+)", str(error))
            raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))) from None
        path.chmod(permissions)  # which the library sets to the owner's alone


def packed(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """What :func:`write_tensors` writes, in memory. There must be a tensor."""
    return save(_unshared(tensors), metadata)


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each with its own memory: the format has no shared memory."""
    own: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, value in tensors.items():
        whole = value.detach().cpu().contiguous()
        pointer = whole.untyped_storage().data_ptr()
        own[name] = whole.clone() if pointer in memory else whole
        memory.add(pointer)
    return own


def read_header(path: Path, content: bytes | None = None) -> Header:
    """The names, types and shapes of the tensors in a file, and its metadata.

    Args:
        path: the file.
        content: the content of the file, if it is in memory.

    Raises:
        InputError: if the file cannot be read; a :class:`BadFile` if it is missing or its header is damaged.
    """
    size = file_size(path) if content is None else len(content)
    with reading(path), path.open("rb") if content is None else io.BytesIO(content) as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(LARGEST_TEXT, size):
            raise BadFile(f"{path} is damaged (a header of {length:,} bytes)")
        text = file.read(length)
    entries = parse_json(text, path)
    try:
        metadata = entries.pop("__metadata__", {})
        forms = {name: Form.read(entry) for name, entry in entries.items()}
        checksums = {key: value for key, value in metadata.items() if isinstance(value, str)}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise BadFile(f"{path} is damaged (its header lists no tensors)") from None
    sizes = [form.bytes for form in forms.values()]
    if None not in sizes and sum(filter(None, sizes)) != size - 8 - length:
        raise BadFile(f"{path} is damaged (its length is not that of the tensors in it)")
    return Header(forms, checksums)


def read_tensors(path: Path, content: bytes | None = None) -> dict[str, Tensor]:
    """The tensors of a file; the arguments are those of :func:`read_header`.

    Raises:
        InputError: if the file cannot be read; a :class:`BadFile` if it is missing or damaged.
    """
    if content is None:
        file_size(path)
    try:
        with reading(path):
            return load_file(path) if content is None else load(content)
    except (SafetensorError, KeyError, TypeError, RuntimeError, MemoryError) as error:
        raise BadFile(f"{path} is damaged ({shown(str(error))})") from None


def misfit(found: Mapping[str, Form], expected: Mapping[str, Form], any_float: bool = False) -> str:
    """What is wrong with the first tensor of ``found`` that ``expected`` does not have in the same form; "" if none is.

    Args:
        any_float: whether weights may have another floating-point precision than expected.
    """
    for name, form in found.items():
        if name not in expected:
            return f"{shown(name)} has no place in it"
        wanted = expected[name]
        same = form.dtype == wanted.dtype or (any_float and form.dtype in FLOATS and wanted.dtype in FLOATS)
        if form.shape != wanted.shape or not same:
            return f"{shown(name)} is {form}, and not {wanted}"
    return ""


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """How many values are NaN or infinite, and where the first is; "" if all are finite."""
    real = {name: value for name, value in tensors.items() if value.dtype in FLOATS or value.is_complex()}
    counts = {name: int((~torch.isfinite(value)).sum()) for name, value in real.items()}
    bad = [name for name, count in counts.items() if count]
    if not bad:
        return ""
    total = sum(counts.values())
    return f"{total:,} {'value that is' if total == 1 else 'values that are'} not finite (first: in {shown(bad[0])})"


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values, whatever the order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {Form.of(value)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
