"""The nested settings of a run. A recipe and the command line set them, and the run's folder keeps them.

``model.schedule``, ``model.transform``, ``model.parameterization`` and ``model.network`` are names in the registries,
so every registered part can be chosen.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from ..data.settings import DataConfig
from ..errors import InputError
from ..support.checks import is_writable, require, require_types, shown
from ..support.files import write_whole
from ..support.values import in_words, refuse_base_60
from ..training.settings import TrainingConfig


@dataclass(frozen=True)
class ModelConfig:
    """The process and the predictor.

    Args:
        gamma_min: log noise-to-signal ratio gamma = log(sigma^2 / alpha^2) at t = 0; a smaller value means less noise.
        gamma_max: log noise-to-signal ratio at t = 1; with a larger value less of the data is left there.
        schedule: noise schedule gamma(t): linear, cosine, ot (the straight path of flow matching), geometric (that of
            neural flow diffusion models; take a gamma_max of 10 or more for both), learned, stepwise (learned for
            training.bound_steps steps only), or elementwise (learned for each element).
        learned_end: learn gamma at t = 1, too, from gamma_max on; with few steps this matters as much as the rest of a
            schedule. For the schedules learned and stepwise.
        learned_eta: learn how much noise the reverse process injects at each time. In continuous time 1 is best if F is
            the identity.
        transform: transform F of the data: identity (conventional diffusion), linear, time_basis, linear_basis (both),
            network, gaussian_flow (a network that scales the noise, too) or blur (of images, without parameters); for
            text, embedding.
        rotation: directions of the linear and linear_basis transforms: none gives each element its own gain, learned
            gives each of a set of learned orthonormal directions its own gain.
        num_basis: number of powers of time in the linear, time_basis and linear_basis transforms and in the embedding,
            where 0 is one that does not move; other transforms ignore it.
        tied_to: variable that F takes as time: time is t itself, noise is the variance of the noise minus its value at
            t = 0.
        transform_width: width of F's network, which is of the same kind as the predictor's; identity and linear have
            none.
        transform_depth: number of residual blocks of F's network, counted as in depth.
        parameterization: meaning of the predictor's output: x is the data, eps is the noise, v is alpha eps - sigma x,
            and levels is a distribution over the levels of quantised data, which helps most if there are many levels;
            for text, symbols is a distribution over the characters.
        predict_curve: predict the coefficients of F together with x, so that F is never evaluated on a prediction
            (time_basis and linear_basis only).
        predict_target: predict, in the place of x, the one combination of values of F that the reverse process needs,
            so that F is evaluated on data alone. The ODE needs F(x, t), too, which is predicted as well if
            training.eta_range is above 1.
        variance: learn the variance of the reverse process (discrete time only).
        network: kind of both networks: mlp (for vectors and tiny images), unet (with downsampling and attention) or
            flat_unet (the network of VDM, without downsampling); for text, conv1d or transformer.
        width: width of the predictor's network; for a unet it is the number of channels of the first level.
        depth: number of residual blocks of the predictor's network; for a unet it is the number per level.
        dropout: probability of dropout in the predictor's network; F has no dropout.
        multipliers: number of channels of each level of a unet, in units of width.
        attention: heights in pixels of the feature maps at which a unet has attention; a flat_unet takes the height of
            the image, or none. The middle of both always has attention.
        heads: number of attention heads of a unet, flat_unet or transformer.
        patch: side in pixels of the squares that a unet turns into one pixel with more channels; the cost falls with
            the square of this number, and 1 leaves the image as it is.
        fourier: exponents k of the features sin(2^k pi z) and cos(2^k pi z) that the predictor gets besides z;
            F gets none. Choose none if F runs in bf16, because the features multiply the rounding error of
            their input by 2^k pi. In a table they are damped by the noise of z, and left out for fewer than 2,000
            rows of real numbers and for one column that is a function of many independent ones.
        uniform: for a table, exponents k of the features sin(2^k pi u) and cos(2^k pi u) of the uniform scores u of the
            numbers.
        dim: for a table or text, the dimension of the points that stand for the categories or characters.
    """

    gamma_min: float = -7.0
    gamma_max: float = 5.0
    schedule: str = "linear"
    learned_end: bool = False
    learned_eta: bool = False
    transform: str = "identity"
    rotation: Literal["none", "learned"] = "none"
    num_basis: int = 2
    tied_to: Literal["time", "noise"] = "time"
    transform_width: int = 64
    transform_depth: int = 1
    parameterization: str = "v"
    predict_curve: bool = False
    predict_target: bool = False
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
    uniform: list[int] = field(default_factory=list)
    dim: int = 4

    def __post_init__(self) -> None:
        require_types(self, "model.")
        for name in ("num_basis", "width", "depth", "transform_width", "transform_depth", "dim"):
            least = 0 if name == "num_basis" and self.transform == "embedding" else 1
            require(getattr(self, name) >= least, f"model.{name} must be at least {least}", getattr(self, name))
        require(all(abs(k) <= 64 for k in self.fourier), "model.fourier must be between -64 and 64", self.fourier)
        require(all(0 <= k <= 64 for k in self.uniform), "model.uniform must be between 0 and 64", self.uniform)
        ends = f"model.learned_end is for the schedules learned and stepwise, not for {self.schedule}; set it to false"
        require(not self.learned_end or self.schedule in ("learned", "stepwise"), ends, True)
        both = "model.predict_target and model.predict_curve are two forms of the reverse process; set one to false"
        require(not (self.predict_target and self.predict_curve), both, "true and true")
        eta = "model.learned_eta and model.predict_target exclude each other where F moves; set one to false"
        require(not (self.learned_eta and self.predict_target) or self.transform == "identity", eta, "true and true")
        for name in ("predict_target", "predict_curve", "variance"):  # the target of a symbol is exact anyhow
            unused = self.parameterization != "symbols" or not getattr(self, name)
            require(unused, f"model.{name} is not for symbols; set it to false", True)
        require(0 <= self.dropout < 1, "model.dropout must be in [0, 1)", self.dropout)
        from ..parts import NETWORKS, PARTS

        for name, kind in PARTS.items():
            kind.find(getattr(self, name), f"model.{name}")
        for f in fields(self):
            readers = [name for name, network in NETWORKS.items() if f.name in network.reads]
            idle = f.default_factory() if callable(f.default_factory) else f.default
            rule = f"model.{f.name} is for a {' or a '.join(readers)}; with {self.network} set it to {idle}"
            unread = bool(readers) and self.network not in readers
            require(not unread or getattr(self, f.name) == idle, rule, getattr(self, f.name))


@dataclass(frozen=True)
class Config:
    """The settings of a run.

    Args:
        description: one line that describes the run; it is kept in config.yaml.
        seed: seed of all random draws.
        init: folder of another run whose averaged weights the training starts from; its settings model.* must be the
            same. null starts from random weights.
        data: the data to learn from.
        model: the process and the predictor.
        training: the optimisation.
    """

    description: str = ""
    seed: int = 0
    init: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        require_types(self)
        require(0 <= self.seed < 2**63, "seed must not be negative and must be below 2^63", self.seed)

    def save(self, path: Path) -> None:
        """Write a YAML file that :func:`ndm.experiment.recipe.read_config` reads."""
        write_whole(path, yaml.safe_dump(asdict(self), sort_keys=False))


LONGEST, LONGEST_TEXT = 64, 4096
"""The largest number of values of one setting, and of characters of a text."""
LARGEST_SIZE = 2**20
"""The largest whole number among the sizes of a model."""
GROUPS: dict[str, type] = {"data": DataConfig, "model": ModelConfig, "training": TrainingConfig}
NULLABLE = ("init", "training.bound_steps", "training.max_seconds", "data.path", "data.size")


def add_settings(parser: ArgumentParser) -> None:
    """Add every setting to a parser as an option, with its type and help."""
    # A parser for the whole Config would make its groups' default values, whose checks import torch.
    parser.add_class_arguments(Config, None, skip=set(GROUPS))
    for name, cls in GROUPS.items():
        parser.add_class_arguments(cls, name)


@cache
def _settings_parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    add_settings(parser)
    return parser


def make_config(tree: dict[str, Any]) -> Config:
    """The config with nested settings such as ``{"seed": 1, "training": {"steps": 300}}``; the rest are defaults.

    Raises:
        InputError: if a setting is unknown or has a wrong value; the message names it.
    """
    check_names(tree)
    check_values(tree)
    given = {key: str(value) for key, value in named_settings(tree).items()}  # before the parser changes lists
    try:
        checked = _settings_parser().parse_object(tree)
    except (ArgumentError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise InputError(shown(in_words(text) or text, 400)) from None
    refuse_base_60((key, text, checked[key]) for key, text in given.items())
    return config_of(checked)


def config_of(parsed: Namespace) -> Config:
    """The config of what a parser with :func:`add_settings` has parsed.

    Raises:
        InputError: if a setting has a wrong value.
    """
    groups = {}
    for name, cls in GROUPS.items():  # the parser adds keys of its own, such as __path__
        groups[name] = cls(**{k: v for k, v in parsed[name].as_dict().items() if not k.startswith("__")})
    return Config(parsed.description, parsed.seed, parsed.init, **groups)


def check_names(tree: dict[str, Any]) -> None:
    """Refuse settings that do not exist, and settings that are null but need a value.

    Raises:
        InputError: naming the first such setting. If it does not exist, the message lists all settings.
    """
    inner = (f"{group}.{f.name}" for group, cls in GROUPS.items() for f in fields(cls))
    known = ["description", "seed", "init", *inner]
    for key in tree:
        group, _, name = str(key).partition(".")
        if isinstance(tree.get(group), dict) and name in tree[group]:
            raise InputError(f"the key {shown(key)} is also under {group}: keep one")
    for key, value in named_settings(tree).items():
        if key in GROUPS:
            raise InputError(f"{key} must hold settings by their names, such as {key}: {{...}}, got {shown(value)}")
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
        require(value != "" or key == "description", f"{key} must not be empty; give a value, or leave it out", "''")
        values = value if isinstance(value, list) else [value]
        most = LONGEST
        if isinstance(value, dict):  # a table may have many columns
            values, most = [part for pair in value.items() for part in pair], LONGEST_TEXT
        require(len(values) <= most, f"{key} takes at most {most} values", f"{len(values):,}")
        for one in values:
            if isinstance(one, str):
                require(len(one) <= LONGEST_TEXT, f"{key} takes at most {LONGEST_TEXT:,} characters", f"{len(one):,}")
                require(is_writable(one), f"{key} must have no null characters and no halves of characters", shown(one))
            if isinstance(one, float):
                require(math.isfinite(one), f"{key} must be finite", one)
            elif isinstance(one, int) and key != "seed":  # which has a rule of its own
                largest = LARGEST_SIZE if key.startswith("model.") else 2**63 - 1
                require(abs(one) <= largest, f"{key} must be at most {largest:,}", shown(one))


def named_settings(tree: dict[str, Any]) -> dict[str, Any]:
    """Nested settings as one dictionary with full names: ``{"training.steps": 300}``."""
    named: dict[str, Any] = {}
    for key, value in tree.items():
        inner = isinstance(value, dict) and key in GROUPS
        named |= {f"{key}.{name}": v for name, v in value.items()} if inner else {key: value}
    return named


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """The settings in which two configs differ, by their full names."""
    old, new = named_settings(asdict(a)), named_settings(asdict(b))
    return {key: (old[key], new[key]) for key in old if old[key] != new[key]}
