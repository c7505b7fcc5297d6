"""Saving and loading. ``config.json`` names the parts and their arguments, ``model.safetensors`` holds the weights.

Every registered class keeps its constructor's arguments as attributes of the same names, so a model can be described
and rebuilt from the description. Nothing is unpickled and no name from a file is ever imported: a module whose class is
not registered is described as ``{"type": "external"}``, and the caller must pass it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_model

from .errors import InputError
from .levels import LevelsPredictor  # noqa: F401  a saved model may name it, and it registers itself
from .nn import NETWORKS  # noqa: F401  the networks of the package register themselves
from .predictor import BasePredictor
from .support.registry import CLASSES
from .transform import Transform

if TYPE_CHECKING:
    from .model import NDM

FORMAT = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CHECKSUM = "config_sha256"
EXTERNAL = {"type": "external"}


def describe(value: Any) -> Any:
    """A JSON description of a registered module and its parts, or of a plain argument."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [describe(v) for v in value]
    if not isinstance(value, torch.nn.Module):
        return value
    cls = type(value)
    if CLASSES.get(cls.__name__) is not cls:
        return EXTERNAL
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return {"type": cls.__name__, **{name: describe(getattr(value, name)) for name in names}}


def build(description: Any, supplied: dict[str, torch.nn.Module], place: str = "model") -> Any:
    """The inverse of :func:`describe`; ``supplied`` holds the caller's modules by their place in the model.

    Raises:
        InputError: if a type is unknown, an argument does not fit, or a module must be supplied.
    """
    if not isinstance(description, dict):
        return description
    given = supplied.get(place)
    kind = description.get("type")
    # A whole Predictor or Transform replaces the part; a network replaces only the network inside the part.
    if given is not None and (kind == "external" or isinstance(given, (BasePredictor, Transform))):
        return given
    if kind == "external":
        raise InputError(
            f"the model's {place} holds a network that is not one of ndm.nn: "
            f"pass it, as in NDM.from_pretrained(folder, {place}=your_module)"
        )
    if kind not in CLASSES:
        raise InputError(f"unknown type {kind!r} in the model's {place}; it was saved by another version of ndm")
    arguments = {}
    for name, value in description.items():
        if name == "net" and given is not None:
            arguments[name] = given
        elif name != "type":
            arguments[name] = build(value, supplied, place if name == "net" else name)
    try:
        return CLASSES[kind](**arguments)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"cannot build {kind} from the saved configuration: {error}") from None


def save(model: NDM, folder: Path) -> None:
    """Write the two files, each under a temporary name first; the weights file holds the configuration's checksum."""
    parts = {name: describe(getattr(model, name)) for name in ("process", "predictor", "decoder")}
    own = [name for name, part in (*parts.items(), ("schedule", parts["process"].get("schedule"))) if part == EXTERNAL]
    if own and own != ["predictor"]:
        raise InputError(f"the class of the model's {own[0]} is not registered, so the model could not be loaded again")
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, **parts}, indent=2) + "\n"
    weights, config = (folder / (name + ".tmp") for name in (WEIGHTS_FILE, CONFIG_FILE))
    try:
        save_model(model, str(weights), metadata={CHECKSUM: _checksum(text)})
        config.write_text(text)
        os.replace(weights, folder / WEIGHTS_FILE)
        os.replace(config, folder / CONFIG_FILE)
    finally:
        weights.unlink(missing_ok=True)
        config.unlink(missing_ok=True)


def weights_checksum(model: NDM) -> str:
    """SHA-256 of the names and values of all weights; the file they came from does not matter."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def load(folder: Path, supplied: dict[str, torch.nn.Module]) -> NDM:
    """Rebuild the model of :func:`save`; see :meth:`ndm.NDM.from_pretrained`."""
    from .model import NDM

    folder = model_folder(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not a model folder: {name} is missing")
    try:
        text = (folder / CONFIG_FILE).read_text()
        config = json.loads(text)
        parts = {name: dict(config[name]) for name in ("process", "predictor", "decoder")}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / CONFIG_FILE} is damaged or not from ndm ({error!r}); restore it") from None
    if config.get("format") != FORMAT:
        raise InputError(f"{folder} has format {config.get('format')!r}, this version of ndm reads {FORMAT}")
    try:
        weights = load_file(str(folder / WEIGHTS_FILE))
        with safe_open(str(folder / WEIGHTS_FILE), "pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{folder / WEIGHTS_FILE} is damaged ({error}); restore it or train again") from None
    model = NDM(**{name: build(part, supplied, name) for name, part in parts.items()})
    dtypes = {w.dtype for w in weights.values() if w.is_floating_point()}
    if len(dtypes) == 1:
        model.to(dtypes.pop())
    expected = model.state_dict()
    # Tensors shared between parts are stored once.
    missing = {k for k in expected if k not in weights} - _shared_names(expected, weights)
    wrong = [k for k, w in weights.items() if k not in expected or expected[k].shape != w.shape]
    if missing or wrong:
        key = sorted(missing or wrong)[0]
        raise InputError(f"{folder / WEIGHTS_FILE} does not fit its config.json (first: {key}); restore both files")
    if metadata.get(CHECKSUM) != _checksum(text):
        raise InputError(f"{folder}: config.json and model.safetensors do not belong together; restore both files")
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
            f"the run {folder} has no model yet: wait until its training is done, go on with ndm train --resume "
            f"{folder}, or load a checkpoint with ndm.experiment.Run({str(folder)!r}).load_model('newest')"
        )
    return folder / "model"


def _shared_names(expected: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> set[str]:
    """Names of tensors that share memory with a tensor in ``weights``."""
    stored = {expected[k].data_ptr() for k in weights if k in expected}
    return {k for k, v in expected.items() if v.data_ptr() in stored}
