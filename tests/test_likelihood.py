"""ODE likelihood: exact on the linear-Gaussian oracle, an independent solve, a grid that integrates to one."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp
from torch.distributions import MultivariateNormal

import ndm
from ndm.likelihood import value_and_divergence

from conftest import SmoothNet
from oracle import LinearGaussian


@pytest.mark.parametrize("dim", [2, 16, 64])
def test_linear_gaussian_log_likelihood_per_row(dim, generator):
    """p(x) is N(mu, C + e^{gamma_0} I): log p_ODE(alpha_0 x) + D log alpha_0, gamma_1 so large that z_1 is N(0, I)."""
    oracle = LinearGaussian(dim, gamma_max=34.0)
    x = oracle.sample(8, generator)
    truth = MultivariateNormal(oracle.mu, oracle.covariance + math.exp(-3.0) * torch.eye(dim)).log_prob(x)
    log_prob = ndm.log_prob(oracle.model(), x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(log_prob, truth, rtol=0, atol=1e-5)


def test_a_standardising_decoder_changes_units_only(generator):
    oracle = LinearGaussian(2, gamma_max=34.0)
    x = oracle.sample(4, generator)
    model = oracle.model()
    plain = ndm.log_prob(model, x)
    scale, shift = torch.tensor([3.0, 0.2]), torch.tensor([1.0, -5.0])
    model.decoder = ndm.GaussianDecoder(mean=shift, std=scale)
    torch.testing.assert_close(ndm.log_prob(model, x * scale + shift), plain - scale.log().sum())


def nonlinear_model(dim=2):
    torch.manual_seed(1)
    process = ndm.ForwardProcess(ndm.CosineSchedule(-3.0, 4.0), ndm.Network(SmoothNet(dim, dim)))
    return ndm.NDM(process, ndm.Predictor(SmoothNet(dim, dim), "v"), ndm.GaussianDecoder())


def test_nonlinear_log_likelihood_matches_an_independent_solve():
    """scipy's DOP853 at 1e-11 on alpha' F + alpha dF + (sigma'/sigma)(z - alpha F), Jacobians in reverse mode."""
    model = nonlinear_model()
    x = torch.tensor([[0.3, -0.8], [1.5, 0.4]])
    net, schedule = model.process.transform.net, model.process.schedule

    def velocity(z, t):
        x_hat = model(z[None], t[None]).curve.x[0]
        f = lambda t: (1 - t) * x_hat + t * net(x_hat[None], t[None])[0]  # noqa: E731
        level = schedule(t)
        d_f = torch.func.jacrev(f)(t)
        return level.d_alpha * f(t) + level.alpha * d_f + level.d_sigma / level.sigma * (z - level.alpha * f(t))

    def rates(t, state):
        z, t = torch.tensor(state[:2]), torch.tensor(t)
        return [*velocity(z, t).tolist(), torch.func.jacrev(velocity)(z, t).trace().item()]

    alpha_0 = model.process.schedule(torch.tensor(0.0)).alpha.item()
    expected = []
    for row in x.numpy():
        end = solve_ivp(rates, (0.0, 1.0), [*(alpha_0 * row), 0.0], method="DOP853", rtol=1e-11, atol=1e-11).y[:, -1]
        expected.append(-(end[:2] ** 2).sum() / 2 - math.log(2 * math.pi) + end[2] + 2 * math.log(alpha_0))
    log_prob = ndm.log_prob(model, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_prob, torch.tensor(expected), rtol=0, atol=1e-5)
    assert abs(log_prob[0] - log_prob[1]) > 0.1


def test_density_integrates_to_one_on_a_grid():
    """A non-linear model in two dimensions; the grid holds all but 1e-6 of the mass."""
    model = nonlinear_model()
    axis = torch.linspace(-8, 8, 161)
    x = torch.cartesian_prod(axis, axis)
    density = ndm.log_prob(model, x, rtol=1e-4, atol=1e-4).exp()
    assert density.sum().item() * (axis[1] - axis[0]).item() ** 2 == pytest.approx(1.0, abs=1e-3)


def test_exact_divergence_is_the_trace_of_the_jacobian():
    model = nonlinear_model(3)
    z, t = torch.randn(4, 3), torch.rand(4)
    f = ndm.sampling.velocity_field(model)
    _, divergence = value_and_divergence(f, t, z)
    jacobian = torch.autograd.functional.jacobian(lambda z: f(t, z).sum(0), z)
    torch.testing.assert_close(divergence, jacobian.diagonal(dim1=0, dim2=2).sum(1))
    assert divergence.abs().min() > 0.1


def test_hutchinson_is_unbiased_and_exact_for_a_diagonal_jacobian(generator):
    """Mean of n = 4000 probes within 4 standard errors of the trace."""
    model = nonlinear_model(3)
    f = ndm.sampling.velocity_field(model)
    z, t = torch.randn(1, 3), torch.rand(1)
    n = 4000
    probe = 2.0 * torch.randint(2, (n, 3), generator=generator) - 1
    _, estimates = value_and_divergence(f, t.expand(n), z.expand(n, 3), probe)
    _, exact = value_and_divergence(f, t, z)
    assert estimates.std() > 0
    assert abs(estimates.mean() - exact) < 4 * estimates.std() / n**0.5
    _, diagonal = value_and_divergence(lambda t, z: z**2, t, z, probe[:1])
    torch.testing.assert_close(diagonal, 2 * z.sum(1))


def test_hutchinson_log_prob_averages_to_the_exact_one(generator):
    """n = 400 solves, 4 standard errors; several probes in one call have the same mean and a smaller spread."""
    model = nonlinear_model()
    x = torch.tensor([[0.3, -0.8]])
    exact = ndm.log_prob(model, x)
    draws = ndm.log_prob(model, x.expand(400, 2), divergence="hutchinson", generator=generator)
    averaged = ndm.log_prob(model, x.expand(400, 2), divergence="hutchinson", samples=4, generator=generator)
    for estimate in (draws, averaged):
        assert abs(estimate.mean() - exact) < 4 * estimate.std() / 400**0.5
    assert averaged.std() < 0.7 * draws.std()


def categorical_model(gamma_min):
    """One pixel, four levels: small enough for the truth by brute force."""
    torch.manual_seed(1)
    process = ndm.ForwardProcess(ndm.LinearSchedule(gamma_min, 5.0), ndm.Network(SmoothNet(1, 1)))
    return ndm.NDM(process, ndm.Predictor(SmoothNet(1, 1), "v"), ndm.CategoricalDecoder(4))


def test_discrete_log_prob_is_a_lower_bound_that_tightens(generator):
    """Truth: the integral of p(x|z_0) p_ODE(z_0) over a fine grid of z_0. n = 1000 rows per K."""
    model = categorical_model(-1.0)
    x = torch.tensor([[1]])
    grid = torch.linspace(-9, 9, 3001)[:, None]
    level = model.process.schedule(torch.zeros(len(grid)))
    log_p = ndm.ode_log_prob(ndm.sampling.velocity_field(model), grid, rtol=1e-7, atol=1e-7)
    joint = torch.exp(log_p - model.decoder.nll(x.expand(len(grid), 1), grid, level))
    truth = torch.log(torch.trapezoid(joint, grid[:, 0]))
    means = []
    for samples in (1, 4, 16):
        draws = ndm.log_prob(model, x.expand(1000, 1), samples=samples, rtol=1e-4, atol=1e-4, generator=generator)
        means.append(draws.mean())
        assert draws.mean() < truth + 3 * draws.std() / 1000**0.5
    assert means[0] < means[1] < means[2]
    assert truth - means[2] < 0.02 < truth - means[0]


def test_hutchinson_averages_the_discrete_bound_instead_of_exponentiating_noise(generator):
    """Six pixels, so that the trace is noisy: the mean of n = 300 rows is the one-sample exact bound's (4 s.e.)."""
    torch.manual_seed(1)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-1.0, 5.0), ndm.Network(SmoothNet(6, 6)))
    model = ndm.NDM(process, ndm.Predictor(SmoothNet(6, 6), "v"), ndm.CategoricalDecoder(4))
    x = torch.tensor([[0, 1, 2, 3, 1, 2]]).expand(300, 6)
    options = {"rtol": 1e-3, "atol": 1e-3, "generator": generator}
    exact = ndm.log_prob(model, x, **options)
    noisy = ndm.log_prob(model, x, divergence="hutchinson", samples=8, **options)
    error = ((exact.var() + noisy.var()) / 300) ** 0.5
    assert abs(noisy.mean() - exact.mean()) < 4 * error


