"""Sequences of symbols: bounds and likelihoods against brute force over all sequences, and texts."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

import ndm
from ndm.objective import bound_terms, draw
from ndm.times import LowDiscrepancyTimes

V, N, D = 3, 2, 2


class Oracle(nn.Module):
    """The logits of each place given all z_t, by summing over all sequences of a known distribution."""

    def __init__(self, log_p, process):
        super().__init__()
        self.log_p, self.process = log_p, [process]  # in a list, as it is no part of the network

    def forward(self, z, t):
        said = self.process[0].transform.log_likelihoods(z, t, self.process[0])
        joint = self.log_p[None] + said[:, :, None, 0] + said[:, None, :, 1]
        marginal = torch.stack([joint.logsumexp(2), joint.logsumexp(1)], dim=2)
        return marginal - said


def parts(moving=True, seed=0):
    torch.manual_seed(seed)
    embedding = ndm.Embedding((V,), dim=D, num_basis=2 if moving else 0)
    if moving:
        nn.init.normal_(embedding.moves, std=0.3)
    return ndm.ForwardProcess(ndm.LinearSchedule(-6.0, 4.0), embedding, tied_to="noise")


def model(net=None, moving=True, seed=0):
    process = parts(moving, seed)
    net = (lambda z, t: z.new_zeros(len(z), V, *z.shape[2:])) if net is None else net
    return ndm.NDM(process, ndm.SymbolPredictor(net, V), ndm.SymbolDecoder(V, "abc"), shape=(N,)).eval()


def exact(seed=1):
    """A model whose predictor knows the distribution of two places, and the log-probabilities of that, ``(V, V)``."""
    log_p = torch.randn(V, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).view(-1)
    log_p = (2 * log_p).log_softmax(0).view(V, V)
    found = model()
    found.predictor.net = Oracle(log_p, found.process)
    return found, log_p


def everything():
    return torch.cartesian_prod(torch.arange(V), torch.arange(V))


def test_the_shapes_are_those_of_rows_and_latents():
    found = model()
    x = everything()
    assert found.shape == (N,) and found.latent_shape((N,)) == (D, N)
    one_hot = found.encode(x)
    assert one_hot.shape == (9, V, N)
    assert (one_hot.argmax(1) == x).all() and (one_hot.sum(1) == 1).all()
    start = found.process(one_hot).marginal(torch.zeros(9)).mean
    alpha = found.process.schedule.start(one_hot).alpha.view(-1, 1, 1)
    torch.testing.assert_close(start, alpha * found.process.transform.points()[x].movedim(-1, 1))


@pytest.mark.parametrize("levels", [2, 5, 27])
def test_a_flat_model_without_signal_costs_the_logarithm_of_the_alphabet(levels):
    """With so much noise that z_0 says nothing, every term but the reconstruction is zero."""
    process = ndm.ForwardProcess(ndm.LinearSchedule(34.0, 35.0), ndm.Embedding((levels,), dim=3))
    net = lambda z, t: z.new_zeros(len(z), levels, 4)  # noqa: E731
    flat = ndm.NDM(process, ndm.SymbolPredictor(net, levels), ndm.SymbolDecoder(levels), shape=(4,)).double()
    x = torch.randint(levels, (6, 4))
    for steps in (None, 3):
        bits = ndm.bits_per_dim(ndm.bound(flat, x, steps=steps).total, x)
        torch.testing.assert_close(bits, torch.full((6,), math.log2(levels), dtype=bits.dtype), atol=1e-6, rtol=0)


def test_the_frequencies_are_where_a_predictor_starts():
    predictor = ndm.SymbolPredictor(lambda z, t: z.new_zeros(len(z), V, N), V)
    predictor.start_at(torch.tensor([[0, 0, 1], [0, 1, 0]]))
    torch.testing.assert_close(predictor.bias.softmax(0), torch.tensor([5, 3, 1]) / 9)
    process = ndm.ForwardProcess(ndm.LinearSchedule(29.0, 30.0), ndm.Embedding((V,), dim=D))
    given = predictor(torch.randn(4, D, N), torch.ones(4), process)
    torch.testing.assert_close(
        given.x_hat, (torch.tensor([5, 3, 1]) / 9).view(1, V, 1).expand(4, V, N), atol=1e-5, rtol=0
    )


def test_the_posterior_of_a_symbol_is_that_of_bayes():
    """Brute force at one place, with independent arithmetic: prior times the normal density of each point."""
    found = model().double()
    found.predictor.bias.data = torch.randn(V, dtype=torch.float64)
    t, z = torch.rand(5, dtype=torch.float64), torch.randn(5, D, N, dtype=torch.float64)
    weights = found.predictor(z, t, found.process).x_hat
    for row in range(5):
        one_hot = torch.eye(V, dtype=torch.float64)[:, :, None].expand(V, V, N)
        q = found.process(one_hot).marginal(t[row].expand(V))
        density = torch.distributions.Normal(q.mean, q.std).log_prob(z[row]).sum(1)
        expected = (density + found.predictor.bias[:, None]).softmax(0)
        torch.testing.assert_close(weights[row], expected)


def test_a_curve_of_points_has_the_derivative_of_finite_differences():
    process = parts().to(torch.float64)
    curve = process(torch.rand(4, V, N, dtype=torch.float64).softmax(1))
    t, h = torch.tensor([0.2, 0.4, 0.6, 0.9], dtype=torch.float64), 1e-6
    at = lambda time: curve.marginal(time).mean  # noqa: E731
    z = torch.randn(4, D, N, dtype=torch.float64)
    slope = (at(t + h) - at(t - h)) / (2 * h)
    std = lambda time: curve.marginal(time).std  # noqa: E731
    stretch = (std(t + h) - std(t - h)) / (2 * h) / std(t)
    torch.testing.assert_close(curve.velocity(z, t), slope + stretch * (z - at(t)), atol=1e-6, rtol=1e-6)


def mean_bound(found, x, steps, draws=3000):
    torch.manual_seed(0)
    rows = x.repeat_interleave(draws, 0)
    x_model = found.encode(rows)
    with torch.no_grad():
        latents = found.process.transform.latents(x_model)
        drawn = draw(latents, LowDiscrepancyTimes(), torch.Generator().manual_seed(0))
        total = bound_terms(found, rows, x_model, drawn, steps).total
    return total.view(len(x), draws)


def test_the_bound_of_the_true_posterior_is_above_the_truth_and_falls_with_the_steps():
    """The model that knows p(x) has a bound near -log p(x), in continuous time nearest, and never below it."""
    found, log_p = exact()
    found = found.double()
    x = everything()
    truth = -(log_p.exp() * log_p).sum()
    weights = log_p.exp().flatten()
    means = {}
    for steps in (2, 8, 512, None):
        terms = mean_bound(found, x, steps)
        means[steps] = float(weights @ terms.mean(1))
        error = float((weights**2 @ (terms.var(1) / terms.shape[1])) ** 0.5)
        assert means[steps] > truth - 4 * error
    assert means[2] > means[8] > means[None] - 0.02
    assert means[512] == pytest.approx(means[None], abs=0.04)


def test_likelihoods_of_all_sequences_add_up_to_one():
    """By importance sampling through the decoder and the exact divergence, for a net that couples the places."""
    torch.manual_seed(3)
    found = model(ndm.nn.Conv1d((D, N), V, width=8, depth=1, kernel=3))
    nn.init.normal_(found.predictor.net.head.weight, std=0.5)
    found = found.double().eval().requires_grad_(False)
    rows = everything().repeat_interleave(100, 0)
    log_p = ndm.log_prob(found, rows, solver="dopri5", generator=torch.Generator().manual_seed(0))
    each = log_p.exp().view(9, 100)
    error = (each.var(1) / 100).sum() ** 0.5
    assert each.mean(1).sum().item() == pytest.approx(1, abs=4 * float(error))
    assert error < 0.05


def test_ancestral_samples_have_the_known_distribution():
    found, log_p = exact()
    drawn = ndm.sample(found.double(), 6000, steps=60, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (6000, N) and not drawn.is_floating_point()
    shares = torch.bincount(drawn[:, 0] * V + drawn[:, 1], minlength=9) / 6000
    p = log_p.exp().flatten()
    assert ((shares - p).abs() < 4.5 * (p * (1 - p) / 6000).sqrt() + 0.01).all()


def test_texts_become_codes_and_come_back():
    decoder = ndm.SymbolDecoder(3, "abc")
    assert decoder.codes("cab").tolist() == [2, 0, 1]
    assert decoder.texts(torch.tensor([[2, 0], [1, 1]])) == ["ca", "bb"]
    with pytest.raises(ndm.InputError, match="the character 'x'"):
        decoder.codes("ax")
    with pytest.raises(ndm.InputError, match="no characters"):
        ndm.SymbolDecoder(3).codes("a")
    with pytest.raises(ndm.InputError, match="no characters"):
        ndm.SymbolDecoder(3).texts(torch.zeros(1, 2))


@pytest.mark.parametrize("alphabet", ["ab", "aab", 3, ["a", "b", "c"], None])
def test_an_alphabet_has_a_different_character_for_each_code(alphabet):
    with pytest.raises(ndm.InputError, match="alphabet must be"):
        ndm.SymbolDecoder(3, alphabet)


@pytest.mark.parametrize(
    "x", [[[0, 3]], [[-1, 0]], [[0.5, 1.0]], [[0.0, float("nan")]]], ids=["high", "low", "part", "nan"]
)
def test_codes_outside_the_alphabet_are_refused(x):
    with pytest.raises(ndm.InputError):
        ndm.bound(model(), torch.tensor(x))


def test_uniform_dequantisation_is_refused():
    with pytest.raises(ndm.InputError, match="symbols have no cells"):
        ndm.log_prob(model(), everything(), dequantization="uniform")


@pytest.mark.parametrize("kind", [ndm.nn.Conv1d, ndm.nn.Transformer])
def test_a_model_of_symbols_is_saved_and_gives_the_same_bound(kind, tmp_path):
    torch.manual_seed(0)
    found = model(kind((D, N), V, width=8, depth=1)).eval()
    nn.init.normal_(found.predictor.net.head.weight)
    found.save_pretrained(tmp_path)
    again = ndm.NDM.from_pretrained(tmp_path)
    assert again.decoder.alphabet == "abc" and again.shape == (N,)
    one, two = (ndm.bound(m, everything(), generator=torch.Generator().manual_seed(0)).total for m in (found, again))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    code = "import sys, ndm; print(ndm.NDM.from_pretrained(sys.argv[1]).decoder.alphabet)"
    fresh = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert fresh.stdout == "abc\n"


def test_the_decoder_gives_the_probabilities_of_bayes_at_time_zero():
    found = model().double()
    z_0 = 0.3 * torch.randn(6, D, N, dtype=torch.float64)
    x = torch.randint(V, (6, N))
    one_hot = torch.eye(V, dtype=torch.float64)[:, :, None].expand(V, V, N)
    q_0 = found.process(one_hot).marginal(torch.zeros(V, dtype=torch.float64))
    density = torch.distributions.Normal(q_0.mean, q_0.std).log_prob(z_0[:, None]).sum(2)
    log_p = density.log_softmax(1)
    torch.testing.assert_close(found.decoder.log_probs(z_0, found.process), log_p.movedim(1, -1))
    nll = -sum(log_p[:, :, i].gather(1, x[:, i, None])[:, 0] for i in range(N))
    torch.testing.assert_close(found.decoder.nll(x, z_0, found.process), nll)


def fixed_levels(levels, channels, rank, spread):
    """Two models with the same logits: of numbers on equally spaced levels, and of symbols at the same places.

    The second has its points ``spread`` times as far apart, and so much more noise that z / sigma is the same.
    """
    torch.manual_seed(0)
    rank = min(rank, levels)
    out = torch.randn(rank * channels, 3, dtype=torch.float64)
    net = lambda z, t: out.expand(len(z), -1, -1) + (1 + t[:, None, None])  # noqa: E731
    schedule = ndm.LinearSchedule(-6.0, 4.0)
    numbers = ndm.LevelsPredictor(net, levels, rank).double()
    one = ndm.NDM(ndm.ForwardProcess(schedule), numbers, ndm.CategoricalDecoder(levels), shape=(channels, 3))
    shifted = ndm.LinearSchedule(*(gamma + 2 * math.log(spread) for gamma in (-6.0, 4.0)))
    embedding = ndm.Embedding((levels,) * channels, dim=1, num_basis=0)
    embedding.start_in_order()
    symbols = ndm.SymbolPredictor(net, levels, channels, rank).double()
    if rank < levels:
        symbols.basis.data.copy_(numbers.basis)
    decoder = ndm.SymbolDecoder(levels, channels=channels)
    two = ndm.NDM(ndm.ForwardProcess(shifted, embedding), symbols, decoder, shape=(channels, 3))
    return one.double(), two.double()


@pytest.mark.parametrize(("levels", "channels", "rank"), [(5, 1, 5), (7, 3, 4), (256, 1, 16)])
def test_levels_are_symbols_on_a_line_that_stay_where_they_are(levels, channels, rank):
    """The same draws give the same integrand and the same reconstruction, row by row."""
    spread = 1 / ((2 * torch.arange(levels, dtype=torch.float64) + 1) / levels - 1).square().mean().sqrt().item()
    models = fixed_levels(levels, channels, rank, spread)
    x = torch.randint(levels, (8, channels, 3))
    draws = draw(torch.zeros(8, channels, 3, dtype=torch.float64), LowDiscrepancyTimes(), torch.Generator())
    one, two = (bound_terms(m, x, m.encode(x), draws) for m in models)
    torch.testing.assert_close(one.diffusion, two.diffusion)
    torch.testing.assert_close(one.reconstruction, two.reconstruction)
    assert models[1].latent_shape((channels, 3)) == (channels, 3)
    assert (models[1].decoder.encode(x).unflatten(1, (channels, levels)).argmax(2) == x).all()


class Reader(nn.Module):
    """A network that keeps what it reads."""

    beliefs = V

    def forward(self, z, t, beliefs):
        self.read = beliefs
        return z.new_zeros(len(z), V, *z.shape[2:])


def test_beliefs_are_what_a_place_alone_says_about_its_symbol():
    """Bayes' rule with the frequencies and the marginals of the process, symbol by symbol in float64."""
    found = model(Reader()).double()
    found.predictor.bias.data = torch.tensor([0.5, 0.2, 0.3]).double().log()
    z, t = torch.randn(4, D, N, dtype=torch.float64), torch.tensor([0.1, 0.4, 0.8, 1.0], dtype=torch.float64)
    weights = found(z, t).curve.x
    log_p = []
    for k in range(V):
        marginal = found.process(nn.functional.one_hot(torch.full((4, N), k), V).double().mT).marginal(t)
        log_p.append(torch.distributions.Normal(marginal.mean, marginal.std).log_prob(z).sum(1))
    expected = torch.stack(log_p, 1).exp() * torch.tensor([0.5, 0.2, 0.3]).double()[:, None]
    expected = expected / expected.sum(1, keepdim=True)
    torch.testing.assert_close(found.predictor.net.read, expected)
    read = found.process.transform.embed(expected, found.process.transform.points()[None])[0]
    torch.testing.assert_close(weights, read)


