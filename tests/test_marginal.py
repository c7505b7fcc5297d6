"""Marginal splines: exact inverses and derivatives, densities that integrate to one, digits that stay."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

import ndm
from ndm.popular import find_popular, popular_cells
from ndm.quantiles import tail_slope


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
    """By the midpoint rule between the outermost knots; beyond them the density is a normal tail."""
    x, normal = columns(), torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    marginals = ndm.Marginals.fit(x)
    for j in range(x.shape[1]):
        total = (normal.cdf(marginals.y[j, 0]) + normal.cdf(-marginals.y[j, -1])).item()
        for low, high in pairwise(marginals.x[j]):
            grid = low + (high - low) * (torch.arange(500, dtype=torch.float64) + 0.5) / 500
            rows = x.mean(0).repeat(len(grid), 1)
            rows[:, j] = grid
            scores, log_slope = marginals(rows)
            density = torch.exp(normal.log_prob(scores[:, j]) + log_slope[:, j])
            total += (density.mean() * (high - low)).item()
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


def test_two_neighbouring_values_at_the_end_of_a_dozen_do_not_end_the_column():
    """New values of a hundred normal columns have 0.5 nats less than the truth at most."""
    train, fresh = torch.randn(2, 100, 100, dtype=torch.float64)
    scores, log_slope = ndm.Marginals.fit(train[:12])(fresh)
    assert 0 < (0.5 * (scores**2 - fresh**2) - log_slope).mean() < 0.5


def cells_of(marginals, values, width):
    """The probabilities of cells around values of a single column."""
    edges = torch.tensor(values, dtype=torch.float64)[:, None] + width * torch.tensor([-0.5, 0.5], dtype=torch.float64)
    levels = torch.special.ndtr(marginals(edges.reshape(-1, 1))[0]).reshape(-1, 2)
    return levels[:, 1] - levels[:, 0]


def prices(n=3000, seed=0):
    """Whole numbers, of which two in three rows have one of 20, 40, ..., 200, and the others any up to 999."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < 2 / 3, 20 * rng.integers(1, 11, n), rng.integers(1, 1000, n)).astype(float)


def test_popular_values_of_a_rounded_column_have_about_their_share_of_the_rows():
    """Each round price has 1/15 of the rows, and each other price 1/2997: the smooth density of either is 1/400."""
    x = torch.from_numpy(prices())[:, None]
    marginals = ndm.Marginals.fit(x, cells=[1.0])
    assert cells_of(marginals, [60.0, 100.0, 180.0], 1.0).numpy() == pytest.approx(1 / 15, rel=0.25)
    others = cells_of(marginals, [61.0, 99.0, 170.0, 403.0, 777.0], 1.0).numpy()
    assert (others < 1.5e-3).all() and (others > 1e-5).all()


def test_popular_values_have_even_densities_within_their_cells():
    x = torch.from_numpy(prices())[:, None]
    inside = 60 + torch.linspace(-0.499, 0.499, 9, dtype=torch.float64)[:, None]
    scores, log_slope = ndm.Marginals.fit(x, cells=[1.0])(inside)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(scores) + log_slope
    assert log_p.max() - log_p.min() < 0.2
    assert log_p.mean() == pytest.approx(np.log(1 / 15), abs=0.3)


@pytest.mark.parametrize("cells", [None, [1.0]])
def test_new_rows_are_more_probable_with_popular_values(cells, monkeypatch):
    """New prices by the known distribution; without cells they are spread over unknown ones."""
    normal = torch.distributions.Normal(0.0, 1.0)
    rows, new = (prices(seed=seed) + np.random.default_rng(seed).random(3000) - 0.5 for seed in (1, 2))
    if cells:
        rows, new = np.rint(rows), new
    found = []
    for popular in (True, False):
        if not popular:
            monkeypatch.setattr("ndm.quantiles.find_popular", lambda *_: None)
        scores, log_slope = ndm.Marginals.fit(torch.from_numpy(rows)[:, None], cells=cells)(
            torch.from_numpy(new)[:, None]
        )
        found.append((normal.log_prob(scores) + log_slope).mean().item())
    truth = 2 / 3 * np.log(1 / 15) + 1 / 3 * np.log(1 / 2997)
    assert truth - 0.35 < found[0] < truth + 0.1
    assert found[0] > found[1] + 0.15


def test_smooth_columns_and_values_that_repeat_in_columns_without_cells_stay_smooth():
    """Repeated values of a column without cells have no density, so a density must not follow them."""
    rng = np.random.default_rng(3)
    smooth, many = rng.normal(size=3000), rng.random(20_000)
    for column in (smooth, many, np.concatenate([smooth, smooth]), rng.choice(smooth[:400], 3000)):
        x = torch.from_numpy(column)[:, None]
        assert ndm.Marginals.fit(x).knots <= 66