def test_a_uniform_model_scores_log2_of_the_levels(generator):
    """All noise at t = 0: the decoder is flat and z_0 tells nothing, so the bound is tight at one sample."""
    process = ndm.ForwardProcess(ndm.LinearSchedule(60.0, 70.0))
    for levels in (17, 256):
        model = ndm.NDM(process, ndm.Predictor(SmoothNet(3, 3), "x"), ndm.CategoricalDecoder(levels))
        x = torch.randint(levels, (5, 3))
        for divergence in ("exact", "hutchinson"):
            log_prob = ndm.log_prob(model, x, divergence, rtol=1e-9, atol=1e-9, generator=generator)
            bpd = ndm.bits_per_dim(-log_prob, x)
            torch.testing.assert_close(bpd, torch.full((5,), math.log2(levels)), rtol=0, atol=1e-6)


def test_images_of_any_shape_have_a_likelihood():
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0), ndm.TimeBasis(torch.nn.Conv2d(2, 4, 1), 2))
    model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2, 3, 3), width=8, depth=1)), ndm.CategoricalDecoder(4))
    model = model.double()
    x = torch.randint(4, (5, 2, 3, 3))
    for divergence in ("exact", "hutchinson"):
        assert ndm.log_prob(model, x, divergence, rtol=1e-3, atol=1e-3).shape == (5,)


def test_bad_calls_are_refused():
    model = nonlinear_model()
    x = torch.zeros(2, 2)
    with pytest.raises(ndm.InputError, match="'exact' or 'hutchinson'"):
        ndm.log_prob(model, x, divergence="skilling")
    with pytest.raises(ndm.InputError, match="at least 1"):
        ndm.log_prob(model, x, samples=0)
    with pytest.raises(ndm.InputError, match="not finite"):
        ndm.log_prob(model, x / 0)
