"""Solvers: orders by regression against closed forms, adaptive error control, rows on their own."""

import math

import numpy as np
import pytest
import torch

import ndm
from ndm.solvers import ODE_SOLVERS, dopri5, euler_maruyama, stochastic_heun


def spiral(t, z):
    """A non-autonomous linear field with the closed form below."""
    rotation = torch.tensor([[-0.5, 2.0], [-2.0, -0.5]], dtype=z.dtype)
    return z @ rotation.T * (1 + torch.cos(3 * t))[:, None]


def spiral_solution(z, start, end):
    clock = (end - start) + (math.sin(3 * end) - math.sin(3 * start)) / 3
    rotation = torch.tensor([[-0.5, 2.0], [-2.0, -0.5]], dtype=z.dtype)
    return z @ torch.linalg.matrix_exp(rotation * clock).T


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_order_of_fixed_step_solvers(name, order, direction):
    z = torch.tensor([[1.0, 0.5], [-0.3, 2.0]])
    start, end = (0.2, 1.0) if direction == "up" else (1.0, 0.2)
    steps, errors = [20, 40, 80, 160], []
    for n in steps:
        grid = torch.linspace(start, end, n + 1)
        errors.append((ODE_SOLVERS[name](spiral, z, grid) - spiral_solution(z, start, end)).norm())
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(-order, abs=0.15)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_dopri5_error_follows_its_tolerance(tolerance, direction):
    z = torch.randn(8, 2)
    start, end = (0.0, 2.0) if direction == "up" else (2.0, 0.0)
    solution = dopri5(spiral, z, start, end, rtol=tolerance, atol=tolerance)
    error = (solution - spiral_solution(z, start, end)).abs().max()
    assert error < 20 * tolerance
    if tolerance == 1e-3:
        assert error > 1e-8  # it does adapt


def test_dopri5_is_of_order_five():
    """Evaluations needed grow as tolerance^(-1/5): from 1e-4 to 1e-9 by a factor of ten."""
    counts = []
    for tolerance in (1e-4, 1e-9):
        calls = []
        dopri5(lambda t, z: calls.append(1) or spiral(t, z), torch.ones(1, 2), 0.0, 8.0, tolerance, tolerance)  # noqa: B023
        counts.append(len(calls))
    assert 6 < counts[1] / counts[0] < 15


def test_dopri5_heeds_both_tolerances():
    def evaluations(rtol, atol):
        calls = []
        dopri5(lambda t, z: calls.append(1) or spiral(t, z), torch.ones(1, 2), 0.0, 8.0, rtol, atol)
        return len(calls)

    strict = evaluations(1e-12, 1e-12)
    assert evaluations(1e-4, 1e-12) < strict / 3
    assert evaluations(1e-12, 1e-4) < strict / 3


def test_rows_do_not_see_each_other():
    """A stiff neighbour changes nothing, in float64 to rounding."""

    def field(t, z):
        return -z * (1 + 99 * (z[:, 1:] > 5).to(z))

    row = torch.tensor([[1.0, 2.0]])
    alone = dopri5(field, row, 0.0, 1.0)
    together = dopri5(field, torch.cat([row, torch.tensor([[1.0, 1e4]])]), 0.0, 1.0)
    torch.testing.assert_close(together[:1], alone, rtol=1e-12, atol=0)


def test_dopri5_says_where_it_fails():
    with pytest.raises(ndm.InputError, match=r"not finite in row 1 near t = 0"):
        dopri5(lambda t, z: torch.where(z > 5, z / 0, z), torch.tensor([[1.0], [6.0]]), 0.0, 1.0)
    with pytest.raises(ndm.InputError, match="10 steps were not enough"):
        dopri5(lambda t, z: -1e4 * z, torch.ones(1, 1), 0.0, 1.0, max_steps=10)
    with pytest.raises(ndm.InputError, match="underflows|not finite"):
        dopri5(lambda t, z: z**2, torch.ones(1, 1), 0.0, 2.0)  # a pole at t = 1


def test_dopri5_keeps_the_shape_and_an_empty_interval_changes_nothing():
    z = torch.randn(2, 1, 3, 3)
    assert torch.equal(dopri5(lambda t, z: z, z, 0.5, 0.5), z)
    torch.testing.assert_close(dopri5(lambda t, z: z, z, 0.0, 1.0), z * math.e, rtol=1e-4, atol=1e-4)


def ou_variance(variance, span):
    """dz = -z dt + g(t) dw with g = 1 + t, z(0) of the given variance."""
    # int_0^s e^{-2(s - r)} (1 + r)^2 dr by high-order quadrature
    nodes, weights = np.polynomial.legendre.leggauss(50)
    r = span * (nodes + 1) / 2
    integral = (span / 2 * weights * np.exp(-2 * (span - r)) * (1 + r) ** 2).sum()
    return variance * math.exp(-2 * span) + integral


def propagated_variance(solver, steps, span=1.0, variance=2.0):
    """The exact variance after ``steps`` of a linear scheme: its one-step gain and noise, read off with known noise."""
    for i in range(steps):
        grid = torch.tensor([span * i / steps, span * (i + 1) / steps], dtype=torch.float64)
        ones, zeros = torch.ones(1, 1), torch.zeros(1, 1)
        state = torch.Generator().manual_seed(1)
        eps = torch.randn(1, 1, generator=torch.Generator().manual_seed(1))
        f, g = (lambda t, z: -z), (lambda t: 1 + t)
        noise = solver(f, g, zeros, grid, torch.Generator().manual_seed(1)) / eps
        gain = solver(f, g, ones, grid, state) - noise * eps
        variance = (gain**2 * variance + noise**2).item()
    return variance


@pytest.mark.parametrize(("solver", "order"), [(euler_maruyama, 1), (stochastic_heun, 2)])
def test_weak_order_of_sde_solvers(solver, order):
    """The variance of a linear SDE with a time-dependent noise rate, without Monte-Carlo error."""
    steps = [10, 20, 40, 80]
    exact = ou_variance(2.0, 1.0)
    errors = [abs(propagated_variance(solver, n) - exact) for n in steps]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(-order, abs=0.15)


def test_stochastic_heun_without_noise_is_of_order_two_for_a_drift_that_depends_on_time():
    z, steps = torch.tensor([[1.0, 0.5]]), [20, 40, 80, 160]
    grids = [torch.linspace(0.2, 1.0, n + 1) for n in steps]
    errors = [(stochastic_heun(spiral, torch.zeros_like, z, g) - spiral_solution(z, 0.2, 1.0)).norm() for g in grids]
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(-2, abs=0.15)


@pytest.mark.parametrize("solver", [euler_maruyama, stochastic_heun])
def test_sde_solvers_run_backwards_from_a_non_unit_variance(solver, generator):
    """n = 100,000 rows from variance 2, time running 1 -> 0: the reversed clock r = 1 - t has drift +z, noise 2 - r."""
    n = 100_000
    z = 2**0.5 * torch.randn(n, 1, generator=generator)
    z = solver(lambda t, z: z, lambda t: 1 + (1 - t), z, torch.linspace(1.0, 0.0, 201), generator)
    expected = ou_variance(2.0, 1.0)
    tolerance = 4 * expected * (2 / n) ** 0.5 + (0.02 * expected if solver is euler_maruyama else 0)
    assert abs(z.var() - expected) < tolerance
