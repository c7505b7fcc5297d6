"""``NeuralDiffusionDensity``: the density of a table as an estimator of scikit-learn."""

from __future__ import annotations

import copy
import math
import os
import threading
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ..data import Dataset
from ..errors import InputError
from ..model import NDM
from ..sampling import sample
from ..saving import load_from_memory, save_in_memory
from ..support.checks import require, require_count, require_number, shown
from ..support.tensors import gradients, undisturbed
from ..tables import Frame, Schema
from ..training import TrainingConfig
from .build import table_model, table_models
from .fitting import fit_best
from .plan import FEWEST_VALIDATED, PATIENCE, plan_for
from .scores import log_density, rows_to_score

if TYPE_CHECKING:
    from ..scoring import Reasons

THRESHOLD_ROWS = 300
"""The most rows whose scores set the threshold of outliers. Those that validate come first: a model finds the rows that
trained it more ordinary than others."""
FITTING = threading.Lock()
"""One fit at a time: dropout draws from torch's global random numbers, which threads share."""


def _new_lock() -> None:
    global FITTING
    FITTING = threading.Lock()


if hasattr(os, "register_at_fork"):  # the thread that holds the lock is not in the child, and would never release it
    os.register_at_fork(after_in_child=_new_lock)


@dataclass
class Threshold:
    """The score that a share of the training rows does not reach.

    Args:
        rows: some training rows, encoded.
        share: the share.
        value: the score, once it is computed.
    """

    rows: np.ndarray
    share: float
    value: float | None = None


