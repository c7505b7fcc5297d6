"""The detector of odd rows: its views are right one by one, depend on no unit, and find what they are for."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.neighbors import KernelDensity
from sklearn.utils.estimator_checks import check_estimator

from ndm import NeuralDiffusionDetector
from ndm.density import plan_for, table_model
from ndm.density.oddness import (
    BANDWIDTHS,
    Kernels,
    Oddness,
    Tail,
    combined,
    diffusion_term,
    log_density_of_scores,
)
from ndm.tables import Layout


@pytest.fixture(autouse=True)
def _float32():
    torch.set_default_dtype(torch.float32)


def ring(count, seed=0):
    """Points near a circle, with a third column that is about their product."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, count)
    x = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.05 * rng.normal(size=(count, 2))
    return np.column_stack([x, x[:, 0] * x[:, 1] + 0.02 * rng.normal(size=count)])


@pytest.fixture(scope="module")
def fitted():
    return NeuralDiffusionDetector(max_steps=60, random_state=0).fit(ring(300))


def test_a_tail_is_the_share_of_training_rows_that_are_at_least_as_odd():
    tail = Tail(np.arange(9.0))
    np.testing.assert_allclose(tail(np.array([0.0, 4.0, 8.0])), -np.log([1.0, 0.6, 0.2]), atol=2e-3)
    assert -np.log(0.1) < tail(np.array([9.0]))[0] < tail(np.array([90.0]))[0] < -np.log(0.1) + 0.01


def test_rounding_errors_of_a_score_stay_small():
    scores = np.random.default_rng(0).normal(size=200).repeat(2)
    scores[1::2] += 1e-12
    tail = Tail(scores)
    np.testing.assert_allclose(tail(scores - 1e-12), tail(scores), atol=1e-7)
    np.testing.assert_allclose(tail(np.unique(scores[::2]))[[0, 199]], -np.log([1.0, 3 / 401]), atol=2e-3)


def test_kernels_are_those_of_scikit_learn_with_the_best_left_out_likelihood():
    rows = np.random.default_rng(0).normal(size=(60, 2))
    kernels = Kernels(rows)
    points = kernels.points.astype(np.float64)

    def left_out(h):
        fits = [KernelDensity(bandwidth=h).fit(np.delete(points, i, 0)).score(points[i : i + 1]) for i in range(60)]
        return np.mean(np.maximum(fits, -1e3))

    assert kernels.bandwidth == max(BANDWIDTHS[6:], key=left_out)
    new = np.random.default_rng(1).normal(size=(40, 2))
    density = KernelDensity(bandwidth=kernels.bandwidth).fit(points).score_samples(new)
    odd = kernels(new)
    assert all(odd[i] >= odd[j] for i in range(40) for j in range(40) if density[i] < density[j] - 1e-4)


def test_a_training_row_is_as_odd_as_a_new_one_where_none_comes_twice():
    """It is not its own kernel: its oddness is that of the kernels of all other rows."""
    rows = np.random.default_rng(0).normal(size=(60, 2))
    kernels = Kernels(rows)
    assert kernels.known == 0
    points = kernels.points
    density = [
        KernelDensity(bandwidth=kernels.bandwidth).fit(np.delete(points, i, 0)).score(points[i : i + 1])
        for i in range(60)
    ]
    odd = kernels(points)
    assert all(odd[i] >= odd[j] for i in range(60) for j in range(60) if density[i] < density[j] - 1e-4)
    assert np.sort(np.exp(-odd)) == pytest.approx(np.arange(2, 62) / 61, rel=0.01)


def test_a_copy_counts_by_the_estimate_of_good_and_turing():
    """Of points that are there once, some came again: as often as points are there twice, times two."""
    rng = np.random.default_rng(0)
    once = rng.normal(size=(40, 2))
    kernels = Kernels(np.concatenate([once, once[:6]]))
    assert kernels.known == pytest.approx(2 * 6 / 34)
    new = once[30:31]
    distance = ((new[:, None] - kernels.points) ** 2).sum(2)
    weights = np.exp(-distance / (2 * kernels.bandwidth**2)) * np.where(distance == 0, kernels.known, 1)
    assert kernels(new) == pytest.approx(kernels.tail(-np.log(weights.sum(1))))


