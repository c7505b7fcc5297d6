"""Samplers on the linear-Gaussian oracle: each must have the right covariance, the exact one where it is known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import ndm
from ndm.evaluation import Protocol, evaluate
from ndm.sampling import sample_in_batches
from ndm.training.validation import validation_nats

from oracle import LinearGaussian

N = 10_000


def assert_moments(draws, mean, covariance, slack=0.0):
    """Check mean and covariance to 4.5 standard errors of n draws, plus ``slack`` for a solver's bias."""
    n = len(draws)
    scale = covariance.diagonal().sqrt()
    assert ((draws.mean(0) - mean).abs() < 4.5 * scale / n**0.5 + slack).all()
    error = (scale[:, None] ** 2 * scale**2 + covariance**2).sqrt() / n**0.5
    assert ((draws.T.cov() - covariance).abs() < 4.5 * error + slack).all()


def smoothed(oracle):
    """The covariance of data drawn from the model: z_0 / alpha_0 plus the decoder's noise."""
    noise = 2 * math.exp(oracle.schedule.gamma_min)
    return oracle.covariance + noise * torch.eye(oracle.dim)


@pytest.mark.parametrize(
    ("solver", "steps", "slack"),
    [("dopri5", 1, 0.0), ("heun", 200, 0.005), ("stochastic_heun", 200, 0.005), ("euler_maruyama", 500, 0.02)],
)
def test_continuous_samplers_reproduce_the_data(solver, steps, slack, generator):
    oracle = LinearGaussian(3, gamma_max=12.0)
    draws = ndm.sample(oracle.model(), (N, 3), steps=steps, solver=solver, generator=generator)
    assert_moments(draws, oracle.mu, smoothed(oracle), slack)


@pytest.mark.parametrize("solver", ["ancestral", "ddim"])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_ancestral_samplers_have_the_covariance_of_their_recursion(solver, steps, generator):
    """z_s = M_s x_hat + kappa (z_t - M_t x_hat) + std eps is iterated in plain matrices from N(0, I)."""
    oracle = LinearGaussian(3)
    mean, covariance, eye = torch.zeros(3), torch.eye(3), torch.eye(3)
    for i in reversed(range(steps)):
        s, t = torch.tensor(i / steps), torch.tensor((i + 1) / steps)
        a, b, m_s, m_t, k = oracle.schedule(s), oracle.schedule(t), oracle.matrix(s), oracle.matrix(t), oracle.gain(t)
        rho2 = 0.0 if solver == "ddim" else 1.0
        kappa = torch.exp(rho2 * (a.gamma - b.gamma) / 2) * a.sigma / b.sigma
        # x_hat = K z + (I - K M_t) mu
        matrix = kappa * eye + (m_s - kappa * m_t) @ k
        offset = (m_s - kappa * m_t) @ (eye - k @ m_t) @ oracle.mu
        mean = matrix @ mean + offset
        var = rho2 * a.sigma**2 * (1 - torch.exp(a.gamma - b.gamma))
        covariance = matrix @ covariance @ matrix.T + var * eye
    draws = ndm.sample(oracle.model(), (N, 3), steps=steps, solver=solver, generator=generator)
    alpha_0 = oracle.schedule(torch.tensor(0.0)).alpha
    decoded = covariance / alpha_0**2 + math.exp(oracle.schedule.gamma_min) * eye
    assert_moments(draws, mean / alpha_0, decoded)


def test_ancestral_sampling_tends_to_the_sde(generator):
    """For a linear F and many steps, both have the covariance of the data."""
    oracle = LinearGaussian(3, gamma_max=12.0)
    draws = ndm.sample(oracle.model(), (N, 3), steps=500, generator=generator)
    assert_moments(draws, oracle.mu, smoothed(oracle), slack=0.02)


