"""Recipes: a YAML file, the dataclasses it fills, and the objects that those name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from .data import DataConfig, Dataset, shape_of
from .decoder import CategoricalDecoder, Decoder, GaussianDecoder
from .errors import InputError
from .files import write_whole
from .levels import RANK, LevelsPredictor
from .model import NDM
from .nn import MLP, FlatUNet, UNet
from .predictor import Predictor
from .process import ForwardProcess, TiedTo
from .schedule import CosineSchedule, LearnedSchedule, LinearSchedule, Schedule, StepwiseSchedule
from .transform import Identity, Linear, Network, TimeBasis, Transform


def _require(condition: bool, rule: str, value: Any) -> None:
    if not condition:
        raise InputError(f"{rule}, got {value}")


# Settings that only some networks read.
_READ_BY = {
    "multipliers": ("unet",),
    "patch": ("unet",),
    "attention": ("unet", "flat_unet"),
    "heads": ("unet", "flat_unet"),
    "fourier": ("unet", "flat_unet"),
}


@dataclass(frozen=True)
class ModelConfig:
    """The process and the predictor.

    Args:
        gamma_min: log noise-to-signal ratio at t = 0; smaller is less noise.
        gamma_max: log noise-to-signal ratio at t = 1.
        schedule: gamma(t); stepwise belongs to training.bound_steps.
        transform: F; identity is conventional diffusion.
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
    schedule: Literal["linear", "cosine", "learned", "stepwise"] = "linear"
    transform: Literal["identity", "linear", "time_basis", "network"] = "identity"
    rotation: Literal["none", "learned"] = "none"
    num_basis: int = 2
    tied_to: TiedTo = "time"
    transform_width: int = 64
    transform_depth: int = 1
    parameterization: Literal["x", "eps", "v", "levels"] = "v"
    predict_curve: bool = False
    variance: bool = False
    network: Literal["mlp", "unet", "flat_unet"] = "mlp"
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
            _require(getattr(self, name) >= 1, f"model.{name} must be at least 1", getattr(self, name))
        _require(0 <= self.dropout < 1, "model.dropout must be in [0, 1)", self.dropout)
        for f in fields(self):
            networks = _READ_BY.get(f.name, (self.network,))
            idle = f.default_factory() if callable(f.default_factory) else f.default
            rule = f"model.{f.name} is for a {' or a '.join(networks)}; with {self.network} set it to {idle}"
            _require(self.network in networks or getattr(self, f.name) == idle, rule, getattr(self, f.name))


@dataclass(frozen=True)
class TrainingConfig:
    """The optimisation.

    Args:
        steps: optimiser steps.
        batch_size: rows per step, of all processes together.
        accumulate: parts in which each batch is computed, to bound memory.
        learning_rate: its peak, after the warm-up; it rises from 1e-8 and falls to it, linearly.
        warmup: steps of rise, at most half of all.
        optimizer: adamw or adam.
        beta2: forgetting factor of the squared gradients.
        weight_decay: AdamW's.
        clip: largest norm of the gradient.
        precision: of the networks; the process around them stays in fp32.
        compile: compile the loss with torch.compile; the first steps then take minutes.
        ema_decay: of the averaged weights, which are the model that is saved.
        bound_steps: number of steps T of the bound that is trained; null is continuous time.
        uniform_times: share of the times drawn uniformly; the others fall where the loss is large. The larger it is,
            the better the noisy end is learned, which has few of the bits and decides what a sample depicts.
        eta_range: largest eta; each row's eta is drawn log-uniformly between its inverse and it, which brings the
            densities of the ODE and the SDE together where F is not linear. 1 is the bound itself.
        evaluate_every: steps between validation bounds; 0 for none.
        sample_every: steps between sample grids; 0 for none.
        checkpoint_every: steps between checkpoints, of which the last two and the best are kept.
        max_skipped: steps in a row without a finite gradient, which are skipped, before the run stops.
        trackers: where metrics go besides metrics.jsonl: [tensorboard], [wandb] or both.
    """

    steps: int = 4000
    batch_size: int = 256
    accumulate: int = 1
    learning_rate: float = 2e-3
    warmup: int = 300
    optimizer: Literal["adamw", "adam"] = "adamw"
    beta2: float = 0.99
    weight_decay: float = 0.01
    clip: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    ema_decay: float = 0.999
    bound_steps: int | None = None
    uniform_times: float = 0.1
    eta_range: float = 1.0
    evaluate_every: int = 1000
    sample_every: int = 0
    checkpoint_every: int = 1000
    max_skipped: int = 10
    trackers: list[Literal["tensorboard", "wandb"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "checkpoint_every", "max_skipped"):
            _require(getattr(self, name) >= 1, f"training.{name} must be at least 1", getattr(self, name))
        for name in ("warmup", "learning_rate", "weight_decay", "evaluate_every", "sample_every"):
            _require(getattr(self, name) >= 0, f"training.{name} must not be negative", getattr(self, name))
        _require(self.clip > 0, "training.clip must be positive", self.clip)
        _require(0 <= self.beta2 < 1, "training.beta2 must be in [0, 1)", self.beta2)
        steps = self.bound_steps
        _require(steps is None or steps >= 1, "training.bound_steps must be at least 1, or null", steps)
        _require(self.eta_range >= 1, "training.eta_range must be at least 1", self.eta_range)
        _require(0 < self.uniform_times <= 1, "training.uniform_times must be in (0, 1]", self.uniform_times)
        _require(0 <= self.ema_decay < 1, "training.ema_decay must be in [0, 1)", self.ema_decay)


@dataclass(frozen=True)
class Config:
    """Everything that makes a run, with the seed."""

    description: str = ""
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**63, "seed must not be negative, nor above 2^63", self.seed)

    def save(self, path: Path) -> None:
        """Write the YAML that :func:`load_config` reads."""
        write_whole(path, yaml.safe_dump(asdict(self), sort_keys=False))


