"""Progress bars and messages on the error stream, so that standard output holds only results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True)


@contextmanager
def progress_bar(title: str, total: int, visible: bool = True) -> Iterator[Progress]:
    """A progress bar with a title, a count, the time spent, the time left, and a text (the field ``news``)."""
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[news]}"),
    )  # fmt: skip
    # Speed is measured over ten minutes. A bar that moves rarely may not move within rich's default of half a minute.
    with Progress(*columns, console=console, disable=not visible, speed_estimate_period=600) as bar:
        bar.add_task(title, total=total, news="")
        yield bar


def training_news(bar: Progress, record: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """A ``log`` for :func:`ndm.training.train`. It moves the bar and passes every entry on to ``record``."""
    news: dict[str, str] = {}

    def log(entry: dict[str, Any]) -> None:
        record(entry)
        if "bpd" in entry:
            news["train"] = f"train {entry['bpd']:.3f}"
            news["speed"] = f"{entry['step'] / entry['seconds']:.3g} it/s"
        if "validation_bpd" in entry:
            news["validation"] = f"validation {entry['validation_bpd']:.3f} bits/dim"
        bar.update(bar.task_ids[0], completed=entry["step"], news=", ".join(news.values()))

    return log
