"""Predictors: each parameterisation recovers x from its own perfect target."""

import pytest
import torch
from torch import nn

import ndm


class Fixed(nn.Module):
    """A network that returns a given answer."""

    def __init__(self, out):
        super().__init__()
        self.out = out

    def forward(self, z, t):
        return self.out


@pytest.mark.parametrize("parameterization", ["x", "eps", "v"])
def test_perfect_target_gives_x(parameterization):
    x, eps = torch.randn(4, 3), torch.randn(4, 3)
    t = torch.tensor([0.1, 0.4, 0.7, 1.0])
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 4.0))
    level = process.schedule(t)
    alpha, sigma = level.alpha[:, None], level.sigma[:, None]
    target = {"x": x, "eps": eps, "v": alpha * eps - sigma * x}[parameterization]
    prediction = ndm.Predictor(Fixed(target), parameterization)(alpha * x + sigma * eps, t, process)
    torch.testing.assert_close(prediction.x_hat, x)
    assert prediction.coefficients is None and prediction.variance is None


def test_outputs_lie_side_by_side():
    t = torch.rand(4)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 4.0))
    out = torch.randn(4, 8, 3)
    x_hat, coefficients, variance, value = ndm.Predictor(Fixed(out), "x", num_basis=2, variance=True)(
        torch.randn(4, 2, 3), t, process
    )
    assert value is None
    torch.testing.assert_close(x_hat, out[:, :2])
    torch.testing.assert_close(coefficients, out[:, 2:6])
    sigma = process.schedule(t).sigma[:, None, None]
    torch.testing.assert_close(variance, sigma**2 * torch.log1p(out[:, 6:].exp()))


def test_a_predicted_curve_is_the_one_the_reverse_process_follows():
    f = nn.Linear(3, 6)
    out = torch.randn(4, 9)
    process = ndm.ForwardProcess(ndm.CosineSchedule(-5.0, 4.0), ndm.TimeBasis(f, 2))
    model = ndm.NDM(process, ndm.Predictor(Fixed(out), "x", num_basis=2), ndm.GaussianDecoder())
    z, t = torch.randn(4, 3), torch.rand(4)
    tau = t[:, None]
    mean = process.schedule(t).alpha[:, None] * (out[:, :3] + tau * out[:, 3:6] + tau**2 * out[:, 6:])
    torch.testing.assert_close(model(z, t).marginal(t).mean, mean)


def test_wrong_output_shapes_and_impossible_combinations_are_refused():
    t = torch.rand(4)
    level = ndm.LinearSchedule(-5.0, 4.0)(t)
    with pytest.raises(ndm.InputError, match=r"\(4, 6\).*got \(4, 3\)"):
        ndm.Predictor(Fixed(torch.zeros(4, 3)), variance=True)(torch.zeros(4, 3), t, level)
    with pytest.raises(ndm.InputError, match="parameterization"):
        ndm.Predictor(nn.Identity(), "noise")
    with pytest.raises(ndm.InputError, match="TimeBasis"):
        process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 4.0))
        ndm.NDM(process, ndm.Predictor(nn.Identity(), num_basis=2), ndm.GaussianDecoder())
