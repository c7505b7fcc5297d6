"""Saving and loading. ``config.json`` names the parts and their arguments, ``model.safetensors`` holds the weights.

Every registered class keeps its constructor's arguments as attributes of the same names, so a model can be described
and rebuilt from the description. Nothing is unpickled and no name from a file is ever imported: a module whose class is
not registered is described as ``{"type": "external"}``, and the caller must pass it.

A model is loaded in an order that a foreign file cannot make expensive: the header of the weights, the description and
the plain values in it, the described model without memory, and only if all of them fit each other the model itself.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .description import EXTERNAL, SPARE, build, class_or_value, describe, has_foreign_class
from .errors import InputError
from .parts import PARTS  # noqa: F401  a saved model may name any of them
from .support.arguments import check_arguments
from .support.checks import shown
from .support.files import (
    LARGEST_TEXT,
    BadFile,
    check_writable,
    make_folder,
    parse_json,
    read_text,
    whole_file,
    write_whole,
)
from .support.outline import outline
from .support.program import command
from .support.weights import (
    FLOATS,
    Header,
    checksum,
    forms_of,
    misfit,
    not_finite,
    packed,
    read_header,
    read_tensors,
    write_tensors,
)  # fmt: skip

if TYPE_CHECKING:
    from .model import NDM

FORMAT = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CHECKSUM = "config_sha256"
WEIGHTS_CHECKSUM = "tensors_sha256"
SCHEMA_CHECKSUM = "schema_sha256"
"""The checksum of the schema beside the model of a table."""
ROLES = ("process", "predictor", "decoder")


def save(model: NDM, folder: Path, beside: Mapping[str, str] | None = None) -> None:
    """Write the two files, each under a temporary name first.

    The weights file holds the checksums of the configuration and of the weights.

    Args:
        beside: further checksums by name, of what lies beside the model and belongs to it.

    Raises:
        InputError: if a class is not registered, or the folder cannot be written.
        OSError: if the disk is full; what was there is then left as it was.
    """
    text, weights, metadata = _contents(model)
    make_folder(folder)
    check_writable(folder)
    with whole_file(folder / WEIGHTS_FILE) as partial_file:
        write_tensors(partial_file, weights, {**(beside or {}), **metadata})
        write_whole(folder / CONFIG_FILE, text)


def save_in_memory(model: NDM) -> dict[str, bytes]:
    """The two files of :func:`save` by their names, for a model with weights.

    Raises:
        InputError: if a class is not registered.
    """
    text, weights, metadata = _contents(model)
    return {CONFIG_FILE: text.encode(), WEIGHTS_FILE: packed(weights, metadata)}


def _contents(model: NDM) -> tuple[str, dict[str, torch.Tensor], dict[str, str]]:
    """The description of a model, its weights, and the checksums of both."""
    from .model import network_shape

    parts = {name: describe(getattr(model, name)) for name in ROLES}
    own = [name for name, part in (*parts.items(), ("schedule", parts["process"].get("schedule"))) if part == EXTERNAL]
    if own and own != ["predictor"]:
        raise InputError(f"the class of the model's {own[0]} is not registered, so the model could not be loaded again")
    # A network of the caller's may not say its shape, and latents may have another shape than samples.
    shape = {"shape": model.shape} if model.shape != network_shape(model.predictor) else {}
    text = json.dumps({"format": FORMAT, **shape, **parts}, indent=2) + "\n"
    weights = unshared(model.state_dict())
    return text, weights, {CHECKSUM: _checksum(text), WEIGHTS_CHECKSUM: checksum(weights)}


def unshared(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a state dictionary; one that several parts share is there once, under the first of its names.

    The process, the predictor and the decoder are built one by one, so what they share is there for each of them.
    """
    own: dict[Any, str] = {}
    for name in sorted(state):
        value, role = state[name], name.partition(".")[0]
        shared = (role, value.data_ptr(), value.dtype, value.shape, value.stride()) if value.numel() else name
        own.setdefault(shared, name)
    return {name: state[name] for name in state if name in set(own.values())}


