"""Training: the learning rate, the average, exact repetition, and models that learn what they must."""

from dataclasses import replace

import pytest
import torch

import ndm
from ndm.config import Config, DataConfig, ModelConfig, TrainingConfig, make_model
from ndm.data import load_dataset
from ndm.training import Run, learning_rate, train
from ndm.training.loop import random_eta, validation_bpd


@pytest.fixture(autouse=True)
def _float32():
    torch.set_default_dtype(torch.float32)


SMALL = Config(
    model=ModelConfig(width=16, depth=1),
    training=TrainingConfig(steps=20, batch_size=16, warmup=4, evaluate_every=10),
)


def trained(config, log=lambda _: None):
    dataset = load_dataset(config.data.name)
    torch.manual_seed(config.seed)
    return train(make_model(config, dataset), dataset, config, log=log)


def test_learning_rate_rises_and_falls_linearly():
    config = TrainingConfig(steps=100, warmup=10, learning_rate=0.5)
    assert learning_rate(0, config) == pytest.approx(0.5 * 0.1)
    assert learning_rate(4, config) == pytest.approx(0.5 * 0.5 * 0.96)
    assert learning_rate(50, config) == pytest.approx(0.25)
    assert learning_rate(99, config) == pytest.approx(0.005)


def test_each_step_uses_the_settings_and_the_average_is_that_of_a_float64_reference():
    settings = replace(SMALL.training, ema_decay=0.8, clip=0.01, weight_decay=0.3, evaluate_every=20)
    config, dataset = replace(SMALL, training=settings), load_dataset("digits")
    model = make_model(config, dataset)
    name, weight = next(iter(model.named_parameters()))
    seen, groups, norms, records = [], [], [], []
    optimizer_step = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        norms.append(torch.stack([p.grad.norm() for p in model.parameters()]).norm().item())
        groups.append((self.param_groups[0]["lr"], self.param_groups[0]["weight_decay"]))
        result = optimizer_step(self, *args, **kwargs)
        seen.append(weight.detach().double().clone())
        return result

    start = weight.detach().double().clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        average = train(model, dataset, config, log=records.append)
    reference = start
    for step, value in enumerate(seen):
        decay = min(0.8, (1 + step) / (10 + step))
        reference = decay * reference + (1 - decay) * value
    assert len(seen) == 20 and not torch.equal(seen[-1], start)
    torch.testing.assert_close(dict(average.named_parameters())[name].double(), reference, rtol=1e-5, atol=1e-6)
    assert groups == [(learning_rate(step, settings), 0.3) for step in range(20)]
    assert max(norms) == pytest.approx(0.01, rel=1e-3)
    assert not average.training
    assert records[-1]["validation_bpd"] == validation_bpd(average, dataset, None)
    assert validation_bpd(average, dataset, None) != validation_bpd(model.eval(), dataset, None)


@pytest.mark.parametrize("importance", [True, False])
def test_importance_times_are_used_when_asked(importance, monkeypatch):
    made = []
    monkeypatch.setattr("ndm.training.loop.ImportanceTimes", lambda: made.append(1) or ndm.ImportanceTimes())
    trained(replace(SMALL, training=replace(SMALL.training, steps=2, importance_times=importance)))
    assert bool(made) is importance


