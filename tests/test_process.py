"""The process given x: marginals, posteriors, velocity, score and reverse drift against their definitions."""

import pytest
import torch

import ndm

from conftest import SmoothNet

CASES = [(tied_to, eta) for tied_to in ("time", "noise") for eta in (1.0, 0.4)]


def make(tied_to: str = "time", eta: float = 1.0) -> ndm.ForwardProcess:
    """A process without special cases: gamma' is not constant, and F is non-linear in x and in t."""
    torch.manual_seed(0)
    return ndm.ForwardProcess(ndm.CosineSchedule(-6.0, 4.0), ndm.Network(SmoothNet(3, 3)), eta, tied_to)


X = torch.tensor([[0.3, -1.2, 0.7], [1.5, 0.2, -0.4]], dtype=torch.float64)
S = torch.tensor([0.2, 0.5], dtype=torch.float64)
T = torch.tensor([0.35, 0.9], dtype=torch.float64)


@pytest.mark.parametrize(("tied_to", "eta"), CASES)
def test_marginal_is_alpha_f_and_sigma(tied_to, eta):
    process = make(tied_to, eta)
    gamma = process.schedule(T).gamma
    tau = T if tied_to == "time" else torch.sigmoid(gamma) - torch.sigmoid(torch.tensor(-6.0))
    f = (1 - tau[:, None]) * X + tau[:, None] * process.transform.net(X, tau)
    g = process(X).marginal(T)
    torch.testing.assert_close(g.mean, torch.sigmoid(-gamma)[:, None] ** 0.5 * f)
    torch.testing.assert_close(g.std.expand(2, 3), torch.sigmoid(gamma)[:, None].expand(2, 3) ** 0.5)


@pytest.mark.parametrize(("tied_to", "eta"), CASES)
def test_posterior_marginalises_to_the_marginal(tied_to, eta):
    """If z_t ~ q(z_t|x) and z_s ~ q(z_s|z_t, x), then z_s ~ q(z_s|x).

    Both sides are Gaussian, so it is enough to compare mean and variance.
    """
    q = make(tied_to, eta)(X)
    at_s, at_t = q.marginal(S), q.marginal(T)
    step = q.posterior(at_t.mean, S, T)
    torch.testing.assert_close(step.mean, at_s.mean)
    kappa = q.posterior(at_t.mean + 1, S, T).mean - step.mean
    torch.testing.assert_close(kappa**2 * at_t.std**2 + step.std**2, (at_s.std**2).expand(2, 3))


def test_posterior_is_ddpms_for_the_identity():
    """This is Bayes' rule with q(z_t|z_s) = N(alpha_t/alpha_s z_s, sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2)."""
    schedule = ndm.CosineSchedule(-6.0, 4.0)
    a, b = schedule(S), schedule(T)
    ratio = b.alpha / a.alpha
    noise = b.sigma**2 - ratio**2 * a.sigma**2
    precision = 1 / a.sigma**2 + ratio**2 / noise
    z_t = torch.randn(2, 3)
    mean = (a.alpha / a.sigma**2)[:, None] * X + (ratio / noise)[:, None] * z_t
    g = ndm.ForwardProcess(schedule)(X).posterior(z_t, S, T)
    torch.testing.assert_close(g.mean, mean / precision[:, None])
    torch.testing.assert_close(g.std.expand(2, 3) ** 2, (1 / precision)[:, None].expand(2, 3))


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_posterior_with_a_variance_marginalises_an_uncertain_x(eta):
    process = ndm.ForwardProcess(ndm.CosineSchedule(-6.0, 4.0))
    z_t, variance = torch.randn(2, 3), torch.rand(2, 3)
    certain, uncertain = (process(X, v, eta).posterior(z_t, S, T) for v in (None, variance))
    weight = process(X + 1, eta=eta).posterior(z_t, S, T).mean - certain.mean
    torch.testing.assert_close(uncertain.mean, certain.mean)
    torch.testing.assert_close(uncertain.std**2, certain.std**2 + weight**2 * variance)


def test_posterior_at_eta_zero_follows_the_deterministic_path():
    q = make()(X, eta=0.0)
    eps = torch.randn(2, 3)
    at_s, at_t = q.marginal(S), q.marginal(T)
    step = q.posterior(at_t.mean + at_t.std * eps, S, T)
    torch.testing.assert_close(step.mean, at_s.mean + at_s.std * eps)
    assert (step.std == 0).all()


