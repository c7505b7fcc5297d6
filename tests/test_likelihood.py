"""ODE likelihood: exact for the linear-Gaussian oracle, equal to an independent solve, and normalised on a grid."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch.distributions import MultivariateNormal

import ndm
from ndm import Solver
from ndm.draws import draw_probes
from ndm.likelihood import value_and_divergence
from ndm.solvers import solve_ode

from conftest import SmoothNet
from oracle import LinearGaussian


def within(tolerance, name="dopri5"):
    """A solver with this absolute and relative tolerance."""
    return Solver(name, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dim", [2, 16, 64])
def test_linear_gaussian_log_likelihood_per_row(dim, generator):
    """p(x) is N(mu, C + e^{gamma_0} I), and it equals log p_ODE(alpha_0 x) + D log alpha_0.

    gamma_1 is so large that z_1 is N(0, I).
    """
    oracle = LinearGaussian(dim, gamma_max=34.0)
    x = oracle.sample(8, generator)
    truth = MultivariateNormal(oracle.mu, oracle.covariance + math.exp(-3.0) * torch.eye(dim)).log_prob(x)
    log_prob = ndm.log_prob(oracle.model(), x, solver=within(1e-7))
    torch.testing.assert_close(log_prob, truth, rtol=0, atol=1e-5)


def test_the_gradient_of_log_prob_is_the_score(generator):
    """The linear-Gaussian score is C^-1 (mu - x). If x requires no gradient, no graph is kept."""
    oracle = LinearGaussian(3, gamma_max=34.0)
    x = oracle.sample(5, generator)
    covariance = oracle.covariance + math.exp(-3.0) * torch.eye(3)
    assert not ndm.log_prob(oracle.model(), x).requires_grad
    for solver in (within(1e-8), Solver("rk4", 200)):
        y = x.clone().requires_grad_()
        (score,) = torch.autograd.grad(ndm.log_prob(oracle.model(), y, solver=solver).sum(), y)
        expected = (oracle.mu - x) @ torch.linalg.inv(covariance)
        torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-5)


def test_the_score_of_a_nonlinear_model_matches_finite_differences():
    """The score goes through a network in forward mode, and through Hutchinson's estimator with a fixed probe."""
    model = nonlinear_model()
    x = torch.tensor([[0.3, -0.8], [1.5, 0.4]])
    for divergence in ("exact", "hutchinson"):

        def value(x):
            generator = torch.Generator().manual_seed(0)
            return ndm.log_prob(model, x, divergence=divergence, solver=within(1e-6), generator=generator)  # noqa: B023

        y = x.clone().requires_grad_()
        (score,) = torch.autograd.grad(value(y).sum(), y)
        step = 1e-3 * torch.eye(2)
        finite = torch.stack([(value(x + s) - value(x - s)) / 2e-3 for s in step], dim=1)
        torch.testing.assert_close(score, finite, rtol=1e-3, atol=1e-4)


def test_the_score_through_other_solvers():
    """torchdiffeq's times depend on the state. scipy has no gradient, and the error says so."""
    pytest.importorskip("torchdiffeq")
    model = nonlinear_model()
    x = torch.tensor([[0.3, -0.8], [1.5, 0.4]], requires_grad=True)
    scores = [
        torch.autograd.grad(ndm.log_prob(model, x, solver=within(1e-8, solver)).sum(), x)[0]
        for solver in ("dopri5", "torchdiffeq:dopri5")
    ]
    torch.testing.assert_close(*scores, rtol=1e-5, atol=1e-6)
    with pytest.raises(ndm.InputError, match="scipy:RK45 has no gradient; use dopri5"):
        ndm.log_prob(model, x, solver="scipy:RK45")


class Shrunk(torch.nn.Module):
    """a E[x | z_t] for x ~ N(0, 1), which is the optimal predictor if a = 1."""

    def __init__(self, schedule, a):
        super().__init__()
        self.schedule, self.a = schedule, a

    def forward(self, z, t):
        return self.a * self.schedule(t).alpha[:, None] * z


