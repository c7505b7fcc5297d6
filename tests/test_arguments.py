"""Arguments of the wrong kind, size or shape are refused where they are passed, in one line that names them."""

import math

import numpy as np
import pytest
import torch

import ndm
from ndm.data import Dataset
from ndm.evaluation import Protocol, evaluate
from ndm.evaluation.quality import quality
from ndm.solvers import dopri5, euler, euler_maruyama, solve_ode, solve_sde

from conftest import SmoothNet

NAN = math.nan
CONSTRUCTORS = [
    (lambda: ndm.LinearSchedule("-7", "5"), "gamma_min must be a finite number, got '-7'"),
    (lambda: ndm.CosineSchedule(-7.0, math.inf), "gamma_max must be a finite number, got inf"),
    (lambda: ndm.LinearSchedule(None, 5.0), "gamma_min must be a finite number"),
    (lambda: ndm.LinearSchedule(True, 5.0), "gamma_min must be a finite number"),
    (lambda: ndm.LearnedSchedule(-7.0, 5.0, num_bumps=0), "num_bumps must be a whole number and at least 1"),
    (lambda: ndm.StepwiseSchedule(-7.0, 5.0, steps=0), "steps must be a whole number and at least 1, got 0"),
    (lambda: ndm.StepwiseSchedule(-7.0, 5.0, steps=2.5), "steps must be a whole number"),
    (lambda: ndm.CategoricalDecoder(2.5), "levels must be a whole number and at least 2, got 2.5"),
    (lambda: ndm.CategoricalDecoder(True), "levels must be a whole number"),
    (lambda: ndm.CategoricalDecoder("17"), "levels must be a whole number and at least 2, got '17'"),
    (lambda: ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), eta=math.inf), "eta must be a finite number"),
    (lambda: ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), eta="1"), "eta must be a finite number"),
    (lambda: ndm.Linear(0), "dim must be a whole number"),
    (lambda: ndm.Linear(3, num_basis=1.5), "num_basis must be a whole number"),
    (lambda: ndm.TimeBasis(SmoothNet(3, 3), -1), "num_basis must be a whole number"),
    (lambda: ndm.Predictor(SmoothNet(3, 3), num_basis=-1), "num_basis must be a whole number and at least 0"),
    (lambda: ndm.LevelsPredictor(SmoothNet(3, 3), levels=17, rank=0), "rank must be a whole number"),
    (lambda: ndm.ImportanceTimes(bins=0), "bins must be a whole number"),
    (lambda: ndm.ImportanceTimes(decay=1.5), r"decay must be in \[0, 1\)"),
    (lambda: ndm.ImportanceTimes(uniform=0.0), r"uniform must be in \(0, 1\]"),
    (lambda: ndm.nn.MLP((3,), depth=-1), "depth must be a whole number and at least 0, got -1"),
    (lambda: ndm.nn.MLP((3,), width=0), "width must be a whole number"),
    (lambda: ndm.nn.MLP((3,), dropout=2.0), r"dropout must be in \[0, 1\)"),
    (lambda: ndm.nn.MLP((3,), fourier=("a",)), r"fourier\[0\] must be a finite number"),
    (lambda: ndm.nn.MLP(3), "shape must be the positive sizes"),
    (lambda: ndm.nn.MLP((3, 0)), "shape must be the positive sizes"),
    (lambda: ndm.nn.UNet((1, 8, 8), depth=1.5), "depth must be a whole number"),
    (lambda: ndm.nn.UNet((1, 8, 8), multipliers=(1, 0)), r"multipliers\[1\] must be a whole number"),
    (lambda: ndm.nn.UNet((1, 8, 8), embedding=-4), "embedding must be a whole number and at least 0"),
    (lambda: ndm.nn.FlatUNet((1, 8, 8.0)), "shape must be the positive sizes"),
    (lambda: ndm.ForwardProcess("linear"), "schedule must be a Schedule, got str"),
    (lambda: ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), SmoothNet(3, 3)), "transform must be a Transform"),
    (lambda: ndm.NDM(None, None, None), "process must be a ForwardProcess, got NoneType"),
    (lambda: ndm.GaussianDecoder([]), "mean must consist of real numbers, got none"),
    (lambda: ndm.Solver("rk4", steps=True), "steps must be a whole number"),
    (lambda: ndm.Solver(rtol="1e-5"), "rtol must be a finite number"),
    (lambda: ndm.nn.MLP((3,), depth=10**30), r"depth must be below 2\^63, got 1000000"),
    (lambda: ndm.CategoricalDecoder(2**63), r"levels must be below 2\^63"),
    (lambda: ndm.MixedDecoder(ndm.Marginals(1), 3), r"alphabets must be a list of numbers, got 3"),
    (lambda: ndm.MixedDecoder(ndm.Marginals(1), "34"), "alphabets must be a list of numbers, got '34'"),
    (lambda: ndm.MixedDecoder(ndm.Marginals(1), {3: 4}), "alphabets must be a list of numbers"),
    (lambda: ndm.MixedDecoder(ndm.Marginals(1), (), 0.5), "cells must be a list of numbers, got 0.5"),
    (lambda: ndm.MixedDecoder(ndm.Marginals(1), (), ["x"]), r"cells\[0\] must be a finite number, got 'x'"),
    (lambda: ndm.MixedDecoder(ndm.Marginals(1), (), torch.ones(2, 2)), "cells must be a list of numbers, got 'tensor"),
    (lambda: ndm.MixedPredictor(SmoothNet(3, 3), None), "alphabets must be a list of numbers, got None"),
    (lambda: ndm.Embedding(3), r"levels must be a list of numbers, got 3"),
    (lambda: ndm.nn.MLP((3,), fourier=2), "fourier must be a list of numbers, got 2"),
    (lambda: ndm.nn.MLP((3,), uniform=torch.tensor(1.0)), "uniform must be a list of numbers"),
    (lambda: ndm.nn.UNet((1, 8, 8), multipliers=2), "multipliers must be a list of numbers, got 2"),
    (lambda: ndm.nn.UNet((1, 8, 8), attention=True), "attention must be a list of numbers, got True"),
    (lambda: ndm.nn.FlatUNet((1, 8, 8), attention="False"), "attention must be True or False, got 'False'"),
    (lambda: ndm.Predictor(SmoothNet(3, 3), variance="no"), "variance must be True or False, got 'no'"),
    (lambda: ndm.Predictor(SmoothNet(3, 3), np.array([1, 2])), "parameterization must be 'x', 'eps', 'v' or 'score'"),
    (lambda: ndm.Linear(3, rotation=np.array([1, 2])), "rotation must be 'none', 'fixed' or 'learned', got array"),
    (lambda: ndm.BasisCurve(X, 3.0), "coefficients must be a Tensor, got float"),
    (lambda: ndm.Marginals.fit([[1.0], [2.0]]), "rows must be a tensor of real numbers of shape .* got list"),
    (lambda: ndm.Marginals.fit(X * 1j), "rows must be a tensor of real numbers"),
    (lambda: ndm.Marginals.fit(X, 2.5), "knots must be a whole number"),
    (lambda: ndm.Marginals.fit(X, seed=-1), "seed must be a whole number and at least 0"),
    (
        lambda: ndm.Marginals(3)(X[:, :2]),
        r"x must be a tensor of real numbers of shape \(B, 3\), got torch.float64",
    ),
    (lambda: ndm.Marginals(3).inverse([[1.0]]), r"y must be a tensor of real numbers of shape \(B, 3\), got list"),
    (lambda: ndm.TimeBasis(lambda x: None, 2)(X), "output of TimeBasis' network must be a Tensor, got NoneType"),
    (lambda: ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0))(X, eta=torch.ones(len(X)) * 1j), "eta must be a dense"),
    (
        lambda: ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0))(X, eta=torch.ones(len(X)).to_sparse()),
        "eta must be a d",
    ),
    (lambda: started([[3, 0]]), r"codes of column 0 must be whole numbers in 0\.\.2, got \[3\]"),
    (lambda: started([[0.5, 0]]), r"codes of column 0 must be whole numbers in 0\.\.2, got \[0\.5\]"),
    (lambda: started([[1]]), r"codes must be a tensor of real numbers of shape \(B, 2\)"),
    (lambda: quality(None, X, X), "samples must be a Tensor, got NoneType"),
    (lambda: quality(np.zeros((40, 2)), X, X), "samples must be a Tensor, got ndarray"),
    (lambda: Protocol("mean"), "estimator must be 'bound', 'ode' or 'ode-uniform', got 'mean'"),
    (lambda: Protocol("bound", passes=0), "passes must be a whole number and at least 1, got 0"),
    (lambda: Protocol("ode", solver="rk4"), "solver must be a Solver, got str"),
    (lambda: Dataset("a", X, torch.tensor(1.0), X), "the validation rows of the data set a: data must have shape"),
]


