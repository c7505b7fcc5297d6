"""The report: the sections of each run, the comparison of several, and the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import InputError
from ..support.progress import phase, progress_bar
from ..version import __version__
from .bound import bits_by_time, doctor
from .columns import marginals, oddest, pairs
from .comparison import comparison, groups_of
from .estimates import estimates
from .html import Html, element, joined, note
from .movement import ode, schedule, transform
from .page import Section, page, write_page
from .samples import samples
from .subject import Subject
from .training import learning_curves, tiles, what

SECTIONS: dict[str, tuple[str, Callable[[Subject], Html], tuple[str, ...]]] = {
    "what": ("Data and model", what, ()),
    "estimates": ("Estimates", estimates, ()),
    "samples": ("Samples", samples, ("image", "points", "text")),
    "columns": ("Columns", marginals, ("table",)),
    "pairs": ("Pairs", pairs, ("table",)),
    "odd": ("Oddest rows", oddest, ("table",)),
    "transform": ("F over time", transform, ("image", "points", "text")),
    "ode": ("Paths of the ODE", ode, ("points",)),
    "curves": ("Learning curves", learning_curves, ()),
    "bits": ("Bits by time", bits_by_time, ()),
    "schedule": ("Schedule", schedule, ()),
    "doctor": ("Doctor", doctor, ()),
}
"""The title and the content of each section, and the kinds of data that have it; none means all."""
DETAILED = 4
"""The most groups of runs of which the sections are shown, so that the page stays small."""


def write_report(subjects: Sequence[Subject], out: Path) -> int:
    """Write the report of one or several runs, whole or not at all.

    Args:
        subjects: the runs, with their models and data.
        out: the file.

    Returns:
        The bytes of the page.

    Raises:
        InputError: if the page is too large.
        OSError: if the file cannot be written.
    """
    groups = groups_of(subjects)
    shown = [group.first for group in groups[:DETAILED]]
    count = sum(len(titles_of(subject)) for subject in shown) + (len(subjects) > 1)
    sections: list[Section] = []
    with progress_bar("making the report", count) as bar:
        for number, subject in enumerate(shown):
            parts = []
            for key, title in titles_of(subject).items():
                with phase(f"{subject.name}: {title}"):
                    content = shown_or_said(SECTIONS[key][1], subject)
                parts.append(Section(f"{key}-{number + 1}", title, content, level=2 + (len(subjects) > 1)))
                bar.advance(bar.task_ids[0])
            if len(subjects) > 1:
                sections.append(Section(f"run-{number + 1}", subject.name, tiles(subject), card=False))
            sections += parts
        if len(subjects) > 1:
            with phase("comparing the runs"):
                content = comparison(groups)
            left = [group.first.name for group in groups[DETAILED:]]
            more = note(f"The sections of these runs are left out: {', '.join(left)}.") if left else None
            sections.insert(0, Section("comparison", "Comparison", joined([content, more])))
            bar.advance(bar.task_ids[0])
    title = shown[0].name if len(subjects) == 1 else f"{len(subjects)} runs compared"
    lead = element("p", f"A report by ndm {__version__}. ", lead_of(subjects), class_="soft")
    if len(subjects) == 1:
        lead = joined([lead, tiles(shown[0])])
    return write_page(out, page(title, lead, sections))


def lead_of(subjects: Sequence[Subject]) -> str:
    """What the report is about, in a sentence."""
    names = ", ".join(dict.fromkeys(subject.dataset.name for subject in subjects))
    return f"Trained on {names}. All draws of this report have the seed {subjects[0].seed}."


def titles_of(subject: Subject) -> dict[str, str]:
    """The sections of a run, by their names."""
    return {key: title for key, (title, _, kinds) in SECTIONS.items() if not kinds or subject.kind in kinds}


def shown_or_said(content: Callable[[Subject], Html], subject: Subject) -> Html:
    """The content of a section, or a line that says why there is none."""
    try:
        return content(subject)
    except InputError as error:
        return note(f"This is not shown: {error}.")
