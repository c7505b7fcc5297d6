"""Sample quality: closed forms, independent brute force, and what each metric must and must not detect."""

import math
import os
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment

from ndm import InputError
from ndm.evaluation import quality as module
from ndm.evaluation.inception import inception_distances
from ndm.evaluation.quality import (
    c2st,
    matched_rows,
    memorisation,
    pca,
    precision_recall,
    quality,
    sliced_wasserstein,
    two_nearest,
)


def by_name(scores):
    return {s.name: s for s in scores}


def test_a_shift_is_the_closed_form():
    """The mean over directions is |shift|^2 / D.

    With 20,000 directions, the tolerance is 4 of their standard errors (3.7% at D = 20).
    """
    d, directions = 20, 20_000
    x, shift = torch.randn(50, d), 3 * torch.randn(d)
    error = math.sqrt(2 * (d - 1) / (d + 2) / directions)  # of D cos^2, a Beta variable times D
    squared = sliced_wasserstein(x + shift, x, directions=directions) ** 2
    assert squared == pytest.approx((shift @ shift).item() / d, rel=4 * error)


def test_independent_gaussians_are_as_far_as_their_means():
    """With a shift of 2 in one of D = 5 dimensions, W^2 = 4/5 plus noise of order 2/n.

    n = 4000, and the tolerance is 5 standard errors.
    """
    x, y = torch.randn(4000, 5), torch.randn(4000, 5)
    x[:, 0] += 2
    directions = 4 * math.sqrt(2 * 4 / 7 / 1000) / 5
    rows = 2 * 2 / math.sqrt(5) * math.sqrt(2 / 4000 / 5)
    assert sliced_wasserstein(x, y) ** 2 == pytest.approx(0.8, abs=5 * (directions + rows))


@pytest.mark.parametrize(("n", "m"), [(7, 12), (12, 7), (9, 9), (1, 5)])
def test_one_dimension_is_exact(n, m):
    """For zeros and ones W_2^2 is W_1, which scipy computes.

    For other rows, it is the best assignment of rows that are repeated to lcm(n, m).
    """
    x, y = torch.randint(2, (n, 1)), torch.randint(2, (m, 1))
    w1 = stats.wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy())
    assert sliced_wasserstein(x, y) ** 2 == pytest.approx(w1, abs=1e-12)
    x, y = torch.randn(n, 1), torch.randn(m, 1) + 0.5
    size = math.lcm(n, m)
    cost = (x.repeat_interleave(size // n, 0) - y.repeat_interleave(size // m, 0).T).numpy() ** 2
    best = cost[linear_sum_assignment(cost)].mean()
    assert sliced_wasserstein(x, y) ** 2 == pytest.approx(best, rel=1e-10)


@pytest.mark.parametrize("dim", [2, 30])
def test_c2st_of_equal_distributions_is_one_half(dim):
    """n = 400 rows of each distribution, for two seeds.

    The tolerance is 4 standard errors of a fair coin that is thrown 800 times: 0.071.
    """
    for seed in range(2):
        result = c2st(torch.randn(400, dim), torch.randn(400, dim), seed)
        assert result.value == pytest.approx(0.5, abs=4 * 0.5 / 800**0.5)
        assert result.standard_error == pytest.approx(0.5 / 800**0.5, rel=0.02)


def test_c2st_cuts_the_larger_set():
    """The sets have 150 and 600 rows of one distribution, so always predicting the larger set would score 0.8.

    The tolerance is 4 standard errors as above: 0.115.
    """
    assert c2st(torch.randn(150, 3), torch.randn(600, 3)).value == pytest.approx(0.5, abs=4 * 0.5 / 300**0.5)


def test_c2st_comes_close_to_bayes():
    """n = 1000 rows of each distribution.

    The accuracy may be 4 standard errors (0.033) above the Bayes accuracy, and 0.04 more than that below it.
    """
    shifted = torch.randn(1000, 5)
    shifted[:, 0] += 2
    wide, root = 2 * torch.randn(1000, 1), math.sqrt(8 / 3 * math.log(2))
    correlated = torch.randn(1000, 2)
    correlated[:, 1] = 0.9 * correlated[:, 0] + math.sqrt(1 - 0.81) * correlated[:, 1]
    # Total variation by Monte Carlo, 200,000 draws.
    grid = np.random.default_rng(0).standard_normal((200_000, 2))
    pdf = stats.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]]).pdf(grid)
    tv = 0.5 * np.abs(pdf / stats.multivariate_normal([0, 0]).pdf(grid) - 1).mean()
    cases = [
        (shifted, 5, stats.norm.cdf(1)),
        (wide, 1, 0.5 + stats.norm.cdf(root) - stats.norm.cdf(root / 2)),
        (correlated, 2, 0.5 + tv / 2),
    ]
    for x, dim, bayes in cases:
        assert bayes - 0.073 < c2st(x, torch.randn(1000, dim)).value < bayes + 0.033