_NULLABLE = ("training.bound_steps", "data.path", "data.size")


GROUPS: dict[str, Any] = {"data": DataConfig, "model": ModelConfig, "training": TrainingConfig}


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """The settings in which two configs differ, by their full names."""
    flat = lambda config: {  # noqa: E731
        **{k: v for k, v in asdict(config).items() if k not in GROUPS},
        **{f"{group}.{k}": v for group in GROUPS for k, v in asdict(config)[group].items()},
    }
    old, new = flat(a), flat(b)
    return {key: (old[key], new[key]) for key in old if old[key] != new[key]}


def fields_of(group: str) -> list[str]:
    """The names of a group's settings."""
    return [f.name for f in fields(GROUPS[group])]


def recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(resources.files("ndm") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """The file of a recipe's name, or of a path.

    Raises:
        InputError: listing the recipes there are.
    """
    known = recipes()
    if name in known:
        return known[name]
    if Path(name).is_file():
        return Path(name)
    raise InputError(f"no recipe or file {name!r}; recipes: {', '.join(known)}")


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a YAML file as ``{"seed": 0, "training.steps": 300, ...}``, every key known.

    Raises:
        InputError: naming the first unknown key and those there are.
    """
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path} must hold keys such as data, model and training")
    settings: dict[str, Any] = {}
    for key, value in tree.items():
        if key in GROUPS and isinstance(value, dict):
            settings.update({f"{key}.{name}": v for name, v in value.items()})
        else:
            settings[key] = value
    known = ["description", "seed", *(f"{g}.{name}" for g in GROUPS for name in fields_of(g))]
    for key in settings:
        if key not in known:
            raise InputError(f"{path}: unknown key {key!r}; known keys: {', '.join(known)}")
    return settings


def add_settings(parser: ArgumentParser) -> None:
    """Every setting as an option of a parser, with its type and help."""
    parser.add_argument("--description", type=str, default="", help="one line for the run's config.yaml")
    parser.add_argument("--seed", type=int, default=0, help="seeds everything that is drawn")
    for group, cls in GROUPS.items():
        parser.add_class_arguments(cls, group)


def make_config(settings: dict[str, Any]) -> Config:
    """A config from flat settings, every value checked.

    Raises:
        InputError: naming the setting whose value does not fit.
    """
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        if value is None and key not in _NULLABLE:
            raise InputError(f"{key} must not be null")
        group, _, name = key.rpartition(".")
        (tree.setdefault(group, {}) if group else tree)[name] = value
    parser = ArgumentParser(exit_on_error=False)
    add_settings(parser)
    try:
        checked = parser.parse_object(tree)
    except (ArgumentError, TypeError, ValueError) as error:
        raise InputError(" ".join(str(error).split())) from None
    groups = {g: cls(**{k: checked[g][k] for k in fields_of(g)}) for g, cls in GROUPS.items()}
    return Config(checked.description, checked.seed, **groups)


def make_schedule(config: Config) -> Schedule:
    """The noise schedule a config names."""
    ends = (config.model.gamma_min, config.model.gamma_max)
    if config.model.schedule == "stepwise":
        if config.training.bound_steps is None:
            raise InputError("model.schedule stepwise needs training.bound_steps, the number of steps it belongs to")
        return StepwiseSchedule(*ends, steps=config.training.bound_steps)
    return {"linear": LinearSchedule, "cosine": CosineSchedule, "learned": LearnedSchedule}[config.model.schedule](
        *ends
    )


def make_transform(config: ModelConfig, shape: Sequence[int]) -> Transform:
    """The transform a config names, for samples of ``shape``."""
    size = (config.transform_width, config.transform_depth)
    if config.transform == "linear":
        return Linear(math.prod(shape), config.num_basis, config.rotation)
    if config.transform == "time_basis":
        return TimeBasis(make_network(config, shape, config.num_basis, *size, timed=False), config.num_basis)
    if config.transform == "network":
        return Network(make_network(config, shape, 1, *size))
    return Identity()


def make_network(
    config: ModelConfig, shape: Sequence[int], multiplier: int, width: int, depth: int,
    dropout: float = 0.0, fourier: Sequence[int] = (), timed: bool = True,
) -> nn.Module:  # fmt: skip
    """A network ``(z, t)``, or of z alone, of the kind a config names, with ``multiplier`` outputs per channel.

    Raises:
        InputError: if the network does not fit images of that shape, or the rows are no images.
    """
    embedding = 64 if timed else 0
    if config.network == "mlp":
        return MLP(shape, multiplier, width, depth, dropout=dropout, embedding=embedding)
    embedding = 4 * width if timed else 0
    if config.network == "flat_unet":
        _require(set(config.attention) <= {shape[1]}, f"a flat_unet attends at height {shape[1]}", config.attention)
        attention = bool(config.attention)
        return FlatUNet(shape, multiplier, width, depth, attention, config.heads, dropout, embedding, fourier)
    return UNet(
        shape, multiplier, width, depth, config.multipliers, config.attention, config.heads, dropout, embedding,
        fourier, config.patch,
    )  # fmt: skip


def make_model(config: Config, dataset: Dataset) -> NDM:
    """The untrained model of a config, for a data set."""
    return build_model(config, dataset.shape, make_decoder(dataset))


def make_decoder(dataset: Dataset) -> Decoder:
    """The decoder of a data set's units."""
    if dataset.levels is not None:
        return CategoricalDecoder(dataset.levels)
    return GaussianDecoder(0.0 if dataset.mean is None else dataset.mean, 1.0 if dataset.std is None else dataset.std)


def build_model(config: Config, shape: Sequence[int], decoder: Decoder) -> NDM:
    """The untrained model of a config, for samples of ``shape``."""
    m = config.model
    if m.variance and config.training.bound_steps is None:
        raise InputError("model.variance is trained in discrete time only: set training.bound_steps, e.g. to 10")
    predictor = make_predictor(m, shape, decoder)  # first: a seed gives it the same weights whatever F is
    process = ForwardProcess(make_schedule(config), make_transform(m, shape), tied_to=m.tied_to)
    return NDM(process, predictor, decoder)


def make_predictor(config: ModelConfig, shape: Sequence[int], decoder: Decoder) -> Predictor:
    """The predictor a config names, for samples of ``shape``.

    Raises:
        InputError: if it is to predict levels and the data have none.
    """
    curve = config.num_basis if config.predict_curve else 0
    network = lambda outputs: make_network(  # noqa: E731
        config, shape, outputs, config.width, config.depth, config.dropout, config.fourier
    )
    if config.parameterization == "levels":
        if not isinstance(decoder, CategoricalDecoder):
            raise InputError("model.parameterization levels is for quantised data, and these are real numbers; use v")
        rank = min(RANK, decoder.levels)
        return LevelsPredictor(network(rank + curve), decoder.levels, rank, curve, config.variance)
    return Predictor(network(1 + curve + config.variance), config.parameterization, curve, config.variance)


def count_parameters(config: Config) -> int | None:
    """Of the model at full size, which is not allocated; None if only the data tell the shape of a row."""
    shape = shape_of(config.data.name, config.data.size)
    if shape is None:
        return None
    with torch.device("meta"):
        return build_model(config, shape, CategoricalDecoder(levels=256)).num_parameters