@pytest.mark.parametrize(("a", "ode", "sde", "total"), [(1.0, 2.047, 2.047, 2.048), (0.95, 2.097, 2.204, 4.013)])
def test_an_inexact_predictor_makes_two_models_even_of_the_identity(a, ode, sde, total, generator):
    """The figures of docs/likelihood.md: bits of x ~ N(0, 1) under the ODE and under the SDE, and their bound.

    z_0 is Gaussian under both; the SDE's variance comes from its moment equations. The bound is the mean over 4000
    quantiles and 40 passes, within 4 standard errors. Its expected value for a = 0.95 is that for a = 1 plus 1/2 int (1
    - a)^2 e^-gamma alpha^2 dgamma, by quadrature.
    """
    schedule = ndm.LinearSchedule(-7.0, 5.0)
    model = ndm.NDM(ndm.ForwardProcess(schedule), ndm.Predictor(Shrunk(schedule, a), "x"), ndm.GaussianDecoder())
    n, variance = 4000, 1.0
    middle = (torch.arange(n).flip(0) + 0.5) / n
    drift = model(torch.ones(n, 1), middle).reverse_drift(torch.ones(n, 1), middle)[:, 0]
    for b, g in zip(drift.tolist(), model.process.noise_rate(middle).tolist(), strict=True):
        decay = math.exp(-2 * b / n)
        variance = variance * decay + g**2 / (2 * b) * (1 - decay)
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    x, weights = torch.from_numpy(nodes)[:, None], torch.from_numpy(weights / weights.sum())
    bits = lambda log_p: -(weights * log_p).sum().item() / math.log(2)  # noqa: E731
    std = variance**0.5 / schedule(torch.zeros(())).alpha
    assert bits(ndm.log_prob(model, x, solver=within(1e-8))) == pytest.approx(ode, abs=2e-3)
    assert bits(torch.distributions.Normal(0.0, std).log_prob(x)[:, 0]) == pytest.approx(sde, abs=2e-3)
    rows = torch.distributions.Normal(0.0, 1.0).icdf(middle)[torch.randperm(n, generator=generator)][:, None]
    bounds = torch.stack([ndm.bound(model, rows, generator=generator).total.mean() for _ in range(40)]) / math.log(2)
    assert bounds.mean().item() == pytest.approx(total, abs=4 * bounds.std().item() / 40**0.5 + 1e-3)


