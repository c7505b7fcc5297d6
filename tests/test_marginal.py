"""Marginal splines: exact inverses and derivatives, densities that integrate to one, digits that stay."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import ndm


def columns(n=400, seed=0):
    """A normal column, a heavy one, a bounded one and one with a spike that is spread over a cell."""
    rng = np.random.default_rng(seed)
    spike = np.where(rng.random(n) < 0.7, 0.0, rng.integers(1, 2000, n)) + rng.random(n) - 0.5
    return torch.from_numpy(np.stack([rng.normal(3, 0.1, n), rng.standard_t(2, n), rng.random(n), spike], 1))


@pytest.mark.parametrize("knots", [None, 4, 16, 64])
def test_the_inverse_gives_back_rows_inside_and_outside_the_data(knots):
    x = columns()
    marginals = ndm.Marginals.fit(x, knots)
    far = x.mean(0) + x.std(0) * torch.linspace(-30, 30, 101, dtype=torch.float64)[:, None]
    for rows in (x, far):
        scale = rows.abs() + x.std(0)
        assert ((marginals.inverse(marginals(rows)[0]) - rows).abs() / scale).max() < 1e-9


def test_the_derivative_is_that_of_automatic_differentiation():
    x = columns()
    marginals = ndm.Marginals.fit(x)
    between = (x + 1e-3 * x.std(0) * torch.rand_like(x)).requires_grad_()
    scores, log_slope = marginals(between)
    (slope,) = torch.autograd.grad(scores.sum(), between)
    torch.testing.assert_close(log_slope, slope.log(), rtol=1e-9, atol=1e-9)


def test_the_density_of_a_column_integrates_to_one():
    """Trapezia between the outermost knots; beyond them the density is a normal tail."""
    x, normal = columns(), torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    marginals = ndm.Marginals.fit(x)
    for j in range(x.shape[1]):
        total = (normal.cdf(marginals.y[j, 0]) + normal.cdf(-marginals.y[j, -1])).item()
        for low, high in pairwise(marginals.x[j]):
            grid = low + (high - low) * torch.linspace(0, 1, 501, dtype=torch.float64)
            rows = x.mean(0).repeat(len(grid), 1)
            rows[:, j] = grid
            scores, log_slope = marginals(rows)
            total += torch.trapezoid(torch.exp(normal.log_prob(scores[:, j]) + log_slope[:, j]), grid).item()
        assert total == pytest.approx(1.0, abs=1e-4)


def test_scores_increase_with_the_values():
    x = columns()
    scores = ndm.Marginals.fit(x)(x.sort(0).values)[0]
    assert (scores.diff(dim=0) >= 0).all()


def test_the_scores_of_new_rows_are_about_normal():
    """Kolmogorov and Smirnov's distance of 2,000 new rows from the normal distribution is below 0.08."""
    scores = ndm.Marginals.fit(columns(2000))(columns(2000, seed=1))[0].sort(0).values
    share = torch.arange(1, 2001, dtype=torch.float64)[:, None] / 2000
    assert (torch.special.ndtr(scores) - share).abs().max() < 0.08


def test_the_tables_keep_their_digits_when_the_weights_change_their_type():
    x = columns() + 1.7e9
    marginals = ndm.Marginals.fit(x)
    scores = marginals(x)[0]
    assert torch.equal(marginals.float().half()(x)[0], scores)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_column_that_is_not_finite_is_refused(bad):
    x = columns()
    x[7, 1] = bad
    with pytest.raises(ndm.InputError, match="finite values"):
        ndm.Marginals.fit(x)


def test_a_constant_column_is_refused():
    with pytest.raises(ndm.InputError, match="two different"):
        ndm.Marginals.fit(torch.ones(10, 2))


@pytest.mark.parametrize("rows", [2, 3, 5, 20])
def test_few_rows_have_a_marginal_distribution_too(rows):
    x = columns(rows)
    marginals = ndm.Marginals.fit(x)
    assert torch.isfinite(marginals(x)[0]).all()
    assert ((marginals.inverse(marginals(x)[0]) - x).abs() / x.std(0)).max() < 1e-6
