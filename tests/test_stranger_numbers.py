"""What strangers did with version 0.1.0 and got wrong numbers, or results that nobody saw. See tests/faults.py.

These tests use only what 0.1.0 has too, so that they can fail there for the fault and for nothing else.
"""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import ndm
from ndm.cli import main
from ndm.data import load_dataset
from ndm.solvers import solve_ode

from conftest import TINY, bounded, refused

SAVED = Path(__file__).with_name("saved") / "0.1.0"
BOUND = ["--estimator", "bound", "--steps", "3", "--passes", "1", "--limit", "4", "--device", "cpu"]

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture
def saved(tmp_path):
    """A copy of a run of version 0.1.0."""
    shutil.copytree(SAVED, tmp_path / "saved")
    return tmp_path / "saved"


def small_model(decoder=None, shape=(3,), transform=None, dropout=0.0, gamma_min=-5.0):
    torch.manual_seed(0)
    net = ndm.nn.MLP(shape, width=8, depth=1, dropout=dropout)
    for p in net.parameters():
        nn.init.normal_(p, std=0.2)
    process = ndm.ForwardProcess(ndm.LinearSchedule(gamma_min, 5.0), transform)
    return ndm.NDM(process, ndm.Predictor(net), decoder or ndm.GaussianDecoder())


def finite_json(text):
    """A JSON text, which must not hold ``NaN`` or ``Infinity``."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def seeded():
    return torch.Generator().manual_seed(0)


# Section 1: numbers that are wrong without a word


@pytest.mark.parametrize("gamma_min", ["-60", "-40"])
def test_a_schedule_below_the_resolution_is_evaluated_right_or_refused(gamma_min, tmp_path, capsys):
    """Version 0.1.0 gave 27.0 bits/dim in float32 and 42.6 in float64 at -60, and 26.4 and 28.2 at -40."""
    run, found = str(tmp_path / "run"), []
    options = ["--model.gamma_min", gamma_min, "--training.steps", "2"]
    if main(["train", "digits-conventional", "--out", run, *TINY, *options]) == 2:
        return
    for dtype in ("float32", "float64"):
        capsys.readouterr()
        command = ["evaluate", run, "--estimator", "bound", "--steps", "continuous", "--passes", "4", "--json"]
        if main([*command, "--dtype", dtype, "--device", "cpu"]) == 2:
            return
        found.append(finite_json(capsys.readouterr().out)["estimates"][0]["bpd"])
    assert found[0] == pytest.approx(found[1], rel=0.01)


class Nothing(nn.Module):
    """A network of one weight, which predicts zero."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, z, t):
        return self.weight * z


@pytest.mark.parametrize("steps", [10**6, 10**7])
def test_a_bound_of_very_many_steps_is_right_or_refused(steps):
    """If zero is predicted, the diffusion term is (SNR(0) - SNR(1)) |x|^2 / 2 at every number of steps."""
    process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0))
    model = ndm.NDM(process, ndm.Predictor(Nothing(), "x"), ndm.GaussianDecoder())
    try:
        diffusion = ndm.bound(model, torch.ones(2**20, 1), steps=steps, generator=seeded()).diffusion
    except ndm.InputError:
        return
    assert diffusion.double().mean().item() == pytest.approx((math.exp(7) - math.exp(-5)) / 2, abs=0.02)


def test_ten_million_steps_on_the_command_line_are_no_nan(saved, capsys):
    command = ["evaluate", saved, "--estimator", "bound", "--steps", "10000000", "--passes", "4"]
    if main([*map(str, command), "--json", "--device", "cpu"]) == 0:
        assert math.isfinite(finite_json(capsys.readouterr().out)["estimates"][0]["bpd"])


@pytest.mark.parametrize("command", ["sample", "evaluate", "doctor", "quality"])
def test_no_command_ends_well_on_one_nan_among_the_weights(command, saved, tmp_path, capsys):
    file = saved / "model" / "model.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    tensors["predictor.net.stem.weight"][3, 3] = math.nan
    save_file(tensors, file, metadata)
    options = {"sample": ["--mode", "--num", "4", "--out", tmp_path / "x.npz"], "evaluate": BOUND}.get(command, [])
    refused([command, saved, *options], capsys)


@pytest.mark.parametrize("call", ["log_prob", "sample"])
def test_dropout_of_a_model_in_training_mode_makes_no_random_likelihood_or_samples(call):
    model, x = small_model(dropout=0.5).train(), torch.ones(4, 3)
    draw = {
        "log_prob": lambda: ndm.log_prob(model, x, solver="rk4"),
        "sample": lambda: ndm.sample(model, (4, 3), 5, generator=seeded()),
    }[call]
    try:
        first, second = draw(), draw()
    except ndm.InputError:
        return
    assert torch.equal(first, second)


