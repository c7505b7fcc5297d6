"""Values that strangers gave: huge integers, far rows, too many steps, shared networks, signals during imports."""

import math
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch

import ndm
from ndm.cli import main
from ndm.evaluation import Protocol, evaluate
from ndm.support.tensors import stratified
from ndm.training import TrainingConfig

HUGE = 10**400


def small(net=None):
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
    return ndm.NDM(process, ndm.Predictor(net or ndm.nn.MLP((3,), width=8, depth=1)), ndm.GaussianDecoder()).eval()


@pytest.mark.parametrize(
    "call",
    [
        lambda: ndm.LinearSchedule(-5.0, HUGE),
        lambda: ndm.Solver(rtol=HUGE),
        lambda: ndm.GaussianDecoder(HUGE),
        lambda: ndm.nn.MLP((3,), fourier=[HUGE]),
        lambda: TrainingConfig(learning_rate=HUGE),
        lambda: ndm.bits_per_dim(HUGE, torch.zeros(2, 3)),
        lambda: ndm.NeuralDiffusionDensity(max_time=HUGE).fit(np.zeros((9, 2))),
        lambda: ndm.NeuralDiffusionDensity(contamination=Fraction(1, 10)).fit(np.zeros((9, 2))),
        lambda: ndm.nn.MLP((3,), dropout=Fraction(1, 2)),
        lambda: ndm.sample(small(), (2**63, 3)),
        lambda: ndm.sample(small(), b"\x02\x03"),
        lambda: ndm.log_prob(small(), torch.zeros(2, 3), dtype=torch.float8_e5m2),
    ],
)
def test_numbers_that_no_computation_takes_are_told_in_one_short_line(call):
    with pytest.raises(ndm.InputError) as error:
        call()
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("option", ["--seed", "--training.learning_rate"])
def test_numbers_of_hundreds_of_digits_are_told_in_one_line(option, tmp_path, capsys):
    assert main(["train", "digits", "--out", str(tmp_path / "run"), option, f"1{'0' * 350}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("solver", ["euler", "rk4", "euler_maruyama"])
def test_more_steps_than_a_dtype_has_times_are_refused_at_once(solver):
    start, model = time.perf_counter(), small().float()
    with pytest.raises(ndm.InputError, match="too many for float32"):
        ndm.sample(model, (2, 3), steps=10**9, solver=solver)
    if solver != "euler_maruyama":
        with pytest.raises(ndm.InputError, match="too many for float32"):
            ndm.log_prob(model, torch.zeros(2, 3), solver=ndm.Solver(solver, steps=10**9))
    assert time.perf_counter() - start < 5


def test_an_estimate_that_is_no_number_is_refused():
    with pytest.raises(ndm.InputError, match="is nan"):
        evaluate(small(lambda z, t: z * math.nan), torch.randn(4, 3), Protocol("bound", steps=3, passes=1))


def test_a_network_that_the_process_and_the_predictor_share_is_saved_for_both(tmp_path):
    net = ndm.nn.MLP((3,), width=8, depth=1)
    torch.nn.init.normal_(net.head.weight)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0), ndm.Network(net))
    model = ndm.NDM(process, ndm.Predictor(net), ndm.GaussianDecoder()).eval()
    model.save_pretrained(tmp_path)
    again = ndm.NDM.from_pretrained(tmp_path)
    x = torch.randn(4, 3)
    one, two = (ndm.bound(m, x, generator=torch.Generator().manual_seed(0)).total for m in (model, again))
    torch.testing.assert_close(one, two)


def test_a_row_too_far_away_is_told_by_its_number_before_any_is_scored(monkeypatch):
    x = np.random.default_rng(0).normal(size=(60, 1))
    density = ndm.NeuralDiffusionDensity(max_steps=3, random_state=0).fit(x)
    rows = np.tile(x, (40, 1))
    rows[1500] = 1e100
    monkeypatch.setattr("ndm.density.scores.ode_likelihood", lambda *_, **__: pytest.fail("rows were scored"))
    with pytest.raises(ndm.InputError, match="row 1500 is as far as"):
        density.score_samples(rows)


def test_draws_are_spread_evenly_over_each_number():
    u = stratified(8, 5, torch.Generator().manual_seed(0))
    assert u.shape == (8, 5) and (u.mul(8).floor().sort(0).values == torch.arange(8)[:, None]).all()
    assert not torch.equal(u.argsort(0)[:, 0], u.argsort(0)[:, 1])
    means = torch.stack([stratified(8, 1, torch.Generator().manual_seed(s)).mean() for s in range(200)])
    assert means.std() < 0.3 * (1 / 12 / 8) ** 0.5 and means.mean() == pytest.approx(0.5, abs=0.01)


def test_the_probabilities_of_a_coin_add_up():
    """Two values in cells of one: the places in the cells are drawn, the same for every row."""
    coin = np.random.default_rng(0).integers(0, 2, (300, 1))
    density = ndm.NeuralDiffusionDensity(max_steps=120, random_state=0).fit(coin)
    p = np.exp(density.score_samples([[0], [1]]))
    assert p.sum() == pytest.approx(1, abs=0.12)
    assert p[1] == pytest.approx(coin.mean(), abs=0.1)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_pytorch_is_imported_raises_nothing_in_it(number, tmp_path):
    """Its C++ code aborts if an exception of Python passes through it."""
    (tmp_path / "torch.py").write_text(
        "import sys, time\n"
        "def initialise():\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    except BaseException:\n"
        "        sys.exit(6)\n"
        "initialise()\n"
    )
    command = [sys.executable, "-m", "ndm", "sample", "digits-tiny", "--num", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores interrupts
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.communicate(timeout=60)[1] == "" and process.returncode == 130


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("delay", [0.6, 1.2])
def test_a_signal_while_modules_are_imported_ends_a_command_without_a_traceback(delay, tmp_path):
    command = [sys.executable, "-m", "ndm", "evaluate", str(tmp_path / "none")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    time.sleep(delay)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=60)[1]
    assert "Traceback" not in error and process.returncode in (130, 2, -signal.SIGTERM, -signal.SIGINT)
