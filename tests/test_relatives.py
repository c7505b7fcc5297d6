"""The relatives of the process: each against the formulas of its own paper, written out."""

import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
import scipy.fft
import torch

import ndm
from ndm.blur import LEAST
from ndm.cli import main
from ndm.elementwise import FLOOR
from ndm.objective import continuous_diffusion, discrete_diffusion
from ndm.support.tensors import expand

from conftest import TINY, SmoothNet

S, T = torch.tensor([0.15, 0.6, 0.3], dtype=torch.float64), torch.tensor([0.3, 0.85, 0.8], dtype=torch.float64)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slope_of(function, t, h=1e-6):
    return (function(t + h) - function(t - h)) / (2 * h)


def flow(gamma_max=70.0):
    """A neural flow diffusion model with delta = 0.05, and its network; at gamma_max = 70 alpha is 1 - t."""
    torch.manual_seed(3)
    net = SmoothNet(2, 4).double()
    schedule = ndm.GeometricSchedule(2 * math.log(0.05), gamma_max)
    return ndm.ForwardProcess(schedule, ndm.GaussianFlow(net)), net


def moments(net, x, t):
    """m and s as the paper writes them."""
    f, h = net(x, t).chunk(2, dim=1)
    t = t[:, None]
    return (1 - t) * x + t * (1 - t) * f, ((1 - t) * math.log(0.05) + t * (1 - t) * h).exp()