@pytest.mark.parametrize("call", [ndm.bound, ndm.log_prob], ids=["bound", "log_prob"])
def test_rows_that_only_broadcast_to_a_mean_per_channel_are_refused(call):
    model = small_model(ndm.GaussianDecoder(torch.arange(3.0)))
    with pytest.raises(ndm.InputError, match=r"\(2, 1\)"):
        call(model, torch.zeros(2, 1))


def test_a_transform_whose_network_gives_one_column_is_refused():
    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 1)

        def forward(self, x, t):
            return self.inner(x)

    with pytest.raises(ndm.InputError, match=r"\(2, 1\)"):
        ndm.bound(small_model(transform=ndm.Network(Narrow())), torch.zeros(2, 3))


@pytest.mark.parametrize("method", ["posterior", "velocity"])
def test_latents_that_only_broadcast_are_refused(method):
    q, t = small_model().process(torch.zeros(2, 3)), torch.full((2,), 0.5)
    times = (t / 2, t) if method == "posterior" else (t,)
    with pytest.raises(ndm.InputError, match=r"\(2, 1\)"):
        getattr(q, method)(torch.zeros(2, 1), *times)


def test_a_field_that_only_broadcasts_is_refused():
    with pytest.raises(ndm.InputError, match=r"\(2, 1\)"):
        solve_ode(lambda t, z: -z[:, :1], torch.ones(2, 3), 0.0, 1.0, "rk4")


def test_the_mean_of_time_stamps_keeps_its_digits():
    """In float32 neighbours of 1.7e9 are 128 apart."""
    stamps = 1.7e9 + torch.tensor([[-1.0], [0.5], [2.0]], dtype=torch.float64)
    mean = torch.tensor([1.7e9 + 0.25], dtype=torch.float64)
    model = small_model(ndm.GaussianDecoder(mean, torch.ones(1)), shape=(1,))
    torch.testing.assert_close(model.encode(stamps), (stamps - mean).float())


@pytest.mark.parametrize(
    "statistics",
    [
        {"mean": torch.tensor([0.0, math.nan])},
        {"mean": torch.tensor([0.0, math.inf])},
        {"std": torch.tensor([1.0, math.inf])},
        {"std": torch.full((2,), math.nan)},  # as torch.zeros(1, 2).std(0)
        {"std": torch.tensor([[0.0, 1.0], [math.nan, 2.0]]).std(0)},
    ],
    ids=["mean NaN", "mean infinite", "std infinite", "std of one row", "std of a column with NaN"],
)
def test_the_cause_of_useless_statistics_is_named(statistics):
    with pytest.raises(ndm.InputError) as error:
        ndm.GaussianDecoder(**statistics)
    assert "not finite" in str(error.value) and "constant columns" not in str(error.value)


ACCEPTED = {
    "steps 2.5": lambda: ndm.bound(small_model(), torch.zeros(2, 3), steps=2.5),
    "complex x": lambda: ndm.bound(small_model(), torch.zeros(2, 3, dtype=torch.complex64)),
    "text for gamma": lambda: ndm.LinearSchedule("-7", "5"),
    "2.5 levels": lambda: ndm.CategoricalDecoder(2.5),
    "no steps": lambda: ndm.StepwiseSchedule(-7.0, 5.0, steps=0),
    "depth -1": lambda: ndm.nn.MLP((3,), depth=-1),
    "a start of NaN": lambda: solve_ode(lambda t, z: -z, torch.ones(2, 3), math.nan, 1.0, "rk4"),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_arguments_that_make_no_sense_are_refused(kind):
    with pytest.raises(ndm.InputError):
        ACCEPTED[kind]()


def test_uint8_pictures_of_256_levels_are_encoded():
    x = torch.tensor([[0, 128, 255]], dtype=torch.uint8)
    decoder = ndm.CategoricalDecoder(256)
    assert torch.equal(decoder.encode(x), decoder.encode(x.long()))


@pytest.mark.parametrize("factor", [1 / 16, 40], ids=["x/16", "up to 640"])
def test_samples_in_other_units_are_not_scored(factor, saved, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x=load_dataset("digits").train[:200].numpy() * factor)
    assert "0..16" in refused(["quality", saved, "--samples", tmp_path / "x.npz"], capsys)


def test_the_doctor_says_how_certain_its_figures_are_and_has_the_bound_of_evaluate(saved, capsys):
    assert main(["doctor", str(saved), "--json", "--limit", "64", "--device", "cpu"]) == 0
    doctor = json.dumps(finite_json(capsys.readouterr().out))
    assert "error" in doctor and '"rows": 64' in doctor
    command = ["evaluate", str(saved), "--split", "validation", "--limit", "64", "--estimator", "bound"]
    assert main([*command, "--steps", "continuous", "--json", "--device", "cpu"]) == 0
    bound = finite_json(capsys.readouterr().out)["estimates"][0]
    doctor = json.loads(doctor)
    total = doctor["prior"] + doctor["diffusion"] + doctor["reconstruction"]
    assert total == pytest.approx(bound["bpd"], abs=4 * bound["standard_error"])
    assert main(["doctor", str(saved), "--limit", "64", "--device", "cpu"]) == 0
    assert "64 rows" in capsys.readouterr().out


# Section 4: work first, checks later; results that are not shown


@pytest.fixture
def lazy(monkeypatch):
    """No model may be evaluated."""
    monkeypatch.setattr(ndm.NDM, "forward", lambda *_, **__: pytest.fail("the model was evaluated"))


@pytest.fixture
def few(tmp_path):
    """The options of a run of sixty pictures of 8 x 8."""
    np.savez(tmp_path / "few.npz", x_train=np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8))
    return ["--data.name", "array", "--data.path", str(tmp_path / "few.npz")]


