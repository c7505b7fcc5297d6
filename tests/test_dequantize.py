"""Numbers that are not known exactly: probabilities by quadrature, and what users see of caps, spikes and gaps."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import ndm
from ndm.tables import Frame, Schema

from conftest import SmoothNet

CODES = (3, 2)
NORMAL = torch.distributions.Normal(0.0, 1.0)


def marginals(columns=2):
    return ndm.Marginals.fit(torch.from_numpy(np.random.default_rng(0).gamma(2.0, 1.5, (500, columns))), 8)


def model_with(**places):
    """A model of two numbers and two symbols with random weights, in float64."""
    torch.manual_seed(3)
    embedding = ndm.Embedding(CODES, 2, num_basis=2, numbers=2)
    predictor = ndm.MixedPredictor(SmoothNet(6, 7), CODES, 2)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-3.0, 4.0), embedding)
    return ndm.NDM(process, predictor, ndm.MixedDecoder(marginals(), CODES, **places), shape=(4,)).eval()


def likelihood(model, rows, samples=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    solver = ndm.Solver("dopri5", rtol=1e-6, atol=1e-6)
    return ndm.ode_likelihood(model, rows, solver, samples=samples, generator=generator, common=True).checked()


def densities(model, rows, draws):
    """p of each row: the mean of independent draws of what the row does not say."""
    solver, generator = ndm.Solver("rk4", steps=16), torch.Generator().manual_seed(1)
    copies = ndm.ode_likelihood(model, rows.repeat_interleave(draws, 0), solver, generator=generator).checked()
    return copies.log_prob.exp().view(-1, draws).mean(1)


def test_the_probability_of_a_missing_number_is_the_integral_of_the_density():
    """Simpson's rule over 41 normal scores, against draws of the number: 4 % is three standard errors of both."""
    scores = torch.linspace(-5, 5, 41, dtype=torch.float64)
    simpson = torch.tensor([1.0, *[4.0, 2.0] * 19, 4.0, 1.0], dtype=torch.float64) * (scores[1] - scores[0]) / 3
    splines = marginals()
    values = splines.inverse(torch.stack([scores, scores], 1))
    slopes = splines(values)[1][:, 0].exp()
    rows = torch.tensor([[0.0, 1.3, 2.0, 1.0]], dtype=torch.float64).repeat(41, 1)
    rows[:, 0] = values[:, 0]
    expected = float((densities(model_with(), rows, 64) * simpson / slopes).sum())
    gone = model_with(missing=[[1, 1], []])
    row = torch.tensor([[4.0, 1.3, 2.0, 1.0]], dtype=torch.float64)
    assert float(densities(gone, row, 2000)) == pytest.approx(expected, rel=0.04)


def test_what_stands_in_the_place_of_a_missing_number_does_not_count(generator):
    model = model_with(missing=[[1, 1], [0, 0, 2]])
    a = torch.tensor([[1.0, 2.0, 1.0, 0.0], [1.0, 2.0, 1.0, 1.0], [1.0, 2.0, 2.0, 1.0]], dtype=torch.float64)
    b = a + torch.tensor([0.5, 0.0, 0.0, 0.0], dtype=torch.float64)
    c = a + torch.tensor([0.0, 0.5, 0.0, 0.0], dtype=torch.float64)
    found = [likelihood(model, rows, 2).log_prob for rows in (a, b, c)]
    assert (found[1] == found[0]).tolist() == [False, True, True]
    assert (found[2] == found[0]).tolist() == [False, False, True]
    bounds = [ndm.bound(model, rows, generator=torch.Generator().manual_seed(1)).total for rows in (a, b, c)]
    assert (bounds[1] == bounds[0]).tolist() == [False, True, True]
    assert (bounds[2] == bounds[0]).tolist() == [False, False, True]