def test_the_marginals_of_a_neural_flow_diffusion_model():
    process, net = flow()
    x = draw(3, 2)
    mean, std = moments(net, x, T)
    found = process(x).marginal(T)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.std, std)
    assert (std / std[:, :1]).std() > 0.01  # the noise depends on x
    start, ends = process(x).start(), process(x).marginal(torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(start.std.expand(3, 2)[:2], ends.std[:2])
    torch.testing.assert_close(ends.mean, torch.stack([x[0], x[1], 0 * x[2]]))
    torch.testing.assert_close(ends.std[2], torch.ones(2))


def test_the_loss_of_a_neural_flow_diffusion_model():
    """|f_B(z, t, x) - f_B(z, t, x_hat)|^2 / (2 g^2), where f_B is the velocity at fixed eps less g^2 / 2 times the
    score, and g does not depend on x."""
    process, net = flow()
    x, x_hat = draw(3, 2), draw(3, 2, seed=1)
    g2 = process.noise_rate(T)[:, None] ** 2
    z = process(x).marginal(T).at(draw(3, 2, seed=2))

    def drift(x):
        mean, std = moments(net, x, T)
        eps = (z - mean) / std
        velocity = slope_of(lambda t: moments(net, x, t)[0] + moments(net, x, t)[1] * eps, T)
        return velocity + g2 / 2 * eps / std

    expected = ((drift(x) - drift(x_hat)) ** 2 / (2 * g2)).sum(1)
    model = ndm.NDM(process, ndm.Predictor(lambda z, t: x_hat, "x"), ndm.GaussianDecoder(), shape=(2,))
    torch.testing.assert_close(continuous_diffusion(model, process(x), z, T), expected, rtol=1e-6, atol=1e-8)


def test_the_reverse_process_given_x_has_the_marginals_whatever_the_scale():
    """Steps of the posterior from z_1 to z_0.4, and the reverse SDE, against the moments of q(z_0.4 | x)."""
    process, _ = flow(gamma_max=14.0)
    count, steps, end = 4_000, 80, 0.4
    q = process(draw(1, 2).expand(count, 2))
    ones = torch.ones(count)
    expected = q.marginal(end * ones)
    with torch.no_grad():
        z = y = q.marginal(ones).at(draw(count, 2, seed=5))
        generator = torch.Generator().manual_seed(6)
        grid = torch.linspace(1, end, steps + 1).tolist()
        for t, s in pairwise(grid):
            z = q.posterior(z, s * ones, t * ones).sample(generator)
            noise = process.noise_rate(t * ones)[:, None] * draw(count, 2, seed=int(1e6 * t)) * (t - s) ** 0.5
            y = y - q.reverse_drift(y, t * ones) * (t - s) + noise
    for found in (z, y):
        torch.testing.assert_close(found.mean(0), expected.mean[0], rtol=0, atol=0.04)
        torch.testing.assert_close(found.std(0), expected.std[0], rtol=0.06, atol=0)


@pytest.mark.parametrize("eta", [1.0, 0.3])
def test_a_step_back_keeps_the_marginal_whatever_the_scale(eta):
    """E and Var of q(z_s | z_t, x) over q(z_t | x) are those of q(z_s | x); and the weight of a variance of x."""
    process, _ = flow()
    q, z = process(draw(3, 2), eta=eta), draw(3, 2, seed=1)
    at_s, at_t, step = q.marginal(S), q.marginal(T), q.posterior(z, S, T)
    kappa = (step.mean - at_s.mean) / (z - at_t.mean)
    torch.testing.assert_close(step.std**2 + kappa**2 * at_t.std**2, at_s.std**2)
    wide = process(draw(3, 2), torch.full((3, 2), 0.7, dtype=torch.float64), eta).posterior(z, S, T)
    weight = expand(process.schedule(S).alpha, z) - kappa * expand(process.schedule(T).alpha, z)
    torch.testing.assert_close(wide.std**2 - step.std**2, 0.7 * weight**2)


def test_a_scale_that_follows_the_noise_has_its_derivative():
    _, net = flow()
    process = ndm.ForwardProcess(ndm.CosineSchedule(-6.0, 4.0), ndm.GaussianFlow(net), tied_to="noise")
    q = process(draw(3, 2))
    _, _, d_mean, d_std = q.affine_with_derivative(T)
    torch.testing.assert_close(d_mean, slope_of(lambda t: q.marginal(t).mean, T), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(d_std, slope_of(lambda t: q.marginal(t).std, T), rtol=1e-6, atol=1e-8)


def test_a_target_is_not_predicted_where_the_noise_depends_on_x():
    process, _ = flow()
    with pytest.raises(ndm.InputError, match="GaussianFlow scales it; predict x"):
        ndm.NDM(process, ndm.Predictor(lambda z, t: z, target=True), ndm.GaussianDecoder(), shape=(2,))
    short = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0), ndm.GaussianFlow(lambda x, t: x))
    with pytest.raises(ndm.InputError, match=r"needs net\(x, t\) of shape \(3, 4\)"):
        short(draw(3, 2)).marginal(T)
    with pytest.raises(ndm.InputError, match="gamma_min must be negative"):
        ndm.GeometricSchedule(0.5, 5.0)


def elementwise(shape=(2, 3)):
    schedule = ndm.ElementwiseSchedule(-6.0, 4.0, shape).double()
    schedule.raw.data = draw(3, *shape) / 10
    return schedule


def test_the_schedule_of_mulan_is_its_polynomial():
    """gamma = gamma_min + (gamma_max - gamma_min) f(t) / f(1) with f' = (a t^2 + b t + c)^2, but for a thousandth."""
    schedule = elementwise()
    a, b, c = draw(3, 2, 3) + torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1)
    f = lambda t: a**2 / 5 * t**5 + a * b / 2 * t**4 + (b**2 + 2 * a * c) / 3 * t**3 + b * c * t**2 + c**2 * t  # noqa: E731
    t = torch.linspace(0, 1, 101)
    gamma, slope = schedule.gamma_with_derivative(t)
    expected = torch.stack([-6 + 10 * ((1 - FLOOR) * f(u) / f(1.0) + FLOOR * u) for u in t.tolist()])
    torch.testing.assert_close(gamma, expected)
    assert (slope > 0).all() and (gamma.diff(dim=0) > 0).all()
    inside = t[1:-1]
    torch.testing.assert_close(slope[1:-1], slope_of(lambda u: schedule.gamma_with_derivative(u)[0], inside))
    torch.testing.assert_close(schedule.start(draw(4, 2, 3)).gamma, torch.full((4,), -6.0))
    line = ndm.ElementwiseSchedule(-6.0, 4.0, (2, 3)).double()
    torch.testing.assert_close(line(t).gamma, (-6 + 10 * t)[:, None, None].expand(101, 2, 3))


