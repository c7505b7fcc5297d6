r"""The quality of samples, beside the score that training rows would have against the same test rows.

* Sliced Wasserstein-2 distance: :math:`W = (\mathrm{E}_\theta\, W_2^2(\theta \cdot x, \theta \cdot y))^{1/2}`, with
  directions uniform on the sphere in D dimensions. If the sets differ only by a shift v, :math:`W^2 = |v|^2 / D`.
* C2ST (classifier two-sample test): the accuracy of a classifier that tells samples from test rows, on rows that it was
  not trained on. It is 1/2 for equal distributions, and no classifier exceeds :math:`1/2 + \mathrm{TV} / 2`.
* Precision: the share of samples in the manifold of the test rows. This manifold is the union of balls around the rows,
  and each ball reaches its row's k-th nearest neighbour. Recall: the share of test rows in the manifold of the samples.
* Memorisation: :math:`\Delta = P(d(\text{sample}) < d(\text{test row}))`, where d is the distance to the nearest
  training row and ties count half. It is 1/2 for fresh draws, and larger for copies. The test statistic :math:`C_T` of
  Meehan et al., in one cell, is :math:`(1/2 - \Delta)` in units of its standard error.
* Copies: the share of samples that are at most a third as far from the nearest training row as from the second nearest.
  It finds a few copies even if the other samples are so far from the training rows that :math:`\Delta` stays small.

Distances to neighbours are Euclidean. Rows are first projected on the first 64 principal components of the training
rows, unless they have no more than 64 dimensions. The columns of tabular data should therefore have comparable scales.

References:
    Bonneel, Rabin, Peyre, Pfister. Sliced and Radon Wasserstein Barycenters of Measures. JMIV 2015.
    Lopez-Paz, Oquab. Revisiting Classifier Two-Sample Tests. ICLR 2017.
    Kynkaanniemi, Karras, Laine, Lehtinen, Aila. Improved Precision and Recall Metric. NeurIPS 2019.
    Meehan, Chaudhuri, Dasgupta. A Non-Parametric Test to Detect Data-Copying in Generative Models. AISTATS 2020.
    DeLong, DeLong, Clarke-Pearson. Comparing the Areas under Correlated ROC Curves. Biometrics 1988.
    Yoon, Choi, Kwon, Ryu. Diffusion Probabilistic Models Generalize when They Fail to Memorize. ICML workshop 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..support.checks import require_kind
from ..support.streams import QualityStream
from ..support.tensors import seeded

DIRECTIONS = 1000
COMPONENTS = 64
NEIGHBOURS = 3
FOLDS = 3
MIN_ROWS = 50
CHUNK = 2**24  # number of distances in memory at a time: 128 MB


class Score(NamedTuple):
    """One metric of the samples.

    ``baseline`` is the same metric with as many training rows in place of the samples. A perfect sampler would score
    about as much. ``standard_error`` is that of ``value`` over draws of the rows; None if there is no formula for it.
    """

    name: str
    value: float
    standard_error: float | None
    baseline: float
    direction: str


class Share(NamedTuple):
    """A share or a probability, and its standard error."""

    value: float
    standard_error: float


class PrecisionRecall(NamedTuple):
    """Two shares. Their standard errors take the manifolds as given."""

    precision: Share
    recall: Share


class Memorisation(NamedTuple):
    """``nearer`` is Delta, which is 1/2 for fresh draws and larger for copies. ``copies`` is the share of copies."""

    nearer: Share
    copies: Share


def quality(samples: Tensor, train: Tensor, test: Tensor, seed: int = 0, max_rows: int = 2000) -> list[Score]:
    """Every metric of the samples that needs no trained network.

    All sets are cut to n random rows, where n is the smallest of the number of samples, the number of test rows, half
    the number of training rows and ``max_rows``. Only memorisation uses all training rows. Its baseline takes n of them
    as samples and the others as training rows. Figures for different n are not comparable, because the distance,
    precision, recall and their baselines depend on n.

    Args:
        samples, train, test: rows in data units, of any real dtype and of shape ``(N, *)`` with the same ``*``.
        seed: seed of the choice of rows, directions, folds and classifiers.
        max_rows: largest number of rows that are taken of each set.

    Raises:
        InputError: if a set is too small or not finite, or their shapes differ.

    Example:
        >>> from ndm.evaluation.quality import quality
        >>> samples, train, test = torch.randn(100, 2), torch.randn(200, 2), torch.randn(100, 2)
        >>> [score.name for score in quality(samples, train, test)][:3]
        ['sliced Wasserstein-2', 'C2ST accuracy', 'precision']
    """
    samples, train, test, held = matched_rows(samples, train, test, seed, max_rows)
    rest = torch.ones(len(train), dtype=torch.bool, device=train.device)
    rest[held] = False
    x, y, base = samples.double(), test.double(), train[held].double()
    project = pca(train[rest], seed)
    px, py, near = project(x), project(y), project(train)
    pbase, other = near[held], near[rest]
    pr, pr_base = precision_recall(px, py), precision_recall(pbase, py)
    copied, copied_base = memorisation(px, near, py), memorisation(pbase, other, py)
    lower, half, higher = "lower is better", "0.5 is best", "higher is better"
    return [
        Score("sliced Wasserstein-2", sliced_wasserstein(x, y, seed), None, sliced_wasserstein(base, y, seed), lower),
        Score("C2ST accuracy", *c2st(x, y, seed), c2st(base, y, seed).value, half),
        Score("precision", *pr.precision, pr_base.precision.value, higher),
        Score("recall", *pr.recall, pr_base.recall.value, higher),
        Score("nearer to training rows", *copied.nearer, copied_base.nearer.value, half),
        Score("copies of training rows", *copied.copies, copied_base.copies.value, lower),
    ]


def sliced_wasserstein(x: Tensor, y: Tensor, seed: int = 0, directions: int = DIRECTIONS) -> float:
    """Sliced Wasserstein-2 distance between two sets of rows, ``(N, *)`` and ``(M, *)``, in data units.

    It is exact in each direction: between neighbouring levels i/N and j/M both quantile functions are constant.
    """
    x, y = x.flatten(1).double(), y.flatten(1).double()
    generator = seeded(seed, QualityStream.DIRECTIONS)
    theta = torch.randn(x.shape[1], directions, generator=generator, dtype=torch.float64).to(x.device)
    theta = theta / theta.norm(dim=0)
    n, m = len(x), len(y)
    # The levels are multiplied by N M, which makes them whole numbers, so rounding cannot separate equal ones.
    level = torch.cat([torch.arange(n + 1) * m, torch.arange(m) * n]).unique().to(x.device)
    a, b = (x @ theta).sort(0).values[level[:-1] // m], (y @ theta).sort(0).values[level[:-1] // n]
    squared = level.diff().double() @ (a - b) ** 2 / (n * m)
    return squared.mean().sqrt().item()


def c2st(x: Tensor, y: Tensor, seed: int = 0) -> Share:
    """Cross-validated accuracy of a classifier that tells rows ``(N, *)`` from rows ``(M, *)``.

    The larger set is cut to the size of the smaller. The probabilities of two classifiers are averaged. Boosted trees
    on the values themselves find local traces such as noise and blur. A logistic regression on principal components and
    their products finds differences in means and correlations. The standard error is that of a share of independent
    rows.
    """
    import numpy as np
    from sklearn.decomposition import PCA
    from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    n = min(len(x), len(y))
    pair = [_subset(x, n, seed, QualityStream.SAMPLES), _subset(y, n, seed, QualityStream.TEST)]
    rows = torch.cat([rows.flatten(1).double().cpu() for rows in pair]).numpy()
    rows = rows[:, np.ptp(rows, axis=0) > 0]
    if not rows.shape[1]:
        return Share(0.5, 0.5 / (2 * n) ** 0.5)
    label = np.repeat([0, 1], n)
    trees = HistGradientBoostingClassifier(
        learning_rate=0.2, max_iter=60, max_leaf_nodes=8, early_stopping=False, random_state=seed
    )
    products = make_pipeline(
        StandardScaler(),
        PCA(min(16, rows.shape[1]), random_state=seed),
        PolynomialFeatures(2, include_bias=False),
        StandardScaler(),
        LogisticRegression(C=0.003, max_iter=300),
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    classifier = VotingClassifier([("trees", trees), ("products", products)], voting="soft")
    return _share(torch.from_numpy(cross_val_predict(classifier, rows, label, cv=folds) == label))


def precision_recall(x: Tensor, y: Tensor, k: int = NEIGHBOURS) -> PrecisionRecall:
    """Precision of samples ``x``, ``(N, D)``, against rows ``y``, ``(M, D)``, and recall."""
    return PrecisionRecall(_share(_within(x, y, k)), _share(_within(y, x, k)))


def _within(x: Tensor, y: Tensor, k: int) -> Tensor:
    """Whether each row of ``x`` is in the manifold of ``y``, a boolean ``(N,)``."""
    # k + 1, because a row is its own nearest neighbour. Distances are not computed by matrix products, because rounding
    # would then decide between equal distances.
    distance = lambda a: torch.cdist(a, y, compute_mode="donot_use_mm_for_euclid_dist")  # noqa: E731
    size = max(1, CHUNK // len(y))
    radius = torch.cat([distance(part).kthvalue(k + 1, dim=1).values for part in y.split(size)])
    return torch.cat([(distance(part) <= radius).any(1) for part in x.split(size)])


def memorisation(x: Tensor, train: Tensor, test: Tensor) -> Memorisation:
    """Whether samples ``x``, ``(N, D)``, are nearer to the training rows than test rows, ``(M, D)``, are.

    The standard error of ``nearer`` is DeLong's. It is over draws of samples and of test rows, and takes the training
    rows as given. An exact copy of a training row that occurs twice counts as a copy.
    """
    (d, second), d_test = two_nearest(x, train).T.contiguous(), two_nearest(test, train)[:, 0].contiguous()
    test_sorted, x_sorted = d_test.sort().values, d.sort().values
    beyond = 1 - _rank(d, test_sorted)  # for each sample, the share of test rows that are farther; ties count half
    below = _rank(d_test, x_sorted)  # for each test row, the share of samples that are nearer
    error = (beyond.var() / len(d) + below.var() / len(d_test)).sqrt()
    return Memorisation(Share(beyond.mean().item(), error.item()), _share(d <= second / 3))


def _rank(values: Tensor, ordered: Tensor) -> Tensor:
    """The share of ``ordered`` that is below each value; ties count half."""
    below, upto = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (below + upto).double() / (2 * len(ordered))


def two_nearest(x: Tensor, train: Tensor) -> Tensor:
    """Distances of rows ``x``, ``(N, D)``, to their two nearest rows of ``train``, ``(N, 2)``."""
    norms, nearest = (train**2).sum(1), []
    for part in x.split(max(1, CHUNK // len(train))):
        # |x|^2 is the same for all of a row's neighbours.
        index = torch.addmm(norms, part, train.T, alpha=-2).topk(2, dim=1, largest=False).indices
        # Distances are computed again from differences: products would give an exact copy a distance above 0.
        nearest.append((part[:, None] - train[index]).norm(dim=2).sort(1).values)
    return torch.cat(nearest)


def pca(train: Tensor, seed: int = 0, max_rows: int = 5000) -> Callable[[Tensor], Tensor]:
    """A function that maps rows ``(N, *)`` to principal components, fitted on at most ``max_rows`` training rows.

    If the rows have no more than 64 dimensions, it only flattens them, because distances would be the same.
    """
    import numpy as np
    from sklearn.decomposition import PCA

    if train[0].numel() <= COMPONENTS:
        return lambda x: x.flatten(1).double()
    rows = _subset(train, min(len(train), max_rows), seed, QualityStream.PCA).flatten(1).double().cpu().numpy()
    with np.errstate(invalid="ignore"):  # if all rows are equal, sklearn divides by a variance of 0
        fit = PCA(min(COMPONENTS, len(rows)), svd_solver="randomized", random_state=seed).fit(rows)
    mean, axes = (torch.from_numpy(a).to(train.device) for a in (fit.mean_, fit.components_.T))
    return lambda x: torch.cat([(part.flatten(1).double() - mean) @ axes for part in x.split(10_000)])


def check_sizes(samples: int, train: int, test: int) -> None:
    """Refuse sets that are too small to be compared, before any work is done.

    Args:
        samples, train, test: number of rows of each set.

    Raises:
        InputError: naming the set and the number of rows that it needs.
    """
    for name, rows, need in (("samples", samples, MIN_ROWS), ("train", train, 2 * MIN_ROWS), ("test", test, MIN_ROWS)):
        if rows < need:
            raise InputError(f"{name} has {rows} rows, and quality is measured with at least {need} rows of {name}")


def matched_rows(
    samples: Tensor, train: Tensor, test: Tensor, seed: int, max_rows: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choose the rows that the metrics compare: equal numbers of samples, test rows and training rows.

    Returns:
        The n samples, all training rows, the n test rows, and the indices of the n training rows that take the place of
        samples in the baseline.

    Raises:
        InputError: if a set is too small or not finite, or their shapes differ.
    """
    sets = {"samples": samples, "train": train, "test": test}
    for name, rows in sets.items():
        require_kind(**{name: (rows, Tensor)})
        need = 2 * MIN_ROWS if name == "train" else MIN_ROWS
        if rows.ndim < 2 or len(rows) < need:
            raise InputError(f"{name} must have shape (N, ...) with at least {need} rows, got {tuple(rows.shape)}")
        if rows.shape[1:] != samples.shape[1:]:
            raise InputError(f"rows of {name} have shape {tuple(rows.shape[1:])}, samples {tuple(samples.shape[1:])}")
        if rows.is_floating_point() and not rows.isfinite().all():
            raise InputError(f"{name} must be finite: {int((~rows.isfinite()).flatten(1).any(1).sum())} rows are not")
    if max_rows < MIN_ROWS:
        raise InputError(f"max_rows must be at least {MIN_ROWS}, got {max_rows}")
    n = min(len(samples), len(test), len(train) // 2, max_rows)
    held = torch.randperm(len(train), generator=seeded(seed, QualityStream.TRAIN))[:n].to(train.device)
    return _subset(samples, n, seed, QualityStream.SAMPLES), train, _subset(test, n, seed, QualityStream.TEST), held


def _subset(x: Tensor, n: int, seed: int, purpose: int) -> Tensor:
    """``n`` random rows, in their original order."""
    return x[torch.randperm(len(x), generator=seeded(seed, purpose))[:n].sort().values.to(x.device)]


def _share(hits: Tensor) -> Share:
    """The share of hits in a boolean ``(N,)``. Its error counts one more hit and one more miss, so it is never 0."""
    n, count = len(hits), int(hits.sum())
    p = (count + 1) / (n + 2)
    return Share(count / n, (p * (1 - p) / n) ** 0.5)
