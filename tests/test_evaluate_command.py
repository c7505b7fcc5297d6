"""``ndm evaluate``: a uniform model scores log2(levels), and a killed evaluation ends with the same figures."""

import json
import math
import random
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import ndm
from ndm.cli import main
from ndm.cli.evaluate import parse_steps
from ndm.data import DataConfig, Dataset, identity, register
from ndm.evaluation import Protocol
from ndm.experiment import Config, ModelConfig, Run
from ndm.support.registry import CLASSES
from ndm.support.tensors import seeded

pytestmark = pytest.mark.usefixtures("float32")


def run_with(folder, model, config):
    """A run's folder as training would leave it."""
    run = Run.create(folder, config)
    run.data_file.write_text(json.dumps(identity(run.load_dataset())))
    model.save_pretrained(run.model_folder)
    return str(folder)


def evaluated(capsys, *arguments):
    assert main(["evaluate", *arguments, "--json"]) == 0
    return {e["estimator"]: e for e in json.loads(capsys.readouterr().out)["estimates"]}


def uniform_data(levels):
    """Two pixels in which all of the levels are equally likely."""
    x = torch.randint(levels, (12, 2), generator=torch.Generator().manual_seed(levels))
    return Dataset(f"uniform-{levels}", x, x, x, levels=levels, release="made up")


register("uniform-17")(partial(uniform_data, 17))
register("uniform-256")(partial(uniform_data, 256))


@pytest.mark.parametrize("levels", [17, 256])
def test_a_flat_decoder_scores_log2_of_the_levels(levels, tmp_path, capsys):
    """At t = 0 there is only noise, so p(x | z_0) is 1/K for every z_0. All terms but the reconstruction vanish."""
    net = ndm.nn.MLP((2,), width=8, depth=1)
    nn.init.normal_(net.head.weight)
    process = ndm.ForwardProcess(ndm.LinearSchedule(60.0, 70.0))
    model = ndm.NDM(process, ndm.Predictor(net, "x"), ndm.CategoricalDecoder(levels))
    config = Config(data=DataConfig(f"uniform-{levels}"), model=ModelConfig(gamma_min=60.0, gamma_max=70.0))
    folder = run_with(tmp_path / "run", model, config)
    options = ["--steps", "1,10,continuous", "--passes", "2", "--dtype", "float64", "--rtol", "1e-9", "--atol", "1e-9"]
    for divergence in ("exact", "hutchinson"):
        estimates = evaluated(capsys, folder, *options, "--divergence", divergence, "--samples", "2")
        assert len(estimates) == 4
        for e in estimates.values():
            assert e["bpd"] == pytest.approx(math.log2(levels), abs=1e-6)


class UniformMean(nn.Module):
    """E[x | z_t] for x uniform on [-1, 1] in each element: the mean of a truncated normal."""

    def __init__(self, gamma_min: float, gamma_max: float) -> None:
        super().__init__()
        self.gamma_min, self.gamma_max = gamma_min, gamma_max

    def forward(self, z, t):
        gamma = (self.gamma_min + (self.gamma_max - self.gamma_min) * t)[:, None]
        scale, centre = torch.exp(gamma / 2), z / torch.sigmoid(-gamma).sqrt()
        return torch.where(
            scale < 0.3, self.narrow(centre, scale.clamp(max=0.3)), self.wide(centre, scale.clamp(min=0.3))
        )

    def narrow(self, centre, scale):
        """The closed form, which is inaccurate where the noise is wide."""
        low, high = (-1 - centre) / scale, (1 - centre) / scale
        density = lambda a: torch.exp(-(a**2) / 2) / math.sqrt(2 * math.pi)  # noqa: E731
        mass = (torch.special.ndtr(high) - torch.special.ndtr(low)).clamp(min=1e-30)
        return centre + scale * (density(low) - density(high)) / mass

    def wide(self, centre, scale):
        """Quadrature at 64 Gauss-Legendre nodes, which is inaccurate where the noise is narrow."""
        nodes, weights = (torch.from_numpy(a).to(centre) for a in np.polynomial.legendre.leggauss(64))
        log_weight = (nodes * centre[..., None] - nodes**2 / 2) / scale[..., None] ** 2 + weights.log()
        return (log_weight.softmax(-1) * nodes).sum(-1)


def test_uniform_dequantisation_of_a_uniform_density_scores_log2_of_the_levels(tmp_path, capsys, monkeypatch):
    """The ODE with the exact predictor has the uniform density on [-1, 1]^D, so it must score log2(K).

    This protocol has no decoder: it uses the density of x + u. The exact predictor smooths the edges of the cube by
    e^{gamma_0 / 2}. The seeded draws here are more than eight standard deviations away from the edges.
    """
    monkeypatch.setitem(CLASSES, "UniformMean", UniformMean)
    ends = (-22.0, 18.0)
    for levels in (17, 256):
        process = ndm.ForwardProcess(ndm.LinearSchedule(*ends))
        predictor = ndm.Predictor(UniformMean(*ends), "x")
        model = ndm.NDM(process, predictor, ndm.CategoricalDecoder(levels))
        config = Config(data=DataConfig(f"uniform-{levels}"), model=ModelConfig(gamma_min=ends[0], gamma_max=ends[1]))
        folder = run_with(tmp_path / f"run-{levels}", model, config)
        options = ["--estimator", "ode-uniform", "--dtype", "float64", "--rtol", "1e-8", "--atol", "1e-8"]
        (e,) = evaluated(capsys, folder, *options).values()
        assert e["bpd"] == pytest.approx(math.log2(levels), abs=1e-6)
        assert "uniform dequantisation" in e["estimator"]


