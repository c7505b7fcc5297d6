"""Training: the learning rate, the average of the weights, exact repetition, and models that learn."""

import copy
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import ndm
from ndm.data import DataConfig, Dataset, load_dataset
from ndm.experiment import Config, ModelConfig, Run, make_model
from ndm.likelihood import bits_per_dim
from ndm.objective import draw
from ndm.support.progress import progress_bar
from ndm.support.tensors import seeded
from ndm.training import Checkpoints, Trainer, TrainingConfig, learning_rate, train
from ndm.training.loss import Loss
from ndm.training.validation import validation_nats

pytestmark = pytest.mark.usefixtures("float32")


SMALL = Config(
    model=ModelConfig(width=16, depth=1),
    training=TrainingConfig(steps=20, batch_size=16, warmup=4, evaluate_every=10),
)


def trained(config, log=lambda _: None):
    dataset = load_dataset(config.data.name)
    torch.manual_seed(config.seed)
    return train(make_model(config, dataset), dataset, config.training, config.seed, log=log)


def test_learning_rate_is_the_papers():
    """The rate is exactly 1e-8 at step 0 and at the last step, and the peak at the end of the warm-up.

    Midway in the rise and in the fall it is halfway between the two.
    """
    config = TrainingConfig(steps=111, warmup=10, learning_rate=0.5)
    assert learning_rate(0, config) == 1e-8
    assert learning_rate(5, config) == 1e-8 + (0.5 - 1e-8) / 2
    assert learning_rate(10, config) == 0.5
    assert learning_rate(60, config) == 1e-8 + (0.5 - 1e-8) / 2
    assert learning_rate(110, config) == 1e-8
    rates = [learning_rate(step, config) for step in range(111)]
    assert np.diff(rates[:11]) == pytest.approx(0.05, rel=1e-6)
    assert np.diff(rates[10:]) == pytest.approx(-0.005, rel=1e-6)
    assert learning_rate(0, replace(config, warmup=0)) == 0.5


def test_a_limit_of_time_makes_the_learning_rate_fall_by_its_end():
    """The fall follows the time where more of it has passed than of the steps; the rise knows no time."""
    config = TrainingConfig(steps=111, warmup=10, learning_rate=0.5, max_seconds=20.0)
    assert learning_rate(5, config, 19.0) == learning_rate(5, replace(config, max_seconds=None))
    assert learning_rate(20, config, 15.0) == 1e-8 + (0.5 - 1e-8) / 4
    assert learning_rate(60, config, 2.0) == learning_rate(60, replace(config, max_seconds=None))
    assert learning_rate(20, config, 25.0) == 1e-8
    assert learning_rate(0, replace(config, warmup=0, steps=1)) == 0.5
    long = replace(config, steps=20, warmup=300)
    assert learning_rate(10, long) == 0.5 and learning_rate(19, long) == 1e-8


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
        average = train(model, dataset, config.training, config.seed, log=records.append)
    reference = start
    for step, value in enumerate(seen):
        decay = min(0.8, (1 + step) / (10 + step))
        reference = decay * reference + (1 - decay) * value
    assert len(seen) == 20 and not torch.equal(seen[-1], start)
    torch.testing.assert_close(dict(average.named_parameters())[name].double(), reference, rtol=1e-5, atol=1e-6)
    assert groups == [(learning_rate(step, settings), 0.3) for step in range(20)]
    assert max(norms) == pytest.approx(0.01, rel=1e-3)
    assert not average.training
    value = lambda m: bits_per_dim(validation_nats(m, dataset.validation, None).item() / 150, dataset.validation)  # noqa: E731
    validations = [record["validation_bpd"] for record in records if "validation_bpd" in record]
    assert validations == [value(average)]
    assert value(average) != value(model.eval())


def test_one_process_asks_its_device_for_no_float64(monkeypatch):
    """Some devices have no float64."""
    dataset, seen = load_dataset("digits"), []
    trainer = Trainer(make_model(SMALL, dataset), dataset, SMALL.training)
    reduce = trainer.accelerator.reduce
    monkeypatch.setattr(trainer.accelerator, "reduce", lambda x, *a: seen.append(x.dtype) or reduce(x, *a))
    trainer.run()
    assert seen and torch.float64 not in seen


