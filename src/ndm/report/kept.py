"""What a run's folder has: estimates of the likelihood, metrics of samples, and the figures of training.

The files may be anyone's. What is no result, and every figure that is no finite number, is passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..experiment import Run
from ..support.journal import read_lines

LARGEST = 1e300
"""Larger numbers are no figures. Whole numbers in JSON have no limit, and floats do."""


class Kept(NamedTuple):
    """An estimate of the likelihood, with the facts of the evaluation that made it."""

    facts: dict[str, Any]
    estimate: dict[str, Any]

    @property
    def name(self) -> str:
        """The estimator and the rows: estimates with the same name may be compared."""
        rows = self.estimate.get("rows", self.facts.get("rows", "?"))
        return f"{self.estimate['estimator']}, {rows} {self.facts.get('split', '?')} rows"


class Metrics(NamedTuple):
    """The metrics of samples, and how the samples were drawn."""

    how: str
    rows: Any
    """The number of samples."""
    scores: list[dict[str, Any]]


def kept_estimates(run: Run) -> list[Kept]:
    """The estimates in a run's ``evaluations.jsonl``; of those made twice in the same way, the last one.

    Raises:
        InputError: if the file cannot be read.
    """
    found: dict[tuple[str, ...], Kept] = {}
    for record in read_lines(run.evaluations_file, lambda line: isinstance(line, dict) and "estimates" in line):
        facts = {key: value for key, value in record.items() if key != "estimates"}
        for estimate in dictionaries(record["estimates"]):
            if is_number(estimate.get("bpd")) and "estimator" in estimate:
                kept = Kept(facts, estimate)
                names = ("step", "weights", "weights_sha256", "dtype", "data")
                key = (kept.name, estimate.get("seed"), *(facts.get(name) for name in names))
                found[tuple(map(str, key))] = kept
    return list(found.values())


def kept_metrics(run: Run) -> list[Metrics]:
    """The metrics in a run's ``qualities.jsonl``; of samples drawn in the same way, the last ones.

    Raises:
        InputError: if the file cannot be read.
    """
    found = {}
    for record in read_lines(run.qualities_file, lambda line: isinstance(line, dict) and "scores" in line):
        how = ", ".join(f"{key} {record[key]}" for key in ("solver", "steps", "samples", "step") if key in record)
        scores = [score for score in dictionaries(record["scores"]) if is_number(score.get("value"))]
        found[how] = Metrics(how, record.get("rows", "?"), scores)
    return list(found.values())


def curve_of(records: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    """One figure of ``metrics.jsonl`` by steps."""
    pairs: list[tuple[Any, Any]] = [(record["step"], record.get(name)) for record in records]
    return [(float(step), float(value)) for step, value in pairs if is_number(step) and is_number(value)]


def dictionaries(values: Any) -> list[dict[str, Any]]:
    """The dictionaries of a list; none if it is no list."""
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST
