"""Comparisons: matched variants, work that is never repeated, paired differences, tables and figures."""

import json
import math

import pytest
import torch
from scipy import stats

import ndm
from ndm.cli import main
from ndm.data import load_dataset
from ndm.evaluation.planar import total_variation
from ndm.experiment import make_config, read_config
from ndm.experiment.comparison import Comparison, Question, interval, metrics_of
from ndm.experiment.differences import latex_table, rows_of
from ndm.experiment.matching import flops, match, parameters
from ndm.experiment.variants import VARIANTS, find_variant
from ndm.report.comparison import figures_of
from ndm.report.subject import Subject

pytestmark = pytest.mark.usefixtures("float32")

SMALL = [
    "--training.steps", "4", "--training.batch_size", "16", "--training.evaluate_every", "2", "--model.width", "64",
    "--model.depth", "1", "--model.transform_width", "4", "--limit", "16", "--passes", "2", "--samples", "50",
    "--ode_rows", "4", "--steps", "2,continuous", "--sampling_steps", "2,4", "--device", "cpu", "--quiet",
]  # fmt: skip


def small(recipe="digits", **model):
    config = read_config(recipe)
    return make_config({
        "data": {"name": config.data.name}, "training": {"steps": 2},
        "model": {"width": 32, "depth": 1, "transform_width": 8, "num_basis": 1, **model},
    })  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_the_forward_process_and_the_form_that_it_says(name, digits):
    """Whatever the recipe has."""
    before = small(transform="time_basis", predict_curve=True)
    config = find_variant(name).applied(before, seed=5)
    assert config.seed == 5
    model = ndm.experiment.build.make_model(config, digits)
    kind = {
        "conventional": ndm.Identity, "network": ndm.Network, "basis": ndm.TimeBasis, "flow": ndm.GaussianFlow,
        "nfdm": ndm.GaussianFlow, "diffenc": ndm.Network, "elementwise": ndm.Identity, "blur": ndm.Blur,
        "directions-basis": ndm.LinearBasis, "nfdm-path": ndm.Identity, "flow-matching": ndm.Identity,
        "straight": ndm.TimeBasis,
    }  # fmt: skip
    assert isinstance(model.process.transform, kind.get(name, kind.get(name.split("-")[0], ndm.Linear)))
    schedules = {
        "elementwise": ndm.ElementwiseSchedule, "nfdm": ndm.GeometricSchedule, "nfdm-path": ndm.GeometricSchedule,
        "flow-matching": ndm.OTSchedule, "straight": ndm.OTSchedule,
    }  # fmt: skip
    assert isinstance(model.process.schedule, schedules.get(name, ndm.LinearSchedule))
    assert (model.process.tied_to == "noise") == (name == "diffenc")
    assert model.predictor.target == (name.endswith("-target") or name == "diffenc")
    assert bool(model.predictor.num_basis) == (name.endswith("-curve") or name == "straight")
    assert torch.isfinite(ndm.bound(model, digits.train[:4]).total).all()


@pytest.mark.parametrize("name", ["network", "basis-curve", "directions"])
@pytest.mark.parametrize("how", ["params", "compute"])
def test_the_width_that_is_found_is_the_best_of_all(name, how, digits):
    """Every width near it is tried by brute force."""
    measure, start = (parameters, 40) if how == "params" else (flops, 160)
    goal = measure(find_variant("conventional").applied(small(width=start), 0), digits)
    variant = find_variant(name)
    found = match(variant.applied(small(width=start, transform_width=2), 0), digits, how, goal)
    ratios = {
        width: measure(variant.applied(small(width=width, transform_width=2), 0), digits) / goal
        for width in range(start // 2, start + 4, 1 if how == "params" else 5)
    }
    best = min(abs(ratio - 1) for ratio in ratios.values())
    assert abs(found.ratio - 1) <= best < 0.1
    exact = measure(variant.applied(small(width=found.config.model.width, transform_width=2), 0), digits) / goal
    assert found.ratio == pytest.approx(exact)


def test_widths_that_a_network_refuses_are_left_out(digits):
    """A U-Net has groups of channels."""
    config = small(network="unet", width=32, multipliers=[1], fourier=[])
    goal = 1.7 * parameters(config, digits)
    found = match(config, digits, "params", goal)
    assert abs(found.ratio - 1) < 0.2 and found.config.model.width > 32
    assert ndm.experiment.build.make_model(found.config, digits).num_parameters == pytest.approx(goal * found.ratio)


def test_the_operations_of_a_step_are_those_of_its_layers(digits):
    """Two for each weight of a linear layer forward and four backward, but two in the first, whose input is data."""
    config = small(width=24)
    model = ndm.experiment.build.seeded_model(config, digits)
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    first, embedded = [m for m in layers if m.in_features == 64], [m for m in layers if m.in_features not in (64, 24)]
    whole = sum(6 * m.weight.numel() for m in layers)
    data = sum(2 * m.weight.numel() for m in [*first, *embedded])
    assert whole - data <= flops(config, digits) <= whole


def test_the_operations_of_few_rows_are_those_of_many(digits):
    """F of the prior is evaluated for one row in eight, so fewer rows would count too many of them."""
    from ndm.support.operations import operations
    from ndm.training.loss import Loss

    config = find_variant("network").applied(small(width=24), 0)
    loss = Loss(ndm.experiment.build.seeded_model(config, digits), config.training, config.seed)
    many = operations(lambda: loss(digits.train[:64], step=0).sum().backward()) / 64
    assert flops(config, digits) == pytest.approx(many, rel=0.002)


def test_no_width_is_small_enough_for_a_large_f(digits):
    config = find_variant("network").applied(small(transform_width=512), 0)
    goal = parameters(find_variant("conventional").applied(small(width=8), 0), digits)
    with pytest.raises(ndm.InputError, match="no model.width gives this variant"):
        match(config, digits, "params", goal)


def test_the_interval_is_that_of_a_paired_test():
    pairs = [0.3, -0.1, 0.25, 0.4]
    mean, half = interval(pairs)
    expected = stats.ttest_1samp(pairs, 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((expected.low, expected.high))
    assert interval([0.5]) == (0.5, None)


def record(variant, seed, bits, flops=1.0):
    return (variant, seed), {
        "seed": seed, "width": 8, "parameters": 10, "flops": flops, "train_seconds": 2.0,
        "bits": {"bound, T=2": bits}, "quality": {"sliced Wasserstein-2, ancestral, 4 steps": 1.0},
    }  # fmt: skip


def test_differences_are_paired_by_seed_and_marked_where_they_are_certain():
    records = dict([
        record("a", 0, 1.0), record("a", 1, 2.0), record("a", 2, 3.0),
        record("b", 0, 1.5, 2.0), record("b", 1, 2.5, 2.0), record("b", 2, 3.6, 2.0), record("b", 7, 99.0, 2.0),
        record("c", 0, 1.0), record("c", 1, 3.0),
    ])  # fmt: skip
    header, rows = rows_of(records, "a")
    assert header == ["", "a", "b", "c"]
    assert not [row for row in rows if "Wasserstein" in row[0]]  # it is the same in all runs
    cells = {name: dict(zip(header[1:], rest, strict=True)) for name, *rest in rows}
    bounds = cells["bound, T=2"]
    assert bounds["a"] == "2.0000 (1.0000)"
    half = stats.t.ppf(0.975, 2) * torch.tensor([0.5, 0.5, 0.6]).std().item() / 3**0.5
    assert bounds["b"] == f"+0.5333 ± {half:.4f}*"  # seed 7 has no pair
    assert not bounds["c"].endswith("*")
    assert cells["operations"]["b"] == "2.00" and cells["seeds"]["b"] == "4"
    latex = latex_table(header, rows)
    assert (
        latex.count(r"\\") == len(rows) + 1
        and r"$\pm$" in latex
        and latex.splitlines()[0].count("r") >= len(header) - 1
    )


def test_the_command_keeps_what_is_finished_and_goes_on(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    line = ["compare", "digits", "--out", str(out), *SMALL]
    assert main([*line, "--variants", "conventional,network-target", "--seeds", "1"]) == 0
    first = capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in out.glob("*-seed0/model/*")}
    assert len(before) > 3
    assert main([*line, "--variants", "conventional,network-target,gains", "--seeds", "2"]) == 0
    text = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    lines = [json.loads(part) for part in (out / "cells.jsonl").read_text().splitlines()]
    cells = [(cell["variant"], cell["seed"]) for cell in lines]
    assert sorted(cells) == sorted((v, s) for v in ("conventional", "network-target", "gains") for s in (0, 1))
    assert "bound, T=2" in text and "sliced Wasserstein-2, ancestral, 4 steps" in text
    assert "±" in text.split("Bounds and")[0] and "±" not in first.split("Bounds and")[0]
    assert lines[0]["parameters"] == pytest.approx(lines[1]["parameters"], rel=0.05)
    assert "likelihood by the ODE" in lines[0]["bits"]
    assert "likelihood by the ODE" not in lines[1]["bits"]  # a target alone has none
    assert (
        "sliced Wasserstein-2, euler, 2 steps" in lines[0]["quality"]
        and "straightness of the ODE" in lines[0]["quality"]
    )
    assert not any("euler" in name or "ODE" in name for name in lines[1]["quality"])
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    moved = {c["variant"]: c["motion"] for c in map(json.loads, (out / "cells.jsonl").open())}
    assert moved["conventional"] == [] and moved["gains"][0] == 0 < moved["gains"][-1] and len(moved["gains"]) == 11
    assert (out / "table.md").read_text() in text
    assert r"\toprule" in (out / "table.tex").read_text()
    trained = ndm.experiment.Run(out / "gains-seed1")
    snapshot = trained.snapshot()
    subject = Subject(trained, snapshot, load_dataset("digits"), snapshot.model, 0)
    kept = {"bound, T=2, 16 test rows", "bound, continuous time, 16 test rows", "bound, continuous time, 4 test rows"}
    assert kept < set(figures_of(subject))  # a report of these runs has what the comparison has
    run = ["evaluate", str(out / "gains-seed1"), "--limit", "8", "--passes", "2", "--estimator", "bound"]
    assert main([*run, "--device", "cpu", "--quiet"]) == 0  # a run like any other
    capsys.readouterr()
    assert main([*line, "--variants", "conventional", "--seeds", "1", "--limit", "8"]) == 2
    assert "has figures with another limit, 16" in capsys.readouterr().err
    assert main([*line, "--variants", "conventional", "--seeds", "1", "--model.depth", "2"]) == 2
    assert "has model.depth 1, and this comparison has 2" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_from_its_checkpoint(tmp_path):
    question = Question(
        small(width=8), [find_variant("conventional")], seeds=[3], steps=[2], sampling=[], passes=1, limit=8, ode_rows=0
    )
    whole, parts = (Comparison(tmp_path / name, question) for name in ("whole", "parts"))
    assert whole.finish("conventional", 3)
    run = ndm.experiment.Run(tmp_path / "parts" / "conventional-seed3")
    run.begin(question.config_of("conventional", 3))
    assert parts.cells() == [("conventional", 3)]
    assert parts.finish("conventional", 3)
    assert (
        parts.cells() == [] and parts.records()["conventional", 3]["bits"] == whole.records()["conventional", 3]["bits"]
    )


def test_anyones_variant_is_a_file(tmp_path, capsys):
    yaml = tmp_path / "wide.yaml"
    yaml.write_text("model: {transform: identity, predict_curve: false, dropout: 0.3}\n")
    module = tmp_path / "mine.py"
    module.write_text(
        "import torch, ndm\nfrom ndm.transform import TRANSFORMS\n"
        "@TRANSFORMS.register('shifted')\n"
        "class Shifted(ndm.Transform):\n"
        "    def __init__(self):\n        super().__init__()\n        self.b = torch.nn.Parameter(torch.zeros(()))\n"
        "    @classmethod\n    def build(cls, blueprint):\n        return cls()\n"
        "    def forward(self, x):\n        return ndm.BasisCurve(x, (0 * x + self.b))\n"
        "settings = {'model': {'transform': 'shifted', 'predict_curve': False}}\n"
    )
    line = ["compare", "digits", "--out", str(tmp_path / "out"), *SMALL, "--seeds", "1", "--match", "none"]
    assert main([*line, "--variants", f"conventional,{yaml},{module}"]) == 0
    text = capsys.readouterr().out
    assert "| conventional | wide | mine |" in text
    assert read_config(tmp_path / "out" / "wide-seed0" / "config.yaml").model.dropout == 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--variants", "netwrok"], "did you mean network"),
        (["--variants", "conventional,conventional"], "given twice"),
        (["--variants", "missing.yaml"], "there is no file missing.yaml"),
        (["--variants", "bad.py"], "bad.py: ZeroDivisionError"),
        (["--variants", "empty.py"], "must have a dictionary settings"),
        (["--variants", "ends.py"], 'ends the process; put what it runs under if __name__ == "__main__":'),
        (["--variants", "conventional,forgets.py"], "Forgets must keep the argument angle of its constructor"),
        (["--variants", "data.yaml"], "must not set data"),
        (["--variants", "conventional", "--sampling_steps", "continuous"], "takes positive whole numbers"),
        (["--variants", "conventional", "--sampling_steps", "0"], "--sampling_steps takes positive whole numbers"),
        (["--variants", "conventional", "--seeds", "0"], "--seeds must be at least 1"),
        (["--variants", "conventional", "--ode_rows", "-1"], "--ode_rows must not be negative"),
        (["--variants", "conventional", "--samples", "10"], "--sampling_steps none"),
        (["--variants", "kind.py"], "must hold settings by their names"),
        (
            ["--variants", "conventional,network-target", "--training.straightness", "0.1"],
            "network-target: training.str",
        ),
        (["--variants", "conventional,network", "--model.transform_width", "900"], "network: no model.width gives"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text("1 / 0\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "forgets.py").write_text(
        "import ndm\nfrom ndm.transform import TRANSFORMS\n@TRANSFORMS.register('forgets')\n"
        "class Forgets(ndm.Identity):\n    def __init__(self, angle=1.0):\n        super().__init__()\n"
        "settings = {'model': {'transform': 'forgets', 'predict_curve': False}}\n"
    )
    (tmp_path / "kind.py").write_text("settings = {'model': 5}")
    (tmp_path / "data.yaml").write_text("data: {name: ring}\n")
    assert main(["compare", "digits", "--out", "out", *SMALL, *options]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "cells.jsonl").exists()


def test_a_run_that_fails_does_not_stop_the_others(tmp_path, capsys):
    bad = tmp_path / "bad.yaml"
    bad.write_text("training: {learning_rate: 1.0e+30, clip: 1.0e+30, warmup: 0, max_skipped: 2}\n")
    line = ["compare", "ring", *SMALL, "--variants", f"conventional,{bad},gains", "--seeds", "1", "--match", "none"]
    assert main([*line, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert "bad, seed 0:" in said.err and "the same command tries them again" in said.err
    assert "| conventional | gains |" in said.out


def test_a_comparison_is_of_one_data_set_and_of_one_file(tmp_path, capsys):
    text, module = tmp_path / "u.txt", tmp_path / "mine.py"
    text.write_text("the cat sat on the mat. " * 200)
    module.write_text("settings = {'model': {'num_basis': 0}}")
    line = [
        "compare",
        "text-small",
        "--data.path",
        str(text),
        *SMALL,
        "--data.size",
        "12",
        "--out",
        str(tmp_path / "o"),
    ]
    line = [*line, "--variants", str(module), "--match", "none"]
    assert main([*line, "--seeds", "1"]) == 0
    assert main([*line, "--seeds", "1", "--seed", "4"]) == 0  # another seed, as of a run
    assert (tmp_path / "o" / "mine-seed4").is_dir()
    module.write_text("settings = {'model': {'num_basis': 0}}  # changed")
    assert main([*line, "--seeds", "1"]) == 2
    assert "the file of mine has changed" in capsys.readouterr().err
    module.write_text("settings = {'model': {'num_basis': 0}}")
    text.write_text("the mat sat on the cat. " * 200)
    assert main([*line, "--seeds", "2"]) == 2
    assert "the data have changed" in capsys.readouterr().err


def test_several_runs_at_a_time_give_the_same_figures(tmp_path, capsys):
    module = tmp_path / "mine.py"  # whose part must be known in each process
    module.write_text(
        "from __future__ import annotations\nimport ndm\nfrom ndm.transform import TRANSFORMS\n"
        "@TRANSFORMS.register('as-is')\nclass AsIs(ndm.Identity):\n    pass\n"
        "settings = {'model': {'transform': 'as-is'}}\n"
    )
    line = ["compare", "ring", *SMALL, "--variants", f"conventional,gains,{module}", "--seeds", "1"]
    assert main([*line, "--out", str(tmp_path / "one")]) == 0
    assert main([*line, "--out", str(tmp_path / "two"), "--jobs", "2"]) == 0
    capsys.readouterr()
    figures = [
        {(cell["variant"], name): value for cell in map(json.loads, (tmp_path / folder / "cells.jsonl").open())
         for name, value in cell["bits"].items()}
        for folder in ("one", "two")
    ]  # fmt: skip
    assert figures[0] == figures[1] and len(figures[0]) == 12
    assert all(math.isfinite(value) for value in figures[0].values())


def test_points_in_the_plane_are_measured_by_their_support_and_their_cells():
    board = ndm.data.load_dataset("checkerboard")
    generator = torch.Generator().manual_seed(0)
    true, uniform = board.distribution.sample(4000, generator), 4 * torch.rand(4000, 2, generator=generator) - 2
    found, wrong = metrics_of(true, board.test, board), metrics_of(uniform, board.test, board)
    assert found["inside of the support"] == 1 and wrong["inside of the support"] == pytest.approx(0.5, abs=0.04)
    assert found["total variation"] < 0.2 and wrong["total variation"] == pytest.approx(0.5, abs=0.05)
    assert total_variation(torch.tensor([[9.0, 9.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])) == 1
    rows = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert total_variation(rows, rows) == 0 and total_variation(rows[:1], rows) == 0.75
    assert "total variation" not in metrics_of(torch.rand(60, 3), torch.rand(60, 3), ndm.data.load_dataset("digits"))


def test_a_table_of_numbers_is_compared(tmp_path, capsys):
    """Its sizes follow from the rows, and each variant has its F and the parameters of the first."""
    rows = torch.randn(300, 3)
    rows[:, 2] = rows[:, 0] ** 2 + 0.1 * rows[:, 2]
    path = tmp_path / "rows.csv"
    path.write_text("a,b,c\n" + "\n".join(",".join(map(str, row)) for row in rows.tolist()))
    line = [
        "compare",
        "table",
        "--data.path",
        str(path),
        "--seeds",
        "1",
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    line += ["--training.steps", "8", "--passes", "1", "--ode_rows", "4", "--steps", "5,continuous"]
    line += ["--model.transform_width", "24"]  # of which the conventional model has no use
    assert main([*line, "--variants", "conventional,directions,basis-curve,network-target"]) == 0
    said = capsys.readouterr().out
    assert "bits/column" in said and "sliced Wasserstein" not in said
    cells = {cell["variant"]: cell for cell in map(json.loads, (tmp_path / "out" / "cells.jsonl").open())}
    assert "likelihood by the ODE" in cells["directions"]["bits"]
    assert "likelihood by the ODE" not in cells["network-target"]["bits"]
    assert "| likelihood by the ODE, 4 rows |" in said and "| bound, continuous time, rows of the ODE |" in said
    kinds = {
        "conventional": ndm.Identity,
        "directions": ndm.Linear,
        "basis-curve": ndm.TimeBasis,
        "network-target": ndm.Network,
    }
    for name, kind in kinds.items():
        model = ndm.NDM.from_pretrained(tmp_path / "out" / f"{name}-seed0")
        assert isinstance(model.process.transform, kind)
        assert cells[name]["parameters"] == pytest.approx(cells["conventional"]["parameters"], rel=0.02)
    saved = ndm.experiment.Run(tmp_path / "out" / "network-target-seed0").config
    assert saved.model.transform_width == 24
    saved = ndm.experiment.Run(tmp_path / "out" / "conventional-seed0").config
    assert saved.model.transform_width == ndm.experiment.ModelConfig().transform_width
    assert saved.model.dropout == 0.3  # that of few rows
    assert saved.model.fourier == list(
        ndm.NDM.from_pretrained(tmp_path / "out" / "conventional-seed0").predictor.net.fourier
    )


def test_the_categories_of_a_table_have_an_f_of_their_own(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n" + "\n".join(f"{i / 7},{'xyz'[i % 3]}" for i in range(60)))
    line = ["compare", "table", "--data.path", str(path), "--variants", "conventional,gains", "--seeds", "1"]
    assert main([*line, "--out", str(tmp_path / "out"), "--match", "none"]) == 2
    assert "gains: F moves the categories of this table" in capsys.readouterr().err
