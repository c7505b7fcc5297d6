"""Solvers: their orders by regression against closed forms, adaptive error control, and independent rows."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import ndm
from ndm.evaluation import Protocol
from ndm.solvers import (
    ODE_SOLVERS,
    Failures,
    Method,
    Solution,
    Solver,
    SolverError,
    dopri5,
    euler_maruyama,
    grid_steps,
    ode_on_grid,
    sde_on_grid,
    solve_ode,
    solve_sde,
    stochastic_heun,
)

from oracle import LinearGaussian


def within(rtol, atol):
    """dopri5 with these tolerances."""
    return Solver("dopri5", rtol=rtol, atol=atol)


def spiral(t, z):
    """A non-autonomous linear field whose closed-form solution is below."""
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
        state, _, nfe, _, failures = solve_ode(spiral, z, start, end, Solver(name, steps=n))
        assert nfe.tolist() == [n * {"euler": 1, "heun": 2, "rk4": 4}[name]] * 2
        assert not failures and failures.total == 2
        errors.append((state - spiral_solution(z, start, end)).norm())
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(-order, abs=0.15)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_dopri5_error_follows_its_tolerance(tolerance, direction):
    z = torch.randn(8, 2)
    start, end = (0.0, 2.0) if direction == "up" else (2.0, 0.0)
    solution = dopri5(spiral, z, start, end, within(tolerance, tolerance)).state
    error = (solution - spiral_solution(z, start, end)).abs().max()
    assert error < 20 * tolerance
    if tolerance == 1e-3:
        assert error > 1e-8  # it does adapt


def test_dopri5_is_of_order_five():
    """The number of evaluations grows as tolerance^(-1/5): from 1e-4 to 1e-9 by a factor of ten."""
    counts = []
    for tolerance in (1e-4, 1e-9):
        calls = []
        dopri5(lambda t, z: calls.append(1) or spiral(t, z), torch.ones(1, 2), 0.0, 8.0, within(tolerance, tolerance))  # noqa: B023
        counts.append(len(calls))
    assert 6 < counts[1] / counts[0] < 15


def test_autocast_does_not_touch_the_steps():
    """The field may use lower precision, but the solver's sums over stages keep theirs."""
    z = torch.randn(4, 2, dtype=torch.float32)
    alone = dopri5(spiral_by_hand, z, 0.0, 2.0, within(1e-5, 1e-5))
    with torch.autocast("cpu", torch.bfloat16):
        under = dopri5(spiral_by_hand, z, 0.0, 2.0, within(1e-5, 1e-5))
    assert torch.equal(alone.state, under.state)
    assert torch.equal(alone.nfe, under.nfe)


def spiral_by_hand(t, z):
    """The field of :func:`spiral` without a matrix product."""
    x, y = z.unbind(1)
    return torch.stack([-0.5 * x + 2 * y, -2 * x - 0.5 * y], 1) * (1 + torch.cos(3 * t))[:, None]


@pytest.mark.parametrize("direction", ["up", "down"])
def test_torchdiffeq_takes_the_steps_it_is_told(direction):
    pytest.importorskip("torchdiffeq")
    start, end = (0.0, 1.0) if direction == "up" else (1.0, 0.0)
    for dtype in (torch.float32, torch.float64):
        for steps in (49, 61, 98, 109):
            solver = Solver("torchdiffeq:euler", steps)
            solution = solve_ode(spiral, torch.ones(1, 2, dtype=dtype), start, end, solver)
            assert solution.nfe.tolist() == [steps]


def test_dopri5_heeds_both_tolerances():
    def evaluations(rtol, atol):
        calls = []
        dopri5(lambda t, z: calls.append(1) or spiral(t, z), torch.ones(1, 2), 0.0, 8.0, within(rtol, atol))
        return len(calls)

    strict = evaluations(1e-12, 1e-12)
    assert evaluations(1e-4, 1e-12) < strict / 3
    assert evaluations(1e-12, 1e-4) < strict / 3


def stiff_if_large(t, z):
    """A field in which rows above 5 decay a hundred times faster."""
    return -z * (1 + 99 * (z[:, 1:] > 5).to(z))