@pytest.mark.parametrize("uniform", [0.1, 0.5, 1.0])
def test_the_share_of_uniform_times_is_the_one_asked_for(uniform):
    config = replace(SMALL, training=replace(SMALL.training, uniform_times=uniform))
    times = Loss(make_model(config, load_dataset("digits")), config.training).times
    assert isinstance(times, ndm.ImportanceTimes) is (uniform < 1)
    if uniform < 1:
        times.seen.fill_(True)
        times.second_moment[1:] = 0  # all that is not uniform falls into the first of 64 bins
        t, weight = times(torch.zeros(6400, 1))
        assert (t >= 1 / 64).float().mean() == pytest.approx(uniform * 63 / 64, abs=1e-3)
        assert (weight / 64 * (t >= 1 / 64)).max() == pytest.approx(1 / uniform / 64)


def test_a_schedule_of_ten_steps_is_not_trained_in_continuous_time():
    process = ndm.ForwardProcess(ndm.StepwiseSchedule(-4.0, 5.0, steps=10))
    model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((1, 8, 8), width=16)), ndm.CategoricalDecoder(17))
    with pytest.raises(ndm.InputError, match="does not allow continuous time"):
        Trainer(model, load_dataset("digits"), SMALL.training)


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


class Poisoned(nn.Module):
    """A network whose output is infinite in some of its calls."""

    def __init__(self, net, calls):
        super().__init__()
        self.net, self.bad, self.calls = net, calls, 0

    def forward(self, *args):
        self.calls += 1
        return self.net(*args) / (0.0 if self.calls - 1 in self.bad else 1.0)


def poisoned(calls):
    dataset = load_dataset("digits")
    torch.manual_seed(0)
    model = make_model(SMALL, dataset)
    nn.init.ones_(model.predictor.net.head.bias)
    model.predictor.net = Poisoned(model.predictor.net, calls)
    return model, dataset


def test_a_step_without_a_finite_gradient_is_skipped_counted_and_its_rows_are_logged():
    """Steps 3 and 7 of 20 do not change the weights.

    The logged rows are those of the batch.
    """
    records, settings = [], replace(SMALL.training, evaluate_every=0)
    model, dataset = poisoned({3, 7})
    trainer = Trainer(model, dataset, settings, log=records.append)
    before, moved = [p.clone() for p in model.parameters()], []
    gradient = trainer.gradient

    def watch():
        now = [p.detach().clone() for p in model.parameters()]
        moved.append(not all(torch.equal(a, b) for a, b in zip(before, now, strict=True)))
        before[:] = now
        return gradient()

    trainer.gradient = watch
    average = trainer.run()
    assert [step for step in range(1, 20) if not moved[step]] == [4, 8]  # what the step before it did
    skips = [record for record in records if "skipped" in record]
    assert [(r["step"], r["skipped"]) for r in skips] == [(4, 1), (8, 2)]
    assert torch.equal(dataset.train[skips[1]["rows"]], dataset.batch(16, 0, 7))
    assert all(torch.isfinite(p).all() for p in average.parameters())


def test_too_many_skipped_steps_in_a_row_stop_the_run_with_a_good_checkpoint(tmp_path):
    settings = replace(SMALL.training, max_skipped=3)
    model, dataset = poisoned({4, *range(6, 20)})
    trainer = Trainer(model, dataset, settings, folder=tmp_path)
    with pytest.raises(ndm.InputError, match=r"3 steps in a row.*the last is step 9.*lower training.learning_rate"):
        trainer.run()
    state = Checkpoints(tmp_path / "checkpoints").latest()
    assert state.step == 8 and state.values["skipped"] == 3  # whoever goes on makes the last of the four again
    assert all(torch.isfinite(value).all() for value in state.tensors.values())


@pytest.mark.parametrize(("bad", "saved"), [({0, 1}, 1), ({0, 1}, 2), ({3, 4}, 4)])
def test_a_run_goes_on_exactly_from_between_skipped_steps(bad, saved, tmp_path):
    """A run resumes before the optimiser's first step, after it, and between two skipped steps in a row."""
    config = replace(SMALL, training=replace(SMALL.training, checkpoint_every=saved, steps=8, evaluate_every=0))

    def trainer(bad, folder=tmp_path):
        model, dataset = poisoned(bad)
        return Trainer(model, dataset, config.training, config.seed, folder=folder)

    whole, states = trainer(bad), {}
    save = whole.save
    whole.save = lambda: states.update({whole.step: copy.deepcopy(whole.state())}) or save()
    expected = whole.run().state_dict()
    unsaved = trainer(bad, folder=None).run().state_dict()
    assert all(torch.equal(expected[k], unsaved[k]) for k in expected)  # saving changes nothing
    second = trainer({call - saved for call in bad})
    second.load(states[saved])
    assert second.skipped_in_a_row == len([b for b in bad if b < saved])
    found = second.run().state_dict()
    assert second.skipped == 2 and all(torch.equal(expected[k], found[k]) for k in expected)