def test_the_inverse_gives_back_popular_values_to_a_thousandth_of_their_cell_in_float32():
    x = torch.from_numpy(prices())[:, None]
    marginals = ndm.Marginals.fit(x, cells=[1.0])
    assert (marginals.inverse(marginals(x)[0].float()) - x).abs().max() < 1e-3


@pytest.mark.parametrize("least", [1, 2])
def test_the_gain_of_popular_cells_is_that_of_leaving_out_each_row(least):
    """Brute force: every row is left out in turn, and scored by the counts of the others."""
    rng = np.random.default_rng(4)
    values = np.concatenate([rng.integers(0, 8, 40) * 10.0, rng.integers(0, 100, 30)]).astype(float)
    centres, counts = np.unique(values, return_counts=True)
    smooth = lambda x: np.clip((x + 0.5) / 100, 0, 1)  # noqa: E731
    found = popular_cells(centres - 0.5, 1.0, counts, smooth, least, 1000)
    total = counts[counts >= least].sum()
    gains = []
    for value in values:
        others = (values == value).sum() - 1
        share = others / (total - 1) if others >= least else 0.0
        gains.append(np.log(((1 - found.weight) * share + found.weight / 100) * 100))
    assert found.gain == pytest.approx(np.mean(gains), abs=1e-9)
    assert found.error == pytest.approx(np.std(gains) / len(gains) ** 0.5, abs=1e-9)
    assert 0 < found.weight < 1
    few = popular_cells(centres - 0.5, 1.0, counts, smooth, least, 5)
    assert 0 < len(few.low) <= 5 and few.rows.min() > counts[~np.isin(centres - 0.5, few.low)].max()


def test_values_of_a_grid_that_were_seen_once_may_come_again(monkeypatch):
    """Half of the rows have one of 3,000 values, and the others any of 100,000: most values are seen once or never."""
    rng = np.random.default_rng(5)
    values = rng.choice(100_000, 3000, replace=False)
    draw = lambda n: np.where(rng.random(n) < 0.5, rng.choice(values, n), rng.integers(0, 100_000, n)).astype(float)  # noqa: E731
    rows, new = draw(2500), draw(4000)
    assert (np.unique(rows, return_counts=True)[1] == 1).mean() > 0.7
    found = {}
    for least in (1, 2):
        if least == 2:
            monkeypatch.setattr("ndm.popular.popular_cells", lambda *a: popular_cells(*a[:4], 2, a[5]))
        found[least] = cells_of(ndm.Marginals.fit(torch.from_numpy(rows)[:, None], cells=[1.0]), new, 1.0).log().mean()
    assert found[1] > found[2] + 0.1


def test_the_density_beyond_popular_values_falls_no_sooner_than_over_the_whole_column():
    """The largest price is popular, but the density does not fall beyond it as at the edge of a cell."""
    rows = torch.from_numpy(np.minimum(prices(), 300.0))[:, None]
    marginals = ndm.Marginals.fit(rows, cells=[1.0])
    assert marginals.knots > 66
    beyond = torch.tensor([[-60.0], [330.0], [400.0]], dtype=torch.float64)
    scores, log_slope = marginals(beyond)
    assert (scores.abs() < 6).all()
    torch.testing.assert_close(marginals.inverse(scores), beyond)
    step = 1e-3
    slope = (marginals(beyond + step)[0] - marginals(beyond - step)[0]) / (2 * step)
    torch.testing.assert_close(log_slope, slope.log())


def mean_log_density(marginals, new):
    """The mean log-density of new values of a single column."""
    scores, log_slope = marginals(torch.from_numpy(new)[:, None])
    return (torch.distributions.Normal(0.0, 1.0).log_prob(scores) + log_slope).mean().item()


