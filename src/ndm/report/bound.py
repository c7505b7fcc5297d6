"""Where in time the bound is spent, and what ``ndm doctor`` says."""

from __future__ import annotations

from ..evaluation.diagnosis import BINS, report
from .charts import Curve, bar_chart, line_chart
from .html import Html, details, element, figure, joined, note, side_by_side
from .subject import Subject

PASSES = 30
"""The passes of ``ndm doctor``."""


def bits_by_time(subject: Subject) -> Html:
    """The terms of the bound, and the part of the diffusion term from each tenth of time."""
    d = subject.diagnosis
    terms = [(name, getattr(d, name), getattr(d, f"{name}_error")) for name in ("prior", "diffusion", "reconstruction")]
    times = [
        (f"{k / BINS:.1f}", value, error)
        for k, (value, error) in enumerate(zip(d.profile, d.profile_error, strict=True))
    ]
    error = "" if d.bound_error is None else f" ± {d.bound_error:.4f}"
    steps = subject.model.process.schedule.steps
    name = "continuous time" if steps is None else f"T={steps}"
    return side_by_side(
        figure(bar_chart(terms, "", d.unit, "terms of the bound"),
               f"The terms of the bound ({name}): {d.bound:.4f}{error} {d.unit} on {d.rows} validation rows, "
               f"{d.passes} passes. The lines are standard errors over rows."),
        figure(bar_chart(times, f"t, from this time on for 1/{BINS}", d.unit, "diffusion term by time"),
               f"The part of the diffusion term that comes from each tenth of time, from data at t = 0 to noise at "
               f"t = 1, in {d.unit}."),
    )  # fmt: skip


def doctor(subject: Subject) -> Html:
    """The advice, the steepness of the ODE, how far F moves, and the whole report as text."""
    d = subject.diagnosis
    advice = element("ul", *(element("li", sentence) for sentence in d.advice), class_="advice")
    charts = []
    if d.lipschitz:
        norms = [(k / 10, value) for k, value in enumerate(d.lipschitz)]
        cost = (
            "" if d.nfe is None else f" A solve takes {d.nfe:.0f} evaluations for a row, and at most {d.nfe_max:.0f}."
        )
        chart = line_chart([Curve("", norms)], "t", "norm", "norm of the Jacobian of the ODE's field by time", log=True)
        charts.append(figure(chart, f"The largest norm of the Jacobian of the ODE's field.{cost}"))
    if d.motion is not None:
        distances = [(k / 10, value) for k, value in enumerate(d.motion.distance)]
        chart = line_chart([Curve("", distances)], "t", "distance", "distance that F moves by time")
        charts.append(figure(chart, "How far F moves the data, in standard deviations of the noise."))
    remarks = []
    if not subject.model.has_ode:
        remarks.append("This model has no ODE, so the doctor examines the bound alone.")
    elif not subject.work.solves:
        remarks.append("The ODE of this model takes long, so it is left out here; ndm doctor examines it.")
    if subject.work.passes < PASSES:
        remarks.append("The model is large, so fewer rows and passes than those of ndm doctor are examined.")
    return joined([
        advice, *map(note, remarks), side_by_side(*charts) if charts else None,
        details("The whole report of ndm doctor", element("pre", report(d))),
    ])  # fmt: skip
