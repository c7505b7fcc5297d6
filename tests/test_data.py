"""Data: the fixed split of the digits, exact densities, and batches that depend on (seed, step) only."""

import importlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import ndm
from ndm.data import Checkerboard, load_dataset, moons, register, ring, shape_of
from ndm.experiment import make_decoder
from ndm.support.streams import Stream


def test_digits_split():
    data = load_dataset("digits")
    order = np.random.default_rng(0).permutation(1797)
    pixels = torch.tensor(load_digits().images[order]).long()[:, None]
    assert torch.equal(torch.cat([data.train, data.validation, data.test]).long(), pixels)
    assert (len(data.train), len(data.validation), len(data.test)) == (1350, 150, 297)
    assert data.train.min() == 0 and data.train.max() == 16 and data.levels == 17


def test_digits_are_found_where_scikit_learn_has_another_place_for_them(monkeypatch):
    module = importlib.import_module("ndm.data.digits")
    expected = module.digits().train
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert torch.equal(module.digits().train, expected)


@pytest.mark.parametrize("make", [ring, moons, Checkerboard])
def test_toy_density_integrates_to_one_and_gives_the_entropy(make, generator):
    toy = make()
    axis = torch.linspace(-4, 4, 801)[:-1] + 0.005
    grid = torch.cartesian_prod(axis, axis)
    log_p = toy.log_prob(grid)
    p = log_p.exp()
    cell = 0.01**2
    assert p.sum().item() * cell == pytest.approx(1.0, abs=1e-4)
    entropy = -(p * log_p.nan_to_num(neginf=0.0)).sum().item() * cell
    assert toy.entropy() == pytest.approx(entropy, abs=0.02)
    # Samples come from that density: the mean log-density of n = 50,000 draws is minus the entropy.
    draws = toy.log_prob(toy.sample(50_000, generator))
    assert abs(draws.mean() + entropy) < 4 * draws.std() / 50_000**0.5 + 1e-3
    moments = torch.einsum("n,ni,nj->ij", p * cell, grid, grid)
    x = toy.sample(200_000, generator).double()
    torch.testing.assert_close(x.T @ x / len(x), moments, rtol=0, atol=0.03)


def test_gmm_digits_has_a_density_and_an_entropy(generator):
    data = load_dataset("gmm-digits")
    n = 4_000
    x = data.distribution.sample(n, generator)
    log_p = data.distribution.log_prob(x)
    assert x.shape == (n, 64)
    entropy = data.distribution.entropy()
    assert abs(-log_p.mean() - entropy) < 5 * log_p.std() / n**0.5
    assert torch.equal(load_dataset("gmm-digits").test, data.test)
    digits = load_dataset("digits")
    scaled = digits.test.flatten(1).double() / 8 - 1
    assert data.distribution.log_prob(scaled).mean() > -entropy - 64  # it is fitted to digits


def test_mixture_density_matches_torch_distributions(generator):
    """The covariances are full, in three dimensions."""
    root = torch.randn(2, 3, 3)
    covariances, means, weights = root @ root.mT + 0.1 * torch.eye(3), torch.randn(2, 3), torch.tensor([0.3, 0.7])
    mixture = ndm.data.GaussianMixture(weights, means, covariances)
    parts = torch.distributions.MultivariateNormal(means, covariances)
    reference = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), parts)
    x = mixture.sample(50_000, generator)
    torch.testing.assert_close(mixture.log_prob(x), reference.log_prob(x))
    assert ((x.mean(0) - reference.mean).abs() < 5 * reference.variance.sqrt() / 50_000**0.5).all()


def test_finite_batches_visit_every_row_once_an_epoch_and_depend_on_seed_and_step_only():
    data = load_dataset("digits")
    data = ndm.data.Dataset("rows", torch.arange(10)[:, None], data.validation, data.test, levels=10)
    batches = [data.batch(4, seed=1, step=k) for k in range(5)]
    assert sorted(torch.cat(batches).flatten().tolist()) == sorted(list(range(10)) * 2)
    epochs = torch.cat(batches).flatten().split(10)
    assert sorted(epochs[0].tolist()) == list(range(10)) and not torch.equal(*epochs)
    assert torch.equal(data.batch(4, seed=1, step=3), batches[3])
    assert not torch.equal(data.batch(4, seed=2, step=3), batches[3])


def test_endless_batches_are_fresh():
    data = load_dataset("ring")
    assert torch.equal(data.batch(8, 0, 3), data.batch(8, 0, 3))
    assert not torch.equal(data.batch(8, 0, 3), data.batch(8, 0, 4))
    assert not torch.equal(data.batch(8, 0, 3), data.batch(8, 1, 3))
    assert data.batch(8, 0, 3).dtype == torch.float32


def test_checkerboard_squares():
    x = torch.tensor([[-1.5, -1.5], [-0.5, -1.5], [0.5, -1.5], [-0.5, -0.5], [2.5, 0.5], [1.5, 1.5]])
    dark = torch.tensor([True, False, True, True, False, True])
    assert torch.equal(Checkerboard().log_prob(x) == -math.log(8), dark)


def test_unknown_names_are_refused():
    with pytest.raises(ndm.InputError, match="choose one of .*digits"):
        load_dataset("mnist-3d")


def mirrored_rows(flip, n=50):
    """n images of one row of four different pixels; none equals its mirror image."""
    x = torch.arange(4 * n, dtype=torch.int32).view(n, 1, 1, 4)
    return ndm.data.Dataset("rows", x, x[:1], x[:1], levels=4 * n, flip=flip)