def test_eta_is_drawn_log_uniformly_one_per_row_and_changes_the_training():
    """n = 4000 draws in [1/4, 4].

    The mean of log eta is within 4 standard errors of 0, and its range is nearly filled.
    """
    x, model = torch.zeros(4000, 1), make_model(SMALL, load_dataset("digits"))
    losses = [Loss(model, replace(SMALL.training, eta_range=r)) for r in (1.0, 4.0)]
    assert losses[0].draw_eta(x, torch.Generator()) is None
    log_eta = losses[1].draw_eta(x, torch.Generator().manual_seed(0)).log()
    width = torch.tensor(4.0).log()
    assert log_eta.abs().max() <= width and log_eta.max() > 0.99 * width and log_eta.min() < -0.99 * width
    assert log_eta.mean().abs() < 4 * width / 3**0.5 / 4000**0.5
    weights = [
        trained(replace(SMALL, training=replace(SMALL.training, steps=3, eta_range=r))).state_dict() for r in (1.0, 4.0)
    ]
    assert not all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_with_a_checkpoint_from_which_a_run_goes_on_exactly(number, tmp_path):
    config = replace(SMALL, model=replace(SMALL.model, dropout=0.2))
    dataset, records = load_dataset("digits"), []

    def trainer(folder=None, log=lambda _: None):
        torch.manual_seed(0)
        return Trainer(make_model(config, dataset), dataset, config.training, config.seed, log=log, folder=folder)

    whole = trainer().run().state_dict()
    first = trainer(tmp_path, records.append)
    gradient = first.gradient

    def kill():
        if first.step == 7:
            os.kill(os.getpid(), number)
        return gradient()

    first.gradient = kill
    average = first.run()
    assert torch.isfinite(ndm.bound(average, dataset.test[:2]).total).all()
    assert records[-1]["interrupted"] == signal.Signals(number).name and records[-1]["step"] == 8
    second = trainer(tmp_path)
    second.load(second.checkpoints.latest())
    assert second.step == 8
    resumed = second.run().state_dict()
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    assert not all(torch.equal(whole[k], average.state_dict()[k]) for k in whole)


def test_a_run_refuses_to_be_replaced_and_reads_back(tmp_path):
    run = Run.create(tmp_path / "run", SMALL)
    run.log({"step": 1})
    assert run.config == SMALL and run.metrics() == [{"step": 1}]
    with pytest.raises(ndm.InputError, match="already holds a run.*--overwrite, or go on with ndm train --resume"):
        Run.create(tmp_path / "run", SMALL)
    assert run.metrics() == [{"step": 1}]
    with pytest.raises(ndm.InputError, match="no model yet"):
        Run.open(tmp_path / "run")
    with pytest.raises(ndm.InputError, match="not a run folder"):
        Run.open(tmp_path)


def test_a_run_does_not_replace_files_that_no_run_has_written(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.bin").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ndm.InputError, match="would replace model in it; choose another --out"):
            Run.create(tmp_path, SMALL, overwrite)
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "mine.bin"]


def test_a_run_refuses_other_data_than_it_was_trained_on(tmp_path):
    """The test rows of the other data may have been training rows."""
    file, x = tmp_path / "x.npz", np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(file, x_train=x[:30], x_test=x[30:])
    config = replace(SMALL, data=DataConfig("array", str(file)), training=replace(SMALL.training, steps=2))
    run = Run.create(tmp_path / "run", config)
    run.train(load_dataset("array", str(file)))
    assert run.load_dataset().test.shape == (10, 1, 8, 8)
    np.savez(file, x_train=x[10:], x_test=x[:10])
    with pytest.raises(ndm.InputError, match="data have changed since"):
        run.load_dataset()
    with pytest.raises(ndm.InputError, match="data have changed since"):
        run.train(load_dataset("array", str(file)), resume=True)


