"""Predicted targets: the same processes as F(x_hat) gives where the prediction is exact, and F on data alone."""

import json

import pytest
import torch

import ndm
from ndm.cli import main
from ndm.objective import continuous_diffusion, discrete_diffusion, step_around
from ndm.support.tensors import expand

from conftest import SmoothNet
from oracle import LinearGaussian

X = torch.tensor([[0.3, -1.2, 0.7], [1.5, 0.2, -0.4]], dtype=torch.float64)
Z = torch.tensor([[0.9, 0.1, -0.3], [0.4, -1.0, 0.8]], dtype=torch.float64)
S, T = torch.tensor([0.15, 0.6], dtype=torch.float64), torch.tensor([0.3, 0.85], dtype=torch.float64)


def transform_of(kind):
    torch.manual_seed(1)
    net = SmoothNet(3, 3 if kind == "network" else 6)
    return (
        ndm.Network(net) if kind == "network" else ndm.TimeBasis(lambda x: net(x, x[:, 0] * 0), num_basis=2)
    ).double()


def process_of(kind, tied_to="time", eta=1.0):
    return ndm.ForwardProcess(ndm.CosineSchedule(-6.0, 4.0), transform_of(kind), eta, tied_to)


def limit(process, x, t, eta):
    """F and F - 2/(1 + eta) F'/gamma' by a central difference."""
    noise, h = process.schedule(t), 1e-5
    value = lambda t: process(x).marginal(t).mean / expand(process.schedule(t).alpha, x)  # noqa: E731
    slope = (value(t + h) - value(t - h)) / (2 * h)
    return value(t), value(t) - 2 / (1 + eta) * slope / expand(noise.d_gamma, x)


@pytest.mark.parametrize("tied_to", ["time", "noise"])
@pytest.mark.parametrize("kind", ["network", "time-basis"])
@pytest.mark.parametrize("eta", [1.0, 0.3, torch.tensor([0.5, 4.0], dtype=torch.float64)])
def test_the_exact_target_gives_the_process_of_x(kind, tied_to, eta):
    """The drift, the velocity, the score and the marginal, for any eta, from the two heads at eta = 1."""
    process = process_of(kind, tied_to)
    value, target = limit(process, X, T, 1.0)
    p, q = process.toward(target, value, eta=eta), process(X, eta=eta)
    close = {"rtol": 1e-6, "atol": 1e-7}
    torch.testing.assert_close(p.reverse_drift(Z, T), q.reverse_drift(Z, T), **close)
    torch.testing.assert_close(p.velocity(Z, T), q.velocity(Z, T), **close)
    torch.testing.assert_close(p.score(Z, T), q.score(Z, T), **close)
    torch.testing.assert_close(p.marginal(T).mean, q.marginal(T).mean, **close)
    torch.testing.assert_close(p.marginal(T).std, q.marginal(T).std)


