"""Two processes that share a batch compute the same as one: gradients, weights, averages, times and validation."""

import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from safetensors.torch import load_file
from torch import distributed

from ndm.__main__ import main as entry
from ndm.cli import main
from ndm.errors import InputError
from ndm.experiment import Run
from ndm.support.journal import read_lines
from ndm.training.optimization import suit_sharding
from processes import Started

from two_processes import CAN_SHARD, CASES, results


def launch(*command, status=0):
    """Run a Python command as two gloo processes, which must both end with a status. Returns what they said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in (0, 1)]
    processes = [Started(*command, env={**environment, **rank}) for rank in ranks]
    try:
        ends = [process.end(240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [end[0] for end in ends] == [status, status], ends
    return [end[2] for end in ends]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The results of two gloo processes, by kind and case."""
    folder = tmp_path_factory.mktemp("shared")
    launch(Path(__file__).with_name("two_processes.py"), folder)
    return folder


def select(tensors, prefix):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


@pytest.mark.parametrize("kind", ["Trainer", "Sharded"])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_the_steps_of_one(kind, case, shared, tmp_path):
    """The results agree to 1e-6 relative in float64, for DDP and FSDP, with and without accumulation."""
    if kind == "Sharded" and not CAN_SHARD:
        pytest.skip("this torch shards only on accelerators: its CPU streams have no record_event")
    alone, together = results(CASES[case], tmp_path), load_file(shared / f"{kind}-{case}.safetensors")
    assert alone.keys() == together.keys()
    assert torch.isfinite(alone["validation"]).all() and len(alone["validation"]) == 2
    assert all(torch.equal(alone[f"average/{k}"], v) for k, v in select(alone, "resumed/").items())
    for key, value in alone.items():
        assert (together[key].double() - value.double()).norm() <= 1e-6 * value.double().norm(), key
    assert all(value.norm() > 0 for key, value in alone.items() if key.startswith("gradient/predictor"))


@pytest.mark.slow
def test_the_command_in_two_processes_trains_the_model_that_it_trains_in_one(tmp_path):
    """``ndm train`` and ``--resume`` write one folder and one line per record, with the weights of one process."""
    torch.set_default_dtype(torch.float32)
    options = ["--device", "cpu", "--model.width", "16", "--model.dropout", "0", "--training.batch_size", "16"]
    options += ["--training.steps", "4", "--training.sample_every", "4", "--training.evaluate_every", "2"]
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main(["train", "digits", "--out", str(alone), *options]) == 0
    said = launch("-m", "ndm", "train", "digits", "--out", together, *options)
    assert [text.count("done:") for text in said] == [1, 0] and "parameters" not in said[1]
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (alone, together)]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-4, atol=1e-6)
    steps = [[record["step"] for record in Run(folder).metrics()] for folder in (alone, together)]
    assert steps[0] == steps[1] == [2, 4, 4]
    assert (together / "samples-00000004.png").exists() and (together / "samples.png").exists()
    shutil.rmtree(together / "model")
    launch("-m", "ndm", "train", "--resume", together, "--device", "cpu")
    resumed = load_file(together / "model" / "model.safetensors")
    assert all(torch.equal(resumed[key], value) for key, value in weights[1].items())


def test_two_processes_evaluate_every_row_once_and_to_the_same_figures(tmp_path):
    """The 600 rows make three pieces, and one of the processes computes two of them."""
    torch.set_default_dtype(torch.float32)
    run = tmp_path / "run"
    options = ["--model.width", "16", "--training.steps", "2", "--training.batch_size", "16", "--device", "cpu"]
    assert main(["train", "digits-conventional", "--out", str(run), *options]) == 0
    options = ["--split", "train", "--limit", "600", "--estimator", "bound", "--steps", "5,continuous", "--passes", "2"]
    figures = []
    for command in (main, lambda arguments: launch("-m", "ndm", *arguments)):
        command(["evaluate", str(run), *options, "--device", "cpu"])
        *_, last = read_lines(run / "evaluations.jsonl")
        figures.append([{**e, "seconds": None} for e in last["estimates"]])
        assert not list(run.glob("*.partial.*"))
    assert figures[0] == figures[1]
    assert [e["rows"] for e in figures[0]] == [600, 600]
    assert len(read_lines(run / "evaluations.jsonl")) == 2