def test_c2st_notices_faint_noise_on_blank_pixels():
    """n = 200 rows of 100 counts, most of them 0. Noise of half a level changes no mean.

    The accuracy must be above 0.9.
    """
    x, y = (torch.poisson(torch.full((200, 100), 0.2)) for _ in range(2))
    assert c2st(x + 0.5 * torch.randn(200, 100), y).value > 0.9


def test_c2st_notices_what_only_combinations_of_columns_show():
    """n = 600 rows with columns that are equal up to noise of 0.5; the samples are shifted by +0.4 and -0.4 in turn.

    The Bayes accuracy is 0.836. Boosted trees alone reach 0.62 here, and both classifiers together 0.735. A standard
    error is 0.013.
    """

    def rows():
        return 20 * torch.randn(600, 1) + 0.5 * torch.randn(600, 6)

    x = rows() + 0.4 * torch.tensor([1.0, -1.0]).repeat(3)
    assert 0.68 < c2st(x, rows()).value < 0.836 + 4 * 0.013


def brute_precision(x, y, k):
    """The share of x that is within the ball of some y, computed for one pair at a time."""
    inside = 0
    for a in x.tolist():
        covered = False
        for i, b in enumerate(y.tolist()):
            others = sorted(math.dist(b, c) for j, c in enumerate(y.tolist()) if j != i)
            covered = covered or math.dist(a, b) <= others[k - 1]
        inside += covered
    return inside / len(x)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("kind", ["continuous", "levels"])
def test_precision_and_recall_are_those_of_brute_force(k, kind, monkeypatch):
    """This includes distances that are equal in exact arithmetic, and chunks of 2 rows."""
    x, y = torch.randn(20, 2), 1.3 * torch.randn(27, 2) + 0.3
    if kind == "levels":
        x, y = (2 * x).round(), (2 * y).round()
    monkeypatch.setattr(module, "CHUNK", 54)
    result = precision_recall(x, y, k)
    assert result.precision.value == pytest.approx(brute_precision(x, y, k))
    assert result.recall.value == pytest.approx(brute_precision(y, x, k))
    p = (round(20 * result.precision.value) + 1) / 22  # one hit and one miss more
    assert result.precision.standard_error == pytest.approx(math.sqrt(p * (1 - p) / 20))


def test_a_dropped_mode_costs_recall_and_outliers_cost_precision():
    """Two clusters are far apart, n = 400.

    Without one of them, recall is the share of the other, within 0.1. With 20% outliers, precision is at most 0.8.
    """

    def clusters(n):
        return torch.randn(n, 3) + 30 * torch.arange(n)[:, None].remainder(2)

    good, test = precision_recall(clusters(400), clusters(400)), clusters(400)
    dropped = precision_recall(clusters(800)[::2], test)
    assert dropped.precision.value > good.precision.value - 0.05 > 0.8
    assert 0.4 < dropped.recall.value <= 0.5
    x = clusters(400)
    x[:80] = 1000 * (1 + torch.rand(80, 3))
    spoiled = precision_recall(x, test)
    assert good.precision.value - 0.25 < spoiled.precision.value <= 0.8
    assert spoiled.recall.value > good.recall.value - 0.05