def test_flips_mirror_about_half_of_the_rows_and_depend_on_seed_and_step_only():
    plain, data = mirrored_rows(False), mirrored_rows(True)
    batches = [data.batch(32, 1, step) for step in range(60)]
    straight = torch.cat([plain.batch(32, 1, step) for step in range(60)])
    x = torch.cat(batches)
    same, mirrored = ((x == y).flatten(1).all(1) for y in (straight, straight.flip(-1)))
    assert (same ^ mirrored).all()
    # n = 1920 fair coins: within four standard errors of a half; and neither all nor none of a batch (of 32).
    assert abs(mirrored.double().mean() - 0.5) < 4 * 0.5 / 1920**0.5
    assert all(0 < part.sum() < 32 for part in mirrored.split(32))
    assert torch.equal(data.batch(32, 1, 7), batches[7])
    assert not torch.equal(mirrored[:32], mirrored[32:64])
    another = data.batch(32, 2, 0) != plain.batch(32, 2, 0)
    assert not torch.equal(another.flatten(1).any(1), mirrored[:32])
    # A batch is a copy: the rows themselves stay as they are.
    assert torch.equal(data.train, plain.train)


def test_batches_are_slices_of_the_epochs_orders_whatever_their_size():
    data = mirrored_rows(False, n=10)
    rows = torch.cat([data.batch(1, 3, step) for step in range(60)])
    for size in (4, 7, 10, 25):  # 25 rows span three epochs
        batches = torch.cat([data.batch(size, 3, step) for step in range(60 // size)])
        assert torch.equal(batches, rows[: len(batches)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "digits", "path": "here"}, "digits has no path"),
        ({"name": "ring", "size": 32}, "ring has no size"),
        ({"name": "digits", "on_bad_file": "skip"}, "digits has no on_bad_file"),
        ({"name": "mnist", "size": 32}, "mnist has no size"),
        ({"name": "moons", "flip": True}, "moons holds no images to flip"),
        ({"name": "images", "size": 32}, "images needs path"),
        ({"name": "images", "path": "here"}, "images needs size"),
        ({"name": "imagenet32"}, "imagenet32 needs path"),
    ],
)
def test_options_that_a_set_has_no_use_for_or_lacks_are_refused(options, message):
    with pytest.raises(ndm.InputError, match=message):
        load_dataset(**options)


def test_every_option_at_its_default_is_no_option():
    data = load_dataset("digits", path=None, size=None, flip=False, on_bad_file="refuse")
    assert torch.equal(data.train, load_dataset("digits").train) and not data.flip
    assert load_dataset("digits", flip=True).flip


@pytest.mark.parametrize("name", ["ring", "moons", "checkerboard", "gmm-digits", "digits"])
def test_no_row_is_in_two_splits(name):
    data = load_dataset(name)
    splits = (data.train, data.validation, data.test)
    train, validation, test = ({tuple(row) for row in x.flatten(1).tolist()} for x in splits)
    assert not train & validation and not validation & test and not train & test


def test_a_batch_may_span_epochs():
    data = replace(load_dataset("digits"), train=torch.arange(10)[:, None])
    for step in range(3):
        assert sorted(data.batch(30, 1, step).flatten().tolist()) == sorted(list(range(10)) * 3)


def test_every_purpose_has_a_stream_of_its_own():
    """Two names with one value would be the same enum member. The values are those that earlier runs used as seeds."""
    purposes = {"NOISE": 0, "ORDER": 1, "ROWS": 2, "ETA": 3, "DROPOUT": 4, "FLIPS": 11, "CELLS": 12}
    assert {name: int(stream) for name, stream in Stream.__members__.items()} == purposes
    assert len(set(Stream)) == len(purposes)


def test_the_decoder_follows_from_the_units():
    """Levels make a categorical decoder; a mean and a standard deviation make a Gaussian one, 0 and 1 if unset."""
    assert make_decoder(load_dataset("digits")).levels == 17
    ring = load_dataset("ring")
    x = make_decoder(ring).encode(ring.train)
    torch.testing.assert_close(x.mean(0), torch.zeros(2).float(), rtol=0, atol=0.1)
    assert abs(x.std() - 1) < 0.02
    plain = replace(ring, mean=None, std=None)
    assert torch.equal(make_decoder(plain).encode(plain.train), plain.train)
    with pytest.raises(ndm.InputError, match="levels or a mean and std"):
        replace(ring, levels=256)


@register("theirs", shape=(3,))
def theirs(path, size=4):
    """A data set of a user, registered where it is defined."""
    x = torch.arange(30.0).view(10, 3) + size
    return ndm.data.Dataset("theirs", x[:8], x[8:9], x[9:], release=f"made of {path}")


def test_a_data_set_of_ones_own_is_registered_in_one_place():
    assert theirs("here").release == "made of here"  # the decorator leaves the function as it is
    data = load_dataset("theirs", path="here", size=5)
    assert data.train[0, 0] == 5 and data.release == "made of here" and shape_of("theirs") == data.shape
    with pytest.raises(ndm.InputError, match="theirs needs path"):
        load_dataset("theirs")
    with pytest.raises(ndm.InputError, match="theirs has no on_bad_file"):
        load_dataset("theirs", path="here", on_bad_file="skip")
    with pytest.raises(ndm.InputError, match="already a data set named 'theirs'"):
        register("theirs")(theirs)
    with pytest.raises(ndm.InputError, match=r"did you mean 'theirs'\? choose one of .*digits, .*theirs"):
        load_dataset("their")


@pytest.mark.parametrize("name", ["digits", "gmm-digits", "ring", "moons", "checkerboard"])
def test_the_table_knows_the_shape_of_a_row(name):
    assert shape_of(name) == shape_of(name, size=7) == load_dataset(name).shape


def test_the_shape_of_a_row_may_depend_on_the_size_or_on_the_data():
    assert shape_of("images", size=7) == (3, 7, 7)
    assert shape_of("images") is None and shape_of("array") is None and shape_of("nothing") is None
