"""Schedules and numbers of steps that a dtype cannot resolve are refused; just inside the range the figures are right.

"Right" is float64 with the same draws, for a model of either decoder.
"""

import math

import pytest
import torch
from torch import nn

import ndm
from ndm.objective import Draws, bound_terms


def model_and_rows(discrete, schedule, rows=1000):
    torch.manual_seed(0)
    net = ndm.nn.MLP((8,), width=16, depth=1)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    decoder = ndm.CategoricalDecoder(17) if discrete else ndm.GaussianDecoder()
    x = torch.randint(17, (rows, 8)) if discrete else torch.randn(rows, 8, dtype=torch.float32)
    return ndm.NDM(ndm.ForwardProcess(schedule), ndm.Predictor(net), decoder), x


def total(model, x, steps, dtype):
    """The mean bound over rows with draws that do not depend on the dtype."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2, *x.shape, generator=generator)
    times = (torch.arange(len(x)) + 0.5) / len(x)
    draws = Draws(*(a.to(dtype) for a in (times, torch.ones(len(x)), *noise)))
    model = model.to(dtype)
    with torch.no_grad():
        return bound_terms(model, x, model.encode(x), draws, steps).total.double().mean().item()


RANGES = [(-7.0, 100_000), (-13.3, 1000), (-13.3, 40_000), (-20.0, 1000), (-30.0, None), (-30.0, 10)]


@pytest.mark.parametrize("discrete", [True, False], ids=["categorical", "gaussian"])
@pytest.mark.parametrize(("gamma_min", "steps"), RANGES)
def test_figures_inside_the_range_are_those_of_float64(gamma_min, steps, discrete):
    model, x = model_and_rows(discrete, ndm.LinearSchedule(gamma_min, 5.0))
    exact = total(model, x, steps, torch.float64)
    assert total(model, x, steps, torch.float32) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("schedule", [ndm.LinearSchedule, ndm.CosineSchedule, ndm.LearnedSchedule])
@pytest.mark.parametrize("discrete", [True, False], ids=["categorical", "gaussian"])
def test_noise_below_the_resolution_is_refused_in_float32_and_right_in_float64(schedule, discrete):
    model, x = model_and_rows(discrete, schedule(-60.0, 5.0), rows=4)
    model = model.float()
    for call in (ndm.bound, ndm.log_prob):
        with pytest.raises(ndm.InputError, match="gamma_min = -60 .* float32.*use float64, or raise .*-30.4"):
            call(model, x)
    assert ndm.bound(model.double(), x).total.isfinite().all()
    model, x = model_and_rows(discrete, schedule(-80.0, 5.0), rows=4)
    with pytest.raises(ndm.InputError, match=r"too small for float64"):
        ndm.bound(model.double(), x)


def test_float64_on_request_has_the_range_of_float64():
    model, x = model_and_rows(False, ndm.LinearSchedule(-32.0, 5.0), rows=2)
    model = model.float()
    with pytest.raises(ndm.InputError, match="too small for float32"):
        ndm.log_prob(model, x)
    solver = ndm.Solver("rk4", 2)
    assert ndm.log_prob(model, x, solver=solver, divergence="hutchinson", dtype=torch.float64).dtype == torch.float64


def test_ten_million_steps_are_refused_in_float32_and_tend_to_continuous_time_in_float64():
    model, x = model_and_rows(True, ndm.LinearSchedule(-7.0, 5.0))
    with pytest.raises(ndm.InputError, match=r"steps = 10000000 are too many for float32, which resolves 167772 here"):
        ndm.bound(model.float(), x, steps=10_000_000)
    exact = total(model, x, 10_000_000, torch.float64)
    assert exact == pytest.approx(total(model, x, None, torch.float64), rel=1e-5)
    with pytest.raises(ndm.InputError, match="too many for float64"):
        ndm.bound(model, x, steps=10**15)


def test_an_end_without_signal_is_refused():
    model, x = model_and_rows(True, ndm.LinearSchedule(-7.0, 200.0), rows=3)
    with pytest.raises(ndm.InputError, match=r"gamma_max = 200 is too large for float32.*at most 87"):
        ndm.bound(model.float(), x)
    assert ndm.bound(model.double(), x).total.isfinite().all()


@pytest.mark.parametrize("gamma_min", [-16.0, -7.0, -1.0, 60.0])
def test_what_is_usual_is_allowed(gamma_min):
    schedule = ndm.LinearSchedule(gamma_min, max(5.0, gamma_min + 10))
    for steps in (None, 1, 10, 50, 1000):
        schedule.check_precision(torch.float32, steps)
    for dtype, most in ((torch.float32, 1e4), (torch.float64, 1e10)):
        assert math.isfinite(most) and schedule.check_precision(dtype, int(most)) is None


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "rk4", "euler_maruyama"])
@pytest.mark.parametrize(("ends", "kind"), [((-200.0, 5.0), "v"), ((-7.0, 200.0), "eps")])
def test_a_schedule_that_float32_cannot_resolve_gives_no_samples(ends, kind, solver):
    process = ndm.ForwardProcess(ndm.LinearSchedule(*ends))
    net = ndm.nn.MLP((2,), width=8, depth=1)
    model = ndm.NDM(process, ndm.Predictor(net, kind), ndm.GaussianDecoder()).float()
    with pytest.raises(ndm.InputError, match="for float32.*use float64"):
        ndm.sample(model, 2, steps=5, solver=solver)
    with pytest.raises(ndm.InputError, match="for float32.*use float64"):
        model.distribution(solver="rk4")


@pytest.mark.parametrize("eta", [1e38, 1e-44])
def test_an_eta_beyond_float32_is_refused_and_one_of_the_range_has_a_bound(eta):
    model, x = model_and_rows(False, ndm.LinearSchedule(-7.0, 5.0), rows=2)
    model = model.float()
    with pytest.raises(ndm.InputError, match="eta must be positive and between 1e-12 and 1e"):
        ndm.bound(model, x, eta=torch.full((2,), eta, dtype=torch.float32))
    with pytest.raises(ndm.InputError, match="eta must be positive and between"):
        ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), eta=eta)
    for steps in (None, 10):
        for allowed in (1e-12, 1e12):
            eta_of_rows = torch.full((2,), allowed, dtype=torch.float64)
            figures = [
                ndm.bound(m, x, steps, eta=eta_of_rows.to(m.reference.dtype)).total for m in (model, model.double())
            ]
            assert all(bool(figure.isfinite().all()) for figure in figures)
            model = model.float()
