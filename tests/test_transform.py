"""Curves: F(x, 0) = x, derivatives against finite differences, orthonormal rotations, one evaluation per x."""

import pytest
import torch
from torch import nn

import ndm

from conftest import SmoothNet


def linear(rotation: str) -> ndm.Linear:
    transform = ndm.Linear(3, num_basis=2, rotation=rotation).double()
    with torch.no_grad():
        transform.gains.normal_()
        if rotation == "fixed":
            transform.fixed_rotation.copy_(torch.linalg.qr(torch.randn(3, 3))[0])
        if rotation == "learned":
            transform.generator.normal_()
    return transform


def transforms() -> dict[str, ndm.Transform]:
    torch.manual_seed(0)
    return {
        "identity": ndm.Identity(),
        "linear": linear("none"),
        "linear-fixed": linear("fixed"),
        "linear-learned": linear("learned"),
        "time-basis": ndm.TimeBasis(SmoothNet(3, 9, timed=False).double(), num_basis=3),
        "network": ndm.Network(SmoothNet(3, 3).double()),
    }


@pytest.mark.parametrize("name", transforms())
def test_curve_starts_at_x_and_its_derivative_matches_finite_differences(name):
    transform = transforms()[name]
    x, t, h = torch.randn(8, 3), torch.rand(8), 1e-6
    curve = transform(x)
    torch.testing.assert_close(curve(torch.zeros(8)), x)
    value, derivative = curve.with_derivative(t)
    torch.testing.assert_close(value, curve(t))
    torch.testing.assert_close(derivative, (curve(t + h) - curve(t - h)) / (2 * h), rtol=1e-6, atol=1e-7)
    if name != "identity":
        assert derivative.abs().mean() > 0.1  # so that dropping it anywhere is seen


@pytest.mark.parametrize("name", ["time-basis", "network"])
def test_derivative_is_differentiable_in_the_parameters(name):
    """Reverse over forward mode: the gradient of the derivative is the derivative of the gradient."""
    transform = transforms()[name]
    x, t, h = torch.randn(4, 3), torch.rand(4), 1e-5
    weight = transform.net.outer.weight
    (gradient,) = torch.autograd.grad(transform(x).with_derivative(t)[1].pow(2).sum(), weight)
    curve = transform(x)
    difference = (curve(t + h) - curve(t - h)) / (2 * h)
    (expected,) = torch.autograd.grad(difference.pow(2).sum(), weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rotation", ["fixed", "learned"])
def test_linear_scales_along_orthonormal_directions(rotation):
    transform = linear(rotation)
    r = transform.rotation_matrix()
    torch.testing.assert_close(r @ r.T, torch.eye(3))
    x, t = torch.randn(5, 3), torch.rand(5)
    w = transform.gains
    expected = torch.stack(
        [r @ torch.diag(1 + t_i * w[0] + t_i**2 * w[1]) @ r.T @ x_i for x_i, t_i in zip(x, t, strict=True)]
    )
    torch.testing.assert_close(transform(x)(t), expected)


def test_linear_reads_images_as_vectors_and_refuses_another_size():
    transform = linear("learned")
    x, t = torch.randn(2, 1, 3, 1), torch.rand(2)
    torch.testing.assert_close(transform(x)(t).flatten(1), transform(x.flatten(1))(t))
    with pytest.raises(ndm.InputError, match="3 elements"):
        transform(torch.randn(2, 4))


def test_time_basis_evaluates_its_network_once_per_x():
    calls = []
    net = nn.Linear(2, 4)
    net.register_forward_hook(lambda *_: calls.append(1))
    curve = ndm.TimeBasis(net, num_basis=2)(torch.randn(3, 2))
    for _ in range(5):
        curve.with_derivative(torch.rand(3))
    assert len(calls) == 1


def test_time_basis_lays_its_coefficients_along_channels():
    net = nn.Conv2d(3, 6, 1)
    x, t = torch.randn(2, 3, 4, 4), torch.tensor([0.5, 1.0])
    h = net(x)
    tau = t.view(2, 1, 1, 1)
    torch.testing.assert_close(ndm.TimeBasis(net, 2)(x)(t), x + tau * h[:, :3] + tau**2 * h[:, 3:])


def test_time_basis_names_the_shape_it_needs():
    with pytest.raises(ndm.InputError, match=r"\(3, 4\).*got \(3, 5\)"):
        ndm.TimeBasis(nn.Linear(2, 5), num_basis=2)(torch.randn(3, 2))


def test_a_curve_of_ones_own_says_what_it_lacks():
    class Bare(ndm.Curve):
        pass

    process, t = ndm.ForwardProcess(ndm.LinearSchedule(-3.0, 3.0)), torch.full((2,), 0.5)
    with pytest.raises(ndm.InputError, match="Bare needs an attribute x"):
        process.along(Bare())
    curve = Bare()
    curve.x = torch.zeros(2, 3)
    with pytest.raises(ndm.InputError, match=r"Bare needs a method __call__\(t\)"):
        process.along(curve).marginal(t)
    with pytest.raises(ndm.InputError, match=r"Bare needs a method with_derivative\(t\)"):
        process.along(curve).velocity(curve.x, t)
    assert not hasattr(curve, "other")
