"""The bound: VDM's for the identity, the closed form for any F, the oracle, many steps, and uniform data."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import ndm
from ndm.objective import bound_terms, continuous_diffusion, discrete_diffusion, draw, step_around

from conftest import SmoothNet
from oracle import LinearGaussian

X = torch.tensor([[0.3, -1.2, 0.7], [1.5, 0.2, -0.4]], dtype=torch.float64)


def model_with(transform, schedule=None, eta=1.0, tied_to="time", **predictor):
    process = ndm.ForwardProcess(schedule or ndm.CosineSchedule(-6.0, 4.0), transform, eta, tied_to)
    net = SmoothNet(3, 3 * (1 + predictor.get("num_basis", 0) + predictor.get("variance", False)))
    return ndm.NDM(process, ndm.Predictor(net, "v", **predictor), ndm.GaussianDecoder()).double()


def same_latent(model, x, t, seed=3):
    """z_t drawn from a generator with this seed."""
    return model.process(x).marginal(t).sample(torch.Generator().manual_seed(seed))


def test_identity_is_vdm_in_continuous_time():
    """1/2 e^{-gamma} gamma' ||x - x_hat||^2."""
    model = model_with(ndm.Identity())
    t = torch.tensor([0.2, 0.8])
    level = model.process.schedule(t)
    x_hat = model(same_latent(model, X, t), t).curve.x
    expected = torch.exp(-level.gamma) * level.d_gamma * (X - x_hat).pow(2).sum(1) / 2
    actual = continuous_diffusion(model, model.process(X), same_latent(model, X, t), t)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_identity_is_vdm_in_discrete_time(steps):
    """T/2 (SNR(s) - SNR(t)) ||x - x_hat||^2."""
    model = model_with(ndm.Identity())
    u = torch.tensor([0.2, 0.8])
    s, t = (u * steps).floor() / steps, ((u * steps).floor() + 1) / steps
    x_hat = model(same_latent(model, X, t), t).curve.x
    snr_s, snr_t = (torch.exp(-model.process.schedule(r).gamma) for r in (s, t))
    expected = steps * (snr_s - snr_t) * (X - x_hat).pow(2).sum(1) / 2
    actual = steps * discrete_diffusion(model, model.process(X), same_latent(model, X, t), *step_around(u, steps))
    torch.testing.assert_close(actual, expected)


def test_identity_with_learned_variance_is_the_log_ratio():
    """Each element adds log(var_p/var_q) = log1p((e^{-gamma_s} - e^{-gamma_t}) v)."""
    model = model_with(ndm.Identity(), variance=True)
    steps, u = 5, torch.tensor([0.3, 0.9])
    s, t = (u * steps).floor() / steps, ((u * steps).floor() + 1) / steps
    p = model(same_latent(model, X, t), t)
    gap = torch.exp(-model.process.schedule(s).gamma) - torch.exp(-model.process.schedule(t).gamma)
    excess = gap[:, None] * p.variance
    delta2 = gap[:, None] * (X - p.curve.x) ** 2
    expected = steps / 2 * ((1 + delta2) / (1 + excess) - 1 + torch.log1p(excess)).sum(1)
    actual = steps * discrete_diffusion(model, model.process(X), same_latent(model, X, t), *step_around(u, steps))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("tied_to", ["time", "noise"])