def test_max_rows_and_the_batch_change_nothing(generator):
    model = nonlinear_model()
    x = torch.randn(7, 2, generator=generator)
    options = {"divergence": "hutchinson", "samples": 2}
    whole = ndm.ode_likelihood(model, x, **options, generator=torch.Generator().manual_seed(1))
    blocks = ndm.ode_likelihood(model, x, **options, max_rows=3, generator=torch.Generator().manual_seed(1))
    for a, b in zip(whole[:4], blocks[:4], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_a_row_alone_in_a_batch_and_in_another_order_has_one_likelihood(dtype, tolerance, generator):
    """256 rows of very different sizes agree to a relative tolerance.

    torchdiffeq has one step size for the batch, so there the rows depend on each other.
    """
    model = nonlinear_model().to(dtype)
    x = (torch.randn(256, 2, generator=generator) * torch.logspace(-1, 1, 256)[:, None]).to(dtype)
    order = torch.randperm(256, generator=generator)
    together = ndm.log_prob(model, x)
    shuffled = ndm.log_prob(model, x[order])
    alone = torch.cat([ndm.log_prob(model, x[i : i + 1]) for i in range(0, 256, 64)])
    torch.testing.assert_close(shuffled, together[order], rtol=tolerance, atol=0)
    torch.testing.assert_close(alone, together[::64], rtol=tolerance, atol=0)
    if dtype == torch.float32:
        return  # rounding would drown the comparison below
    pytest.importorskip("torchdiffeq")
    other = ndm.log_prob(model, x, solver="torchdiffeq:dopri5")
    lone = torch.cat([ndm.log_prob(model, x[i : i + 1], solver="torchdiffeq:dopri5") for i in range(0, 256, 64)])
    assert (lone / other[::64] - 1).abs().max() > 1e4 * tolerance


def test_float64_on_request_leaves_the_model_alone():
    torch.manual_seed(1)
    model = nonlinear_model().float()
    x = torch.tensor([[0.3, -0.8], [1.5, 0.4]])
    log_prob = ndm.log_prob(model, x.float(), solver=within(1e-9), dtype=torch.float64)
    assert log_prob.dtype == torch.float64 and model.reference.dtype == torch.float32
    torch.testing.assert_close(log_prob, ndm.log_prob(model.double(), x.float().double(), solver=within(1e-9)))


@pytest.mark.parametrize("solver", ["scipy:DOP853", "torchdiffeq:dopri5", "rk4"])
def test_other_solvers_agree(solver):
    if ":" in solver:
        pytest.importorskip(solver.partition(":")[0])
    model = nonlinear_model()
    x = torch.tensor([[0.3, -0.8], [1.5, 0.4]])
    ours = ndm.log_prob(model, x, solver=within(1e-9))
    other = ndm.log_prob(model, x, solver=Solver(solver, 100, 1e-8, 1e-8))
    torch.testing.assert_close(other, ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("max_rows", [None, 1])
def test_a_failing_row_does_not_lose_the_others(max_rows, monkeypatch):
    """The field is NaN in one corner. The error names the row and carries the other log-likelihoods."""
    model = nonlinear_model()
    x = torch.tensor([[0.3, -0.8], [9.0, 9.0], [1.5, 0.4]])
    expected = ndm.log_prob(model, x)
    field = ndm.sampling.velocity_field(model)
    broken = lambda t, z: torch.where(z[:, :1] > 4, math.nan, field(t, z))  # noqa: E731
    monkeypatch.setattr("ndm.likelihood.velocity_field", lambda _: broken)
    with pytest.raises(ndm.SolverError, match=r"1 of 3 rows \(row 1 near t = 0") as failure:
        ndm.log_prob(model, x, max_rows=max_rows)
    known = failure.value.result.log_prob
    assert failure.value.failures.rows.tolist() == [1] and known[1].isnan()
    torch.testing.assert_close(known[[0, 2]], expected[[0, 2]])


def test_failures_are_carried_through_blocks_and_draws(monkeypatch):
    """A row fails if its first element is too large or too small, and only in some of the draws."""
    model = nonlinear_model()
    x = torch.tensor([[0.3, -0.8], [3.0, 1.0], [1.5, 0.4], [-3.0, 0.0], [0.1, 0.2]])
    options = {"divergence": "hutchinson", "samples": 3, "solver": Solver(rtol=1e-2, atol=1e-2)}
    seeded = lambda: torch.Generator().manual_seed(1)  # noqa: E731
    expected = ndm.ode_likelihood(model, x, **options, generator=seeded())
    field, solves = ndm.sampling.velocity_field(model), []

    def in_draws(number, draws):
        """True for rows whose first element is beyond ``number``, in the given draws, from t = 0.1 * draw on."""
        draw = len(solves) - 1
        beyond = lambda z: z[:, :1] > number if number > 0 else z[:, :1] < number  # noqa: E731
        return lambda t, z: beyond(z) & (t[:, None] >= 0.1 * draw) & (draw in draws)

    def broken(_):
        solves.append(1)
        left, right = in_draws(-2, (1,)), in_draws(2, (0, 2))
        return lambda t, z: torch.where(left(t, z) | right(t, z), math.nan, field(t, z))

    monkeypatch.setattr("ndm.likelihood.velocity_field", broken)
    generator = seeded()
    result = ndm.ode_likelihood(model, x, **options, max_rows=2, generator=generator)
    assert len(solves) == 3  # every draw is made
    failures = result.failures
    assert (failures.total, failures.rows.tolist()) == (5, [1, 3])
    assert failures.times.tolist() == pytest.approx([0.0, 0.1], abs=1e-6)  # of row 1 the first draw, not the third
    assert failures.reasons == ("the field is not finite",) * 2
    assert result.log_prob.isnan().tolist() == [False, True, False, True, False]
    torch.testing.assert_close(result.log_prob[::2], expected.log_prob[::2], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.standard_error[::2], expected.standard_error[::2], rtol=1e-8, atol=1e-10)
    with pytest.raises(ndm.SolverError, match=r"2 of 5 rows \(row 1 near t = 0: .*; row 3 near t = 0.1: ") as error:
        result.checked()
    assert error.value.result is result and error.value.failures is failures
    assert expected.checked() is expected


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_draws_that_are_solved_together_are_those_solved_one_by_one(divergence, monkeypatch):
    """A draw fails in a row whose latent is large; which rows these are differs between the draws."""
    model, x = categorical_model(-1.0), torch.tensor([[0], [1], [2], [3], [3]])
    field, solves = ndm.sampling.velocity_field(model), []

    def broken(_):
        solves.append(1)
        return lambda t, z: torch.where((z > 1.1) & (t[:, None] < 0.05), math.nan, field(t, z))

    monkeypatch.setattr("ndm.likelihood.velocity_field", broken)

    def estimated(max_rows):
        solves.clear()
        generator = torch.Generator().manual_seed(3)
        options = {"divergence": divergence, "samples": 4, "solver": within(1e-4), "generator": generator}
        return ndm.ode_likelihood(model, x, **options, max_rows=max_rows), len(solves)

    (together, once), (single, often), (pairs, thrice) = estimated(None), estimated(5), estimated(11)
    assert (once, often, thrice) == (1, 4, 2)
    assert 0 < len(single.failures) < 5
    for result in (together, pairs):
        for found, expected in zip(result[:-1], single[:-1], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9, equal_nan=True)
        assert result.failures.rows.tolist() == single.failures.rows.tolist()
        torch.testing.assert_close(result.failures.times, single.failures.times)
        assert (result.failures.total, result.failures.reasons) == (5, single.failures.reasons)


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
    """scipy's DOP853 at 1e-11 solves alpha' F + alpha dF + (sigma'/sigma)(z - alpha F).

    Its Jacobians are in reverse mode.
    """
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
    log_prob = ndm.log_prob(model, x, solver=within(1e-7))
    torch.testing.assert_close(log_prob, torch.tensor(expected), rtol=0, atol=1e-5)
    assert abs(log_prob[0] - log_prob[1]) > 0.1


def test_density_integrates_to_one_on_a_grid():
    """The model is non-linear, in two dimensions. The grid holds all but 1e-6 of the mass."""
    model = nonlinear_model()
    axis = torch.linspace(-8, 8, 81)
    x = torch.cartesian_prod(axis, axis)
    density = ndm.log_prob(model, x, solver=within(1e-4)).exp()
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
    """The mean of n = 4000 probes is within 3 standard errors of the trace."""
    model = nonlinear_model(3)
    f = ndm.sampling.velocity_field(model)
    z, t = torch.randn(1, 3), torch.rand(1)
    n = 4000
    probe = 2.0 * torch.randint(2, (n, 3), generator=generator) - 1
    _, estimates = value_and_divergence(f, t.expand(n), z.expand(n, 3), probe)
    _, exact = value_and_divergence(f, t, z)
    assert estimates.std() > 0
    assert abs(estimates.mean() - exact) < 3 * estimates.std() / n**0.5
    _, diagonal = value_and_divergence(lambda t, z: z**2, t, z, probe[:1])
    torch.testing.assert_close(diagonal, 2 * z.sum(1))


def test_hutchinson_log_prob_averages_to_the_exact_one(generator):
    """The mean of n = 400 solves is within 3 standard errors.

    Several probes in one call have the same mean and a smaller spread.
    """
    model = nonlinear_model()
    x = torch.tensor([[0.3, -0.8]])
    exact = ndm.log_prob(model, x)
    spreads = {}
    for divergence in ("hutchinson", "hutchinson-gaussian"):
        draws = ndm.log_prob(model, x.expand(400, 2), divergence=divergence, generator=generator)
        averaged = ndm.ode_likelihood(model, x.expand(400, 2), divergence=divergence, samples=4, generator=generator)
        for estimate in (draws, averaged.log_prob):
            assert abs(estimate.mean() - exact) < 3 * estimate.std() / 400**0.5
        assert averaged.log_prob.std() < 0.7 * draws.std()
        # The reported error is that of the average over its own four draws.
        assert averaged.standard_error.square().mean().sqrt() == pytest.approx(averaged.log_prob.std().item(), rel=0.15)
        spreads[divergence] = draws.std()
    assert spreads["hutchinson-gaussian"] > 1.05 * spreads["hutchinson"]


def categorical_model(gamma_min):
    """One pixel with four levels, small enough to compute the truth by brute force."""
    torch.manual_seed(1)
    process = ndm.ForwardProcess(ndm.LinearSchedule(gamma_min, 5.0), ndm.Network(SmoothNet(1, 1)))
    return ndm.NDM(process, ndm.Predictor(SmoothNet(1, 1), "v"), ndm.CategoricalDecoder(4))


def test_discrete_log_prob_is_a_lower_bound_that_tightens(generator):
    """The truth is the integral of p(x|z_0) p_ODE(z_0) over a fine grid of z_0.

    There are n = 1000 draws for one and four importance samples, and n = 400 for 16.
    """
    model = categorical_model(-1.0)
    x = torch.tensor([[1]])
    grid = torch.linspace(-9, 9, 3001)[:, None]
    log_p = ndm.ode_log_prob(ndm.sampling.velocity_field(model), grid, solver=within(1e-7)).log_prob
    joint = torch.exp(log_p - model.decoder.nll(x.expand(len(grid), 1), grid, model.process))
    truth = torch.log(torch.trapezoid(joint, grid[:, 0]))
    means = []
    for samples, n in ((1, 1000), (4, 1000), (16, 400)):
        draws = ndm.log_prob(model, x.expand(n, 1), samples=samples, solver=within(1e-4), generator=generator)
        means.append(draws.mean())
        assert draws.mean() < truth + 3 * draws.std() / n**0.5
    assert means[0] < means[1] < means[2]
    assert truth - means[2] < 0.02 < truth - means[0]


def test_uniform_dequantisation_is_the_integral_over_the_cell_in_the_limit(generator):
    """The truth is the density of x + u integrated over the cell, on a fine grid.

    There are n = 1000 draws with one sample, and n = 300 with 16.
    """
    model = categorical_model(-1.0)
    x = torch.tensor([[1]])
    alpha_0 = model.process.schedule(torch.tensor(0.0)).alpha
    cell = torch.linspace(-0.5, 0.0, 2001)[:, None]  # level 1 of 4 in model units
    log_p = ndm.ode_log_prob(ndm.sampling.velocity_field(model), alpha_0 * cell, solver=within(1e-8)).log_prob
    truth = torch.log(torch.trapezoid(log_p.exp() * alpha_0, cell[:, 0]))
    options = {"dequantization": "uniform", "solver": within(1e-5), "generator": generator}
    one = ndm.log_prob(model, x.expand(1000, 1), **options)
    many = ndm.ode_likelihood(model, x.expand(300, 1), samples=16, **options)
    assert one.mean() < truth + 3 * one.std() / 1000**0.5
    assert one.mean() < many.log_prob.mean()
    assert abs(many.log_prob.mean() - truth) < 3 * many.log_prob.std() / 300**0.5 + 1e-4
    assert many.standard_error.square().mean().sqrt() == pytest.approx(many.log_prob.std().item(), rel=0.2)
    with pytest.raises(ndm.InputError, match="for discrete data"):
        ndm.log_prob(nonlinear_model(), torch.zeros(2, 2), dequantization="uniform")


def test_hutchinson_averages_the_discrete_bound_instead_of_exponentiating_noise(generator):
    """The mean over n = 300 rows equals the exact bound with one sample, within 4 standard errors.

    With six pixels the trace is noisy.
    """
    torch.manual_seed(1)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-1.0, 5.0), ndm.Network(SmoothNet(6, 6)))
    model = ndm.NDM(process, ndm.Predictor(SmoothNet(6, 6), "v"), ndm.CategoricalDecoder(4))
    x = torch.tensor([[0, 1, 2, 3, 1, 2]]).expand(300, 6)
    options = {"solver": within(1e-3), "generator": generator}
    exact = ndm.log_prob(model, x, **options)
    noisy = ndm.log_prob(model, x, divergence="hutchinson", samples=8, **options)
    error = ((exact.var() + noisy.var()) / 300) ** 0.5
    assert abs(noisy.mean() - exact.mean()) < 4 * error


