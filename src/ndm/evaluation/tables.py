"""Results as Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .estimate import Estimate
from .quality import Score


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def estimates_table(estimates: dict[str, list[Estimate]], unit: str = "bits/dim") -> str:
    """A table of the estimates of several models; ``unit`` is the word for the unit of their data's likelihoods."""
    header = ["model", "estimator", unit, "s.e.", "prior", "diffusion", "reconstruction", "NFE", "n", "seconds"]
    rows = []
    for model, items in estimates.items():
        for e in items:
            terms = ["" if v is None else f"{v:.4f}" for v in (e.prior, e.diffusion, e.reconstruction)]
            error = "" if e.standard_error is None else f"{e.standard_error:.3f}"
            apart = e.divergence_nfe is not None and e.divergence_nfe != e.nfe
            nfe = f"{e.nfe:.0f}" + (f" + {e.divergence_nfe:.0f} div" if apart else "")
            rows.append([model, e.estimator, f"{e.bpd:.3f}", error, *terms, nfe, str(e.rows), f"{e.seconds:.1f}"])
    return markdown_table(header, rows)


def rows_table(estimates: dict[str, list[Estimate]]) -> str:
    """A table of the estimates of several models of rows of a table: nats and bits of a row, and bits of a column.

    The standard error is that of the nats of a row.
    """
    header = ["model", "estimator", "-log p, nats/row", "s.e.", "bits/row", "bits/column", "NFE", "n", "seconds"]
    rows = []
    for model, items in estimates.items():
        for e in items:
            # bits/column and nats/row differ by a factor: the number of columns times ln 2.
            columns = e.nats / (e.bpd * math.log(2)) if e.bpd else math.nan
            error = "" if e.standard_error is None else f"{e.standard_error * columns * math.log(2):.3f}"
            bits = f"{e.nats / math.log(2):.3f}"
            work = [f"{e.nfe:.0f}", str(e.rows), f"{e.seconds:.1f}"]
            rows.append([model, e.estimator, f"{e.nats:.3f}", error, bits, f"{e.bpd:.3f}", *work])
    return markdown_table(header, rows)


def scores_table(scores: Sequence[Score]) -> str:
    """A table of the metrics of samples beside those of training rows."""
    rows = []
    for s in scores:
        error = "" if s.standard_error is None else f"{s.standard_error:.3f}"
        rows.append([s.name, f"{s.value:.3f}", error, f"{s.baseline:.3f}", s.direction])
    return markdown_table(["metric", "samples", "s.e.", "training rows", ""], rows)
