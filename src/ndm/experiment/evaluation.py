"""Evaluate a run. Its folder keeps finished pieces of the evaluation, and the result."""

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
    """Estimate the likelihood of rows ``x`` by a run's model, and append the result to ``evaluations.jsonl``.

    If an evaluation was interrupted, a call with the same facts and protocols continues from the finished pieces.
    Several processes may call this together; see :func:`ndm.evaluation.evaluate`.

    Args:
        model: the run's model, in evaluation mode.
        facts: everything besides the protocols that decides the figures: the data, the weights and the precision. They
            are recorded with the result.

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
        say(f"interrupted: {len(journal.pieces)} of {total} pieces are kept; give the same command again to go on")
        raise
    except SolverError:
        journal.read()
        say(f"{len(journal.pieces)} of {total} pieces are done and kept")
        raise
    if rank == 0:
        append_line(run.evaluations_file, {**facts, "estimates": [asdict(estimate) for estimate in estimates]})
        journal.remove()
    return estimates