@pytest.mark.parametrize(("count", "columns"), [(100, 10), (150, 20), (300, 3)])
def test_the_share_of_new_ordinary_rows_that_are_flagged_is_about_that_of_contamination(count, columns):
    rng = np.random.default_rng(0)
    detector = NeuralDiffusionDetector(max_steps=10, random_state=0).fit(rng.normal(size=(count, columns)))
    assert 0.03 < (detector.predict(rng.normal(size=(1000, columns))) == -1).mean() < 0.2


def test_a_far_value_does_not_hide_odd_rows():
    """One wrong number in a column of the training rows, and new rows that are 10 and 50 deviations away."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 2))
    rows[0, 0] = 1e6
    detector = NeuralDiffusionDetector(max_steps=10, random_state=0).fit(rows)
    found = detector.score_samples(np.concatenate([[[10.0, 0.0], [50.0, 0.0]], rng.normal(size=(300, 2))]))
    assert (found[:2] < np.quantile(found[2:], 0.05)).all()
    assert detector.oddness_.std == pytest.approx([1, 1], rel=0.2)


def test_copies_of_training_rows_are_known():
    rng = np.random.default_rng(0)
    once = rng.normal(size=(100, 3))
    assert Kernels(once).bandwidth > 0.2
    drawn = once[rng.integers(100, size=200)]
    assert Kernels(drawn).bandwidth < 0.5 * Kernels(once).bandwidth
    near = drawn[:50] + 0.3
    assert np.median(Kernels(drawn)(drawn[:50])) + 1 < np.median(Kernels(drawn)(near))


def test_the_diffusion_term_of_a_model_that_knows_nothing_is_that_of_a_normal():
    """It starts at independent columns, whose normal scores z have -log p = |z|^2 / 2 and a constant."""
    rows = torch.from_numpy(ring(100))
    model = table_model(rows, Layout([0.0] * 3), plan_for(100, 3)).eval()
    squares = model.encode(rows).double().square().sum(1)
    found = torch.from_numpy(diffusion_term(model, rows))
    schedule = model.process.schedule
    span = schedule(torch.tensor([1.0])).sigma ** 2 - schedule(torch.tensor([0.0])).sigma ** 2
    torch.testing.assert_close(found - found[0], span * (squares - squares[0]) / 2, rtol=0.02, atol=0.02)


def test_the_oddness_is_the_largest_view_and_their_mean():
    np.testing.assert_allclose(combined(np.array([[1.0, 0.0], [4.0, 0.0], [1.0, 3.0]])), [6.0, 4.0])


def test_far_rows_and_broken_relations_are_odd(fitted):
    rows = ring(100, seed=1)
    broken, far = rows.copy(), rows.copy()
    broken[:, 2] *= -1
    far[:, 0] += 3
    broken = broken[np.abs(rows[:, 2]) > 0.3]
    ordinary = fitted.score_samples(rows)
    assert np.median(fitted.score_samples(broken)) < np.quantile(ordinary, 0.15)
    assert fitted.score_samples(far).max() < np.quantile(ordinary, 0.05)
    assert (fitted.predict(far) == -1).all()


def untrained(rows):
    """The model of a table before training, which takes the columns to be independent."""
    return table_model(torch.from_numpy(rows), Layout([0.0] * rows.shape[1]), plan_for(len(rows), rows.shape[1])).eval()


def test_each_view_is_the_tail_of_its_own_score():
    rows = np.random.default_rng(0).normal(size=(200, 6)) * 10
    model = untrained(rows)
    oddness = Oddness(model, torch.from_numpy(rows[:150]), torch.from_numpy(rows[150:]))
    new = torch.from_numpy(np.random.default_rng(1).normal(size=(50, 6)) * 10)
    views = oddness(model, new)
    points = [model.encode(new).double().numpy(), (new.numpy() - rows[:150].mean(0)) / rows[:150].std(0)]
    np.testing.assert_allclose(views[0], oddness.scores(points[0]), atol=1e-3)
    np.testing.assert_allclose(views[1], oddness.columns(points[1]), atol=1e-3)
    np.testing.assert_allclose(views[2], oddness.term(diffusion_term(model, new)), atol=1e-3)
    assert (views.std(1) > 0.3).all()


def test_the_density_of_the_scores_is_normal_before_training():
    rows = ring(100)
    model = untrained(rows)
    z = model.encode(torch.from_numpy(rows)).double()
    expected = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
    found = log_density_of_scores(model, torch.from_numpy(rows))
    np.testing.assert_allclose(found, expected.numpy(), atol=0.01)


def test_the_left_out_density_of_kernels_is_that_of_scikit_learn():
    rows = np.random.default_rng(0).normal(size=(60, 2))
    kernels = Kernels(rows)
    of_one = KernelDensity(bandwidth=kernels.bandwidth)
    expected = [of_one.fit(np.delete(rows, i, 0)).score(rows[i : i + 1]) for i in range(60)]
    assert kernels.left_out == pytest.approx(np.mean(expected), abs=1e-6)


def test_the_network_is_asked_if_it_predicts_held_out_rows_better_than_kernels():
    """Columns that are independent suit the untrained model; a ring, copies and no held-out rows do not."""
    independent = np.random.default_rng(0).normal(size=(200, 6))
    copies = independent[np.random.default_rng(1).integers(50, size=200)]
    for rows, count, asked in (
        (independent, 50, True),
        (independent, 0, False),
        (ring(200), 50, False),
        (copies, 50, False),
    ):
        held_out = torch.from_numpy(rows[200 - count :])
        oddness = Oddness(untrained(rows), torch.from_numpy(rows), held_out)
        assert (oddness.term is not None) == asked
        assert len(oddness(untrained(rows), torch.from_numpy(rows[:5]))) == 2 + asked


def test_a_row_has_the_same_score_beside_any_others(fitted):
    rows = np.concatenate([ring(40, seed=2), ring(300)[:20]])  # the last are training rows, whose scores are steps
    scores, order = fitted.score_samples(rows), np.random.default_rng(0).permutation(60)
    np.testing.assert_allclose(fitted.score_samples(rows[order]), scores[order], rtol=1e-7)
    np.testing.assert_allclose(fitted.score_samples(rows[7:9]), scores[7:9], rtol=1e-7)


def test_units_do_not_matter():
    scale, shift = np.array([1e5, 1.0, 1e-20]), np.array([0.0, 300.0, 0.0])
    one = NeuralDiffusionDetector(max_steps=5, random_state=0).fit(ring(100))
    other = NeuralDiffusionDetector(max_steps=5, random_state=0).fit(ring(100) * scale + shift)
    rows = ring(30, seed=3)
    np.testing.assert_allclose(one.score_samples(rows), other.score_samples(rows * scale + shift), atol=0.3)


def test_a_pickled_detector_gives_the_same_scores(fitted):
    rows = ring(10, seed=4)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).score_samples(rows), fitted.score_samples(rows))


def test_what_no_training_row_has_is_odder():
    table = pd.DataFrame({"a": ring(120)[:, 0], "city": ["Rome", "Oslo"] * 60})
    detector = NeuralDiffusionDetector(max_steps=5, random_state=0).fit(table)
    odd = table[:4].copy()
    odd.loc[0, "city"] = "Atlantis"
    drop = detector.score_samples(table[:4]) - detector.score_samples(odd)
    assert drop[0] > 0.5 * np.log(122)
    np.testing.assert_allclose(drop[1:], 0)


def test_the_share_of_outliers_is_that_of_contamination(fitted):
    assert (fitted.predict(ring(300)) == -1).mean() == pytest.approx(0.1, abs=0.01)


@pytest.mark.slow
def test_the_rules_of_scikit_learn():
    check_estimator(NeuralDiffusionDetector(max_steps=10))
