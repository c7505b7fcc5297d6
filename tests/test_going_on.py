"""From one training to the next: another run's weights to start with, more steps, and a run's folder as a model."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

import ndm
from ndm.cli import main
from ndm.experiment import Run
from ndm.experiment.snapshot import start_from
from ndm.training import Trainer, learning_rate

from conftest import TINY, refused

pytestmark = pytest.mark.usefixtures("float32")


def averages(folder, step):
    state = load_file(folder / "checkpoints" / f"step-{step:08d}" / "state.safetensors")
    return {name: value for name, value in state.items() if name.startswith("average.")}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# A run's folder is a model.


def test_a_runs_folder_is_loaded_as_its_model(run):
    assert equal(ndm.NDM.from_pretrained(run).state_dict(), ndm.NDM.from_pretrained(run / "model").state_dict())
    shutil.rmtree(run / "model")
    with pytest.raises(ndm.InputError, match=r"has no model yet: wait .*--resume .*load_model"):
        ndm.NDM.from_pretrained(run)
    with pytest.raises(ndm.InputError, match="not a model folder"):
        ndm.NDM.from_pretrained(run / "checkpoints")


# --init.


def test_a_run_starts_with_the_averaged_weights_of_another(run, tmp_path, capsys, monkeypatch):
    """The checkpoint of step 0 holds them, so a resumed run does not look at the other run again."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", "--out", "next", "--init", "run", *TINY, "--training.steps", "4"]) == 0
    following = Run(tmp_path / "next")
    assert following.config.init == str(run)
    assert equal(averages(following.folder, 0), averages(run, 12))
    state = load_file(following.folder / "checkpoints" / "step-00000000" / "state.safetensors")
    assert not [name for name in state if name.startswith("optimizer.")]
    whole = averages(following.folder, 4)
    assert not equal(whole, averages(run, 12))
    shutil.rmtree(run)
    for path in following.folder.glob("checkpoints/step-00000004"):
        shutil.rmtree(path)
    assert main(["train", "--resume", "next", "--device", "cpu"]) == 0
    assert equal(averages(following.folder, 4), whole)
    capsys.readouterr()
    assert "training.learning_rate" in refused(["train", "--resume", "next", "--training.learning_rate", "1"], capsys)
    assert "init is" in refused(["train", "--resume", "next", "--init", "elsewhere"], capsys)


def test_the_units_of_a_run_that_starts_with_other_weights_are_those_of_its_data(tmp_path):
    def make(mean):
        process, net = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0)), ndm.nn.MLP((2,), width=4, depth=1)
        return ndm.NDM(process, ndm.Predictor(net), ndm.GaussianDecoder(mean, 2.0))

    first, second = make(3.0), make(-1.0)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.normal_()
    first.save_pretrained(tmp_path)
    start_from(second, tmp_path)
    assert equal(dict(first.named_parameters()), dict(second.named_parameters()))
    x = torch.randn(5, 2)
    torch.testing.assert_close(second.encode(x), (x + 1) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.width", "16"], "do not fit these settings: predictor"),
        (["--model.depth", "2"], "is missing there and"),
        (["--model.transform", "identity", "--model.predict_curve", "false"], "do not fit these settings"),
        (["--data.name", "ring"], "do not fit these settings"),
        (["--init", "nowhere"], "nowhere is not a model folder"),
        (["--init", "unfinished"], "has no model yet"),
    ],
)
def test_weights_that_do_not_fit_are_one_line_and_no_run_is_begun(options, message, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "unfinished", ignore=shutil.ignore_patterns("model"))
    command = ["train", "digits", "--out", "next", "--init", "run", *TINY, "--training.steps", "4", *options]
    assert message in refused(command, capsys)
    assert not (tmp_path / "next").exists()


@pytest.mark.parametrize("place", [".", "model"])
def test_a_run_is_not_replaced_by_one_that_starts_with_its_weights(place, run, capsys):
    before = sorted(run.rglob("*"))
    command = ["train", "digits", "--out", str(run), "--overwrite", "--init", str(run / place), *TINY]
    assert "is in the run that would be replaced" in refused(command, capsys)
    assert sorted(run.rglob("*")) == before


# More steps.


def test_a_finished_run_goes_on_to_a_later_step(run, capsys):
    assert main(["train", "--resume", str(run), "--training.steps", "20", "--device", "cpu"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    training = Run(run).config.training
    rate = f"{learning_rate(12, training):.3g}"
    assert f"the last step is now 20 instead of 12: at step 13 the learning rate is {rate}, and it falls" in told
    assert training.steps == 20 and Run(run).snapshot().step == 20
    records = Run(run).metrics()
    assert {"step": 12, "steps_before": 12, "steps": 20} in records
    steps = [record["step"] for record in records]
    assert steps == sorted(steps) and steps[-1] == 20
    assert [r["learning_rate"] for r in records if "learning_rate" in r] == [pytest.approx(1e-8)] * 2


def test_a_longer_run_that_is_killed_and_resumed_is_that_longer_run(run, tmp_path):
    """The run that goes on to step 20 loses its checkpoints behind step 16; it makes the same steps again."""
    assert main(["train", "--resume", str(run), "--training.steps", "20", "--device", "cpu"]) == 0
    whole, records = averages(run, 20), [{**r, "seconds": 0} for r in Run(run).metrics()]
    shutil.rmtree(run / "checkpoints" / "step-00000020")
    assert main(["train", "--resume", str(run), "--device", "cpu"]) == 0
    assert equal(averages(run, 20), whole)
    assert [{**r, "seconds": 0} for r in Run(run).metrics()] == records


@pytest.mark.parametrize(("option", "value"), [("patience", "1"), ("max_seconds", "0.001")])
def test_more_steps_for_a_run_that_something_else_has_ended_are_refused(option, value, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    monkeypatch.setattr(Trainer, "validate", lambda self: float(self.step))  # it gets worse
    line = ["train", "digits", "--out", str(folder), *TINY, "--training.evaluate_every", "2"]
    assert main([*line, "--training.steps", "40", f"--training.{option}", value]) == 0
    before = (folder / "config.yaml").read_bytes()
    capsys.readouterr()
    assert main(["train", "--resume", str(folder), "--training.steps", "80"]) == 2
    assert f"training.{option} has ended" in " ".join(capsys.readouterr().err.split())
    assert (folder / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("steps", ["8", "11"])
def test_steps_that_are_done_are_refused(steps, run, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert "not larger than the 12 steps" in refused(["train", "--resume", str(run), "--training.steps", steps], capsys)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_stopped_run_may_end_earlier_but_other_settings_stay(run, capsys):
    """It was to make 12 steps and stopped after 8. It may end at step 10, with a learning rate that falls by then."""
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    assert main(["train", "--resume", str(run), "--training.steps", "10", "--device", "cpu"]) == 0
    assert "the last step is now 10 instead of 12" in " ".join(capsys.readouterr().err.split())
    last = Run(run).metrics()[-1]
    assert last["step"] == 10 and Run(run).snapshot().progress == "step 10 of 10"
    both = ["--training.steps", "20", "--training.warmup", "3"]
    assert "training.warmup is 2 in" in refused(["train", "--resume", str(run), *both], capsys)
    assert Run(run).config.training.steps == 10