def test_missing_numbers_get_places_from_the_marginal_distribution(generator):
    """The largest distance of two distribution functions, n = 4,000: 1.63 / sqrt(n) is the level of 1 %."""
    decoder = model_with(missing=[[1, 1], []]).decoder
    rows = torch.tensor([[1.0, 2.0, 0.0, 1.0]], dtype=torch.float64).repeat(4000, 1)
    placed = decoder.jitter(rows, torch.rand(4000, 1, generator=generator, dtype=torch.float64))
    uniform = NORMAL.cdf(decoder.marginals(placed[:, :2])[0][:, 0]).sort().values
    assert (uniform - (torch.arange(4000) + 0.5) / 4000).abs().max() < 1.63 / 4000**0.5
    assert torch.equal(placed[:, 1:], rows[:, 1:])
    ends = decoder.jitter(rows[:2], torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    assert torch.isfinite(ends).all()


def test_the_density_at_a_frequent_value_is_its_probability_over_the_width_of_its_cell():
    """The midpoint rule over the cell of 1.5, against draws; the number 1.4 is no frequent value and stays."""
    width, points = 2.8, 16
    model = model_with(cells=[width, 0.0], spikes=[[0.2, 1.5], []])
    row = torch.tensor([[1.5, 1.3, 2.0, 1.0], [1.4, 1.3, 2.0, 1.0]], dtype=torch.float64)
    cell = row[:1].repeat(points, 1)
    cell[:, 0] += width * ((torch.arange(points) + 0.5) / points - 0.5)
    expected, stays = densities(model_with(), cell, 64).mean(), densities(model_with(), row[1:], 1000)
    torch.testing.assert_close(densities(model, row, 1000), torch.stack([expected, stays[0]]), rtol=0.05, atol=0)
    assert abs(expected - densities(model_with(), row[:1], 1000)) > 0.06 * expected  # the density bends in the cell
    placed = model.decoder.jitter(row.float(), torch.zeros(1, 1))
    torch.testing.assert_close(placed[:, 0], torch.tensor([0.1, 1.4], dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_saved_decoder_knows_what_is_missing_and_frequent(tmp_path):
    model = model_with(cells=[0.8, 0.0], spikes=[[0.2, 1.5], []], missing=[[], [0, 2]])
    model.predictor.net = ndm.nn.MLP((6,), outputs=7)
    model.eval().save_pretrained(tmp_path / "model")
    loaded = ndm.NDM.from_pretrained(tmp_path / "model").eval()
    rows = torch.tensor([[1.5, 1.3, 2.0, 1.0]], dtype=torch.float64)
    assert torch.equal(likelihood(loaded, rows, 4).log_prob, likelihood(model, rows, 4).log_prob)
    assert loaded.decoder.missing == [[], [0, 2]] and loaded.decoder.spikes == [[0.2, 1.5], []]


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"spikes": [[1.0], []]}, r"spikes\[0\] need a cell"),
        ({"spikes": [[1.0]], "cells": [1.0, 1.0]}, "spikes must have a list for each of 2 numbers"),
        ({"spikes": [["x"], []], "cells": [1.0, 1.0]}, r"spikes\[0\]\[0\] must be a finite number"),
        ({"missing": [[2, 1], []]}, r"missing\[0\] must begin with the position of an alphabet, got 2"),
        ({"missing": [[1, 2], []]}, r"missing\[0\] must have some of the codes of alphabet 1"),
        ({"missing": [[1], []]}, r"missing\[0\] must have some of the codes of alphabet 1"),
        ({"missing": [[1, 0, 1], []]}, r"missing\[0\] must have some of the codes of alphabet 1"),
        ({"missing": 3}, "missing must be a list"),
    ],
)
def test_places_that_do_not_fit_are_refused(places, message):
    with pytest.raises(ndm.InputError, match=message):
        model_with(**places)


def spiked(n=3000, seed=0):
    """A column with 30 % zeros and a cap that 20 % reach, without a grid."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < 0.3, 0.0, np.minimum(rng.exponential(1.0, n), 1.25276))


def test_the_marginal_of_a_column_with_a_cap_and_a_spike():
    """Shares of rows: at the values exactly, between them within three standard errors."""
    x = spiked()
    schema = Schema.fit(Frame.of(np.column_stack([x, np.random.default_rng(1).normal(size=len(x))])))
    column, layout = schema.columns[0], schema.layout
    assert column.spikes == (0.0, x.max()) and column.width > 0
    assert not ((x != 0) & (np.abs(x) <= column.width / 2)).any()
    rows = torch.from_numpy(schema.encode(Frame.of(np.column_stack([x, x])))[:, :1])
    splines = ndm.Marginals.fit(rows, cells=layout.cells[:1], spikes=layout.spikes[:1])
    below = lambda value: float(NORMAL.cdf(splines(torch.tensor([[value]], dtype=torch.float64))[0]))  # noqa: E731
    half = column.width / 2
    for value in column.spikes:
        assert below(value + half) - below(value - half) == pytest.approx((x == value).mean(), abs=2e-3)
    for a, b in ((0.0, 0.5), (0.5, 1.0), (1.0, 1.25)):
        share = ((x > a) & (x < b)).mean()
        error = 3 * math.sqrt(share * (1 - share) / len(x))
        assert below(b) - below(a + half * (a == 0)) == pytest.approx(share, abs=error)


def test_samples_have_the_cap_and_the_zeros_of_the_data():
    """Binomial errors of 1,000 samples are 0.015; the model's own are of that size."""
    x = spiked(2000)
    table = np.column_stack([x, np.random.default_rng(1).normal(size=len(x)) + (x == 0)])
    density = ndm.NeuralDiffusionDensity(max_steps=200, random_state=0).fit(table)
    sampled = density.sample(1000, random_state=1)
    assert (sampled[:, 0] == x.max()).mean() == pytest.approx((x == x.max()).mean(), abs=0.06)
    assert (sampled[:, 0] == 0).mean() == pytest.approx((x == 0).mean(), abs=0.06)
    assert (sampled[:, 0] > x.max()).mean() < 0.005
    assert sampled[sampled[:, 0] == 0, 1].mean() > 0.5 > sampled[sampled[:, 0] != 0, 1].mean()


