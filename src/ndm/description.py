"""Parts of a model as plain values: the name of a class and its arguments, and back.

Only registered classes are named, and no name is ever imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from .errors import InputError
from .predictor import BasePredictor
from .support.arguments import check_arguments, is_own
from .support.checks import shown
from .support.registry import CLASSES
from .transform import Transform

EXTERNAL = {"type": "external"}
SPARE = 2**16
"""How much larger than any size in the file of the weights a count may be, e.g. the height of a U-Net's images."""


def describe(value: Any) -> Any:
    """A JSON description of a registered module and its parts, or of a plain argument.

    Raises:
        InputError: if a module does not keep an argument of its constructor.
    """
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [describe(v) for v in value]
    if not isinstance(value, torch.nn.Module):
        return EXTERNAL if inspect.isroutine(value) else value
    cls = type(value)
    if CLASSES.get(cls.__name__) is not cls:
        return EXTERNAL
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    lost = next((name for name in names if not hasattr(value, name)), None)
    if lost is not None:
        raise InputError(
            f"{cls.__name__} must keep the argument {lost} of its constructor as an attribute of that name"
        )
    return {"type": cls.__name__, **{name: describe(getattr(value, name)) for name in names}}


def build(description: Any, supplied: Mapping[str, torch.nn.Module], place: str = "model", largest: int = SPARE) -> Any:
    """The inverse of :func:`describe`; ``supplied`` holds the caller's modules by their place in the model.

    Args:
        largest: the largest count that an argument may be.

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
    if not isinstance(kind, str) or kind not in CLASSES:
        raise InputError(
            f"unknown type {shown(repr(kind))} in the model's {place}: it was saved by another version of ndm, or "
            "it is a part of your own, and the file that registers it must be imported first"
        )
    own = {name: value for name, value in description.items() if name != "type" and not (name == "net" and given)}
    check_arguments(CLASSES[kind], {name: class_or_value(value) for name, value in own.items()}, largest)
    arguments = {name: build(v, supplied, place if name == "net" else name, largest) for name, v in own.items()}
    if "net" in description and given is not None:
        arguments["net"] = given
    try:
        return CLASSES[kind](**arguments)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError, LookupError) as error:
        raise InputError(f"cannot build {kind} from the saved configuration: {shown(str(error), 200)}") from error


def class_or_value(description: Any) -> Any:
    """What is known of a described argument before it is built: a module's class, or the value."""
    if not isinstance(description, dict):
        return description
    kind = description.get("type")
    return CLASSES.get(kind, Any) if isinstance(kind, str) else Any


def has_foreign_class(description: Any) -> bool:
    """Whether a description names a class that is registered but not of this package."""
    if not isinstance(description, dict):
        return False
    kind = class_or_value(description)
    foreign = kind is not Any and not is_own(kind)
    return foreign or any(has_foreign_class(value) for value in description.values())