def test_a_uniform_model_scores_log2_of_the_levels(generator):
    """At t = 0 there is only noise, so the decoder is flat and the bound is tight with one sample."""
    process = ndm.ForwardProcess(ndm.LinearSchedule(60.0, 70.0))
    for levels in (17, 256):
        model = ndm.NDM(process, ndm.Predictor(SmoothNet(3, 3), "x"), ndm.CategoricalDecoder(levels))
        x = torch.randint(levels, (5, 3))
        for divergence in ("exact", "hutchinson"):
            log_prob = ndm.log_prob(model, x, divergence=divergence, solver=within(1e-9), generator=generator)
            bpd = ndm.bits_per_dim(-log_prob, x)
            torch.testing.assert_close(bpd, torch.full((5,), math.log2(levels)), rtol=0, atol=1e-6)


def test_images_of_any_shape_have_a_likelihood():
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0), ndm.TimeBasis(torch.nn.Conv2d(2, 4, 1), 2))
    model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2, 3, 3), width=8, depth=1)), ndm.CategoricalDecoder(4))
    model = model.double()
    x = torch.randint(4, (5, 2, 3, 3))
    for divergence in ("exact", "hutchinson"):
        assert ndm.log_prob(model, x, divergence=divergence, solver=within(1e-3)).shape == (5,)