def test_time_left_is_shown_when_the_bar_moves_once_a_minute():
    clock = iter(range(0, 10**6, 10))
    with progress_bar("training", 100) as bar:
        bar.get_time = lambda: float(next(clock))
        for step in range(1, 6):
            for _ in range(6):
                bar.get_time()
            bar.update(bar.task_ids[0], completed=step)
        assert bar.tasks[0].time_remaining == pytest.approx(95 * 60, rel=0.5)


@pytest.mark.parametrize("name", ["ring", pytest.param("checkerboard", marks=pytest.mark.slow)])
def test_a_toy_is_learned_and_its_likelihoods_stay_above_the_entropy(name):
    """After 400 steps, the bound and the ODE's NLL are at least the exact NLL of the same rows - 3 standard errors.

    The bound is over 2000 test rows, and the ODE's NLL over the first 100. Both are better than those of a Gaussian.
    """
    config = Config(
        data=DataConfig(name),
        model=ModelConfig(gamma_min=-8.0, transform="linear", tied_to="noise", width=64, depth=2, dropout=0.0),
        training=TrainingConfig(
            steps=400, batch_size=128, learning_rate=4e-3, warmup=50, ema_decay=0.99, evaluate_every=0
        ),
    )
    dataset = load_dataset(name)
    model, x = trained(config), dataset.test
    truth = -dataset.distribution.log_prob(x.double())
    gaussian = 1 + torch.log(torch.tensor(2 * torch.pi)) + torch.logdet(x.T.cov()) / 2
    total = torch.stack([ndm.bound(model, x).total.detach() for _ in range(5)]).mean(0)
    ode = -ndm.log_prob(model, x[:100], solver=ndm.Solver(rtol=1e-4, atol=1e-4))
    for nll, reference in ((total, truth), (ode, truth[:100])):
        finite = torch.isfinite(reference)
        gap = (nll - reference)[finite]
        assert gap.mean() > -3 * gap.std() / len(gap) ** 0.5
        assert nll.mean() < gaussian


def test_gradients_are_those_of_the_step_alone_with_its_own_noise():
    """Three steps have a learning rate of zero.

    Each gradient must be that of the seeded bound of the seeded batch.
    """
    settings = replace(SMALL.training, steps=3, learning_rate=0.0, clip=1e30, uniform_times=1.0, evaluate_every=0)
    config = replace(SMALL, model=replace(SMALL.model, dropout=0.0), training=settings)
    dataset, seen = load_dataset("digits"), []
    model = make_model(config, dataset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.optim.AdamW, "step", lambda *_, **__: seen.append([p.grad.clone() for p in model.parameters()])
        )
        train(model, dataset, config.training)
    for step, gradients in enumerate(seen):
        x = dataset.batch(16, 0, step)
        total = ndm.bound(model, x, generator=seeded(0, 0, step, 0)).total
        expected = torch.autograd.grad(bits_per_dim(total, x).mean(), model.parameters())
        torch.testing.assert_close(gradients, list(expected))
    assert len(seen) == 3


def test_neither_a_step_nor_a_likelihood_makes_the_text_of_a_tensor(monkeypatch):
    config = replace(SMALL, training=replace(SMALL.training, steps=2, evaluate_every=1))
    model, x = trained(config), torch.zeros(4, 1, 8, 8)
    monkeypatch.setattr(torch.Tensor, "__repr__", lambda _: pytest.fail("the text of a tensor costs milliseconds"))
    trained(config)
    ndm.bits_per_dim(ndm.bound(model, x).total, x)
    ndm.log_prob(model, x, solver=ndm.Solver("heun", steps=2))
    ndm.sample(model, 2, steps=2)


def test_validation_is_the_mean_bound_of_the_validation_rows():
    dataset = load_dataset("digits")
    model, x, generator = make_model(SMALL, dataset).eval(), dataset.validation, seeded(0, 0)
    bounds = [bits_per_dim(ndm.bound(model, x, generator=generator).total.detach(), x).mean() for _ in range(6)]
    records = []
    frozen = replace(SMALL, training=replace(SMALL.training, steps=1, learning_rate=0.0, weight_decay=0.0, warmup=0))
    train(model, dataset, replace(frozen.training, evaluate_every=1), log=records.append)
    assert records[-1]["validation_bpd"] == pytest.approx(torch.stack(bounds).mean().item(), rel=1e-6)


