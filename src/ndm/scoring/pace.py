"""The pace of scoring: parts of a table that take some seconds each, and how long the rest takes.

An explanation of a row takes from milliseconds to many seconds, by the columns of the table and the model. So the first
part is one row, and the progress moves after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from ..support.progress import console, duration, progress_bar
from ..tables import Frame

SECONDS = 3.0
"""How long a part of rows should take at least."""
MOST_ROWS = 64
"""The most rows of a part that is explained."""
LONG = 60.0
"""The number of seconds from which the time that is left is said once in a line of its own."""
SURE = 3.0
"""The number of seconds after which the time that is left is estimated for that line."""


def small_parts(frames: Iterable[Frame], first: int = 1, most: int = MOST_ROWS) -> Iterator[Frame]:
    """The rows of frames in small parts: first a few rows, and twice as many as long as a part takes little time.

    The time of a part is the time until the next one is asked for.

    Args:
        frames: the rows, in parts of any size.
        first: the number of rows of the first part.
        most: the most rows of a part.
    """
    size = first
    for frame in frames:
        start = 0
        while start < len(frame):
            part = frame.take(slice(start, start + size))
            begin = time.perf_counter()
            yield part
            seconds = time.perf_counter() - begin
            start += len(part)
            size = min(2 * size, most) if seconds < SECONDS else size


@contextmanager
def paced(title: str, total: int, visible: bool = True) -> Iterator[Callable[[int], None]]:
    """Progress over rows, with the speed. A job of more than a minute is said in a line, as soon as the pace is known.

    Args:
        title: what is done with the rows, as in "scoring".
        total: the number of rows.
        visible: whether anything is shown.

    Yields:
        A function to call with the number of rows that are done.
    """
    start, said = time.perf_counter(), False
    with progress_bar(title, total, visible, unit="row") as bar:

        def tell(done: int) -> None:
            nonlocal said
            spent = time.perf_counter() - start
            bar.update(bar.task_ids[0], completed=done, news=f"{done / spent:,.3g} rows/s")
            if visible and not said and spent >= SURE:
                said = True
                left = spent / done * (total - done)
                if left >= LONG:
                    console.print(f"{title} {total - done:,} more rows takes about {duration(left)}")

        yield tell
