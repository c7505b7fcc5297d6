r"""A saved model of a table, with what its columns hold: all that scoring needs.

The score of a row is log p(row) in nats, less :math:`\log(N + 2)` if the row breaks what all N training rows have in
common, by Laplace's rule of succession. A category that no training row has then gives way to the most frequent one.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..density import log_bound, log_density
from ..density.scores import check_distance, rows_to_score
from ..errors import InputError
from ..mixed import MixedDecoder
from ..model import NDM
from ..saving import SCHEMA_CHECKSUM, WEIGHTS_FILE, model_folder
from ..support.weights import read_header
from ..tables import Frame, Schema, kept_schema
from ..tables.schema import MISSING
from .explain import conditional_drops
from .pace import paced, small_parts

MOST = 3
"""The number of columns that explain a row."""


class Scores(NamedTuple):
    """The scores of N rows."""

    log_density: np.ndarray
    """log p of each row in nats, ``(N,)``."""
    columns: np.ndarray
    """The columns that make each row odd, as places in ``TableModel.names``, the worst first, ``(N, M)``; M is 0
    without an explanation, and else at most 3."""
    drops: np.ndarray
    """What each of these columns costs in nats, ``(N, M)``; see :mod:`ndm.scoring.explain`."""


class Reasons(NamedTuple):
    """The columns that make each of N rows odd."""

    columns: np.ndarray
    """The names of the M columns with the largest drops, the worst first, ``(N, M)``; M is at most 3."""
    drops: np.ndarray
    """The drop of each of these columns in nats, ``(N, M)``: how far the log-density of its value, given the other
    columns, lies below what it is on average; see :mod:`ndm.scoring.explain`."""


class TableModel:
    """A model of a table.

    Args:
        model: the model, in evaluation mode.
        schema: what the columns hold.
        rows: the number of training rows.
        seed: seed of the draws, which are the same for all rows.

    Raises:
        InputError: if the model is not one of this table.
    """

    def __init__(self, model: NDM, schema: Schema, rows: int, seed: int = 0) -> None:
        fits = isinstance(model.decoder, MixedDecoder) and model.shape == (len(schema.model_columns),)
        if not fits or model.decoder.alphabets != tuple(count for _, count in schema.categories):
            raise InputError("the model and the schema do not belong together; restore both, or train again")
        self.model, self.schema, self.rows, self.seed = model, schema, rows, seed
        self.names = tuple(dict.fromkeys([*(c.name for c in schema.model_columns), *schema.names]))
        """The columns of the model, and then the others."""
        self.indicated = {column.name: column.name.removesuffix(MISSING) for column in schema.indicators}
        """The column that each column of missing values belongs to."""
        self.most = min(MOST, len({self.indicated.get(c.name, c.name) for c in schema.model_columns}))
        """The number of columns that explain a row."""

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu", seed: int = 0) -> TableModel:
        """The model in a folder, or in the folder of a run.

        Raises:
            InputError: if there is none, it is no model of a table, or the schema beside it is another model's.
        """
        place = model_folder(Path(folder))
        kept = kept_schema(place)
        model = NDM.from_pretrained(place).requires_grad_(False)
        own = read_header(place / WEIGHTS_FILE).metadata.get(SCHEMA_CHECKSUM)
        if own not in (None, kept.checksum):  # the first versions wrote none
            raise InputError(f"{place}: schema.json and model.safetensors do not belong together; restore both files")
        return cls(model.to(device), kept.schema, kept.rows, seed)

    def check(self, frame: Frame) -> None:
        """Refuse rows that cannot be scored, before any work.

        Raises:
            InputError: if columns are missing or additional, or hold what has no density.
        """
        check_distance(self.model, torch.from_numpy(self.schema.encode(frame, unknown="odd")))

    def score(self, frame: Frame, explain: bool = False) -> Scores:
        """The scores of rows.

        Args:
            frame: the rows, with the columns of the training rows in any order.
            explain: whether the columns that make each row odd are found, which takes many log-densities of each row
                (:mod:`ndm.scoring.explain`).

        Raises:
            InputError: if the rows cannot be scored; a :class:`SolverError` if the solver could not finish some.
        """
        rows, broken = rows_to_score(self.model, self.schema, frame), self.schema.broken(frame)
        penalty = math.log(self.rows + 2)
        log_p = self._log_density(rows)
        any_broken = np.any(list(broken.values()), axis=0)
        total = log_p.numpy() - penalty * any_broken
        if not explain:
            return Scores(total, np.zeros((len(total), 0), np.int64), np.zeros((len(total), 0)))
        drops = np.full((len(total), len(self.names)), -np.inf)
        found = conditional_drops(self._quick_density, rows, log_p, self.model, self.schema, self._log_bound)
        drops[:, : rows.shape[1]] = found.numpy()
        numbers = dict(self.schema.numeric)
        for name, where in broken.items():
            place = self.names.index(self.indicated.get(name, name))
            own = drops[where, place]  # a number beside its grid may be far from the others besides
            here = penalty + (own.clip(0) if name in numbers else 0.0)
            drops[where, place] = np.maximum(own, here) if name in self.indicated else here
        for indicator, name in self.indicated.items():  # a value and that it is there are one cause
            if indicator in self.names:
                place, own = self.names.index(name), self.names.index(indicator)
                drops[:, place] = np.maximum(drops[:, place], drops[:, own])
                drops[:, own] = -np.inf
        worst = np.argsort(-drops, axis=1, kind="stable")[:, : self.most]
        return Scores(total, worst, np.take_along_axis(drops, worst, 1))

    def explain(self, frame: Frame, visible: bool = False) -> Reasons:
        """The columns that make rows odd.

        Args:
            frame: as of :meth:`score`.
            visible: whether the progress is shown.

        Raises:
            InputError: as :meth:`score`, before any work.
        """
        self.check(frame)
        found: list[Scores] = []
        done = 0
        with paced("explaining", len(frame), visible) as tell:
            for part in small_parts([frame]):
                found.append(self.score(part, explain=True))
                done += len(part)
                tell(done)
        columns, drops = (np.concatenate(parts) for parts in zip(*(scores[1:] for scores in found), strict=True))
        return Reasons(np.array(self.names, dtype=object)[columns], drops)

    def _log_density(self, rows: Tensor) -> Tensor:
        return log_density(self.model, rows, self.seed)

    def _quick_density(self, rows: Tensor) -> Tensor:
        return log_density(self.model, rows, self.seed, quick=True)

    def _log_bound(self, rows: Tensor) -> Tensor:
        return log_bound(self.model, rows, self.seed)