@pytest.mark.parametrize("network", [ndm.nn.Conv1d, ndm.nn.Transformer])
def test_networks_read_beliefs_at_the_place_of_their_symbol(network):
    torch.manual_seed(0)
    net = network((D, 6), V, width=8, depth=1, beliefs=V)
    net.head.weight.data.normal_()
    z, t, beliefs = torch.randn(2, D, 6), torch.rand(2), torch.rand(2, V, 6).softmax(1)
    other = beliefs.clone()
    other[:, :, 2] = other[:, :, 2].roll(1, dims=1)
    changed = (net(z, t, beliefs=other) - net(z, t, beliefs=beliefs)).abs().amax((0, 1))
    assert changed[2] > 1e-3 and changed.argmax() == 2
    with pytest.raises(ndm.InputError, match="this network reads beliefs"):
        net(z, t)
    with pytest.raises(ndm.InputError, match="a network with beliefs=3 is told so many, got 2"):
        net(z, t, beliefs=beliefs[:, :2])
    with pytest.raises(ndm.InputError, match="beliefs must be"):
        network((D, 6), V, beliefs=-1)


def test_the_frequencies_of_each_channel_are_its_own():
    x = torch.tensor([[[0, 0, 1], [2, 2, 2]], [[0, 1, 1], [2, 1, 0]]])
    predictor = ndm.SymbolPredictor(lambda z, t: z, 3, channels=2)
    predictor.start_at(x)
    torch.testing.assert_close(predictor.bias.exp(), torch.tensor([4, 4, 1, 2, 2, 5]) / 9)


def test_known_pixels_stay_and_the_others_are_drawn():
    model = fixed_levels(4, 2, 4, 1.3)[1].eval()
    x = torch.tensor([[0, 3, 1], [2, 2, 0]])
    known = torch.tensor([[True, False, True], [False, True, False]])
    drawn = ndm.infill(model, x, known, 64, steps=5, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (64, 2, 3)
    assert (drawn[:, known] == x[known]).all() and (drawn[:, ~known].float().std(0) > 0).all()
