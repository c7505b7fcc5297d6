"""Evaluating a run: finished pieces are kept in its folder, and so is the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from ..evaluation import Estimate, Protocol, evaluate_all
from ..evaluation.pieces import count_pieces
from ..model import NDM
from ..solvers import SolverError
from ..support.journal import Journal, append_line
from ..support.processes import rank_and_count
from ..support.progress import console
from .run import Run


def evaluate_run(
    run: Run, model: NDM, x: Tensor, protocols: Sequence[Protocol], facts: dict[str, Any]
) -> list[Estimate]:
    """Estimates of a run's model over rows ``x``; the record of them is appended to ``evaluations.jsonl``.

    An evaluation that was interrupted goes on from its finished pieces when it is called again with the same facts and
    protocols. Several processes may call this together, see :func:`ndm.evaluation.evaluate`.

    Args:
        model: the run's model, in evaluation mode.
        facts: what besides the protocols decides the figures: the data, the weights, the precision. They are part of
            the record.

    Raises:
        SolverError: if the solver could not finish some rows.
    """
    rank, _ = rank_and_count()
    question = json.dumps([{**facts, "run": ""}, [asdict(protocol) for protocol in protocols]])
    name = hashlib.sha256(question.encode()).hexdigest()[:12]
    journal = Journal(run.folder / f"evaluation-{name}.partial.jsonl", rank)
    total = sum(count_pieces(protocol, x) for protocol in protocols)

    def say(text: str) -> None:
        if rank == 0:
            console.print(text)

    if journal.pieces:
        say(f"going on from an earlier attempt: {len(journal.pieces)} of {total} pieces are done")
    try:
        estimates = evaluate_all(model, x, protocols, journal)
    except KeyboardInterrupt:
        say(f"interrupted: {len(journal.pieces)} of {total} pieces are kept; the same command goes on")
        raise
    except SolverError:
        journal.read()
        say(f"{len(journal.pieces)} of {total} pieces are done and kept")
        raise
    if rank == 0:
        append_line(run.evaluations_file, {**facts, "estimates": [asdict(estimate) for estimate in estimates]})
        journal.remove()
    return estimates