@pytest.mark.parametrize("eta", [1.0, 0.3])
@pytest.mark.parametrize("kind", ["network", "time-basis", "predicted-curve"])
def test_continuous_bound_has_the_closed_form_of_any_transform(kind, eta, tied_to):
    """1/(2 eta) e^{-gamma} gamma' ||(1 + eta)/2 (F - F_hat) - (dF - dF_hat)/gamma'||^2."""
    basis = ndm.TimeBasis(SmoothNet(3, 6, timed=False), 2)
    transform = ndm.Network(SmoothNet(3, 3)) if kind == "network" else basis
    predictor = {"num_basis": 2} if kind == "predicted-curve" else {}
    model = model_with(transform, eta=eta, tied_to=tied_to, **predictor)
    t, h = torch.tensor([0.2, 0.8]), 1e-6

    def tau(t):
        sigma2 = model.process.schedule(t).sigma ** 2
        return t if tied_to == "time" else sigma2 - model.process.schedule(torch.zeros(2)).sigma ** 2

    q = model.process(X)
    p = model(same_latent(model, X, t), t)
    gap = lambda t: q.curve(tau(t)) - p.curve(tau(t))  # noqa: E731
    slope = (gap(t + h) - gap(t - h)) / (2 * h)
    level = model.process.schedule(t)
    d_gamma = level.d_gamma[:, None]
    norm2 = ((1 + eta) / 2 * gap(t) - slope / d_gamma).pow(2).sum(1)
    expected = torch.exp(-level.gamma) * level.d_gamma * norm2 / (2 * eta)
    actual = continuous_diffusion(model, q, same_latent(model, X, t), t)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)
    # The same by an eta per row, whatever the process's own; each row's bound is that of a process of its eta.
    etas = torch.tensor([0.5, 3.0])
    norm2 = ((1 + etas)[:, None] / 2 * gap(t) - slope / d_gamma).pow(2).sum(1)
    expected = torch.exp(-level.gamma) * level.d_gamma * norm2 / (2 * etas)
    actual = continuous_diffusion(model, model.process(X, eta=etas), same_latent(model, X, t), t)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)


def test_a_bound_per_eta_is_that_of_a_process_of_its_own_eta():
    transform = ndm.TimeBasis(SmoothNet(3, 6, timed=False), 2)
    for steps in (5, None):
        rows = []
        for row, eta in enumerate((0.5, 3.0)):
            torch.manual_seed(1)
            model = model_with(transform, eta=eta)
            rows.append(ndm.bound(model, X, steps, generator=torch.Generator().manual_seed(3)).total[row])
        etas = torch.tensor([0.5, 3.0])
        together = ndm.bound(model, X, steps, generator=torch.Generator().manual_seed(3), eta=etas).total
        torch.testing.assert_close(together, torch.stack(rows))
        assert not torch.isclose(
            together[0], ndm.bound(model, X, steps, generator=torch.Generator().manual_seed(3)).total[0]
        )


def quadrature(model, x, t, nodes=16):
    """z_t at Gauss-Hermite points of eps for one-dimensional x and all times in one batch, and the points' weights."""
    eps, weights = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
    q = model.process(x.expand(len(t) * nodes, 1))
    g = q.marginal(t.repeat_interleave(nodes))
    return q, g.mean + g.std * eps.repeat(len(t))[:, None], weights / weights.sum()


def step_kl(model, x, steps):
    """The exact discrete diffusion term of one-dimensional x: quadrature over eps, and a sum over all steps."""
    times = torch.arange(steps + 1) / steps
    q, z, weights = quadrature(model, x, times[1:])
    s, t = (r.repeat_interleave(len(weights)) for r in (times[:-1], times[1:]))
    kl = q.posterior(z, s, t).kl(model(z, t).posterior(z, s, t))
    return (kl.view(steps, -1) @ weights).sum().item()


def drift_integral(model, x, points=400):
    """The exact continuous diffusion term of one-dimensional x: quadrature over eps and over t."""
    nodes, lengths = (torch.tensor(a) for a in np.polynomial.legendre.leggauss(points))
    q, z, weights = quadrature(model, x, (nodes + 1) / 2)
    t = ((nodes + 1) / 2).repeat_interleave(len(weights))
    gap = (q.reverse_drift(z, t) - model(z, t).reverse_drift(z, t))[:, 0]
    density = gap**2 / (2 * model.process.noise_rate(t) ** 2)
    return (lengths / 2 @ (density.view(points, -1) @ weights)).item()


