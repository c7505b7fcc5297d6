"""What the benchmarks of tables share: a file of finished cells, the clock, the machine, and our estimator.

A cell is one data set with one split or seed and one method. Its record is a line of a JSON-lines file. A cell that is
in the file is not computed again, so an interrupted benchmark goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import ndm
from ndm.errors import InputError
from ndm.support.journal import append_line, read_lines

RESULTS = Path(__file__).resolve().parent / "results"
OURS = "ndm"
"""The name of our estimator among the methods."""


class Cells:
    """The records of a file, by their keys.

    Args:
        path: the file of JSON lines; it need not exist.
        names: the fields of a record that are its key, such as ``("set", "split", "method")``.
        kind: what the record is about. A file may hold several kinds. Of two records with one key the later one counts.
    """

    def __init__(self, path: Path, names: Sequence[str], kind: str = "cell") -> None:
        self.path, self.names, self.kind = path, tuple(names), kind
        self.records: dict[tuple[Any, ...], dict[str, Any]] = {}
        for record in read_lines(path, lambda line: isinstance(line, dict) and "kind" in line):
            if record["kind"] == kind:
                self.records[self.key(record)] = record

    def key(self, record: dict[str, Any]) -> tuple[Any, ...]:
        """The key of a record."""
        return tuple(record[name] for name in self.names)

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self.records

    def add(self, record: dict[str, Any]) -> None:
        """Write a record to the disk, unless it is there with the same values."""
        record = {"kind": self.kind, **short(record)}
        if self.records.get(self.key(record)) != record:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_line(self.path, record)
            self.records[self.key(record)] = record


def short(value: Any) -> Any:
    """The same value with every float to seven significant digits."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: short(item) for key, item in value.items()}
    return [short(item) for item in value] if isinstance(value, (list, tuple)) else value


@dataclass
class Clock:
    """Seconds that passed (``wall``) and that the process computed (``process``, summed over its threads)."""

    wall: float = 0.0
    process: float = 0.0


@contextlib.contextmanager
def clock() -> Iterator[Clock]:
    """Measure the seconds of a block."""
    spent, wall, process = Clock(), time.perf_counter(), time.process_time()
    yield spent
    spent.wall, spent.process = time.perf_counter() - wall, time.process_time() - process


def import_libraries(*names: str) -> None:
    """Import what methods need before a clock runs, as far as it is installed."""
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def machine(threads: int, packages: Sequence[str]) -> dict[str, Any]:
    """The processor, the threads, and the versions of Python and of packages."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), processor)
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return {"processor": processor, "cores": os.cpu_count(), "threads": threads, "versions": found}


def note_machine(path: Path, threads: int, packages: Sequence[str]) -> str:
    """Write the machine to the file once, and give the short name that records refer to it by."""
    facts = machine(threads, packages)
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
    Cells(path, ["name"], "machine").add({"name": name, **facts})
    return name


def limit_threads(threads: int) -> None:
    """Let NumPy, scikit-learn and torch use that many threads, until the process ends."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    threadpool_limits(threads)


def ours(seed: int) -> Any:
    """Our estimator, with a seed if it takes one.

    Raises:
        InputError: if this version of the library has none.
    """
    if not ours_exists():
        raise InputError(f"ndm {ndm.__version__} has no NeuralDiffusionDensity: leave {OURS} out of --methods")
    estimator = ndm.NeuralDiffusionDensity()
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=seed)
    return estimator


def ours_exists() -> bool:
    """Whether this version of the library has the estimator."""
    return "NeuralDiffusionDensity" in ndm.__all__


def choose(given: Sequence[str] | None, known: Sequence[str], what: str) -> list[str]:
    """The names that were asked for, or all that are known; our estimator is left out of all where it is missing.

    Raises:
        InputError: on a name that is not known.
    """
    if given is None:
        return [name for name in known if name != OURS or ours_exists()]
    for name in given:
        if name not in known:
            raise InputError(f"there is no {what} {name!r}: choose among {', '.join(known)}")
    if OURS in given and OURS in known:
        ours(0)
    return list(given)


def folder_of(data: Path, part: str, pattern: str) -> Path:
    """The folder ``part`` of the data.

    Raises:
        InputError: if it holds no file of the pattern.
    """
    if not any((data / part).glob(pattern)):
        raise InputError(f"no {pattern} in {data / part}: give --data the folder that holds {part}/")
    return data / part


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean of several values and its standard error; None for the error of a single value."""
    return mean(values), stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def shown(value: float, error: float | None, digits: int = 3, bold: bool = False) -> str:
    """A mean with its standard error in brackets, as in ``-2.713 (0.012)``."""
    text = f"{value:.{digits}f}" + ("" if error is None else f" ({error:.{digits}f})")
    return f"**{text}**" if bold else text


def common_options(parser: argparse.ArgumentParser, out: str, methods: Sequence[str]) -> None:
    """The options of every benchmark of tables."""
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help=f"default: all of {', '.join(methods)}")
    record_options(parser, out)


def record_options(parser: argparse.ArgumentParser, out: str, threads: int = 1) -> None:
    """The options of every benchmark that keeps records."""
    parser.add_argument("--out", type=Path, default=RESULTS / out, help="file of the records")
    parser.add_argument("--threads", type=int, default=threads, help="CPU threads")
    parser.add_argument("--table", action="store_true", help="only print the table of what is finished")


def say(text: str) -> None:
    """Print a line of progress to the error stream."""
    print(text, file=sys.stderr, flush=True)


def ends(main: Callable[[], None]) -> int:
    """The exit status of a benchmark: 2 with one line for bad input, 130 after an interrupt."""
    try:
        main()
    except InputError as error:
        say(f"{Path(sys.argv[0]).name}: {error}")
        return 2
    except KeyboardInterrupt:
        say("interrupted: the same command goes on")
        return 130
    return 0
