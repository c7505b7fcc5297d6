"""The sizes of a table's model and training: what neither the recipe nor the user gives follows from the data."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from ..density.plan import FEWEST_VALIDATED, PATIENCE, Plan, plan_for
from ..support.checks import require
from ..training.settings import TrainingConfig
from .settings import Config, ModelConfig

if TYPE_CHECKING:
    from ..data import Dataset

MODEL = tuple(f.name for f in fields(ModelConfig) if f.name in {size.name for size in fields(Plan)})
TRAINING = tuple(f.name for f in fields(TrainingConfig) if f.name in {size.name for size in fields(Plan)})
PLANNED = (*(f"model.{name}" for name in MODEL), *(f"training.{name}" for name in TRAINING), "training.patience")
"""The settings that follow from the data."""
FORM = (
    "transform", "rotation", "num_basis", "tied_to", "transform_width", "transform_depth", "predict_curve",
    "predict_target",
)  # fmt: skip
"""The settings ``model.*`` of the forward process of numbers."""


def planned(
    config: Config, given: Collection[str], rows: int, held_out: int, columns: int, categories: bool = False
) -> Config:
    """The config of a table in which every setting has its number.

    Args:
        config: the settings, with any value where none was given.
        given: the full names of the settings that the recipe or the user gives, such as ``model.width``.
        rows: the number of training rows.
        held_out: the number of all other rows.
        columns: the number of columns of the model.
        categories: whether some of the columns are categories.
    """
    plan = plan_for(rows, columns, config.training.steps if "training.steps" in given else None, categories)
    sizes: dict[str, Any] = {f.name: getattr(plan, f.name) for f in fields(Plan)}
    sizes = {name: list(value) if isinstance(value, tuple) else value for name, value in sizes.items()}
    if rows + held_out < FEWEST_VALIDATED:
        sizes["evaluate_every"] = 0
    stops = config.training.evaluate_every if "training.evaluate_every" in given else sizes["evaluate_every"]
    sizes["patience"] = PATIENCE if stops else 0
    model = {name: sizes[name] for name in MODEL if f"model.{name}" not in given}
    training = {name: sizes[name] for name in (*TRAINING, "patience") if f"training.{name}" not in given}
    return replace(config, model=replace(config.model, **model), training=replace(config.training, **training))


def planned_for(config: Config, given: Collection[str], dataset: Dataset) -> Config:
    """The config for a data set: :func:`planned` for a table, and as it is for other data."""
    if dataset.schema is None:
        return config
    rows, columns = dataset.train.shape
    held_out = len(dataset.validation) + len(dataset.test)
    return planned(config, given, rows, held_out, columns, bool(dataset.schema.categories))


def plan_of(config: Config, rows: int, columns: int) -> Plan:
    """The plan that a config with all its numbers describes.

    Raises:
        InputError: if the config has a setting that a model of a table does not read.
    """
    m = config.model
    form = FORM if m.transform != "identity" or m.predict_curve or m.predict_target else ()
    for f in fields(ModelConfig):
        value = getattr(config.model, f.name)
        default = f.default_factory() if callable(f.default_factory) else f.default
        usable = f.name in (*MODEL, *form) or value == default
        require(usable, f"model.{f.name} is not for tables; leave it at {default}", value)
    every = config.training.sample_every
    require(every == 0, "training.sample_every draws pictures, and a table has none; leave it at 0", every)
    settings = asdict(config.model) | asdict(config.training)
    sizes = {f.name: settings[f.name] for f in fields(Plan) if f.name in (*MODEL, *TRAINING)}
    sizes = {name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()}
    return replace(plan_for(rows, columns, config.training.steps), **sizes)
