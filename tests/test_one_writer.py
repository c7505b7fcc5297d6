"""Two hands on one run: one of them gets it, the other one gets a line, and nothing of the run is lost."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import ndm
from ndm.cli import main
from ndm.errors import InputError
from ndm.experiment import Run
from ndm.support.lock import Lock

TINY = ["--model.width", "8", "--model.depth", "1", "--model.transform_width", "4", "--training.batch_size", "16"]
TINY += ["--training.checkpoint_every", "2", "--training.evaluate_every", "10", "--training.sample_every", "0"]
LONG = ["--training.steps", "60", "--device", "cpu"]
KINDS = ("train/train", "train/resume", "train/overwrite", "evaluate/train")
CODE = "import sys, torch; torch.set_num_threads(1); from ndm.cli import main; sys.exit(main())"


pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run that has ended after 20 steps."""
    torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("base") / "run"
    assert main(["train", "digits", "--out", str(folder), *TINY, "--training.steps", "20", "--device", "cpu"]) == 0
    return folder


def forked(arguments, output):
    """Run a command in a forked process, which has everything imported. Returns a function that waits for its end."""
    pid = os.fork()
    if not pid:
        with open(output, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = sys.stderr = file
            status = main(arguments)
        os._exit(status)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def spawned(arguments, output):
    """Run a command in a new process, as a shell does."""
    with open(output, "w") as file:
        return subprocess.Popen([sys.executable, "-c", CODE, *arguments], stdout=file, stderr=file).wait


def commands(kind, folder, base):
    """The two commands, and the folder as they find it."""
    if kind != "train/train":
        shutil.copytree(base, folder)
    new = ["train", "digits", "--out", str(folder), *TINY, *LONG]
    resume = ["train", "--resume", str(folder), *LONG]
    evaluate = ["evaluate", str(folder), "--checkpoint", "newest", "--estimator", "bound", "--steps", "5,continuous"]
    return {
        "train/train": (new, [*new, "--seed", "1"]),
        "train/resume": (resume, resume),
        "train/overwrite": (resume, [*new, "--overwrite", "--model.width", "12"]),
        "evaluate/train": ([*evaluate, "--passes", "3", "--device", "cpu"], resume),
    }[kind]


def check_whole(folder):
    """The weights, the checkpoints, the metrics and the settings of the run are those of one training."""
    run = Run.open(folder)
    assert run.config.training.steps == 60 and run.checkpoints.steps()[-2:] == [58, 60]
    for step in run.checkpoints.steps():
        assert run.checkpoints.load(step).step == step
    finished, newest = run.load_model().state_dict(), run.load_model("newest").state_dict()
    assert all(torch.equal(finished[key], newest[key]) for key in finished)
    records = run.metrics()
    steps = [record["step"] for record in records]
    assert steps == sorted(steps) and steps[-1] == 60
    validated = [record["step"] for record in records if "validation_bpd" in record]
    assert validated == [10, 20, 30, 40, 50, 60]
    assert run.snapshot().step == 60
    assert not [path.name for path in folder.iterdir() if "lock" in path.name or "partial" in path.name]


def start_twice(kind, base, tmp_path, start, chance, apart):
    """Start both commands in a random order, and check what both leave."""
    folder, ends, outputs = tmp_path / "run", [], []
    pair = list(commands(kind, folder, base))
    chance.shuffle(pair)
    for number, arguments in enumerate(pair):
        outputs.append(tmp_path / f"output-{number}")
        ends.append(start(arguments, outputs[-1]))
        time.sleep(chance.uniform(0, apart))
    statuses = [end() for end in ends]
    told = [output.read_text() for output in outputs]
    assert not any("Traceback" in text for text in told), told
    if kind == "evaluate/train":
        assert statuses == [0, 0], told
        (table,) = [text for text in told if "bound, T=5" in text]
        assert re.search(r"step \d+ of (20|60)", table)
    else:
        assert sorted(statuses) == [0, 2], told
        loser = told[statuses.index(2)]
        assert loser.count("ndm: error: ") == 1 and loser.count("\n") == 1
        assert "is being trained by process" in loser or "already holds a run" in loser
    check_whole(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_two_starts_leave_one_whole_run_and_one_line(kind, base, tmp_path):
    start_twice(kind, base, tmp_path, forked, random.Random(kind), apart=0.2)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(20))
def test_twenty_double_starts_of_real_processes(number, base, tmp_path):
    start_twice(KINDS[number % 4], base, tmp_path, spawned, random.Random(number), apart=0.5)


@pytest.fixture
def held(base, tmp_path):
    """A copy of the run, and the lock that another training of it holds."""
    folder = tmp_path / "run"
    shutil.copytree(base, folder)
    with Lock(folder / ".ndm-lock", "trained", "look at it with --checkpoint newest, or wait"):
        yield folder


def test_a_run_that_trains_is_not_resumed_overwritten_or_trained_from_python(held, capsys):
    before = {path: path.stat().st_mtime_ns for path in held.rglob("*")}
    for arguments in (["--resume", str(held)], ["digits", "--out", str(held), "--overwrite", *TINY]):
        assert main(["train", *arguments, "--device", "cpu"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"{held} is being trained by process {os.getpid()}" in error
        assert "--checkpoint newest" in error
    run = Run(held)
    with pytest.raises(ndm.InputError, match="is being trained"):
        run.train(run.load_dataset(), resume=True)
    with pytest.raises(ndm.InputError, match="is being trained"):
        Run.create(held, run.config, overwrite=True)
    assert {path: path.stat().st_mtime_ns for path in held.rglob("*")} == before


def test_a_run_that_trains_can_be_looked_at(held, tmp_path, capsys):
    shutil.rmtree(held / "model")
    bound = ["--estimator", "bound", "--steps", "2", "--passes", "1", "--limit", "4", "--device", "cpu"]
    assert main(["evaluate", str(held), *bound]) == 2
    assert "is being trained by process" in capsys.readouterr().err
    assert main(["evaluate", str(held), *bound, "--checkpoint", "newest"]) == 0
    assert "step 20 of 20" in capsys.readouterr().out
    sample = ["sample", str(held), "--num", "2", "--steps", "2", "--checkpoint", "18", "--out", str(tmp_path / "x.npz")]
    assert main(sample) == 0
    assert "step 18 of 20" in " ".join(capsys.readouterr().err.split())


def test_a_checkpoint_that_vanishes_between_listing_and_reading_is_looked_for_again(base, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(base, folder)
    run, load = Run(folder), ndm.training.Checkpoints.load
    older, newer = (folder / "checkpoints" / f"step-000000{step}" for step in (18, 22))

    def racing(self, step):
        if step == 20 and older.exists():  # the training goes on to another checkpoint while this one is looked at
            shutil.move(older, newer)
            record = json.loads((newer / "state.json").read_text()) | {"step": 22}
            (newer / "state.json").write_text(json.dumps(record))
            shutil.rmtree(folder / "checkpoints" / "step-00000020")
        return load(self, step)

    expected = load_file(older / "state.safetensors")
    monkeypatch.setattr(ndm.training.Checkpoints, "load", racing)
    found = run.load_model("newest").state_dict()
    assert all(torch.equal(value, expected[f"average.{key}"]) for key, value in found.items())


def test_a_run_that_another_process_replaces_is_told_as_that_and_not_as_no_run(tmp_path):
    """Between the end of the old run's files and the new run's config.yaml the folder has none."""
    folder = tmp_path / "run"
    with Run(folder).lock, pytest.raises(InputError, match="is being trained by process"):
        Run.started(folder)
    with pytest.raises(InputError, match="is not a run folder"):
        Run.started(folder)


def test_the_same_evaluation_twice_at_once_is_refused_and_another_one_is_not(base, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    shutil.copytree(base, folder)
    command = ["evaluate", str(folder), "--estimator", "bound", "--passes", "1", "--limit", "4", "--device", "cpu"]
    evaluate_all = ndm.experiment.evaluation.evaluate_all
    seen = []

    def meanwhile(*args):
        if not seen:
            seen.append(1)
            seen.append(main([*command, "--steps", "3"]))
            seen.append(capsys.readouterr().err)
            seen.append(main([*command, "--steps", "4"]))
        return evaluate_all(*args)

    monkeypatch.setattr("ndm.experiment.evaluation.evaluate_all", meanwhile)
    assert main([*command, "--steps", "3"]) == 0
    assert seen[1] == 2 and seen[2].count("\n") == 1 and "is being evaluated in the same way by process" in seen[2]
    assert seen[3] == 0
    assert len((folder / "evaluations.jsonl").read_text().splitlines()) == 2
    assert not list(folder.glob("*.partial.*")) + list(folder.glob(".*lock"))


def test_a_result_is_not_kept_in_a_run_that_another_one_has_replaced(base, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    shutil.copytree(base, folder)
    evaluate_all = ndm.experiment.evaluation.evaluate_all

    def meanwhile(*args):
        assert main(["train", "digits", "--out", str(folder), "--overwrite", *TINY, "--training.steps", "1"]) == 0
        return evaluate_all(*args)

    monkeypatch.setattr("ndm.experiment.evaluation.evaluate_all", meanwhile)
    assert main(["evaluate", str(folder), "--estimator", "bound", "--passes", "1", "--limit", "4"]) == 0
    shown = capsys.readouterr()
    assert "bound, T=10" in shown.out and "another run has replaced" in " ".join(shown.err.split())
    assert not (folder / "evaluations.jsonl").exists()


def test_two_demos_do_not_share_a_folder(tmp_path, capsys):
    with Lock(tmp_path / "demo" / ".ndm-lock", "written"):
        assert main(["demo", "--out", str(tmp_path / "demo"), "--steps", "1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "demo is being written by process" in error and "choose another --out" in error
    assert list(tmp_path.iterdir()) == []


def train_with(folder, monkeypatch, happens, capsys):
    """Train while something happens to the folder at the fifth step; the exit status, and what is told on stderr."""
    update = ndm.training.Trainer.update

    def meanwhile(self, *args):
        if self.step == 5:
            happens()
        update(self, *args)

    monkeypatch.setattr(ndm.training.Trainer, "update", meanwhile)
    settings = [*TINY, "--training.steps", "20", "--training.evaluate_every", "0", "--device", "cpu"]
    status = main(["train", "digits", "--out", str(folder), *settings])
    return status, " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("every", ["2", "1000"])
@pytest.mark.parametrize("kind", ["moved", "deleted", "replaced"])
def test_a_training_whose_folder_is_taken_away_ends_with_an_error_and_makes_no_half_run(
    kind, every, base, tmp_path, monkeypatch, capsys
):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    monkeypatch.setattr(sys.modules[__name__], "TINY", [*TINY, "--training.checkpoint_every", every])

    def happens():
        shutil.move(folder, elsewhere)
        if kind == "deleted":
            shutil.rmtree(elsewhere)
        if kind == "replaced":
            shutil.copytree(base, folder)

    status, told = train_with(folder, monkeypatch, happens, capsys)
    assert status == 2
    if kind == "replaced":
        assert "was moved, deleted or replaced while the run was trained" in told
        assert (folder / "metrics.jsonl").read_bytes() == (base / "metrics.jsonl").read_bytes()
        assert Run(folder).checkpoints.steps() == Run(base).checkpoints.steps()
    else:
        assert not folder.exists()
    if kind == "moved" and every == "2":
        assert Run(elsewhere).checkpoints.steps() == [2, 4]


def test_a_config_that_is_removed_during_the_training_is_written_again(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    status, told = train_with(folder, monkeypatch, (folder / "config.yaml").unlink, capsys)
    assert status == 0 and "config.yaml was removed while the run was trained; it is written again" in told
    assert Run.open(folder).config.training.steps == 20


def test_a_file_in_the_place_of_the_checkpoints_is_told_without_a_promise(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"

    def happens():
        shutil.rmtree(folder / "checkpoints")
        (folder / "checkpoints").write_text("mine")

    status, told = train_with(folder, monkeypatch, happens, capsys)
    assert status == 2 and "cannot write to" in told and "intact" not in told