def test_dropout_is_a_function_of_step_part_and_process(monkeypatch):
    """The rows, times and noise are the same, so only dropout can differ."""
    monkeypatch.setattr("ndm.training.loss.seeded", lambda *_: torch.Generator().manual_seed(0))
    monkeypatch.setattr("ndm.training.loss.draw", lambda x, times, generator, *_: draw(x, times, generator))
    config = replace(SMALL, model=replace(SMALL.model, dropout=0.5))
    model, x = make_model(config, load_dataset("digits")), load_dataset("digits").train[:16]
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)

    def value(step, part, rank):
        return Loss(model, SMALL.training, 0, rank, 2).train()(x, step, part).sum().item()

    values = [value(*key) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    assert len(set(values)) == 4
    assert value(1, 0, 0) == values[1]


def test_tensorboard_gets_the_numbers_of_the_log(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    records = []
    config = replace(SMALL, training=replace(SMALL.training, trackers=["tensorboard"]))
    dataset = load_dataset("digits")
    Trainer(make_model(config, dataset), dataset, config.training, log=records.append, folder=tmp_path).run()
    (file,) = (tmp_path / "ndm").glob("events*")
    events = reader.EventAccumulator(str(file))
    events.Reload()
    for key in ("bpd", "gradient_norm", "validation_bpd"):
        logged = {record["step"]: record[key] for record in records if key in record}
        assert {e.step: e.value for e in events.Scalars(key)} == pytest.approx(logged, rel=1e-6)


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ndm.InputError, match="wandb is not installed"):
        trained(replace(SMALL, training=replace(SMALL.training, trackers=["wandb"])))


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("transform", ["identity", "network"])
def test_a_compiled_loss_trains_the_same_model(transform):
    """The loss and the gradient norm of the third step agree.

    Weights need not agree: where a gradient is almost 0, Adam turns its rounding into full steps.
    """
    config = replace(SMALL, model=replace(SMALL.model, transform=transform, transform_width=8, dropout=0.0))
    config = replace(config, training=replace(config.training, steps=3))
    compiled = replace(config, training=replace(config.training, compile=True))
    logs = []
    for c in (config, compiled):
        records = []
        trained(c, records.append)
        logs.append(records[0])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    for key in ("bpd", "gradient_norm"):
        assert logs[1][key] == pytest.approx(logs[0][key], rel=1e-4)


WRONG = [
    ({"optimizer": "sgd"}, "optimizer must be one of adamw, adam, got 'sgd'"),
    ({"precision": "fp16"}, "precision must be one of fp32, bf16"),
    ({"steps": 2.5}, "steps must be a whole number, got 2.5"),
    ({"steps": True}, "steps must be a whole number, got True"),
    ({"steps": "5"}, "steps must be a whole number, got '5'"),
    ({"evaluate_every": 1.5}, "evaluate_every must be a whole number"),
    ({"bound_steps": 2.5}, "bound_steps must be a whole number or null"),
    ({"batch_size": None}, "batch_size must be a whole number, got None"),
    ({"learning_rate": "1"}, "learning_rate must be a finite number, got '1'"),
    ({"clip": float("nan")}, "clip must be a finite number, got nan"),
    ({"compile": 1}, "compile must be true or false"),
    ({"trackers": ["sacred"]}, "trackers must be a list of one of tensorboard, wandb"),
    ({"eta_range": 1e30}, "eta_range must be at most 1e"),
]


@pytest.mark.parametrize(("given", "message"), WRONG, ids=[str(given) for given, _ in WRONG])
def test_a_setting_of_another_kind_is_refused(given, message):
    with pytest.raises(ndm.InputError, match=f"training.{message}"):
        TrainingConfig(**given)


def test_settings_of_models_and_data_have_their_kinds_too():
    for make, message in (
        (lambda: ModelConfig(width="8"), "model.width must be a whole number"),
        (lambda: ModelConfig(rotation="some"), "model.rotation must be one of none, learned"),
        (lambda: DataConfig(flip="yes"), "data.flip must be true or false"),
        (lambda: Config(training={"steps": 3}), "training must be a TrainingConfig"),
    ):
        with pytest.raises(ndm.InputError, match=message):
            make()


ROWS = torch.randn(20, 2, dtype=torch.float32)
FEW = TrainingConfig(steps=2, batch_size=4, evaluate_every=1)


def rows_of(train=ROWS, validation=ROWS):
    return Dataset("mine", train, validation, ROWS)


def flat_model():
    process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0))
    return ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,), width=8, depth=1)), ndm.GaussianDecoder())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rows_of(ROWS.tolist()), "train rows of the data set mine: .*got list"),
        (lambda: rows_of(ROWS[:0]), "train rows .* at least one row"),
        (lambda: train(flat_model(), rows_of(ROWS, ROWS[:0]), FEW), "no validation rows; set training.evaluate_every"),
        (lambda: rows_of(ROWS.to_sparse()), "train rows .* plain tensor"),
        (lambda: rows_of(ROWS.to("meta")), "train rows .* on the device meta"),
        (lambda: rows_of().batch(0, 0, 0), "size must be a whole number and at least 1, got 0"),
        (lambda: rows_of().batch(1, -1, 0), "seed must be a whole number and at least 0, got -1"),
        (lambda: rows_of().batch(1, 0, 0.5), "step must be a whole number and at least 0, got 0.5"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(make, message):
    with pytest.raises(ndm.InputError, match=message):
        make()


def test_rows_of_numpy_are_trained_on():
    rows = ROWS.numpy()
    train(flat_model(), Dataset("mine", rows, rows, rows), FEW)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": nn.Linear(2, 2)}, "model must be an ndm.NDM, got Linear"),
        ({"dataset": (ROWS, ROWS)}, "dataset must be a Dataset, got tuple"),
        ({"settings": {"steps": 3}}, "settings must be a TrainingConfig, got dict"),
        ({"device": "gpu"}, "device 'gpu' is not available"),
        ({"folder": 3}, "folder must be a str or a Path"),
        *(({"seed": seed}, "seed must be") for seed in (-1, "a", 1.5, None, 2**63)),
    ],
)
def test_a_trainer_refuses_arguments_of_another_kind(given, message):
    with pytest.raises(ndm.InputError, match=message):
        Trainer(**({"model": flat_model(), "dataset": rows_of(), "settings": FEW} | given))


