"""Networks: shapes, time dependence, and derivatives in both modes."""

import numpy as np
import pytest
import torch
from torch import nn

import ndm


def randomised(net):
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return net


@pytest.mark.parametrize("shape", [(5,), (2, 3, 3)])
def test_mlp_shapes(shape):
    net = ndm.nn.MLP(shape, multiplier=3, width=8, depth=2, fourier=(1,))
    z, t = torch.randn(4, *shape), torch.rand(4)
    assert net(z, t).shape == (4, 3 * shape[0], *shape[1:])
    assert (net(z, t) == 0).all()  # it starts at zero


def test_mlp_rows_are_independent_and_time_matters():
    net = randomised(ndm.nn.MLP((3,), width=8, depth=2))
    z, t = torch.randn(4, 3), torch.rand(4)
    torch.testing.assert_close(net(z, t)[2:3], net(z[2:3], t[2:3]))
    assert (net(z, t) - net(z, t + 0.1)).abs().max() > 1e-3
    with pytest.raises(ndm.InputError, match="depends on t"):
        net(torch.zeros(2, 3))
    without = randomised(ndm.nn.MLP((3,), width=8, depth=2, embedding=0))
    assert torch.equal(without(z, t), without(z))


def test_mlp_time_derivative_in_forward_mode():
    net = randomised(ndm.nn.MLP((3,), width=8, depth=2))
    z, t, h = torch.randn(4, 3), torch.rand(4), 1e-6
    _, derivative = torch.func.jvp(lambda t: net(z, t), (t,), (torch.ones(4),))
    torch.testing.assert_close(derivative, (net(z, t + h) - net(z, t - h)) / (2 * h), rtol=1e-5, atol=1e-6)


def test_fourier_features():
    z = torch.tensor([[0.25]])
    expected = torch.tensor([[0.25, 1.0, 0.0, 0.0, -1.0]])  # sin(pi/2), sin(pi), cos(pi/2), cos(pi)
    torch.testing.assert_close(ndm.nn.FourierFeatures((1, 2))(z), expected)


def test_damped_fourier_features_are_the_means_over_the_noise():
    """By Gauss-Hermite quadrature; and where noise is large they are 0."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    points, weights = torch.from_numpy(points), torch.from_numpy(weights / weights.sum())
    m, sigma = torch.tensor([0.3, -1.2, 0.0]).double(), torch.tensor([0.4, 0.1, 0.7]).double()
    features = ndm.nn.FourierFeatures((-1, 0, 1))
    clean = features((m + sigma * points[:, None]).reshape(-1, 1)).view(60, 3, 7)
    means = (weights[:, None, None] * clean).sum(0)
    torch.testing.assert_close(features(m[:, None], sigma[:, None]), means, rtol=1e-9, atol=1e-9)
    assert features(torch.ones(1, 1), torch.tensor([[9.0]]))[0, 1:].abs().max() < 1e-20


@pytest.mark.parametrize("staggered", [False, True])
def test_a_damped_network_gets_the_noise_of_each_channel(staggered):
    """It is the undamped network whose weights of the features are multiplied by the damping at that time."""
    schedule = ndm.StaggeredSchedule(-9.0, 5.0, [0.0, 0.5], 0.5) if staggered else ndm.LinearSchedule(-9.0, 5.0)
    process = ndm.ForwardProcess(schedule)
    damped = randomised(ndm.nn.MLP((2,), width=8, depth=1, fourier=(0, 2), damped=True)).double()
    plain = ndm.nn.MLP((2,), width=8, depth=1, fourier=(0, 2)).double()
    plain.load_state_dict(damped.state_dict())
    z, t = torch.randn(5, 2, dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    sigma = schedule(t).sigma.reshape(1, -1).expand(1, 2)
    factors = [(-((2**k * torch.pi * sigma[0]) ** 2) / 2).exp() for k in (0, 2)]
    with torch.no_grad():
        plain.stem.weight.mul_(torch.cat([torch.ones(2, dtype=torch.float64), *factors, *factors]))
    found = ndm.Predictor(damped)(z, t.expand(5), process).x_hat
    torch.testing.assert_close(found, ndm.Predictor(plain)(z, t.expand(5), process).x_hat, rtol=1e-12, atol=1e-12)
    with pytest.raises(ndm.InputError, match=r"net\(z, t, sigma\)"):
        damped(z, t.expand(5))


def test_bfloat16_autocast_keeps_the_process_in_float32():
    """The bound under autocast changes only by the predictor's own rounding.

    This holds even where the bound multiplies errors by e^7.
    """
    net = randomised(ndm.nn.MLP((3,), width=32, depth=1)).float()
    linear = ndm.Linear(3, 2, "learned").float()
    nn.init.normal_(linear.gains)
    model = ndm.NDM(
        ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), linear), ndm.Predictor(net), ndm.GaussianDecoder()
    )
    x = torch.randn(64, 3, dtype=torch.float32)
    exact = ndm.bound(model, x, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        low = ndm.bound(model, x, generator=torch.Generator().manual_seed(0))
    assert low.total.dtype == torch.float32
    torch.testing.assert_close(low.prior, exact.prior)
    torch.testing.assert_close(low.diffusion, exact.diffusion, rtol=0.1, atol=0.1)


def test_uniform_features():
    """sin and cos of pi (2 Phi(z) - 1) 2^k / 2, with Phi from torch.distributions."""
    z = torch.randn(5, 3)
    u = 2 * torch.distributions.Normal(0.0, 1.0).cdf(z) - 1
    angles = [torch.pi / 2 * 2**k * u for k in (0, 2)]
    expected = torch.cat([z, 3**0.5 * u, *(a.sin() for a in angles), *(a.cos() for a in angles)], 1)
    features = ndm.nn.UniformFeatures((0, 2))
    torch.testing.assert_close(features(z), expected)
    assert features.per_element == 5
    assert ndm.nn.UniformFeatures(())(z) is z


def test_an_mlp_with_uniform_features_and_its_own_number_of_outputs():
    net = ndm.nn.MLP((3,), width=8, depth=1, outputs=7, uniform=(0, 1))
    for p in net.parameters():
        torch.nn.init.normal_(p)
    z = torch.randn(5, 3)
    out = net(z, torch.rand(5))
    assert out.shape == (5, 7)
    assert net.stem.in_features == 3 * (1 + 5)