class ExactMoments(nn.Module):
    """E[x | z_t] and, through the predictor's softplus, Var[x | z_t], for data with independent dimensions."""

    def __init__(self, oracle):
        super().__init__()
        self.oracle = oracle

    def forward(self, z, t):
        level, c, mu = self.oracle.schedule(t), self.oracle.covariance.diagonal(), self.oracle.mu
        alpha, sigma2 = level.alpha[:, None], level.sigma[:, None] ** 2
        total = alpha**2 * c + sigma2
        x_hat = mu + alpha * c / total * (z - alpha * mu)
        variance = c * sigma2 / total
        return torch.cat([x_hat, torch.log(torch.expm1(variance / sigma2))], dim=1)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_learned_variance_is_exact_at_any_number_of_steps(steps, generator):
    """With the identity as F, independent Gaussians and v = Var[x | z_t], each reverse step is the true one.

    So a few steps give the data's covariance. The bound is the same for every T: the entropy of the smoothed data.
    """
    oracle = LinearGaussian(3, gamma_max=14.0)
    oracle.covariance = torch.diag(oracle.covariance.diagonal())
    process = ndm.ForwardProcess(oracle.schedule)
    predictor = ndm.Predictor(ExactMoments(oracle), "x", variance=True)
    model = ndm.NDM(process, predictor, ndm.GaussianDecoder())
    draws = ndm.sample(model, (N, 3), steps=steps, generator=generator)
    assert_moments(draws, oracle.mu, smoothed(oracle))
    information = (torch.logdet(oracle.covariance + math.exp(-3) * torch.eye(3)) + 9) / 2
    expected = information + 3 / 2 * (math.log(2 * math.pi) - 3 + 1)
    total = ndm.bound(model, oracle.sample(N, generator), steps=steps, generator=generator).total
    assert abs(total.mean() - expected) < 4 * total.std() / N**0.5


def test_ddim_is_deterministic_given_its_start():
    oracle = LinearGaussian(3)
    predictor = ndm.Predictor(ExactMoments(oracle), "x", variance=True)  # whose variance DDIM must not draw from
    model = ndm.NDM(ndm.ForwardProcess(oracle.schedule), predictor, ndm.GaussianDecoder())
    z = torch.randn(4, 3)
    first, second = (ndm.sampling.ancestral(model, z, 5, deterministic=True) for _ in range(2))
    assert torch.equal(first, second)
    generator = torch.Generator().manual_seed(0)
    x = ndm.sample(model, (4, 3), steps=5, solver="ddim", mode=True, generator=generator)
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    z_0 = ndm.sampling.ancestral(model, z, 5, deterministic=True)
    torch.testing.assert_close(x, z_0 / oracle.schedule(torch.tensor(0.0)).alpha)


@pytest.mark.parametrize(
    "solver", [*(s for s in ndm.SOLVERS if ":" not in s), "scipy:RK45", "torchdiffeq:dopri5", "torchsde:srk"]
)
def test_every_sampler_follows_its_seed_and_gives_data_units(solver):
    if ":" in solver:
        pytest.importorskip(solver.partition(":")[0])
    process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), ndm.Network(ndm.nn.MLP((1, 2, 2), width=8, depth=1)))
    net = ndm.nn.MLP((1, 2, 2), width=8, depth=1)
    model = ndm.NDM(process, ndm.Predictor(net), ndm.CategoricalDecoder(17)).float()
    draw = lambda seed: ndm.sample(  # noqa: E731
        model, (6, 1, 2, 2), steps=4, solver=solver, generator=torch.Generator().manual_seed(seed)
    )
    x = draw(0)
    assert x.shape == (6, 1, 2, 2) and x.dtype == torch.int64 and x.min() >= 0 and x.max() < 17
    assert torch.equal(x, draw(0)) and not torch.equal(x, draw(1))


