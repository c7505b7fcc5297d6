"""Flow matching as a weight of the bound: its gradient is that of the error of the velocity."""

from __future__ import annotations

import pytest
import torch

import ndm
from ndm.cli import main
from ndm.experiment.settings import make_config
from ndm.experiment.variants import find_variant
from ndm.sampling import velocity_field
from ndm.training.loss import Loss
from ndm.training.settings import TrainingConfig

SCHEDULES = {"ot": ndm.OTSchedule(-8.0, 9.0), "linear": ndm.LinearSchedule(-6.0, 5.0)}


def model_of(schedule: str, eta: float = 1.0, parameterization: str = "v") -> ndm.NDM:
    torch.manual_seed(0)
    net = ndm.nn.MLP((3,), width=16, depth=1)
    for p in net.parameters():  # the last layer starts at zero
        torch.nn.init.normal_(p, std=0.2)
    process = ndm.ForwardProcess(SCHEDULES[schedule], eta=eta)
    return ndm.NDM(process, ndm.Predictor(net, parameterization), ndm.GaussianDecoder(), shape=(3,)).double()


def gradient(model: ndm.NDM) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def error_of_velocity(model: ndm.NDM, x: torch.Tensor, t: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """The textbook's loss: the model's velocity beside dz/dt of a path with fixed x and noise, by differences."""
    with torch.no_grad():
        step = 1e-6
        before, at, after = (model.process(x).marginal(t + h).at(eps) for h in (-step, 0.0, step))
    return ((velocity_field(model)(t, at) - (after - before) / (2 * step)) ** 2).sum(1)


@pytest.mark.parametrize(("schedule", "eta", "kind"), [("ot", 1.0, "v"), ("linear", 1.0, "eps"), ("ot", 0.4, "x")])
def test_the_gradient_is_that_of_the_error_of_the_velocity(schedule, eta, kind):
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = model_of(schedule, eta, kind)
    loss = Loss(model, TrainingConfig(weighting="flow_matching", uniform_times=1.0), seed=1)
    loss(x, step=0).sum().backward()
    found = gradient(model)

    from ndm.objective import draw
    from ndm.support.streams import Stream
    from ndm.support.tensors import seeded

    model = model_of(schedule, eta, kind)
    draws = draw(model.encode(x), loss.times, seeded(1, Stream.NOISE, 0, 0))
    ndm.bits_per_dim(error_of_velocity(model, model.encode(x), draws.t, draws.eps_t), x).mean().backward()
    torch.testing.assert_close(found, gradient(model), rtol=1e-5, atol=1e-7)
    assert found.norm() > 0.01


def test_the_figures_are_those_of_the_bound():
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    figures, gradients = [], []
    for weighting in ("bound", "flow_matching"):
        model = model_of("ot")
        terms = Loss(model, TrainingConfig(weighting=weighting, uniform_times=1.0), seed=1)(x, step=0)
        terms.sum().backward()
        figures.append(terms.detach())
        gradients.append(gradient(model))
    torch.testing.assert_close(*figures)
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) < 0.99


def test_times_are_drawn_where_the_error_of_the_velocity_is_large():
    """The importance times learn from what is trained, not from the bound, which is largest near the data."""
    x, seen = torch.randn(4096, 3, dtype=torch.float64), {}
    for weighting in ("bound", "flow_matching"):
        loss = Loss(model_of("ot"), TrainingConfig(weighting=weighting), seed=1)
        loss.train()
        for step in range(3):
            loss(x, step)
            loss.times.update()
        density = loss.times.density()
        seen[weighting] = (density[:8].sum() / density.sum()).item()
    assert seen["bound"] > 0.3 > 0.2 > seen["flow_matching"]


@pytest.mark.parametrize("change", [
    {"model": {"transform": "network"}}, {"model": {"schedule": "learned"}}, {"model": {"schedule": "elementwise"}},
    {"training": {"bound_steps": 10}}, {"training": {"eta_range": 2.0}}, {"model": {"learned_eta": True}},
])  # fmt: skip
def test_what_has_no_flow_matching_is_refused(change, tmp_path, capsys):
    line = ["train", "moons", "--out", str(tmp_path / "run"), "--training.weighting", "flow_matching"]
    for group, values in change.items():
        for name, value in values.items():
            line += [f"--{group}.{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    assert main([*line, "--device", "cpu"]) == 2
    assert "training.weighting flow_matching is for conventional diffusion" in capsys.readouterr().err


def test_the_variants_share_the_path():
    """Flow matching and the straight F have one schedule, and differ in F, in the weighting and in the penalty."""
    config = make_config({"data": {"name": "moons"}})
    flow, straight = (find_variant(name).applied(config, 0) for name in ("flow-matching", "straight"))
    for name in ("schedule", "gamma_max", "gamma_min", "parameterization", "width"):
        assert getattr(flow.model, name) == getattr(straight.model, name)
    assert (flow.model.transform, flow.training.weighting, flow.training.straightness) == (
        "identity", "flow_matching", 0.0,
    )  # fmt: skip
    assert (straight.model.transform, straight.training.weighting) == ("time_basis", "bound")
    assert straight.training.straightness > 0


def test_a_comparison_takes_other_samplers(tmp_path, capsys):
    out = tmp_path / "out"
    line = ["compare", "moons", "--out", str(out), "--device", "cpu", "--seeds", "1", "--match", "none"]
    line += ["--training.steps", "20", "--training.batch_size", "32", "--model.width", "8", "--model.depth", "1"]
    line += ["--steps", "continuous", "--passes", "1", "--ode_rows", "0", "--limit", "64"]
    line += ["--sampling_steps", "1,2", "--samples", "64"]
    assert main([*line, "--variants", "flow-matching,network-target", "--solvers", "euler,ddim"]) == 0
    text = capsys.readouterr().out
    assert "sliced Wasserstein-2, ddim, 1 steps" in text and "sliced Wasserstein-2, euler, 2 steps" in text
    assert "ancestral" not in text.split("Bounds and")[0]
    for name, message in (("dopri5", "dopri5 chooses its own"), ("eulr", "did you mean 'euler'")):
        assert main([*line, "--variants", "flow-matching", "--solvers", name]) == 2
        assert message in capsys.readouterr().err
    assert main([*line, "--variants", "flow-matching"]) == 2
    assert "has figures with another solvers" in capsys.readouterr().err