@pytest.mark.parametrize("far", [10.0, 1e3, 1e6, 1e12, -1e9, -1e20, 3.4028235e38, -3.4028235e38])
def test_a_far_value_leaves_the_density_of_the_others_as_it_is(far):
    """A wrong number, or a code for a missing one: -3.4e38 is that of maps."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, new = rng.normal(size=300), rng.normal(size=2000)
        alone, beside, thrice = (
            mean_log_density(ndm.Marginals.fit(torch.from_numpy(np.append(x, [far] * times))[:, None]), new)
            for times in (0, 1, 3)
        )
        assert beside > alone - 0.1 and thrice > alone - 0.15


@pytest.mark.parametrize(("count", "far"), [(300, 13), (1000, 30), (5000, 35)])
def test_a_far_cluster_keeps_its_share_of_the_rows(count, far):
    """It has fewer rows than the outermost quantiles: values of claims, or a few caps."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=count)
    x[:far] = rng.uniform(50, 100, far)
    scores = torch.special.ndtri((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    drawn = ndm.Marginals.fit(torch.from_numpy(x)[:, None]).inverse(scores[:, None])
    assert 0.3 * far / count < (drawn > 10).double().mean() < 1.5 * far / count


def test_the_slope_of_a_tail_is_the_likeliest_of_those_that_are_tried():
    """A single far value leaves the density as it was at its knot; many are a cluster, and the knot has a kink."""
    rng = np.random.default_rng(0)
    near = rng.exponential(size=20) / 10
    ends, score = np.array([0.0, 100.0]), np.array([1.6, 3.0])
    slopes = [
        tail_slope(np.concatenate([-rng.random(80), near, far]), ends, score, (0.014, 2.0), 0.014)
        for far in ([100.0], [*rng.uniform(50, 99, 30), 100.0])
    ]
    assert slopes[0] > 1.0 and slopes[1] < 0.05


def test_values_beside_a_far_one_come_back():
    x = np.append(np.random.default_rng(1).normal(size=300), [-3.4028235e38] * 3)
    marginals = ndm.Marginals.fit(torch.from_numpy(x)[:, None])
    rows = torch.from_numpy(x)[:, None]
    torch.testing.assert_close(marginals.inverse(marginals(rows)[0]), rows)
    scores = torch.linspace(-8, 8, 401, dtype=torch.float64)[:, None]
    back = marginals.inverse(scores)
    assert torch.isfinite(back).all()
    assert (back.diff(dim=0) >= 0).all()
    scores = torch.linspace(-1.5, 8, 101, dtype=torch.float64)[:, None].requires_grad_()
    (slope,) = torch.autograd.grad(marginals.inverse(scores).sum(), scores)
    torch.testing.assert_close(slope, (-marginals(marginals.inverse(scores.detach()))[1]).exp())


def test_the_gradient_at_a_knot_is_a_slope_of_the_spline():
    """The smallest and the largest training value are knots; the gradient of clamp would be zero there."""
    marginals = ndm.Marginals.fit(torch.from_numpy(np.random.default_rng(0).normal(size=300))[:, None])
    for function, at, slopes in (
        (lambda x: marginals(x)[0], marginals.x[0], marginals.slope[:, 0]),
        (marginals.inverse, marginals.y[0], 1 / marginals.slope[:, 0]),
    ):
        at = at[:, None].clone().requires_grad_()
        (found,) = torch.autograd.grad(function(at).sum(), at)
        assert ((found[:, 0] - slopes).abs() < 1e-6 * slopes).any(0).all()


def test_no_values_are_popular_because_a_far_one_rounds_the_numbers_of_cells():
    for far in (-1e15, 1e15, -3.4e38):
        values = np.append(np.random.default_rng(0).normal(size=300), [far] * 3)
        assert find_popular(values, stats.norm.cdf, 1.0) is None


@pytest.mark.parametrize(("draw", "log_density", "most"), [
    (lambda rng, n: rng.standard_t(3, n), stats.t(3).logpdf, 0.06),
    (lambda rng, n: np.exp(2 * rng.normal(size=n)), stats.lognorm(2).logpdf, 0.07),
    (lambda rng, n: rng.standard_cauchy(n), stats.cauchy.logpdf, 0.2),
    (lambda rng, n: rng.random(n), stats.uniform.logpdf, 0.07),
    (lambda rng, n: rng.normal(size=n), stats.norm.logpdf, 0.04),
])  # fmt: skip
def test_the_marginal_of_a_known_density_is_near_it(draw, log_density, most):
    """300 values; what new ones lack in nats, where 30 count at most, as a value may lie far beyond the last knot."""
    lacks = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        marginals, new = ndm.Marginals.fit(torch.from_numpy(draw(rng, 300))[:, None]), draw(rng, 2000)
        scores, log_slope = marginals(torch.from_numpy(new)[:, None])
        found = (torch.distributions.Normal(0.0, 1.0).log_prob(scores) + log_slope)[:, 0].numpy()
        lacks.append(np.minimum(log_density(new) - found, 30).mean())
    assert np.mean(lacks) < most


def test_a_column_and_its_mirror_image_have_the_same_density():
    """Also where three in a hundred values are at the end, below which nothing could be measured."""
    x = np.random.default_rng(0).normal(size=1000)
    x = x.clip(np.quantile(x, 0.03))[:, None]
    log_p = []
    for sign in (1, -1):
        scores, log_slope = ndm.Marginals.fit(torch.from_numpy(sign * x))(torch.from_numpy(sign * x))
        log_p.append(torch.distributions.Normal(0.0, 1.0).log_prob(scores) + log_slope)
    torch.testing.assert_close(*log_p)
