"""The schedule that gives channels their noise one after another, and the columns for which a table gets one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import nn

import ndm
from ndm.data import Dataset
from ndm.density import plan_for
from ndm.density.build import numbers_model
from ndm.density.order import explained, first_column, linearly_explained
from ndm.predictor import BasePredictor, Prediction
from ndm.staggered import StaggeredSchedule
from ndm.support.tensors import expand
from ndm.training import TrainingConfig, train
from ndm.training.loss import Loss

COVARIANCE = torch.tensor([[1.0, 0.8, 0.3], [0.8, 1.0, 0.1], [0.3, 0.1, 1.0]], dtype=torch.float64)
TRUTH = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), COVARIANCE)


class Exact(BasePredictor):
    """E[x | z_t] of normal rows, for any noise of the channels."""

    def __init__(self):
        super().__init__(nn.Identity())

    def forward(self, z_t, t, process):
        noise = process.schedule(t)
        alpha = torch.diag_embed(expand(noise.alpha, z_t).expand_as(z_t))
        total = alpha @ COVARIANCE @ alpha + torch.diag_embed(expand(noise.sigma, z_t).expand_as(z_t) ** 2)
        return Prediction((COVARIANCE @ alpha @ torch.linalg.solve(total, z_t[..., None]))[..., 0], None, None)


def exact_model(starts=(0.0, 0.5, 0.5), gamma_min=-8.0, gamma_max=8.0):
    schedule = StaggeredSchedule(gamma_min, gamma_max, starts, 0.5)
    return ndm.NDM(ndm.ForwardProcess(schedule), Exact(), ndm.GaussianDecoder(), shape=(3,)).double()


def rows(count, seed=0):
    normal = torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return normal @ torch.linalg.cholesky(COVARIANCE).T


def test_every_channel_has_the_same_ends_and_its_own_time_between_them():
    schedule = StaggeredSchedule(-6.0, 5.0, [0.0, 0.5], 0.5).double()
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    gamma, slope = schedule.gamma_with_derivative(t)
    torch.testing.assert_close(gamma[[0, -1]], torch.tensor([[-6.0, -6.0], [5.0, 5.0]], dtype=torch.float64))
    assert (slope > 0).all()
    early, late = gamma[50]
    assert early > 4.5 and late < -5.5
    inside, h = t[1:-1], 1e-6
    difference = schedule.gamma_with_derivative(inside + h)[0] - schedule.gamma_with_derivative(inside - h)[0]
    torch.testing.assert_close(difference / (2 * h), slope[1:-1], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(schedule.start(torch.zeros(4, 2)).gamma, torch.full((4,), -6.0))


@pytest.mark.parametrize("starts", [(0.0, 0.5, 0.5), (0.25, 0.0, 0.5)])
def test_the_likelihoods_of_normal_rows_are_exact_in_any_order(starts):
    model, x = exact_model(starts, -6.0, 5.0), rows(100_000)
    nats = ndm.bound(model, x, generator=torch.Generator().manual_seed(0)).total
    assert nats.mean().item() == pytest.approx(-TRUTH.log_prob(x).mean().item(), abs=0.06)
    solver = ndm.Solver("dopri5", rtol=1e-6, atol=1e-6)
    model = exact_model(starts)
    torch.testing.assert_close(ndm.log_prob(model, x[:50], solver=solver), TRUTH.log_prob(x[:50]), rtol=0, atol=0.01)


def test_many_steps_tend_to_continuous_time():
    model, x = exact_model(gamma_min=-6.0, gamma_max=5.0), rows(100_000)
    nats = [
        ndm.bound(model, x, steps, generator=torch.Generator().manual_seed(0)).total.mean() for steps in (50, 400, None)
    ]
    assert nats[0] > nats[1] + 0.1
    assert abs(nats[1] - nats[2]) < 0.25


@pytest.mark.parametrize("solver", ["ancestral", "heun", "euler_maruyama"])
def test_draws_have_the_covariance_of_the_data(solver):
    x = ndm.sample(exact_model(), 4_000, steps=150, solver=solver, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(torch.cov(x.T), COVARIANCE, rtol=0, atol=0.12)


def test_the_score_parameterisation_is_the_score_less_that_of_a_normal():
    class Fixed(nn.Module):
        def forward(self, z, t):
            return 0.3 * z**2

    for schedule in (ndm.LinearSchedule(-4.0, 4.0), StaggeredSchedule(-4.0, 4.0, [0.0, 0.2], 0.8)):
        process = ndm.ForwardProcess(schedule)
        model = ndm.NDM(process, ndm.Predictor(Fixed(), "score"), ndm.GaussianDecoder(), shape=(2,)).double()
        z = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
        alpha = expand(schedule(t).alpha, z)
        torch.testing.assert_close(model(z, t).score(z, t), -z - alpha * 0.3 * z**2)


def test_training_balances_the_gradient_and_reports_the_bound():
    torch.manual_seed(0)
    schedule = StaggeredSchedule(-4.0, 4.0, [0.0, 0.5, 0.5], 0.5)
    network = ndm.nn.MLP((3,), width=8, depth=1)
    nn.init.normal_(network.head.weight)
    model = ndm.NDM(ndm.ForwardProcess(schedule), ndm.Predictor(network, "score"), ndm.GaussianDecoder())
    loss = Loss(model, TrainingConfig(uniform_times=1.0), seed=3)
    x = rows(64).float()
    found = loss(x, 5)
    found.sum().backward()
    gradient = network.head.bias.grad.clone()

    draws = []
    loss.terms = lambda *args: draws.append(args) or ndm.objective.bound_terms(*args)
    loss(x, 5)
    network.zero_grad()
    terms = ndm.objective.bound_terms(*draws[0])
    t = draws[0][3].t
    rate = schedule.gamma_with_derivative(t)[1].sum(1)
    torch.testing.assert_close(found, torch.stack([term.mean() for term in terms]) / (3 * 0.6931471805599453))
    (terms.diffusion * (3 * 8.0 / rate)).mean().backward()
    torch.testing.assert_close(network.head.bias.grad / (3 * 0.6931471805599453), gradient)
    assert t.min() < 0.1 and (rate[t < 0.4] < 0.6 * rate[(t > 0.6) & (t < 0.9)].min()).all()


def test_a_saved_model_keeps_its_order(tmp_path):
    schedule = StaggeredSchedule(-4.0, 4.0, [0.5, 0.0], 0.5)
    process = ndm.ForwardProcess(schedule)
    model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,), width=8), "score"), ndm.GaussianDecoder())
    model.save_pretrained(tmp_path)
    restored = ndm.NDM.from_pretrained(tmp_path)
    assert restored.process.schedule.starts == [0.5, 0.0]
    t = torch.linspace(0, 1, 7)
    torch.testing.assert_close(restored.process.schedule(t).gamma, schedule(t).gamma)


@pytest.mark.parametrize(("starts", "duration"), [([0.6], 0.5), ([-0.1], 0.5), ([], 0.5), ([0.0], 0.0), ([0.0], 1.5)])
def test_channels_that_do_not_fit_in_time_are_refused(starts, duration):
    with pytest.raises(ndm.InputError, match=r"\[0, 1\]"):
        StaggeredSchedule(-4.0, 4.0, starts, duration)


def test_f_has_one_time():
    with pytest.raises(ndm.InputError, match="tied_to"):
        ndm.ForwardProcess(StaggeredSchedule(-4.0, 4.0, [0.0], 1.0), tied_to="noise")


def made(count, seed=0):
    """Independent columns and a product of three of them, in the second place."""
    x = torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    y = (x[:, 0] * x[:, 1].sign() * (1 + x[:, 2] ** 2)).tanh()
    return torch.cat([x[:, :1], y[:, None] + 0.1 * x.new_empty(count, 1).normal_(), x[:, 1:]], dim=1)


def test_a_function_of_independent_columns_goes_first():
    assert first_column(made(1000)) == 1
    assert explained(made(1000).numpy())[1] > 0.3


def test_columns_that_depend_on_each_other_go_together():
    shared = torch.randn(1000, 1, dtype=torch.float64)
    assert first_column(shared + 0.3 * torch.randn(1000, 5, dtype=torch.float64)) is None
    assert first_column(torch.randn(1000, 5, dtype=torch.float64)) is None
    assert first_column(made(150)) is None
    assert first_column(torch.randn(1000, 1, dtype=torch.float64)) is None


def test_columns_that_depend_on_each_other_without_correlations_go_together():
    angle = 6.3 * torch.rand(2000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wound = torch.cat([wave(k * angle) for k in (1, 2) for wave in (torch.cos, torch.sin)], dim=1)
    assert linearly_explained(wound.numpy()).max() < 0.05
    assert explained(wound.numpy()).min() > 0.8
    assert first_column(wound) is None


def test_trees_are_not_asked_where_columns_depend_linearly(monkeypatch):
    monkeypatch.setattr("ndm.density.order.explained", lambda *_: pytest.fail("trees were fitted"))
    shared = torch.randn(1000, 1, dtype=torch.float64)
    assert first_column(shared + 0.3 * torch.randn(1000, 5, dtype=torch.float64)) is None


def test_what_linear_functions_explain_is_that_of_a_regression():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4)) + 3
    found = linearly_explained(z)
    for j in range(4):
        others = np.delete(z, j, 1)
        plain = LinearRegression().fit(others, z[:, j]).score(others, z[:, j])
        np.testing.assert_allclose(found[j], 1 - (1 - plain) * 299 / 296, atol=1e-6)
    assert linearly_explained(z[:, [0, 1, 2, 3, 0]])[0] == pytest.approx(1)
    assert not linearly_explained(z[:5]).any()


@pytest.mark.parametrize("duration", [1e-9, 1e-6, 1e-4])
def test_a_duration_that_float32_cannot_resolve_is_refused(duration):
    with pytest.raises(ndm.InputError, match="duration must be at least 0.001"):
        StaggeredSchedule(-7.0, 5.0, [0.0, 0.5], duration)
    exact = StaggeredSchedule(-7.0, 5.0, [0.0, 0.5], 0.001).double()
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    found = exact.float()(t.float())
    torch.testing.assert_close(found.gamma.double(), exact.double()(t).gamma, atol=2e-2, rtol=0)
    assert bool((found.d_gamma > 0).all())


def test_starts_for_more_channels_than_the_rows_have_are_refused():
    process = ndm.ForwardProcess(StaggeredSchedule(-7.0, 5.0, [0.0, 0.25, 0.5], 0.25))
    model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,), width=8, depth=1)), ndm.GaussianDecoder())
    calls = (
        lambda: ndm.bound(model, torch.zeros(1, 2)), lambda: ndm.sample(model, 2, steps=2),
        lambda: ndm.sample(model, 2, 2, "euler_maruyama"), lambda: model.distribution(solver="rk4").sample(),
        lambda: ndm.log_prob(model, torch.zeros(1, 2)),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(ndm.InputError, match="starts for 3 channels, but the latents have 2"):
            call()


def test_starts_that_are_no_sequence_are_refused():
    for starts in (3, (start for start in (0.0, 0.5))):
        with pytest.raises(ndm.InputError, match="starts must be a Sequence"):
            StaggeredSchedule(-7.0, 5.0, starts, 0.25)


@pytest.mark.parametrize(("columns", "first", "waves"), [(7, 6, 0), (7, None, 4), (6, 5, 7)])
def test_a_regression_on_many_columns_has_no_fourier_features(columns, first, waves):
    """High frequencies of nearly independent columns would only hurt it."""
    net = numbers_model(columns, first, plan_for(2500, columns))[1].net
    assert len(net.fourier) == waves and net.damped == (waves > 0)


@pytest.mark.slow
def test_a_function_of_independent_columns_is_learned_only_if_its_noise_comes_first():
    """y = sin(2 x_1) sign(x_2) + noise, with four more columns. Each model makes the same 300 steps.

    The marginals are known before training. A model of the relation is up to 1.4 nats better than they are.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 6))
    y = np.sin(2 * x[:, 0]) * np.sign(x[:, 1]) + 0.15 * rng.normal(size=3000)
    rows = torch.from_numpy(np.column_stack([x, y]))
    training, new = rows[:2500], rows[2500:2540]
    marginals = ndm.Marginals.fit(training)
    scores, log_slope = marginals(new)
    known = (torch.distributions.Normal(0.0, 1.0).log_prob(scores) + log_slope).sum(1)
    assert first_column(marginals(training)[0]) == 6
    settings = TrainingConfig(steps=300, batch_size=256, learning_rate=2e-3, evaluate_every=0)
    gains = []
    for first in (None, 6):
        torch.manual_seed(0)
        plan = replace(plan_for(2500, 7), dropout=0.0)
        model = ndm.NDM(*numbers_model(7, first, plan), ndm.MixedDecoder(marginals))
        model = train(model, Dataset("function", training, new, new), settings)
        log_p = ndm.log_prob(model, new, solver=ndm.Solver("dopri5", rtol=1e-3, atol=1e-3))
        gains.append((log_p - known).mean().item())
    assert gains[0] < 0.1 and gains[1] > 0.3, gains