def test_rows_do_not_see_each_other_and_leave_when_they_arrive():
    """In float64, a stiff neighbour changes a row only by rounding.

    A finished row costs no more evaluations.
    """
    row = torch.tensor([[1.0, 2.0]])
    alone = dopri5(stiff_if_large, row, 0.0, 1.0)
    seen = []
    field = lambda t, z: seen.append(len(z)) or stiff_if_large(t, z)  # noqa: E731
    together = dopri5(field, torch.cat([torch.tensor([[1.0, 1e4]]), row]), 0.0, 1.0)
    torch.testing.assert_close(together.state[1:], alone.state, rtol=1e-12, atol=0)
    assert together.nfe[1] == alone.nfe[0] < together.nfe[0]
    assert sum(seen) == together.nfe.sum()


def test_arguments_follow_their_rows():
    """Each row decays at its own rate, so the rows leave at different times.

    The state z exp(-rate) and the integral of z have closed forms.
    """
    rate = torch.tensor([0.1, 30.0, 3.0, 200.0])
    field = lambda t, z, rate: -rate[:, None] * z  # noqa: E731
    quadrature = lambda t, z, rate: (field(t, z, rate), z.sum(1))  # noqa: E731
    z = torch.ones(4, 2)
    solution = dopri5(field, z, 0.0, 1.0, within(1e-9, 1e-9), args=(rate,), quadrature=quadrature)
    torch.testing.assert_close(solution.state, torch.exp(-rate)[:, None].expand(4, 2), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(solution.integral, 2 * (1 - torch.exp(-rate)) / rate, rtol=1e-7, atol=0)
    assert len(set(solution.nfe.tolist())) == 4


AT_REST = [[1.0, 0.5], [0.0, 0.0]]
"""A state that moves on a spiral and one that does not move, where the integrand alone determines the steps."""


def wavy(t, z):
    return (z**2).sum(1) * torch.cos(5 * t) + torch.exp(torch.sin(20 * t))


@cache
def wavy_integrals(start, end):
    """The integrals of ``wavy`` along both paths by scipy's DOP853 at 1e-12."""

    def rates(t, state):
        t, z = torch.tensor([t]), torch.tensor(state[None, :2])
        return [*spiral(t, z)[0].tolist(), wavy(t, z).item()]

    ends = [solve_ivp(rates, (start, end), [*row, 0.0], "DOP853", rtol=1e-12, atol=1e-12).y for row in AT_REST]
    return [y[2, -1] for y in ends]


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
@pytest.mark.parametrize("ends", [(0.0, 2.0), (2.0, 0.0)], ids=["up", "down"])
def test_the_integral_along_the_path_follows_its_tolerance(tolerance, ends):
    quadrature = lambda t, z: (spiral(t, z), wavy(t, z))  # noqa: E731
    z = torch.tensor(AT_REST)
    solution = dopri5(spiral, z, *ends, within(tolerance, tolerance), quadrature=quadrature)
    truth = torch.tensor(wavy_integrals(*ends))
    assert (solution.integral - truth).abs().max() < 30 * tolerance
    assert solution.quadrature_nfe[1] > 20


@pytest.mark.parametrize("ends", [(0.0, 2.0), (2.0, 0.0)], ids=["up", "down"])
def test_the_integral_along_the_path_is_one_more_state_of_other_solvers(ends):
    quadrature = lambda t, z: (spiral(t, z), wavy(t, z))  # noqa: E731
    z = torch.tensor(AT_REST)
    solution = solve_ode(spiral, z, *ends, Solver("rk4", 800), quadrature=quadrature)
    torch.testing.assert_close(solution.integral, torch.tensor(wavy_integrals(*ends)), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(solution.state, spiral_solution(z, *ends), rtol=1e-7, atol=1e-7)


def test_a_step_that_fails_its_test_is_not_taken():
    """The field is zero until t = 0.5, so the step has grown when a pulse of width 0.002 comes.

    The integral of f is 1.
    """
    pulse = lambda t, z: torch.exp(-((t[:, None] - 0.5) ** 2) / 2 / 0.002**2) / 0.002 / (2 * math.pi) ** 0.5 + 0 * z  # noqa: E731
    ramp = lambda t, z: pulse(t, z) + torch.exp(-8 * (t[:, None] - 0.5) ** 2)  # noqa: E731
    z = torch.zeros(1, 1)
    solution = dopri5(ramp, z, 0.0, 1.0, within(1e-7, 1e-7))
    expected = 1 + math.erf(0.5 * 8**0.5) * math.sqrt(math.pi / 8)
    assert solution.state.item() == pytest.approx(expected, abs=2e-6)


def test_dopri5_is_differentiable():
    """The gradients of the end and of the integral with respect to the start match finite differences."""

    def ends(z):
        quadrature = lambda t, z: (torch.sin(z), (z**3).sum(1))  # noqa: E731
        solution = dopri5(lambda t, z: torch.sin(z), z, 0.0, 1.0, within(1e-10, 1e-10), quadrature=quadrature)
        return solution.state.sum() + solution.integral.sum()

    z = torch.tensor([[0.3, -1.2], [2.0, 5.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(ends(z), z)
    step = 1e-5 * torch.eye(4).view(4, 2, 2)
    with torch.no_grad():
        finite = torch.stack([(ends(z + s) - ends(z - s)) / 2e-5 for s in step]).view(2, 2)
    torch.testing.assert_close(gradient, finite, rtol=1e-6, atol=1e-6)


def test_dopri5_says_where_it_fails_and_finishes_the_other_rows():
    def field(t, z):
        return torch.where((z > 5) & (t[:, None] > 0.25), math.nan, -z)

    z = torch.tensor([[1.0], [20.0], [2.0]])
    solution = dopri5(field, z, 0.0, 1.0)
    failures = solution.failures
    assert failures and failures.solver == "dopri5" and failures.total == 3
    assert failures.rows.tolist() == [1] and failures.times.item() == pytest.approx(0.25, abs=1e-6)
    assert failures.reasons == ("the field is not finite",)
    torch.testing.assert_close(solution.state[[0, 2]], z[[0, 2]] * math.exp(-1), rtol=1e-4, atol=0)
    torch.testing.assert_close(solution.state[1], z[1] * math.exp(-0.25), rtol=1e-4, atol=0)
    with pytest.raises(
        SolverError, match=r"dopri5 stopped in 1 of 3 rows \(row 1 near t = 0.25: .*not finite"
    ) as failure:
        solution.checked()
    assert failure.value.failures is failures and failure.value.result is solution
    assert dopri5(lambda t, z: z / 0, z, 0.0, 1.0).failures.reasons == ("the field is not finite",) * 3
    solution = dopri5(lambda t, z: -1e4 * z, torch.ones(1, 1), 0.0, 1.0, max_nfe=60)
    assert "budget of evaluations" in solution.failures.reasons[0]
    assert solution.nfe.item() <= 60
    solution = dopri5(lambda t, z: z**2, torch.ones(1, 1), 0.0, 2.0)  # a pole at t = 1
    assert "underflows" in solution.failures.reasons[0] or "not finite" in solution.failures.reasons[0]
    assert solution.failures.times.item() == pytest.approx(1.0, abs=1e-3)
    solution = dopri5(field, z[:1], 0.0, 1.0)
    assert not solution.failures and solution.checked() is solution


def test_a_field_that_is_nan_at_any_tolerance_is_not_blamed_on_the_tolerance():
    z = torch.ones(2, 1)
    for name, advice in (("dopri5", "tolerances do not change that: look at the weights"), ("rk4", "or use dopri5")):
        solution = solve_ode(lambda t, z: z * math.nan, z, 0.0, 1.0, name)
        with pytest.raises(SolverError, match=f"not finite.*; .*{advice}") as caught:
            solution.checked()
        assert "loosen" not in str(caught.value)
    late = dopri5(lambda t, z: -1e4 * z, torch.ones(1, 1), 0.0, 1.0, max_nfe=60)
    with pytest.raises(SolverError, match="budget.*; loosen rtol and atol"):
        late.checked()


def test_dopri5_keeps_the_shape_and_an_empty_interval_changes_nothing():
    z = torch.randn(2, 1, 3, 3)
    assert torch.equal(dopri5(lambda t, z: z, z, 0.5, 0.5).state, z)
    assert dopri5(lambda t, z: z, z[:0], 0.0, 1.0).state.shape == (0, 1, 3, 3)
    torch.testing.assert_close(dopri5(lambda t, z: z, z, 0.0, 1.0).state, z * math.e, rtol=1e-4, atol=1e-4)


EXTERNAL = ["scipy:RK45", "scipy:DOP853", "torchdiffeq:dopri5", "torchdiffeq:dopri8", "torchdiffeq:rk4"]


@pytest.mark.parametrize("name", EXTERNAL)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_other_libraries_by_name(name, direction):
    pytest.importorskip(name.partition(":")[0])
    z, rate = torch.randn(4, 1, 2), torch.tensor([1.0, 2.0, 0.5, -1.0])
    start, end = (0.0, 1.0) if direction == "up" else (1.0, 0.0)
    quadrature = lambda t, z, rate: (rate[:, None, None] * z, t * rate)  # noqa: E731
    field, solver = (lambda t, z, rate: rate[:, None, None] * z), Solver(name, 100, 1e-8, 1e-8)
    solution = solve_ode(field, z, start, end, solver, (rate,), quadrature)
    growth = torch.exp(rate * (end - start))
    torch.testing.assert_close(solution.state, z * growth[:, None, None], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(solution.integral, rate * (end**2 - start**2) / 2, rtol=1e-6, atol=1e-6)
    assert (solution.nfe > 5).all()


@pytest.mark.parametrize("name", ["scipy:RK45", "torchdiffeq:dopri5"])
def test_other_libraries_fail_with_where_they_came(name):
    pytest.importorskip(name.partition(":")[0])
    field = lambda t, z: torch.where(t[:, None] > 0.5, math.nan, z)  # noqa: E731
    for quadrature in (None, lambda t, z: (field(t, z), z.sum(1))):
        solution = solve_ode(field, torch.ones(2, 1), 0.0, 1.0, name, (), quadrature)
        assert (solution.failures.times >= 0.5).all() and solution.state.shape == (2, 1)
        with pytest.raises(SolverError, match=f"{name} stopped in 2 of 2 rows"):
            solution.checked()


def test_unknown_solvers_are_refused_and_missing_libraries_named(monkeypatch):
    z = torch.ones(1, 1)
    with pytest.raises(ndm.InputError, match=r"unknown solver 'rk45'; did you mean 'rk4'\? choose one of euler"):
        solve_ode(lambda t, z: z, z, 0.0, 1.0, "rk45")
    with pytest.raises(ndm.InputError, match="unknown solver 'milstein'; choose one of euler_maruyama"):
        solve_sde(lambda t, z: z, lambda t: t, z, 0.0, 1.0, "milstein")
    monkeypatch.setitem(__import__("sys").modules, "torchdiffeq", None)
    with pytest.raises(ndm.InputError, match=r"needs torchdiffeq: pip install 'ndm\[solvers\]'"):
        solve_ode(lambda t, z: z, z, 0.0, 1.0, "torchdiffeq:rk4")


def ou_variance(variance, span):
    """The variance of dz = -z dt + g(t) dw with g = 1 + t, for z(0) with the given variance."""
    # int_0^s e^{-2(s - r)} (1 + r)^2 dr by high-order quadrature
    nodes, weights = np.polynomial.legendre.leggauss(50)
    r = span * (nodes + 1) / 2
    integral = (span / 2 * weights * np.exp(-2 * (span - r)) * (1 + r) ** 2).sum()
    return variance * math.exp(-2 * span) + integral


def propagated_variance(solver, steps, span=1.0, variance=2.0):
    """The exact variance after ``steps`` of a linear scheme, from the gain and the noise of each step."""
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
    """The variance of a linear SDE with a time-dependent noise rate is computed without Monte-Carlo error."""
    steps = [10, 20, 40, 80]
    exact = ou_variance(2.0, 1.0)
    errors = [abs(propagated_variance(solver, n) - exact) for n in steps]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(-order, abs=0.15)


def strong_error(solver, steps, span=1.0):
    """Root mean square of scheme minus exact solution on the same Brownian path.

    The SDE is dz = -z dt + (1 + t) dw with z(0) = 0. Both are linear, so the second moment of the error follows a
    recursion without Monte-Carlo error. In one step the exact solution multiplies by e^-h and adds I = int e^-(h-r)
    (1+t+r) dw. The scheme multiplies by its gain and adds b xi with xi = dW / sqrt(h). E[xi I] and E[I^2] are
    integrals.
    """
    nodes, weights = np.polynomial.legendre.leggauss(20)
    error = cross = exact = 0.0  # E[e^2], E[e Z], E[Z^2]
    h = span / steps
    for i in range(steps):
        grid = torch.tensor([i * h, (i + 1) * h], dtype=torch.float64)
        eps = torch.randn(1, 1, generator=torch.Generator().manual_seed(1)).item()
        f, g = (lambda t, z: -z), (lambda t: 1 + t)
        run = lambda z: solver(f, g, torch.full((1, 1), z), grid, torch.Generator().manual_seed(1)).item()  # noqa: B023, E731
        b = run(0.0) / eps
        a, decay = run(1.0) - run(0.0), math.exp(-h)
        r = h * (nodes + 1) / 2
        kernel = np.exp(-(h - r)) * (1 + i * h + r)
        with_xi, variance = (h / 2 * weights * kernel).sum() / h**0.5, (h / 2 * weights * kernel**2).sum()
        d, noise = a - decay, b**2 - 2 * b * with_xi + variance
        error, cross, exact = (
            a**2 * error + 2 * a * d * cross + d**2 * exact + noise,
            decay * (a * cross + d * exact) + b * with_xi - variance,
            decay**2 * exact + variance,
        )
    return error**0.5


@pytest.mark.parametrize("solver", [euler_maruyama, stochastic_heun])
def test_strong_order_of_sde_solvers_is_one(solver):
    steps = [10, 20, 40, 80]
    slope = np.polyfit(np.log(steps), np.log([strong_error(solver, n) for n in steps]), 1)[0]
    assert slope == pytest.approx(-1, abs=0.1)


@pytest.mark.parametrize("name", ["torchsde:euler", "torchsde:srk", "torchsde:heun"])
def test_torchsde_by_name_runs_backwards_and_follows_its_seed(name):
    """n = 20,000 rows start with variance 2, and time runs from 1 to 0.

    The tolerance is 4.5 standard errors, plus Euler's bias of order h.
    """
    pytest.importorskip("torchsde")
    n = 20_000
    z = 2**0.5 * torch.randn(n, 1, generator=torch.Generator().manual_seed(0))
    f, g = (lambda t, z: z), (lambda t: 2 - t)
    draw = lambda seed: solve_sde(f, g, z, 1.0, 0.0, Solver(name, 40), torch.Generator().manual_seed(seed))  # noqa: E731
    expected = ou_variance(2.0, 1.0)
    bias = 0.04 * expected if name == "torchsde:euler" else 0
    assert abs(draw(0).var() - expected) < 4.5 * expected * (2 / n) ** 0.5 + bias
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


def test_torchsde_takes_noise_of_each_channel_and_of_each_element():
    pytest.importorskip("torchsde")
    z = torch.randn(3, 2, 4, 4)
    shapes = (lambda t: t.view(-1, 1, 1, 1) * torch.ones(2, 4, 4), lambda t: t[:, None] * torch.ones(2), lambda t: t)
    found = [
        solve_sde(lambda t, z: -z, g, z, 1.0, 0.0, Solver("torchsde:euler", 5), torch.Generator().manual_seed(0))
        for g in shapes
    ]
    assert found[0].shape == z.shape
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_stochastic_heun_without_noise_is_of_order_two_for_a_drift_that_depends_on_time():
    z, steps = torch.tensor([[1.0, 0.5]]), [20, 40, 80, 160]
    grids = [torch.linspace(0.2, 1.0, n + 1) for n in steps]
    errors = [(stochastic_heun(spiral, torch.zeros_like, z, g) - spiral_solution(z, 0.2, 1.0)).norm() for g in grids]
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(-2, abs=0.15)


@pytest.mark.parametrize("solver", [euler_maruyama, stochastic_heun])
def test_sde_solvers_run_backwards_from_a_non_unit_variance(solver, generator):
    """n = 100,000 rows start with variance 2, and time runs from 1 to 0.

    In the reversed clock r = 1 - t, the drift is +z and the noise is 2 - r.
    """
    n = 100_000
    z = 2**0.5 * torch.randn(n, 1, generator=generator)
    z = solver(lambda t, z: z, lambda t: 1 + (1 - t), z, torch.linspace(1.0, 0.0, 201), generator)
    expected = ou_variance(2.0, 1.0)
    tolerance = 4 * expected * (2 / n) ** 0.5 + (0.02 * expected if solver is euler_maruyama else 0)
    assert abs(z.var() - expected) < tolerance


@pytest.mark.parametrize("solver", ["dopri5", "scipy:RK45", "torchdiffeq:dopri5"])
@pytest.mark.parametrize("quadrature", [None, lambda t, z: (-5 * z, 0 * z.sum(1))])
def test_tolerances_are_not_taken_for_each_other(solver, quadrature):
    """For states of 1e4, a loose rtol saves evaluations and a loose atol does not."""
    pytest.importorskip(solver.partition(":")[0].replace("dopri5", "torch"))
    z = torch.full((1, 2), 1e4)
    field = lambda t, z: -5 * z  # noqa: E731
    nfe = lambda r, a: solve_ode(field, z, 0.0, 1.0, Solver(solver, 50, r, a), (), quadrature).nfe.item()  # noqa: E731
    assert 2 * nfe(1e-3, 1e-9) < nfe(1e-9, 1e-3)


def test_a_budget_spent_on_arrival_is_no_failure():
    field = lambda t, z: -5 * z  # noqa: E731
    n = dopri5(field, torch.ones(1, 1), 0.0, 1.0).nfe.item()
    enough = dopri5(field, torch.ones(1, 1), 0.0, 1.0, max_nfe=n)
    assert enough.nfe.item() == n and not enough.failures
    with pytest.raises(SolverError, match="budget"):
        dopri5(field, torch.ones(1, 1), 0.0, 1.0, max_nfe=n - 1).checked()


@pytest.fixture
def panels(monkeypatch):
    """Panels of two steps in any dimension, as otherwise in more than 4."""
    monkeypatch.setattr("ndm.solvers.quadrature.FEW_DIMENSIONS", 0)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
@pytest.mark.parametrize("ends", [(0.0, 2.0), (2.0, 0.0)], ids=["up", "down"])
@pytest.mark.usefixtures("panels")
def test_the_integral_over_panels_follows_its_tolerance(tolerance, ends):
    test_the_integral_along_the_path_follows_its_tolerance(tolerance, ends)


def test_the_tolerance_of_the_integral_is_that_of_the_norm_of_the_state():
    """With an exact path the integral decides the steps: 36 elements double the tolerance of 9."""

    def solved(elements, atol):
        quadrature = lambda t, z: (0 * z, torch.exp(-50 * (t - 0.5) ** 2) + 0 * z.sum(1))  # noqa: E731
        options = within(0.0, atol)
        return dopri5(lambda t, z: 0 * z, torch.zeros(1, elements), 0.0, 1.0, options, quadrature=quadrature)

    many, few, strict = solved(36, 1e-7), solved(9, 2e-7), solved(9, 1e-7)
    assert many.integral == few.integral != strict.integral
    assert many.nfe == few.nfe < strict.nfe


@pytest.mark.usefixtures("panels")
def test_arguments_follow_their_rows_over_panels():
    test_arguments_follow_their_rows()


@pytest.mark.usefixtures("panels")
def test_the_budget_counts_whole_panels():
    field = lambda t, z: -5e3 * z  # noqa: E731
    for budget in range(60, 72):
        quadrature = lambda t, z: (field(t, z), z.sum(1))  # noqa: E731
        solution = dopri5(field, torch.ones(1, 1), 0.0, 1.0, max_nfe=budget, quadrature=quadrature)
        assert "budget" in solution.failures.reasons[0]
        assert solution.nfe.item() <= budget


@pytest.mark.usefixtures("panels")
def test_both_steps_of_a_panel_are_judged():
    """A pulse of width 0.002 is at 21 places, so it falls into first steps and into second steps.

    The integral of the pulse is 1.
    """
    worst = 0.0
    for shift in torch.linspace(0, 0.05, 21).tolist():

        def field(t, z):
            near = (t[:, None] - 0.5 - shift) / 0.002  # noqa: B023
            return torch.exp(-(near**2) / 2) / 0.002 / (2 * math.pi) ** 0.5 + torch.exp(-8 * (t[:, None] - 0.5) ** 2)

        quadrature = lambda t, z: (field(t, z), 0 * z.sum(1))  # noqa: E731
        solution = dopri5(field, torch.zeros(1, 1), 0.0, 1.0, within(1e-7, 1e-7), quadrature=quadrature)
        worst = max(worst, abs(solution.state.item() - 1 - math.erf(0.5 * 8**0.5) * math.sqrt(math.pi / 8)))
    assert worst < 4e-6


def test_failures_of_blocks_are_numbered_as_in_the_whole():
    block = lambda total, rows, times, reasons: Failures(  # noqa: E731
        "dopri5", total, torch.tensor(rows, dtype=torch.long), torch.tensor(times), reasons
    )
    blocks = [
        block(3, [0, 2], [0.1, 0.2], ("a", "b")),
        Failures.none("dopri5", torch.ones(4, 1)),
        block(2, [1], [0.3], ("c",)),
    ]
    whole = Failures.concatenate(blocks)
    assert (whole.solver, whole.total, whole.rows.tolist(), len(whole)) == ("dopri5", 9, [0, 2, 8], 3)
    assert whole.times.tolist() == [0.1, 0.2, 0.3] and whole.reasons == ("a", "b", "c")
    assert not Failures.concatenate(blocks[1:2] * 2) and Failures.concatenate(blocks[1:2] * 2).total == 8
    attempts = [block(4, [3], [0.3], ("first",)), block(4, [1, 3], [0.1, 0.9], ("other", "second"))]
    first = Failures.first(attempts)
    assert (first.total, first.rows.tolist(), first.times.tolist()) == (4, [1, 3], [0.1, 0.3])
    assert first.reasons == ("other", "first")
    assert not Failures.first(blocks[1:2] * 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be a whole number and at least 1, got 0"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"steps": math.nan}, "steps must be a whole number"),
        ({"rtol": -1e-3}, "rtol and atol must not be negative"),
        ({"atol": -1e-3}, "rtol and atol must not be negative"),
        ({"rtol": 0, "atol": 0}, "nor both 0"),
        ({"rtol": math.nan}, "rtol must be a finite number, got nan"),
        ({"atol": math.inf}, "atol must be a finite number, got inf"),
        ({"name": None}, "a solver is a name or an ndm.Solver"),
    ],
)
def test_a_solver_refuses_nonsense(options, message):
    with pytest.raises(ndm.InputError, match=message):
        Solver(**options)


def test_a_solver_is_made_of_a_name_once():
    tight = Solver("dopri5", rtol=1e-9, atol=0.0)
    assert Solver.of(tight) is tight and Solver.of(tight, 50) is tight
    assert Solver.of("rk4") == Solver("rk4", 50, 1e-5, 1e-5) and Solver.of("rk4", 7).steps == 7
    with pytest.raises(ndm.InputError, match="steps=7 contradicts the solver's own steps=50"):
        Solver.of(tight, 7)


@ode_on_grid("stranger:midpoint", evaluations=2)
def midpoint(f, z, grid):
    """A solver that is not part of the package, registered here, like the two solvers below."""
    for t, h in grid_steps(grid, z):
        z = z + h * f(t + h / 2, z + h / 2 * f(t, z))
    return z


@sde_on_grid("stranger:noiseless")
def noiseless(f, g, z, grid, generator):
    return midpoint(f, z, grid)


def lazy(f, z, start, end, solver):
    """A solver that takes one step, reports that row 1 failed, and gives rtol as the reason."""
    state, calls = midpoint(f, z, torch.tensor([start, end])), torch.full((len(z),), 2)
    failures = Failures(solver.name, len(z), torch.tensor([1]), torch.tensor([0.5]), (f"rtol {solver.rtol:g}",))
    return Solution(state, z.new_zeros(len(z)), calls, 0 * calls, failures)


ODE_SOLVERS.add("stranger:lazy", Method(lazy, takes_steps=False))


def test_a_solver_registered_by_a_user_works_by_name():
    oracle = LinearGaussian(3)
    model, x = oracle.model(), oracle.sample(4, torch.Generator().manual_seed(0))
    assert {"stranger:midpoint", "stranger:lazy", "stranger:noiseless"} < set(ndm.SOLVERS)

    own = ndm.ode_likelihood(model, x, Solver("stranger:midpoint", 40))
    assert own.nfe.tolist() == [80] * 4 and not own.failures
    torch.testing.assert_close(own.log_prob, ndm.log_prob(model, x), rtol=0, atol=5e-3)
    own = ndm.ode_likelihood(model, x, Solver("stranger:lazy", rtol=0.5))
    assert own.failures.reasons == ("rtol 0.5",) and own.log_prob.isnan().tolist() == [False, True, False, False]
    assert Protocol("ode", solver=Solver("stranger:midpoint", 40)).name(False).count("stranger:midpoint 40 steps") == 1
    assert Protocol("ode", solver=Solver("stranger:lazy", rtol=0.5)).name(False).count("stranger:lazy rtol 0.5") == 1

    draw = lambda solver, **options: ndm.sample(  # noqa: E731
        model, (4, 3), solver=solver, mode=True, generator=torch.Generator().manual_seed(0), **options
    )
    torch.testing.assert_close(draw("stranger:midpoint", steps=100), draw("dopri5"), rtol=0, atol=2e-3)
    assert torch.equal(draw(Solver("stranger:noiseless", 9)), draw("stranger:noiseless", steps=9))
    assert not torch.equal(draw("stranger:noiseless", steps=9), draw("stranger:noiseless", steps=10))
    with pytest.raises(SolverError, match=r"stranger:lazy stopped in 1 of 4 rows \(row 1 near t = 0.5: rtol 1e-05"):
        draw("stranger:lazy")
    with pytest.raises(ndm.InputError, match="there is already a solver named 'stranger:lazy'"):
        ODE_SOLVERS.add("stranger:lazy", Method(lazy, takes_steps=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_element_that_is_zero_is_solved_without_atol(dtype):
    """Its tolerance at the start is 0, and the first guess of a step was 0 / 0."""
    z = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=dtype)
    f = lambda t, z: torch.stack([z[:, 1], -z[:, 0]], dim=1)  # noqa: E731
    solution = dopri5(f, z, 0.0, 1.0, ndm.Solver("dopri5", rtol=1e-4, atol=0.0)).checked()
    exact = torch.tensor([[math.sin(1), math.cos(1)], [0.0, 0.0]], dtype=dtype)
    torch.testing.assert_close(solution.state, exact, atol=1e-3, rtol=0)
    assert solution.nfe.max() < 300


def test_a_density_without_atol_does_not_spend_the_budget():
    process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0))
    model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,), width=8, depth=1)), ndm.GaussianDecoder()).float()
    found = ndm.ode_likelihood(model, torch.tensor([[0.0, 1.0]]), solver=ndm.Solver("dopri5", rtol=1e-3, atol=0))
    assert found.nfe.max() < 2000 and "budget" not in str(found.failures)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_tolerances_below_the_rounding_are_refused(dtype):
    with pytest.raises(ndm.InputError, match="rtol=1e-300 and atol=0 are below the rounding of float"):
        dopri5(lambda t, z: z, torch.ones(1, 2, dtype=dtype), 0.0, 1.0, ndm.Solver("dopri5", rtol=1e-300, atol=0))


@pytest.mark.parametrize("solver", ["euler", "dopri5", "euler_maruyama"])
def test_solvers_and_batches_of_data_do_not_look_at_the_default_device(solver):
    """The device meta stands for any other: it has no values, so whatever were made there would be noticed."""
    from ndm.data import Dataset

    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
    model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,), width=8, depth=1)), ndm.GaussianDecoder()).eval()
    rows = torch.randn(20, 2)
    data = Dataset("rows", rows[:10], rows[10:15], rows[15:], mean=0.0, std=1.0)

    def results():
        generator = torch.Generator().manual_seed(0)
        return ndm.sample(model, 3, steps=5, solver=solver, generator=generator), data.batch(4, 0, 3)

    outside = results()
    with torch.device("meta"):
        inside = results()
    for one, other in zip(outside, inside, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
