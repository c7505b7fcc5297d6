"""Several runs: those of equal settings and other seeds are a group, and groups are compared by their seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..data import identity, same_data
from ..evaluation import Protocol, evaluate
from ..experiment.comparison import interval
from ..experiment.differences import difference, with_spread
from ..experiment.push import public_config
from ..experiment.settings import Config, differences
from .charts import Curve, line_chart
from .html import Html, element, figure, joined, note, side_by_side, table
from .kept import curve_of
from .subject import Subject
from .training import positive

FEWEST = 3
"""The fewest validations of each run with which their curves are drawn; else those of training batches are."""
MOST_SETTINGS = 6
"""The most settings that are told as differences of two groups."""


@dataclass(frozen=True)
class Group:
    """Runs of equal settings, on the same data, with other seeds."""

    subjects: tuple[Subject, ...]
    """One for each seed."""

    @property
    def first(self) -> Subject:
        """The run that stands for the group: that of the first seed."""
        return self.subjects[0]

    @property
    def name(self) -> str:
        """The name of the first run, and the seeds if there are several."""
        seeds = [str(subject.run.config.seed) for subject in self.subjects]
        return self.first.name if len(seeds) < 2 else f"{self.first.name} (seeds {', '.join(seeds)})"

    def values(self, estimate: str) -> dict[int, float]:
        """An estimate by seeds."""
        found = {subject.run.config.seed: figures_of(subject).get(estimate) for subject in self.subjects}
        return {seed: value for seed, value in found.items() if value is not None}


def groups_of(subjects: Sequence[Subject]) -> list[Group]:
    """The groups of runs. Of two runs with equal settings and the same seed, the second begins a group of its own."""
    found: list[list[Subject]] = []
    for subject in subjects:
        for group in found:
            seeds = [other.run.config.seed for other in group]
            if same_settings(subject, group[0]) and subject.run.config.seed not in seeds:
                group.append(subject)
                break
        else:
            found.append([subject])
    return [Group(tuple(sorted(group, key=lambda s: s.run.config.seed))) for group in found]


def same_settings(a: Subject, b: Subject) -> bool:
    """Whether two runs differ by nothing but the seed."""
    same = settings_of(a) == settings_of(b) and a.snapshot.step == b.snapshot.step
    return same and same_start(a, b) and same_rows(a, b)


def same_start(a: Subject, b: Subject) -> bool:
    """Whether the training of two runs began with the same weights, apart from the seed."""
    return a.run.config.init == b.run.config.init


def same_rows(a: Subject, b: Subject) -> bool:
    """Whether two runs were trained on the same data."""
    return same_data(identity(a.dataset), identity(b.dataset))


def settings_of(subject: Subject) -> Config:
    """The settings of a run without its seed, its description and the paths of the machine."""
    return replace(public_config(subject.run.config), seed=0, description="")


def figures_of(subject: Subject) -> dict[str, float]:
    """The estimates of a run by names that mean the same in every run, and the bound that the report makes."""
    kept = {
        k.name: float(k.estimate["bpd"]) for k in subject.own_estimates if k.facts.get("weights") == "EMA"
    }  # fmt: skip
    return kept | own_bound(subject)


def own_bound(subject: Subject) -> dict[str, float]:
    """The bound on validation rows by its name, which every run gets here with the same seed; nothing without rows."""
    if not len(subject.dataset.validation):
        return {}
    protocol = Protocol("bound", subject.model.process.schedule.steps, subject.work.passes, seed=subject.seed)
    rows = subject.validation
    name = f"{protocol.name(subject.model.decoder.drawn)}, {len(rows)} validation rows, made for this report"
    if subject.examined:  # the same estimate
        return {name: subject.diagnosis.bound}
    if name not in subject.made:
        subject.made[name] = evaluate(subject.model, rows, protocol).bpd
    return {name: subject.made[name]}


def comparison(groups: Sequence[Group]) -> Html:
    """The groups and what differs between them, the table of their estimates, and their curves."""
    first, unit = groups[0], groups[0].first.dataset.unit
    items = [element("li", element("b", group.name), f": {told(group, first)}") for group in groups]
    parts = [element("ul", *items, class_="advice")]
    names = list(dict.fromkeys(name for group in groups for s in group.subjects for name in figures_of(s)))
    if not all(same_rows(first.first, group.first) for group in groups):
        parts.append(note("The runs were trained on different data, so their estimates stand side by side and are not "
                          "compared."))  # fmt: skip
        header = ["estimate", "unit", *(group.name for group in groups)]
        rows = [row for unit in units_of(groups) for name in names if (row := beside(name, unit, groups)) is not None]
    elif len(groups) == 1:
        header = [f"estimate, {unit}", "mean (s.d. over seeds)", "lowest", "highest", "seeds"]
        rows = []
        for name in names:
            values = list(first.values(name).values())
            rows.append([name, with_spread(values), f"{min(values):.4f}", f"{max(values):.4f}", str(len(values))])
    else:
        header = [f"estimate, {unit}", first.first.name, "other run", "its value", "difference", "reading"]
        rows = [row for name in names for group in groups[1:] if (row := compared(name, first, group)) is not None]
        parts.append(note(
            "A value is the mean over seeds with their standard deviation in brackets. A difference is a mean of those "
            "of runs with the same seed, with the half width of its interval of 95 % by Student's t. A star marks an "
            "interval without zero; of twenty equal pairs, about one gets a star by chance."
        ))  # fmt: skip
    parts.append(table(header, rows, "comparison of the runs"))
    return joined([*parts, curves(groups)])


def told(group: Group, first: Group) -> str:
    """What a group is, or how its settings differ from those of the first group."""
    size = f"{group.first.model.num_parameters:,} parameters, {group.first.snapshot.progress}"
    if group is first:
        return f"{size}; {group.first.run.config.description or 'the first run'}"
    changed = differences(settings_of(first.first), settings_of(group.first))
    words = [f"{name} {new} instead of {old}" for name, (old, new) in changed.items()]
    if not same_start(first.first, group.first):  # without the path
        words.insert(0, "init names other weights")
    more = len(words) - MOST_SETTINGS
    listed = "; ".join(words[:MOST_SETTINGS]) + (f"; and {more} more settings" if more > 0 else "")
    return f"{size}; {listed or 'the settings are those of the first'}"


def cell(values: dict[int, float]) -> str:
    """A mean with its spread, or nothing."""
    return with_spread(list(values.values())) if values else ""


def units_of(groups: Sequence[Group]) -> list[str]:
    """The units of the estimates of groups, each once."""
    return list(dict.fromkeys(group.first.dataset.unit for group in groups))


def beside(name: str, unit: str, groups: Sequence[Group]) -> list[str] | None:
    """The row of an estimate in a unit of groups on different data; None if no group has it."""
    cells = [cell(group.values(name)) if group.first.dataset.unit == unit else "" for group in groups]
    return [name, unit, *cells] if any(cells) else None


def compared(name: str, first: Group, other: Group) -> list[str] | None:
    """The row of an estimate of two groups; None if one of them does not have it."""
    a, b = first.values(name), other.values(name)
    if not a or not b:
        return None
    pairs = [b[seed] - a[seed] for seed in b if seed in a]
    row = [name, cell(a), other.first.name, cell(b)]
    return [*row, difference(pairs) if pairs else "", reading(pairs)]


def reading(pairs: Sequence[float]) -> str:
    """What differences of runs with the same seed say."""
    if len(pairs) < 2:
        return "cannot be said with fewer than two seeds in common"
    mean, half = interval(pairs)
    assert half is not None
    if abs(mean) <= half:
        return "within the spread of the seeds"
    return f"{'lower' if mean < 0 else 'higher'} beyond the spread of the seeds"


def curves(groups: Sequence[Group]) -> Html:
    """The bounds of all runs by steps, and the bits by time of the first run of each group; a chart for each unit."""
    units = units_of(groups)
    parts = []
    for unit in units:
        which = f"every run in {unit}" if len(units) > 1 else "every run"
        colours = {colour: group for colour, group in enumerate(groups) if group.first.dataset.unit == unit}
        parts += [bounds_by_step(colours, unit, which), *bits_by_time(colours, unit)]
    return side_by_side(*parts)


def bounds_by_step(groups: Mapping[int, Group], unit: str, which: str) -> Html:
    """The bounds of all runs of groups, which have colours, by steps."""
    subjects = [subject for group in groups.values() for subject in group.subjects]
    validated = all(len(curve_of(subject.training, "validation_bpd")) >= FEWEST for subject in subjects)
    lines = []
    for colour, group in groups.items():
        for number, subject in enumerate(group.subjects):
            points = curve_of(subject.training, "validation_bpd" if validated else "bpd")
            lines.append(Curve(group.name if number == 0 else "", points, colour))
    log = positive([point for line in lines for point in line.points] or [(0.0, 1.0)])
    rows = "validation rows" if validated else "training batches"
    chart = line_chart(lines, "step", f"bound, {unit}", f"bounds of {which} by step", log=log)
    return figure(chart, f"The bound of {which} on {rows}. Runs of a group have one colour.")


def bits_by_time(groups: Mapping[int, Group], unit: str) -> list[Html]:
    """The bits by time of the first run of each group that has been examined."""
    profiles = []
    for colour, group in groups.items():
        if group.first.examined:
            profile = group.first.diagnosis.profile
            middles = [((k + 0.5) / len(profile), value) for k, value in enumerate(profile)]
            profiles.append(Curve(group.first.name, middles, colour))
    if not profiles:
        return []
    chart = line_chart(profiles, "t", unit, "diffusion term by time", y_range=(0.0, 0.0))
    return [figure(chart, f"The part of the diffusion term from each tenth of time, in {unit}.")]