@pytest.mark.parametrize(("arguments", "status"), [(["recipes"], 0), (["recipes", "nothing"], 2)])
def test_a_command_ends_its_connections_whether_it_fails_or_not(arguments, status):
    """Gloo's threads abort a process now and then that ends with them ("terminate called without ...")."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        assert entry(arguments) == status
        assert not distributed.is_initialized()
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


FAILING = """
import sys
from torch import distributed
from ndm.support.processes import failing_together, first_process_first, leave, rank_and_count
distributed.init_process_group("gloo")
for failing in (0, 1):
    for part in (failing_together, first_process_first):
        entered = False
        try:
            with part():
                entered = True
                if rank_and_count()[0] == failing:
                    raise OSError(f"the disk of {failing} is full")
            said = "nothing"
        except Exception as error:
            said = f"{type(error).__name__} {error}"
        print(part.__name__, entered, said, file=sys.stderr)
leave(failed=False)
"""


def test_what_fails_in_one_process_fails_in_all():
    said = [[line for line in text.splitlines() if " True " in line or " False " in line]
            for text in launch("-c", FAILING)]  # fmt: skip
    own, other = "OSError the disk of {0} is full", "InputError process {0} failed: the disk of {0} is full"
    assert said[0] == [
        f"{part} True {text.format(failing)}"
        for failing, text in ((0, own), (1, other))
        for part in ("failing_together", "first_process_first")
    ]
    assert said[1] == [
        f"failing_together True {other.format(0)}", f"first_process_first False {other.format(0)}",
        f"failing_together True {own.format(1)}", f"first_process_first True {own.format(1)}",
    ]  # fmt: skip


def test_a_run_that_cannot_begin_ends_all_processes(tmp_path):
    """Only the first process looks at the folder and takes the lock; the other one must not wait for it."""
    run = tmp_path / "run"
    shutil.copytree(Path(__file__).with_name("saved") / "0.1.0", run)
    first, second = launch("-m", "ndm", "train", "digits", "--out", run, "--device", "cpu", status=2)
    assert "already holds a run" in first and "process 0 failed" in second and "already holds a run" in second
    with Run(run).lock:
        first, second = launch("-m", "ndm", "train", "--resume", run, "--device", "cpu", status=2)
    assert "is being trained" in first and "process 0 failed" in second and "is being trained" in second


MOVED = """
import sys
from pathlib import Path
from ndm.__main__ import main
from ndm.training import Trainer
run, gradient = Path(sys.argv[1]), Trainer.gradient
def moved(self):
    if self.step == 3 and self.accelerator.is_main_process:
        run.rename(run.with_name("moved"))
    return gradient(self)
Trainer.gradient = moved
sys.exit(main(["train", "digits", "--out", str(run), *sys.argv[2:]]))
"""


@pytest.mark.parametrize("option", [pytest.param("evaluate_every", marks=pytest.mark.slow), "checkpoint_every"])
def test_a_run_whose_folder_is_moved_ends_all_processes_with_one_line(option, tmp_path):
    """Only the first process writes. The others ended with a traceback about their lost connection."""
    options = ["--device", "cpu", "--model.width", "16", "--training.batch_size", "16", "--training.steps", "40"]
    options += ["--training.evaluate_every", "0", "--training.sample_every", "0", "--training.checkpoint_every", "100"]
    first, second = launch("-c", MOVED, tmp_path / "run", *options, f"--training.{option}", "5", status=2)
    for said in (first, second):
        assert "Traceback" not in said and "was moved, deleted or replaced" in said
    assert "process 0 failed" in second
    assert " parameters, digits" in first and " parameters, digits" not in second  # one process speaks


def test_sharding_keeps_parameters_in_float32_under_bf16_and_asks_for_the_second_version():
    """accelerate casts by default. Parameters in bf16 would also put the noise process into bf16."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    plugin.set_mixed_precision("bf16")
    assert plugin.mixed_precision_policy.param_dtype is torch.bfloat16
    suit_sharding(plugin)
    assert plugin.mixed_precision_policy.param_dtype is None
    with pytest.raises(InputError, match="--fsdp_version 2"):
        suit_sharding(FullyShardedDataParallelPlugin(fsdp_version=1))
    suit_sharding(None)