@pytest.mark.parametrize("variance", [False, True])
@pytest.mark.parametrize("transform", ["identity", "network"])
def test_discrete_bound_tends_to_the_continuous_one_at_rate_one_over_t(transform, variance):
    f = ndm.Identity() if transform == "identity" else ndm.Network(SmoothNet(1, 1))
    process = ndm.ForwardProcess(ndm.CosineSchedule(-3.0, 3.0), f)
    model = ndm.NDM(process, ndm.Predictor(SmoothNet(1, 1 + variance), "v", variance=variance), ndm.GaussianDecoder())
    x = torch.tensor([[0.8]])
    with torch.no_grad():
        limit = drift_integral(model, x)
        steps = [64, 128, 256, 512]
        gaps = [abs(step_kl(model, x, n) - limit) for n in steps]
    slope = np.polyfit(np.log(steps), np.log(gaps), 1)[0]
    assert gaps[-1] < 0.01 * limit
    assert slope == pytest.approx(-1.0, abs=0.1)


@pytest.mark.parametrize("steps", [None, 4])
def test_bound_estimates_the_exact_value(steps, generator):
    """Monte Carlo with n = 200,000 is within 4 standard errors of the quadrature."""
    process = ndm.ForwardProcess(ndm.CosineSchedule(-3.0, 3.0), ndm.Network(SmoothNet(1, 1)))
    model = ndm.NDM(process, ndm.Predictor(SmoothNet(1, 1), "v"), ndm.GaussianDecoder())
    x = torch.tensor([[0.8]])
    with torch.no_grad():
        exact = drift_integral(model, x) if steps is None else step_kl(model, x, steps)
        draws = ndm.bound(model, x.expand(200_000, 1), steps=steps, generator=generator).diffusion
    assert abs(draws.mean() - exact) < 4 * draws.std() / len(draws) ** 0.5


def test_bound_weighs_importance_times_and_teaches_them(generator):
    """The bound stays unbiased with an uneven density of times (n = 200,000, 4 standard errors).

    One step in training mode changes that density.
    """
    process = ndm.ForwardProcess(ndm.CosineSchedule(-3.0, 3.0))
    model = ndm.NDM(process, ndm.Predictor(SmoothNet(1, 1), "v"), ndm.GaussianDecoder())
    x = torch.tensor([[0.8]])
    times = ndm.ImportanceTimes(bins=8).eval()
    times.seen.fill_(True)
    times.second_moment.copy_(torch.linspace(0.1, 4, 8))
    with torch.no_grad():
        draws = ndm.bound(model, x.expand(200_000, 1), times=times, generator=generator).diffusion
        assert abs(draws.mean() - drift_integral(model, x)) < 4 * draws.std() / len(draws) ** 0.5
    before = times.train().second_moment.clone()
    ndm.bound(model, x.expand(64, 1), times=times, generator=generator)
    times.update()
    assert not torch.equal(times.second_moment, before)


def test_prior_and_reconstruction_are_closed_forms():
    oracle = LinearGaussian(3)
    x = torch.randn(4, 3)
    result = ndm.bound(oracle.model(), x)
    one = torch.tensor(1.0)
    mean = x @ oracle.matrix(one).T
    var = oracle.schedule(one).sigma ** 2
    torch.testing.assert_close(result.prior, (mean**2 + var - 1 - var.log()).sum(1) / 2)
    expected = 3 / 2 * (math.log(2 * math.pi) - 3.0 + 1)
    torch.testing.assert_close(result.reconstruction, torch.full((4,), expected))
    torch.testing.assert_close(result.total, result.prior + result.diffusion + result.reconstruction)


