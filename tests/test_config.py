"""Recipes: each builds its real model, and an error names what is wrong in a file."""

from pathlib import Path

import pytest
import torch
import yaml

import ndm
from ndm.data import load_dataset, shape_of
from ndm.decoder import CategoricalDecoder
from ndm.experiment import Config, make_config, make_model
from ndm.experiment.build import build_model
from ndm.experiment.recipe import find_recipe, read_config, read_settings, recipes
from ndm.experiment.settings import named_settings


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_builds(name):
    if name in ("cifar10", "imagenet32", "imagenet64", "celebahq256"):
        pytest.skip("too large to be allocated here; tests/test_recipes.py builds it on the meta device")
    config = read_config(name)
    assert config.description
    if config.data.name == "text":
        pytest.skip("tests/test_recipes.py builds it for a text")
    model = build_model(config, shape_of(config.data.name, config.data.size) or (3, 32, 32), CategoricalDecoder(17))
    model.process.schedule.check_steps(config.training.bound_steps)


def nested(settings):
    """``{"model.width": 3}`` as ``{"model": {"width": 3}}``."""
    tree = {}
    for key, value in settings.items():
        group, _, name = key.rpartition(".")
        (tree.setdefault(group, {}) if group else tree)[name] = value
    return tree


def parameters(name):
    config = read_config(name)
    model = make_model(config, load_dataset(config.data.name))
    return sum(p.numel() for p in model.parameters())


def test_the_compared_recipes_are_matched_in_parameters_and_differ_in_the_transform_only():
    pairs = (
        ("digits", "digits-conventional"),
        ("digits-linear", "digits-conventional"),
        ("digits-t10", "digits-t10-conventional"),
    )
    for a, b in pairs:
        assert parameters(a) == pytest.approx(parameters(b), rel=0.005)
        first, second = (named_settings(read_settings(find_recipe(name))) for name in (a, b))
        different = {k for k in first | second if first.get(k) != second.get(k)}
        allowed = {"description", "model.transform", "model.num_basis", "model.tied_to", "model.rotation",
                   "model.width", "model.predict_curve", "model.transform_width", "model.transform_depth"}  # fmt: skip
        assert different <= allowed


def test_a_config_survives_its_file(tmp_path):
    config = read_config("digits")
    config.save(tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config


def test_every_setting_reaches_the_model():
    values = {
        "gamma_min": -6.0, "gamma_max": 4.0, "schedule": "cosine", "transform": "time_basis", "num_basis": 3,
        "tied_to": "noise", "transform_width": 12, "transform_depth": 2, "parameterization": "eps",
        "predict_curve": True, "variance": True, "width": 20, "depth": 2, "dropout": 0.25,
    }  # fmt: skip
    settings = {"model": values, "training": {"bound_steps": 10}}
    model = make_model(make_config(settings), load_dataset("digits"))
    process, predictor = model.process, model.predictor
    assert isinstance(process.schedule, ndm.CosineSchedule)
    assert (process.schedule.gamma_min, process.schedule.gamma_max, process.tied_to) == (-6.0, 4.0, "noise")
    f, net = process.transform.net, predictor.net
    assert (process.transform.num_basis, f.width, f.depth, f.multiplier) == (3, 12, 2, 3)
    assert (predictor.parameterization, predictor.num_basis, predictor.variance) == ("eps", 3, True)
    assert (net.width, net.depth, net.dropout, net.multiplier) == (20, 2, 0.25, 5)
    settings = {"model": {"transform": "linear", "rotation": "learned", "num_basis": 3}}
    linear = make_model(make_config(settings), load_dataset("digits")).process.transform
    assert (linear.rotation, linear.num_basis, linear.dim) == ("learned", 3, 64)


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model:\n  widht: 3\n", "unknown key 'model.widht'; known keys: .*model.width"),
        ("optimizer: adam\n", "unknown key 'optimizer'"),
        ("- a\n- b\n", "must hold keys"),
        ("model: [1]\n", r"model must hold settings by their names, such as model: \{...\}, got \[1\]"),
        ("data: {path: ''}\n", "data.path must not be empty"),
        ('init: "a\\0b"\n', "init must have no null characters"),
        ("model: {width: [\n", "cannot read"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text, message, tmp_path):
    with pytest.raises(ndm.InputError, match=message):
        read_settings(write(tmp_path, text))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("model.transform", "time-basis"), ("model.schedule", "cubic"), ("training.steps", "many"), ("seed", "abc"),
     ("model.width", None), ("model.variance", "perhaps")],
)  # fmt: skip
def test_values_of_a_wrong_kind_are_named(setting, value):
    with pytest.raises(ndm.InputError, match=setting.rpartition(".")[2]):
        make_config(nested({setting: value}))