def test_bad_calls_are_refused():
    model = nonlinear_model()
    x = torch.zeros(2, 2)
    with pytest.raises(ndm.InputError, match="must be 'exact', 'hutchinson' or 'hutchinson-gaussian'"):
        ndm.log_prob(model, x, divergence="skilling")
    with pytest.raises(ndm.InputError, match="at least 1"):
        ndm.log_prob(model, x, samples=0)
    with pytest.raises(ndm.InputError, match="rtol and atol must not be negative"):
        ndm.log_prob(model, x, solver=Solver(rtol=-1e-4))
    with pytest.raises(ndm.InputError, match="not finite"):
        ndm.log_prob(model, x / 0)


def test_options_reach_the_solver(monkeypatch):
    model, seen = nonlinear_model(), []
    for place in ("ndm.likelihood", "ndm.sampling"):
        monkeypatch.setattr(f"{place}.solve_ode", lambda *a, **k: seen.append(a[4]) or solve_ode(*a, **k))
    solver = Solver("dopri5", 7, 1e-3, 1e-2)
    ndm.log_prob(model, torch.randn(3, 2), solver=solver)
    ndm.sample(model, (3, 2), solver=solver)
    ndm.log_prob(model, torch.randn(3, 2), solver="rk4")
    ndm.sample(model, (3, 2), steps=7, solver="rk4")
    assert seen == [solver, solver, Solver("rk4"), Solver("rk4", 7)]


