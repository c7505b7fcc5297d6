"""Build a model from settings and data: each part is looked up by its name and built from a blueprint."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from ..data import DATASETS, Dataset, shape_of
from ..decoder import CategoricalDecoder, Decoder, GaussianDecoder
from ..density.build import Form, network, table_model
from ..description import describe
from ..errors import InputError
from ..model import NDM
from ..parts import NETWORKS, PREDICTORS, SCHEDULES, TRANSFORMS
from ..process import ForwardProcess
from ..schedule import LearnedSchedule
from ..support.checks import require
from ..support.outline import outline
from ..support.progress import warn
from ..support.room import memory
from ..symbols import SymbolDecoder, SymbolPredictor
from .plan import plan_of
from .settings import Config, ModelConfig

LARGEST = (2 * 10**4, 10**10)
"""The largest number of tensors in a model that is built from settings, and of elements in all of them, if the memory
holds so many. That there are too many tensors is seen within seconds."""


@dataclass(frozen=True)
class Blueprint:
    """The information from which parts are built; see :class:`ndm.support.blueprint.Blueprint`."""

    settings: ModelConfig
    bound_steps: int | None
    any_eta: bool
    shape: tuple[int, ...]
    levels: int | None
    sequence: bool

    def predictor_network(self, outputs: int) -> nn.Module:
        """A network of (z, t) with the predictor's size and ``outputs`` channels for each channel of z."""
        m = self.settings
        check_depth("depth", m.depth)
        return NETWORKS.find(m.network).build(m, self.shape, outputs, m.width, m.depth, m.dropout, m.fourier)

    def symbol_network(self, outputs: int) -> nn.Module:
        """A network of (z, t) for sequences with the predictor's size and logits for ``outputs`` symbols.

        It reads beliefs, if its builder takes ``beliefs``.
        """
        m = self.settings
        check_depth("depth", m.depth)
        build: Any = NETWORKS.find(m.network).build
        if not takes(build, "outputs"):
            fit = [name for name, network in NETWORKS.items() if takes(network.build, "outputs")]
            raise InputError(f"model.network {m.network} is not for sequences; choose {' or '.join(fit)}")
        options = {name: outputs for name in ("outputs", "beliefs") if takes(build, name)}
        return cast(nn.Module, build(m, self.shape, 1, m.width, m.depth, m.dropout, **options))

    def transform_network(self, outputs: int, timed: bool) -> nn.Module:
        """A network of (x, t), or of x if not ``timed``, with F's size. It has no dropout and no Fourier features."""
        m = self.settings
        check_depth("transform_depth", m.transform_depth)
        size = (m.transform_width, m.transform_depth)
        return NETWORKS.find(m.network).build(m, self.shape, outputs, *size, timed=timed)


def takes(build: Callable[..., nn.Module], option: str) -> bool:
    """Whether the builder of a network takes an option: those of sequences take ``outputs``."""
    return option in inspect.signature(build).parameters


def check_depth(name: str, depth: int) -> None:
    """Refuse a depth at once by which a network has too many tensors: each block has at least four.

    Raises:
        InputError: naming the setting.
    """
    require(4 * depth <= LARGEST[0], f"model.{name} must be at most {LARGEST[0] // 4:,}", depth)


