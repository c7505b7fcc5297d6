"""The command line: a tiny model from training to quality; bad input gives one line and exit code 2."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ndm
from ndm.cli import main
from ndm.cli.commands import COMMANDS
from ndm.cli.common import draw
from ndm.data import load_dataset, ring
from ndm.evaluation import Protocol, evaluate
from ndm.evaluation.quality import Score, quality
from ndm.experiment import Run
from ndm.experiment.recipe import find_recipe, read_settings
from ndm.training.validation import validation_nats
from processes import Started

from conftest import command

TINY = ["--training.steps", "12", "--training.batch_size", "16", "--model.width", "16", "--model.depth", "1"]


pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "digits", "--out", str(folder), "--seed", "3", *TINY]) == 0
    return folder


def test_a_run_folder_holds_everything(run):
    names = {p.name for p in run.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "model", "samples.png"} <= names
    config = (run / "config.yaml").read_text()
    assert "seed: 3" in config and "steps: 12" in config and "width: 16" in config
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["step"] == 12


def test_evaluate_prints_json_that_is_appended_too(run, capsys):
    arguments = ["evaluate", str(run), "--json", "--passes", "2", "--limit", "8", "--steps", "5,continuous"]
    assert main(arguments) == 0
    out = json.loads(capsys.readouterr().out)
    names = [e["estimator"] for e in out["estimates"]]
    assert names[:2] == ["bound, T=5", "bound, continuous time"] and names[2].startswith("ODE through the decoder")
    for e in out["estimates"]:
        assert e["rows"] == 8 and e["bpd"] > 0 and e["standard_error"] > 0
        assert e["nats"] == pytest.approx(e["bpd"] * 64 * np.log(2))
    terms = out["estimates"][0]
    assert terms["bpd"] == pytest.approx(terms["prior"] + terms["diffusion"] + terms["reconstruction"])
    assert json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1]) == out
    main(arguments)
    again = json.loads(capsys.readouterr().out)
    assert [e["bpd"] for e in again["estimates"]] == [e["bpd"] for e in out["estimates"]]


def test_evaluate_prints_a_table_by_default(run, capsys):
    assert main(["evaluate", str(run), "--passes", "1", "--limit", "4", "--estimator", "bound"]) == 0
    out = capsys.readouterr().out
    assert "bound, T=10" in out and "bits/dim" in out and "ODE" not in out


def test_sample_writes_a_picture_or_an_array(run, tmp_path):
    for name in ("x.png", "x.npz"):
        arguments = ["sample", str(run), "--num", "5", "--steps", "3", "--out", str(tmp_path / name)]
        assert main(arguments) == 0
    x = np.load(tmp_path / "x.npz")["x"]
    assert x.shape == (5, 1, 8, 8) and x.min() >= 0 and x.max() <= 16
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npz", "x.png"]


def test_a_toy_run_goes_the_whole_way(tmp_path, capsys):
    folder = str(tmp_path / "ring")
    assert main(["train", "ring", "--out", folder, *TINY]) == 0
    assert main(["evaluate", folder, "--json", "--passes", "1", "--limit", "8"]) == 0
    assert json.loads(capsys.readouterr().out)["entropy_nats"] == ring().entropy()
    assert main(["evaluate", folder, "--estimator", "bound", "--passes", "1", "--limit", "8"]) == 0
    assert "entropy of the data" in capsys.readouterr().out
    assert main(["sample", folder, "--num", "9", "--solver", "heun", "--out", str(tmp_path / "ring.png")]) == 0


def test_a_stepwise_schedule_is_evaluated_at_its_own_steps(tmp_path, capsys):
    folder = str(tmp_path / "run")
    extra = ["--model.schedule", "stepwise", "--training.bound_steps", "4", "--model.variance", "true"]
    assert main(["train", "digits", "--out", folder, *TINY, *extra]) == 0
    assert main(["evaluate", folder, "--json", "--passes", "1", "--limit", "4"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert [e["estimator"] for e in out["estimates"]] == ["bound, T=4"]
    assert main(["sample", folder, "--num", "2", "--out", str(tmp_path / "x.npz")]) == 0
    for wrong in (["evaluate", folder, "--steps", "10"], ["evaluate", folder, "--estimator", "ode"]):
        assert main(wrong) == 2
        assert "belongs to steps=4" in capsys.readouterr().err


def test_the_demo_leaves_what_it_promises(tmp_path, capsys, monkeypatch):
    digits = load_dataset("digits")
    monkeypatch.setattr("ndm.demo.load_dataset", lambda _: replace(digits, test=digits.test[:64]))
    for name, value in (("STEPS", 4), ("PASSES", 1), ("ODE_ROWS", 4)):
        monkeypatch.setattr(f"ndm.demo.{name}", value)
    assert main(["demo", "--out", str(tmp_path / "demo"), "--steps", "3"]) == 0
    names = {p.name for p in (tmp_path / "demo").iterdir()}
    assert {"samples.png", "transform.png", "trajectories.png", "summary.md", "report.html"} <= names
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "2 runs compared" in page and "ODE through the decoder" in page
    summary = (tmp_path / "demo" / "summary.md").read_text()
    for text in (
        "bound, T=10",
        "bound, T=50",
        "bound, continuous time",
        "ODE through the decoder",
        "parameters",
        "seconds",
        "s.e.",
    ):
        assert text in summary
    assert "report.html in a browser" in capsys.readouterr().err

    for name in ("draw_pictures", "write_report"):  # they were drawn once
        monkeypatch.setattr(f"ndm.demo.{name}", lambda *_: None)
    weights = list((tmp_path / "demo").glob("*/model/model.safetensors"))
    before = {path: path.stat().st_mtime_ns for path in weights}
    (tmp_path / "demo" / "summary.md").unlink()  # as if it had been stopped before its end
    assert main(["demo", "--out", str(tmp_path / "demo"), "--steps", "3"]) == 0
    assert len(before) == 2 and {path: path.stat().st_mtime_ns for path in weights} == before
    assert (tmp_path / "demo" / "summary.md").exists()
    assert main(["demo", "--out", str(tmp_path / "demo"), "--steps", "2"]) == 0  # another one begins anew
    assert not set(before.values()) & {path.stat().st_mtime_ns for path in weights}


def test_recipes_and_help(capsys):
    assert main(["recipes"]) == 0
    assert "digits-conventional" in capsys.readouterr().out
    assert main([]) == 0
    usage = capsys.readouterr().out
    assert all(name in usage for name in COMMANDS)
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["train", "mnist-small", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    steps = read_settings(find_recipe("mnist-small"))["training"]["steps"]
    assert f"default: {steps})" in shown and "default: levels)" in shown


def test_data_that_have_moved_are_named_anew(tmp_path, capsys):
    file, x = tmp_path / "x.npz", np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(file, x_train=x[:30], x_test=x[30:])
    run, options = str(tmp_path / "run"), ["--model.multipliers", "[1]", "--training.sample_every", "0", *TINY]
    assert main(["train", "array", "--data.path", str(file), "--out", run, *options]) == 0
    (tmp_path / "elsewhere").mkdir()
    moved = str(file.rename(tmp_path / "elsewhere" / "x.npz"))
    evaluate = ["evaluate", run, "--estimator", "bound", "--steps", "2", "--passes", "1"]
    assert main(evaluate) == 2
    assert "no longer at" in capsys.readouterr().err
    assert main([*evaluate, "--data.path", moved]) == 0
    np.savez(file, x_train=x[10:], x_test=x[:10])
    assert main(["train", "--resume", run, "--data.path", str(file)]) == 2
    assert "data have changed" in capsys.readouterr().err
    assert main(["train", "--resume", run, "--data.path", moved]) == 0
    assert main(evaluate) == 0


def test_a_checkpoint_serves_in_place_of_the_finished_model(tmp_path, capsys):
    """The best step's average has that step's validation bound; the newest is the finished model."""
    folder, options = tmp_path / "run", ["--training.evaluate_every", "1", "--training.learning_rate", "10"]
    assert main(["train", "digits", "--out", str(folder), *TINY, *options, "--training.checkpoint_every", "2"]) == 0
    run = Run.open(folder)
    values = {r["step"]: r["validation_bpd"] for r in run.metrics() if "validation_bpd" in r}
    best = min(values, key=values.get)
    assert best < 12, "the case is to have a best step before the last"
    x = run.load_dataset().validation
    for which, step in (("best", best), (str(best), best), ("newest", 12)):
        model = run.load_model(which)
        value = ndm.bits_per_dim(validation_nats(model, x, None).item() / len(x), x)
        assert value == pytest.approx(values[step], rel=1e-6)
    finished = run.load_model()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in finished.state_dict().items())
    evaluate = ["evaluate", str(folder), "--estimator", "bound", "--steps", "2", "--passes", "1", "--checkpoint"]
    shutil.rmtree(folder / "model")  # as while it trains
    assert main([*evaluate, "best"]) == 0
    assert "EMA (checkpoint best)" in capsys.readouterr().out
    assert main([*evaluate, "3"]) == 2
    assert f"there are: {best}, 10, 12, newest, best" in capsys.readouterr().err


def test_the_samples_of_the_last_step_are_drawn_once(tmp_path, monkeypatch):
    drawn, draw_samples = [], Run.draw_samples
    monkeypatch.setattr(Run, "draw_samples", lambda *args: (drawn.append(args[3]), draw_samples(*args)))
    run, options = tmp_path / "run", [*TINY, "--training.sample_every", "8"]
    assert main(["train", "digits", "--out", str(run), *options]) == 0
    assert drawn == ["samples-00000008", "samples-00000012"]
    assert (run / "samples.png").read_bytes() == (run / f"{drawn[-1]}.png").read_bytes()
    (run / f"{drawn[-1]}.png").unlink()
    assert main(["train", "--resume", str(run)]) == 0
    assert drawn[2:] == ["samples"]


def test_with_patience_the_samples_are_those_of_the_saved_model(tmp_path, monkeypatch):
    """The best validation is that of step 8 of 12, or training stops for lack of progress; pictures come every 8."""
    from ndm.training import Trainer

    bounds = {4: 3.0, 8: 2.0, 12: 2.5}
    monkeypatch.setattr(Trainer, "validate", lambda self: bounds.get(self.step, 9.0))
    options = [*TINY, "--training.evaluate_every", "4", "--training.patience", "2", "--data.name", "digits"]
    drawn, draw_samples = [], Run.draw_samples
    monkeypatch.setattr(Run, "draw_samples", lambda *args: (drawn.append(args[3:]), draw_samples(*args)))
    run = tmp_path / "run"
    assert main(["train", "digits", "--out", str(run), *options, "--training.sample_every", "8"]) == 0
    assert (run / "samples.png").read_bytes() == (run / "samples-00000008.png").read_bytes()
    assert Run(run).snapshot().step == 8
    other = tmp_path / "other"
    assert main(["train", "digits", "--out", str(other), *options, "--training.steps", "40"]) == 0
    assert drawn[-1] == ("samples", 8)


BAD = [
    (["trian"], "unknown command 'trian'; did you mean 'train'? choose one of demo"),
    (["train", "digit", "--out", "RUN"], "no recipe or file 'digit'"),
    (["train", "digits", "--out", "RUN", "--training.stepz", "3"], "stepz"),
    (["train", "digits", "--out", "RUN", "--training.steps", "many"], "training.steps"),
    (["train", "digits", "--data.name", "array", "--data.path", "~nobody7/x"], "the home folder in ~nobody7/x"),
    (["train", "digits", "--init", "~nobody7/x"], "the home folder in ~nobody7/x is not known"),
    (["train", "digits", "--out", "RUN", "--training.batch_size", "2000000"], "batch_size must be at most 1,048,576"),
    (["train", "digits", "--out", "RUN", "--training.steps", "0"], "training.steps must be at least 1"),
    (["train", "digits", "--out", "RUN", "--model.schedule", "cubic"], "model.schedule"),
    (["train", "digits", "--out", "RUN", "--model.schedule", "stepwise"], "training.bound_steps"),
    (["train", "ring", "--out", "RUN", "--model.predict_curve", "true"], "needs a TimeBasis"),
    (["train", "digits", "--out", "RUN", "--data.name", "faces"], "unknown data set 'faces'"),
    (["train", "digits", "--out", "RUN", "--device", "abacus"], "device 'abacus' is not available"),
    (["train", "digits", "--out", "RUN", "--seed", "-1"], "seed must not be negative"),
    (["train", "digits", "--out", "RUN", "--seed", "1" + 20 * "0"], "seed must not be negative"),
    (["train", "digits", "--out", "RUN", "--model.width", "-1"], "model.width must be at least 1"),
    (["train", "digits", "--out", "RUN", "--model.dropout", "2"], "model.dropout must be in [0, 1)"),
    (["train", "digits-linear", "--out", "RUN", "--model.num_basis", "0"], "model.num_basis must be at least 1"),
    (["train", "digits", "--out", "RUN", "--training.bound_steps", "0"], "training.bound_steps must be at least 1"),
    (["train", "digits", "--out", "RUN", "--model.variance", "true"], "set training.bound_steps"),
    (["train", "digits", "--out", "RUN", "--device", "meta"], "device 'meta' is not available"),
    (["demo", "--steps", "0"], "training.steps must be at least 1"),
    (["demo", "--seed", "-1"], "seed must not be negative"),
    (["train"], "recipe"),
    (["evaluate", "RUN"], "not a run folder"),
    (["sample", "RUN", "--out", "x.gif"], "must end in .png or .npz"),
    (["sample", "RUN"], "not a run folder"),
    (["sample", "RUN", "--solver", "magic"], "not a run folder"),
    (["evaluate", "RUN", "--solver", "magic"], "unknown solver 'magic'"),
    (["evaluate", "RUN", "--divergence", "none"], "divergence"),
    (["doctor", "RUN"], "not a run folder"),
    (["quality", "RUN"], "not a run folder"),
    (["train", "digits", "--out", "RUN", "--training.clip", "-1"], "training.clip must be positive"),
    (["train", "digits", "--out", "RUN", "--training.beta2", "1.5"], "training.beta2 must be in [0, 1)"),
    (["train", "digits", "--out", "RUN", "--training.weight_decay", "-1"], "training.weight_decay must not be"),
    (["train", "digits", "--out", "RUN", "--training.uniform_times", "0"], "training.uniform_times must be in (0, 1]"),
    (["train", "digits", "--out", "RUN", "--training.accumulate", "3"], "choose a multiple of their product"),
    (["train", "digits", "--out", "RUN", "--training.eta_range", "0.5"], "training.eta_range must be at least 1"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("ndm: error: ") and message in error
    assert list(tmp_path.iterdir()) == []


def test_options_may_stand_before_the_recipe_and_override_it():
    args = COMMANDS["train"].parse(["--seed", "3", "digits-t10", "--model.width", "24"])
    config = args.config
    assert (args.recipe, config.seed, config.model.width) == ("digits-t10", 3, 24)
    assert (config.model.schedule, config.model.transform, config.training.bound_steps) == ("learned", "time_basis", 10)


def test_overwriting_leaves_nothing_of_the_earlier_run(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["train", "digits", "--out", str(folder), *TINY]) == 0
    assert main(["evaluate", str(folder), "--passes", "1", "--limit", "2", "--estimator", "bound"]) == 0
    refused = ["--training.accumulate", "7", "--overwrite"]
    assert main(["train", "digits", "--out", str(folder), *TINY, *refused]) == 2
    assert (folder / "model" / "model.safetensors").exists() and (folder / "evaluations.jsonl").exists()
    failing = ["--training.learning_rate", "1e30", "--training.clip", "1e30", "--overwrite"]
    assert main(["train", "digits", "--out", str(folder), *TINY, *failing]) == 2
    assert main(["evaluate", str(folder)]) == 2
    assert "no model yet" in capsys.readouterr().err
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoints", "config.yaml", "data.json", "metrics.jsonl"]


def test_a_run_finds_its_data_from_another_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).integers(0, 256, (30, 4, 4), dtype=np.uint8)
    np.savez("x.npz", x_train=x[:20], x_test=x[20:])
    settings = ["--data.name", "array", "--data.path", "x.npz"]
    assert main(["train", "digits", "--out", "run", *settings, *TINY]) == 0
    monkeypatch.chdir("/")
    assert main(["evaluate", str(tmp_path / "run"), "--passes", "1", "--estimator", "bound"]) == 0


def test_a_group_of_settings_can_come_from_a_file(tmp_path):
    (tmp_path / "model.yaml").write_text("width: 24\ndepth: 1\n")
    arguments = ["train", "digits", "--out", str(tmp_path / "run"), "--model", str(tmp_path / "model.yaml")]
    assert main([*arguments, *TINY[:4]]) == 0
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "width: 24" in config and "transform: time_basis" in config


def test_the_seed_decides_the_weights_of_a_run_and_evaluation_reads_the_split_it_names(run, tmp_path, capsys):
    torch.rand(1)  # what was drawn before does not matter
    again = tmp_path / "again"
    assert main(["train", "digits", "--out", str(again), "--seed", "3", *TINY]) == 0
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (run, again)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    capsys.readouterr()
    model, data = ndm.NDM.from_pretrained(run / "model"), load_dataset("digits")
    for split in ("train", "validation", "test"):
        options = ["--split", split, "--limit", "8", "--passes", "2", "--steps", "5", "--estimator", "bound", "--json"]
        assert main(["evaluate", str(run), *options]) == 0
        bpd = json.loads(capsys.readouterr().out)["estimates"][0]["bpd"]
        assert bpd == evaluate(model, getattr(data, split)[:8], Protocol("bound", 5, passes=2)).bpd


def test_sample_passes_its_options_on(run, tmp_path, monkeypatch):
    seen = {}

    def spy(model, shape, steps, solver, mode, generator):
        seen.update(shape=shape, steps=steps, solver=solver, mode=mode, seed=generator.initial_seed())
        return torch.zeros(shape, dtype=torch.int64)

    monkeypatch.setattr("ndm.sampling.sample", spy)
    options = ["--num", "3", "--steps", "7", "--solver", "heun", "--mode", "--seed", "11"]
    assert main(["sample", str(run), "--out", str(tmp_path / "x.npz"), *options]) == 0
    assert seen == {"shape": (3, 1, 8, 8), "steps": None, "solver": ndm.Solver("heun", 7), "mode": True, "seed": 11}


def test_the_doctor_prints_what_it_draws(run, capsys):
    assert main(["doctor", str(run), "--limit", "16", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["profile"]) == 10 and found["advice"]
    assert (run / "doctor.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["doctor", str(run), "--limit", "16"]) == 0
    out = capsys.readouterr().out
    total = found["prior"] + found["diffusion"] + found["reconstruction"]
    assert found["bound"] == pytest.approx(total) and f"bound {total:.4f} ± " in out and found["advice"][0] in out


def test_quality_compares_samples_of_the_run_or_of_a_file(run, tmp_path, capsys):
    data = load_dataset("digits")
    n = len(data.train) // 2
    np.savez(tmp_path / "rows.npz", x=data.train[:n].numpy())
    assert main(["quality", str(run), "--samples", str(tmp_path / "rows.npz"), "--seed", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    expected = quality(data.train[:n], data.train, data.test, seed=2)
    assert [Score(**score) for score in rows["scores"]] == expected
    assert rows["release"] == data.release and rows["rows"] == n
    assert json.loads((run / "qualities.jsonl").read_text().splitlines()[-1]) == rows
    assert main(["quality", str(run), "--num", "60", "--steps", "3"]) == 0
    out = capsys.readouterr().out
    assert all(score.name in out for score in expected)  # and an untrained model is told from digits
    drawn = json.loads((run / "qualities.jsonl").read_text().splitlines()[-1])
    assert (drawn["rows"], drawn["steps"], drawn["solver"]) == (60, 3, "ancestral")
    assert drawn["scores"][1]["value"] > 0.9 > rows["scores"][1]["value"]


def test_quality_without_usable_samples_says_what_to_do(run, tmp_path, capsys):
    (tmp_path / "not.npz").write_text("no array")
    np.savez(tmp_path / "whole.npz", x=np.zeros(1000))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:500])
    np.save(tmp_path / "bare.npy", np.zeros(10))
    for name in ("not.npz", "cut.npz", "bare.npy"):
        assert main(["quality", str(run), "--samples", str(tmp_path / name)]) == 2
        assert "ndm sample --out" in capsys.readouterr().err
    assert main(["quality", str(run), "--samples", str(tmp_path / "absent.npz")]) == 2
    assert "absent.npz: no such file" in capsys.readouterr().err
    assert main(["quality", str(run), "--num", "10", "--steps", "1"]) == 2
    assert "at least 50 rows" in capsys.readouterr().err
    assert main(["quality", str(run), "--inception", "weights.pth"]) == 2
    assert "8-bit images" in capsys.readouterr().err


def test_fid_without_its_libraries_fails_before_sampling(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ndm.cli.quality.draw", lambda *_: pytest.fail("sampled"))
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    bytes_ = replace(load_dataset("digits"), levels=256)
    monkeypatch.setattr(Run, "load_dataset", lambda *_: bytes_)
    (tmp_path / "weights.pth").touch()
    assert main(["quality", str(run), "--inception", str(tmp_path / "weights.pth")]) == 2
    assert "pip install 'torchmetrics[image]'" in capsys.readouterr().err


def test_many_samples_are_drawn_in_batches_of_one_stream(run, monkeypatch):
    monkeypatch.setattr("ndm.sampling.BATCH", 4)
    model = Run.open(run).load_model()
    x = draw(model, (1, 8, 8), 10, ndm.Solver("ancestral", 2), seed=5)
    generator = torch.Generator().manual_seed(5)
    parts = [ndm.sample(model, (n, 1, 8, 8), 2, generator=generator) for n in (4, 4, 2)]
    assert torch.equal(x, torch.cat(parts))


def test_steps_that_a_solver_does_not_take_are_told(run, tmp_path, capsys):
    command = ["sample", str(run), "--num", "1", "--out", str(tmp_path / "x.npz"), "--steps", "2", "--solver"]
    assert main([*command, "dopri5"]) == 0
    assert "warning: --steps 2 is not used, because dopri5 chooses its own steps" in capsys.readouterr().err
    assert main([*command, "heun"]) == 0
    assert "not used" not in capsys.readouterr().err


def test_zero_samples_or_steps_are_refused(run, capsys):
    for option in ("--num", "--steps"):
        assert main(["sample", str(run), option, "0"]) == 2
        assert f"{option} must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("number", [["--passes", "0"], ["--limit", "-5"], ["--samples", "0"]])
def test_counts_below_one_are_refused(number, run, capsys):
    assert main(["evaluate", str(run), *number]) == 2
    assert "must be at least 1" in capsys.readouterr().err


def test_one_row_has_no_standard_error(run, capsys):
    assert main(["evaluate", str(run), "--limit", "1", "--passes", "1", "--estimator", "bound", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["estimates"][0]["standard_error"] is None


def test_samples_that_cannot_be_written_are_one_line_and_leave_nothing(run, tmp_path, capsys):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("folder.png", "file/x.png"):
        assert main(["sample", str(run), "--num", "2", "--steps", "2", "--out", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("ndm: error: ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png"]


@pytest.mark.parametrize("name", ["sample", "quality"])
def test_samples_beyond_the_memory_are_refused_before_the_work(name, run, tmp_path, capsys):
    out = ["--out", str(tmp_path / "x.npz")] if name == "sample" else []
    assert main([name, str(run), "--num", "100000000000", *out]) == 2
    assert "100,000,000,000 samples take at least" in capsys.readouterr().err and not (tmp_path / "x.npz").exists()


def test_samples_are_written_through_a_link(run, tmp_path, capsys):
    for name, target in (("link", "target"), ("loop", "loop"), ("device", "/dev/null"), ("nowhere", "none/x")):
        (tmp_path / f"{name}.png").symlink_to(f"{target}.png" if name in ("link", "loop") else target)
    arguments = ["sample", str(run), "--num", "2", "--steps", "2", "--out"]
    assert main([*arguments, str(tmp_path / "link.png")]) == 0 and (tmp_path / "target.png").stat().st_size > 1000
    for name in ("loop", "device", "nowhere"):
        capsys.readouterr()
        assert main([*arguments, str(tmp_path / f"{name}.png")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("ndm: error: "), error
    assert all((tmp_path / f"{name}.png").is_symlink() for name in ("link", "loop", "device", "nowhere"))


@pytest.mark.parametrize("kind", ["steps", "weights", "no model", "recipe key"])
def test_bad_files_are_named(kind, run, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    arguments = ["evaluate", str(copy)]
    if kind == "steps":
        arguments += ["--steps", "ten"]
    elif kind == "weights":
        weights = copy / "model" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-10])
    elif kind == "no model":
        shutil.rmtree(copy / "model")
    else:
        (tmp_path / "r.yaml").write_text("model: {wide: 3}")
        arguments = ["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "new")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    message = {"steps": "whole numbers", "weights": "damaged", "no model": "no model yet", "recipe key": "model.wide"}
    assert message[kind] in error
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "RUN", "--steps", "1" * 5000], "has more than 308 digits"),
        (["sample", "RUN", "--num", "1" * 5000], "has more than 308 digits"),
        (["sample", "RUN", "--steps", "9" * 20], "must be below 2^63"),
        (["evaluate", "RUN", "--passes", "9" * 18], "passes take at least"),
        (["sample", "RUN", "--steps", "9" * 18], "tells at most 8,388,608 times apart"),
        (["sample", "RUN", "--num", "2", "--solver", "heun", "--steps", "9" * 18], "are too many for float32"),
        (
            ["evaluate", "RUN", "--estimator", "ode", "--solver", "rk4", "--solver_steps", "9" * 15],
            "are too many for float",
        ),
        (["train", "table", "--data.columns", "[a]"], "--data.columns must be a mapping of names to values"),
    ],
)
def test_a_number_or_a_value_that_no_computation_can_have_is_one_line(arguments, message, run, capsys):
    assert main([str(run) if word == "RUN" else word for word in arguments]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ndm: error")]
    assert len(errors) == 1 and message in errors[0]


@pytest.mark.parametrize("line", ["data: {path: 5}", "data: {path: [a]}", "init: 5", "data: {encoding: 5}"])
def test_a_setting_of_a_wrong_kind_is_told_in_words_and_not_in_the_parsers(line, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(line)
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 2
    assert "must be a text, got" in (error := capsys.readouterr().err) and "<class" not in error


def test_data_behind_a_link_to_itself_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert main(["train", "images", "--data.path", "loop"]) == 2
    assert "loop is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize("variables", [{"WORLD_SIZE": "2"}, {"LOCAL_RANK": "x"}])
def test_variables_of_a_launcher_that_do_not_fit_are_one_line(variables, run):
    code, _, error = command(["evaluate", run, "--device", "cpu"], env={**os.environ, **variables})
    assert code == 2 and error.startswith("ndm: error: the variables of a launcher") and error.count("\n") == 1


def test_pictures_are_drawn_if_the_environment_names_an_unknown_backend(run, tmp_path):
    environment = {**os.environ, "MPLBACKEND": "nonsense"}
    arguments = ["sample", run, "--num", "2", "--steps", "2", "--out", tmp_path / "x.png", "--device", "cpu"]
    code, _, error = command(arguments, env=environment)
    assert code == 0 and "Traceback" not in error and (tmp_path / "x.png").stat().st_size > 1000


def test_a_closed_error_stream_does_not_send_the_error_to_the_output(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr", None)
    assert main(["nothing"]) == 2 and capsys.readouterr().out == ""


def test_a_working_directory_that_was_deleted_is_one_line(tmp_path):
    script = "import os, sys; os.chdir(sys.argv.pop(1)); os.rmdir(os.getcwd())\n"
    script += "from ndm.__main__ import main; sys.exit(main())"
    for arguments in (["recipes"], ["train", "digits"], ["evaluate", "/nowhere"]):
        (tmp_path / "gone").mkdir()
        status, _, error = Started("-c", script, tmp_path / "gone", *arguments).end()
        assert status == 2 and error.count("\n") == 1
        assert error.startswith("ndm: error: the working directory cannot be used")


def test_the_installed_command_has_no_traceback():
    result = subprocess.run(
        [sys.executable, "-c", "import sys; from ndm.cli import main; sys.exit(main())", "evaluate", "/nowhere"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2 and "Traceback" not in result.stderr
