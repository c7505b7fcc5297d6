"""Two processes that share a batch make the steps of one: gradients, weights, averages, times and validation."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from two_processes import CASES, results


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The results of two gloo processes, by kind and case."""
    folder = tmp_path_factory.mktemp("shared")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("two_processes.py")
    processes = [
        subprocess.Popen(
            [sys.executable, script, folder],
            env={
                **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
            },
            stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    for process in processes:
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
    return folder


@pytest.mark.parametrize("kind", ["Trainer", "Sharded"])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_the_steps_of_one(kind, case, shared):
    """To 1e-6 relative in float64: DDP and FSDP, with accumulation and without."""
    alone, together = results(CASES[case]), load_file(shared / f"{kind}-{case}.safetensors")
    assert alone.keys() == together.keys()
    assert torch.isfinite(alone["validation"]).all() and len(alone["validation"]) == 2
    for key, value in alone.items():
        assert (together[key] - value).norm() <= 1e-6 * value.norm(), key
    assert all(value.norm() > 0 for key, value in alone.items() if key.startswith("gradient/predictor"))
