"""Networks: shapes, time dependence, and derivatives in both modes."""

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
