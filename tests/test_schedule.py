"""Schedules: finite differences, end points, and monotonicity with extreme parameters."""

import math

import pytest
import torch

import ndm
from ndm.objective import continuous_diffusion, discrete_diffusion

SCHEDULES = [
    ndm.LinearSchedule(-7.0, 5.0),
    ndm.CosineSchedule(-7.0, 5.0),
    ndm.LearnedSchedule(-7.0, 5.0),
    ndm.StepwiseSchedule(-7.0, 5.0, steps=7),
    ndm.OTSchedule(-7.0, 5.0),
    ndm.GeometricSchedule(-7.0, 5.0),
]


def perturbed(schedule):
    with torch.no_grad():
        for p in schedule.parameters():
            p.add_(2 * torch.randn_like(p))
    return schedule.double()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_derivatives_match_finite_differences(schedule):
    schedule = perturbed(schedule)
    t = torch.tensor([0.03, 0.2, 0.46, 0.77, 0.95])  # away from the knots of the stepwise one
    h = 1e-6
    low, level, high = schedule(t - h), schedule(t), schedule(t + h)
    for name in ("gamma", "alpha", "sigma"):
        numeric = (getattr(high, name) - getattr(low, name)) / (2 * h)
        torch.testing.assert_close(getattr(level, "d_" + name), numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_variance_preserving_with_pinned_end_points_and_increasing(schedule):
    schedule = perturbed(schedule)
    t = torch.linspace(0, 1, 1001)
    level = schedule(t)
    if not isinstance(schedule, (ndm.OTSchedule, ndm.GeometricSchedule)):
        torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones_like(t))
    torch.testing.assert_close(level.gamma, torch.log(level.sigma**2 / level.alpha**2))
    assert level.gamma[0].item() == pytest.approx(-7.0, abs=1e-12)
    assert level.gamma[-1].item() == pytest.approx(5.0, abs=1e-12)
    assert (level.gamma.diff() > 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES[2:4], ids=lambda s: type(s).__name__)
def test_learned_schedules_keep_their_ends_in_float32_after_training(schedule):
    schedule = schedule.float()
    optimizer = torch.optim.Adam(schedule.parameters(), lr=0.3)
    for _ in range(50):  # a loss that would pull the whole curve down to -100
        optimizer.zero_grad()
        ((schedule(torch.linspace(0, 1, 64, dtype=torch.float32)).gamma + 100) ** 2).mean().backward()
        optimizer.step()
    gamma = schedule(torch.linspace(0, 1, 101, dtype=torch.float32)).gamma
    assert (gamma.diff() > 0).all()
    assert gamma[0].item() == pytest.approx(-7.0, abs=1e-5)
    assert gamma[-1].item() == pytest.approx(5.0, abs=1e-5)


def test_cosine_keeps_both_ends_in_float32():
    schedule = ndm.CosineSchedule(-20.0, 34.0)
    t = torch.linspace(0, 1, 101)
    low, exact = schedule(t.float()), schedule(t)
    torch.testing.assert_close(low.gamma.double(), exact.gamma, rtol=0, atol=1e-4)
    torch.testing.assert_close(low.d_gamma.double(), exact.d_gamma, rtol=1e-4, atol=0)


def test_cosine_is_a_cosine():
    t = torch.linspace(0, 1, 11)
    # With the end points of alpha = cos(pi (0.05 + 0.9 t) / 2), which its angles then reproduce.
    ends = [2 * math.log(math.tan(math.pi / 2 * y)) for y in (0.05, 0.95)]
    alpha = ndm.CosineSchedule(*ends)(t).alpha
    torch.testing.assert_close(alpha, torch.cos(math.pi / 2 * (0.05 + 0.9 * t)))


def test_stepwise_refuses_other_numbers_of_steps():
    schedule = ndm.StepwiseSchedule(-7.0, 5.0, steps=7)
    schedule.check_steps(7)
    for steps in (8, None):
        with pytest.raises(ndm.InputError, match="belongs to steps=7"):
            schedule.check_steps(steps)


