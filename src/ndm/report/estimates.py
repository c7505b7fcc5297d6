"""Every estimate that a run's folder has: likelihoods with estimator and error, and metrics of samples."""

from __future__ import annotations

from typing import Any

from ..support.program import command
from .html import Html, head, joined, note, table
from .kept import is_number
from .subject import Subject

OTHER = " (not the weights of this report)"
"""What the table says of an estimate of other weights, or of unknown ones."""


def best_estimate(subject: Subject) -> tuple[str, str] | None:
    """The newest bound of test rows as a number and words, else any other estimate; None if there is none.

    Only estimates of the weights that are reported on count.
    """
    kept = sorted(
        subject.own_estimates,
        key=lambda k: (k.facts.get("split") == "test", "continuous" in str(k.estimate["estimator"])),
    )
    if not kept:
        return None
    estimate = kept[-1].estimate
    return (
        f"{estimate['bpd']:.3f}{plus_minus(estimate.get('standard_error'))}",
        f"{subject.dataset.unit}, {kept[-1].name}",
    )


def plus_minus(error: Any) -> str:
    """A standard error behind a number, or nothing."""
    return f" ± {error:.3f}" if is_number(error) else ""


def estimates(subject: Subject) -> Html:
    """The estimates of the likelihood and the metrics of samples that the run's folder has."""
    return joined([likelihoods(subject), *qualities(subject)])


def likelihoods(subject: Subject) -> Html:
    """A table of the estimates of the likelihood."""
    kept = subject.estimates
    if not kept:
        return note(
            "The run has no estimates of the likelihood yet. This command makes them: "
            + command(f"evaluate {subject.name}")
        )
    unit, own = subject.dataset.unit, subject.own_estimates
    header = ["estimator", unit, "s.e.", "nats per row", "rows", "draws", "NFE", "step", "weights", "seed"]
    rows = [
        [
            str(e["estimator"]), number(e["bpd"]), number(e.get("standard_error")), number(e.get("nats")),
            f"{e.get('rows', '?')} {facts.get('split', '')}", text(e.get("samples")), number(e.get("nfe"), 0),
            text(facts.get("step")),
            f"{text(facts.get('weights'))}, {text(facts.get('dtype'))}{'' if (facts, e) in own else OTHER}",
            text(e.get("seed")),
        ]
        for facts, e in kept
    ]  # fmt: skip
    words = (
        "A bound is at least the negative log-likelihood, apart from its error. For a non-linear F, the ODE is another "
        "model than the one of the bound. s.e. is the standard error over rows and draws, and NFE the number of "
        "evaluations of the network for a row."
    )
    entropy = next((f["entropy_nats"] for f, _ in kept if is_number(f.get("entropy_nats"))), None)
    if entropy is not None:
        words += f" The entropy of the data is {entropy:.3f} nats per row. The best model would reach it."
    return joined([table(header, rows, "estimates of the likelihood"), note(words)])


def qualities(subject: Subject) -> list[Html]:
    """Tables of the metrics of samples, the newest result of each way to draw them."""
    parts = []
    for how, count, scores in subject.metrics:
        rows = [
            [text(s.get("name")), number(s["value"]), number(s.get("standard_error")), number(s.get("baseline")),
             text(s.get("direction"))]
            for s in scores
        ]  # fmt: skip
        header = ["metric", "samples", "s.e.", "training rows", "reading"]
        parts += [
            head(f"Metrics of {count} samples ({how})"),
            table(header, rows, "metrics of samples"),
        ]
    if parts:
        parts.append(note("The column of training rows has the score of as many training rows in the place of samples. "
                          "A perfect sampler would have about this score."))  # fmt: skip
    return parts


def number(value: Any, digits: int = 3) -> str:
    """A number in a table; empty if it is none."""
    return f"{value:,.{digits}f}" if is_number(value) else ""


def text(value: Any) -> str:
    """Any value in a table; empty if it is None."""
    return "" if value is None else str(value)