@pytest.mark.parametrize("steps", [1000, 4000])
def test_the_schedule_of_elements_rises_from_each_step_to_the_next_in_float32(steps):
    """Where its slope is nearly zero, too: gamma that falls would make the posterior's variance negative."""
    schedule = ndm.ElementwiseSchedule(-13.3, 5.0, (1024,)).float()
    schedule.raw.data = torch.randn(3, 1024, generator=torch.Generator().manual_seed(0)).float() / 10
    at = torch.arange(steps + 1, dtype=torch.float32) / steps
    assert all((schedule(part).gamma.diff(dim=0) > 0).all() for part in at.unfold(0, 101, 100))
    schedule.check_precision(torch.float32, steps)
    with pytest.raises(ndm.InputError, match="20000 steps are more than the 11542 at which gamma still rises"):
        schedule.check_precision(torch.float32, 20_000)
    schedule.check_precision(torch.float64, 20_000)


def test_the_loss_of_mulan():
    """-1/2 (x - x_hat)^T diag(SNR'(t)) (x - x_hat), and many steps tend to it."""
    schedule = elementwise()
    x, x_hat = draw(3, 2, 3), draw(3, 2, 3, seed=1)
    process = ndm.ForwardProcess(schedule)
    model = ndm.NDM(process, ndm.Predictor(lambda z, t: x_hat, "x"), ndm.GaussianDecoder(), shape=(2, 3))
    q = process(x)
    z = q.marginal(T).at(draw(3, 2, 3, seed=2))
    rate = slope_of(lambda t: (-schedule(t).gamma).exp(), T)
    expected = -((x - x_hat) ** 2 * rate).flatten(1).sum(1) / 2
    torch.testing.assert_close(continuous_diffusion(model, q, z, T), expected, rtol=1e-6, atol=1e-8)
    many = 100_000 * discrete_diffusion(model, q, z, T - 1e-5, T)
    torch.testing.assert_close(many, expected, rtol=1e-3, atol=0)
    with pytest.raises(ndm.InputError, match=r"latents of shape \(2, 3\), but a row has \(3, 2\)"):
        process(x.mT)


def test_mulan_with_its_latent_as_the_page_prints_it():
    """KL(q(c | x) || N(0, I)) - 1/2 (x - x_hat)^T diag(SNR'(t)) (x - x_hat), with a schedule that reads c."""
    page = (Path(__file__).resolve().parent.parent / "docs/relatives.md").read_text()
    names = {}
    exec(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0], names)
    torch.manual_seed(0)
    model = names["MuLAN"](3, ndm.GaussianDecoder(), size=2, width=8).double()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x, c = draw(4, 3), draw(4, 2, seed=1)
    t = torch.tensor([0.2, 0.5, 0.7, 0.9])
    given = model.given(c)
    a, b, d = (model.order(c).view(4, 3, 3) + torch.tensor([0.0, 0.0, 1.0])[:, None]).unbind(1)

    def gamma(t):
        f = lambda t: a**2 / 5 * t**5 + a * b / 2 * t**4 + (b**2 + 2 * a * d) / 3 * t**3 + b * d * t**2 + d**2 * t  # noqa: E731
        return -7 + 12 * ((1 - FLOOR) * f(t[:, None]) / f(torch.ones(4, 1)) + FLOOR * t[:, None])

    z = given.process(x).marginal(t).at(draw(4, 3, seed=2))
    torch.testing.assert_close(given.process(x).marginal(t).std, torch.sigmoid(gamma(t)).sqrt())
    alpha, sigma = torch.sigmoid(-gamma(t)).sqrt(), torch.sigmoid(gamma(t)).sqrt()
    x_hat = alpha * z - sigma * model.net(torch.cat([z, c], dim=1), t)
    expected = -((x - x_hat) ** 2 * slope_of(lambda t: (-gamma(t)).exp(), t)).sum(1) / 2
    torch.testing.assert_close(continuous_diffusion(given, given.process(x), z, t), expected, rtol=1e-6, atol=1e-8)

    bound, divergence = model.bound(x)
    mean, log_std = model.encoder(x).chunk(2, dim=1)
    q = torch.distributions.Normal(mean, log_std.exp())
    standard = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    torch.testing.assert_close(divergence, torch.distributions.kl_divergence(q, standard).sum(1))
    assert bound.shape == (4,) and model.sample(2, steps=2).shape == (2, 3)


