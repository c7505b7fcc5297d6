"""Results: what can be checked is checked before the work; what was computed is shown with its step, or refused."""

import json
import re

import numpy as np
import pytest
import torch

import ndm
from ndm.cli import main
from ndm.data import load_dataset
from ndm.evaluation import Protocol, evaluate
from ndm.evaluation.diagnosis import diagnose, report
from ndm.evaluation.pieces import make_pieces, nats_of_rows
from ndm.experiment import Run
from ndm.experiment.results import as_json, check_finite, figures, without_infinities
from ndm.experiment.snapshot import save_model
from ndm.objective import Bound, bound_terms
from ndm.support.journal import Journal

from conftest import refused

TINY = ["--model.width", "8", "--model.depth", "1", "--training.batch_size", "16", "--training.checkpoint_every", "4"]
TINY += ["--training.evaluate_every", "4", "--training.steps", "12", "--device", "cpu"]
BOUND = ["--estimator", "bound", "--steps", "3", "--passes", "2", "--limit", "6", "--device", "cpu"]

pytestmark = pytest.mark.usefixtures("float32")


def words(text):
    return " ".join(text.split())


def no_work(monkeypatch):
    """From here on sampling and estimating are failures."""
    monkeypatch.setattr("ndm.sampling.sample", lambda *_, **__: pytest.fail("sampled"))
    monkeypatch.setattr("ndm.evaluation.estimate.evaluate", lambda *_, **__: pytest.fail("evaluated"))


# Checks come before the work.


