"""Evaluate a run. Its folder keeps finished pieces of the evaluation, and the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data import Dataset
from ..errors import InputError
from ..evaluation import Estimate, Protocol, evaluate_all
from ..evaluation.pieces import count_pieces
from ..model import NDM
from ..saving import weights_checksum
from ..solvers import SolverError
from ..support.journal import Journal
from ..support.lock import Busy, Lock
from ..support.processes import failing_together, rank_and_count
from ..support.progress import console, warn
from .results import check_finite, warn_not_written, warn_unless_writable
from .run import Run
from .snapshot import Snapshot


class Pieces(Journal):
    """A journal that goes on in memory, with one warning, if its file can no longer be written."""

    def __setitem__(self, name: str, value: Any) -> None:
        try:
            super().__setitem__(name, value)
        except (OSError, InputError) as error:
            if self.path is not None:
                warn_not_written(self.path, error)
            self.path = None


def facts_of(
    run: Run, dataset: Dataset, snapshot: Snapshot, split: str, dtype: str = "float32", checkpoint: str | None = None
) -> dict[str, Any]:
    """What is recorded with an estimate of a run's model: the data, the weights and the precision.

    Args:
        snapshot: the model and the step of its weights.
        split: the rows, such as ``test``.
        dtype: the precision of the estimate.
        checkpoint: the checkpoint of the weights, if they are not those of the finished model.
    """
    return run.facts(dataset, snapshot) | {
        "split": split,
        "dtype": dtype,
        "parameters": snapshot.model.num_parameters,
        "weights": "EMA" if checkpoint is None else f"EMA (checkpoint {checkpoint})",
        "weights_sha256": weights_checksum(snapshot.model),
        "entropy_nats": dataset.distribution.entropy() if dataset.distribution else None,
    }


def evaluate_run(
    run: Run, model: NDM, x: Tensor, protocols: Sequence[Protocol], facts: dict[str, Any]
) -> list[Estimate]:
    """Estimate the likelihood of rows ``x`` by a run's model, and append the result to ``evaluations.jsonl``.

    If an evaluation was interrupted, a call with the same facts and protocols continues from the finished pieces.
    Several processes may call this together; see :func:`ndm.evaluation.evaluate`. If the run's folder cannot be
    written, a warning says so and the estimates are still returned.

    Args:
        model: the run's model, in evaluation mode.
        facts: everything besides the protocols and the number of rows that decides the figures, see :func:`facts_of`.
            They are recorded with the result.

    Raises:
        InputError: if another process computes the same estimates for this run, or if an estimate is not finite.
        SolverError: if the solver could not finish some rows.
    """
    rank, count = rank_and_count()
    facts = {**facts, "rows": len(x)}
    question = json.dumps([{**facts, "run": ""}, [asdict(protocol) for protocol in protocols]])
    name = hashlib.sha256(question.encode()).hexdigest()[:12]
    if not warn_unless_writable(run.folder):  # only the first process prints warnings
        return _evaluate(run, model, x, protocols, facts, Journal())
    lock = Lock(run.folder / f".evaluation-{name}.lock", "evaluated in the same way", "wait for its result")
    with ExitStack() as stack:
        try:
            with failing_together():
                if rank == 0:
                    stack.enter_context(lock)
        except Busy:
            raise
        except InputError as error:  # such as a full disk
            if count > 1:
                raise
            warn(f"{error}; the result is printed, and not kept")
            return _evaluate(run, model, x, protocols, facts, Journal())
        return _evaluate(run, model, x, protocols, facts, Pieces(_file(run, name), rank))


def _file(run: Run, name: str) -> Path:
    return run.folder / f"evaluation-{name}.partial.jsonl"


def _evaluate(
    run: Run, model: NDM, x: Tensor, protocols: Sequence[Protocol], facts: dict[str, Any], journal: Journal
) -> list[Estimate]:
    """Evaluate with the pieces of a journal; the first process keeps the result."""
    rank, _ = rank_and_count()
    stamp, total = run.stamp, sum(count_pieces(protocol, x) for protocol in protocols)

    def say(text: str) -> None:
        if rank == 0:
            console.print(text)

    kept = "kept" if journal.path else "lost"
    if journal.pieces:
        say(f"going on from an earlier attempt: {len(journal.pieces)} of {total} pieces are done")
    try:
        estimates = evaluate_all(model, x, protocols, journal)
    except KeyboardInterrupt:
        again = "; give the same command again to go on" if journal.path else ""
        say(f"interrupted: {len(journal.pieces)} of {total} pieces are {kept}{again}")
        raise
    except SolverError:
        journal.read()
        say(f"{len(journal.pieces)} of {total} pieces are done and {kept}")
        raise
    if rank == 0:
        result = {**facts, "estimates": [asdict(estimate) for estimate in estimates]}
        check_finite(result)
        if run.keep(run.evaluations_file, result, stamp):
            journal.remove()
    return estimates