def test_posterior_survives_large_gaps_and_many_steps_in_float32():
    process = ndm.ForwardProcess(ndm.LinearSchedule(-20.0, 20.0))
    x = X.float()
    for s, t in ((0.0, 1.0), (0.5, 0.5 + 1e-4)):
        s32, t32 = torch.full((2,), s, dtype=torch.float32), torch.full((2,), t, dtype=torch.float32)
        std = process(x).posterior(x, s32, t32).std
        exact = process(X).posterior(X, s32.double(), t32.double()).std
        assert (std > 0).all()
        torch.testing.assert_close(std.double(), exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize(("tied_to", "eta"), CASES)
def test_velocity_is_the_time_derivative_of_a_path(tied_to, eta):
    q = make(tied_to, eta)(X)
    eps, h = torch.randn(2, 3), 1e-6

    def path(t):
        g = q.marginal(t)
        return g.mean + g.std * eps

    numeric = (path(T + h) - path(T - h)) / (2 * h)
    torch.testing.assert_close(q.velocity(path(T), T), numeric, rtol=1e-6, atol=1e-7)


def test_eta_of_a_call_overrides_the_process():
    """eta may be one number, or one number per row."""
    own, other = make(eta=0.4), make(eta=1.0)
    z = torch.randn(2, 3)
    for eta in (0.4, torch.tensor([0.4, 0.4])):
        torch.testing.assert_close(other(X, eta=eta).reverse_drift(z, T), own(X).reverse_drift(z, T))
        torch.testing.assert_close(other(X, eta=eta).noise_rate(T), own.noise_rate(T))
        for field in ("mean", "std"):
            changed, expected = other(X, eta=eta).posterior(z, S, T), own(X).posterior(z, S, T)
            torch.testing.assert_close(getattr(changed, field), getattr(expected, field))


def test_score_is_the_gradient_of_the_log_density():
    q = make()(X)
    z = torch.randn(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(q.marginal(T).log_prob(z).sum(), z)
    torch.testing.assert_close(q.score(z, T), gradient)


@pytest.mark.parametrize(("tied_to", "eta"), CASES)
def test_reverse_drift_and_noise_rate_are_the_limit_of_the_posterior(tied_to, eta):
    process = make(tied_to, eta)
    q = process(X)
    z, h = torch.randn(2, 3), 1e-7
    step = q.posterior(z, T - h, T)
    torch.testing.assert_close(q.reverse_drift(z, T), (z - step.mean) / h, rtol=1e-5, atol=1e-5)
    g = process.noise_rate(T)[:, None].expand(2, 3)
    torch.testing.assert_close(g**2, (step.std**2 / h).expand(2, 3), rtol=1e-5, atol=1e-6)


def test_a_curve_given_directly_is_followed_without_a_transform():
    process = make()
    curve = process.transform(X)
    z = torch.randn(2, 3)
    torch.testing.assert_close(process.along(curve).velocity(z, T), process(X).velocity(z, T))


def test_everything_follows_the_dtype_of_x_and_the_model_can_be_float32():
    process = ndm.ForwardProcess(ndm.LearnedSchedule(-6.0, 4.0).float(), ndm.Linear(3).float())
    for dtype in (torch.float32, torch.float64):
        q, z, t = process(X.to(dtype)), X.to(dtype), T.to(dtype)
        outputs = [q.velocity(z, t), q.score(z, t), q.reverse_drift(z, t), q.posterior(z, t / 2, t).mean]
        assert all(out.dtype == dtype for out in outputs)


@pytest.mark.parametrize("bad", [T[:, None], T[:1], T[0]])
def test_times_of_a_wrong_shape_are_refused(bad):
    q = make()(X)
    for call in (
        q.marginal,
        lambda t: q.velocity(X, t),
        lambda t: q.score(X, t),
        lambda t: q.reverse_drift(X, t),
        lambda t: q.posterior(X, S, t),
        lambda t: q.posterior(X, t, T),
    ):
        with pytest.raises(ndm.InputError, match=r"must have shape \(2,\)"):
            call(bad)


def test_what_is_kept_at_a_time_has_gradients_where_they_are_asked_for():
    """The same tensor of times first without gradients, then with them; and another tensor gives another result."""
    process = ndm.ForwardProcess(ndm.LearnedSchedule(-5.0, 5.0), ndm.Network(SmoothNet(3, 3))).double()
    q, t = process(torch.randn(2, 3, dtype=torch.float64)).keeping(), torch.tensor([0.3, 0.6], dtype=torch.float64)
    with torch.no_grad():
        first = q.affine_with_derivative(t)[0]
    again = q.marginal(t).mean
    torch.testing.assert_close(first, again)
    again.sum().backward()
    assert all(p.grad is not None for p in process.transform.parameters())
    assert not torch.equal(q.marginal(t + 0.1).mean, again)
    t.add_(0.1)
    assert not torch.equal(q.marginal(t).mean, again)


def test_a_process_keeps_nothing_of_f_unless_it_is_told_to():
    """Parameters that change are seen, and there may be several backward passes."""
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0), ndm.Network(SmoothNet(3, 3))).double()
    q, t = process(X), T.clone()
    before = q.marginal(t).mean
    for _ in range(2):
        q.marginal(t).mean.sum().backward()
    with torch.no_grad():
        for parameter in process.transform.parameters():
            parameter.add_(0.1)
        assert not torch.equal(q.marginal(t).mean, before)
