"""Schedules: finite differences, end points, and monotonicity with extreme parameters."""

import math

import pytest
import torch

import ndm

SCHEDULES = [
    ndm.LinearSchedule(-7.0, 5.0),
    ndm.CosineSchedule(-7.0, 5.0),
    ndm.LearnedSchedule(-7.0, 5.0),
    ndm.StepwiseSchedule(-7.0, 5.0, steps=7),
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
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones_like(t))
    torch.testing.assert_close(level.gamma, torch.log(level.sigma**2 / level.alpha**2))
    assert level.gamma[0].item() == pytest.approx(-7.0, abs=1e-12)
    assert level.gamma[-1].item() == pytest.approx(5.0, abs=1e-12)
    assert (level.gamma.diff() > 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES[2:], ids=lambda s: type(s).__name__)
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