def test_reversed_end_points_are_refused():
    with pytest.raises(ndm.InputError, match="gamma_min must be below"):
        ndm.LinearSchedule(5.0, -7.0)


@pytest.mark.parametrize("kind", ["learned", "stepwise"])
def test_a_learned_end_starts_at_gamma_max_and_is_trained(kind):
    """The prior pulls it up where the data are large at t = 1, and the bound of two steps decides the rest."""
    cls, extra = (ndm.LearnedSchedule, {}) if kind == "learned" else (ndm.StepwiseSchedule, {"steps": 2})
    make = lambda **options: cls(-4.0, 1.0, **extra, **options)  # noqa: E731
    fixed, free = make(), make(learned_end=True)
    t = torch.tensor([0.0, 0.3, 1.0])
    for a, b in zip(fixed(t), free(t), strict=True):
        torch.testing.assert_close(a, b)
    assert sum(p.numel() for p in free.parameters()) == 1 + sum(p.numel() for p in fixed.parameters())
    with torch.no_grad():
        free.raw_end.fill_(math.log(2.0))
    torch.testing.assert_close(free(torch.tensor([0.0, 1.0])).gamma, torch.tensor([-4.0, 6.0]))
    h = 1e-3
    slope = (free(t[1:2] + h).gamma - free(t[1:2] - h).gamma) / (2 * h)
    torch.testing.assert_close(free(t[1:2]).d_gamma, slope, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        free.raw_end.zero_()
    model = ndm.NDM(ndm.ForwardProcess(free), ndm.Predictor(lambda z, t: 0 * z), ndm.GaussianDecoder())
    x = 5 * torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam([free.raw_end], lr=0.05)
    costs = []
    for _ in range(60):
        cost = ndm.bound(model, x, 2, generator=torch.Generator().manual_seed(0)).total.mean()
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
    assert costs[-1] < costs[0] - 0.1 and free.raw_end.item() != 0


def test_the_path_of_flow_matching_is_a_straight_line_from_noise_to_data():
    """Its velocity given x is d/dt ((1 - a t) x + (s + (1 - s) t) eps), and an Euler step of any length is exact."""
    schedule = ndm.OTSchedule(-10.0, 12.0)
    process = ndm.ForwardProcess(schedule)
    x, eps = torch.randn(5, 3), torch.randn(5, 3)
    q, t = process(x), torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    a, s = 1 - math.exp(-6.0), math.exp(-5.0)
    z = q.marginal(t).at(eps)
    torch.testing.assert_close(z, (1 - a * t)[:, None] * x + (s + (1 - s) * t)[:, None] * eps)
    torch.testing.assert_close(q.velocity(z, t), (1 - s) * eps - a * x)
    model = ndm.NDM(process, ndm.Predictor(lambda z, t: 0 * z + 1.5, "x"), ndm.GaussianDecoder(), shape=(3,))
    one, many = (
        ndm.sample(model, (4, 3), steps=n, solver="euler", mode=True, generator=torch.Generator().manual_seed(0))
        for n in (1, 40)
    )
    torch.testing.assert_close(one, many)


def test_the_bound_of_the_straight_path_is_that_of_its_signal_to_noise_ratio():
    """1/2 e^{-gamma} gamma' ||x - x_hat||^2, although it does not preserve the variance; and steps tend to it."""
    schedule = ndm.OTSchedule(-6.0, 8.0)
    model = ndm.NDM(ndm.ForwardProcess(schedule), ndm.Predictor(lambda z, t: 0.3 * z, "x"), ndm.GaussianDecoder())
    x, t = torch.randn(6, 2, dtype=torch.float64), torch.linspace(0.1, 0.9, 6)
    q = model.process(x)
    z = q.marginal(t).sample(torch.Generator().manual_seed(0))
    noise = schedule(t)
    expected = torch.exp(-noise.gamma) * noise.d_gamma * (x - 0.3 * z).square().sum(1) / 2
    torch.testing.assert_close(continuous_diffusion(model, q, z, t), expected)
    steps = 20_000
    near = steps * discrete_diffusion(model, q, z, t - 1 / steps, t)
    torch.testing.assert_close(near, expected, rtol=5e-3, atol=1e-4)