def test_bad_calls_are_refused():
    model = LinearGaussian(3).model()
    with pytest.raises(ndm.InputError, match=r"unknown solver 'rk45'; did you mean 'rk4'\? choose one of ancestral"):
        ndm.sample(model, (2, 3), solver="rk45")
    with pytest.raises(ndm.InputError, match="at least 1"):
        ndm.sample(model, (2, 3), steps=0)
    with pytest.raises(ndm.InputError, match="steps=4 contradicts the solver's own steps=5"):
        ndm.sample(model, (2, 3), steps=4, solver=ndm.Solver("heun", 5))
    model.process.schedule = ndm.StepwiseSchedule(-3.0, 5.0, steps=4)
    for solver, steps in (("ancestral", 5), ("heun", 4)):
        with pytest.raises(ndm.InputError, match="belongs to steps=4"):
            ndm.sample(model, (2, 3), steps=steps, solver=solver)


def test_recursion_used_above_is_not_trivial():
    """The oracle's covariance is correlated and its F is not the identity, so a missing term would be visible."""
    oracle = LinearGaussian(3)
    off = oracle.covariance - torch.diag(oracle.covariance.diagonal())
    assert off.abs().max() > 0.1 * oracle.covariance.diagonal().mean()
    ratio = oracle.matrix(torch.tensor(1.0)) / oracle.schedule(torch.tensor(1.0)).alpha
    assert np.abs(np.linalg.eigvalsh(ratio.numpy()) - 1).max() > 0.5


def test_ancestral_sampling_follows_the_eta_of_the_process(generator):
    """The mean and the covariance follow the recursion at eta = 0.3 in four steps; n = 20,000."""
    oracle, eta, steps = LinearGaussian(3), 0.3, 4
    model = oracle.model()
    model.process.eta = eta
    mean, covariance, eye = torch.zeros(3), torch.eye(3), torch.eye(3)
    for i in reversed(range(steps)):
        s, t = torch.tensor(i / steps), torch.tensor((i + 1) / steps)
        a, b, m_s, m_t, k = oracle.schedule(s), oracle.schedule(t), oracle.matrix(s), oracle.matrix(t), oracle.gain(t)
        kappa = torch.exp(eta * (a.gamma - b.gamma) / 2) * a.sigma / b.sigma
        matrix = kappa * eye + (m_s - kappa * m_t) @ k
        mean = matrix @ mean + (m_s - kappa * m_t) @ (eye - k @ m_t) @ oracle.mu
        noise = a.sigma**2 * (1 - torch.exp(eta * (a.gamma - b.gamma)))
        covariance = matrix @ covariance @ matrix.T + noise * eye
    draws = ndm.sample(model, (N, 3), steps=steps, generator=generator)
    alpha_0 = oracle.schedule(torch.tensor(0.0)).alpha
    assert_moments(draws, mean / alpha_0, covariance / alpha_0**2 + math.exp(oracle.schedule.gamma_min) * eye)


@pytest.mark.parametrize("eta", [0.3, 2.0])
def test_the_sde_follows_the_eta_of_the_process(eta, generator):
    oracle = LinearGaussian(3, gamma_max=12.0)
    model = oracle.model()
    model.process.eta = eta
    draws = ndm.sample(model, (N, 3), steps=200, solver="stochastic_heun", generator=generator)
    assert_moments(draws, oracle.mu, smoothed(oracle), 0.01)


