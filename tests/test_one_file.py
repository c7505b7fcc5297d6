"""The reading copy agrees with the library in every term of the bound and in its samplers, with the same weights."""

import importlib.util
from pathlib import Path

import pytest
import torch

import ndm
from ndm.objective import Draws, bound_terms

FILE = Path(__file__).resolve().parent.parent / "examples" / "ndm_in_one_file.py"


@pytest.fixture
def one():
    """The module, read afresh so that its constants have the precision of the tests."""
    spec = importlib.util.spec_from_file_location("ndm_in_one_file", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pair(one):
    """Its model with random weights, in which no term of F vanishes, and the library's model of the same networks."""
    model = one.NDM(powers=2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    process = ndm.ForwardProcess(ndm.LinearSchedule(one.GAMMA_0, one.GAMMA_1), ndm.TimeBasis(model.h, num_basis=2))
    return model, ndm.NDM(process, ndm.Predictor(model.v, "v"), ndm.GaussianDecoder())


def agree(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


X, EPS = torch.randn(2, 16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
T = (torch.arange(16, dtype=torch.float64) + 0.5) / 16


@pytest.mark.parametrize("steps", [1, 7, 1000, None])
def test_every_term_of_the_bound_is_the_librarys(pair, steps):
    model, library = pair
    terms = bound_terms(library, X, X, Draws(T, torch.ones_like(T), EPS, EPS), steps)
    t = T if steps is None else ((T * steps).floor() + 1) / steps
    diffusion = model.diffusion(X, t[:, None], EPS)
    if steps is not None:
        diffusion = model.diffusion_in_steps(X, t[:, None], EPS, steps)
    agree(diffusion, terms.diffusion)
    agree(model.prior(X), terms.prior)
    agree(model.reconstruction(X), terms.reconstruction)
    assert terms.diffusion.min() > 1e-3 and terms.prior.std() > 1e-3


def test_the_step_and_the_velocity_are_the_librarys(pair):
    model, library = pair
    s, t = T / 2, T
    agree(model.ancestral_step(X, s[:, None], t[:, None], EPS), library(X, t).posterior(X, s, t).at(EPS))
    agree(model.velocity(X, model.x_hat(X, t[:, None]), t[:, None]), library(X, t).velocity(X, t))


def test_heuns_step_is_the_librarys(pair):
    model, library = pair
    z = X.clone()
    for i in range(10, 0, -1):
        z = model.ode_step(z, torch.full((16, 1), (i - 1) / 10), torch.full((16, 1), i / 10))
    field = lambda t, z: library(z, t).velocity(z, t)  # noqa: E731
    agree(z, ndm.solvers.solve_ode(field, X, 1.0, 0.0, ndm.Solver("heun", 10)).checked().state)


def test_the_derivative_of_f_is_its_slope(pair):
    model, h = pair[0], 1e-6
    up, down = (model.F(X, T[:, None] + step)[0] for step in (h, -h))
    agree(model.F(X, T[:, None])[1], (up - down) / (2 * h))


def test_it_trains_and_draws_a_picture(float32, one, tmp_path, capsys):
    one.main(["--steps", "100", "--out", str(tmp_path / "ndm.png")])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("step ") for line in lines) == 10
    assert lines[-1].startswith("the bound is ") and 0 < float(lines[-1].split()[3]) < 0.8  # 1.08 untrained
    assert (tmp_path / "ndm.png").read_bytes().startswith(b"\x89PNG")


def test_it_is_short_and_needs_torch_alone():
    text = FILE.read_text()
    assert text.count("\n") < 250 and "import ndm\n" not in text and "from ndm" not in text


@pytest.mark.slow
def test_the_trained_model_is_near_the_entropy(float32, one, capsys):
    one.main([])
    gap = float(capsys.readouterr().out.splitlines()[-1].split()[3])
    assert -0.1 < gap < 0.2