def test_numbers_may_be_written_as_yaml_reads_them(tmp_path):
    path = write(tmp_path, "training: {learning_rate: 2e-3, bound_steps: null}")
    assert read_config(path).training.learning_rate == 0.002


@pytest.mark.parametrize(
    ("text", "message"),
    [("seed: 1:30", "seed must be a number, got 1:30"),
     ("training: {steps: '1:30'}", "training.steps must be a number"),
     ("model: {fourier: [1:30]}", "model.fourier must be a number, got 1:30"),
     ("training: {steps: 1e99}", r"training.steps must be a whole number, got 1e\+99")],
)  # fmt: skip
def test_what_yaml_takes_for_another_number_is_refused(text, message, tmp_path):
    with pytest.raises(ndm.InputError, match=message):
        read_config(write(tmp_path, text))


def test_a_time_or_a_date_in_a_description_stays_text(tmp_path):
    for text in ("12:30", "2024-01-01"):
        assert read_config(write(tmp_path, f"description: {text}")).description == text


def test_unknown_recipes_list_the_known_ones():
    with pytest.raises(ndm.InputError, match="no recipe or file 'digit'; did you mean digits. recipes: .*digits"):
        find_recipe("digit")


def test_stepwise_needs_its_number_of_steps(tmp_path):
    path = write(tmp_path, yaml.safe_dump({"model": {"schedule": "stepwise"}}))
    with pytest.raises(ndm.InputError, match="training.bound_steps"):
        make_model(read_config(path), load_dataset("digits"))
    with pytest.raises(ndm.InputError, match="training.steps must be at least 1"):
        make_config({"training": {"steps": 0}})
    assert isinstance(make_config({}), Config)


def test_a_seed_gives_the_predictor_the_same_weights_whatever_the_transform():
    predictors = []
    for transform in ("identity", "time_basis", "network"):
        torch.manual_seed(0)
        config = make_config({"model": {"transform": transform}})
        predictors.append(build_model(config, (1, 4, 4), CategoricalDecoder(17)).predictor.state_dict())
    for other in predictors[1:]:
        assert all(torch.equal(other[key], value) for key, value in predictors[0].items())


def test_fourier_features_are_the_predictors_alone():
    config = read_config("mnist-small")
    model = build_model(config, (1, 28, 28), CategoricalDecoder(256))
    assert model.predictor.net.fourier == (5, 6, 7) and model.process.transform.net.fourier == ()


def test_settings_that_a_network_does_not_read_are_refused():
    for settings, message in (
        ({"model.multipliers": [1]}, r"model.multipliers is for a unet; with mlp set it to \[1, 2, 2\]"),
        ({"model.network": "flat_unet", "model.patch": 2}, "model.patch is for a unet; with flat_unet set it to 1"),
        ({"model.heads": 2}, r"model.heads is for a flat_unet or a transformer or a unet; with mlp set it to 1"),
    ):
        with pytest.raises(ndm.InputError, match=message):
            make_config(nested(settings))


def test_a_flat_unet_gets_its_heads_and_its_attention():
    settings = {"model.network": "flat_unet", "model.width": 8, "model.depth": 1, "model.heads": 2}
    build = lambda heights: build_model(  # noqa: E731
        make_config(nested({**settings, "model.attention": heights})), (1, 4, 4), CategoricalDecoder(17)
    )
    for heights in ([], [4]):
        net = build(heights).predictor.net
        assert net.heads == 2 and net.attention == bool(heights)
    with pytest.raises(ndm.InputError, match="a flat_unet attends at height 4"):
        build([2])
