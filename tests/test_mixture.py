"""The reverse process of symbols in finite steps, against quadrature, mixtures of torch and exact reversals."""

import itertools

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import ndm
from ndm.gaussian import Gaussian
from ndm.mixture import SymbolProcess, divergence
from ndm.support.tensors import full_times

from conftest import SmoothNet

LEVELS, DIM = (3, 2), 2


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def process_of(levels=LEVELS, dim=DIM, numbers=0, gamma=(-6.0, 4.0)):
    torch.manual_seed(0)
    embedding = ndm.Embedding(levels, dim, num_basis=1, numbers=numbers).double()
    torch.nn.init.normal_(embedding.moves, std=0.5)
    return ndm.ForwardProcess(ndm.LinearSchedule(*gamma), embedding, tied_to="noise")


def reverse_step(process, rows=4, places=(), s=0.3, t=0.8):
    """A mixture of random probabilities from random latents, its weights, and the times of all rows."""
    embedding = process.transform
    weights = torch.randn(rows, sum(embedding.levels), *places, dtype=torch.float64, generator=seeded(1))
    weights = embedding.softmax(2 * weights)
    numbers = torch.randn(rows, embedding.numbers, *places, dtype=torch.float64, generator=seeded(2))
    x = torch.cat([numbers, weights], 1)
    z = torch.randn(process.transform(x).x.shape, dtype=torch.float64, generator=seeded(3))
    s, t = full_times(s, z), full_times(t, z)
    return SymbolProcess(process, x).posterior(z, s, t), x, z, s, t


def components(process, x, z, s, t, eta=1.0):
    """The mixture of each alphabet as torch has it, of the latents ``(B, d)`` of its place."""
    embedding, found, start = process.transform, [], process.transform.numbers
    for i, count in enumerate(embedding.levels):
        means = []
        for k in range(count):
            hot = torch.zeros_like(x)
            hot[:, start + k] = 1
            q = process(hot, eta=eta).posterior(z, s, t)
            place = slice(embedding.numbers + i * embedding.dim, embedding.numbers + (i + 1) * embedding.dim)
            means.append(q.mean[:, place])
        normal = Independent(Normal(torch.stack(means, 1), q.std[:, :1, None].expand(-1, count, embedding.dim)), 1)
        found.append(MixtureSameFamily(Categorical(x[:, start : start + count]), normal))
        start += count
    return found


def test_the_mean_is_that_of_the_mixture_and_of_the_expected_curve():
    process = process_of()
    p, x, z, s, t = reverse_step(process)
    expected = torch.cat([mixture.mean for mixture in components(process, x, z, s, t)], 1)
    torch.testing.assert_close(p.mean, expected)
    torch.testing.assert_close(p.mean, process(x).posterior(z, s, t).mean)


@pytest.mark.parametrize("levels", [(3, 2), (5,)])
def test_the_estimate_of_a_draw_is_that_of_mixtures_of_torch(levels):
    """Of several alphabets, and of one, whose squares are expanded."""
    process = process_of(levels)
    p, x, z, s, t = reverse_step(process)
    q = process(process.transform.draw(x, seeded(5))).posterior(z, s, t)
    eps = torch.randn(z.shape, dtype=torch.float64, generator=seeded(4))
    expected = torch.zeros(len(z), dtype=torch.float64)
    for z_s in (q.mean + q.std * eps, q.mean - q.std * eps):
        places = z_s.unflatten(1, (-1, DIM)).unbind(1)
        mixtures = components(process, x, z, s, t)
        expected += q.log_prob(z_s) - sum(m.log_prob(place) for m, place in zip(mixtures, places, strict=True))
    torch.testing.assert_close(divergence(q, p, eps), expected / 2)