def test_a_predicted_target_of_a_network_tied_to_noise_is_diffenc():
    """x_t = alpha^2 x + sigma^2 y(x, t), and 1/2 SNR(t) |x_hat - (x_t + d x_t / d lambda)|^2 for each unit of the log
    SNR lambda, as sigma_0 goes to 0."""
    torch.manual_seed(1)
    net = SmoothNet(2, 2).double()
    schedule = ndm.LinearSchedule(-40.0, 5.0)
    process = ndm.ForwardProcess(schedule, ndm.Network(net), tied_to="noise")
    x, x_hat = draw(3, 2), draw(3, 2, seed=1)
    t = torch.tensor([0.7, 0.85, 0.95])
    model = ndm.NDM(process, ndm.Predictor(lambda z, t: x_hat, "x", target=True), ndm.GaussianDecoder(), shape=(2,))

    def encoded(log_snr):
        a2, s2 = torch.sigmoid(log_snr), torch.sigmoid(-log_snr)
        return a2[:, None] * x + s2[:, None] * net(x, s2)

    log_snr = -schedule(t).gamma
    torch.testing.assert_close(process(x).marginal(t).mean, schedule(t).alpha[:, None] * encoded(log_snr))
    wanted = encoded(log_snr) + slope_of(encoded, log_snr)
    expected = schedule(t).d_gamma * log_snr.exp() / 2 * (x_hat - wanted).square().sum(1)
    z = process(x).marginal(t).at(draw(3, 2, seed=2))
    torch.testing.assert_close(continuous_diffusion(model, process(x), z, t), expected, rtol=1e-6, atol=1e-8)


def test_blurring_is_the_heat_equation_in_the_cosine_transform():
    shape, width = (2, 6, 4), 3.0
    transform = ndm.Blur(shape, width).double()
    x = draw(3, *shape)
    i, j = torch.arange(6)[:, None] / 6, torch.arange(4) / 4
    blur = width * torch.sin(math.pi * T / 2)[:, None, None, None] ** 2
    fade = (1 - LEAST) * torch.exp(-(math.pi**2) * (i**2 + j**2) * blur**2 / 2) + LEAST
    frequencies = torch.from_numpy(scipy.fft.dctn(x.numpy(), axes=(2, 3), norm="ortho"))
    expected = torch.from_numpy(scipy.fft.idctn((fade * frequencies).numpy(), axes=(2, 3), norm="ortho"))
    curve = transform(x)
    torch.testing.assert_close(curve(T), expected)
    torch.testing.assert_close(curve.with_derivative(T)[1], slope_of(curve, T), rtol=1e-6, atol=1e-7)
    assert (curve(torch.zeros(3)) == x).all()
    torch.testing.assert_close(curve(T).mean((2, 3)), x.mean((2, 3)))  # a blur keeps the mean
    with pytest.raises(ndm.InputError, match=r"images of shape \(2, 6, 4\), got \(2, 4, 6\)"):
        transform(x.mT)
    with pytest.raises(ndm.InputError, match=r"must be \(C, H, W\)"):
        ndm.Blur((6, 4), 1.0)


