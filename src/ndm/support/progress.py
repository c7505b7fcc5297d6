"""Progress and messages on the error stream, so that standard output holds only results.

On a terminal, progress is a bar. Elsewhere, for example in the log of a batch system, it is plain lines: one at the
start and at the end of everything that has a name, and one every half a minute between them.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

from ..errors import printable
from .output import drop_unwritable_output

EVERY = 30.0
"""The number of seconds after which there is another line, where progress is lines."""
SHORT = 1.0
"""The number of seconds below which the time that something took is not said."""
NARROW, WIDE = 60, 110
"""The widths of a terminal up to which there is no bar, and from which the time spent is shown too."""


class ErrorStream:
    """``sys.stderr``, but text that cannot be written is dropped: a closed terminal or a full disk costs no work."""

    @property
    def stream(self) -> Any:
        """The stream itself, which a bar on a terminal replaces by one that prints above it."""
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)

    def write(self, text: str) -> int:
        """Write, or drop what cannot be written now and later."""
        return self.attempt(lambda: self.stream.write(text))

    def flush(self) -> None:
        """Flush, or drop what cannot be written."""
        self.attempt(lambda: self.stream.flush())

    def attempt(self, action: Callable[[], Any]) -> Any:
        """The result of an action; 0 if there is no stream, it is closed or it cannot be written."""
        if self.stream is None or getattr(self.stream, "closed", False):
            return 0
        try:
            return action()
        except OSError:
            drop_unwritable_output()
            return 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Messages(Console):
    """The error stream. A text is one line: without markup or colours, never broken, its control characters escaped."""

    def __init__(self) -> None:
        # rich takes anything that has the methods of a file.
        super().__init__(file=ErrorStream(), markup=False, highlight=False, emoji=False)  # type: ignore[arg-type]

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; see :meth:`rich.console.Console.print`."""
        if all(isinstance(part, str) for part in objects):
            options.setdefault("soft_wrap", True)
        super().print(*(printable(part) if isinstance(part, str) else part for part in objects), **options)

    @property
    def animated(self) -> bool:
        """Whether the error stream is a terminal on which a bar can move."""
        return self.is_interactive and bool(getattr(self.file, "isatty", lambda: False)())


console = Messages()


def warn(text: str) -> None:
    """Print a warning, also if the user asked for quiet. Of several processes, the first one prints it."""
    from .processes import rank_and_count

    if rank_and_count()[0] == 0:
        quiet, console.quiet = console.quiet, False
        console.print(f"ndm: warning: {text}")
        console.quiet = quiet


class Lines(Progress):
    """Progress as plain lines. It has the interface of a bar."""

    said = 0.0

    def start(self) -> None:
        """Start to watch the clock; the first line is that of the task."""
        self.ended = threading.Event()
        if not self.disable:
            threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        """Look every second whether a line is due, until the end."""
        while not self.ended.wait(1.0):
            self.refresh()

    def refresh(self) -> None:
        """Print a line if there was none for half a minute."""
        if self.tasks and self.get_time() - self.said >= EVERY:
            self.tell(self.tasks[0])

    def stop(self) -> None:
        """Print the last line."""
        self.ended.set()
        for task in self.tasks:
            whole, seconds = task.total is None or task.finished, task.elapsed or 0.0
            if seconds >= SHORT or not whole:
                self.tell(task, f"{'took' if whole else 'stopped after'} {duration(seconds)}")
            elif task.total is not None:
                self.tell(task)

    def add_task(self, *args: Any, **options: Any) -> TaskID:
        """Add the task, and print its first line."""
        self.said = self.get_time()
        number = super().add_task(*args, **options)
        self.tell(self.tasks[0])
        return number

    def update(self, task_id: TaskID, **values: Any) -> None:
        """Update the task. A new phase is printed at once."""
        super().update(task_id, **values)
        if "phase" in values:
            self.tell(self.tasks[0])

    def tell(self, task: Task, end: str = "") -> None:
        """Print a line about the task, with an end or the time that is left."""
        self.said = self.get_time()
        if not self.disable:
            words = (count(task, " of "), news(task), end or (left(task) if task.time_remaining else ""))
            console.print(f"{task.description}: {', '.join(filter(None, words))}".removesuffix(": "))


class Words(ProgressColumn):
    """A column of a bar with words about the task."""

    def __init__(self, words: Callable[[Task], str], ratio: int | None = None) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis", ratio=ratio))
        self.words = words

    def render(self, task: Task) -> Text:
        """The words, cut where the terminal ends."""
        return Text(self.words(task), no_wrap=True, overflow="ellipsis")