def started(codes):
    return ndm.MixedPredictor(SmoothNet(2, 5), (3, 2)).start_at(torch.tensor(codes))


def test_a_model_whose_network_is_a_function_is_saved_and_asks_for_it(tmp_path):
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
    model = ndm.NDM(process, ndm.Predictor(lambda z, t: z), ndm.GaussianDecoder()).eval()
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ndm.InputError, match="holds a network that is not one of ndm.nn: pass it"):
        ndm.NDM.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(("make", "message"), CONSTRUCTORS, ids=[m for _, m in CONSTRUCTORS])
def test_constructors_refuse_what_they_cannot_use(make, message):
    with pytest.raises(ndm.InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_whole_numbers_of_numpy_are_whole_numbers():
    assert ndm.CategoricalDecoder(np.int64(5)).levels == 5
    assert ndm.nn.MLP((np.int64(3),), depth=0)(torch.zeros(2, 3), torch.zeros(2)).shape == (2, 3)
    assert ndm.LinearSchedule(np.float32(-7), 5).gamma_max == 5
    assert ndm.MixedDecoder(ndm.Marginals(2), np.array([3, 4]), torch.tensor([0.0, 0.5])).cells == [0.0, 0.5]
    assert ndm.Predictor(SmoothNet(3, 3), variance=np.True_).variance


def model(channels=3):
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
    return ndm.NDM(process, ndm.Predictor(SmoothNet(3, channels)), ndm.GaussianDecoder())


X = torch.zeros(2, 3, dtype=torch.float64)
CALLS = [
    (lambda: ndm.bound(model(), X, steps=2.5), "steps must be a whole number and at least 1, got 2.5"),
    (lambda: ndm.bound(model(), X, steps="10"), "steps must be a whole number"),
    (lambda: ndm.bound(model(), X, generator=3), r"generator must be a torch.Generator or None, got 3; pass torch"),
    (lambda: ndm.bound(model(), X, eta=torch.ones(3)), r"eta must have shape \(2,\), got \(3,\)"),
    (lambda: ndm.bound(model(), X, eta=torch.tensor([1.0, -1.0])), "eta must be positive .* got -1.0"),
    (lambda: ndm.bound(model(), X, eta=0.0), "eta must be positive"),
    (lambda: ndm.bound(model(), X, eta="1"), "eta must be a finite number"),
    (lambda: model().process(X, eta=-0.5), "eta must not be negative"),
    (lambda: ndm.bound(model(), X, times=[0.5]), "times must be a LowDiscrepancyTimes, got list"),
    (lambda: ndm.bound(model(), X.to("meta")), "on the device meta"),
    (lambda: ndm.bound(model().to("meta"), X), "on the device meta"),
    (lambda: ndm.Predictor(lambda z, t: (z,)).read(X, X[:, 0], None, 3), "network must be a Tensor, got tuple"),
    (lambda: solve_ode(lambda t, z: None, X, 0.0, 1.0), r"the field f\(t, z\) must have shape .* got NoneType"),
    (lambda: solve_sde(lambda t, z: -z, lambda t: 1.0, X, 0.0, 1.0), r"g\(t\) must have shape .* got float"),
    (lambda: ndm.log_prob(model(), X, generator=3), "generator must be a torch.Generator"),
    (lambda: ndm.log_prob(model(), X, samples=1.5), "samples must be a whole number"),
    (lambda: ndm.log_prob(model(), X, max_rows=0), "max_rows must be a whole number and at least 1"),
    (lambda: ndm.log_prob(model(), X, dtype=torch.int32), "dtype must be a floating-point dtype"),
    (lambda: ndm.log_prob(model(), X, dtype="float64"), "dtype must be a floating-point dtype"),
    (lambda: ndm.sample(model(), (2, 3), generator=3), "generator must be a torch.Generator"),
    (lambda: ndm.sample(model(), (3,)), r"shape must be \(batch, \*\) for this model, got \(3,\)"),
    (lambda: ndm.bits_per_dim(1.0, torch.zeros(3)), "x must be the data"),
    (lambda: ndm.bits_per_dim(1.0, [1.0]), "x must be the data"),
    (lambda: ndm.bits_per_dim([1.0], X), r"nats must be real numbers: a tensor, an array or a number, got \[1.0\]"),
    (lambda: ndm.bits_per_dim(torch.tensor([1j]), X), "nats must be real numbers"),
    (lambda: ndm.log_prob(model(), X, divergence=np.array([1])), "divergence must be 'exact', 'hutchinson' or"),
    (lambda: ndm.log_prob(model(), X, common="no"), "common must be True or False, got 'no'"),
    (lambda: ndm.log_prob(model(), X, common=True, dequantization="uniform"), "common draws are for dequantization="),
    (lambda: ndm.sample(model(), (2, 3), mode="mean"), "mode must be True or False, got 'mean'"),
    (lambda: ndm.bound(model(), X, eta=torch.ones(2, device="meta")), "eta must be a finite number, got tensor"),
    (lambda: ndm.ode_log_prob(3, X), r"the field must be a function f.t, z., got 3"),
    (lambda: ndm.ode_log_prob(lambda t, z: None, X), r"the field f\(t, z\) must have shape .* got NoneType"),
    (lambda: ndm.ode_log_prob(lambda t, z: -z, [1.0]), "z must be a floating-point tensor .* got list"),
    (lambda: ndm.ode_log_prob(lambda t, z: -z, X.to("meta")), "z must hold values, but it is on the device meta"),
    (lambda: ndm.ode_log_prob(lambda t, z: -z, X, 2.0), r"probe must have shape \(2, 3\) like z_0, got float"),
    (lambda: ndm.ode_log_prob(lambda t, z: -z, X, torch.ones(2, 4, 1)), r"probe must have shape \(2, 3\) like z_0"),
    (lambda: ndm.ode_log_prob(lambda t, z: -z, X, torch.ones(2, 0, 3)), r"probe must have shape \(2, 3\) like z_0"),
    (lambda: evaluate(model(), X, "bound"), "protocol must be a Protocol, got str"),
    (lambda: evaluate(model(), [[1.0]], Protocol("bound")), "data must be a torch tensor or a NumPy array, got list"),
]


@pytest.mark.parametrize(("call", "message"), CALLS, ids=[m for _, m in CALLS])
def test_calls_refuse_what_they_cannot_use(call, message):
    with pytest.raises(ndm.InputError, match=message):
        call()


def test_latents_that_only_broadcast_are_refused_by_every_method():
    q, t = model().process(X), torch.full((2,), 0.5)
    for z in (torch.zeros(2, 1), torch.zeros(1, 3), torch.zeros(3), torch.zeros(2, 1, 3)):
        for call in (lambda z: q.posterior(z, t / 2, t), lambda z: q.velocity(z, t), lambda z: q.score(z, t),
                     lambda z: q.reverse_drift(z, t)):  # fmt: skip
            with pytest.raises(ndm.InputError, match=r"z must have shape \(2, 3\) like x, got \("):
                call(z)
    with pytest.raises(ndm.InputError, match=r"variance must have shape \(2, 3\)"):
        model().process(X, variance=torch.ones(2, 1))


class Narrow(ndm.Curve):
    """A curve of one's own that forgets all channels but one."""

    def __init__(self, x):
        self.x = x

    def __call__(self, t):
        return self.x[:, :1]

    def with_derivative(self, t):
        return self.x[:, :1], self.x


def test_a_transform_of_too_few_channels_is_refused():
    t = torch.full((2,), 0.5)
    thin = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0), ndm.Network(SmoothNet(3, 1)))
    for call in (lambda q: q.marginal(t), lambda q: q.velocity(X, t)):
        with pytest.raises(ndm.InputError, match=r"net\(x, t\) .* shape \(2, 3\) like x, got \(2, 1\)"):
            call(thin(X))
        with pytest.raises(ndm.InputError, match=r"F\(x, t\) must have shape \(2, 3\) like x, got \(2, 1\)"):
            call(thin.along(Narrow(X)))
    for h in (torch.zeros(2, 4), torch.zeros(1, 3), torch.zeros(3), torch.zeros(2, 3, 1)):
        with pytest.raises(ndm.InputError, match=r"must have shape \(2, K \* 3\)"):
            ndm.BasisCurve(X, h)


