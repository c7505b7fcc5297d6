"""Everything that makes a run, as nested settings: a recipe and the command line fill them, and a run keeps them.

The names of parts (``model.schedule``, ``model.transform``, ``model.parameterization``, ``model.network``) are those of
the registries, so a part that is registered can be chosen by its name.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from ..data import DataConfig
from ..errors import InputError
from ..nn import NETWORKS
from ..predictor import PREDICTORS
from ..process import TiedTo
from ..schedule import SCHEDULES
from ..support.checks import require, shown
from ..support.files import write_whole
from ..support.registry import Registry
from ..training.settings import TrainingConfig
from ..transform import TRANSFORMS


@dataclass(frozen=True)
class ModelConfig:
    """The process and the predictor.

    Args:
        gamma_min: log noise-to-signal ratio at t = 0; smaller is less noise.
        gamma_max: log noise-to-signal ratio at t = 1.
        schedule: gamma(t): linear, cosine, learned, or stepwise, which belongs to training.bound_steps.
        transform: F: identity (conventional diffusion), linear, time_basis or network.
        rotation: directions of the linear transform (none: each element its own gain; learned: orthonormal).
        num_basis: powers of time in the linear and time_basis transforms (others ignore it).
        tied_to: what the transform sees as time, t itself or the variance of the noise.
        transform_width, transform_depth: width and depth of F's network, which is of the predictor's kind.
        parameterization: what the predictor's output means: x the data, eps the noise, v alpha eps - sigma x, levels a
            distribution over the levels of quantised data, which gains most where there are many of them.
        predict_curve: predict F's coefficients too, so that F is never evaluated on a prediction (time_basis only).
        variance: learn the reverse variance (discrete time only).
        network: kind of the networks: mlp (vectors and tiny images), unet (with downsampling and attention) or
            flat_unet (VDM's, without downsampling).
        width: of the predictor's network; of a unet the channels of its first level.
        depth: residual blocks of the predictor's network, of a unet per level.
        dropout: dropout in the predictor's network.
        multipliers: channels of a unet's levels, in units of width.
        attention: heights of the feature maps at which a U-Net attends, besides its middle, which always does.
        heads: of a U-Net's attention.
        patch: side of the squares that a unet takes for one pixel of more channels; the cost falls with its square.
        fourier: exponents k of the features sin(2^k pi z), cos(2^k pi z) of a unet predictor's input. F gets none, and
            with a bf16 F the predictor should not either: they multiply the rounding of their input by 2^k pi.
    """

    gamma_min: float = -7.0
    gamma_max: float = 5.0
    schedule: str = "linear"
    transform: str = "identity"
    rotation: Literal["none", "learned"] = "none"
    num_basis: int = 2
    tied_to: TiedTo = "time"
    transform_width: int = 64
    transform_depth: int = 1
    parameterization: str = "v"
    predict_curve: bool = False
    variance: bool = False
    network: str = "mlp"
    width: int = 160
    depth: int = 3
    dropout: float = 0.1
    multipliers: list[int] = field(default_factory=lambda: [1, 2, 2])
    attention: list[int] = field(default_factory=list)
    heads: int = 1
    patch: int = 1
    fourier: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("num_basis", "width", "depth", "transform_width", "transform_depth"):
            require(getattr(self, name) >= 1, f"model.{name} must be at least 1", getattr(self, name))
        require(all(abs(k) <= 64 for k in self.fourier), "model.fourier must be between -64 and 64", self.fourier)
        require(0 <= self.dropout < 1, "model.dropout must be in [0, 1)", self.dropout)
        kinds: dict[str, Registry[Any]] = {
            "schedule": SCHEDULES, "transform": TRANSFORMS, "parameterization": PREDICTORS, "network": NETWORKS,
        }  # fmt: skip
        for name, kind in kinds.items():
            kind.find(getattr(self, name), f"model.{name}")
        for f in fields(self):
            readers = [name for name, network in NETWORKS.items() if f.name in network.reads]
            idle = f.default_factory() if callable(f.default_factory) else f.default
            rule = f"model.{f.name} is for a {' or a '.join(readers)}; with {self.network} set it to {idle}"
            unread = bool(readers) and self.network not in readers
            require(not unread or getattr(self, f.name) == idle, rule, getattr(self, f.name))


@dataclass(frozen=True)
class Config:
    """Everything that makes a run, with the seed.

    Args:
        description: one line for the run's config.yaml.
        seed: seeds everything that is drawn.
        data: the data to learn from.
        model: the process and the predictor.
        training: the optimisation.
    """

    description: str = ""
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, "seed must not be negative, nor above 2^63", self.seed)

    def save(self, path: Path) -> None:
        """Write the YAML that :func:`ndm.experiment.recipe.read_config` reads."""
        write_whole(path, yaml.safe_dump(asdict(self), sort_keys=False))


LONGEST, LONGEST_TEXT = 64, 4096
"""The largest number of values of one setting, and of characters of a text."""
LARGEST_SIZE = 2**20
"""The largest whole number among the sizes of a model."""
GROUPS: dict[str, type] = {"data": DataConfig, "model": ModelConfig, "training": TrainingConfig}
NULLABLE = ("training.bound_steps", "data.path", "data.size")


def add_settings(parser: ArgumentParser) -> None:
    """Add every setting to a parser as an option, with its type and help."""
    parser.add_class_arguments(Config, None)


def make_config(tree: dict[str, Any]) -> Config:
    """Nested settings such as ``{"seed": 1, "training": {"steps": 300}}`` as a config; the others have their defaults.

    Raises:
        InputError: naming the setting that is unknown, or whose value does not fit.
    """
    check_names(tree)
    check_values(tree)
    parser = ArgumentParser(exit_on_error=False)
    add_settings(parser)
    try:
        checked = parser.parse_object(tree)
    except (ArgumentError, TypeError, ValueError) as error:
        raise InputError(shown(" ".join(str(error).split()), 400)) from None
    groups = {name: cls(**checked[name].as_dict()) for name, cls in GROUPS.items()}
    return Config(checked.description, checked.seed, **groups)


def check_names(tree: dict[str, Any]) -> None:
    """Refuse nested settings that do not exist, or that are null where a value is needed.

    Raises:
        InputError: naming the first, and for an unknown one those there are.
    """
    known = ["description", "seed", *(f"{group}.{f.name}" for group, cls in GROUPS.items() for f in fields(cls))]
    for key, value in named_settings(tree).items():
        if key not in known:
            raise InputError(f"unknown key {shown(repr(key))}; known keys: {', '.join(known)}")
        if value is None and key not in NULLABLE:
            raise InputError(f"{key} must not be null")


def check_values(tree: dict[str, Any]) -> None:
    """Refuse values of settings that no setting takes, whatever its kind: infinite or gigantic numbers, long lists.

    Raises:
        InputError: naming the first.
    """
    for key, value in named_settings(tree).items():
        values = value if isinstance(value, list) else [value]
        require(len(values) <= LONGEST, f"{key} takes at most {LONGEST} values", f"{len(values):,}")
        for one in values:
            if isinstance(one, str):
                require(len(one) <= LONGEST_TEXT, f"{key} takes at most {LONGEST_TEXT:,} characters", f"{len(one):,}")
            if isinstance(one, float):
                require(math.isfinite(one), f"{key} must be finite", one)
            elif isinstance(one, int) and key != "seed":  # which has a rule of its own
                largest = LARGEST_SIZE if key.startswith("model.") else 2**63 - 1
                require(abs(one) <= largest, f"{key} must be at most {largest:,}", shown(one))


def named_settings(tree: dict[str, Any]) -> dict[str, Any]:
    """The leaves of nested settings by their full names, for messages: ``{"training.steps": 300}``."""
    named: dict[str, Any] = {}
    for key, value in tree.items():
        inner = isinstance(value, dict) and key in GROUPS
        named |= {f"{key}.{name}": v for name, v in value.items()} if inner else {key: value}
    return named


def merged(tree: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Nested settings with those of ``other`` in the place of their own."""
    return tree | {
        key: tree[key] | value if isinstance(value, dict) and isinstance(tree.get(key), dict) else value
        for key, value in other.items()
    }


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """The settings in which two configs differ, by their full names."""
    old, new = named_settings(asdict(a)), named_settings(asdict(b))
    return {key: (old[key], new[key]) for key in old if old[key] != new[key]}
