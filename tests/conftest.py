"""What the tests share: float64 unless they ask for float32, seeds, small networks, small runs, folders of pictures."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ndm.cli import main
from processes import Started

TINY = ["--model.width", "8", "--model.depth", "1", "--model.transform_width", "4", "--training.batch_size", "16"]
TINY += ["--training.checkpoint_every", "4", "--training.evaluate_every", "4", "--training.warmup", "2"]
TINY += ["--device", "cpu"]
"""Options that make a recipe for digits train in a second."""

# The tensors here are small: threads would cost more than they give, most of all on a busy machine. The processes that
# tests start get the same.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _float64_and_seed():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def float32(_float64_and_seed):
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The folder of a run of twelve steps. No test may change it; ``run`` is a copy."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(["train", "digits", "--out", str(folder), *TINY, "--training.steps", "12"]) == 0
    torch.set_default_dtype(before)
    return folder


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of a run of twelve steps."""
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


def refused(arguments, capsys):
    """The one line with which a command refuses."""
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("ndm: error: "), error
    return error


interruptible = pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
    reason="Ctrl-C is ignored here, as in a job in the background of a script",
)


@contextmanager
def bounded(seconds=10, gigabytes=1):
    """Allocating much more than there is already is an error, and so is taking long."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + gigabytes * 2**30, before[1]))
    start = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - start < seconds


def command(arguments, seconds=60, **options):
    """The exit status, the output and the errors of a command in a process of its own, which must end in time."""
    return Started("-m", "ndm", *arguments, **options).end(seconds)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of the cache, which is empty."""
    monkeypatch.setenv("NDM_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def grey_pictures(path, values):
    """A new folder of pictures of 8 x 8, each of one value."""
    from PIL import Image

    path.mkdir()
    for k, value in enumerate(values):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(path / f"{k}.png")
    return path


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class SmoothNet(nn.Module):
    """A generic smooth ``net(x, t)`` or ``net(x)`` with outputs of order one, so that no term of F vanishes."""

    def __init__(self, dim: int, out: int, timed: bool = True) -> None:
        super().__init__()
        self.inner = nn.Linear(dim + timed, 16)
        self.outer = nn.Linear(16, out)
        self.timed = timed

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        if self.timed:
            x = torch.cat([x, t[:, None]], dim=1)
        return self.outer(torch.tanh(2 * self.inner(x)))