@pytest.mark.parametrize("solver", ["euler", "rk4", "dopri5", "scipy:RK45", "torchdiffeq:rk4"])
def test_a_field_that_only_broadcasts_is_refused(solver):
    if ":" in solver:
        pytest.importorskip(solver.partition(":")[0])
    z = torch.ones(4, 3)
    narrow = lambda t, z: -z[:, :1]  # noqa: E731
    with pytest.raises(ndm.InputError, match=r"the field f\(t, z\) must have shape \(4, 3\) like z, got \(4, 1\)"):
        solve_ode(narrow, z, 0.0, 1.0, solver)
    with pytest.raises(ndm.InputError, match=r"the field of the quadrature .* got \(4, 1\)"):
        solve_ode(lambda t, z: -z, z, 0.0, 1.0, solver, quadrature=lambda t, z: (-z[:, :1], z[:, 0]))
    with pytest.raises(ndm.InputError, match=r"integrand must have shape \(4,\), got \(4, 1\)"):
        solve_ode(lambda t, z: -z, z, 0.0, 1.0, solver, quadrature=lambda t, z: (-z, z[:, :1]))


def test_solvers_called_by_themselves_check_their_fields_too():
    z, grid = torch.ones(4, 3), torch.linspace(0, 1, 3)
    narrow, rate = lambda t, z: -z[:, :1], torch.ones_like
    for call in (
        lambda: euler(narrow, z, grid),
        lambda: dopri5(narrow, z, 0.0, 1.0),
        lambda: euler_maruyama(narrow, rate, z, grid),
        lambda: solve_sde(narrow, rate, z, 0.0, 1.0),
    ):
        with pytest.raises(ndm.InputError, match=r"got \(4, 1\)"):
            call()
    with pytest.raises(ndm.InputError, match=r"g\(t\) must have shape \(4,\) like t, got \(4, 2\)"):
        solve_sde(lambda t, z: -z, lambda t: torch.ones(4, 2), z, 0.0, 1.0)
    with pytest.raises(ndm.InputError, match="generator must be"):
        solve_sde(lambda t, z: -z, rate, z, 0.0, 1.0, generator=5)