def test_two_nearest_are_exact_also_for_copies(monkeypatch):
    """The rows are far from the origin, where distances by matrix products would be wrong by 1e-4.

    They are processed in chunks of 3.
    """
    train = torch.randn(50, 4) + 1e3
    train[7] = train[3]
    x = torch.cat([train[:5], torch.randn(10, 4) + 1e3])
    monkeypatch.setattr(module, "CHUNK", 150)
    expected = (x[:, None] - train).norm(dim=2).sort(1).values[:, :2]
    result = two_nearest(x, train)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=0)
    assert (result[:5, 0] == 0).all() and result[3, 1] == 0


def test_nearer_is_the_statistic_of_mann_and_whitney():
    """There are ties. The training rows are at 0 and 1000 in one dimension.

    So the value of each row is its distance to the nearest training row.
    """
    train = torch.tensor([[0.0], [1000.0]])
    x, test = torch.randint(9, (30, 1)).double(), torch.randint(1, 12, (40, 1)).double()
    u = stats.mannwhitneyu(test[:, 0].numpy(), x[:, 0].numpy()).statistic
    assert memorisation(x, train, test).nearer.value == pytest.approx(u / (30 * 40))


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_standard_error_of_nearer_is_its_spread(shift):
    """300 draws of n = 60 and m = 100 determine the spread to 4.1%; the tolerance is 4 times that.

    Without a shift, the error also matches the formula of Mann and Whitney, (n + m + 1) / (12 n m).
    """
    train = torch.tensor([[0.0], [1000.0]])
    draws = [memorisation(10 + torch.randn(60, 1), train, 10 + shift + torch.randn(100, 1)).nearer for _ in range(300)]
    spread = np.std([d.value for d in draws], ddof=1)
    error = np.mean([d.standard_error for d in draws])
    assert spread == pytest.approx(error, rel=0.164)
    bayes = stats.norm.cdf(shift / math.sqrt(2))
    assert np.mean([d.value for d in draws]) == pytest.approx(bayes, abs=4 * error / 300**0.5)
    if shift == 0:
        assert error == pytest.approx(math.sqrt(161 / (12 * 60 * 100)), rel=0.02)


def test_memorisation_finds_copies_and_not_fresh_draws():
    """n = 400, D = 10.

    Fresh draws are within 4 standard errors of 1/2 (given the training rows), and contain no copies.
    """
    train, test = torch.randn(1000, 10), torch.randn(400, 10)
    fresh = memorisation(torch.randn(400, 10), train, test)
    assert fresh.nearer.value == pytest.approx(0.5, abs=4 * fresh.nearer.standard_error)
    assert fresh.copies.value == 0
    copied = memorisation(train[:400] + 0.05 * torch.randn(400, 10), train, test)
    assert copied.nearer.value > 0.99 and copied.copies.value > 0.99
    # A tenth copied, the rest too far away: hidden from the one, found by the other.
    mixed = 1.5 * torch.randn(400, 10)
    mixed[:40] = train[:40] + 0.05 * torch.randn(40, 10)
    mixed = memorisation(mixed, train, test)
    assert mixed.nearer.value < 0.5 and mixed.copies.value == pytest.approx(0.1, abs=0.005)


def test_copies_are_three_times_nearer_to_one_training_row():
    """The training rows are at 0 and 1, so copies are the rows within 1/4 of either.

    These are 25 of the 50 rows up to the middle.
    """
    x = (torch.arange(50)[:, None] + 0.5) / 100
    assert memorisation(x, torch.tensor([[0.0], [1.0]]), x).copies.value == 0.5
    doubled = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    assert memorisation(torch.tensor([[0.0], [0.1]]), doubled, x).copies.value == 0.5


def test_order_of_rows_is_of_no_account():
    x, y, train = torch.randn(60, 4), torch.randn(70, 4) + 0.5, torch.randn(200, 4)
    order = torch.randperm(60)
    assert sliced_wasserstein(x[order], y) == pytest.approx(sliced_wasserstein(x, y), rel=1e-12)
    assert sliced_wasserstein(y, x) == pytest.approx(sliced_wasserstein(x, y), rel=1e-12)
    assert precision_recall(x[order], y) == precision_recall(x, y)
    a, b = memorisation(x[order], train.flip(0), y.flip(0)), memorisation(x, train, y)
    for one, other in zip(a, b, strict=True):
        assert one == pytest.approx(other, rel=1e-12)