@pytest.mark.parametrize("levels", [(4,), (3, 3)])
def test_places_of_a_sequence_are_rows_of_their_own(levels):
    process = process_of(levels)
    p, x, z, s, t = reverse_step(process, places=(6,))
    hot = process.transform.draw(x, seeded(5))
    eps = torch.randn(z.shape, dtype=torch.float64, generator=seeded(4))
    found = divergence(process(hot).posterior(z, s, t), p, eps)
    total = torch.zeros_like(found)
    for place in range(6):
        alone = SymbolProcess(process, x[..., place]).posterior(z[..., place], s, t)
        total += divergence(process(hot[..., place]).posterior(z[..., place], s, t), alone, eps[..., place])
    torch.testing.assert_close(found, total)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_divergence_is_that_of_quadrature(eta):
    """One alphabet in one dimension; n = 100,000 draws."""
    process = process_of((3,), dim=1)
    _, x, z, s, t = reverse_step(process)
    p = SymbolProcess(process, x, eta).posterior(z, s, t)
    hot = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0]]
    q = process(hot, eta=eta).posterior(z, s, t)
    centres = [process(torch.eye(3, dtype=torch.float64)[[k] * 4], eta=eta).posterior(z, s, t).mean for k in range(3)]
    many, count = [a.repeat_interleave(100_000, 0) for a in (q.mean, q.std, x, z, s, t)], 100_000
    p = SymbolProcess(process, many[2], eta).posterior(*many[3:])
    eps = torch.randn(many[0].shape, dtype=torch.float64, generator=seeded(5))
    draws = divergence(Gaussian(*many[:2]), p, eps).view(4, count)
    for row in range(4):
        std = q.std[row].item()
        y = q.mean[row] + std * torch.linspace(-9, 9, 20_001, dtype=torch.float64)
        log_q = Normal(q.mean[row], std).log_prob(y)
        log_p = torch.stack([x[row, k].log() + Normal(centres[k][row], std).log_prob(y) for k in range(3)]).logsumexp(0)
        expected = torch.trapezoid(log_q.exp() * (log_q - log_p), y)
        assert abs(draws[row].mean() - expected) < 4 * draws[row].std() / count**0.5
        assert expected > 0.01


def test_certain_predictions_have_the_divergence_of_gaussians():
    """Numbers always have it; a symbol whose probability is 1 has one component."""
    process = process_of(numbers=2)
    _, x, z, s, t = reverse_step(process)
    sure = torch.cat([x[:, :2], process.transform.draw(x, seeded())[:, 2:]], 1)
    truth = torch.cat([x[:, :2] + 0.3, sure[:, 2:].roll(1, 0)], 1)
    q, p = process(truth).posterior(z, s, t), SymbolProcess(process, sure).posterior(z, s, t)
    found = divergence(q, p, torch.zeros_like(z))
    eps = torch.randn(z.shape, dtype=torch.float64, generator=seeded(4))
    torch.testing.assert_close(found, q.kl(process(sure).posterior(z, s, t)))
    torch.testing.assert_close(divergence(q, p, eps), found)  # what is linear in the noise cancels


def test_symbols_are_drawn_with_their_probabilities():
    embedding = ndm.Embedding(LEVELS, DIM, numbers=1)
    x = torch.tensor([[5.0, 0.2, 0.3, 0.5, 0.9, 0.1], [7.0, 0.0, 1.0, 0.0, 0.4, 0.6]]).repeat_interleave(20_000, 0)
    drawn = embedding.draw(x, seeded())
    assert set(drawn[:, 1:].unique().tolist()) == {0.0, 1.0}
    assert (drawn[:, 1:4].sum(1) == 1).all() and (drawn[:, 4:].sum(1) == 1).all()
    assert torch.equal(drawn[:, 0], x[:, 0])
    assert (drawn.view(2, 20_000, 6).mean(1) - x[::20_000]).abs().max() < 0.02
    places = embedding.draw(x[:, :, None, None].expand(-1, -1, 2, 1), seeded())
    assert (places.view(2, 20_000, 6, 2).mean((1, 3)) - x[::20_000]).abs().max() < 0.02
    assert torch.equal(embedding.draw(x, seeded()), drawn)


