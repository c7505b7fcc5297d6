"""A model as a distribution of PyTorch: closed forms, the change of variables, shapes, support and gradients."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

import ndm

from conftest import SmoothNet
from oracle import LinearGaussian

FINE = ndm.Solver("dopri5", rtol=1e-7, atol=1e-7)


def smooth_model(dim=2):
    """A model with a non-linear flow."""
    process = ndm.ForwardProcess(ndm.LinearSchedule(-4.0, 4.0))
    return ndm.NDM(process, ndm.Predictor(SmoothNet(dim, dim), "x"), ndm.GaussianDecoder(1.5, 2.0), shape=(dim,)).eval()


def symbol_model():
    """A model of two symbols, which starts at the frequencies of the rows."""
    rows = torch.tensor(list(itertools.product(range(3), range(2))) * 5 + [[2, 1]] * 20).double()
    embedding = ndm.Embedding((3, 2), 3)
    net = ndm.nn.MLP((6,), outputs=5, width=8, depth=1)
    predictor = ndm.MixedPredictor(net, (3, 2))
    predictor.start_at(rows)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-4.0, 5.0), embedding, tied_to="noise")
    return ndm.NDM(process, predictor, ndm.MixedDecoder(ndm.Marginals(0), (3, 2)), shape=(2,)).eval()


def oracle_of_two():
    """Gaussian data with the exact predictor; gamma_1 is so large that the prior gap vanishes."""
    oracle = LinearGaussian(2, gamma_max=34.0)
    model = oracle.model()
    model = ndm.NDM(model.process, model.predictor, model.decoder, shape=(2,))
    return model, MultivariateNormal(oracle.mu, oracle.covariance + math.exp(-3.0) * torch.eye(2))


def test_log_prob_and_draws_are_those_of_the_closed_form():
    model, truth = oracle_of_two()
    p = model.distribution(solver=FINE)
    x = truth.sample((2, 3))
    torch.testing.assert_close(p.log_prob(x), truth.log_prob(x), rtol=0, atol=1e-5)
    n = 2000
    draws = model.distribution(solver=ndm.Solver("dopri5", rtol=1e-3, atol=1e-3)).sample((n,))
    # 4.5 standard errors: those of an element of a covariance are at most sqrt(2 / n) of the largest variance.
    assert ((draws.mean(0) - truth.mean).abs() < 4.5 * (truth.variance / n).sqrt()).all()
    largest = truth.variance.max() * math.sqrt(2 / n)
    assert ((draws.T.cov() - truth.covariance_matrix).abs() < 4.5 * largest).all()


def test_the_change_of_variables_by_autograd_gives_log_prob():
    model = smooth_model()
    p = model.distribution(solver=ndm.Solver("rk4", steps=40))
    z_1 = torch.randn(2, 2)
    x = p.from_base(z_1)
    jacobians = torch.stack([torch.autograd.functional.jacobian(lambda z: p.from_base(z[None])[0], z) for z in z_1])
    expected = Independent(Normal(torch.zeros(2), 1.0), 1).log_prob(z_1) - torch.linalg.slogdet(jacobians)[1]
    torch.testing.assert_close(p.log_prob(x.detach()), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_draws_have_gradients_in_the_weights(solver):
    model = smooth_model()
    p = model.distribution(solver=ndm.Solver(solver, rtol=1e-9, atol=1e-9))
    weight, at = model.predictor.net.outer.bias, 0

    def mean():
        torch.manual_seed(7)
        return p.rsample((4,)).square().sum()

    (gradient,) = torch.autograd.grad(mean(), weight)
    with torch.no_grad():
        values = []
        for step in (1e-5, -2e-5):
            weight[at] += step
            values.append(mean())
        weight[at] += 1e-5
    assert gradient[at] == pytest.approx((values[0] - values[1]).item() / 2e-5, rel=1e-4)
    assert p.has_rsample and not p.sample((2,)).requires_grad
    (x,) = [p.sample((2,)).requires_grad_()]
    assert torch.autograd.grad(p.log_prob(x).sum(), x)[0].abs().sum() > 0


def test_shapes_are_those_of_pytorch():
    p = smooth_model().distribution(solver=ndm.Solver("heun", steps=5))
    assert p.event_shape == (2,) and p.batch_shape == ()
    for shape in ((), (3,), (2, 3)):
        torch.manual_seed(1)
        x = p.sample(torch.Size(shape))
        assert x.shape == (*shape, 2) and p.log_prob(x).shape == shape
    many = p.expand((2, 3))
    assert isinstance(many, ndm.ModelDistribution) and many.batch_shape == (2, 3) and many.event_shape == (2,)
    x = many.rsample((4,))
    assert x.shape == (4, 2, 3, 2) and many.log_prob(x).shape == (4, 2, 3)
    torch.testing.assert_close(many.log_prob(x)[1, 0], p.log_prob(x[1, 0]))
    torch.testing.assert_close(many.log_prob(x[0, 0, 0]), p.log_prob(x[0, 0, 0]).expand(2, 3))
    assert len(x[:, 0, 0].unique(dim=0)) == 4 and not torch.equal(x[:, 0, 0], x[:, 0, 1])
    assert p.sample((0,)).shape == (0, 2) and p.log_prob(torch.zeros(0, 2)).shape == (0,)
    assert "event_shape=(2,)" in repr(p)
    both = Independent(many, 1)
    assert both.log_prob(x).shape == (4, 2)


def test_it_works_with_pytorchs_own_functions():
    model, truth = oracle_of_two()
    p = model.distribution(solver=ndm.Solver("dopri5", rtol=1e-4, atol=1e-4))
    torch.distributions.kl.register_kl(ndm.ModelDistribution, MultivariateNormal)(
        lambda a, b: (lambda x: (a.log_prob(x) - b.log_prob(x)).mean())(a.sample((50,)))
    )
    assert kl_divergence(p, truth).abs() < 0.01  # the two are equal but for the solver's error, draw by draw


def test_symbols_have_the_probabilities_of_the_draws():
    p = symbol_model().distribution(solver=ndm.Solver("rk4", steps=16), samples=8)
    rows = torch.tensor(list(itertools.product(range(3), range(2)))).double()
    probabilities = p.log_prob(rows).exp()
    assert probabilities.sum() == pytest.approx(1.0, abs=0.05)
    n = 200
    draws = p.sample((n,))
    assert p.support.check(draws).all() and not p.has_rsample
    counts = torch.stack([(draws == row).all(1).sum() for row in rows])
    # Five standard deviations of a binomial count, and the error of 8 importance samples.
    error = 5 * (probabilities * (1 - probabilities) / n).sqrt() + 0.1 * probabilities
    assert ((counts / n - probabilities).abs() < error).all()
    assert probabilities[5] > 2 * probabilities[0]
    with pytest.raises(NotImplementedError, match="no gradient"):
        p.rsample()
    torch.testing.assert_close(p.log_prob(rows[:1]).exp(), probabilities[:1])  # the same draws at every call


def test_numbers_and_symbols_of_a_row_have_their_own_support():
    decoder = ndm.MixedDecoder(ndm.Marginals(2), (3,))
    net = ndm.nn.MLP((4,), outputs=5, width=8, depth=1)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-8.0, 5.0), ndm.Embedding((3,), 2, numbers=2), tied_to="noise")
    model = ndm.NDM(process, ndm.MixedPredictor(net, (3,), 2), decoder, shape=(3,)).eval()
    p = model.distribution(solver=ndm.Solver("heun", steps=10))
    x = p.sample((50,))
    assert p.support.check(x).all() and x[:, 2].unique().tolist() == [0, 1, 2]
    checked = p.support.check(torch.tensor([[0.5, -3.0, 2.0], [0.5, 0.5, 3.0], [0.0, 0.0, 0.5], [math.nan, 0.0, 1.0]]))
    assert checked.tolist() == [True, False, False, False]


def test_values_outside_of_the_support_are_refused():
    net = ndm.nn.MLP((3,), width=8, depth=1)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-6.0, 5.0))
    model = ndm.NDM(process, ndm.Predictor(net), ndm.CategoricalDecoder(4)).eval()
    p = model.distribution(solver=ndm.Solver("heun", steps=10), validate_args=True)
    x = p.sample((20,))
    assert p.support.check(x).all() and set(x.unique().tolist()) <= {0, 1, 2, 3}
    assert p.log_prob(x).shape == (20,)
    for bad in (torch.tensor([0, 4, 1]), torch.tensor([0.5, 1, 1]), torch.tensor([-1, 0, 0])):
        with pytest.raises(ValueError, match="support"):
            p.log_prob(bad)
    with pytest.raises(ValueError, match="event_shape"):
        p.log_prob(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="support"):
        p.expand((2,)).log_prob(torch.full((2, 3), 9))
    with pytest.raises(ndm.InputError):  # also without validation, in the library's own words
        model.distribution(solver="heun", validate_args=False).log_prob(torch.tensor([[0, 4, 1]]))


def test_what_has_no_distribution_is_refused():
    process = ndm.ForwardProcess(ndm.LinearSchedule(-6.0, 5.0))
    shapeless = ndm.NDM(process, ndm.Predictor(SmoothNet(2, 2), "x"), ndm.GaussianDecoder())
    with pytest.raises(ndm.InputError, match="shape of a sample"):
        shapeless.distribution()
    model = smooth_model()
    with pytest.raises(ndm.InputError, match="unknown solver"):
        model.distribution(solver="ancestral")
    with pytest.raises(ndm.InputError, match="samples"):
        model.distribution(samples=0)
    with pytest.raises(ndm.InputError, match="z_1 must have shape"):
        model.distribution().from_base(torch.zeros(3, 5))
    assert not model.distribution(solver="scipy:RK45").has_rsample
    random = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,), dropout=0.5)), ndm.GaussianDecoder()).train()
    with pytest.raises(ndm.InputError, match="training mode"):
        random.distribution().sample()
    process = ndm.ForwardProcess(ndm.StepwiseSchedule(-6.0, 5.0, 4))
    stepwise = ndm.NDM(process, ndm.Predictor(nn.Identity(), "x"), ndm.GaussianDecoder(), shape=(2,))
    with pytest.raises(ndm.InputError):
        stepwise.distribution()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.log_prob([[0.0, 0.0]]), "value must be a Tensor, got list"),
        (lambda p: p.log_prob(np.zeros((1, 2))), "value must be a Tensor, got ndarray"),
        (lambda p: p.sample(3), r"sample_shape must be a shape such as \(3,\)"),
        (lambda p: p.from_base([[0.0, 0.0]]), "z_1 must be a Tensor, got list"),
        (lambda p: p.from_base(torch.zeros(1, 2, dtype=torch.float16)), "z_1 must be in the model's torch.float"),
        (lambda p: p.model.distribution(seed=-1), "seed must be a whole number"),
        (lambda p: p.model.distribution(seed="a"), "seed must be a whole number"),
        (lambda p: p.model.to("meta").distribution(), "on the device meta"),
    ],
)
def test_arguments_of_another_kind_are_refused(call, message):
    process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0))
    model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,), width=8, depth=1)), ndm.GaussianDecoder())
    with pytest.raises(ndm.InputError, match=message):
        call(model.distribution(solver="rk4"))


def test_values_that_are_no_dense_real_numbers_are_refused():
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
    model = ndm.NDM(
        process, ndm.Predictor(ndm.nn.MLP((2,), width=8, depth=1)), ndm.GaussianDecoder(), shape=(2,)
    ).eval()
    x = torch.zeros(3, 2)
    for value in (x.to_sparse(), x + 1j, x.to("meta")):
        with pytest.raises(ndm.InputError, match="value must be a dense tensor of real numbers"):
            model.distribution().log_prob(value)