def test_a_seed_repeats_the_weights_exactly_and_another_does_not():
    first, second, other = (trained(replace(SMALL, seed=s)).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_the_log_holds_the_terms_and_they_add_up():
    records = []
    trained(SMALL, records.append)
    line = next(r for r in records if "bpd" in r)
    assert line["step"] == 20
    total = line["prior_bpd"] + line["diffusion_bpd"] + line["reconstruction_bpd"]
    assert line["bpd"] == pytest.approx(total, rel=1e-5)
    assert [r["step"] for r in records if "validation_bpd" in r] == [10, 20]


@pytest.mark.parametrize(
    "model",
    [
        {"transform": "linear", "rotation": "learned"},
        {"transform": "time_basis", "predict_curve": True, "tied_to": "noise"},
        {"transform": "network"},
        {"schedule": "learned", "variance": True, "parameterization": "eps"},
        {"schedule": "stepwise", "variance": True},
        {"schedule": "cosine", "parameterization": "x"},
    ],
)
def test_every_option_trains_and_lowers_its_bound(model):
    steps = 5 if model.get("variance") else None
    config = replace(
        SMALL,
        model=replace(SMALL.model, **model),
        training=replace(SMALL.training, steps=60, bound_steps=steps, learning_rate=5e-3, evaluate_every=30),
    )
    records = []
    trained(config, records.append)
    values = [r["validation_bpd"] for r in records if "validation_bpd" in r]
    assert values[-1] < values[0]


def test_a_loss_that_is_not_finite_stops_with_advice():
    config = replace(SMALL, training=replace(SMALL.training, learning_rate=1e30, clip=1e30))
    with pytest.raises(ndm.InputError, match=r"step \d+; lower training.learning_rate"):
        trained(config)


def test_eta_is_drawn_log_uniformly_one_per_row_and_changes_the_training():
    """n = 4000 draws in [1/4, 4]: the mean of log eta within 4 standard errors of 0, its range nearly filled."""
    x = torch.zeros(4000, 1)
    assert random_eta(x, 1.0, torch.Generator()) is None
    log_eta = random_eta(x, 4.0, torch.Generator().manual_seed(0)).log()
    width = torch.tensor(4.0).log()
    assert log_eta.abs().max() <= width and log_eta.max() > 0.99 * width and log_eta.min() < -0.99 * width
    assert log_eta.mean().abs() < 4 * width / 3**0.5 / 4000**0.5
    weights = [
        trained(replace(SMALL, training=replace(SMALL.training, steps=3, eta_range=r))).state_dict() for r in (1.0, 4.0)
    ]
    assert not all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_ctrl_c_returns_the_average_so_far():
    dataset = load_dataset("digits")
    calls, records = [], []

    class Interrupting:
        validation = dataset.validation

        def batch(self, *args):
            calls.append(1)
            if len(calls) == 8:
                raise KeyboardInterrupt
            return dataset.batch(*args)

    average = train(make_model(SMALL, dataset), Interrupting(), SMALL, log=records.append)
    assert records[-1]["interrupted"] and records[-1]["step"] == 7
    assert torch.isfinite(ndm.bound(average, dataset.test[:2]).total).all()


def test_a_run_refuses_to_be_replaced_and_reads_back(tmp_path):
    run = Run.create(tmp_path / "run", SMALL)
    run.log({"step": 1})
    assert run.config == SMALL and run.metrics() == [{"step": 1}]
    with pytest.raises(ndm.InputError, match="already holds a run.*--overwrite"):
        Run.create(tmp_path / "run", SMALL)
    assert run.metrics() == [{"step": 1}]
    with pytest.raises(ndm.InputError, match="no model yet"):
        Run.open(tmp_path / "run")
    with pytest.raises(ndm.InputError, match="not a run folder"):
        Run.open(tmp_path)


@pytest.mark.parametrize("name", ["ring", "checkerboard"])
def test_a_toy_is_learned_and_its_likelihoods_stay_above_the_entropy(name):
    """After 600 steps: bound and ODE NLL of 2000 test rows, minus the entropy, at least -3 standard errors (the ODE's
    against the exact log-density of the same rows); and both better than a Gaussian's."""
    config = Config(
        data=DataConfig(name),
        model=ModelConfig(gamma_min=-8.0, transform="linear", tied_to="noise", width=64, depth=2, dropout=0.0),
        training=TrainingConfig(
            steps=600, batch_size=256, learning_rate=4e-3, warmup=50, ema_decay=0.99, evaluate_every=0
        ),
    )
    dataset = load_dataset(name)
    model, x = trained(config), dataset.test
    truth = -dataset.distribution.log_prob(x.double())
    gaussian = 1 + torch.log(torch.tensor(2 * torch.pi)) + torch.logdet(x.T.cov()) / 2
    total = torch.stack([ndm.bound(model, x).total.detach() for _ in range(10)]).mean(0)
    ode = -ndm.log_prob(model, x[:300], rtol=1e-4, atol=1e-4)
    for nll, reference in ((total, truth), (ode, truth[:300])):
        finite = torch.isfinite(reference)
        gap = (nll - reference)[finite]
        assert gap.mean() > -3 * gap.std() / len(gap) ** 0.5
        assert nll.mean() < gaussian
