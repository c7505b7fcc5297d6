"""Nothing is lost: a killed run ends with the weights of an uninterrupted one, and damaged checkpoints are skipped."""

import json
import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import ndm
from ndm.cli import main
from ndm.data import load_dataset
from ndm.experiment import Config, ModelConfig, Run
from ndm.experiment.build import seeded_model
from ndm.experiment.recipe import read_config
from ndm.training import Checkpoints, State, Trainer, TrainingConfig

CONFIG = Config(
    model=ModelConfig(width=16, depth=1, dropout=0.2, transform="time_basis", schedule="learned"),
    # 1350 rows in batches of 100: two epochs, and the kills fall anywhere within them.
    training=TrainingConfig(steps=27, batch_size=100, warmup=4, evaluate_every=9, checkpoint_every=1, accumulate=2),
)


pytestmark = pytest.mark.usefixtures("float32")


def in_a_child(function):
    """Run ``function`` in a forked process, which has everything imported already, and return its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    with suppress(BaseException):
        function()
        status = 0
    os._exit(status)


def status_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def weights(folder):
    newest = max((folder / "checkpoints").glob("step-*")) / "state.safetensors"
    return load_file(newest) | {f"model/{k}": v for k, v in load_file(folder / "model" / "model.safetensors").items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run, and its time in seconds."""
    torch.set_default_dtype(torch.float32)
    run = Run.create(tmp_path_factory.mktemp("runs") / "whole", CONFIG)
    start = time.perf_counter()
    assert status_of(in_a_child(lambda: run.train(load_dataset("digits")))) == 0
    return run, time.perf_counter() - start


def assert_same(run, reference):
    expected, found = weights(reference.folder), weights(run.folder)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[k], found[k]) for k in expected)
    clean = lambda r: [{k: v for k, v in line.items() if k != "seconds"} for line in r.metrics()]  # noqa: E731
    assert clean(run) == clean(reference)


@pytest.mark.parametrize("number", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 20))])
def test_a_run_killed_at_a_random_moment_and_resumed_has_the_weights_of_one_that_was_not(number, whole, tmp_path):
    reference, seconds = whole
    run, dataset = Run.create(tmp_path / "run", CONFIG), load_dataset("digits")
    pid = in_a_child(lambda: run.train(dataset))
    time.sleep(random.Random(number).uniform(0.1, 0.9) * seconds)
    os.kill(pid, signal.SIGKILL)
    assert status_of(pid) in (0, -signal.SIGKILL)
    assert status_of(in_a_child(lambda: run.train(dataset, resume=True))) == 0
    assert_same(run, reference)


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_kill_while_a_checkpoint_is_written_loses_only_that_one(call, whole, tmp_path, monkeypatch):
    """The kill comes at each of the four moments when the fifth checkpoint waits for the disk."""
    run, dataset, calls, flush = Run.create(tmp_path / "run", CONFIG), load_dataset("digits"), [], os.fsync

    def fatal(descriptor):
        calls.append(1)
        if len(calls) == 4 * 4 + call:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(descriptor)

    monkeypatch.setattr("ndm.training.checkpoint.os.fsync", fatal)
    monkeypatch.setattr("ndm.experiment.folder.append_line", lambda *_: None)  # it waits for the disk too
    assert status_of(in_a_child(lambda: run.train(dataset))) == -signal.SIGKILL
    monkeypatch.undo()
    assert Checkpoints(run.folder / "checkpoints").latest().step == (5 if call == 4 else 4)
    assert status_of(in_a_child(lambda: run.train(dataset, resume=True))) == 0
    expected, found = weights(whole[0].folder), weights(run.folder)
    assert all(torch.equal(expected[k], found[k]) for k in expected)


def state(step, **values):
    return State(step, {"w": torch.full((3,), float(step)), "same": torch.ones(2)[:1]}, values)