def test_large_rows_go_through_the_model_a_few_at_a_time():
    """Sampling, validation and evaluation process four rows of 2^17 elements at once, as ``rows_at_once`` says."""

    class Zero(nn.Module):
        def forward(self, z, t):
            rows.append(len(z))
            return torch.zeros_like(z)

    rows, shape = [], (2, 2**16)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
    model, x = ndm.NDM(process, ndm.Predictor(Zero(), "v"), ndm.GaussianDecoder()), torch.zeros(6, *shape)
    assert [len(part) for part in sample_in_batches(model, shape, 6, steps=1)] == [4, 2]
    assert rows == [4, 2]
    rows.clear()
    assert torch.isfinite(validation_nats(model, x, None)) and set(rows) == {4, 2}
    rows.clear()
    assert evaluate(model, x, Protocol("bound", passes=1)).rows == 6 and rows == [4, 2]


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "heun", "euler_maruyama"])
def test_a_solver_brings_its_own_steps(solver):
    """A Solver draws the same as its name with the same number of steps. A name alone takes 50 steps."""
    model = LinearGaussian(3).model()
    draw = lambda **options: ndm.sample(model, (2, 3), generator=torch.Generator().manual_seed(0), **options)  # noqa: E731
    assert torch.equal(draw(solver=ndm.Solver(solver, 4)), draw(steps=4, solver=solver))
    assert torch.equal(draw(solver=solver), draw(steps=50, solver=solver))
    assert not torch.equal(draw(solver=ndm.Solver(solver, 4)), draw(solver=solver))


def test_rows_that_cannot_be_sampled_are_an_error_that_says_where_they_stopped(monkeypatch):
    model = LinearGaussian(3).model()
    field = ndm.sampling.velocity_field(model)
    broken = lambda t, z: torch.where(t[:, None] < 0.5, math.nan, field(t, z))  # noqa: E731
    monkeypatch.setattr("ndm.sampling.velocity_field", lambda _: broken)
    with pytest.raises(ndm.SolverError, match=r"dopri5 stopped in 4 of 4 rows \(row 0 near t = 0.5: ") as failure:
        ndm.sample(model, (4, 3), solver="dopri5")
    assert failure.value.result.state.shape == (4, 3) and failure.value.result.state.isfinite().all()
    assert failure.value.failures.times.tolist() == pytest.approx([0.5] * 4, abs=1e-6)


def broken(decoder):
    """A model with a NaN among its weights, as after a training that went wrong."""
    process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0))
    model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,), width=8, depth=1)), decoder).eval()
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = torch.nan
    return model


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "rk4", "dopri5", "euler_maruyama"])
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("decoder", [ndm.CategoricalDecoder(4), ndm.GaussianDecoder()], ids=["levels", "real"])
def test_a_model_with_a_nan_weight_gives_no_samples(decoder, mode, solver):
    with pytest.raises(ndm.InputError, match="not finite"):
        ndm.sample(broken(decoder), 3, solver=ndm.Solver(solver, 2), mode=mode)


@pytest.mark.parametrize("decoder", [ndm.CategoricalDecoder(4), ndm.GaussianDecoder()], ids=["levels", "real"])
def test_a_model_with_a_nan_weight_has_no_density(decoder):
    model, x = broken(decoder), torch.zeros(3, 2, dtype=torch.long)
    with pytest.raises(ndm.SolverError, match="rk4 stopped in 3 of 3 rows.*not finite"):
        ndm.log_prob(model, x, solver=ndm.Solver("rk4", 2))
    assert len(ndm.ode_likelihood(model, x, solver=ndm.Solver("rk4", 2)).failures) == 3
    with pytest.raises(ndm.SolverError, match="not finite"):
        model.distribution(solver=ndm.Solver("rk4", 2)).sample((3,))


def test_samples_beyond_the_range_of_their_dtype_are_refused():
    model = broken(ndm.GaussianDecoder(2.0**127, 2.0**127)).float()
    with torch.no_grad():
        for p in model.parameters():
            nn.init.constant_(p, 0.0)
    with pytest.raises(ndm.InputError, match="samples of this model are not finite: .* too large"):
        ndm.sample(model, 1000, steps=2)


def test_more_samples_than_the_memory_holds_are_refused():
    with pytest.raises(ndm.InputError, match="do not fit into the memory"):
        ndm.sample(broken(ndm.GaussianDecoder()), 10**16)


def test_a_number_in_a_tensor_is_no_shape_of_samples():
    with pytest.raises(ndm.InputError, match=r"sizes of one sample.*got tensor\(3\)"):
        ndm.sample(broken(ndm.GaussianDecoder()), torch.tensor(3))