@pytest.mark.parametrize("solver", ["rk4", "dopri5", "scipy:RK45"])
def test_an_interval_or_a_state_that_is_none_is_refused(solver):
    field, z = lambda t, z: -z, torch.ones(4, 3)
    for start, end, name in ((NAN, 1.0, "start"), (0.0, math.inf, "end"), ("0", 1.0, "start"), (0.0, None, "end")):
        with pytest.raises(ndm.InputError, match=f"{name} must be a finite number"):
            solve_ode(field, z, start, end, solver)
    for state, kind in ((torch.ones(4), r"\(4,\)"), (torch.ones(4, 3).long(), "int64"), ([[1.0]], "list")):
        with pytest.raises(ndm.InputError, match=f"z must be a floating-point tensor of shape .* got .*{kind}"):
            solve_ode(field, state, 0.0, 1.0, solver)


@pytest.mark.parametrize(
    ("t", "message"),
    [
        (0.5, r"t must have shape \(2,\), got float: pass a tensor with one time per row"),
        (torch.ones(2) * 1j, "t must be a dense tensor of real numbers on cpu, got torch.complex"),
        (torch.ones(2).to_sparse(), "t must be a dense tensor"),
        (torch.ones(2, device="meta"), "t must be a dense tensor of real numbers on cpu, got .* on meta"),
    ],
)
def test_times_that_are_none_are_refused_where_they_are_passed(t, message):
    conditional = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))(torch.zeros(2, 3))
    for call in (lambda: conditional.marginal(t), lambda: conditional.velocity(torch.zeros(2, 3), t)):
        with pytest.raises(ndm.InputError, match=message):
            call()