def at_most(most: Sequence[int]) -> tuple[int, int]:
    """The limits ``most``, and no more elements than the memory of this machine holds in float32."""
    tensors, elements = most
    return tensors, min(elements, (memory() or 4 * elements) // 4)


def make_model(config: Config, dataset: Dataset, most: Sequence[int] = LARGEST) -> NDM:
    """The untrained model that a config describes, for a data set; ``most`` is that of :func:`build_model`."""
    if dataset.schema is not None:
        return make_table_model(config, dataset, most)
    if dataset.alphabet:
        return make_text_model(config, dataset, most)
    model = build_model(config, dataset.shape, make_decoder(dataset), most)
    if isinstance(model.predictor, SymbolPredictor):
        model.predictor.start_at(dataset.train)
    return model


def outlined_model(config: Config, dataset: Dataset) -> NDM:
    """The model that a config describes, without memory for its weights.

    The model of a table starts at its rows, and has memory.

    Raises:
        InputError: as :func:`make_model`.
    """
    if dataset.schema is not None:
        return make_model(config, dataset)
    with outline(*at_most(LARGEST)):
        return make_model(config, dataset)


def make_table_model(config: Config, dataset: Dataset, most: Sequence[int] = LARGEST) -> NDM:
    """The untrained model of a table; it starts at the marginal distributions of the training rows.

    Args:
        dataset: the table, with its schema.
        most: that of :func:`build_model`, for the network alone.

    Raises:
        InputError: if the config has a setting that is not for tables, or if the model is too large.
    """
    if dataset.schema is None:
        raise InputError(f"the data set {dataset.name} is no table")
    plan = plan_of(config, *dataset.train.shape)
    check_depth("depth", plan.depth)
    layout = dataset.schema.layout
    numbers, alphabets = len(layout.cells), layout.alphabets
    latents, outputs = numbers + len(alphabets) * plan.dim, numbers + sum(alphabets)
    try:
        with outline(*at_most(most)):
            network(latents, outputs, plan)
            form = form_of(config, numbers)
            if form is not None:
                form.transform()
        return table_model(dataset.train, layout, plan, config.seed, form=form)
    except RuntimeError as error:  # torch's message about sizes that no memory can hold
        raise InputError(f"cannot build the model of these settings: {str(error).splitlines()[0]}") from None


def form_of(config: Config, numbers: int) -> Form | None:
    """The forward process of so many numbers of a table; None for conventional diffusion."""
    m, several = config.model, config.training.eta_range > 1
    if m.transform == "identity" and not (m.predict_curve or m.predict_target):
        return None
    blueprint = Blueprint(m, config.training.bound_steps, several, (numbers,), None, False)
    build = TRANSFORMS.find(m.transform).build
    curve = m.num_basis if m.predict_curve else 0
    return Form(lambda: build(blueprint), m.tied_to, curve, m.predict_target, m.predict_target and several)


def make_text_model(config: Config, dataset: Dataset, most: Sequence[int] = LARGEST) -> NDM:
    """The untrained model of a text; it starts at the frequencies of the characters.

    Args:
        dataset: the text, with its alphabet.
        most: that of :func:`build_model`.

    Raises:
        InputError: if the config has no embedding and no distribution over symbols, or if the model is too large.
    """
    m = config.model
    for name, wanted in (("transform", "embedding"), ("parameterization", "symbols")):
        require(getattr(m, name) == wanted, f"model.{name} of a text must be {wanted}", getattr(m, name))
    decoder = SymbolDecoder(len(dataset.alphabet), dataset.alphabet)
    model = _build(config, (m.dim, *dataset.shape), decoder, most, dataset.shape)
    cast(SymbolPredictor, model.predictor).start_at(dataset.train[:: dataset.shape[0]])
    return model


def told_fourier(config: Config, model: NDM, given: bool) -> Config:
    """The config with the Fourier features that the model of a table has; see :mod:`ndm.density.build`.

    Args:
        given: whether the user gave them; then a warning says that they are not used.
    """
    used = list(model.predictor.net.fourier)  # type: ignore[arg-type]
    if given and used != config.model.fourier:
        warn(f"model.fourier {config.model.fourier} is not used: the rows of this table show no fine structure")
    return replace(config, model=replace(config.model, fourier=used))


def seeded_model(config: Config, dataset: Dataset) -> NDM:
    """The untrained model that a config describes. Its weights depend only on the config's seed."""
    torch.manual_seed(config.seed)
    return make_model(config, dataset)


def make_decoder(dataset: Dataset) -> Decoder:
    """The decoder for a data set's units: categorical for levels, Gaussian for real numbers."""
    if dataset.levels is not None:
        return CategoricalDecoder(dataset.levels)
    return GaussianDecoder(0.0 if dataset.mean is None else dataset.mean, 1.0 if dataset.std is None else dataset.std)


def build_model(config: Config, shape: Sequence[int], decoder: Decoder, most: Sequence[int] = LARGEST) -> NDM:
    """The untrained model that a config describes, for rows of ``shape``.

    Args:
        most: the largest number of tensors in the model, and of elements in all of them; one that is larger is refused
            before it has any memory.

    Raises:
        InputError: if settings contradict each other or do not fit the data, or if the model is too large.
    """
    m, rows = config.model, tuple(shape)
    require(m.uniform == [], "model.uniform is for tables; with other data set it to []", m.uniform)
    symbols = (m.transform == "embedding", m.parameterization == "symbols")
    if not any(symbols):
        require(m.dim == 4, "model.dim is for tables and symbols; with other models set it to 4", m.dim)
        return _build(config, rows, decoder, most)
    if decoder.levels is None:
        raise InputError("model.transform embedding and model.parameterization symbols need levels or text, but these "
                         "data are real numbers; choose others")  # fmt: skip
    require(all(symbols), "model.transform embedding and model.parameterization symbols need each other; set both",
            f"{m.transform} and {m.parameterization}")  # fmt: skip
    decoder = SymbolDecoder(decoder.levels, channels=rows[0])
    return _build(config, (m.dim * rows[0], *rows[1:]), decoder, most, rows)


def _build(
    config: Config, shape: tuple[int, ...], decoder: Decoder, most: Sequence[int], rows: tuple[int, ...] | None = None
) -> NDM:
    """The model, after an outline of it has been found to be small enough.

    Args:
        shape: the shape of a row of latents, as the networks see it.
        rows: the shape of a row of symbols; None if the data are numbers.
    """
    m = config.model
    if m.variance and config.training.bound_steps is None:
        raise InputError("model.variance is trained in discrete time only: set training.bound_steps, e.g. to 10")
    sequence = isinstance(decoder, SymbolDecoder) and not decoder.channels
    several = config.training.eta_range > 1
    blueprint = Blueprint(m, config.training.bound_steps, several, shape, decoder.levels, sequence)
    try:
        with outline(*at_most(most)):
            _assemble(blueprint, decoder, rows)
        model = _assemble(blueprint, decoder, rows)
        for part in (model.process, model.predictor):
            describe(part)  # a part that cannot be saved is refused before anything is trained
        return model
    except RuntimeError as error:  # torch's message about sizes that no memory can hold
        raise InputError(f"cannot build the model of these settings: {str(error).splitlines()[0]}") from None


def _assemble(blueprint: Blueprint, decoder: Decoder, rows: tuple[int, ...] | None) -> NDM:
    m = blueprint.settings
    # The predictor is built first, so that a seed gives it the same weights whatever F is.
    predictor = PREDICTORS.find(m.parameterization).build(blueprint)
    schedule = SCHEDULES.find(m.schedule).build(blueprint)
    transform = TRANSFORMS.find(m.transform).build(blueprint)
    clock = LearnedSchedule(m.gamma_min, m.gamma_max, learned_end=True) if m.learned_eta else None
    return NDM(ForwardProcess(schedule, transform, tied_to=m.tied_to, clock=clock), predictor, decoder, rows)


def count_parameters(config: Config) -> int | None:
    """The number of parameters of a config's model, which is not allocated; None if it depends on the data."""
    shape = shape_of(config.data.name, config.data.size)
    if shape is None:
        return None
    with torch.device("meta"):
        return build_model(config, shape, CategoricalDecoder(DATASETS[config.data.name].levels)).num_parameters