class NeuralDiffusionDensity(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """The density of a table: exact log-likelihoods, odd rows, new rows.

    A neural diffusion model of rows with numbers (densities), rounded numbers, counts and categories (probabilities).
    Nothing has to be tuned: the model, its width, the number of steps and when to stop follow from the rows.

    Args:
        columns: the kinds of some columns, ``{"age": "quantised"}``: real, quantised, count, date or category. The
            kinds of the others are found out; ``schema_.describe()`` shows them.
        impute: whether rows with missing numbers are used: the model then says where they are missing, and the density
            of a row is that of what it has. Otherwise they are refused.
        contamination: the share of training rows that ``predict`` calls outliers, in (0, 0.5].
        validation_fraction: the share of the rows that decides when training stops. Below 200 rows, none validates.
        max_steps: the most training steps; None follows from the number of rows.
        max_time: the most seconds of training; None is no limit.
        warm_start: whether ``fit`` goes on from the model of the last ``fit``, with its columns.
        device: cpu, cuda, mps, or auto, which takes a GPU if there is one.
        random_state: seed of the split, the weights, training and scores; None draws one.
        verbose: 1 shows a progress bar, or lines without a terminal.

    Attributes:
        schema_: what the columns hold (:class:`ndm.tables.Schema`).
        model_: the model (:class:`ndm.NDM`) of the rows that ``schema_`` encodes.
        history_: what training of this model reported, a list of dictionaries.
        offset_: the score below which ``predict`` calls a row an outlier.
        n_features_in_: the number of columns, as in scikit-learn.
        feature_names_in_: the names of the columns, as in scikit-learn.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(100, 2))
        >>> density = ndm.NeuralDiffusionDensity(max_steps=20, random_state=0).fit(x)
        >>> density.score_samples(x[:3]).shape
        (3,)
    """

    schema_: Schema
    model_: NDM
    history_: list[dict[str, Any]]
    threshold_: Threshold
    _quick = False
    """Whether training is short, and of one model where a table may need either of two."""

    def __init__(
        self,
        *,
        columns: Any = None,
        impute: bool = False,
        contamination: float = 0.1,
        validation_fraction: float = 0.1,
        max_steps: int | None = None,
        max_time: float | None = None,
        warm_start: bool = False,
        device: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.columns = columns
        self.impute = impute
        self.contamination = contamination
        self.validation_fraction = validation_fraction
        self.max_steps = max_steps
        self.max_time = max_time
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> NeuralDiffusionDensity:
        """Learn the density of the rows.

        Args:
            X: a table: a dataframe of pandas or polars, a pyarrow table, an array or a list of rows.
            y: ignored.

        Raises:
            InputError: if the table cannot be used, with the column and what to do.
        """
        self._check()
        before = dict(self.__dict__)
        try:
            with FITTING:
                self._fit(X)
        except BaseException:  # also Ctrl-C: the estimator is what it was
            self.__dict__ = before
            raise
        return self

    @undisturbed()
    @gradients()
    def _fit(self, X: Any) -> None:
        frame = Frame.of(X)
        again = self.warm_start and hasattr(self, "model_")
        schema = self.schema_ if again else Schema.fit(frame, self.columns, self.impute)
        if again and schema.violations(frame).any():
            raise InputError(
                "warm_start keeps the columns of the first fit, but some rows break what all its rows had in common "
                "(such as the value of a constant column, or that no value is missing); set warm_start=False"
            )
        schema = schema.widened(frame) if again else schema
        rows = torch.from_numpy(schema.encode(frame))
        seed = drawn_seed(self.random_state)
        training, validation = self._split(rows, seed)
        plan = plan_for(len(training), rows.shape[1], self.max_steps, bool(schema.categories), self._quick)
        stops = len(validation) > 0
        settings = TrainingConfig(
            steps=plan.steps, batch_size=plan.batch_size, learning_rate=plan.learning_rate,
            evaluate_every=plan.evaluate_every * stops, patience=PATIENCE * stops, max_seconds=self.max_time,
        )  # fmt: skip
        dataset = Dataset("table", training, validation, validation, schema=schema)
        device = self._device()
        forked = torch.random.fork_rng(devices=[torch.device(device)] if device.startswith("cuda") else [])
        with forked:
            if again:
                models = [copy.deepcopy(self.model_)]
            elif stops and not self._quick:
                models = table_models(training, schema.layout, plan, seed)
            else:
                models = [table_model(training, schema.layout, plan, seed)]
            fitted = fit_best(models, dataset, settings, seed, device, bool(self.verbose))
        self.model_, self.history_ = fitted
        self.schema_ = schema
        self.seed_ = seed
        self.n_rows_ = len(rows)
        self.n_features_in_ = len(frame.names)
        if not again:
            self._keep_names(X, frame)
        self._compare(rows, validation)
        self.threshold_ = Threshold(torch.cat([validation, training])[:THRESHOLD_ROWS].numpy(), self.contamination)

    def _keep_names(self, X: Any, frame: Frame) -> None:
        if all(isinstance(name, str) for name in getattr(X, "columns", [0])):
            self.feature_names_in_ = np.array(frame.names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def score_samples(self, X: Any) -> np.ndarray:
        """log p of each row in nats, ``(N,)``: densities in the columns' own units, probabilities of discrete columns.

        A row that breaks what all training rows have in common (a category that none has, another value in a constant
        column) gets log 1/(N + 2) for it, by Laplace's rule of succession, and the most frequent category in its place.
        """
        with undisturbed():
            return self._score_rows(*self._rows(X))

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of :meth:`score_samples`."""
        return float(self.score_samples(X).mean())

    @property
    def offset_(self) -> float:
        """The score below which ``predict`` calls a row an outlier; the first use computes it, which takes seconds."""
        check_is_fitted(self)
        threshold = self.threshold_
        if threshold.value is None:
            rows = torch.from_numpy(threshold.rows)
            with undisturbed():
                scores = self._score_rows(rows, np.zeros(len(rows), bool))
            threshold.value = float(np.quantile(scores, threshold.share))
        return threshold.value

    def decision_function(self, X: Any) -> np.ndarray:
        """:meth:`score_samples` less the threshold: negative for outliers, ``(N,)``."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """1 for ordinary rows and -1 for outliers, ``(N,)``."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """New rows, as the kind of table that was given to ``fit``.

        Args:
            n_samples: how many rows.
            random_state: seed; None is the estimator's, which gives the same rows at each call if it is a number.
        """
        check_is_fitted(self)
        require_count(n_samples=n_samples)
        state = self.random_state if random_state is None else random_state
        seed = drawn_seed(state)
        with undisturbed(), torch.no_grad():
            rows = sample(self.model_, n_samples, steps=100, generator=torch.Generator().manual_seed(seed))
        return self.schema_.decode(rows.double().numpy()).native()

    def explain(self, X: Any) -> Reasons:
        """The columns that make each row odd by its log-density, and their drops in nats, at most ``(N, 3)`` each.

        Where there are many columns, a row takes seconds, so explain the rows that matter (:mod:`ndm.scoring.explain`).

        Raises:
            InputError: if the rows cannot be scored, before any work.

        Example:
            >>> import numpy as np
            >>> x = np.random.default_rng(0).normal(size=(100, 2))
            >>> density = ndm.NeuralDiffusionDensity(max_steps=20, random_state=0).fit(x)
            >>> density.explain([[0.0, 9.0]]).columns[0, 0]
            'x1'
        """
        from ..scoring import TableModel

        check_is_fitted(self)
        with undisturbed():
            model = TableModel(self.model_, self.schema_, self.n_rows_, self.seed_)
            return model.explain(Frame.of(X), bool(self.verbose))

    def _check(self) -> None:
        for name, value in (("impute", self.impute), ("warm_start", self.warm_start)):
            require(isinstance(value, (bool, np.bool_)), f"{name} must be True or False", value)
        require(isinstance(self.device, (str, torch.device)), "device must be a name such as 'cpu'", self.device)
        checked_state(self.random_state)
        require_number(contamination=self.contamination, validation_fraction=self.validation_fraction)
        require(0 < self.contamination <= 0.5, "contamination must be in (0, 0.5]", self.contamination)
        fraction = self.validation_fraction
        require(0 <= fraction < 1, "validation_fraction must be in [0, 1)", fraction)
        verbose = self.verbose
        loud = isinstance(verbose, (bool, np.bool_, Integral)) and verbose >= 0
        require(loud, "verbose must be True, False or a whole number", shown(repr(verbose)))
        if self.max_steps is not None:
            require_count(max_steps=self.max_steps)
        if self.max_time is not None:
            require_number(max_time=self.max_time)
            require(self.max_time > 0, "max_time must be positive", self.max_time)

    def _device(self) -> str:
        from ..support.devices import select_device

        return select_device(str(self.device))

    def _split(self, rows: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Training and validation rows."""
        share = self.validation_fraction if len(rows) >= FEWEST_VALIDATED else 0.0
        count = min(int(len(rows) * share), len(rows) - 1)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        validating = torch.zeros(len(rows), dtype=torch.bool)
        validating[order[:count]] = True
        training = rows[~validating]
        # A column must not be constant in the rows that train because its only other values validate.
        constant = (training == training[:1]).all(0) & ~(rows == rows[:1]).all(0)
        validating &= (rows == training[0])[:, constant].all(1)
        return rows[order[~validating[order]]], rows[order[validating[order]]]

    def _rows(self, X: Any) -> tuple[torch.Tensor, np.ndarray]:
        check_is_fitted(self)
        frame = Frame.of(X)
        return rows_to_score(self.model_, self.schema_, frame), self.schema_.violations(frame)

    def _compare(self, rows: torch.Tensor, held_out: torch.Tensor) -> None:
        """Learn what scores need besides the model from all rows, of which ``held_out`` did not train."""

    def _score_rows(self, rows: torch.Tensor, broken: np.ndarray) -> np.ndarray:
        """Scores of encoded rows, of which some break what all training rows have in common."""
        return log_density(self.model_, rows, self.seed_).numpy() - broken * math.log(self.n_rows_ + 2)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        model = state.pop("model_", None)
        if model is not None:
            state["model_files"] = save_in_memory(model)
        if "schema_" in state:
            state["schema_"] = state["schema_"].to_json()
        return state

    @undisturbed()
    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        files = state.pop("model_files", None)
        if "schema_" in state:
            state["schema_"] = Schema.from_json(state["schema_"])
        super().__setstate__(state)
        if files is not None:
            self.model_ = load_from_memory(files).requires_grad_(False)


def checked_state(state: Any) -> np.random.RandomState:
    """Random numbers of NumPy from a seed or from themselves; nothing is drawn.

    Raises:
        InputError: if the seed is none.
    """
    try:
        return check_random_state(state)
    except ValueError:
        rule = "random_state must be None, a whole number in [0, 2^32) or a RandomState of NumPy"
        raise InputError(f"{rule}, got {shown(repr(state))}") from None


def drawn_seed(state: Any) -> int:
    """A seed that is drawn from these random numbers."""
    return int(checked_state(state).randint(2**31 - 1))