@pytest.mark.parametrize("damage", ["cut", "altered", "no json", "half a json", "foreign"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(damage, tmp_path):
    checkpoints, told = Checkpoints(tmp_path), []
    for step in (1, 2, 3):
        checkpoints.save(state(step))
    path = tmp_path / "step-00000003"
    tensors, values = path / "state.safetensors", path / "state.json"
    if damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[: tensors.stat().st_size // 2])
    if damage == "altered":
        tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x55")
    if damage == "no json":
        values.unlink()
    if damage == "half a json":
        values.write_text(values.read_text()[:20])
    if damage == "foreign":
        values.write_text("[]")
    found = checkpoints.latest(told.append)
    assert found.step == 2 and torch.equal(found.tensors["w"], torch.full((3,), 2.0))
    assert len(told) == 1 and "step-00000003 is damaged" in told[0]
    checkpoints.save(state(3))
    assert checkpoints.latest(told.append).step == 3 and len(told) == 1


def test_the_last_two_checkpoints_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    for step in range(1, 7):
        checkpoints.save(state(step, best_step=2 if step > 1 else 1))
    assert checkpoints.steps() == [2, 5, 6]


def test_each_kept_checkpoint_has_its_best_one(tmp_path):
    """The newest is a new best one. If it is damaged later, the one before it still has the best until then."""
    checkpoints = Checkpoints(tmp_path)
    for step, best in ((4, 4), (8, 4), (12, 4), (16, 16)):
        checkpoints.save(state(step, best_step=best))
    assert checkpoints.steps() == [4, 12, 16]
    checkpoints.save(state(20, best_step=16))
    assert checkpoints.steps() == [16, 20]


@pytest.mark.parametrize("damaged", [[3], [2]])
def test_a_training_with_patience_goes_on_without_damaged_checkpoints(damaged, tmp_path, capsys, monkeypatch):
    """The validations get better until step 3: the best one is the newest, or the one before it, or lost."""
    bounds = {1: 3.0, 2: 2.0, 3: 1.0 if 2 not in damaged else 2.5}
    monkeypatch.setattr(Trainer, "validate", lambda self: bounds.get(self.step, 4.0))
    dataset, config = load_dataset("digits"), read_config("digits-quick-conventional")
    settings = replace(config.training, steps=3, evaluate_every=1, checkpoint_every=1, patience=5, batch_size=8)
    make = lambda: Trainer(seeded_model(config, dataset), dataset, settings, folder=tmp_path)  # noqa: E731
    make().run()
    for step in damaged:
        (tmp_path / "checkpoints" / f"step-{step:08d}" / "state.json").write_text("")
    told = []
    again = make()
    found = again.checkpoints.latest(told.append)
    again.load(found)
    assert found.step == (3 if damaged == [2] else 2)
    assert (again.best_step, again.best) == (
        (None, float("inf")) if damaged == [2] else (found.step, bounds[found.step])
    )
    assert ("had the best bound" in " ".join(capsys.readouterr().err.split())) == (damaged == [2])
    again.run()


def test_a_checkpoint_after_damaged_ones_outlives_them(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (10, 25, 30):
        checkpoints.save(state(step, best_step=10))
    for step in (25, 30):
        (tmp_path / f"step-{step:08d}" / "state.json").unlink()
    assert checkpoints.latest().step == 10
    checkpoints.save(state(15, best_step=10))
    assert checkpoints.steps() == [10, 15] and checkpoints.latest().step == 15


def test_a_full_disk_leaves_the_earlier_checkpoints_whole(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ndm.training.checkpoint.write_tensors", full)
    with pytest.raises(ndm.InputError, match="No space left on device; the earlier checkpoints are intact"):
        checkpoints.save(state(2))
    assert checkpoints.steps() == [1] and checkpoints.latest().step == 1
    assert not list(tmp_path.glob(".partial*"))


def test_resume_refuses_a_changed_setting_and_names_it(tmp_path, capsys):
    short = replace(CONFIG, training=replace(CONFIG.training, steps=3))
    run = Run.create(tmp_path / "run", short)
    assert main(["train", "--resume", str(run.folder), "--training.warmup", "5"]) == 2
    error = capsys.readouterr().err
    assert "training.warmup is 4 in" in error and "and 5 here" in error
    assert main(["train", "digits", "--resume", str(run.folder)]) == 2
    assert "give a recipe" in capsys.readouterr().err
    assert main(["train", "--resume", str(run.folder), "--training.warmup", "4"]) == 0
    assert (run.folder / "model" / "model.safetensors").exists()
    assert [line["step"] for line in run.metrics()][-1] == 3
    assert json.loads((run.folder / "checkpoints" / "step-00000003" / "state.json").read_text())["step"] == 3