@pytest.mark.slow
def test_a_killed_evaluation_ends_with_the_same_figures(tmp_path):
    """SIGKILL comes twice, each time a random while after new pieces were kept. The third attempt is left alone."""
    folder = tmp_path / "run"
    tiny = ["--training.steps", "3", "--training.batch_size", "16", "--model.width", "16", "--model.depth", "1"]
    assert main(["train", "digits", "--out", str(folder), *tiny]) == 0
    code = "import sys, torch; torch.set_num_threads(1); from ndm.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "evaluate", str(folder), "--steps", "10,continuous", "--passes", "10"]
    command += ["--rtol", "1e-2", "--atol", "1e-2", "--json", "--device", "cpu"]

    def figures(output):
        return [{k: v for k, v in e.items() if k != "seconds"} for e in json.loads(output)["estimates"]]

    def kept():
        return sum(path.stat().st_size for path in folder.glob("*.partial.*.jsonl"))

    chance, killed = random.Random(), 0
    for _ in range(2):
        before = kept()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while kept() <= before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed and kept()
    resumed = subprocess.run(command, capture_output=True, check=True)
    assert b"going on from an earlier attempt" in resumed.stderr
    assert not kept()
    whole = subprocess.run(command, capture_output=True, check=True)
    assert b"going on" not in whole.stderr
    assert figures(resumed.stdout) == figures(whole.stdout)
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    assert [figures(line) for line in lines][-2:] == [figures(whole.stdout)] * 2


@pytest.fixture
def tiny(tmp_path):
    """A run of two steps."""
    options = ["--training.steps", "2", "--model.width", "8", "--model.depth", "1", "--training.batch_size", "8"]
    assert main(["train", "digits", "--out", str(tmp_path / "run"), *options]) == 0
    return tmp_path / "run"


def test_every_option_reaches_the_protocol(tiny, monkeypatch):
    seen = []

    def spy(model, x, protocol, *_):
        seen.append(protocol)
        raise ndm.InputError("enough")

    monkeypatch.setattr("ndm.evaluation.estimate.evaluate", spy)
    command = ["evaluate", str(tiny)]
    main([*command, "--estimator", "bound", "--steps", "7", "--passes", "3", "--seed", "5"])
    ode = [*command, "--estimator", "ode"]
    options = ["--solver", "rk4", "--solver_steps", "9", "--rtol", "1e-3", "--atol", "1e-2", "--seed", "5"]
    main([*ode, "--samples", "3", "--divergence", "hutchinson", *options])
    main(ode)
    assert seen == [
        Protocol("bound", 7, passes=3, seed=5),
        Protocol("ode", None, 30, 3, "hutchinson", ndm.Solver("rk4", 9, 1e-3, 1e-2), 5),
        Protocol("ode", divergence="exact"),
    ]


def test_pieces_of_another_question_are_not_taken_up(tiny, monkeypatch):
    """After an interruption the same command finds the first piece. Any other command starts its own pieces."""
    monkeypatch.setattr("ndm.evaluation.pieces.ROWS", {"bound": 4})

    def stop(seed, number):
        if number:
            raise KeyboardInterrupt
        return seeded(seed, number)

    monkeypatch.setattr("ndm.evaluation.pieces.seeded", stop)
    base = ["evaluate", str(tiny), "--estimator", "bound", "--steps", "5", "--passes", "1", "--limit", "8"]

    def kept(*options):
        main([*base, *options])
        return len(list(tiny.glob("*.partial.*.jsonl")))

    assert kept() == 1 and kept() == 1
    for number, options in enumerate((["--split", "validation"], ["--dtype", "float64"], ["--seed", "1"]), start=2):
        assert kept(*options) == number
    model = ndm.NDM.from_pretrained(tiny / "model")
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(tiny / "model")
    assert kept() == 5


def test_steps_are_of_the_bound(tiny, capsys):
    assert main(["evaluate", str(tiny), "--estimator", "ode", "--steps", "10"]) == 2
    assert "--solver_steps" in capsys.readouterr().err


def test_a_number_of_steps_that_is_given_twice_is_one_row():
    assert parse_steps("5,continuous,5,10,continuous") == [5, None, 10]


def test_what_is_wrong_with_an_f_of_ones_own_is_told_beside_its_figures(tiny, monkeypatch, capsys):
    command = ["evaluate", str(tiny), "--estimator", "bound", "--limit", "2", "--passes", "1", "--steps", "continuous"]
    monkeypatch.setattr("ndm.soundness.faults", lambda model, rows, steps: [f"F is odd, {len(rows)} {steps}"])
    assert main([*command, "--device", "cpu", "--quiet"]) == 0
    told = capsys.readouterr()
    assert told.err == "ndm: warning: F is odd, 2 None\n" and "bound, continuous time" in told.out
