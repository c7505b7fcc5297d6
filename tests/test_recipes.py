"""Recipes: each builds its real model, and trains for a few steps with the same code at reduced width."""

from dataclasses import fields, replace

import pytest
import torch

from ndm.cli import main
from ndm.data import Dataset, load_dataset, shape_of
from ndm.data.dataset import image_dataset
from ndm.experiment import make_model, read_config, recipes
from ndm.experiment.build import count_parameters
from ndm.experiment.recipe import read_settings
from ndm.experiment.settings import GROUPS
from ndm.training import Trainer
from ndm.training.loss import Loss

PAPER = ("mnist", "cifar10", "imagenet32", "imagenet64", "celebahq256")


pytestmark = pytest.mark.usefixtures("float32")


def stand_in(config):
    """A data set of the recipe's kind: its own if it is generated here, else random images."""
    shape = shape_of(config.data.name, config.data.size) or (3, 32, 32)
    shape = (3, 64, 64) if shape == (3, 256, 256) else shape  # a quarter of the height has all its levels still
    if config.data.name == "text":
        codes = torch.arange(3 * config.data.size + 3) % 5
        windows = codes.unfold(0, config.data.size, 3)
        return Dataset("text", windows, windows[:2], windows[:2], levels=5, alphabet="abcde")
    if len(shape) == 1 or shape[-1] == 8:
        return load_dataset(config.data.name)
    images = torch.randint(256, (8, *shape), dtype=torch.uint8)
    return replace(image_dataset("stand-in", images, images[:2], images[:2], "random"), flip=config.data.flip)


LARGE = ("imagenet32", "imagenet64", "celebahq256")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in recipes()])
def test_every_recipe_trains_three_steps_at_reduced_width(name):
    config = read_config(name)
    small = replace(
        config,
        model=replace(config.model, width=8, transform_width=8, depth=1, transform_depth=1, heads=1),
        training=replace(config.training, steps=3, batch_size=2, warmup=1, evaluate_every=3, precision="fp32"),
    )
    dataset, records = stand_in(small), []
    model = make_model(small, dataset)
    before = [p.detach().clone() for p in model.parameters()]
    average = Trainer(model, dataset, small.training, small.seed, log=records.append).run()
    assert [r["step"] for r in records if "bpd" in r] == [3] and not any("skipped" in r for r in records)
    assert all(0 < r.get("validation_bpd", 1) < float("inf") for r in records)
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    # What starts at zero shuts off what comes before it for a step; the rest moves.
    assert sum(moved) > 0.5 * len(moved)
    assert all(torch.isfinite(p).all() for p in average.parameters())


def test_every_recipe_has_its_number_of_parameters(capsys):
    """The number comes from the meta device. For small models it must equal that of a real model."""
    assert main(["recipes"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(lines) == set(recipes()) and set(PAPER) < set(lines)
    for name, path in recipes().items():
        count = count_parameters(read_config(path))
        assert (f"{count:,}" if count else "by the data") in lines[name]
    for name in ("digits", "mnist-small", "cifar10-small"):
        config = read_config(name)
        assert count_parameters(config) == make_model(config, stand_in(config)).num_parameters


# What decides no result, and what a network F of U-Nets in continuous time has no use for.
FREE = {"evaluate_every", "sample_every", "checkpoint_every", "accumulate", "compile", "max_skipped", "trackers"}
IDLE = {
    "rotation", "num_basis", "predict_curve", "predict_target", "variance", "learned_end", "learned_eta", "uniform",
    "dim", "patience", "max_seconds", "straightness", "weighting",
}  # fmt: skip


@pytest.mark.parametrize("name", PAPER)
def test_values_say_where_they_are_from(name):
    """Every setting of model and training that affects the result is listed with its source."""
    sources = ("# paper", "# flow matching", "# ours")
    lines = recipes()[name].read_text().splitlines()
    inside = lines[lines.index("model:") :]
    said = {line.split(":")[0].strip() for line in inside if any(source in line for source in sources)}
    assert said == {f.name for group in ("model", "training") for f in fields(GROUPS[group])} - FREE - IDLE


def test_neural_and_conventional_recipes_are_matched():
    """They have the same data, budget and seed; their numbers of parameters agree within 2 %."""
    for neural, conventional in (("digits", "digits-conventional"), ("mnist-small", "mnist-small-conventional")):
        a, b = (read_config(name) for name in (neural, conventional))
        assert (a.data, a.training, a.seed) == (b.data, b.training, b.seed)
        assert count_parameters(a) == pytest.approx(count_parameters(b), rel=0.02)


@pytest.mark.parametrize("name", ["mnist", "text8"])
def test_bf16_gives_the_gradients_of_fp32(name):
    """The gradients of F and of the predictor agree to 5 % in norm.

    The weights are moved away from their initial values, at which F is the identity. Fourier features of z = alpha F(x,
    t) + sigma eps, or of F's own input, would multiply the rounding of F hundreds of times. None of the five recipes
    has them.
    """
    assert not any(read_settings(recipes()[name])["model"].get("fourier") for name in PAPER)
    config = read_config(name)
    small = replace(config.model, width=8, transform_width=8, depth=1, transform_depth=1, heads=1, dropout=0.0)
    config = replace(config, model=small)
    torch.manual_seed(0)
    dataset = stand_in(config)
    model = make_model(config, dataset)
    for p in model.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    loss, gradients = Loss(model, config.training).train(), []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss(dataset.train[:4], 0).sum().backward()
        gradients.append([[p.grad.clone() for p in m.parameters()] for m in (model.process, model.predictor)])
    for fp32, bf16 in zip(*gradients, strict=True):
        error = sum((a - b).square().sum() for a, b in zip(fp32, bf16, strict=True))
        assert error.sqrt() < 0.05 * sum(a.square().sum() for a in fp32).sqrt()