def test_linear_gaussian_bound_matches_the_closed_form(generator):
    """The expected squared drift gap is a sum of two matrix norms, integrated over t by quadrature.

    This holds because x - x_hat = (I - K M)(x - mu) - sigma K eps. n = 100,000, 4 standard errors.
    """
    oracle = LinearGaussian(3)
    x = torch.tensor([[0.5, -1.0, 2.0]])
    times, lengths = (torch.tensor(a) for a in np.polynomial.legendre.leggauss(200))
    eye, h, exact = torch.eye(3), 1e-5, 0.0
    for t, length in zip((times + 1) / 2, lengths / 2, strict=True):
        level, m, k = oracle.schedule(t), oracle.matrix(t), oracle.gain(t)
        d_m = (oracle.matrix(t + h) - oracle.matrix(t - h)) / (2 * h)
        b = d_m - (level.d_sigma / level.sigma + level.d_gamma / 2) * m
        signal = b @ (eye - k @ m) @ (x[0] - oracle.mu)
        noise = level.sigma * b @ k
        exact += (length * (signal.pow(2).sum() + noise.pow(2).sum()) / (2 * level.sigma**2 * level.d_gamma)).item()
    draws = ndm.bound(oracle.model(), x.expand(100_000, 3), generator=generator).diffusion
    assert abs(draws.mean() - exact) < 4 * draws.std() / len(draws) ** 0.5
    assert draws.std() / len(draws) ** 0.5 < 0.01 * exact


@pytest.mark.parametrize("steps", [None, 1, 50])
def test_a_uniform_model_scores_log2_of_the_levels(steps, generator):
    """At t = 0 the noise hides x completely: the prior and diffusion terms vanish, and the decoder is flat."""
    process = ndm.ForwardProcess(ndm.LinearSchedule(60.0, 70.0))
    for levels in (17, 256):
        model = ndm.NDM(process, ndm.Predictor(SmoothNet(3, 3), "x"), ndm.CategoricalDecoder(levels))
        x = torch.randint(levels, (5, 3))
        total = ndm.bound(model, x, steps=steps, generator=generator).total
        expected = torch.full((5,), math.log2(levels))
        torch.testing.assert_close(ndm.bits_per_dim(total, x), expected, rtol=0, atol=1e-6)


def test_bound_is_never_below_the_entropy_of_known_data(generator):
    """The predictor is optimal. In discrete and continuous time, mean bound - entropy >= -3 standard errors."""
    oracle = LinearGaussian(3)
    model = oracle.model()
    x = oracle.sample(50_000, generator)
    entropy = torch.distributions.MultivariateNormal(oracle.mu, oracle.covariance).entropy()
    for steps in (None, 1, 5, 50):
        total = ndm.bound(model, x, steps=steps, generator=generator).total
        assert total.mean() - entropy > -3 * total.std() / len(total) ** 0.5


def test_identity_bound_with_the_exact_predictor_is_tight(generator):
    """In continuous time, E[bound] is the entropy of the data smoothed by the decoder's variance.

    The reverse SDE is then exact, so any wrong constant shows. n = 100,000, 4 standard errors.
    """
    oracle = LinearGaussian(3, gamma_max=14.0)
    oracle.transform.gains.data.zero_()
    x = oracle.sample(100_000, generator)
    total = ndm.bound(oracle.model(), x, generator=generator).total
    smoothed = oracle.covariance + math.exp(-3.0) * torch.eye(3)
    # I(x; z_0) - E log p(x|z_0): the bound's gap at t = 0 is the information the decoder does not use.
    information = 0.5 * torch.logdet(smoothed) - 0.5 * 3 * -3.0
    expected = information + 3 / 2 * (math.log(2 * math.pi) - 3.0 + 1)
    assert abs(total.mean() - expected) < 4 * total.std() / len(total) ** 0.5


def test_all_three_terms_are_trained():
    """The gradient of each term reaches what the term depends on: F in all three, the predictor in diffusion."""
    schedule = ndm.LearnedSchedule(-6.0, 4.0)
    model = model_with(ndm.TimeBasis(SmoothNet(3, 6, timed=False), 2), schedule, tied_to="noise")
    result = ndm.bound(model, X)
    transform = model.process.transform.net.outer.weight
    for term in (result.prior, result.diffusion):
        (gradient,) = torch.autograd.grad(term.sum(), transform, retain_graph=True)
        assert gradient.abs().max() > 0
    result.total.sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize("tied_to", ["time", "noise"])