def test_the_quality_of_a_run_of_sixty_pictures_is_refused_before_sampling(few, tmp_path, capsys, request):
    assert main(["train", "digits-conventional", "--out", str(tmp_path / "run"), *TINY, *few, "--training.steps", "2",
                 "--training.batch_size", "4"]) == 0  # fmt: skip
    capsys.readouterr()
    request.getfixturevalue("lazy")
    assert "rows" in refused(["quality", tmp_path / "run"], capsys)


@pytest.mark.parametrize("command", ["evaluate", "doctor", "quality"])
def test_a_result_that_cannot_be_kept_is_printed(command, saved, tmp_path, capsys):
    for name in ("evaluations.jsonl", "qualities.jsonl", "doctor.png"):
        (saved / name).mkdir()
    np.savez(tmp_path / "x.npz", x=load_dataset("digits").train[:100].numpy())
    options = {"evaluate": BOUND, "quality": ["--samples", tmp_path / "x.npz"], "doctor": ["--limit", "8"]}[command]
    assert main([command, str(saved), *map(str, options)]) == 0
    out, err = capsys.readouterr()
    assert len(out) > 100 and "warning" in err


@pytest.mark.usefixtures("lazy")
def test_samples_that_cannot_be_written_are_not_drawn(saved, capsys):
    refused(["sample", saved, "--out", "/proc/x.npz"], capsys)


def test_ctrl_c_keeps_the_samples_that_are_finished(saved, tmp_path, monkeypatch):
    """The second batch is interrupted."""
    calls, forward = [], ndm.NDM.forward

    def interrupted(self, z_t, *rest, **options):
        calls.append(len(z_t))
        if sum(calls) > 128 * 2:
            raise KeyboardInterrupt
        return forward(self, z_t, *rest, **options)

    monkeypatch.setattr(ndm.NDM, "forward", interrupted)
    out = tmp_path / "x.npz"
    assert main(["sample", str(saved), "--num", "300", "--steps", "1", "--out", str(out), "--device", "cpu"]) == 130
    assert len(np.load(out)["x"]) in (128, 256)


def test_a_file_that_samples_replace_is_named(saved, tmp_path, capsys):
    (tmp_path / "x.npz").write_text("precious")
    out = str(tmp_path / "x.npz")
    assert main(["sample", str(saved), "--num", "2", "--steps", "1", "--out", out, "--device", "cpu"]) == 0
    assert f"{out} exists and will be replaced" in capsys.readouterr().err


@pytest.mark.timeout(120)
def test_the_likelihood_of_a_picture_of_32_x_32_is_bounded_in_memory_or_refused():
    """Version 0.1.0 took 5.9 GB for one row and one step with a small U-Net."""

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Conv2d(3, 128, 1), nn.Conv2d(128, 3, 1)

        def forward(self, z, t):
            return self.outer(torch.tanh(self.inner(z)))

    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
    model, x = ndm.NDM(process, ndm.Predictor(Wide()), ndm.GaussianDecoder()), torch.zeros(1, 3, 32, 32)
    calls, forward = [], ndm.NDM.forward

    def once(self, *arguments, **options):
        calls.append(arguments)
        if len(calls) > 1:
            raise KeyboardInterrupt  # one evaluation of the divergence is enough
        return forward(self, *arguments, **options)

    ndm.NDM.forward = once
    try:
        with bounded(seconds=60, gigabytes=1):
            ndm.log_prob(model, x, solver="euler")
    except (ndm.InputError, KeyboardInterrupt):
        pass
    finally:
        ndm.NDM.forward = forward


@pytest.mark.parametrize("form", ["table", "JSON"])
def test_figures_of_a_half_trained_model_say_so(form, saved, capsys):
    command = ["evaluate", str(saved), "--checkpoint", "2", *BOUND]
    assert main([*command, "--json"] if form == "JSON" else command) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["step"] == 2 if form == "JSON" else "step 2 of 4" in " ".join(out.split())