def test_values_right_beside_a_frequent_one_are_kept():
    x = spiked()
    x[5] = 1e-9
    schema = Schema.fit(Frame.of(x[:, None]))
    assert schema.columns[0].spikes == ()
    np.testing.assert_array_equal(schema.decode(schema.encode(Frame.of(x[:, None]))).native(), x[:, None])


def with_gaps(n=1500, seed=0):
    rng = np.random.default_rng(seed)
    city = rng.choice(["Bonn", "Oslo"], n, p=[0.7, 0.3])
    income = np.where(rng.random(n) < 0.4, np.nan, rng.normal(3, 1, n))
    return pd.DataFrame({"city": city, "income": income})


def test_a_row_with_a_missing_number_has_the_probability_of_the_rest():
    """Its filled number was once counted too, and exp(score) was 48 where the share is 0.28."""
    table = with_gaps()
    density = ndm.NeuralDiffusionDensity(impute=True, max_steps=100, random_state=0).fit(table)
    total = 0.0
    for city in ("Bonn", "Oslo"):
        for income, spacing in ((np.array([np.nan]), 1.0), (np.linspace(-1, 7, 13), 2 / 3)):
            row = pd.DataFrame({"city": [city] * len(income), "income": income})
            found = np.exp(density.score_samples(row)).sum() * spacing
            share = ((table["city"] == city) & (table["income"].isna() == np.isnan(income[0]))).mean()
            assert found == pytest.approx(share, abs=0.08)
            total += found
    assert total == pytest.approx(1, abs=0.04)
    assert density.sample(500, random_state=0)["income"].isna().mean() == pytest.approx(0.4, abs=0.08)


def test_the_marginal_of_a_column_with_missing_numbers_is_that_of_the_others():
    table = with_gaps().round(2)
    density = ndm.NeuralDiffusionDensity(impute=True, max_steps=1, random_state=0).fit(table)
    scores = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    quantiles = np.nanquantile(table["income"], NORMAL.cdf(scores[:, 0]).numpy())
    found = density.model_.decoder.marginals.inverse(scores)[:, 0].numpy()
    np.testing.assert_allclose(found, quantiles, atol=0.1)


def test_an_indicator_that_follows_from_another_column_still_tells_what_is_missing():
    """b is missing where a is, whose indicator is kept; c is missing in one of three cities."""
    rng, n = np.random.default_rng(0), 600
    city = np.array(["Bonn", "Lima", "Oslo"])[np.arange(n) % 3]
    gone = rng.random(n) < 0.5
    a, b = (np.where(gone, np.nan, rng.normal(size=n)) for _ in range(2))
    c = np.where(city == "Oslo", np.nan, rng.normal(size=n))
    table = pd.DataFrame({"a": a, "b": b, "c": c, "city": city})
    schema = Schema.fit(Frame.of(table), impute=True)
    names = [name for name, _ in schema.categories]
    assert names == ["city", "a missing"]
    assert schema.layout.missing == [[1, 1], [1, 1], [0, 2]]
    pd.testing.assert_frame_equal(schema.decode(schema.encode(Frame.of(table))).native(), table)


@pytest.mark.parametrize("present", [1, 2])
def test_a_column_of_which_hardly_a_value_is_known_is_no_obstacle(present):
    """Its values may all be among the rows that validate."""
    income = np.full(300, np.nan)
    income[:present] = [1e6, 2e6][:present]
    table = pd.DataFrame({"a": np.random.default_rng(0).normal(size=300), "income": income})
    for seed in range(2):
        density = ndm.NeuralDiffusionDensity(impute=True, max_steps=1, random_state=seed).fit(table)
        assert np.isfinite(density.score_samples(table[:5])).all()
        assert density.sample(3, random_state=0).shape == (3, 2)


def test_frequent_values_that_no_row_has_cost_nothing():
    x = torch.randn(200, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = ndm.Marginals.fit(x)
    spiked = ndm.Marginals.fit(x, cells=[0.01], spikes=[[77.0]])
    torch.testing.assert_close(spiked(x[:20]), plain(x[:20]), rtol=0.2, atol=0.2)
    alone = ndm.Marginals.fit(
        torch.cat([x[:1], torch.full((9, 1), 3.0, dtype=torch.float64)]), None, [0.01], 0, [[3.0]]
    )
    assert torch.isfinite(alone(x)[1]).all()