def test_gradients_are_those_of_finite_differences(tied_to):
    model = model_with(ndm.Network(SmoothNet(3, 3)), ndm.LearnedSchedule(-6.0, 4.0), tied_to=tied_to)
    for steps in (None, 4):
        loss = lambda: ndm.bound(model, X, steps=steps, generator=torch.Generator().manual_seed(1)).total.sum()  # noqa: E731, B023
        model.zero_grad()
        loss().backward()
        for p in (
            model.process.transform.net.outer.bias,
            model.predictor.net.outer.bias,
            model.process.schedule.centres,
        ):
            with torch.no_grad():
                p[0] += 1e-6
                high = loss()
                p[0] -= 2e-6
                low = loss()
                p[0] += 1e-6
            torch.testing.assert_close(p.grad[0], (high - low) / 2e-6, rtol=1e-5, atol=1e-6)


def test_bad_calls_are_refused():
    model = model_with(ndm.Identity(), ndm.StepwiseSchedule(-6.0, 4.0, steps=3))
    ndm.bound(model, X, steps=3)
    for steps, message in ((None, "steps=3"), (4, "steps=3"), (0, "at least 1")):
        with pytest.raises(ndm.InputError, match=message):
            ndm.bound(model, X, steps=steps)
    with pytest.raises(ndm.InputError, match="not finite"):
        ndm.bound(model, X / 0, steps=3)


def test_integers_take_the_dtype_of_the_model():
    torch.set_default_dtype(torch.float32)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-6.0, 4.0))
    model = ndm.NDM(process, ndm.Predictor(SmoothNet(3, 3)), ndm.CategoricalDecoder(5)).double()
    x = torch.randint(5, (2, 3))
    assert ndm.bound(model, x).total.dtype == torch.float64
    assert ndm.log_prob(model, x).dtype == torch.float64


def test_parameterless_networks_serve():
    class Zero(nn.Module):
        def forward(self, z, t):
            return torch.zeros_like(z)

    model = ndm.NDM(ndm.ForwardProcess(ndm.LinearSchedule(-6.0, 4.0)), ndm.Predictor(Zero()), ndm.GaussianDecoder())
    for dtype in (torch.float32, torch.float64):
        assert ndm.bound(model, X.to(dtype)).total.dtype == dtype


def test_reconstruction_is_averaged_over_the_noise_of_z_0(generator):
    """For a categorical decoder, n = 20,000 draws match 60 Gauss-Hermite nodes within 4 standard errors."""
    process = ndm.ForwardProcess(ndm.LinearSchedule(-1.0, 5.0))
    model = ndm.NDM(process, ndm.Predictor(SmoothNet(1, 1)), ndm.CategoricalDecoder(4))
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(60))
    x, level = torch.tensor([[1]]), process.schedule(torch.zeros(60))
    z_0 = level.alpha[:, None] * model.encode(x) + level.sigma[:, None] * nodes[:, None]
    exact = (weights / weights.sum()) @ model.decoder.nll(x.expand(60, 1), z_0, process)
    draws = ndm.bound(model, x.expand(20_000, 1), generator=generator).reconstruction.detach()
    assert draws.std() > 0
    assert abs(draws.mean() - exact) < 4 * draws.std() / 20_000**0.5


class HalfWeights(ndm.LowDiscrepancyTimes):
    """A sampler of times with weights of 1/2 that records the loss it observes."""

    def forward(self, x, generator=None, rank=0, count=1):
        t, weight = super().forward(x, generator)
        return t, weight / 2

    def observe(self, t, loss):
        self.told = loss


