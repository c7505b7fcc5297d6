"""LevelsPredictor: Bayes' rule written out for each element, and the entropy of data with a known posterior."""

import math

import pytest
import torch
from torch import nn

import ndm
from ndm.experiment import make_config
from ndm.experiment.build import build_model

SCHEDULE = ndm.LinearSchedule(-9.0, 5.0)
PROCESS = ndm.ForwardProcess(SCHEDULE)


class Constant(nn.Module):
    """A network with the same output for every row, element and time: ``(outputs,)`` to ``(B, outputs * C, *)``."""

    def __init__(self, out):
        super().__init__()
        self.out = nn.Parameter(torch.as_tensor(out))

    def forward(self, z, t):
        out = self.out.to(z).view(1, -1, 1, *[1] * (z.ndim - 2))
        return out.expand(len(z), -1, z.shape[1], *z.shape[2:]).flatten(1, 2)


@pytest.mark.parametrize(("levels", "rank"), [(5, 5), (5, 9), (7, 4), (256, 16)])
@torch.no_grad()
def test_the_mean_and_the_variance_are_those_of_bayes_rule(levels, rank):
    torch.manual_seed(0)
    outputs = min(rank, levels)
    out = torch.randn(3, outputs * 2, 2, dtype=torch.float64)

    class Net(nn.Module):
        def forward(self, z, t):
            return out

    predictor = ndm.LevelsPredictor(Net(), levels, rank, variance=True).double()
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    level = SCHEDULE(t)
    z = torch.randn(3, 2, 2, dtype=torch.float64)
    x_hat, coefficients, variance, value = predictor(z, t, PROCESS)
    assert coefficients is None and value is None
    basis = torch.eye(levels) if rank >= levels else predictor.basis
    for b in range(3):
        alpha, sigma = level.alpha[b].item(), level.sigma[b].item()
        for c in range(2):
            for d in range(2):
                logits = [sum(out[b, 2 * r + c, d] * basis[r, k] for r in range(outputs)) for k in range(levels)]
                values = [(2 * k + 1) / levels - 1 for k in range(levels)]
                joint = [
                    float(logit) - (z[b, c, d].item() - alpha * v) ** 2 / (2 * sigma**2)
                    for logit, v in zip(logits, values, strict=True)
                ]
                w = [math.exp(j - max(joint)) for j in joint]
                mean = sum(p * v for p, v in zip(w, values, strict=True)) / sum(w)
                spread = sum(p * (v - mean) ** 2 for p, v in zip(w, values, strict=True)) / sum(w)
                assert abs(x_hat[b, c, d].item() - mean) < 1e-12
                assert abs(variance[b, c, d].item() - spread) < 1e-12


@torch.no_grad()
def test_the_bound_of_the_exact_posterior_is_the_entropy_of_the_data():
    # Independent elements: E[x | z] is known, the bound is tight, and both ends of the schedule are far enough.
    p = torch.tensor([0.6, 0.05, 0.05, 0.1, 0.2], dtype=torch.float64)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 7.0))
    model = ndm.NDM(process, ndm.LevelsPredictor(Constant(p.log()), 5), ndm.CategoricalDecoder(5)).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.multinomial(p, 40000 * 10, replacement=True, generator=generator).view(40000, 10).double()
    # Given the data at hand the mean of -log p(x) is known, which leaves the noise of times and latents alone.
    truth = -p.log()[x.long()].sum(1)
    excess = (ndm.bound(model, x, generator=generator).total - truth) / 10
    error = (excess.std() / len(x) ** 0.5).item()
    assert error < 0.01
    assert abs(excess.mean().item()) < 3 * error
    # Believed uniform, every element costs log 5.
    flat = ndm.NDM(process, ndm.LevelsPredictor(Constant(torch.zeros(5)), 5), ndm.CategoricalDecoder(5)).double()
    excess = (ndm.bound(flat, x, generator=generator).total - math.log(5) * 10) / 10
    error = (excess.std() / len(x) ** 0.5).item()
    assert abs(excess.mean().item()) < 3 * error


def test_gradients_reach_the_network_and_the_basis_as_finite_differences_say():
    torch.manual_seed(1)
    predictor = ndm.LevelsPredictor(Constant(torch.randn(4)), 7, 4).double()
    t = torch.tensor([0.4, 0.9], dtype=torch.float64)
    z = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    inputs = (z, predictor.net.out, predictor.basis)
    assert torch.autograd.gradcheck(lambda z, *_: predictor(z, t, PROCESS).x_hat, inputs)


def test_an_untrained_predictor_rounds_where_there_is_little_noise():
    predictor = ndm.LevelsPredictor(Constant(torch.zeros(16)), 256)
    x = ndm.CategoricalDecoder(256).encode(torch.arange(256).view(4, 64))
    t = torch.zeros(4)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-16.0, 5.0))
    level = process.schedule(t)
    z = level.alpha[:, None] * x + level.sigma[:, None] * torch.randn(4, 64)
    torch.testing.assert_close(predictor(z, t, process).x_hat, x)


def test_logits_keep_their_precision_under_autocast():
    predictor = ndm.LevelsPredictor(Constant(torch.linspace(-1, 1, 16)), 256)
    z, t = torch.randn(2, 8), torch.rand(2)
    expected = predictor(z, t, PROCESS).x_hat
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(predictor(z, t, PROCESS).x_hat, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("levels", "transform"), [(17, "identity"), (256, "time_basis")])
def test_a_model_of_levels_is_built_from_a_config_trained_and_loaded_again(tmp_path, levels, transform):
    config = make_config(
        {
            "model": {
                "parameterization": "levels", "transform": transform, "width": 8, "depth": 1,
                "predict_curve": transform == "time_basis", "num_basis": 2,
            }
        }
    )  # fmt: skip
    model = build_model(config, (1, 4, 4), ndm.CategoricalDecoder(levels))
    x = torch.randint(levels, (3, 1, 4, 4))
    ndm.bound(model, x).total.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    model.save_pretrained(tmp_path)
    again = ndm.NDM.from_pretrained(tmp_path)
    model.eval()
    values = [ndm.bound(m, x, generator=torch.Generator().manual_seed(0)).total for m in (model, again)]
    assert torch.equal(*values)


def test_what_has_no_levels_and_what_does_not_fit_is_refused():
    config = make_config({"model": {"parameterization": "levels"}})
    with pytest.raises(ndm.InputError, match="quantised"):
        build_model(config, (2,), ndm.GaussianDecoder())
    with pytest.raises(ndm.InputError, match="levels must be"):
        ndm.LevelsPredictor(nn.Identity(), 1)
    process = ndm.ForwardProcess(SCHEDULE)
    for decoder in (ndm.CategoricalDecoder(17), ndm.GaussianDecoder()):
        with pytest.raises(ndm.InputError, match="the same values"):
            ndm.NDM(process, ndm.LevelsPredictor(nn.Identity(), 256), decoder)
    t = torch.rand(2)
    with pytest.raises(ndm.InputError, match=r"\(2, 16, 3\).*got \(2, 1, 3\)"):
        ndm.LevelsPredictor(Constant(torch.zeros(1)), 256)(torch.zeros(2, 1, 3), t, SCHEDULE(t))