@pytest.mark.parametrize("eta", [1.0, 0.3])
def test_one_head_serves_the_eta_of_the_process(eta):
    process = process_of("network", eta=eta)
    _, target = limit(process, X, T, eta)
    torch.testing.assert_close(
        process.toward(target).reverse_drift(Z, T), process(X).reverse_drift(Z, T), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("eta", [1.0, 0.3])
def test_the_target_of_a_step_gives_its_posterior(eta):
    """G = (alpha_s F_s - kappa alpha_t F_t) / (alpha_s - kappa alpha_t), written out."""
    process = process_of("network", eta=eta)
    s, t = (process.schedule(r) for r in (S, T))
    kappa = (torch.exp(eta * (s.gamma - t.gamma) / 2) * s.sigma / t.sigma)[:, None]
    m_s, m_t = (process(X).marginal(r).mean for r in (S, T))
    target = (m_s - kappa * m_t) / (s.alpha[:, None] - kappa * t.alpha[:, None])
    p, q = process.toward(target).posterior(Z, S, T), process(X).posterior(Z, S, T)
    torch.testing.assert_close(p.mean, q.mean)
    torch.testing.assert_close(p.std, q.std)
    wide = process.toward(target, variance=torch.full_like(X, 0.2)).posterior(Z, S, T)
    expected = q.std**2 + (s.alpha[:, None] - kappa * t.alpha[:, None]) ** 2 * 0.2
    torch.testing.assert_close(wide.std**2, expected.expand(2, 3))


def model_of(kind="network", eta=1.0, value=False, variance=False, schedule=None):
    process = process_of(kind, eta=eta)
    torch.manual_seed(2)
    net = SmoothNet(3, 3 * (1 + value + variance))
    predictor = ndm.Predictor(net, "v", variance=variance, target=True, value=value)
    return ndm.NDM(process, predictor, ndm.GaussianDecoder()).double()


@pytest.mark.parametrize("eta", [1.0, 0.3])
def test_the_continuous_bound_is_a_distance_of_targets(eta):
    """e^{-gamma} gamma' (1 + eta)^2 / (8 eta) ||G - G_hat||^2."""
    model = model_of(eta=eta)
    process, noise = model.process, model.process.schedule(T)
    z = process(X).marginal(T).sample(torch.Generator().manual_seed(0))
    _, target = limit(process, X, T, eta)
    v = model.predictor.net(z, T)
    guess = (noise.alpha[:, None] * z - noise.sigma[:, None] * v) / (noise.alpha**2 + noise.sigma**2)[:, None]
    weight = torch.exp(-noise.gamma) * noise.d_gamma * (1 + eta) ** 2 / (8 * eta)
    expected = weight * (target - guess).square().sum(1)
    torch.testing.assert_close(continuous_diffusion(model, process(X), z, T), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("variance", [False, True])
def test_many_steps_cost_what_continuous_time_does(variance):
    model, u = model_of(variance=variance), T
    costs = []
    for steps in (200, 400):
        s, t = step_around(u, steps)
        noise = torch.Generator().manual_seed(0)
        z = model.process(X).marginal(t).sample(noise)
        costs.append(steps * discrete_diffusion(model, model.process(X), z, s, t))
    z = model.process(X).marginal(u).sample(torch.Generator().manual_seed(0))
    limits = continuous_diffusion(model, model.process(X), z, u)
    far, near = ((cost - limits).abs() / limits for cost in costs)
    assert (near < 0.03).all() and (near < 0.75 * far).all()


def test_a_linear_f_has_the_bound_and_the_likelihood_of_its_exact_predictor():
    """E[G | z] is G of E[x | z], so both heads are known; they do not use the library's derivative."""
    oracle = LinearGaussian(3)
    usual, x = oracle.model(), oracle.sample(4, torch.Generator().manual_seed(0))

    class Heads(torch.nn.Module):
        def forward(self, z, t):
            mean = usual.predictor.net(z, t)
            value, target = limit(usual.process, mean, t.clamp(1e-5, 1 - 1e-5), 1.0)
            return torch.cat([target, value], dim=1)

    predictor = ndm.Predictor(Heads(), "x", target=True, value=True)
    model = ndm.NDM(usual.process, predictor, ndm.GaussianDecoder(), shape=(3,)).eval()
    bounds = [ndm.bound(m, x, generator=torch.Generator().manual_seed(1)).total for m in (usual, model)]
    torch.testing.assert_close(*bounds, rtol=1e-5, atol=1e-5)
    solver = ndm.Solver("dopri5", rtol=1e-7, atol=1e-7)
    logs = [ndm.log_prob(m, x, solver=solver, dtype=torch.float64) for m in (usual, model)]
    torch.testing.assert_close(*logs, rtol=1e-4, atol=1e-4)


def test_f_is_evaluated_on_data_alone():
    seen = []
    model = model_of(value=True)
    inner = model.process.transform.forward
    model.process.transform.forward = lambda x: seen.append(x) or inner(x)
    for steps in (None, 4):
        ndm.bound(model, X, steps)
    assert len(seen) == 2 and all(torch.equal(x, X) for x in seen)
    for solver in ("ancestral", "ddim", "heun", "euler_maruyama"):
        assert torch.isfinite(ndm.sample(model.eval(), (2, 3), steps=3, solver=solver)).all()
    assert len(seen) == 2


def test_all_parts_have_gradients():
    model = model_of("time-basis", value=True, variance=True)
    eta = torch.tensor([0.5, 2.0], dtype=torch.float64)
    ndm.bound(model, X, 5, eta=eta).total.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_identity_has_everything_with_one_head():
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
    net = SmoothNet(3, 3)
    one = ndm.NDM(process, ndm.Predictor(net, "v", target=True), ndm.GaussianDecoder()).double().eval()
    two = ndm.NDM(process, ndm.Predictor(net, "v"), ndm.GaussianDecoder()).double().eval()
    assert one.has_ode
    for eta in (None, 0.0, 2.0):
        a, b = one(Z, T, eta), two(Z, T, eta)
        torch.testing.assert_close(a.posterior(Z, S, T).mean, b.posterior(Z, S, T).mean)
        torch.testing.assert_close(a.velocity(Z, T), b.velocity(Z, T))
        torch.testing.assert_close(a.score(Z, T), b.score(Z, T))
    torch.testing.assert_close(ndm.log_prob(one, X), ndm.log_prob(two, X))


def test_what_the_target_alone_cannot_do_is_told():
    model = model_of().eval()
    assert not model.has_ode
    for call in (
        lambda: ndm.log_prob(model, X),
        lambda: ndm.sample(model, (2, 3), steps=3, solver="heun"),
        lambda: model(Z, T).score(Z, T),
        lambda: model(Z, T).marginal(T),
    ):
        with pytest.raises(ndm.InputError, match="has no ODE and no score"):
            call()
    for call in (
        lambda: ndm.sample(model, (2, 3), steps=3, solver="ddim"),
        lambda: ndm.bound(model, X, eta=torch.tensor([0.5, 2.0])),
    ):
        with pytest.raises(ndm.InputError, match="for eta = 1 alone"):
            call()
    with pytest.raises(ndm.InputError, match="a target and a curve"):
        ndm.Predictor(SmoothNet(3, 9), num_basis=2, target=True)
    with pytest.raises(ndm.InputError, match="value needs target"):
        ndm.Predictor(SmoothNet(3, 6), value=True)


@torch.no_grad()
def test_levels_and_a_residual_give_the_target():
    torch.manual_seed(0)
    out = torch.randn(2, 3 * (4 + 2), dtype=torch.float64)
    predictor = ndm.LevelsPredictor(lambda z, t: out, 4, target=True, value=True).double()
    process = ndm.ForwardProcess(ndm.LinearSchedule(-6.0, 4.0))
    plain = ndm.LevelsPredictor(lambda z, t: out[:, :12], 4).double()(Z, T, process).x_hat
    found = predictor(Z, T, process)
    sigma = process.schedule(T).sigma[:, None]
    torch.testing.assert_close(found.x_hat, plain + sigma * out[:, 12:15])
    torch.testing.assert_close(found.value, plain + sigma * out[:, 15:])


SMALL = [
    "--model.width", "8", "--model.depth", "1", "--model.transform", "network", "--model.transform_width", "8",
    "--model.predict_target", "true", "--training.steps", "4", "--device", "cpu", "--quiet",
]  # fmt: skip


@pytest.mark.parametrize(("eta_range", "ode"), [("1", False), ("4", True)])
def test_the_command_evaluates_what_the_model_has(eta_range, ode, tmp_path, capsys):
    run = str(tmp_path / "run")
    assert main(["train", "moons", "--out", run, *SMALL, "--training.eta_range", eta_range]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--limit", "8", "--passes", "2", "--json", "--device", "cpu", "--quiet"]) == 0
    names = [estimate["estimator"] for estimate in json.loads(capsys.readouterr().out)["estimates"]]
    assert any(name.startswith("ODE") for name in names) == ode and len(names) == 3 + ode
    assert main(["doctor", run, "--limit", "8", "--json", "--device", "cpu", "--quiet"]) == 0
    assert (json.loads(capsys.readouterr().out)["nfe"] is not None) == ode
    code = main(["evaluate", run, "--limit", "8", "--estimator", "ode", "--device", "cpu", "--quiet"])
    assert code == (0 if ode else 2)
    assert ode or "has no ODE" in capsys.readouterr().err
    again = ndm.NDM.from_pretrained(run)
    assert again.predictor.target and again.predictor.value == ode


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--model.predict_curve", "true", "--model.transform", "time_basis"], "are two forms of the reverse process"),
        (["--model.transform", "embedding", "--model.parameterization", "symbols"], "is not for symbols"),
    ],
)
def test_settings_that_contradict_a_target_are_refused(settings, message, tmp_path, capsys):
    line = ["train", "digits", "--out", str(tmp_path / "run"), "--model.predict_target", "true", "--device", "cpu"]
    settings = [*(["--model.predict_curve", "false"] if "symbols" in settings else []), *settings]
    assert main([*line, *settings]) == 2
    assert message in capsys.readouterr().err


def test_f_of_data_is_evaluated_once_at_each_time():
    """At t = 1 for the prior, at t, and at s with steps; F(x, 0) is x. A second network F would be called for x_hat."""
    model, calls = model_of(), []
    model.process.transform.net.register_forward_hook(lambda *_: calls.append(1))
    for steps, count in ((None, 2), (4, 3)):
        calls.clear()
        ndm.bound(model, X, steps)
        assert len(calls) == count
