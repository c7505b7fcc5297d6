"""Rows of numbers and symbols: the bound by brute force, probabilities that sum to one, round trips."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal

import ndm

from conftest import SmoothNet

ALPHABETS = (3, 2)


def marginals(columns=1, seed=0):
    rng = np.random.default_rng(seed)
    return ndm.Marginals.fit(torch.from_numpy(rng.gamma(2.0, 1.5, (500, columns))), 8)


def mixed_model(numbers=1, alphabets=ALPHABETS, cells=None, gamma_min=-3.0, dim=2, tied_to="time"):
    """A model with random weights, in float64."""
    torch.manual_seed(3)
    embedding = ndm.Embedding(alphabets, dim, num_basis=2, numbers=numbers)
    torch.nn.init.normal_(embedding.moves, std=0.3)
    net = SmoothNet(numbers + len(alphabets) * dim, numbers + sum(alphabets))
    predictor = ndm.MixedPredictor(net, alphabets, numbers)
    process = ndm.ForwardProcess(ndm.LinearSchedule(gamma_min, 4.0), embedding, tied_to=tied_to)
    decoder = ndm.MixedDecoder(marginals(numbers), alphabets, cells)
    return ndm.NDM(process, predictor, decoder, shape=(numbers + len(alphabets),)).eval()


def all_codes(alphabets=ALPHABETS):
    return torch.tensor(list(itertools.product(*(range(v) for v in alphabets))), dtype=torch.float64)


class Reader(torch.nn.Module):
    """A network that keeps the beliefs that it is told, and does not use them."""

    beliefs = sum(ALPHABETS)

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, z, t, beliefs):
        self.read = beliefs
        return self.net(z, t)


def test_a_network_of_zeros_gives_the_frequencies_updated_by_what_z_says(generator):
    model = mixed_model()
    torch.nn.init.zeros_(model.predictor.net.outer.weight)
    torch.nn.init.zeros_(model.predictor.net.outer.bias)
    codes = torch.tensor([[0, 0]] * 5 + [[1, 1]] * 3 + [[2, 1]])
    model.predictor.start_at(codes)
    z, t = torch.randn(4, 5, generator=generator), torch.tensor([0.0, 0.2, 0.5, 1.0])
    model.predictor.net = Reader(model.predictor.net)
    x_hat = model.predictor(z, t, model.process).x_hat
    torch.testing.assert_close(model.predictor.net.read, x_hat[:, 1:])  # the network has nothing to say here
    alpha, sigma = model.process.schedule(t).alpha, model.process.schedule(t).sigma
    points, start = model.process.transform.points_at(t), 0
    for i, count in enumerate(ALPHABETS):
        n = torch.bincount(codes[:, i], minlength=count)
        prior = (n + 1) / (n.sum() + count)
        own = z[:, None, 1 + 2 * i : 3 + 2 * i]
        centre = alpha[:, None, None] * points[:, start : start + count]
        likelihood = Normal(centre, sigma[:, None, None]).log_prob(own).sum(-1).exp()
        expected = prior * likelihood / (prior * likelihood).sum(1, keepdim=True)
        torch.testing.assert_close(x_hat[:, 1 + start :][:, :count], expected)
        start += count


def test_a_network_of_rows_reads_beliefs():
    torch.manual_seed(0)
    net = ndm.nn.MLP((3,), outputs=2, width=8, depth=1, beliefs=4)
    net.head.weight.data.normal_()
    z, t, beliefs = torch.randn(2, 3), torch.rand(2), torch.rand(2, 4)
    assert ((net(z, t, beliefs=beliefs) - net(z, t, beliefs=beliefs.roll(1, 1))).abs() > 1e-3).any()
    with pytest.raises(ndm.InputError, match="this network reads beliefs"):
        net(z, t)


def test_the_bound_of_symbols_is_that_of_brute_force():
    """One alphabet in one dimension, T = 3: every expectation by 80 Gauss-Hermite nodes, every formula written out."""
    model = mixed_model(0, (3,), dim=1)
    schedule, embedding = model.process.schedule, model.process.transform
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(80))
    weights = weights / weights.sum()
    T, start = 3, embedding.points()[:, 0]

    def point(t):
        return start + t * embedding.moves[0, :, 0] + t**2 * embedding.moves[1, :, 0]

    def noise(t):
        at = schedule(torch.tensor([t]))
        return at.alpha.item(), at.sigma.item()

    def weights_of(z, t):
        alpha, sigma = noise(t)
        logits = model.predictor.net(z[:, None], torch.full((len(z),), t)) + model.predictor.bias
        return (logits - (z[:, None] - alpha * point(t)) ** 2 / (2 * sigma**2)).softmax(1)

    for k in range(3):
        (a1, s1), (a0, s0) = noise(1.0), noise(0.0)
        prior = (s1**2 + (a1 * point(1.0)[k]) ** 2 - 1) / 2 - math.log(s1)
        z_0 = a0 * start[k] + s0 * nodes
        log_p = (-((z_0[:, None] - a0 * start) ** 2) / (2 * s0**2)).log_softmax(1)[:, k]
        total = prior - (weights * log_p).sum()
        for i in range(T):
            s, t = i / T, (i + 1) / T
            (a_s, s_s), (a_t, s_t) = noise(s), noise(t)
            keep = (a_t * s_s**2) / (a_s * s_t**2)  # alpha_{t|s} sigma_s^2 / sigma_t^2
            variance = s_s**2 * (s_t**2 - (a_t / a_s) ** 2 * s_s**2) / s_t**2
            z_t = a_t * point(t)[k] + s_t * nodes
            w = weights_of(z_t, t)
            centres = a_s * point(s) - keep * a_t * point(t)  # of z_s - keep z_t, given each symbol
            y = centres[k] + variance**0.5 * nodes
            normal = Normal(centres, variance**0.5).log_prob(y[:, None])  # of each node and symbol
            ratio = normal[:, k] - (w.log()[:, None] + normal).logsumexp(2)  # of each z_t and y
            total = total + weights @ ratio @ weights
        x = torch.full((60_000, 1), float(k))
        draws = ndm.bound(model, x, steps=T, generator=torch.Generator().manual_seed(k)).total.detach()
        assert abs(draws.mean() - total) < 4 * draws.std() / len(x) ** 0.5


def test_many_steps_tend_to_continuous_time():
    """n = 40,000 draws of the same seed; the gap of T = 400 to continuous time is below 2 % of the diffusion term."""
    model = mixed_model(tied_to="noise")
    x = torch.cat([torch.full((40_000, 1), 2.0), torch.tensor([[1.0, 0.0]]).expand(40_000, -1)], 1)
    many, limit = (
        ndm.bound(model, x, steps, generator=torch.Generator().manual_seed(0)).diffusion.mean() for steps in (400, None)
    )
    assert abs(many - limit) < 0.02 * limit


def test_the_numbers_have_the_density_of_their_scores():
    """Without symbols the bound is that of normal scores plus the logarithm of the slopes."""
    splines, net = marginals(2), SmoothNet(2, 2)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 4.0))
    plain = ndm.NDM(process, ndm.Predictor(net, "v"), ndm.GaussianDecoder())
    model = ndm.NDM(process, ndm.Predictor(net, "v"), ndm.MixedDecoder(splines))
    x = torch.rand(6, 2) * 5
    scores, log_slope = splines(x)
    ours, theirs = (
        ndm.bound(m, rows, generator=torch.Generator().manual_seed(0)).total
        for m, rows in ((model, x), (plain, scores))
    )
    torch.testing.assert_close(ours, theirs - log_slope.sum(1))
    solver = ndm.Solver("rk4", steps=20)
    torch.testing.assert_close(
        ndm.log_prob(model, x, solver=solver), ndm.log_prob(plain, scores, solver=solver) + log_slope.sum(1)
    )


def test_probabilities_of_all_symbols_sum_to_one():
    """By the ODE through the decoder: 400 importance samples for each of six rows, within 4 standard errors."""
    model = mixed_model(0)
    rows = all_codes()
    found = ndm.ode_likelihood(
        model, rows.repeat(400, 1), ndm.Solver("rk4", steps=10), generator=torch.Generator().manual_seed(0)
    ).log_prob.exp()
    sums = found.view(400, len(rows)).sum(1)
    assert abs(sums.mean() - 1) < 4 * sums.std() / 20
    assert sums.std() / 20 < 0.02


def test_cells_and_symbols_sum_to_one():
    """A number in steps of 3 with two symbols: draws of the place in the cell and of the latent."""
    model = mixed_model(1, (2,), cells=[3.0])
    counts = torch.arange(-6.0, 28.0, 3.0)
    rows = torch.tensor([[n, k] for n in counts.tolist() for k in (0.0, 1.0)])
    found = ndm.ode_likelihood(
        model, rows.repeat(60, 1), ndm.Solver("rk4", steps=10), generator=torch.Generator().manual_seed(0)
    ).log_prob.exp()
    sums = found.view(60, len(rows)).sum(1)
    assert abs(sums.mean() - 1) < 4 * sums.std() / 60**0.5
    assert sums.std() / 60**0.5 < 0.05


def test_a_rounded_number_is_moved_within_its_cell():
    decoder = ndm.MixedDecoder(marginals(3), (), [0.0, 0.5, 2.0])
    x = torch.tensor([[1.0, 2.5, 4.0], [1.5, 3.0, 6.0]])
    assert torch.equal(decoder.jitter(x, torch.full((2, 2), 0.5)), x)
    low, high = (decoder.jitter(x, torch.full((1, 2), u)) for u in (0.0, 1.0))
    torch.testing.assert_close(low, x - torch.tensor([0.0, 0.25, 1.0]))
    torch.testing.assert_close(high, x + torch.tensor([0.0, 0.25, 1.0]))


def test_common_draws_make_a_row_independent_of_the_others():
    model = mixed_model(cells=[0.5])
    rows = torch.tensor([[1.0, 0, 1], [2.5, 2, 0], [0.5, 1, 1]])
    options = {"solver": "dopri5", "samples": 2, "common": True}
    together = ndm.log_prob(model, rows, generator=torch.Generator().manual_seed(5), **options)
    alone = [ndm.log_prob(model, row[None], generator=torch.Generator().manual_seed(5), **options) for row in rows]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-9)


def test_the_mode_of_the_latent_of_a_row_is_the_row():
    model = mixed_model(gamma_min=-9.0)
    rows = torch.cat([torch.rand(6, 1) * 5, all_codes()], 1)
    z_0 = model.process.schedule(torch.zeros(6)).alpha[:, None] * model.process.transform(model.encode(rows)).x
    torch.testing.assert_close(model.decoder.decode(z_0, model.process, mode=True), rows, rtol=1e-9, atol=1e-9)


def test_samples_are_rows_and_follow_the_model(generator):
    """The shares of the symbols in 4,000 samples against their probabilities by the ODE, solved by the same ODE."""
    model = mixed_model(0, (3,), dim=1, gamma_min=-4.0)
    rows = ndm.sample(model, 4000, solver=ndm.Solver("rk4", steps=30), generator=generator)
    share = torch.bincount(rows[:, 0].long(), minlength=3) / 4000
    log_p = ndm.log_prob(
        model, torch.arange(3.0).repeat(500)[:, None], solver=ndm.Solver("rk4", steps=30), generator=generator
    )
    p = log_p.exp().view(500, 3).mean(0)
    assert (share - p).abs().max() < 0.04


def test_a_saved_model_has_the_same_bound(tmp_path):
    model = mixed_model(cells=[0.5])
    model.predictor.net = ndm.nn.MLP((5,), width=8, depth=1, outputs=6)
    model.save_pretrained(tmp_path)
    again = ndm.NDM.from_pretrained(tmp_path)
    rows = torch.tensor([[1.0, 0, 1], [2.5, 2, 0]])
    first, second = (ndm.bound(m, rows, generator=torch.Generator().manual_seed(0)).total for m in (model, again))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ([1.0, 3.0, 0.0], "must be 0..2, got 3 in row 0"),
        ([1.0, 0.5, 0.0], "must be 0..2, got 0.5"),
        ([1.0, -1.0, 0.0], "must be 0..2, got -1"),
        ([1.0, 0.0], "shape"),
        ([float("nan"), 0.0, 0.0], "not finite"),
    ],
)
def test_rows_that_are_none_are_refused(row, match):
    with pytest.raises(ndm.InputError, match=match):
        ndm.bound(mixed_model(), torch.tensor([row]))


def test_cells_that_do_not_fit_are_refused():
    with pytest.raises(ndm.InputError, match="cells must be 1 widths"):
        ndm.MixedDecoder(marginals(), (), [1.0, 2.0])


def test_symbols_need_an_embedding():
    process = ndm.ForwardProcess(ndm.LinearSchedule(-3.0, 4.0))
    predictor = ndm.MixedPredictor(SmoothNet(3, 3), (3,), 0)
    model = ndm.NDM(process, predictor, ndm.MixedDecoder(ndm.Marginals(0), (3,)), shape=(1,))
    with pytest.raises(ndm.InputError, match=r"ndm\.Embedding"):
        ndm.bound(model, torch.zeros(2, 1))


def decoder_of(rows, cells=None):
    return ndm.MixedDecoder(ndm.Marginals.fit(rows), (), cells)


@pytest.mark.parametrize("cells", [None, [1.0]])
def test_numbers_that_float64_or_the_dtype_of_the_data_would_round_are_refused(cells):
    process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), ndm.Identity())
    near = torch.randint(0, 40, (200, 1))
    for offset, given in ((2**53, torch.int64), (2**53, torch.float64), (2**30, torch.float32)):
        decoder = decoder_of(offset + near, cells)
        model = ndm.NDM(process, ndm.Predictor(SmoothNet(1, 1), "v"), decoder)
        model = model.float() if given == torch.float32 else model
        for call in (ndm.log_prob, ndm.bound):
            with pytest.raises(ndm.InputError, match="column 0, neighbouring numbers in float.* become one; "):
                call(model, (offset + near[:4]).to(given))
    for offset, given in ((2**52, torch.int64), (2**30, torch.float64), (2**20, torch.float32), (0, torch.float16)):
        decoder = decoder_of(offset + near, cells)
        model = ndm.NDM(process, ndm.Predictor(SmoothNet(1, 1), "v"), decoder)
        assert torch.isfinite(ndm.log_prob(model, (offset + near[:4]).to(given))).all()
    wide = torch.randint(-(2**62), 2**62, (200, 1))  # rounding changes none of these by a part of their spread
    assert torch.isfinite(decoder_of(wide).encode(wide)).all()