def duration(seconds: float | None) -> str:
    """A time as minutes and seconds, or as hours, minutes and seconds: ``4:56`` or ``1:04:56``."""
    if seconds is None:
        return "-:--"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def count(task: Task, of: str = "/") -> str:
    """How far the task is: ``350/4000``. It is empty if the task cannot be counted."""
    return "" if task.total is None else f"{task.fields['unit']}{task.completed:.0f}{of}{task.total:.0f}"


def left(task: Task) -> str:
    """The time that is left, or the time spent if the task cannot be counted."""
    return f"{duration(task.elapsed)} spent" if task.total is None else f"{duration(task.time_remaining)} left"


def news(task: Task) -> str:
    """The phase that the task is in, or else its news."""
    return task.fields["phase"] or task.fields["news"]


def in_one_column(task: Task) -> str:
    """All about the task. The terminal may cut its end."""
    words = (count(task), left(task), task.fields["phase"], task.description, task.fields["news"])
    return ", ".join(filter(None, words))


def columns(width: int) -> list[ProgressColumn]:
    """The columns of a bar on a terminal of that width. The count and the time left come first if there is little."""
    if width <= NARROW:
        return [Words(in_one_column)]
    spent = [Words(lambda task: f"{duration(task.elapsed)} spent")] if width >= WIDE else []
    bar = BarColumn(bar_width=24 if width >= WIDE else 10)
    return [Words(lambda task: task.description), bar, Words(count), *spent, Words(left), Words(news, ratio=1)]


running: list[Progress] = []
"""The bars that are shown now, at most one of them on a terminal."""


@contextmanager
def progress_bar(
    title: str,
    total: int | None,
    visible: bool = True,
    unit: str = "",
    clock: Callable[[], float] = time.monotonic,
    done: int = 0,
) -> Iterator[Progress]:
    """Progress with a title, a count, the time left, and a text (the field ``news``), as a bar or as lines.

    Args:
        title: what is being done.
        total: the number to count to; None if it cannot be counted.
        visible: whether anything is shown.
        unit: word before the count in lines, such as ``"step"``.
        clock: the time in seconds.
        done: the number that was counted before.
    """
    kind, width = (Progress, console.width) if console.animated else (Lines, WIDE)
    # Speed is measured over ten minutes. A bar that moves rarely may not move within rich's default of half a minute.
    bar = kind(
        *columns(width), console=console, disable=not visible, speed_estimate_period=600, get_time=clock, expand=True
    )
    running.append(bar)
    try:
        with bar:
            word = f"{unit} " if unit and kind is Lines else ""
            bar.add_task(title, total=total, completed=done, news="", phase="", unit=word)
            yield bar
    finally:
        running.remove(bar)


def reached(number: int) -> None:
    """Move the progress that is shown, if any, to a count."""
    if running:
        running[-1].update(running[-1].task_ids[0], completed=number)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Name what is being done in the progress that is shown, if any; also a decorator: ``@phase("validating")``."""
    if not running:
        yield
        return
    bar, task = running[-1], running[-1].tasks[0]
    start, before = bar.get_time(), task.fields["phase"]
    bar.update(task.id, phase=name, refresh=not isinstance(bar, Lines))  # what is short would not be drawn
    try:
        yield
    finally:
        seconds = bar.get_time() - start
        if isinstance(bar, Lines) and seconds >= SHORT:
            bar.tell(task, f"took {duration(seconds)}")
        task.fields["phase"] = before


def training_news(
    bar: Progress, record: Callable[[dict[str, Any]], None], unit: str
) -> Callable[[dict[str, Any]], None]:
    """A ``log`` for :func:`ndm.training.train`. It moves the bar and passes every entry on to ``record``.

    Args:
        bar: the progress that is shown.
        record: what is called with each entry.
        unit: the word for the unit of the data's likelihoods, such as ``"bits/column"``.
    """
    bounds, speed = {"train": "", "validation": ""}, ""

    def log(entry: dict[str, Any]) -> None:
        nonlocal speed
        record(entry)
        if "bpd" in entry:
            bounds["train"] = f"train {entry['bpd']:.3f}"
            speed = f"{entry['step'] / entry['seconds']:.3g} it/s"
        if "validation_bpd" in entry:
            bounds["validation"] = f"validation {entry['validation_bpd']:.3f}"
        figures = ", ".join(filter(None, bounds.values()))
        news = ", ".join(filter(None, (figures and f"{figures} {unit}", speed)))
        bar.update(bar.task_ids[0], completed=entry["step"], news=news)

    return log