def test_a_folder_given_as_text_gets_the_checkpoints(tmp_path):
    Trainer(flat_model(), rows_of(), FEW, folder=str(tmp_path)).run()
    assert Checkpoints(tmp_path / "checkpoints").steps()


def small():
    torch.manual_seed(0)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0))
    return ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,), width=8, depth=1)), ndm.GaussianDecoder())


ROWS = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
SHORT = TrainingConfig(steps=4, batch_size=8, evaluate_every=2)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.autograd.set_detect_anomaly(True)])
def test_training_and_figures_inside_of_no_grad_inference_mode_and_anomaly_detection_are_those_outside(mode, tmp_path):
    dataset = Dataset("rows", ROWS, ROWS[:8], ROWS)
    first = train(small(), dataset, SHORT)
    first.save_pretrained(tmp_path)
    figure = ndm.log_prob(first, ROWS[:3])
    model = small()
    with mode():
        second, loaded = train(model, dataset, SHORT), ndm.NDM.from_pretrained(tmp_path)
        assert torch.equal(ndm.log_prob(first, ROWS[:3]), figure)
    for other in (second, loaded):
        assert torch.equal(ndm.log_prob(other, ROWS[:3]), figure)
        ndm.bound(other.requires_grad_(True), ROWS).total.mean().backward()  # what it gives can be trained on


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model": "frozen"}, "no weights that train; call model.requires_grad_"),
        ({"model": "inference"}, "made in torch.inference_mode, so it has no gradients"),
        ({"rows": 60}, r"the training rows of the data set rows: .* not finite in 1 of 64 rows \(first: row 60\)"),
        ({"log": 3}, "log and picture must be functions, got 3"),
        ({"picture": "x.png"}, "log and picture must be functions, got 'x.png'"),
    ],
)
def test_what_would_fail_after_hours_of_training_is_refused_before_it(change, match):
    rows = ROWS.clone()
    kind = change.get("model")
    change = {name: value for name, value in change.items() if name != "model"}
    with torch.inference_mode(kind == "inference"):
        model = small()
    if kind == "frozen":
        model.requires_grad_(False)
    if "rows" in change:
        rows[change.pop("rows")] = float("nan")
    with pytest.raises(ndm.InputError, match=match):
        Trainer(model, Dataset("rows", rows, ROWS[:8], ROWS), SHORT, **change)
    if "inference" in match:
        with pytest.raises(ndm.InputError, match=match):
            ndm.bound(model, ROWS)
        with torch.no_grad():
            assert torch.isfinite(ndm.bound(model, ROWS).total).all()