@pytest.mark.parametrize(("train", "test", "num"), [(60, 80, 70), (200, 30, 70), (200, 80, 20)])
def test_quality_of_a_small_run_is_refused_before_sampling(train, test, num, tmp_path, monkeypatch, capsys):
    x = np.random.default_rng(0).integers(0, 256, (train + test, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x_train=x[:train], x_validation=x[:10], x_test=x[train:])
    folder, settings = str(tmp_path / "run"), ["--data.name", "array", "--data.path", str(tmp_path / "x.npz")]
    assert main(["train", "digits-conventional", "--out", folder, *settings, *TINY]) == 0
    capsys.readouterr()
    no_work(monkeypatch)
    assert "at least" in refused(["quality", folder, "--num", str(num)], capsys)


SAMPLES = {
    "scaled to one": lambda x: x / 16,
    "ten times as large": lambda x: x * 40,
    "below zero": lambda x: x - 1,
    "not finite": lambda x: np.where(x > 15, np.nan, x),
    "truth values": lambda x: x > 8,
    "complex": lambda x: x + 0j,
    "words": lambda x: x.astype(str),
    "flat": lambda x: x.reshape(len(x), -1),
    "wrapped around": lambda x: (x - 1).astype(np.uint64),
    "a single row": lambda x: x[:1],
    "a number": lambda x: np.float64(3),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_samples_that_are_no_values_of_the_data_are_not_scored(kind, run, tmp_path, capsys):
    x = SAMPLES[kind](load_dataset("digits").test.numpy())
    np.savez(tmp_path / "x.npz", x=x)
    refused(["quality", str(run), "--samples", str(tmp_path / "x.npz")], capsys)
    assert not (run / "qualities.jsonl").exists()


def test_samples_of_real_numbers_beyond_float32_are_not_scored(tmp_path, capsys):
    folder = str(tmp_path / "run")
    assert main(["train", "ring", "--out", folder, *TINY]) == 0
    capsys.readouterr()
    for value, message in ((1e300, "beyond the range of float32"), (np.inf, "not finite in 60 rows")):
        np.savez(tmp_path / "x.npz", x=np.full((60, 2), value))
        assert message in refused(["quality", folder, "--samples", str(tmp_path / "x.npz")], capsys)


def test_foreign_lines_among_the_metrics_stop_neither_a_result_nor_a_resumption(run):
    file = run / "metrics.jsonl"
    (run / "model" / "training.json").unlink()
    records = Run(run).metrics()
    file.write_text(file.read_text() + '3\n"x"\n{"loss": 1}\n[{"step": 2}]\n')
    assert Run(run).metrics() == records and Run(run).snapshot().step == 12
    assert main(["train", "--resume", str(run), "--device", "cpu"]) == 0
    assert Run(run).metrics() == records


@pytest.mark.parametrize("dtype", ["uint8", ">i4", "float32", ">f8", "uint16"])
def test_samples_of_any_dtype_that_holds_the_levels_score_the_same(dtype, run, tmp_path, capsys):
    x = load_dataset("digits").train[:60].numpy()
    scores = []
    for number, rows in enumerate((x, x.astype(dtype))):
        np.savez(tmp_path / f"{number}.npz", x=rows)
        assert main(["quality", str(run), "--samples", str(tmp_path / f"{number}.npz"), "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out)["scores"])
    assert scores[0] == scores[1]


@pytest.mark.parametrize("out", ["/proc/x.npz", "/proc/new/x.png", "FILE/x.npz"])
def test_samples_that_cannot_be_written_are_not_drawn(out, run, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    no_work(monkeypatch)
    out = out.replace("FILE", str(tmp_path / "file"))
    assert "cannot be written" in refused(["sample", str(run), "--out", out], capsys)


def test_the_last_estimator_is_checked_before_the_first_one_is_computed(tmp_path, monkeypatch, capsys):
    folder = str(tmp_path / "run")
    stepwise = ["--model.schedule", "stepwise", "--training.bound_steps", "4"]
    assert main(["train", "digits-conventional", "--out", folder, *TINY, *stepwise]) == 0
    capsys.readouterr()
    no_work(monkeypatch)
    assert "belongs to steps=4" in refused(["evaluate", folder, "--steps", "4,10"], capsys)


def test_a_folder_that_holds_a_run_and_a_device_are_checked_before_the_data_are_read(run, monkeypatch, capsys):
    monkeypatch.setattr("ndm.data.load_dataset", lambda **_: pytest.fail("read"))
    assert "already holds a run" in refused(["train", "digits", "--out", str(run)], capsys)
    assert "choose a multiple" in refused(
        ["train", "digits", "--out", str(run), "--overwrite", "--training.accumulate", "7"], capsys
    )
    monkeypatch.setattr(Run, "load_dataset", lambda *_: pytest.fail("read"))
    for command in ("evaluate", "sample", "quality", "doctor"):
        assert "is not available" in refused([command, str(run), "--device", "abacus"], capsys)


# Results are shown, also where they cannot be kept.


@pytest.mark.parametrize("command", ["evaluate", "quality", "doctor"])
def test_a_result_that_cannot_be_kept_is_printed_with_a_warning(command, run, tmp_path, capsys):
    for name in ("evaluations.jsonl", "qualities.jsonl", "doctor.png"):
        (run / name).mkdir()
    np.savez(tmp_path / "x.npz", x=load_dataset("digits").train[:60].numpy())
    options = {"evaluate": BOUND, "quality": ["--samples", str(tmp_path / "x.npz")], "doctor": ["--limit", "4"]}
    assert main([command, str(run), *options[command]]) == 0
    shown = capsys.readouterr()
    assert {"evaluate": "bound, T=3", "quality": "precision", "doctor": "what to change"}[command] in shown.out
    assert words(shown.err).count("could not be written") == 1


def test_a_run_that_may_not_be_written_is_evaluated_with_a_warning(run, monkeypatch, capsys):
    def closed(folder):
        raise ndm.InputError(f"{folder} cannot be written (read-only file system)")

    monkeypatch.setattr("ndm.experiment.results.check_writable", closed)
    before = sorted(run.rglob("*"))
    monkeypatch.setattr("ndm.support.journal.append_line", lambda *_: pytest.fail("written"))
    (run / "evaluations.jsonl").mkdir()
    assert main(["evaluate", str(run), *BOUND]) == 0
    shown = capsys.readouterr()
    assert (
        "bound, T=3" in shown.out
        and "cannot be written (read-only file system), so the result will only be printed" in words(shown.err)
    )
    assert sorted(run.rglob("*")) == sorted([*before, run / "evaluations.jsonl"])


def test_a_disk_that_fills_up_during_an_evaluation_does_not_end_it(run, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ndm.support.journal.append_line", full)
    monkeypatch.setattr("ndm.experiment.results.append_line", full)
    monkeypatch.setattr("ndm.evaluation.pieces.ROWS", {"bound": 2})
    assert main(["evaluate", str(run), *BOUND]) == 0
    shown = capsys.readouterr()
    assert "bound, T=3" in shown.out and words(shown.err).count("No space left on device") == 2  # pieces, and result


def test_ctrl_c_in_sample_keeps_the_finished_samples(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ndm.sampling.BATCH", 4)
    sample, batches = ndm.sampling.sample, []

    def interrupted(*args, **options):
        batches.append(1)
        if len(batches) > 2:
            raise KeyboardInterrupt
        return sample(*args, **options)

    out = tmp_path / "x.npz"
    command = ["sample", str(run), "--num", "10", "--steps", "2", "--device", "cpu", "--out", str(out)]
    assert main(command) == 0
    with np.load(out) as file:
        whole = file["x"]
        assert (file["step"], file["last_step"]) == (12, 12)
    capsys.readouterr()
    monkeypatch.setattr("ndm.sampling.sample", interrupted)
    assert main(command) == 130
    told = words(capsys.readouterr().err)
    assert "exists and will be replaced" in told and "interrupted: 8 of 10 samples" in told
    with np.load(out) as file:
        assert np.array_equal(file["x"], whole[:8])
    assert main(command) == 130  # now before the first batch
    assert "interrupted before the first samples" in words(capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "x.npz"]
    with np.load(out) as file:
        assert len(file["x"]) == 8


# Every result says its step.


def test_every_result_says_of_which_step_it_is(run, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x=load_dataset("digits").train[:60].numpy())
    commands = (["evaluate", str(run), *BOUND], ["doctor", str(run), "--limit", "4"])
    quality = ["quality", str(run), "--samples", str(tmp_path / "x.npz")]
    for checkpoint, step in (([], 12), (["--checkpoint", "8"], 8)):
        for command in (*commands, quality):
            assert main([*command, *checkpoint]) == 0
            text = capsys.readouterr().out
            assert f"step {step} of 12" in text or command is quality
    for command in commands:
        assert main([*command, "--checkpoint", "8", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["step"], found["last_step"]) == (8, 12)
    kept = [json.loads(line) for line in (run / "qualities.jsonl").read_text().splitlines()]
    assert [line["step"] for line in kept] == [12, 8]


def test_the_model_of_a_stopped_training_keeps_its_step_while_the_training_goes_on(run):
    """The step stands beside the model: the metrics are ahead of the model while a resumed run trains."""
    (run / "model" / "training.json").write_text('{"step": 5}')
    assert Run(run).snapshot().step == 5 and not Run(run).snapshot().finished


def test_the_step_of_a_model_of_an_earlier_version_is_told_by_the_metrics_or_unknown(run, capsys):
    (run / "model" / "training.json").unlink()
    assert Run(run).snapshot().step == 12
    lines = (run / "metrics.jsonl").read_text().splitlines()
    cut = [line for line in lines if json.loads(line)["step"] <= 8]
    (run / "metrics.jsonl").write_text("\n".join([*cut, '{"step": 9, "interrupted": "SIGINT"}']) + "\n")
    assert Run(run).snapshot().step == 9
    (run / "metrics.jsonl").write_text("\n".join(cut) + "\n")
    assert main(["evaluate", str(run), *BOUND]) == 0
    assert "step ? of 12" in capsys.readouterr().out


# No result is a NaN.


def break_model(run):
    model = ndm.NDM.from_pretrained(run / "model")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    return model


@pytest.mark.parametrize("command", [["evaluate", *BOUND], ["doctor", "--limit", "4"], ["sample"], ["quality"]])
def test_no_command_ends_well_with_a_nan(command, tmp_path, monkeypatch, capsys):
    """The data are real numbers, so that nothing turns a NaN into a level."""
    folder, options = tmp_path / "run", ["--num", "60", "--steps", "2"]
    assert main(["train", "ring", "--out", str(folder), *TINY]) == 0
    broken = break_model(folder)
    capsys.readouterr()
    monkeypatch.setattr(ndm.NDM, "from_pretrained", lambda *_: broken)
    monkeypatch.chdir(tmp_path)
    name, *rest = command
    rest += options if name in ("sample", "quality") else []
    assert main([name, str(folder), *rest]) == 2
    shown = capsys.readouterr()
    assert "finite" in shown.err and "Traceback" not in shown.err and not shown.out
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_weights_that_are_not_finite_are_not_saved_over_others(run):
    before = {path: path.read_bytes() for path in (run / "model").iterdir()}
    with pytest.raises(ndm.InputError, match="after step 7 the weights of .* are not finite"):
        save_model(break_model(run), run / "model", 7)
    assert {path: path.read_bytes() for path in (run / "model").iterdir()} == before


@pytest.mark.parametrize("setting", ["learning_rate", "weight_decay"])
def test_a_setting_that_leaves_the_range_of_float32_is_refused(setting, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for value in ("1e39", "inf", "nan"):
        assert f"training.{setting}" in refused(["train", "ring", f"--training.{setting}", value], capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_training_without_one_finite_step_is_no_training(tmp_path, monkeypatch, capsys):
    broken = lambda *args: Bound(*(term * torch.nan for term in bound_terms(*args)))  # noqa: E731
    monkeypatch.setattr("ndm.training.loss.bound_terms", broken)
    folder = tmp_path / "run"
    assert main(["train", "ring", "--out", str(folder), *TINY, "--training.steps", "3"]) == 2
    assert "none of the 3 steps had a finite gradient" in words(capsys.readouterr().err)
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_figure_that_is_not_finite_is_named():
    record = {"rows": 3, "estimates": [{"estimator": "bound, T=5", "bpd": 1.0, "prior": float("nan"), "nfe": None}]}
    assert dict(figures(record)).keys() == {"estimates, bound, T=5, bpd", "estimates, bound, T=5, prior"}
    with pytest.raises(ndm.InputError, match="estimates, bound, T=5, prior is nan"):
        check_finite(record)
    with pytest.raises(ValueError, match="JSON"):
        as_json(record)
    assert without_infinities({"a": float("inf"), "b": 1.0, "c": "x"}) == {"a": None, "b": 1.0, "c": "x"}


# The doctor's figures are those of evaluate, with their errors.


def test_the_doctors_bound_is_that_of_evaluate(run, capsys):
    options = ["--limit", "20", "--seed", "3", "--device", "cpu", "--json"]
    assert main(["doctor", str(run), *options]) == 0
    found = json.loads(capsys.readouterr().out)
    bound = ["--estimator", "bound", "--steps", "continuous", "--split", "validation"]
    assert main(["evaluate", str(run), *options, *bound]) == 0
    (e,) = json.loads(capsys.readouterr().out)["estimates"]
    assert found["bound"] == e["bpd"] and found["bound_error"] == e["standard_error"]
    assert [found[name] for name in ("prior", "diffusion", "reconstruction")] == pytest.approx(
        [e[name] for name in ("prior", "diffusion", "reconstruction")], rel=1e-12
    )
    assert (found["rows"], found["passes"]) == (20, 30)
    model, x = ndm.NDM.from_pretrained(run), load_dataset("digits").validation[:20]
    ode = evaluate(model, x, Protocol("ode", seed=3))
    assert (found["ode"], found["ode_error"], found["ode_rows"]) == (ode.bpd, ode.standard_error, 20)
    pair = (Protocol("ode", seed=3), Protocol("bound", seed=3))
    both = [list(make_pieces(model, x, protocol, Journal()).values()) for protocol in pair]
    gaps = ndm.bits_per_dim(nats_of_rows(both[0]) - nats_of_rows(both[1]), x)
    assert found["gap_error"] == pytest.approx(gaps.std().item() / 20**0.5, rel=1e-9)
    assert found["ode_bound"] == e["bpd"] and found["gap"] == pytest.approx(ode.bpd - e["bpd"], rel=1e-9)


def test_the_errors_of_the_doctor_are_those_of_fresh_rows():
    """Over 40 sets of 30 rows the bound, the prior and the largest part of the profile spread by the errors given.

    The tolerance is 40 %, and the standard error of a standard deviation of 40 values is 11 %.
    """
    torch.manual_seed(0)
    process = ndm.ForwardProcess(ndm.StepwiseSchedule(-4.0, 1.0, steps=3))
    model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((3,), width=8, depth=1)), ndm.GaussianDecoder()).eval()
    found = [diagnose(model, torch.randn(30, 3), seed=k, passes=4) for k in range(40)]
    for value, error in (
        ("prior", "prior_error"),
        ("bound", "bound_error"),
        ("reconstruction", "reconstruction_error"),
    ):
        values = torch.tensor([getattr(d, value) for d in found])
        errors = torch.tensor([getattr(d, error) for d in found])
        assert values.std() == pytest.approx(errors.mean().item(), rel=0.4), value
    tenths = torch.tensor([d.profile for d in found])
    errors = torch.tensor([d.profile_error for d in found])
    k = int(tenths.mean(0).argmax())
    assert tenths[:, k].std() == pytest.approx(errors[:, k].mean().item(), rel=0.4)


def test_advice_needs_more_than_two_standard_errors(monkeypatch):
    """The prior gap is 0.005 and more in the mean of both sets; in one of them only because of a single row."""
    torch.manual_seed(0)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-4.0, 5.0))
    model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,), width=8, depth=1)), ndm.GaussianDecoder()).eval()
    calm = torch.full((12, 2), 3.0)
    odd = torch.zeros(12, 2)
    odd[0] = 10.0
    for x, told in ((calm, True), (odd, False)):
        d = diagnose(model, x, passes=4, solves=2)
        assert d.prior > 0.005
        assert any("the prior gap costs" in line for line in d.advice) == told
    assert re.search(r"bound .* ± .* bits/dim on 12 rows, 4 passes", report(d))
    assert not any(
        "the prior gap" in line for line in diagnose(model, calm[:1], passes=4).advice
    )  # no error, no advice


def test_the_best_weights_are_of_their_own_step(tmp_path, monkeypatch, capsys):
    """With patience the model is that of the best validation, and everything says so."""
    values = iter([3.0, 2.0, 2.5, 2.6])
    monkeypatch.setattr("ndm.training.loop.Trainer.validate", lambda self: next(values))
    line = ["train", "digits-conventional", "--out", str(tmp_path / "run"), *TINY, "--training.steps", "16"]
    assert main([*line, "--training.patience", "2"]) == 0
    assert "the model has the average of step 8, whose bound" in words(capsys.readouterr().err)
    run = Run(tmp_path / "run")
    best, found = run.snapshot("best"), run.snapshot()
    assert (found.step, best.step, found.progress) == (8, 8, "step 8 of 16")
    newest = run.snapshot("newest")
    assert newest.step == 16
    weights, of_best, of_newest = (s.model.predictor.net.head.weight for s in (found, best, newest))
    assert torch.equal(weights, of_best) and not torch.equal(weights, of_newest)
