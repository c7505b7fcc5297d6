"""Decoders: their units, their likelihoods against torch.distributions, and the data that they refuse."""

import math

import pytest
import torch
from torch.distributions import Normal

import ndm

PROCESS = ndm.ForwardProcess(ndm.LinearSchedule(-4.0, 5.0))
LEVEL = PROCESS.schedule(torch.zeros(3, dtype=torch.float64))


def test_categorical_levels_tile_the_interval():
    x = torch.arange(17)[None]
    encoded = ndm.CategoricalDecoder(17).encode(x)
    torch.testing.assert_close(encoded[0], torch.linspace(-1 + 1 / 17, 1 - 1 / 17, 17))


def test_categorical_nll_is_the_normalised_gaussian_of_each_level():
    decoder = ndm.CategoricalDecoder(5)
    x, z_0 = torch.randint(5, (3, 2, 2)), torch.randn(3, 2, 2)
    values = torch.tensor([-0.8, -0.4, 0.0, 0.4, 0.8])
    density = Normal(LEVEL.alpha[0] * values, LEVEL.sigma[0]).log_prob(z_0[..., None]).exp()
    p = density / density.sum(-1, keepdim=True)
    expected = -p.gather(-1, x[..., None]).squeeze(-1).log().sum((1, 2))
    torch.testing.assert_close(decoder.nll(x, z_0, PROCESS), expected)


def test_categorical_decode_inverts_encode_and_draws_from_its_distribution(generator):
    decoder = ndm.CategoricalDecoder(5)
    x = torch.randint(5, (3, 4))
    assert torch.equal(decoder.decode(LEVEL.alpha[:, None] * decoder.encode(x), PROCESS, mode=True), x)
    n = 50_000
    process = ndm.ForwardProcess(ndm.LinearSchedule(-1.0, 5.0))
    z_0 = torch.full((n, 1), 0.3)
    p = decoder.log_probs(z_0, process)[0, 0].exp()
    counts = decoder.decode(z_0, process, generator=generator).flatten().bincount(minlength=5)
    assert ((counts / n - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all()


@pytest.mark.parametrize("gamma", [-11.0, -8.0, -2.0])
def test_levels_are_drawn_from_all_that_have_probability(gamma, generator):
    """With little noise only the nearest levels are looked at; at the ends and between them, in float32, too."""
    decoder, n = ndm.CategoricalDecoder(256), 20_000
    process = ndm.ForwardProcess(ndm.LinearSchedule(gamma, 5.0))
    for place in (-1.01, -0.4, 0.2003, 0.999):
        z_0 = torch.full((n, 1), place, dtype=torch.float32)
        p = decoder.log_probs(z_0[:1].double(), process)[0, 0].exp()
        counts = decoder.decode(z_0, process, generator=generator).flatten().bincount(minlength=256)
        assert ((counts / n - p).abs() < 4.5 * (p * (1 - p) / n).sqrt() + 1e-4).all()
        assert decoder.decode(z_0[:1], process, mode=True).item() == p.argmax()


def test_gaussian_nll_is_the_expectation_in_data_units(generator):
    """The closed form equals a Monte-Carlo mean of -log N(x; decode mean, (std e^{gamma_0/2})^2), n = 100,000."""
    decoder = ndm.GaussianDecoder(mean=[1.0, -2.0], std=[2.0, 0.3])
    n = 100_000
    process = ndm.ForwardProcess(ndm.LinearSchedule(-4.0, 5.0))
    level = process.schedule(torch.zeros(n))
    x = torch.tensor([[0.7, -1.0]]).expand(n, 2)
    z_0 = level.alpha[:, None] * decoder.encode(x) + level.sigma[:, None] * torch.randn(n, 2, generator=generator)
    std = decoder.std * math.exp(-2.0)
    draws = -Normal(decoder.decode(z_0, process, mode=True), std).log_prob(x).sum(1)
    closed = decoder.nll(x, z_0, process)[0]
    assert abs(draws.mean() - closed) < 4 * draws.std() / n**0.5


def test_gaussian_decode_inverts_encode_and_adds_its_noise(generator):
    decoder = ndm.GaussianDecoder(mean=[1.0, -2.0], std=[2.0, 0.3])
    x = torch.randn(3, 2)
    z_0 = LEVEL.alpha[:, None] * decoder.encode(x)
    torch.testing.assert_close(decoder.decode(z_0, PROCESS, mode=True), x)
    n = 50_000
    process = ndm.ForwardProcess(ndm.LinearSchedule(-4.0, 5.0))
    draws = decoder.decode(torch.zeros(n, 2), process, generator=generator)
    expected = decoder.std * math.exp(-2.0)
    assert ((draws.std(0) / expected - 1).abs() < 4 / (2 * n) ** 0.5).all()


@pytest.mark.parametrize("x", [torch.tensor([[0, 17]]), torch.tensor([[-1, 3]]), torch.tensor([[0.5, 3.0]])])
def test_categorical_refuses_what_is_not_a_level(x):
    with pytest.raises(ndm.InputError, match=r"integers 0\.\.16"):
        ndm.CategoricalDecoder(17).encode(x)


@pytest.mark.parametrize(
    "decoder", [ndm.GaussianDecoder(), ndm.CategoricalDecoder(17)], ids=["gaussian", "categorical"]
)
def test_non_finite_data_is_refused_with_its_row(decoder):
    for value in (math.nan, math.inf):
        x = torch.zeros(3, 2)
        x[1, 0] = value
        with pytest.raises(ndm.InputError, match="1 of 3 rows.*row 1"):
            decoder.encode(x)
    with pytest.raises(ndm.InputError, match="batch"):
        decoder.encode(torch.zeros(3))


def test_constant_columns_are_refused():
    with pytest.raises(ndm.InputError, match="std must be positive"):
        ndm.GaussianDecoder(std=[1.0, 0.0])


@pytest.mark.parametrize("gamma", [-16.0, -13.3, -7.0, -2.0, 3.0])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_levels_left_out_of_the_likelihood_change_nothing(levels, gamma, generator):
    """The result equals the softmax over all levels, also for values far outside the data."""
    decoder, process = ndm.CategoricalDecoder(levels), ndm.ForwardProcess(ndm.LinearSchedule(gamma, 5.0))
    level = process.schedule(torch.zeros(4))
    x = torch.randint(levels, (4, 50), generator=generator)
    z_0 = level.alpha[:, None] * decoder.encode(x.double()) + level.sigma[:, None] * torch.randn(4, 50)
    z_0[0] = 3 * torch.randn(50)
    every = -decoder.log_probs(z_0, process).gather(-1, x[..., None]).flatten(1).sum(1)
    torch.testing.assert_close(decoder.nll(x, z_0, process), every, rtol=1e-12, atol=1e-12)