@pytest.mark.parametrize("solver", ["dopri5", "rk4"])
def test_evaluations_are_counted(solver, monkeypatch):
    """The counts are calls of the field and of the divergence, per row and solve.

    ``dopri5`` calls the divergence separately.
    """
    model, rows, divergences = nonlinear_model(), [], []
    field = ndm.sampling.velocity_field(model)
    monkeypatch.setattr("ndm.likelihood.velocity_field", lambda _: lambda t, z: rows.append(len(z)) or field(t, z))

    def counted(f, t, z, *args):
        divergences.append(len(z))
        result = value_and_divergence(f, t, z, *args)
        if solver == "dopri5":
            rows.pop()  # the field's value was made for the divergence
        return result

    monkeypatch.setattr("ndm.likelihood.value_and_divergence", counted)
    x = 3 * torch.randn(4, 2)
    result = ndm.ode_likelihood(model, x, divergence="hutchinson", samples=2, solver=Solver(solver, 5))
    assert 2 * result.nfe.sum() == sum(rows)
    assert 2 * result.divergence_nfe.sum() == sum(divergences)
    assert (sum(rows) == sum(divergences)) is (solver == "rk4")


def test_the_error_of_no_draw_is_zero_and_of_one_unknown():
    x = torch.zeros(2, 2)
    assert (ndm.ode_likelihood(nonlinear_model(), x).standard_error == 0).all()
    assert ndm.ode_likelihood(nonlinear_model(), x, divergence="hutchinson").standard_error.isnan().all()
    one = torch.ones(2, 1, dtype=torch.long)
    assert ndm.ode_likelihood(categorical_model(-1.0), one).standard_error.isnan().all()