def test_principal_components_keep_distances_and_come_from_training_rows():
    """Rows in a 10-dimensional plane of 100 dimensions keep their distances.

    A direction in which the training rows do not vary is dropped.
    """
    plane = torch.linalg.qr(torch.randn(100, 10)).Q
    train = torch.randn(300, 10) @ plane.T + 5
    project = pca(train)
    assert project(train).shape == (300, 64)
    torch.testing.assert_close(torch.pdist(project(train)), torch.pdist(train))
    wide = torch.cat([torch.randn(300, 90) * 3, 1e-3 * torch.randn(300, 10)], 1)
    assert pca(wide)(torch.eye(100))[-1].sub(pca(wide)(torch.zeros(1, 100))).norm() < 0.2
    x = torch.randint(9, (70, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(pca(x)(x), x.flatten(1).double())


def test_a_perfect_sampler_scores_the_baseline():
    """Four independent sets with n = 300, D = 6.

    Each score is within 5 standard errors of the difference. The distance is within a quarter of the baseline; its
    spread over draws is about 6%.
    """
    scores = by_name(quality(torch.randn(300, 6), torch.randn(900, 6), torch.randn(300, 6)))
    assert len(scores) == 6
    for s in scores.values():
        if s.standard_error is None:
            assert s.value == pytest.approx(s.baseline, rel=0.25) and s.value > 0
        else:
            assert s.value == pytest.approx(s.baseline, abs=5 * math.sqrt(2) * max(s.standard_error, 0.005))
    assert scores["nearer to training rows"].baseline == pytest.approx(0.5, abs=0.12)  # 5 of 0.024


def test_the_baseline_is_of_held_out_training_rows(monkeypatch):
    """Given as samples, the held-out training rows score the baseline, except for memorisation.

    As samples they are copies of training rows; in the baseline they are not. The training rows are far from the test
    rows here.
    """
    train, test = torch.randn(240, 1, 2, 3) + 2, torch.randn(100, 1, 2, 3)
    _, _, _, held = matched_rows(test, train, test, 3, 2000)
    assert len(held.unique()) == 100
    fitted = []
    monkeypatch.setattr(module, "pca", lambda rows, seed: fitted.append(rows) or pca(rows, seed))
    scores = by_name(quality(train[held], train, test, seed=3))
    rest = sorted(set(range(240)) - set(held.tolist()))
    assert torch.equal(fitted[0], train[rest])
    for name in ("sliced Wasserstein-2", "C2ST accuracy", "precision", "recall"):
        assert scores[name].value == pytest.approx(scores[name].baseline, rel=1e-12)
    assert scores["sliced Wasserstein-2"].baseline == pytest.approx(2, rel=0.1)
    assert scores["copies of training rows"].value == 1 > scores["copies of training rows"].baseline + 0.9
    far = by_name(quality(torch.randn(100, 1, 2, 3), train, test))
    assert far["sliced Wasserstein-2"].value < 0.5 < 1.8 < far["sliced Wasserstein-2"].baseline
    assert far["C2ST accuracy"].baseline > 0.95


def test_quality_is_a_function_of_rows_and_seed():
    x, train, test = (torch.randint(200, (n, 2, 3, 4), dtype=torch.uint8) for n in (80, 130, 60))
    state = torch.get_rng_state()
    first = quality(x, train, test)
    assert torch.equal(torch.get_rng_state(), state)
    assert quality(x.float(), train.double(), test.flatten(2).view(60, 2, 3, 4)) == first
    assert quality(x, train, test, seed=1)[0] != first[0]
    assert quality(x, train, test, max_rows=50)[0] != first[0]


@pytest.mark.filterwarnings("error")
def test_constant_rows_are_equal_and_copies():
    """In 3 dimensions, and in 70, where the principal components are those of rows without variance."""
    for dim in (3, 70):
        rows = torch.full((120, dim), 7.0)
        scores = by_name(quality(rows[:60], rows, rows[:60]))
        values = {"sliced Wasserstein-2": 0, "C2ST accuracy": 0.5, "nearer to training rows": 0.5}
        for name, s in scores.items():
            assert s.value == s.baseline == pytest.approx(values.get(name, 1), abs=1e-12)


def test_bad_input_says_what_to_do():
    x, train = torch.randn(60, 3), torch.randn(120, 3)
    with pytest.raises(InputError, match=r"samples must have shape \(N, ...\) with at least 50 rows, got \(49, 3\)"):
        quality(x[:49], train, x)
    with pytest.raises(InputError, match="test must have .* at least 50 rows"):
        quality(x, train, x[:49])
    with pytest.raises(InputError, match="train must have .* at least 100 rows"):
        quality(x, train[:99], x)
    with pytest.raises(InputError, match="samples must have shape"):
        quality(x[:, 0], train, x)
    with pytest.raises(InputError, match=r"rows of train have shape \(2,\), samples \(3,\)"):
        quality(x, train[:, :2], x)
    with pytest.raises(InputError, match="max_rows must be at least 50, got 49"):
        quality(x, train, x, max_rows=49)
    for bad in (math.nan, math.inf):
        broken = train.clone()
        broken[[3, 8]] = bad
        with pytest.raises(InputError, match="train must be finite: 2 rows are not"):
            quality(x, broken, x)


class Opened:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_inception_needs_its_libraries_images_and_weights(monkeypatch, tmp_path):
    images = torch.randint(256, (120, 1, 8, 8), dtype=torch.uint8)
    with pytest.raises(InputError, match="need images: uint8"):
        inception_distances(images.float(), images, images, "weights.pth")
    monkeypatch.setitem(sys.modules, "torchmetrics.image", None)
    with pytest.raises(InputError, match=r"pip install 'torchmetrics\[image\]'"):
        inception_distances(images, images, images, "weights.pth")
    monkeypatch.undo()
    pytest.importorskip("torchmetrics")
    pytest.importorskip("torch_fidelity")
    for content in (None, b"", b"not weights\n"):
        if content is not None:
            (tmp_path / "weights.pth").write_bytes(content)
        with pytest.raises(InputError, match="cannot read Inception weights from"):
            inception_distances(images, images, images, tmp_path / "weights.pth")
    torch.save(Opened(tmp_path / "opened"), tmp_path / "weights.pth")
    with pytest.raises(InputError, match="cannot read Inception weights from"):
        inception_distances(images, images, images, tmp_path / "weights.pth")
    assert not (tmp_path / "opened").exists()


def test_fid_and_kid_are_those_of_the_features(monkeypatch, tmp_path):
    """A network of four features replaces Inception.

    FID must match scipy's matrix root, and KID an unbiased MMD.
    """
    fid = pytest.importorskip("torchmetrics.image.fid")
    pytest.importorskip("torch_fidelity")

    class Small(torch.nn.Module):
        def __init__(self, *args):
            super().__init__()

        def forward(self, x):
            assert x.dtype == torch.uint8 and x.shape[1:] == (3, 2, 2)
            return x[:, 0].flatten(1).float() / 100

    monkeypatch.setattr(fid, "NoTrainInceptionV3", Small)
    torch.save({}, tmp_path / "weights.pth")
    x, train, y = (
        torch.randint(0, high, (n, 1, 2, 2), dtype=torch.uint8) for high, n in [(90, 80), (256, 200), (200, 80)]
    )
    scores = by_name(inception_distances(x, train, y, tmp_path / "weights.pth"))
    a, b = (rows.flatten(1).double().numpy() / 100 for rows in (x, y))
    root = sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert scores["FID"].value == pytest.approx(expected, rel=1e-5)  # features are float32
    kernel = lambda u, v: (u @ v.T / 4 + 1) ** 3  # noqa: E731
    within = [(kernel(u, u).sum() - np.trace(kernel(u, u))) / (80 * 79) for u in (a, b)]
    assert scores["KID"].value == pytest.approx(sum(within) - 2 * kernel(a, b).mean(), rel=1e-5)
    assert scores["FID"].baseline < 0.5 * scores["FID"].value and scores["KID"].direction == "lower is better"
