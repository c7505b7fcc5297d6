"""The model of a table: its numbers as normal scores, its symbols as points that move.

A column that gets its noise first (:mod:`ndm.density.order`) is learned as a regression, whose error is not much
narrower than the data: there the parameterisation ``score`` learns many times faster than ``v``. Where columns nearly
determine each other, densities are narrow and scores large, and ``v`` is better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..dequantize import Dequantizer
from ..embedding import Embedding
from ..errors import InputError
from ..marginal import Marginals, spread_out
from ..mixed import MixedDecoder, MixedPredictor
from ..model import NDM
from ..nn import MLP
from ..predictor import Parameterization, Predictor
from ..process import ForwardProcess, TiedTo
from ..schedule import LinearSchedule, Schedule
from ..staggered import StaggeredSchedule
from ..tables import Layout
from ..transform import Identity, Transform
from .order import first_column
from .plan import FEW_COLUMNS, FEW_ROWS, Plan


@dataclass(frozen=True)
class Form:
    """The forward process of the numbers of a table, and what is predicted.

    Args:
        transform: makes F.
        tied_to: the time variable of F.
        num_basis, target, value: those of :class:`ndm.Predictor`.
    """

    transform: Callable[[], Transform] = Identity
    tied_to: TiedTo = "time"
    num_basis: int = 0
    target: bool = False
    value: bool = False


def table_models(rows: Tensor, layout: Layout, plan: Plan, seed: int = 0) -> list[NDM]:
    """The untrained models of a table among which rows that do not train should choose.

    Few rows of real numbers may or may not show fine structure: there is a model without Fourier features, and one with
    them. Other tables have one model. The arguments are those of :func:`table_model`.
    """
    usual = table_model(rows, layout, plan, seed)
    if not few_real(rows, layout):
        return [usual]
    wavy = table_model(rows, layout, plan, seed, waves_of_few=True)
    return [usual, wavy] if wavy.predictor.net.fourier else [usual]


def few_real(rows: Tensor, layout: Layout) -> bool:
    """Whether these are few rows, of which most numbers are real."""
    return len(rows) < FEW_ROWS and sum(width > 0 for width in layout.cells) < len(layout.cells) / 2


def table_model(
    rows: Tensor, layout: Layout, plan: Plan, seed: int = 0, waves_of_few: bool = False, form: Form | None = None
) -> NDM:
    """The untrained model of a table. It starts at the marginal distributions of the columns.

    Args:
        rows: the training rows, ``(N, numbers + symbols)``: numbers in their own units, then codes.
        layout: what the columns are.
        plan: the sizes.
        seed: seed of the weights.
        waves_of_few: whether few rows of real numbers have Fourier features, too. Such rows may not show any fine
            structure, and then the network overfits.
        form: the forward process of numbers; without it F is the identity.

    Raises:
        InputError: if there is a form, and the table has categories.
    """
    numbers, alphabets = len(layout.cells), tuple(layout.alphabets)
    places = Dequantizer(numbers, alphabets, layout.cells, layout.spikes, layout.missing)
    grids = layout.cells if layout.grids is None else layout.grids
    if few_real(rows, layout) and not waves_of_few:
        plan = replace(plan, fourier=())
    if form is not None and alphabets:
        raise InputError(
            "F moves the categories of this table, and leaves its numbers: set model.transform to identity"
        )
    known = ~places.is_missing(rows)
    marginals = Marginals.fit(rows[:, :numbers], None, grids, seed, layout.spikes, known)
    decoder = MixedDecoder(marginals, alphabets, layout.cells, layout.spikes, layout.missing)
    torch.manual_seed(seed)
    if not alphabets:
        first = first_column(marginals(spread_out(rows[:, :numbers], grids, seed))[0], seed)
        return NDM(*numbers_model(numbers, first, plan, form or Form()), decoder)
    schedule = LinearSchedule(plan.gamma_min, plan.gamma_max)
    embedding = Embedding(alphabets, plan.dim, numbers=numbers)
    latents = numbers + len(alphabets) * plan.dim
    net = network(latents, numbers + sum(alphabets), plan)
    predictor = MixedPredictor(net, alphabets, numbers)
    predictor.start_at(rows[:, numbers:])
    process = ForwardProcess(schedule, embedding, tied_to="noise")
    return NDM(process, predictor, decoder, shape=(numbers + len(alphabets),))


def numbers_model(columns: int, first: int | None, plan: Plan, form: Form = Form()) -> tuple[ForwardProcess, Predictor]:
    """The process and the predictor of a table of numbers, of which one may get its noise first.

    Many columns have no Fourier features then: they are nearly independent, and the first one is a smooth function.
    """
    if first is not None and columns > FEW_COLUMNS:
        plan = replace(plan, fourier=())
    net = network(columns, columns * (1 + form.num_basis + form.value), plan)
    schedule: Schedule = LinearSchedule(plan.gamma_min, plan.gamma_max)
    if first is not None:
        starts = [0.0 if j == first else 0.5 for j in range(columns)]
        schedule = StaggeredSchedule(plan.gamma_min, plan.gamma_max, starts, 0.5)
    process = ForwardProcess(schedule, form.transform(), tied_to=form.tied_to)
    kind: Parameterization = "v" if first is None else "score"
    return process, Predictor(net, kind, form.num_basis, target=form.target, value=form.value)


def network(latents: int, outputs: int, plan: Plan) -> MLP:
    """The predictor's network, whose Fourier features are damped by the noise: undamped ones make rough fields."""
    return MLP(
        (latents,), width=plan.width, depth=plan.depth, dropout=plan.dropout, fourier=plan.fourier, outputs=outputs,
        uniform=plan.uniform, damped=bool(plan.fourier),
    )  # fmt: skip
