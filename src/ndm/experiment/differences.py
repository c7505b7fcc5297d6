"""The tables and the figure of a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from ..evaluation.canvas import FONT, drawing
from ..evaluation.figures import name_axes, put_title
from ..evaluation.tables import markdown_table
from .comparison import ODE, QUALITY, figures_of, interval

Records = Mapping[tuple[str, int], Mapping[str, Any]]


def by_variant(records: Records) -> dict[str, dict[int, dict[str, float]]]:
    """The figures of every variant and seed."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for (variant, seed), record in records.items():
        found.setdefault(variant, {})[seed] = figures_of(dict(record))
    return found


def rows_of(records: Records, first: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the table: a column for each variant, and a row for each figure.

    For the first variant a cell is the mean over seeds with the standard deviation over them. For the others it is the
    mean of the differences to the first, each of the same seed, with its interval of 95 %. A star marks an interval
    without zero.
    """
    runs, columns = by_variant(records), []
    names = varying([figures for seeds in runs.values() for figures in seeds.values()])
    base = {seed: record for (variant, seed), record in records.items() if variant == first}
    for variant, seeds in runs.items():
        own = [record for (name, _), record in records.items() if name == variant]
        flops = [r["flops"] / base[r["seed"]]["flops"] for r in own if r["seed"] in base]
        seconds = sum(r["train_seconds"] for r in own) / len(own)
        cells = [variant, str(len(seeds)), str(own[0]["width"]), f"{own[0]['parameters']:,}"]
        cells += [f"{sum(flops) / len(flops):.2f}" if flops else "", f"{seconds:.0f}"]
        cells += [figure_of(name, seeds, None if variant == first else runs.get(first, {})) for name in names]
        columns.append(cells)
    count = max((record.get("ode_rows", 0) for record in records.values()), default=0)
    labels = [f"{name}, {count} rows" if name == ODE and count else name for name in names]
    sides = ["", "seeds", "width", "parameters", "operations", "seconds of training", *labels]
    header, *rows = [list(line) for line in zip(sides, *columns, strict=True)]
    return header, rows


def varying(runs: Sequence[Mapping[str, float]]) -> list[str]:
    """The names of the figures of runs, without those that all runs have in common: they tell nothing apart."""
    names = dict.fromkeys(name for figures in runs for name in figures)
    return [name for name in names if len(runs) == 1 or len({figures.get(name) for figures in runs}) > 1]


def figure_of(
    name: str, seeds: Mapping[int, Mapping[str, float]], first: Mapping[int, Mapping[str, float]] | None
) -> str:
    """The cell of a figure; ``first`` has those of the first variant, if this is another one."""
    values = {seed: figures[name] for seed, figures in seeds.items() if name in figures}
    if first is None:
        return with_spread(list(values.values())) if values else ""
    pairs = [value - first[seed][name] for seed, value in values.items() if name in first.get(seed, {})]
    return difference(pairs) if pairs else ""


def with_spread(values: Sequence[float]) -> str:
    """A mean and the standard deviation."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.4f}"
    return f"{mean:.4f} ({math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)):.4f})"


def difference(pairs: Sequence[float]) -> str:
    """A mean difference with its interval, and a star if zero is outside of it."""
    mean, half = interval(pairs)
    if half is None:
        return f"{mean:+.4f}"
    return f"{mean:+.4f} ± {half:.4f}" + ("*" if abs(mean) > half else "")


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for LaTeX with the package booktabs."""

    def line(cells: Sequence[str]) -> str:
        texts = [cell.replace("_", r"\_").replace("±", r"$\pm$").replace("%", r"\%") for cell in cells]
        return " & ".join(texts) + r" \\"

    body = "\n".join(line(row) for row in rows)
    start = rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}"
    return f"{start}\n\\toprule\n{line(header)}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"


def write_tables(records: Records, first: str, unit: str, folder: Path) -> str:
    """Write ``table.md`` and ``table.tex``.

    Returns:
        The table in Markdown, with a line that says what its figures are.
    """
    header, rows = rows_of(records, first)
    note = (
        f"Bounds and likelihoods in {unit}. {first}: mean (standard deviation over seeds). Others: the difference to "
        f"{first} at the same seed, mean ± half of the 95 % interval by Student's t; * marks an interval without zero: "
        f"of twenty equal pairs, about one gets a star by chance. Operations: those of a training step over those of "
        f"{first}. Smaller is better, except for the share inside of the support."
    )
    entropies = [record["entropy"] for record in records.values() if record.get("entropy") is not None]
    if entropies:
        note += f" The entropy of the data is {max(entropies):.4f} {unit}: on average over all rows, nothing is less."
    text = f"{markdown_table(header, rows)}\n{note}\n"
    (folder / "table.md").write_text(text, encoding="utf-8")
    (folder / "table.tex").write_text(latex_table(header, rows), encoding="utf-8")
    return text


def draw_comparison(
    records: Records, curves: Mapping[str, Sequence[Sequence[tuple[float, float]]]], unit: str, path: Path, title: str
) -> None:
    """Draw the bound against T, the quality of samples against their steps, the validation bound against time, and how
    far F moves.

    Args:
        records: the finished cells.
        curves: for each variant the curve of each run: seconds of training, and the validation bound.
        unit: the unit of the bounds.
        path: file of the picture.
        title: title of the picture.
    """
    runs = {variant: list(seeds.values()) for variant, seeds in by_variant(records).items()}
    colours = {variant: f"C{number % 10}" for number, variant in enumerate(runs)}
    with drawing(path, title, 2000, 480, constrained=True) as figure:
        put_title(figure, title)
        bounds, samples, time, motion = figure.subplots(1, 4)
        draw_by_steps(bounds, runs, colours, "bound, T=")
        draw_by_steps(samples, runs, colours, f"{QUALITY}, ancestral, ")
        draw_by_steps(samples, runs, colours, f"{QUALITY}, euler, ", "--")
        for variant, figures in runs.items():
            limits = [run["bound, continuous time"] for run in figures if "bound, continuous time" in run]
            if limits:
                bounds.axhline(sum(limits) / len(limits), color=colours[variant], ls=":", lw=1)
            for curve in filter(None, curves.get(variant, [])):
                dot = "." if len(curve) == 1 else ""
                time.plot(*zip(*curve, strict=True), color=colours[variant], lw=1, marker=dot)
        for (variant, _), record in records.items():
            if distance := record.get("motion"):
                times = [i / (len(distance) - 1) for i in range(len(distance))]
                motion.plot(times, distance, color=colours[variant], lw=1)
        name_axes(bounds, "steps T (dotted: continuous time)", f"bound, {unit}")
        name_axes(samples, "sampling steps (dashed: Euler's method on the ODE)", QUALITY)
        name_axes(time, "seconds of training", f"validation bound, {unit}")
        name_axes(motion, "t", "distance of F(x, t) from x, s.d. of the noise")
        names = {"family": FONT["family"], "size": FONT["size"]}
        figure.legend(*bounds.get_legend_handles_labels(), loc="outside lower center", ncols=4, prop=names)


def draw_by_steps(
    axes: Axes, runs: Mapping[str, Sequence[Mapping[str, float]]], colours: Mapping[str, str], prefix: str,
    style: str = "-",
) -> None:  # fmt: skip
    """Draw a figure of all runs against its number of steps: the means over seeds as lines, and each seed as a dash."""
    seen: list[tuple[int, float]] = []
    for variant, figures in runs.items():
        found = [
            (int(name.removeprefix(prefix).split()[0]), value)
            for run in figures for name, value in run.items() if name.startswith(prefix)
        ]  # fmt: skip
        steps = sorted({count for count, _ in found})
        values = [[value for count, value in found if count == step] for step in steps]
        axes.plot(
            steps, [sum(v) / len(v) for v in values], marker="o", ms=4, ls=style, color=colours[variant], label=variant
        )
        axes.plot([count for count, _ in found], [value for _, value in found], "_", color=colours[variant])
        seen += found
    axes.set_xscale("log")
    ticks = sorted({count for count, _ in seen})
    axes.set_xticks(ticks, [str(count) for count in ticks])
    axes.minorticks_off()
    heights = [value for _, value in seen]
    if heights and max(heights) > 4 * min(heights) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