def test_a_residual_adds_to_a_linear_transform():
    torch.manual_seed(0)
    net = SmoothNet(3, 6).double()
    linear = ndm.Linear(3, 2, "learned").double()
    with torch.no_grad():
        linear.gains.normal_(), linear.generator.normal_()
    residual = ndm.TimeBasis(lambda x: net(x, 0 * x[:, 0]), 2)
    both = ndm.LinearBasis(linear, residual)
    x = draw(3, 3)
    torch.testing.assert_close(both(x)(T), linear(x)(T) + residual(x)(T) - x)
    torch.testing.assert_close(
        both(x).with_derivative(T)[1], linear(x).with_derivative(T)[1] + residual(x).with_derivative(T)[1]
    )
    assert both.predictable == 2 and not both.linear
    with pytest.raises(ndm.InputError, match="same num_basis"):
        ndm.LinearBasis(linear, ndm.TimeBasis(net, 3))


def learned_clock(flat, schedule):
    clock = ndm.LearnedSchedule(schedule.gamma_min, schedule.gamma_max, learned_end=True).double()
    with torch.no_grad():
        clock.raw_heights.fill_(-60.0) if flat else clock.raw_heights.normal_()
        clock.raw_end.fill_(0.0 if flat else 0.3)
    return clock


@pytest.mark.parametrize("schedule", [ndm.CosineSchedule(-6.0, 4.0), elementwise((2,))], ids=["cosine", "elementwise"])
def test_a_learned_eta_is_the_rate_of_its_clock(schedule):
    torch.manual_seed(0)
    transform = ndm.Network(SmoothNet(2, 2).double())
    x, z = draw(3, 2), draw(3, 2, seed=1)
    plain = ndm.ForwardProcess(schedule, transform)
    q, flat = plain(x), ndm.ForwardProcess(schedule, transform, clock=learned_clock(True, schedule))(x)
    one, other = q.posterior(z, S, T), flat.posterior(z, S, T)
    torch.testing.assert_close(one.mean, other.mean)
    torch.testing.assert_close(one.std, other.std)
    torch.testing.assert_close(q.reverse_drift(z, T), flat.reverse_drift(z, T))

    clock = learned_clock(False, schedule)
    process = ndm.ForwardProcess(schedule, transform, clock=clock)
    time = lambda t: clock((schedule(t).gamma + 6) / 10).gamma  # noqa: E731
    torch.testing.assert_close(process(x).clock(T), time(T))
    g2 = schedule(T).sigma ** 2 * slope_of(time, T)
    torch.testing.assert_close(process.noise_rate(T) ** 2, g2, rtol=1e-6, atol=1e-8)
    found, eta = process(x, eta=0.5).posterior(z, S, T), 0.5
    rho = torch.exp(eta * (time(S) - time(T)) / 2)
    s_s, s_t = schedule(S).sigma, schedule(T).sigma
    kappa = expand(rho * s_s / s_t, z)
    m_s, m_t = (plain(x).marginal(t).mean for t in (S, T))
    torch.testing.assert_close(found.mean, m_s + kappa * (z - m_t))
    torch.testing.assert_close(found.std, expand(s_s * (1 - rho**2).sqrt(), z).expand_as(found.std))
    torch.testing.assert_close(process(x).velocity(z, T), q.velocity(z, T))  # the ODE does not depend on it
    rows = torch.full((3,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(process(x, eta=rows).noise_rate(T), process(x, eta=0.5).noise_rate(T))


def test_a_learned_eta_is_trained_by_the_bound_and_not_for_targets():
    schedule = ndm.LinearSchedule(-5.0, 2.0)
    clock = learned_clock(False, schedule)
    process = ndm.ForwardProcess(schedule, ndm.Network(SmoothNet(2, 2).double()), clock=clock)
    model = ndm.NDM(process, ndm.Predictor(SmoothNet(2, 2).double()), ndm.GaussianDecoder(), shape=(2,)).double()
    ndm.bound(model, draw(8, 2), steps=3).total.mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in clock.parameters())
    with pytest.raises(ndm.InputError, match="do not learn eta"):
        process.toward(draw(3, 2))
    with pytest.raises(ndm.InputError, match="do not learn eta, or predict x"):
        ndm.NDM(process, ndm.Predictor(SmoothNet(2, 2).double(), target=True), ndm.GaussianDecoder(), shape=(2,))
    with pytest.raises(ndm.InputError, match="end points of the schedule"):
        ndm.ForwardProcess(schedule, clock=ndm.LearnedSchedule(-5.0, 3.0))
    with pytest.raises(ndm.InputError, match="clock must be"):
        ndm.ForwardProcess(schedule, clock=schedule)


FORMS = {
    "flow": ["--model.transform", "gaussian_flow", "--model.schedule", "geometric", "--model.gamma_max", "10"],
    "elementwise": ["--model.schedule", "elementwise"],
    "blur": ["--model.transform", "blur"],
    "residual": ["--model.transform", "linear_basis", "--model.rotation", "learned", "--model.predict_curve", "true"],
    "eta": ["--model.learned_eta", "true"],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_run_of_each_is_trained_saved_and_read(form, tmp_path, float32):
    line = [
        "train",
        "digits-conventional",
        "--out",
        str(tmp_path / "run"),
        *TINY,
        "--training.steps",
        "3",
        *FORMS[form],
    ]
    assert main(line) == 0
    model = ndm.NDM.from_pretrained(tmp_path / "run")
    x = torch.zeros(2, 1, 8, 8, dtype=torch.long) if len(model.shape) == 3 else torch.zeros(2, 64, dtype=torch.long)
    again = ndm.NDM.from_pretrained(tmp_path / "run")
    figures = [ndm.bound(m, x, generator=torch.Generator().manual_seed(0)).total for m in (model, again)]
    assert figures[0].isfinite().all() and (figures[0] == figures[1]).all()
    for solver in ("ancestral", "heun", "euler_maruyama", "stochastic_heun"):
        assert ndm.sample(model, 2, steps=2, solver=solver).shape == x.shape
    kinds = {type(part).__name__ for part in (model.process.schedule, model.process.transform, model.process.clock)}
    assert kinds & {"GaussianFlow", "ElementwiseSchedule", "Blur", "LinearBasis", "LearnedSchedule"}


def test_what_does_not_go_together_is_refused(capsys):
    symbols = ["--model.transform", "embedding", "--model.parameterization", "symbols"]
    for options, line in (
        ([*symbols, "--model.schedule", "elementwise"], "symbols need one noise for all of their point"),
        (["--model.transform", "network", "--model.predict_target", "true", "--model.learned_eta", "true"], "exclude"),
        (["--model.schedule", "geometric", "--model.gamma_max", "-4"], "gamma_max must not be negative"),
    ):
        assert main(["train", "digits-conventional", *options, "--device", "cpu"]) == 2
        assert line in capsys.readouterr().err


def test_blurring_keeps_its_precision_and_needs_no_room(tmp_path):
    """Its matrices are neither weights nor buffers, so that another dtype does not damage them."""
    x = draw(2, 1, 300, 300)
    net = torch.nn.Conv2d(1, 1, 1)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0), ndm.Blur((1, 300, 300), 90.0))
    model = ndm.NDM(process, ndm.Predictor(net), ndm.GaussianDecoder(), shape=(1, 300, 300))
    before = process.transform(x)(T[:2])
    torch.testing.assert_close(model.to(torch.bfloat16).double().process.transform(x)(T[:2]), before)
    model.save_pretrained(tmp_path)
    again = ndm.NDM.from_pretrained(tmp_path, predictor=net)
    torch.testing.assert_close(again.process.transform(x)(T[:2]), before)


def test_blurring_needs_images(capsys):
    assert main(["train", "ring", "--model.transform", "blur", "--training.steps", "1", "--device", "cpu"]) == 2
    assert "model.transform blur is for images; choose another" in capsys.readouterr().err
