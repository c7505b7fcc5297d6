"""Acceleration along the ODE's paths: closed forms, finite differences, and training that straightens them."""

import json

import pytest
import torch

import ndm
from ndm.cli import main
from ndm.straightness import acceleration, curvature, straightness
from ndm.training.loss import Loss
from ndm.training.settings import TrainingConfig

from conftest import SmoothNet


def model_of(kind, schedule=None, value=False):
    torch.manual_seed(0)
    transform = {
        "identity": ndm.Identity, "network": lambda: ndm.Network(SmoothNet(2, 2)),
        "basis": lambda: ndm.TimeBasis(SmoothNet(2, 4, timed=False), num_basis=2),
    }[kind]()  # fmt: skip
    process = ndm.ForwardProcess(schedule or ndm.LinearSchedule(-4.0, 4.0), transform)
    predictor = ndm.Predictor(SmoothNet(2, 4 if value else 2), "v", target=value, value=value)
    return ndm.NDM(process, predictor, ndm.GaussianDecoder(), shape=(2,)).double()


@pytest.mark.parametrize(
    ("kind", "value"), [("identity", False), ("network", False), ("network", True), ("basis", False)]
)
def test_the_acceleration_is_that_of_a_path(kind, value):
    """The second difference of the ODE's solution, by steps of Heun's method."""
    model = model_of(kind, value=value).eval()
    z, t, h = torch.randn(3, 2, dtype=torch.float64), torch.tensor([0.3, 0.5, 0.8], dtype=torch.float64), 1e-4
    with torch.no_grad():
        u = lambda z, t: model(z, t).velocity(z, t)  # noqa: E731
        first = u(z, t)
        numeric = (u(z + h * first, t + h) - u(z - h * first, t - h)) / (2 * h)
        found = acceleration(model, z, t)
    torch.testing.assert_close(found, numeric, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(curvature(model, z, t), found.square().mean(1))


def test_gaussian_data_have_the_acceleration_of_their_linear_field():
    """u = a(t) z with a = d/dt log sqrt(alpha^2 s^2 + sigma^2), so Du/Dt = (a' + a^2) z."""
    schedule, s = ndm.CosineSchedule(-4.0, 4.0), 2.0

    class Mean(torch.nn.Module):
        def forward(self, z, t):
            noise = schedule(t)
            return (noise.alpha * s**2 / (noise.alpha**2 * s**2 + noise.sigma**2))[:, None] * z

    model = ndm.NDM(ndm.ForwardProcess(schedule), ndm.Predictor(Mean(), "x"), ndm.GaussianDecoder())
    z, t, h = torch.randn(4, 3, dtype=torch.float64), torch.linspace(0.1, 0.9, 4, dtype=torch.float64), 1e-4
    width = lambda t: (schedule(t).alpha ** 2 * s**2 + schedule(t).sigma ** 2).sqrt()  # noqa: E731
    expected = (width(t + h) - 2 * width(t) + width(t - h)) / h**2 / width(t)  # a' + a^2 = width'' / width
    torch.testing.assert_close(acceleration(model, z, t), expected[:, None] * z, rtol=1e-5, atol=1e-6)


def test_lines_are_straight_and_circles_are_not():
    """A constant prediction on the path of flow matching gives lines; in a variance preserving process it does not."""
    constant = lambda z, t: 0 * z + 0.7  # noqa: E731
    z_1 = torch.randn(5, 2, dtype=torch.float64)
    for schedule, straight in ((ndm.OTSchedule(-8.0, 12.0), True), (ndm.LinearSchedule(-8.0, 6.0), False)):
        model = ndm.NDM(ndm.ForwardProcess(schedule), ndm.Predictor(constant, "x"), ndm.GaussianDecoder(), shape=(2,))
        found = straightness(model, z_1)
        assert (found < 1e-12).all() if straight else (found > 0.01).all()
        bend = acceleration(model, z_1, torch.full((5,), 0.5, dtype=torch.float64)).abs().max()
        assert bend < 1e-9 if straight else bend > 0.1


@pytest.mark.parametrize("spread", [0.1, 0.3, 3.0])
def test_few_steps_measure_the_straightness_that_many_do(spread):
    """Of normal data, whose exact prediction is known: by the trapezoidal rule, within two percent."""

    class Exact(torch.nn.Module):
        def forward(self, z, t):
            noise = schedule(t)
            alpha, sigma = noise.alpha[:, None], noise.sigma[:, None]
            return alpha * spread**2 / (alpha**2 * spread**2 + sigma**2) * z

    schedule = ndm.OTSchedule(-8.0, 12.0)
    model = ndm.NDM(ndm.ForwardProcess(schedule), ndm.Predictor(Exact(), "x"), ndm.GaussianDecoder(), shape=(2,))
    z_1 = torch.randn(4, 2, dtype=torch.float64)
    torch.testing.assert_close(straightness(model, z_1, 50), straightness(model, z_1, 2000), rtol=0.02, atol=0)


def test_the_penalty_adds_its_gradient_and_no_figure():
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grads, figures = [], []
    for weight in (0.0, 0.3):
        model = model_of("network")
        loss = Loss(model, TrainingConfig(straightness=weight, uniform_times=1.0), seed=1)
        terms = loss(x, step=0)
        terms.sum().backward()
        figures.append(terms.detach())
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*figures)
    model = model_of("network")
    loss = Loss(model, TrainingConfig(uniform_times=1.0), seed=1)
    seen = {}
    loss.times.observe = lambda t, _: seen.update(t=t)
    loss(x, step=0)
    from ndm.objective import draw
    from ndm.support.streams import Stream
    from ndm.support.tensors import seeded

    draws = draw(model.encode(x), loss.times, seeded(1, Stream.NOISE, 0, 0))
    torch.testing.assert_close(draws.t, seen["t"])
    z_t = model.process(model.encode(x)).marginal(draws.t).at(draws.eps_t)
    (0.3 * curvature(model, z_t, draws.t).mean()).backward()
    extra = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(grads[1] - grads[0], extra)


@pytest.mark.slow
def test_training_with_the_penalty_makes_paths_straighter(tmp_path):
    """To less than half, and with a network F the bound does not pay for it."""
    found, bounds = {}, {}
    x = ndm.data.load_dataset("moons").validation[:500]
    for weight in ("0", "0.1"):
        run = tmp_path / weight
        line = ["train", "moons", "--out", str(run), "--training.steps", "400", "--training.straightness", weight]
        size = ["--model.width", "48", "--model.depth", "2", "--model.transform", "network", "--model.gamma_min", "-6"]
        fast = ["--training.ema_decay", "0.98", "--training.batch_size", "128", "--device", "cpu", "--quiet"]
        assert main([*line, *size, *fast]) == 0
        model = ndm.NDM.from_pretrained(run)
        z_1 = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        found[weight] = straightness(model, z_1).median().item()
        bounds[weight] = ndm.bound(model, x, generator=torch.Generator().manual_seed(0)).total.mean().item()
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert any("bpd" in line for line in lines)
    assert found["0.1"] < 0.5 * found["0"] and bounds["0.1"] < bounds["0"] + 0.3


def test_a_model_without_an_ode_has_no_paths(tmp_path, capsys):
    line = ["train", "moons", "--out", str(tmp_path / "run"), "--training.straightness", "0.1", "--device", "cpu"]
    assert main([*line, "--model.transform", "network", "--model.predict_target", "true"]) == 2
    assert "training.straightness is for models with an ODE" in capsys.readouterr().err
