"""What the bound needs of F is tried before a training: every fault is told, and no part of the package has one."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import ndm
from ndm.data import Dataset, load_dataset, shape_of
from ndm.evaluation.diagnosis import diagnose
from ndm.experiment import make_config
from ndm.experiment.build import build_model, make_decoder, seeded_model
from ndm.experiment.recipe import read_config, recipes
from ndm.experiment.variants import VARIANTS
from ndm.soundness import check_forward, problems
from ndm.training import Trainer, TrainingConfig
from ndm.transform import TRANSFORMS


class Line(ndm.Curve):
    """start + t slope, which says that it starts at x, and that its derivative is ``said``."""

    def __init__(self, x, start, slope, said, log_scale=0.0):
        self.x, self.start, self.slope, self.said, self.log_scale = x, start, slope, said, log_scale

    def __call__(self, t):
        return self.start + t[:, None] * self.slope

    def with_derivative(self, t):
        return self(t), self.said

    def scaled(self, t):
        return self(t), None if self.log_scale == 0 else torch.full_like(self.x, self.log_scale)

    def scaled_with_derivative(self, t):
        value, scale = self.scaled(t)
        return value, self.said, scale, None if scale is None else torch.zeros_like(scale)


class Own(ndm.Transform):
    """x + t w x, with a fault; its weight begins at a value where some faults do not show."""

    def __init__(self, fault="", weight=0.5):
        super().__init__()
        self.fault = fault
        self.weight = nn.Parameter(torch.tensor([weight]))

    def forward(self, x):
        slope = self.weight * x
        if self.fault == "start":
            return Line(x, x + 0.1 * slope, slope, slope)
        if self.fault == "own start":  # the curve tells the truth about where it starts
            return ndm.BasisCurve(x + slope, slope)
        if self.fault == "derivative":
            return Line(x, x, slope, 2 * slope)
        if self.fault == "value":
            curve = Line(x, x, slope, slope)
            curve.with_derivative = lambda t: (x, slope)
            curve.scaled_with_derivative = lambda t: (x, slope, None, None)
            return curve
        if self.fault == "scale":
            return Line(x, x, slope, slope, log_scale=0.2)
        if self.fault == "rows":
            return ndm.BasisCurve(x, slope * x.norm())
        if self.fault == "float32":
            return ndm.BasisCurve(x, x @ torch.eye(x.shape[1], dtype=torch.float32))
        return ndm.BasisCurve(x, slope)


def model_of(fault="", weight=0.5, decoder=None):
    process = ndm.ForwardProcess(ndm.LinearSchedule(-8.0, 6.0), Own(fault, weight))
    net = ndm.nn.MLP((2,), width=8, depth=1)
    return ndm.NDM(process, ndm.Predictor(net, "v"), ndm.GaussianDecoder() if decoder is None else decoder)


ROWS = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
NO_BOUND = {
    "start": r"at t = 0 the curve has another value than curve\.x.*so the loss is no bound; let the curve start at x",
    "own start": r"F\(x, 0\) is not x.*GaussianDecoder has the reconstruction term in closed form",
    "scale": r"S\(x, 0\) is not 1.*so the loss is no bound; let log S",
    "rows": "depends on the other rows of its batch.*so the loss is no bound",
    "derivative": r"with_derivative\(t\).* wrong time derivative.*off by .* so the loss is no bound",
    "value": r"with_derivative\(t\).* gives another value.* so the loss is no bound",
}


@pytest.mark.parametrize("weight", [0.5, 0.0])
@pytest.mark.parametrize("fault", NO_BOUND)
def test_an_f_without_a_bound_is_refused_in_one_line_and_a_weight_of_zero_hides_nothing(fault, weight):
    with pytest.raises(ndm.InputError, match=NO_BOUND[fault]) as told:
        check_forward(model_of(fault, weight), ROWS)
    assert "\n" not in str(told.value)
    hidden = weight == 0.0 and fault != "scale"
    assert ("after a small change of its weights" in str(told.value)) == hidden


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sound_f_has_no_problem_and_the_model_stays_as_it_is(dtype):
    model = model_of().to(dtype).train()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    assert problems(model, ROWS) == [] and problems(model, ROWS, 10) == []
    assert model.training and torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) and value.dtype == before[name].dtype


def test_the_distance_of_the_starts_is_their_divergence():
    """KL of N(alpha a, sigma^2) and N(alpha b, sigma^2): e^-gamma (a - b)^2 / 2, summed over the row."""
    (found,) = problems(model_of("start"), ROWS[:2])
    nats = float(re.search(r"the two are (\S+) nats", found.text)[1])
    expected = torch.tensor(8.0).exp() * (0.1 * 0.5 * ROWS[:2]).square().sum(1).mean() / 2
    assert nats == pytest.approx(expected.item(), rel=0.01)


@pytest.mark.parametrize("fault", ["derivative", "value"])
def test_discrete_time_needs_no_derivative_so_the_bound_is_valid_and_a_warning_says_who_needs_it(fault):
    (text,) = check_forward(model_of(fault), ROWS, steps=10)
    assert text.endswith("does not need it, but the ODE, the SDE and the bound in continuous time do")


def test_a_decoder_that_computes_p_of_x_has_a_valid_bound_for_any_start_and_a_warning_tells_the_cost():
    levels, x = 5, torch.tensor([[1, 3], [3, 1]])
    model = model_of("own start", 1.0, ndm.CategoricalDecoder(levels))
    (text,) = check_forward(model, x, steps=10)
    assert "F(x, 0) is not x. The loss is a bound, but CategoricalDecoder looks for x in z_0 / alpha_0" in text
    assert check_forward(model_of("", 0.5, ndm.CategoricalDecoder(levels)), x, steps=10) == []


class Follows(ndm.Decoder):
    """A decoder that looks for x where the curve starts."""

    def encode(self, x):
        return x

    def nll(self, x, z_0, process):
        noise = process.schedule.start(z_0)
        return (z_0 / noise.alpha[:, None] - process.transform(x).x).square().sum(1)

    def decode(self, z_0, process, mode=False, generator=None):
        return z_0


def test_a_decoder_that_looks_for_x_where_the_curve_starts_is_left_alone():
    assert problems(model_of("own start", decoder=Follows()), ROWS) == []


def test_an_f_that_does_not_run_in_float64_is_not_tried_and_that_is_said():
    model = model_of("float32").float()
    (text,) = check_forward(model, ROWS)
    assert text.startswith("F was not tried, because it fails in float64 on cpu: RuntimeError: ")


def test_the_trainer_refuses_or_warns_before_its_first_step(capsys):
    data = Dataset("points", ROWS, ROWS, ROWS)
    settings = TrainingConfig(steps=1, batch_size=4, evaluate_every=0)
    with pytest.raises(ndm.InputError, match=r"at t = 0 the curve has another value than curve\.x"):
        Trainer(model_of("start"), data, settings)
    Trainer(model_of("derivative"), data, TrainingConfig(steps=1, batch_size=4, evaluate_every=0, bound_steps=10))
    assert re.fullmatch("ndm: warning: .*wrong time derivative.*\n", capsys.readouterr().err)
    Trainer(model_of(), data, settings)
    assert capsys.readouterr().err == ""


def test_the_doctor_says_first_what_is_wrong_with_f():
    sound, wrong = (diagnose(model_of(fault).eval(), ROWS, passes=1, solves=0).advice for fault in ("", "start"))
    assert (
        wrong[0].startswith("at t = 0 the curve has another value than curve.x") and "nothing stands out" not in wrong
    )
    assert not any("F(x, 0)" in line for line in sound)


def rows_of(config):
    """A decoder and a few rows like those of the data set of a recipe, which is not loaded."""
    name, size = config.data.name, config.data.size
    if name == "text" or name == "text8":
        rows = torch.randint(27, (4, size or 16))
        return Dataset(name, rows, rows, rows, levels=27, alphabet="abcdefghijklmnopqrstuvwxyz ")
    shape = shape_of(name, size) or (3, 8, 8)
    shape = (*shape[:-2], 8, 8) if len(shape) == 3 else shape
    if len(shape) == 3:
        rows = torch.randint(256, (4, *shape))
        return Dataset(name, rows, rows, rows, levels=256)
    return Dataset(name, *torch.randn(3, 4, *shape).unbind())


SMALL = {"width": 16, "depth": 1, "transform_width": 16, "transform_depth": 1}


def kinds_of_recipes():
    """A recipe for each combination of parts."""
    kinds = {}
    for name in recipes():
        m = read_config(name).model
        kinds.setdefault((m.transform, m.network, m.rotation, m.tied_to, m.schedule, m.num_basis), name)
    return sorted(set(kinds.values()) - {"table"})


@pytest.mark.parametrize("name", kinds_of_recipes())
def test_no_recipe_has_a_problem(name):
    config = read_config(name)
    sizes = {"unet": {"multipliers": [1, 2], "attention": [4], "heads": 2}, "transformer": {"heads": 2}}
    small = SMALL | sizes.get(config.model.network, {})
    config = replace(config, model=replace(config.model, **small))
    dataset = rows_of(config)
    model = seeded_model(config, dataset)
    assert problems(model, dataset.train, config.training.bound_steps) == []


@pytest.mark.parametrize("name", VARIANTS)
def test_no_variant_has_a_problem(name):
    digits = load_dataset("digits")
    settings = VARIANTS[name]["model"]
    for tied_to in {"time", "noise"} if settings.get("tied_to") is None else {settings["tied_to"]}:
        tree = {"model": {"tied_to": tied_to, **settings, **SMALL, "network": "mlp"}}
        model = build_model(make_config(tree), digits.shape, make_decoder(digits))
        assert problems(model, digits.train) == [] and problems(model, digits.train, 10) == []


def test_no_table_has_a_problem(capsys):
    """Numbers, rounded ones, a category and a missing value; the training tells problems as warnings or errors."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 60)
    frame = pd.DataFrame({"a": rng.standard_normal(60), "b": rng.integers(0, 5, 60), "c": np.array(list("pqr"))[codes]})
    frame.loc[3, "a"] = np.nan
    ndm.NeuralDiffusionDensity(max_steps=2, impute=True, random_state=0).fit(frame)
    assert "warning" not in capsys.readouterr().err


def test_every_transform_of_the_package_is_among_these():
    """A new transform needs a recipe or a variant above, or a line here."""
    own = {name for name, part in TRANSFORMS.items() if part.__module__.startswith("ndm.")}
    tried = {v["model"]["transform"] for v in VARIANTS.values()} | {read_config(n).model.transform for n in recipes()}
    assert own == tried