def weights_checksum(model: NDM) -> str:
    """SHA-256 of the names and values of all weights; the file they came from does not matter."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@torch.inference_mode(False)
def load(folder: Path, supplied: Mapping[str, torch.nn.Module]) -> NDM:
    """Rebuild the model of :func:`save`; see :meth:`ndm.NDM.from_pretrained`."""
    folder = model_folder(folder)
    config_file, weights_file = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    try:
        header = read_header(weights_file)
        size = sum(math.prod(form.shape) for form in header.forms.values())
        text = read_text(config_file, LARGEST_TEXT + 40 * size)  # which may list statistics of every element
    except BadFile as error:
        for file in (config_file, weights_file):
            if not file.exists():
                raise BadFile(f"{folder} is not a model folder: {file.name} is missing") from None
        raise BadFile(f"{error}; restore it or train again") from None
    return _rebuilt(folder, text, header, supplied)


@torch.inference_mode(False)
def load_from_memory(files: Mapping[str, bytes]) -> NDM:
    """The model of :func:`save_in_memory`.

    Raises:
        BadFile: if the files are damaged.
    """
    try:
        text, weights = files[CONFIG_FILE].decode(), files[WEIGHTS_FILE]
    except (KeyError, AttributeError, UnicodeDecodeError):
        raise BadFile("the model in the pickle is damaged; train again") from None
    return _rebuilt(Path("pickle"), text, read_header(Path("pickle") / WEIGHTS_FILE, weights), {}, weights)


def _rebuilt(
    folder: Path, text: str, header: Header, supplied: Mapping[str, torch.nn.Module], content: bytes | None = None
) -> NDM:
    """The model that a folder describes; ``content`` is that of the file of weights, if it is in memory."""
    config_file, weights_file = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    parts = read_parts(config_file, text)
    try:
        check_outline(parts, header, supplied)
    except InputError as error:
        raise InputError(f"{config_file}: {error}") from None
    weights = read_tensors(weights_file, content)
    check_weights(weights_file, weights, header)
    if header.metadata.get(CHECKSUM) != _checksum(text):
        raise BadFile(f"{folder}: config.json and model.safetensors do not belong together; restore both files")
    return _filled(_assemble(parts, supplied, _largest(header)), weights, weights_file, supplied)


def read_parts(file: Path, text: str) -> dict[str, Any]:
    """The descriptions of a model's parts in the text of ``config.json``, and the model's shape if it was given.

    Raises:
        BadFile: if it is damaged, foreign or of another format.
    """
    config = parse_json(text, file)
    if not isinstance(config, dict) or not all(isinstance(config.get(name), dict) for name in ROLES):
        raise BadFile(f"{file} is damaged or not from ndm (it does not describe {', '.join(ROLES)}); restore it")
    if config.get("format") != FORMAT:
        raise BadFile(f"{file} has format {shown(config.get('format'))}, this version of ndm reads {FORMAT}")
    return {name: config[name] for name in (*ROLES, "shape") if name in config}


def check_outline(parts: dict[str, Any], header: Header, supplied: Mapping[str, torch.nn.Module]) -> None:
    """Build the described model without memory, and compare it with the header of the weights.

    Raises:
        InputError: if a part cannot be built, or does not fit the weights.
    """
    from .model import NDM

    check_arguments(NDM, {name: class_or_value(part) for name, part in parts.items()}, _largest(header))
    if has_foreign_class(parts):
        return  # a constructor that is not of this package may need numbers
    elements = sum(math.prod(form.shape) for form in header.forms.values())
    # The decoder is built from numbers and looks at them; it has no network.
    decoder = build(parts["decoder"], supplied, "decoder", _largest(header))
    # Twice, because a tensor that parts share is stored once; tables that are computed are not stored.
    with outline(2 * len(header.forms) + 64, 2 * elements + 2**20):
        model = _assemble(parts, supplied, _largest(header), decoder)
    if problem := misfit(header.forms, forms_of(model.state_dict()), any_float=True):
        check_supplied(supplied, problem)
        raise BadFile(f"it does not fit {WEIGHTS_FILE}: {problem}; restore both files")


def check_supplied(supplied: Mapping[str, torch.nn.Module], problem: str) -> None:
    """Refuse a module of the caller's, if it is the one that does not fit the weights.

    Args:
        problem: what does not fit; it begins with the name of a tensor of the model.

    Raises:
        InputError: naming the argument.
    """
    for name in supplied:
        if problem.startswith((f"{name}.", f"process.{name}.")):
            raise InputError(f"the {name} that was passed does not fit the saved weights: {problem}; pass one like it")


def _assemble(parts: dict[str, Any], supplied: Mapping[str, torch.nn.Module], largest: int, decoder: Any = None) -> NDM:
    from .model import NDM

    built = {name: build(parts[name], supplied, name, largest) for name in ("process", "predictor")}
    decoder = decoder or build(parts["decoder"], supplied, "decoder", largest)
    model = NDM(**built, decoder=decoder, shape=parts.get("shape"))
    used = {id(module) for module in model.modules()} | {id(getattr(module, "net", None)) for module in model.modules()}
    for name, module in supplied.items():
        if id(module) not in used:
            raise InputError(f"the saved model has no network in its {name}: leave out {name}")
    return model


def _filled(model: NDM, weights: dict[str, torch.Tensor], file: Path, supplied: Mapping[str, torch.nn.Module]) -> NDM:
    """The model with the weights of a file, in their precision and in evaluation mode."""
    dtypes = {w.dtype for w in weights.values() if w.is_floating_point()}
    if len(dtypes) == 1:
        model.to(dtypes.pop())
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if name in weights and tensor.is_floating_point() and weights[name].dtype in FLOATS:
            tensor.data = tensor.data.to(weights[name].dtype)
    expected = model.state_dict()
    # Tensors shared between parts are stored once.
    missing = {k for k in expected if k not in weights} - _shared_names(expected, weights)
    problem = misfit(forms_of(weights), forms_of(expected), any_float=True)
    if missing and not problem:
        problem = f"{min(missing)} is missing"
    if problem:
        check_supplied(supplied, problem)
        raise BadFile(f"{file} does not fit its config.json ({problem}); restore both files")
    model.load_state_dict(weights, strict=False)
    return model.eval()


def model_folder(folder: Path) -> Path:
    """The folder of a model, which may be given as the folder of the run that trained it.

    Raises:
        InputError: if it is a run's folder that has no model yet.
    """
    if (folder / CONFIG_FILE).exists() or not (folder / "config.yaml").is_file():
        return folder
    if not (folder / "model").is_dir():
        raise InputError(
            f"the run {folder} has no model yet: wait until its training is done, go on with "
            f"{command(f'train --resume {folder}')}, or load a checkpoint with "
            f"ndm.experiment.Run({str(folder)!r}).load_model('newest')"
        )
    return folder / "model"


def check_weights(file: Path, weights: dict[str, torch.Tensor], header: Header) -> None:
    """Refuse weights that are not those that were saved, or are not finite.

    Raises:
        BadFile: naming the file and the first tensor that is not finite.
    """
    if header.metadata.get(WEIGHTS_CHECKSUM) not in (None, checksum(weights)):  # the first versions wrote none
        raise BadFile(f"{file} is damaged (its checksum does not match); restore it or train again")
    if problem := not_finite(weights):
        raise BadFile(f"{file} has {problem}; restore it or train again")


def _largest(header: Header) -> int:
    """A bound of every count in the description of a model with these weights."""
    return SPARE + len(header.forms) + max((max(f.shape, default=0) for f in header.forms.values()), default=0)


def _shared_names(expected: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> set[str]:
    """Names of tensors that share memory with a tensor in ``weights``."""
    stored = {expected[k].data_ptr() for k in weights if k in expected}
    return {k for k, v in expected.items() if v.data_ptr() in stored}