@pytest.mark.parametrize("eta", [0.2, 1.0])
def test_samples_are_those_of_the_mixture(eta):
    """The shares below many thresholds, against the density on a grid."""
    process = process_of((3,), dim=1, gamma=(-8.0, 4.0))
    _, x, z, s, t = reverse_step(process, rows=1, s=0.2)
    rows = [a.expand(20_000, *a.shape[1:]) for a in (x, z, s, t)]
    drawn = SymbolProcess(process, rows[0], eta).posterior(*rows[1:]).sample(seeded(6))[:, 0].sort().values
    y = torch.linspace(-6, 6, 40_001, dtype=torch.float64)
    density = components(process, x, z, s, t, eta)[0].log_prob(y[:, None, None]).exp()[:, 0]
    cumulative = torch.cumulative_trapezoid(density, y)
    assert cumulative[-1].item() == pytest.approx(1, abs=1e-6)
    below = torch.searchsorted(drawn, y[1:]) / len(drawn)
    assert (below - cumulative).abs().max() < 0.015


def known(levels, moving, gamma_max=12.0):
    """A model of places that do not depend on each other, whose probabilities its predictor knows."""
    torch.manual_seed(1)
    embedding = ndm.Embedding(levels, DIM, num_basis=2 if moving else 0)
    torch.nn.init.normal_(embedding.moves, std=0.5)
    predictor = ndm.MixedPredictor(lambda z, t: z.new_zeros(len(z), sum(levels)), levels)
    with torch.no_grad():
        predictor.bias.copy_(embedding.log_softmax(torch.randn(1, sum(levels)))[0])
    process = ndm.ForwardProcess(ndm.LinearSchedule(-9.0, gamma_max), embedding, tied_to="noise")
    decoder = ndm.MixedDecoder(ndm.Marginals(0), levels)
    return ndm.NDM(process, predictor, decoder, shape=(len(levels),)).double().eval()


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_bound_is_exact_in_any_number_of_steps_where_places_do_not_depend_on_each_other(steps, moving):
    """Then the mixture is the true reverse process. The Gaussian about the mean is hundreds of nats off."""
    model = known(LEVELS, moving)
    codes = torch.tensor(list(itertools.product(*map(range, LEVELS))), dtype=torch.float64)
    log_p = sum(
        part[codes[:, i].long()]
        for i, part in enumerate(model.process.transform.log_softmax(model.predictor.bias[None])[0].split(LEVELS))
    )
    with torch.no_grad():
        total = ndm.bound(model, codes.repeat(20_000, 1), steps, generator=seeded()).total.view(-1, 6)
    error = total.std(0) / 20_000**0.5
    assert ((total.mean(0) + log_p).abs() < 4 * error + 0.003).all()
    assert (error < 0.04).all()


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_samples_are_exact_in_any_number_of_steps_where_places_do_not_depend_on_each_other(steps):
    model = known(LEVELS, moving=True)
    drawn = ndm.sample(model, 40_000, steps=steps, generator=seeded()).long()
    shares = torch.bincount(drawn[:, 0] * 2 + drawn[:, 1], minlength=6).view(3, 2) / 40_000
    first, second = model.process.transform.softmax(model.predictor.bias[None])[0].split(LEVELS)
    expected = torch.outer(first, second)
    assert ((shares - expected).abs() < 4.5 * (expected / 40_000).sqrt()).all()


def test_the_noise_of_the_bound_does_not_grow_with_the_steps():
    """By one draw alone its standard deviation at T = 2,000 would be about (2 T KL)^(1/2), more than 50 nats."""
    torch.manual_seed(0)
    embedding = ndm.Embedding(LEVELS, DIM, num_basis=1)
    net = SmoothNet(2 * DIM, sum(LEVELS))
    process = ndm.ForwardProcess(ndm.LinearSchedule(-6.0, 4.0), embedding)
    model = ndm.NDM(process, ndm.MixedPredictor(net, LEVELS), ndm.MixedDecoder(ndm.Marginals(0), LEVELS), shape=(2,))
    x = torch.tensor([[1.0, 0.0]]).double().expand(4000, 2)
    with torch.no_grad():
        few, many, limit = (ndm.bound(model.double(), x, T, generator=seeded()).diffusion for T in (8, 2000, None))
    assert many.std() < 2 * max(few.std(), limit.std())
    assert abs(many.mean() - limit.mean()) < 4 * (many.var() / 4000 + limit.var() / 4000) ** 0.5 + 0.01 * limit.mean()