@pytest.mark.parametrize("steps", [None, 4])
def test_times_observe_the_loss_without_its_weight(steps, generator):
    process = ndm.ForwardProcess(ndm.LinearSchedule(-3.0, 3.0))
    model, times = ndm.NDM(process, ndm.Predictor(SmoothNet(2, 2)), ndm.GaussianDecoder()), HalfWeights()
    diffusion = ndm.bound(model, torch.randn(5, 2), steps, times, generator).diffusion
    torch.testing.assert_close(diffusion, times.told / 2)


@pytest.mark.parametrize("steps", [None, 4])
def test_parts_of_a_batch_have_together_the_draws_and_the_terms_of_the_whole(steps):
    """Two processes with two rows each draw together what one process draws for all four rows."""
    model, x = model_with(ndm.TimeBasis(SmoothNet(3, 6, timed=False), 2)), torch.randn(4, 3)
    encode, times = model.encode(x), ndm.LowDiscrepancyTimes()
    whole = draw(encode, times, torch.Generator().manual_seed(1))
    parts = [draw(encode[2 * rank : 2 * rank + 2], times, torch.Generator().manual_seed(1), rank, 2) for rank in (0, 1)]
    for one, two in zip(whole[:4], zip(*(part[:4] for part in parts), strict=True), strict=True):
        assert torch.equal(one, torch.cat(two))
    assert not torch.equal(parts[0].eps_t, parts[1].eps_t)
    together = bound_terms(model, x, encode, whole, steps)
    for rank, part in enumerate(parts):
        rows = slice(2 * rank, 2 * rank + 2)
        terms = bound_terms(model, x[rows], encode[rows], part, steps)
        torch.testing.assert_close(terms.diffusion, together.diffusion[rows])


@pytest.mark.parametrize("every", [1, 3, 4])
def test_some_rows_stand_for_the_prior_of_all_rows_on_any_number_of_processes(every):
    """With every = 4, the second process has no such row."""
    model, x = model_with(ndm.Network(SmoothNet(3, 3))), torch.randn(4, 3)

    def prior(rows, rank=0, count=1):
        encode = model.encode(x[rows])
        draws = draw(encode, ndm.LowDiscrepancyTimes(), torch.Generator().manual_seed(1), rank, count, every)
        return bound_terms(model, x[rows], encode, draws).prior

    exact = ndm.bound(model, x).prior.detach()
    chosen = torch.arange(4) % every == 0
    expected = torch.where(chosen, exact * 4 / chosen.sum(), 0.0)
    whole = prior(slice(None))
    torch.testing.assert_close(whole, expected)
    torch.testing.assert_close(torch.cat([prior(slice(2), 0, 2), prior(slice(2, 4), 1, 2)]), expected)
    grads = [
        torch.autograd.grad(value.mean(), list(model.process.parameters()))
        for value in (whole, expected_of(model, x, chosen))
    ]
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two)


def expected_of(model, x, chosen):
    """The mean prior of the chosen rows, for each row."""
    return ndm.bound(model, x).prior[chosen].mean().expand(len(x))


@pytest.mark.parametrize("steps", [None, 4])
@pytest.mark.parametrize("kind", ["identity", "time-basis", "target", "network"])
def test_the_loss_is_one_graph_for_torch_compile(kind, steps):
    """A break would leave most of it uncompiled, and would change no figure."""
    transform = ndm.Identity() if kind == "identity" else ndm.TimeBasis(SmoothNet(3, 6, timed=False), num_basis=2)
    transform = ndm.Network(SmoothNet(3, 3)) if kind == "network" else transform
    model = model_with(transform, target=kind == "target")
    x_model = model.encode(X)
    draws = draw(x_model, ndm.LowDiscrepancyTimes(), torch.Generator().manual_seed(0), prior_every=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch._dynamo.reset()
        found = torch._dynamo.explain(bound_terms)(model, X, x_model, draws, steps, None)
    assert found.graph_break_count == 0, [str(reason.reason) for reason in found.break_reasons]
