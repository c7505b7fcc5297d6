"""Processes for the tests that begin with everything imported, where a new Python needs up to five seconds.

A server imports the modules once, and each process is a fork of it (the fork server of ``multiprocessing``). It has its
own environment, working directory and streams. A test of the imports themselves needs a new Python.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(
    ["accelerate", "jsonargparse", "scipy.integrate", "sklearn.datasets", "torch._dynamo", "torch.distributed.fsdp"]
)


def run(command: list[str], environment: dict[str, str], streams: list[str]) -> None:
    """Do what ``python *command`` does: ``-m MODULE ...``, ``-c CODE ...`` or ``FILE ...``."""
    for number, path in enumerate(streams, 1):
        stream = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY, 0o600)
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    kind, *rest = command
    sys.argv = rest if kind == "-m" else ["-c", *rest[1:]] if kind == "-c" else command
    if kind == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        exec(compile(rest[0], "<code>", "exec"), {"__name__": "__main__"})
    else:
        sys.path.insert(0, str(Path(kind).parent))
        runpy.run_path(kind, run_name="__main__")


class Started:
    """A Python process.

    Args:
        command: the arguments of Python.
        env: its environment; unless it is given, that of the test.
        stderr: the file of its errors, such as a terminal; unless it is given, they are kept.
    """

    def __init__(self, *command: Any, env: dict[str, str] | None = None, stderr: str | None = None) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.streams = [f"{self.folder.name}/output", stderr or f"{self.folder.name}/errors"]
        arguments = [str(part) for part in command], dict(os.environ if env is None else env), self.streams
        self.process = server.Process(target=run, args=arguments)
        self.process.start()
        self.pid = self.process.pid

    @property
    def running(self) -> bool:
        return self.process.is_alive()

    def signal(self, number: int) -> None:
        if self.running:
            os.kill(self.pid, number)

    def end(self, seconds: float = 60) -> tuple[int, str, str]:
        """The exit status, the output and the errors. A process that has not ended by then is killed, and fails."""
        self.process.join(seconds)
        late = self.running
        self.kill()
        if late:
            pytest.fail(f"the command was not at its end after {seconds} seconds")
        return self.process.exitcode, *self.said()

    def said(self) -> list[str]:
        """The output and the errors so far."""
        return [Path(path).read_text() if os.path.isfile(path) else "" for path in self.streams]

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.join()
