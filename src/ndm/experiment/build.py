"""From settings and data to a model: every part is looked up by its name and builds itself from the blueprint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..data import Dataset, shape_of
from ..decoder import CategoricalDecoder, Decoder, GaussianDecoder
from ..errors import InputError
from ..model import NDM
from ..nn import NETWORKS
from ..predictor import PREDICTORS
from ..process import ForwardProcess
from ..schedule import SCHEDULES
from ..support.outline import outline
from ..transform import TRANSFORMS
from .settings import Config, ModelConfig

LARGEST = (10**5, 10**10)
"""The largest number of tensors in a model that is built from settings, and of elements in all of them."""


@dataclass(frozen=True)
class Blueprint:
    """What parts are built from; see :class:`ndm.support.blueprint.Blueprint`."""

    settings: ModelConfig
    bound_steps: int | None
    shape: tuple[int, ...]
    levels: int | None

    def predictor_network(self, outputs: int) -> nn.Module:
        """A network (z, t) of the predictor's size, with ``outputs`` channels for each channel of z."""
        m = self.settings
        return NETWORKS.find(m.network).build(m, self.shape, outputs, m.width, m.depth, m.dropout, m.fourier)

    def transform_network(self, outputs: int, timed: bool) -> nn.Module:
        """A network (x, t), or of x alone, of F's size; it has no dropout and no Fourier features."""
        m = self.settings
        size = (m.transform_width, m.transform_depth)
        return NETWORKS.find(m.network).build(m, self.shape, outputs, *size, timed=timed)


def make_model(config: Config, dataset: Dataset, most: Sequence[int] = LARGEST) -> NDM:
    """The untrained model of a config, for a data set; ``most`` is that of :func:`build_model`."""
    return build_model(config, dataset.shape, make_decoder(dataset), most)


def make_decoder(dataset: Dataset) -> Decoder:
    """The decoder of a data set's units."""
    if dataset.levels is not None:
        return CategoricalDecoder(dataset.levels)
    return GaussianDecoder(0.0 if dataset.mean is None else dataset.mean, 1.0 if dataset.std is None else dataset.std)


def build_model(config: Config, shape: Sequence[int], decoder: Decoder, most: Sequence[int] = LARGEST) -> NDM:
    """The untrained model of a config, for samples of ``shape``.

    Args:
        most: the largest number of tensors in the model, and of elements in all of them; one that is larger is refused
            before it has any memory.

    Raises:
        InputError: if settings do not fit each other or the data, or the model is too large.
    """
    m = config.model
    if m.variance and config.training.bound_steps is None:
        raise InputError("model.variance is trained in discrete time only: set training.bound_steps, e.g. to 10")
    blueprint = Blueprint(m, config.training.bound_steps, tuple(shape), decoder.levels)
    try:
        with outline(*most):
            _assemble(blueprint, decoder)
        return _assemble(blueprint, decoder)
    except RuntimeError as error:  # torch's words for sizes that no memory holds
        raise InputError(f"cannot build the model of these settings: {str(error).splitlines()[0]}") from None


def _assemble(blueprint: Blueprint, decoder: Decoder) -> NDM:
    m = blueprint.settings
    # The predictor first: a seed gives it the same weights whatever F is.
    predictor = PREDICTORS.find(m.parameterization).build(blueprint)
    schedule = SCHEDULES.find(m.schedule).build(blueprint)
    transform = TRANSFORMS.find(m.transform).build(blueprint)
    return NDM(ForwardProcess(schedule, transform, tied_to=m.tied_to), predictor, decoder)


def count_parameters(config: Config) -> int | None:
    """The number of a model's parameters, without allocating it; None if only the data tell the shape of a row."""
    shape = shape_of(config.data.name, config.data.size)
    if shape is None:
        return None
    with torch.device("meta"):
        return build_model(config, shape, CategoricalDecoder(levels=256)).num_parameters