def test_float32_keeps_the_divergence_of_small_steps():
    process = process_of()
    _, x, z, s, t = reverse_step(process, s=0.7995, t=0.8)
    hot = process.transform.draw(x, seeded())
    eps = torch.randn(z.shape, dtype=torch.float64, generator=seeded(4))
    found = []
    for dtype in (torch.float64, torch.float32):
        own = process.to(dtype)
        a, b, c, d, e, f = (v.to(dtype) for v in (hot, x, z, s, t, eps))
        found.append(divergence(own(a).posterior(c, d, e), SymbolProcess(own, b).posterior(c, d, e), f).double())
    assert (found[0] - found[1]).abs().max() < 3e-6
    assert found[0].max() < 0.02


def test_a_probability_of_zero_has_finite_gradients():
    process = process_of()
    _, x, z, s, t = reverse_step(process)
    weights = torch.zeros_like(x)
    weights[:, 0], weights[:, 3] = 1, 1
    weights.requires_grad_()
    truth = torch.zeros_like(x)
    truth[:, 1], truth[:, 4] = 1, 1
    p = SymbolProcess(process, weights).posterior(z, s, t)
    divergence(process(truth).posterior(z, s, t), p, torch.zeros_like(z)).sum().backward()
    assert torch.isfinite(weights.grad).all()


@pytest.mark.parametrize("places", [(), (3,)], ids=["table", "text"])
def test_autocast_does_not_round_the_process(float32, places):
    """The true symbol is one of the components, to float32. With rounded points the bound of many steps is nats off."""
    torch.manual_seed(0)
    levels = (5,) if places else LEVELS
    embedding = ndm.Embedding(levels, DIM, num_basis=2)
    torch.nn.init.normal_(embedding.moves)
    zeros = torch.zeros(1, sum(levels), *places)
    if places:
        predictor, decoder = ndm.SymbolPredictor(lambda z, t: zeros.expand(len(z), -1, -1), 5), ndm.SymbolDecoder(5)
    else:
        predictor = ndm.MixedPredictor(lambda z, t: zeros.expand(len(z), -1), levels)
        decoder = ndm.MixedDecoder(ndm.Marginals(0), levels)
    model = ndm.NDM(ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), embedding), predictor, decoder, places or (2,))
    x = torch.zeros(64, *(places or (2,)))
    exact = ndm.bound(model, x, 1000, generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        low = ndm.bound(model, x, 1000, generator=seeded())
    torch.testing.assert_close(low.diffusion, exact.diffusion)
    torch.testing.assert_close(low.prior, exact.prior)


def test_weights_that_are_no_numbers_are_named_by_the_sampler():
    model = known(LEVELS, moving=False)
    with torch.no_grad():
        model.predictor.bias[0] = torch.nan
    with pytest.raises(ndm.InputError, match="the model has 1 value that is not finite"):
        ndm.sample(model, 3, steps=4)


def test_probabilities_count_as_they_are_drawn():
    """A predictor of weights that do not add up to one has the bound of what is drawn from it."""
    process = process_of()
    p, x, z, s, t = reverse_step(process)
    q, eps = process(process.transform.draw(x, seeded())).posterior(z, s, t), torch.ones_like(z)
    more = SymbolProcess(process, 3 * x).posterior(z, s, t)
    torch.testing.assert_close(divergence(q, more, eps), divergence(q, p, eps))


def test_a_predictor_of_symbols_predicts_nothing_beside_them():
    model = known(LEVELS, moving=False)
    z, t = torch.zeros(2, 4, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    prediction = model.predict(z, t)
    with pytest.raises(ndm.InputError, match="nothing beside them"):
        model.reverse(prediction._replace(variance=torch.ones_like(z)))