@pytest.mark.parametrize("kind", ["hutchinson", "hutchinson-gaussian"])
def test_probes_have_unit_covariance(kind, generator):
    """n = 40,000 probes; each element is within five standard errors."""
    n = 40_000
    of_many_rows = draw_probes(torch.zeros(n, 3), kind, generator)
    of_one_row = draw_probes(torch.zeros(1, 3), kind, generator, count=n)
    assert of_many_rows.shape == (n, 1, 3) and of_one_row.shape == (1, n, 3)
    for probe in (of_many_rows[:, 0], of_one_row[0]):
        assert ((probe.T @ probe / n - torch.eye(3)).abs() < 5 * 2**0.5 / n**0.5).all()
        assert (probe.mean(0).abs() < 5 / n**0.5).all()
        assert kind != "hutchinson" or (probe.abs() == 1).all()


def test_every_row_has_its_own_probes_unless_they_are_common():
    z = torch.zeros(3, 5)
    own, common = draw_probes(z, "hutchinson", count=7), draw_probes(z, "hutchinson", common=True, count=7)
    assert own.shape == common.shape == (3, 7, 5)
    assert not own[0].equal(own[1]) and not own[:, 0].equal(own[:, 1])
    assert common[0].equal(common[1]) and not common[:, 0].equal(common[:, 1])
    assert draw_probes(z, "exact", count=7) is None


@pytest.mark.parametrize("solver", [within(1e-9), Solver("rk4", 10), within(1e-9, "scipy:RK45")], ids=lambda s: s.name)
def test_probes_share_the_path_and_are_averaged(solver, generator):
    field, z = ndm.sampling.velocity_field(nonlinear_model(3)), torch.randn(2, 3)
    probes = draw_probes(z, "hutchinson-gaussian", generator, count=5)
    single = [ndm.ode_log_prob(field, z, probes[:, k], solver) for k in range(5)]
    several = ndm.ode_log_prob(field, z, probes, solver)
    mean = torch.stack([found.log_prob for found in single]).mean(0)
    torch.testing.assert_close(several.log_prob, mean, rtol=0, atol=1e-6)
    assert (torch.stack([found.log_prob for found in single]).std(0) > 0.01).all()
    assert (several.nfe <= 1.5 * torch.stack([found.nfe for found in single]).amax(0)).all()


def test_probes_make_a_draw_less_noisy():
    """The variance of a mean of 4 probes is a quarter; 400 rows know the ratio to within a fifth."""
    model, x = nonlinear_model(), torch.tensor([[0.3, -0.8]]).expand(400, 2)
    one, four = (
        ndm.log_prob(model, x, divergence="hutchinson", probes=count, generator=torch.Generator().manual_seed(0))
        for count in (1, 4)
    )
    exact = ndm.log_prob(model, x[:1])
    assert abs(four.mean() - exact) < 3 * four.std() / 400**0.5
    assert four.var() / one.var() == pytest.approx(1 / 4, rel=0.2)


def test_a_nonlinear_model_in_many_dimensions_agrees_with_a_fixed_step_solver():
    """In D = 20 the divergence is integrated over panels of two steps, and it varies along the path."""
    model = nonlinear_model(20)
    x = torch.randn(1, 20, generator=torch.Generator().manual_seed(1))
    reference = ndm.log_prob(model, x, solver=Solver("rk4", 80))
    torch.testing.assert_close(ndm.log_prob(model, x, solver=within(1e-7)), reference, rtol=0, atol=1e-5)
